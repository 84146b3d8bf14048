//! The rows of the comparison: what the load tool is asked, which figure counts, and how much is enough.

use super::broker::Peer;

/// How a figure is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Floor {
    /// Our figure divided by the peer's must be at least this.
    AtLeast(Peer, f64),
    /// Our figure divided by the peer's must be at most this.
    AtMost(Peer, f64),
    /// Our figure itself must be at most this.
    Limit(f64),
    /// Messages consumed must be at least this part of those published.
    ConsumedOfPublished(f64),
}

/// Where a figure stands in the tool's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figure {
    /// JSON pointer.
    pub(crate) at: &'static str,
    /// Its unit.
    pub(crate) unit: &'static str,
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// For `--rows`.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) what: &'static str,
    /// The tool's command and arguments, separated by spaces.
    pub(crate) args: &'static str,
    /// Our settings that are not the defaults, `key=value`.
    pub(crate) settings: &'static [&'static str],
    /// What counts.
    pub(crate) figure: Figure,
    /// Who takes part beside us.
    pub(crate) peers: &'static [Peer],
    /// How much is enough.
    pub(crate) floors: &'static [Floor],
}

const CONSUMED: Figure = Figure { at: "/consumed_s", unit: "msg/s" };
const CONFIRMED: Figure = Figure { at: "/confirmed_s", unit: "msg/s" };
const EACH_SECOND: Figure = Figure { at: "/per_s", unit: "/s" };
const MEDIAN: Figure = Figure { at: "/latency_us/p50", unit: "µs" };
const MEMORY_EACH: Figure = Figure { at: "/rss_kb_each", unit: "KiB" };

const BOTH: &[Peer] = &[Null, Rabbit];
const BOTH_DURABLE: &[Peer] = &[NullJournal, Rabbit];
const RABBIT: &[Peer] = &[Rabbit];

use Floor::{AtLeast, AtMost, ConsumedOfPublished, Limit};
use Peer::{Null, NullJournal, Rabbit};

