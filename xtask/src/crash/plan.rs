//! What the rig builds in the broker: queues, exchanges, and where each kind of message must come out.

use super::client::{Broken, Client};
use super::wire::Value;

/// A queue of the rig, as an index into [`QUEUES`].
pub(crate) type QueueIndex = usize;

/// What is known of a queue beforehand.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it is for.
    pub(crate) kind: Kind,
}

/// What a queue is for, and so which rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One consumer that acknowledges in batches: strict order, redeliveries included.
    Ordered,
    /// The consumer gives some back: order holds for first deliveries.
    Requeue,
    /// A consumer moves messages on in transactions.
    Moved,
    /// Nobody consumes; its messages expire into [`DEAD`].
    Expiring,
    /// No order is promised to a reader.
    Loose,
    /// `x-max-priority`.
    Priority,
}

/// All queues.
pub(crate) const QUEUES: [Queue; 12] = [
    Queue { name: "rig.plain.0", kind: Kind::Ordered },
    Queue { name: "rig.plain.1", kind: Kind::Ordered },
    Queue { name: "rig.fan.0", kind: Kind::Ordered },
    Queue { name: "rig.fan.1", kind: Kind::Ordered },
    Queue { name: "rig.fan.2", kind: Kind::Ordered },
    Queue { name: "rig.requeue", kind: Kind::Requeue },
    Queue { name: "rig.tx.in", kind: Kind::Moved },
    Queue { name: "rig.tx.out", kind: Kind::Loose },
    Queue { name: "rig.expiring", kind: Kind::Expiring },
    Queue { name: "rig.dead", kind: Kind::Loose },
    Queue { name: "rig.delayed", kind: Kind::Loose },
    Queue { name: "rig.priority", kind: Kind::Priority },
];

/// Where transactions move messages to.
pub(crate) const MOVED_TO: QueueIndex = 7;

/// Milliseconds until a message of the expiring queue is dead.
const EXPIRES_MS: i32 = 200;

/// Longest delay the rig asks for, in milliseconds.
pub(crate) const DELAY_MS_MAX: u64 = 700;

/// How a message is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// By the default exchange into one queue.
    Queue(QueueIndex),
    /// To three queues at once.
    Fanout,
    /// Through the delayed exchange.
    Delayed,
}

impl Route {
    /// Exchange and routing key.
    pub(crate) fn address(self) -> (&'static str, &'static str) {
        match self {
            Self::Queue(index) => ("", name(index)),
            Self::Fanout => ("rig.fanout", "any"),
            Self::Delayed => ("rig.later", "later"),
        }
    }

    /// Where the message must come out.
    pub(crate) fn targets(self) -> &'static [QueueIndex] {
        match self {
            Self::Queue(0) => &[0],
            Self::Queue(1) => &[1],
            Self::Queue(5) => &[5],
            Self::Queue(6) => &[6],
            Self::Queue(MOVED_TO) => &[MOVED_TO],
            Self::Queue(8) => &[9],
            Self::Queue(_) => &[11],
            Self::Fanout => &[2, 3, 4],
            Self::Delayed => &[10],
        }
    }
}

/// The name of a queue.
pub(crate) fn name(index: QueueIndex) -> &'static str {
    QUEUES.get(index).map_or("", |queue| queue.name)
}

/// What this broker can do beyond AMQP.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Abilities {
    /// Delayed exchanges.
    pub(crate) delays: bool,
}

/// Declares everything durable; says whether the broker knows delayed exchanges.
///
/// # Errors
///
/// If the broker refuses anything else.
pub(crate) fn declare(client: &mut Client) -> Result<Abilities, Broken> {
    for queue in &QUEUES {
        let args = match queue.kind {
            Kind::Expiring => vec![
                ("x-message-ttl", Value::Int(EXPIRES_MS)),
                ("x-dead-letter-exchange", Value::Text("")),
                ("x-dead-letter-routing-key", Value::Text("rig.dead")),
            ],
            Kind::Priority => vec![("x-max-priority", Value::Int(5))],
            Kind::Requeue => vec![("x-delivery-limit", Value::Int(-1))],
            Kind::Ordered | Kind::Moved | Kind::Loose => Vec::new(),
        };
        client.declare(queue.name, false, &args)?;
    }
    client.declare("rig.barrier", false, &[("x-max-length", Value::Int(1))])?;
    client.exchange("rig.fanout", "fanout", &[])?;
    for queue in ["rig.fan.0", "rig.fan.1", "rig.fan.2"] {
        client.bind(queue, "rig.fanout", "")?;
    }
    client.exchange("rig.topology", "direct", &[])?;
    Ok(Abilities { delays: declare_delays(client)? })
}

/// Everything is there already, so only the ability is found out.
fn declare_delays(client: &mut Client) -> Result<bool, Broken> {
    let args = [("x-delayed-type", Value::Text("direct"))];
    match client.exchange("rig.later", "x-delayed-message", &args) {
        Ok(()) => {
            client.bind("rig.delayed", "rig.later", "later")?;
            Ok(true)
        }
        // 503: an exchange type that the broker does not know. It closes the connection.
        Err(Broken::Closed { code: 503, .. }) => Ok(false),
        Err(other) => Err(other),
    }
}
