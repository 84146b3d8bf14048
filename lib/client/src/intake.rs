//! One consumer as the connection knows it: what it asked for, and where its deliveries go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use posthouse_amqp::event::Delivery as Wire;
use posthouse_amqp::method::{BasicConsume, BasicQos, Method};
use posthouse_amqp::raw_table::RawTable;
use posthouse_amqp::table::Table;
use tokio::sync::Notify;

use crate::delivery::{Delivery, Origin, Receipt};
use crate::inbox::Inbox;
use crate::settlements::{Settle, Settlements, Unsettled};

/// What a consumer wants, for as long as the application runs.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) queue: Arc<str>,
    /// Consumer tag, unique on its connection.
    pub(crate) tag: String,
    pub(crate) prefetch: u16,
    pub(crate) exclusive: bool,
    pub(crate) arguments: Table,
    pub(crate) inbox: Inbox,
    pub(crate) settlements: Settlements,
    /// No more deliveries are wanted.
    pub(crate) cancelled: AtomicBool,
    /// The broker has answered for the first time: it sends, or refuses to.
    pub(crate) answered: Notify,
    /// The broker sends no more.
    pub(crate) stopped: Notify,
}

/// How far an intake has come on its present channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No channel; `channel.open` may be sent.
    Idle,
    /// The channel is being opened, or `basic.consume` is under way.
    Starting,
    Running,
    /// The consumer has ended for a while, its channel stays for settlements.
    Resting,
    /// `basic.cancel` is under way.
    Cancelling,
    /// The consumer has ended, its channel stays for settlements.
    Stopped,
}

/// An intake on its present channel.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) intake: Arc<Intake>,
    pub(crate) channel: u16,
    pub(crate) stage: Stage,
    /// Number of the channel among all that this intake and others have had; 0 without one.
    epoch: u64,
    unsettled: Unsettled,
    /// What a turn has brought.
    arrived: Vec<Delivery>,
    exchange: Arc<str>,
    routing_key: Arc<str>,
    decided: Vec<(Receipt, Settle)>,
    own: Vec<(u64, Settle)>,
}

impl Flow {
    pub(crate) fn new(intake: Arc<Intake>) -> Self {
        Self {
            intake,
            channel: 0,
            stage: Stage::Idle,
            epoch: 0,
            unsettled: Unsettled::new(),
            arrived: Vec::new(),
            exchange: "".into(),
            routing_key: "".into(),
            decided: Vec::new(),
            own: Vec::new(),
        }
    }

    /// A channel was asked for.
    pub(crate) fn starts(&mut self, channel: u16, epoch: u64) {
        (self.channel, self.epoch, self.stage) = (channel, epoch, Stage::Starting);
        self.unsettled = Unsettled::new();
    }

    /// The channel is open: asks for deliveries. False if the arguments cannot be encoded.
    pub(crate) fn consume(&self, out: &mut Vec<u8>) -> bool {
        let intake = &*self.intake;
        let qos = BasicQos { prefetch_size: 0, prefetch_count: intake.prefetch, global: false };
        let Ok(arguments) = intake.arguments.to_entries() else { return false };
        let consume = BasicConsume {
            queue: &intake.queue,
            consumer_tag: &intake.tag,
            exclusive: intake.exclusive,
            arguments: RawTable::from_bytes(&arguments),
            ..BasicConsume::default()
        };
        Method::from(qos).encode(self.channel, out).is_ok()
            && Method::from(consume).encode(self.channel, out).is_ok()
    }

    /// The channel is gone: everything that nobody works on will come again.
    pub(crate) fn lost(&mut self) {
        self.stage = Stage::Idle;
        // What workers decide from now on names deliveries of no channel. It must not be written on the next connection:
        // an ack on channel 0 has the broker close it.
        (self.channel, self.epoch, self.unsettled) = (0, 0, Unsettled::new());
        self.arrived.clear();
        self.intake.inbox.clear();
        self.intake.settlements.swap(&mut self.decided);
        if self.intake.cancelled.load(Ordering::Acquire) {
            self.stage = Stage::Stopped;
            self.intake.stopped.notify_one();
        }
    }

