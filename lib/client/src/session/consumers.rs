//! Consumers on this connection: started, ended, and started again after the broker has ended them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use posthouse_amqp::error::ReplyCode;
use posthouse_amqp::method::{BasicCancel, BasicCancelOk};

use super::{RESTART_PAUSE, Role, Session};
use crate::intake::{Flow, Intake, Stage};

/// Longest rest over which a consumer keeps what it has been sent. Giving back costs a delivery, which some queues count.
const REST_HELD_MAX: Duration = Duration::from_secs(5);

impl Session<'_> {
    /// Starts every consumer that has no channel.
    pub(super) fn start_consumers(&mut self) {
        self.restart_at = None;
        for index in 0..self.lasting.flows.len() {
            let channel = self.free_channel();
            let Some(flow) = self.lasting.flows.get_mut(index) else { continue };
            if flow.stage != Stage::Idle || flow.intake.cancelled.load(Ordering::Acquire) {
                continue;
            }
            self.lasting.epoch += 1;
            flow.starts(channel, self.lasting.epoch);
            self.open_channel(channel, Role::Consuming(index));
        }
    }

    pub(super) fn flow_of(&mut self, channel: u16) -> Option<&mut Flow> {
        let Some(Role::Consuming(index)) = self.roles.get(&channel) else { return None };
        self.lasting.flows.get_mut(*index)
    }

    pub(super) fn consuming(&mut self, channel: u16) {
        let Some(flow) = self.flow_of(channel) else { return };
        flow.stage = Stage::Running;
        flow.intake.answered.notify_one();
        if flow.intake.cancelled.load(Ordering::Acquire) {
            let intake = Arc::clone(&flow.intake);
            self.cancel(&intake);
        }
    }

    pub(super) fn cancel(&mut self, intake: &Arc<Intake>) {
        let found = self.lasting.flows.iter_mut().find(|flow| Arc::ptr_eq(&flow.intake, intake));
        let Some(flow) = found else { return };
        match flow.stage {
            Stage::Running => {
                flow.stage = Stage::Cancelling;
                let channel = flow.channel;
                let consumer_tag = &intake.tag;
                self.send(channel, BasicCancel { consumer_tag, no_wait: false });
            }
            Stage::Idle | Stage::Resting => {
                flow.stage = Stage::Stopped;
                intake.stopped.notify_one();
            }
            // Noticed when the start is answered.
            Stage::Starting | Stage::Cancelling | Stage::Stopped => {}
        }
    }

    pub(super) fn cancelled(&mut self, channel: u16) {
        if let Some(flow) = self.flow_of(channel) {
            flow.hand_over();
            if !flow.intake.cancelled.load(Ordering::Acquire) {
                return flow.rest();
            }
            flow.stage = Stage::Stopped;
            flow.intake.stopped.notify_one();
        }
    }

    /// A consumer that rests for long has the broker send nothing, so that others may have the messages and none is held
    /// for longer than brokers allow; then it asks again.
    pub(super) fn rest_consumers(&mut self) {
        let mut resting = Vec::new();
        for flow in &mut self.lasting.flows {
            let left = flow.intake.inbox.rests_for();
            match flow.stage {
                Stage::Running if left > REST_HELD_MAX => resting.push(Arc::clone(&flow.intake)),
                Stage::Resting if left.is_zero() && flow.consume(&mut self.out) => {
                    flow.stage = Stage::Starting;
                }
                _ => {}
            }
        }
        for intake in resting {
            self.cancel(&intake);
        }
    }

    /// The queue is gone. The topology is declared again, which may bring it back; then the consumer asks again.
    pub(super) fn cancelled_by_broker(&mut self, channel: u16, cancel: BasicCancel<'_>) {
        if !cancel.no_wait {
            self.send(channel, BasicCancelOk { consumer_tag: cancel.consumer_tag });
        }
        let Some(flow) = self.flow_of(channel) else { return };
        tracing::warn!(queue = %flow.intake.queue, "the broker ended the consumer; its queue is gone");
        self.connection.close_channel(channel, ReplyCode::Success, "bye", (0, 0), &mut self.out);
        if let Some(role) = self.roles.insert(channel, Role::Closing) {
            self.lose_role(&role);
        }
        self.restore_later();
    }

    pub(super) fn lose_role(&mut self, role: &Role) {
        if let Role::Consuming(index) = *role
            && let Some(flow) = self.lasting.flows.get_mut(index)
        {
            flow.lost();
        }
    }

    pub(super) fn restore_later(&mut self) {
        self.restart_at.get_or_insert(Instant::now() + RESTART_PAUSE);
    }
}
