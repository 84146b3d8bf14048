//! What can be asked of a broker on a channel of its own, and what it answers.

use std::fmt;

use posthouse_amqp::error::EncodeError;
use posthouse_amqp::method::{
    ExchangeBind, ExchangeDeclare, ExchangeDelete, Method, QueueBind, QueueDeclare, QueueDelete,
    QueuePurge, QueueUnbind,
};
use posthouse_amqp::raw_table::RawTable;
use posthouse_amqp::table::Table;

use crate::topology::{Binding, Exchange, Queue, Target};

/// Whether something is to be created, or only looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Create,
    /// Passive: compares nothing, creates nothing.
    Look,
}

/// One method with an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Question {
    Exchange(Exchange, Manner),
    Queue(Queue, Manner),
    Bind(Binding),
    Unbind { queue: String, exchange: String, key: String, arguments: Table },
    Purge(String),
    DeleteQueue(String),
    DeleteExchange(String),
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    /// Ready messages and consumers of a queue.
    Queue {
        messages: u32,
        consumers: u32,
    },
    /// So many messages are gone.
    Gone(u32),
}

impl Answer {
    pub(crate) const fn of(method: &Method<'_>) -> Option<Self> {
        Some(match method {
            Method::ExchangeDeclareOk(_)
            | Method::ExchangeBindOk(_)
            | Method::ExchangeDeleteOk(_)
            | Method::QueueBindOk(_)
            | Method::QueueUnbindOk(_) => Self::Done,
            Method::QueueDeclareOk(ok) => {
                Self::Queue { messages: ok.message_count, consumers: ok.consumer_count }
            }
            Method::QueuePurgeOk(ok) => Self::Gone(ok.message_count),
            Method::QueueDeleteOk(ok) => Self::Gone(ok.message_count),
            _ => return None,
        })
    }
}

impl Question {
    /// Class and method number.
    pub(crate) const fn id(&self) -> (u16, u16) {
        match self {
            Self::Exchange(..) => ExchangeDeclare::ID,
            Self::Queue(..) => QueueDeclare::ID,
            Self::Bind(Binding { target: Target::Queue(_), .. }) => QueueBind::ID,
            Self::Bind(Binding { target: Target::Exchange(_), .. }) => ExchangeBind::ID,
            Self::Unbind { .. } => QueueUnbind::ID,
            Self::Purge(_) => QueuePurge::ID,
            Self::DeleteQueue(_) => QueueDelete::ID,
            Self::DeleteExchange(_) => ExchangeDelete::ID,
        }
    }

    pub(crate) fn encode(&self, channel: u16, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Exchange(exchange, manner) => exchange_declare(exchange, *manner, channel, out),
            Self::Queue(queue, manner) => queue_declare(queue, *manner, channel, out),
            Self::Bind(binding) => bind(binding, channel, out),
            Self::Unbind { queue, exchange, key, arguments } => {
                let arguments = arguments.to_entries()?;
                let arguments = RawTable::from_bytes(&arguments);
                let unbind = QueueUnbind { queue, exchange, routing_key: key, arguments };
                Method::from(unbind).encode(channel, out)
            }
            Self::Purge(queue) => {
                Method::from(QueuePurge { queue, no_wait: false }).encode(channel, out)
            }
            Self::DeleteQueue(queue) => {
                Method::from(QueueDelete { queue, ..QueueDelete::default() }).encode(channel, out)
            }
            Self::DeleteExchange(exchange) => {
                let delete = ExchangeDelete { exchange, ..ExchangeDelete::default() };
                Method::from(delete).encode(channel, out)
            }
        }
    }
}

fn exchange_declare(
    exchange: &Exchange,
    manner: Manner,
    channel: u16,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let arguments = exchange.arguments.to_entries()?;
    let declare = ExchangeDeclare {
        exchange: &exchange.name,
        kind: &exchange.kind,
        passive: manner == Manner::Look,
        durable: exchange.durable,
        auto_delete: exchange.auto_delete,
        internal: exchange.internal,
        no_wait: false,
        arguments: RawTable::from_bytes(&arguments),
    };
    Method::from(declare).encode(channel, out)
}

fn queue_declare(
    queue: &Queue,
    manner: Manner,
    channel: u16,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let arguments = queue.arguments.to_entries()?;
    let declare = QueueDeclare {
        queue: &queue.name,
        passive: manner == Manner::Look,
        durable: queue.durable,
        exclusive: queue.exclusive,
        auto_delete: queue.auto_delete,
        no_wait: false,
        arguments: RawTable::from_bytes(&arguments),
    };
    Method::from(declare).encode(channel, out)
}

fn bind(binding: &Binding, channel: u16, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let arguments = binding.arguments.to_entries()?;
    let arguments = RawTable::from_bytes(&arguments);
    let (exchange, routing_key) = (binding.exchange.as_str(), binding.key.as_str());
    match &binding.target {
        Target::Queue(queue) => {
            let bind = QueueBind { queue, exchange, routing_key, no_wait: false, arguments };
            Method::from(bind).encode(channel, out)
        }
        Target::Exchange(destination) => {
            let source = exchange;
            let bind = ExchangeBind { destination, source, routing_key, no_wait: false, arguments };
            Method::from(bind).encode(channel, out)
        }
    }
}

/// As an error shows it.
impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange(exchange, _) => write!(f, "exchange `{}`", exchange.name),
            Self::Queue(queue, _) => write!(f, "queue `{}`", queue.name),
            Self::Bind(binding) => write!(f, "{binding}"),
            Self::Unbind { queue, exchange, .. } => {
                write!(f, "unbinding `{queue}` of `{exchange}`")
            }
            Self::Purge(queue) => write!(f, "purging `{queue}`"),
            Self::DeleteQueue(name) | Self::DeleteExchange(name) => write!(f, "deleting `{name}`"),
        }
    }
}