    pub(crate) fn deliver(&mut self, wire: &Wire<'_>, properties: &[u8], body: &[u8]) {
        if *self.exchange != *wire.exchange {
            self.exchange = wire.exchange.as_ref().into();
        }
        if *self.routing_key != *wire.routing_key {
            self.routing_key = wire.routing_key.as_ref().into();
        }
        let origin = Origin {
            queue: Arc::clone(&self.intake.queue),
            exchange: Arc::clone(&self.exchange),
            routing_key: Arc::clone(&self.routing_key),
            redelivered: wire.redelivered,
            receipt: Receipt { epoch: self.epoch, tag: wire.delivery_tag },
        };
        self.unsettled.delivered();
        self.arrived.push(Delivery::new(origin, properties, body));
    }

    /// Hands a turn's deliveries to the workers.
    pub(crate) fn hand_over(&mut self) {
        if !self.arrived.is_empty() {
            for unwanted in self.intake.inbox.put(self.arrived.drain(..)) {
                self.intake.settlements.put(unwanted.receipt, Settle::Requeue);
            }
        }
    }

    /// Has everything go back that nobody works on, for as long as the consumer rests.
    pub(crate) fn rest(&mut self) {
        self.stage = Stage::Resting;
        for unwanted in self.intake.inbox.take_back() {
            self.intake.settlements.put(unwanted.receipt, Settle::Requeue);
        }
    }

    /// Writes what workers have decided since.
    pub(crate) fn settle(&mut self, out: &mut Vec<u8>) {
        if matches!(self.stage, Stage::Idle | Stage::Starting) {
            return;
        }
        self.intake.settlements.swap(&mut self.decided);
        if self.decided.is_empty() {
            return;
        }
        // Decisions about deliveries of a channel that is gone mean nothing: they come again.
        let present = self.decided.iter().filter(|(receipt, _)| receipt.epoch == self.epoch);
        self.own.clear();
        self.own.extend(present.map(|(receipt, settle)| (receipt.tag, *settle)));
        self.unsettled.write(self.channel, &self.own, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::Order;

    fn intake() -> Arc<Intake> {
        Arc::new(Intake {
            queue: "q".into(),
            tag: "c".to_owned(),
            prefetch: 1,
            exclusive: false,
            arguments: Table::new(),
            inbox: Inbox::new(Order::None, 1),
            settlements: Settlements::new(Arc::new(Notify::new())),
            cancelled: AtomicBool::new(false),
            answered: Notify::new(),
            stopped: Notify::new(),
        })
    }

    /// A consumer with one delivery of its first channel in a worker's hands.
    fn working() -> (Flow, Receipt) {
        let mut flow = Flow::new(intake());
        flow.starts(1, 1);
        let wire = Wire {
            consumer_tag: "c".into(),
            delivery_tag: 1,
            redelivered: false,
            exchange: "".into(),
            routing_key: "q".into(),
        };
        flow.deliver(&wire, &[0, 0], b"");
        flow.hand_over();
        flow.stage = Stage::Running;
        let taken = flow.intake.inbox.take_ready(1);
        (flow, taken[0].receipt)
    }

    #[test]
    fn what_a_worker_has_done_is_acknowledged_on_the_channel_that_brought_it() {
        let (mut flow, receipt) = working();
        let mut out = Vec::new();

        flow.intake.settlements.put(receipt, Settle::Ack);
        flow.settle(&mut out);

        assert!(!out.is_empty());
    }

    #[test]
    fn nothing_is_acknowledged_after_the_channel_is_gone_during_a_graceful_stop() {
        let (mut flow, receipt) = working();
        flow.intake.cancelled.store(true, Ordering::Release);
        flow.lost();
        let mut out = Vec::new();

        flow.intake.settlements.put(receipt, Settle::Ack);
        flow.settle(&mut out);

        assert_eq!((flow.stage, out), (Stage::Stopped, Vec::new()));
    }
}