/// All rows but the backlog, which is a play in several acts (see [`super::backlog`]).
pub(crate) const ROWS: [Row; 15] = [
    Row {
        name: "16-auto",
        what: "16 B transient, auto-ack",
        args: "throughput --size 16",
        settings: &[],
        figure: CONSUMED,
        peers: BOTH,
        floors: &[AtLeast(Null, 0.19)],
    },
    Row {
        name: "16-ack",
        what: "16 B transient, acked",
        args: "throughput --size 16 --prefetch 1000 --ack 100",
        settings: &[],
        figure: CONSUMED,
        peers: BOTH,
        floors: &[AtLeast(Null, 0.12), ConsumedOfPublished(0.95)],
    },
    Row {
        name: "1k-auto",
        what: "1 KiB transient, auto-ack",
        args: "throughput --size 1024",
        settings: &[],
        figure: CONSUMED,
        peers: BOTH,
        floors: &[AtLeast(Null, 0.25), AtLeast(Rabbit, 11.0)],
    },
    Row {
        name: "1k-ack",
        what: "1 KiB transient, acked",
        args: "throughput --size 1024 --prefetch 1000 --ack 100",
        settings: &[],
        figure: CONSUMED,
        peers: BOTH,
        floors: &[AtLeast(Null, 0.25), AtLeast(Rabbit, 11.0)],
    },
    Row {
        name: "persistent-1",
        what: "1 KiB persistent, window 1000, 1p/1c",
        args: "throughput --persistent --durable --confirm 1000 --prefetch 1000 --ack 100",
        settings: &[],
        figure: CONSUMED,
        peers: BOTH_DURABLE,
        floors: &[AtLeast(NullJournal, 0.48), AtLeast(Rabbit, 15.0)],
    },
    Row {
        name: "persistent-4",
        what: "1 KiB persistent, window 1000, 4p/4c/4q",
        args: "throughput --persistent --durable --confirm 1000 --prefetch 1000 --ack 100 --producers 4 --consumers 4 \
               --queues 4",
        settings: &[],
        figure: CONSUMED,
        peers: BOTH_DURABLE,
        floors: &[AtLeast(NullJournal, 0.48), AtLeast(Rabbit, 15.0)],
    },
    Row {
        name: "window-1",
        what: "publish only, window 1, persistent",
        args: "throughput --persistent --durable --confirm 1 --consumers 0",
        settings: &[],
        figure: CONFIRMED,
        peers: BOTH_DURABLE,
        floors: &[AtLeast(NullJournal, 1.1), AtLeast(Rabbit, 2.9)],
    },
    Row {
        name: "fanout",
        what: "fanout to 10 queues, 1 KiB, deliveries",
        args: "throughput --exchange fanout --queues 10 --consumers 10",
        settings: &[],
        figure: CONSUMED,
        peers: RABBIT,
        floors: &[AtLeast(Rabbit, 14.0)],
    },
    Row {
        name: "topic",
        what: "topic, 1,000 bindings, 10 match, deliveries",
        args: "throughput --exchange topic --bindings 1000 --matching 10 --queues 10 --consumers 10",
        settings: &[],
        figure: CONSUMED,
        peers: RABBIT,
        floors: &[AtLeast(Rabbit, 12.0)],
    },
    Row {
        name: "queues-1",
        what: "durable queues declared, 1 client",
        args: "queues --number 10000 --parallel 1",
        settings: &[],
        figure: EACH_SECOND,
        peers: RABBIT,
        floors: &[AtLeast(Rabbit, 6.0)],
    },
    Row {
        name: "queues-8",
        what: "durable queues declared, 8 clients",
        args: "queues --number 10000 --parallel 8",
        settings: &[],
        figure: EACH_SECOND,
        peers: RABBIT,
        floors: &[AtLeast(Rabbit, 6.0)],
    },
    Row {
        name: "churn",
        what: "connect, declare, publish, get, delete, close; 4 at once",
        args: "churn --parallel 4",
        settings: &[],
        figure: EACH_SECOND,
        peers: RABBIT,
        floors: &[AtLeast(Rabbit, 5.0)],
    },
    Row {
        name: "latency",
        what: "20,000 msg/s transient, end to end p50",
        args: "latency --rate 20000",
        settings: &[],
        figure: MEDIAN,
        peers: BOTH,
        floors: &[AtMost(Null, 0.55), AtMost(Rabbit, 0.5)],
    },
    Row {
        name: "latency-awake",
        what: "the same, and no processor sleeps meanwhile",
        args: "latency --rate 20000",
        settings: &["runtime.processors_awake=true"],
        figure: MEDIAN,
        peers: BOTH,
        floors: &[AtMost(Null, 0.55), AtMost(Rabbit, 0.5)],
    },
    Row {
        name: "connections",
        what: "RSS of an idle connection with a consumer",
        args: "connections --number 5000",
        settings: &[],
        figure: MEMORY_EACH,
        peers: RABBIT,
        floors: &[Limit(12.0)],
    },
];

/// The memory of an idle queue is measured with the queues of one client.
pub(crate) const QUEUE_MEMORY: (&str, Figure, Floor) = ("queues-1", MEMORY_EACH, Limit(3.0));

impl Row {
    /// The arguments, shortened where the run is to be quick.
    pub(crate) fn arguments(&self, quick: bool) -> Vec<String> {
        let mut args: Vec<String> = self.args.split_whitespace().map(str::to_owned).collect();
        let timed = matches!(args.first().map(String::as_str), Some("throughput" | "latency"));
        let (duration, warmup, number) =
            if quick { ("1.5", "0.5", "2000") } else { ("3", "1", "") };
        if timed {
            args.extend(["--duration", duration, "--warmup", warmup].map(str::to_owned));
        } else if quick {
            for (at, value) in [("--number", number), ("--duration", duration)] {
                let place = args.iter().position(|arg| arg == at);
                if let Some(arg) = place.and_then(|place| args.get_mut(place + 1)) {
                    value.clone_into(arg);
                }
            }
        }
        args
    }
}
