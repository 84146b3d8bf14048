//! Exchanges, queues and bindings: what is declared, bound and deleted.
//!
//! Replies leave when the definition is durable; the session does not wait for that, see
//! [`Output::hold_until`](crate::door::amqp::output::Output::hold_until).

use std::sync::Arc;

use broker::{BindingRequest, BrokerError, DeclareExchange, DeclareQueue};
use model::{Ticket, Timestamp};
use posthouse_amqp::method::{
    ExchangeBindOk, ExchangeDeclare, ExchangeDeclareOk, ExchangeDelete, ExchangeDeleteOk,
    ExchangeUnbindOk, QueueBindOk, QueueDeclare, QueueDeclareOk, QueueDelete, QueueDeleteOk,
    QueuePurge, QueuePurgeOk, QueueUnbindOk,
};
use posthouse_amqp::{Method, RawTable, ReplyCode, Table};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::door::amqp::names;
use crate::door::amqp::session::{End, Session};

/// What stands on both sides of a binding, as the four methods name it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BindingMethod<'a> {
    pub(crate) source: &'a str,
    pub(crate) destination: &'a str,
    pub(crate) to_queue: bool,
    pub(crate) routing_key: &'a str,
    pub(crate) arguments: RawTable<'a>,
    pub(crate) remove: bool,
    pub(crate) no_wait: bool,
    pub(crate) id: (u16, u16),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    pub(crate) fn declare_exchange(
        &mut self,
        number: u16,
        declare: &ExchangeDeclare<'_>,
        now: Timestamp,
    ) -> Result<(), End> {
        let Some(arguments) = self.table(number, declare.arguments, ExchangeDeclare::ID, now)?
        else {
            return Ok(());
        };
        let outcome = if declare.passive {
            self.access.check_exchange(declare.exchange).map(|()| Ticket::NONE)
        } else {
            self.access.declare_exchange(
                &DeclareExchange {
                    name: declare.exchange,
                    kind: declare.kind,
                    durable: declare.durable,
                    auto_delete: declare.auto_delete,
                    internal: declare.internal,
                    arguments,
                },
                now,
            )
        };
        let reply = Method::ExchangeDeclareOk(ExchangeDeclareOk {});
        self.answer(number, outcome, &reply, declare.no_wait, ExchangeDeclare::ID, now)
    }

    pub(crate) fn delete_exchange(
        &mut self,
        number: u16,
        delete: &ExchangeDelete<'_>,
        now: Timestamp,
    ) -> Result<(), End> {
        let outcome = self.access.delete_exchange(delete.exchange, delete.if_unused, now);
        let reply = Method::ExchangeDeleteOk(ExchangeDeleteOk {});
        self.answer(number, outcome, &reply, delete.no_wait, ExchangeDelete::ID, now)
    }

    pub(crate) fn change_binding(
        &mut self,
        number: u16,
        method: BindingMethod<'_>,
        now: Timestamp,
    ) -> Result<(), End> {
        let destination: Arc<str> = if method.to_queue {
            match self.queue_name(number, method.destination, method.id, now)? {
                Some(name) => name,
                None => return Ok(()),
            }
        } else {
            method.destination.into()
        };
        let Some(arguments) = self.table(number, method.arguments, method.id, now)? else {
            return Ok(());
        };
        // An empty key with an empty queue name means the queue's own name (AMQP 0-9-1, queue.bind).
        let own = method.to_queue && method.destination.is_empty() && method.routing_key.is_empty();
        let request = BindingRequest {
            source: method.source,
            destination: &destination,
            to_queue: method.to_queue,
            routing_key: if own { &destination } else { method.routing_key },
            arguments,
        };
        let outcome = if method.remove {
            self.access.unbind(&request, now)
        } else {
            self.access.bind(&request)
        };
        let reply = match (method.to_queue, method.remove) {
            (true, false) => Method::QueueBindOk(QueueBindOk {}),
            (true, true) => Method::QueueUnbindOk(QueueUnbindOk {}),
            (false, false) => Method::ExchangeBindOk(ExchangeBindOk {}),
            (false, true) => Method::ExchangeUnbindOk(ExchangeUnbindOk {}),
        };
        self.answer(number, outcome, &reply, method.no_wait, method.id, now)
    }

    pub(crate) fn declare_queue(
        &mut self,
        number: u16,
        declare: &QueueDeclare<'_>,
        now: Timestamp,
    ) -> Result<(), End> {
        let Some(arguments) = self.table(number, declare.arguments, QueueDeclare::ID, now)? else {
            return Ok(());
        };
        if declare.passive && broker::is_reply_token(declare.queue) {
            return self.declare_reply_token(number, declare, now);
        }
        let generated;
        let name = match declare.queue {
            "" if !declare.passive => {
                generated = names::queue();
                &generated
            }
            name => name,
        };
        let outcome = if declare.passive {
            self.access.check_queue(name, now)
        } else {
            self.access.declare_queue(
                &DeclareQueue {
                    name,
                    generated: declare.queue.is_empty(),
                    durable: declare.durable,
                    exclusive: declare.exclusive,
                    auto_delete: declare.auto_delete,
                    arguments,
                },
                now,
            )
        };
        let declared = match outcome {
            Ok(declared) => declared,
            Err(error) => return self.refuse_with(number, &error, QueueDeclare::ID, now),
        };
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.last_queue = Some(Arc::clone(&declared.queue.name));
        }
        let reply = Method::QueueDeclareOk(QueueDeclareOk {
            queue: &declared.queue.name,
            message_count: u32::try_from(declared.ready).unwrap_or(u32::MAX),
            consumer_count: u32::try_from(declared.consumers).unwrap_or(u32::MAX),
        });
        self.answer(number, Ok(declared.ticket), &reply, declare.no_wait, QueueDeclare::ID, now)
    }

    /// Whether a requester of direct replies still lives.
    fn declare_reply_token(
        &mut self,
        number: u16,
        declare: &QueueDeclare<'_>,
        now: Timestamp,
    ) -> Result<(), End> {
        if !self.access.reply_consumer_exists(declare.queue) {
            let error =
                BrokerError::NotFound { kind: broker::Kind::Queue, name: declare.queue.into() };
            return self.refuse_with(number, &error, QueueDeclare::ID, now);
        }
        let reply = QueueDeclareOk { queue: declare.queue, message_count: 0, consumer_count: 1 };
        self.say(number, &Method::QueueDeclareOk(reply));
        Ok(())
    }

    pub(crate) fn delete_queue(
        &mut self,
        number: u16,
        delete: &QueueDelete<'_>,
        now: Timestamp,
    ) -> Result<(), End> {
        let Some(name) = self.queue_name(number, delete.queue, QueueDelete::ID, now)? else {
            return Ok(());
        };
        let (count, outcome) =
            match self.access.delete_queue(&name, delete.if_unused, delete.if_empty, now) {
                Ok((count, ticket)) => (count, Ok(ticket)),
                Err(error) => (0, Err(error)),
            };
        let message_count = u32::try_from(count).unwrap_or(u32::MAX);
        let reply = Method::QueueDeleteOk(QueueDeleteOk { message_count });
        self.answer(number, outcome, &reply, delete.no_wait, QueueDelete::ID, now)
    }

    pub(crate) fn purge_queue(
        &mut self,
        number: u16,
        purge: &QueuePurge<'_>,
        now: Timestamp,
    ) -> Result<(), End> {
        let Some(name) = self.queue_name(number, purge.queue, QueuePurge::ID, now)? else {
            return Ok(());
        };
        let (count, outcome) = match self.access.purge_queue(&name, now) {
            Ok((count, ticket)) => (count, Ok(ticket)),
            Err(error) => (0, Err(error)),
        };
        let message_count = u32::try_from(count).unwrap_or(u32::MAX);
        let reply = Method::QueuePurgeOk(QueuePurgeOk { message_count });
        self.answer(number, outcome, &reply, purge.no_wait, QueuePurge::ID, now)
    }

    /// The reply of something that may have to become durable first, or the refusal.
    fn answer(
        &mut self,
        number: u16,
        outcome: Result<Ticket, BrokerError>,
        reply: &Method<'_>,
        no_wait: bool,
        method: (u16, u16),
        now: Timestamp,
    ) -> Result<(), End> {
        match outcome {
            Ok(ticket) => {
                if !no_wait {
                    self.output.hold_until(ticket);
                    self.say(number, reply);
                }
                Ok(())
            }
            Err(error) => self.refuse_with(number, &error, method, now),
        }
    }

    /// The queue that a method means: an empty name is the one last declared on the channel.
    pub(crate) fn queue_name(
        &mut self,
        number: u16,
        name: &str,
        method: (u16, u16),
        now: Timestamp,
    ) -> Result<Option<Arc<str>>, End> {
        if !name.is_empty() {
            return Ok(Some(name.into()));
        }
        if let Some(last) =
            self.channels.get(&number).and_then(|channel| channel.last_queue.clone())
        {
            return Ok(Some(last));
        }
        self.refuse(number, ReplyCode::NotFound, "no previously declared queue", method, now)?;
        Ok(None)
    }

    fn table(
        &mut self,
        number: u16,
        raw: RawTable<'_>,
        method: (u16, u16),
        now: Timestamp,
    ) -> Result<Option<Table>, End> {
        match raw.decode() {
            Ok(table) => Ok(Some(table)),
            Err(error) => {
                self.refuse(number, ReplyCode::SyntaxError, &error.to_string(), method, now)?;
                Ok(None)
            }
        }
    }
}
