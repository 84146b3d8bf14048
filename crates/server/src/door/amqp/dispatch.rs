//! Which handler a method has, and how refusals leave.

use broker::BrokerError;
use model::Timestamp;
use posthouse_amqp::method::{
    BasicNack, BasicRecover, BasicRecoverAsync, BasicReject, ConnectionBlocked,
    ConnectionUnblocked, ConnectionUpdateSecretOk, ExchangeBind, ExchangeUnbind, QueueBind,
    QueueUnbind,
};
use posthouse_amqp::{Method, ReplyCode};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::door::amqp::declaring::BindingMethod;
use crate::door::amqp::session::{End, Session};
use crate::door::amqp::translate::refusal;

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Handles a method. Everything but a settle waits for what the turn published and settled before it.
    pub(crate) fn method(
        &mut self,
        number: u16,
        method: &Method<'_>,
        now: Timestamp,
    ) -> Result<(), End> {
        match method {
            Method::BasicAck(ack) => return self.ack(number, ack, now),
            Method::BasicNack(nack) => return self.nack(number, nack, BasicNack::ID, now),
            Method::BasicReject(reject) => {
                let nack = BasicNack {
                    delivery_tag: reject.delivery_tag,
                    multiple: false,
                    requeue: reject.requeue,
                };
                return self.nack(number, &nack, BasicReject::ID, now);
            }
            _ => {}
        }
        self.commit_turn(now)?;
        match method {
            Method::BasicQos(qos) => self.qos(number, qos, now),
            Method::BasicConsume(consume) => self.consume(number, consume, now),
            Method::BasicCancel(cancel) => {
                self.cancel(number, cancel, now);
                Ok(())
            }
            Method::BasicGet(get) => self.get(number, get, now),
            Method::BasicRecover(recover) => {
                self.recover(number, recover.requeue, (BasicRecover::ID, true), now)
            }
            Method::BasicRecoverAsync(recover) => {
                self.recover(number, recover.requeue, (BasicRecoverAsync::ID, false), now)
            }
            Method::ConfirmSelect(select) => self.confirm_select(number, select.no_wait, now),
            Method::TxSelect(_) => self.tx_select(number, now),
            Method::TxCommit(_) => self.tx_commit(number, now),
            Method::TxRollback(_) => self.tx_rollback(number, now),
            Method::ConnectionUpdateSecret(_) => {
                self.say(number, &Method::ConnectionUpdateSecretOk(ConnectionUpdateSecretOk {}));
                Ok(())
            }
            // RabbitMQ's clients answer a server's cancel; there is nothing to do.
            Method::BasicCancelOk(_) => Ok(()),
            _ => self.declaration(number, method, now),
        }
    }

    fn declaration(&mut self, number: u16, method: &Method<'_>, now: Timestamp) -> Result<(), End> {
        match method {
            Method::ExchangeDeclare(declare) => self.declare_exchange(number, declare, now),
            Method::ExchangeDelete(delete) => self.delete_exchange(number, delete, now),
            Method::QueueDeclare(declare) => self.declare_queue(number, declare, now),
            Method::QueueDelete(delete) => self.delete_queue(number, delete, now),
            Method::QueuePurge(purge) => self.purge_queue(number, purge, now),
            _ => match binding(method) {
                Some(binding) => self.change_binding(number, binding, now),
                None => self.refuse(
                    number,
                    ReplyCode::CommandInvalid,
                    "unimplemented method",
                    method.id(),
                    now,
                ),
            },
        }
    }

    /// Appends a method frame.
    pub(crate) fn say(&mut self, number: u16, method: &Method<'_>) {
        if let Err(error) = method.encode(number, &mut self.output.buffer) {
            tracing::error!(method = method.name(), %error, "cannot encode a reply");
        }
    }

    /// Refuses in the broker's words.
    pub(crate) fn refuse_with(
        &mut self,
        number: u16,
        error: &BrokerError,
        method: (u16, u16),
        now: Timestamp,
    ) -> Result<(), End> {
        if let BrokerError::Store(inner) = error
            && !inner.retryable()
        {
            return Err(self.store_failed(error));
        }
        let (code, text) = refusal(error, self.access.tenant_name());
        self.refuse(number, code, &text, method, now)
    }

    /// Closes the channel, or for a hard error the connection. What came before on the channel counts.
    pub(crate) fn refuse(
        &mut self,
        number: u16,
        code: ReplyCode,
        detail: &str,
        method: (u16, u16),
        now: Timestamp,
    ) -> Result<(), End> {
        self.commit_turn(now)?;
        let text = code.text(detail);
        tracing::info!(channel = number, %text, "refused");
        if code.is_hard() {
            self.connection.close(code, &text, method, &mut self.output.buffer);
            self.release_everything();
            self.closing = true;
        } else {
            self.flush_confirms();
            self.connection.close_channel(number, code, &text, method, &mut self.output.buffer);
            self.drop_channel(number, now);
        }
        Ok(())
    }

    pub(crate) fn send_connection_blocked(&mut self, reason: &str) {
        self.say(0, &Method::ConnectionBlocked(ConnectionBlocked { reason }));
    }

    pub(crate) fn send_connection_unblocked(&mut self) {
        self.say(0, &Method::ConnectionUnblocked(ConnectionUnblocked {}));
    }
}

/// What the four binding methods have in common.
fn binding<'a>(method: &Method<'a>) -> Option<BindingMethod<'a>> {
    let (source, destination, to_queue, routing_key, arguments, remove, no_wait, id) = match method
    {
        Method::QueueBind(bind) => (
            bind.exchange,
            bind.queue,
            true,
            bind.routing_key,
            bind.arguments,
            false,
            bind.no_wait,
            QueueBind::ID,
        ),
        Method::QueueUnbind(bind) => (
            bind.exchange,
            bind.queue,
            true,
            bind.routing_key,
            bind.arguments,
            true,
            false,
            QueueUnbind::ID,
        ),
        Method::ExchangeBind(bind) => (
            bind.source,
            bind.destination,
            false,
            bind.routing_key,
            bind.arguments,
            false,
            bind.no_wait,
            ExchangeBind::ID,
        ),
        Method::ExchangeUnbind(bind) => (
            bind.source,
            bind.destination,
            false,
            bind.routing_key,
            bind.arguments,
            true,
            bind.no_wait,
            ExchangeUnbind::ID,
        ),
        _ => return None,
    };
    Some(BindingMethod {
        source,
        destination,
        to_queue,
        routing_key,
        arguments,
        remove,
        no_wait,
        id,
    })
}
