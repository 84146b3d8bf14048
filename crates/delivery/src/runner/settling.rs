//! Settling a message by its name, wherever it is: it waits for that, is still being sent, or waits to be sent again.

use std::sync::Arc;

use broker::Subscription;
use broker::follow::{Attempted, Held};
use model::{Ticket, Timestamp};
use store::Leased;

use super::Runner;
use crate::answer::is_asked;
use crate::attempt::{Blame, Failure};
use crate::options::Form;
use crate::settle::{Ask, Decision, SettleError, Unsettled};

impl Runner {
    /// Does what somebody asks for, and tells them.
    pub(super) fn handle_ask(&mut self, ask: Ask) {
        let (now, id) = (self.broker.now(), ask.unsettled.subscription);
        let settled = self.settle_asked(ask.unsettled, ask.decision, now);
        if settled.is_ok() {
            self.counters.settled_later.add(1);
        }
        self.note_end_of_one(id);
        if ask.done.send(settled).is_err() {
            tracing::debug!(%id, "whoever settled a message did not wait");
        }
    }

    fn settle_asked(
        &mut self,
        unsettled: Unsettled,
        decision: Decision,
        now: Timestamp,
    ) -> Result<Ticket, SettleError> {
        let found = self.broker.live_subscription(unsettled.subscription);
        let subscription = found.ok_or(SettleError::Gone)?;
        if let Some(leased) = self.take_leased(unsettled) {
            let (held, until) = ((leased, Held::Leased), unsettled.until);
            return self.decide(&subscription, held, decision, until, now);
        }
        let found = self.broker.find_followed(&subscription, unsettled.sequence);
        let leased = found.map_err(|_| SettleError::Unavailable)?.ok_or(SettleError::Gone)?;
        if let Decision::Retry(_) = decision {
            // It waits for that already.
            return Ok(Ticket::NONE);
        }
        self.decide(&subscription, (leased, Held::Unheld), decision, unsettled.until, now)
    }

    /// The message's lease, from among those that wait or those that are being sent. Of the latter the attempt goes on, and
    /// what comes of it says no more of the message.
    fn take_leased(&mut self, unsettled: Unsettled) -> Option<Leased> {
        let Unsettled { subscription, sequence, .. } = unsettled;
        self.waiting.take(subscription, sequence).or_else(|| {
            let mut of_it =
                self.started.values_mut().filter(|it| it.subscription.id == subscription);
            let is_it = |leased: &Leased| leased.sequence == sequence;
            of_it.find(|it| it.leased.as_ref().is_some_and(is_it))?.leased.take()
        })
    }

    fn decide(
        &mut self,
        subscription: &Arc<Subscription>,
        (leased, held): (Leased, Held),
        decision: Decision,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Ticket, SettleError> {
        let settled = match decision {
            Decision::Ack(Some(answer))
                if self.answers(subscription) && is_asked(&leased.message) =>
            {
                match self.send_answer(subscription, (&leased, held), &answer, now) {
                    Ok(ticket) => Some(ticket),
                    Err(error) => {
                        tracing::debug!(id = %subscription.id, %error, "an answer was not stored");
                        if held == Held::Leased {
                            self.waiting.put(subscription, leased, until);
                        }
                        None
                    }
                }
            }
            Decision::Ack(_) | Decision::Drop => {
                self.counters.delivered.add(1);
                self.settle(subscription, (leased, held), Attempted::Delivered, now)
            }
            Decision::Retry(retry_after) => {
                let reason = "its receiver asked for another time".to_owned();
                let failure = Failure { reason, blame: Blame::Message, retry_after };
                self.fail(subscription, leased, &failure, now)
            }
            Decision::Dead => {
                self.give_up(subscription, (leased, held), "its receiver gave it up", now)
            }
        };
        settled.ok_or(SettleError::Unavailable)
    }

    /// Whether the subscription's answers go to whoever asked.
    fn answers(&mut self, subscription: &Arc<Subscription>) -> bool {
        let plan = self.plan(subscription);
        plan.is_ok_and(|plan| matches!(&plan.form, Form::Request(form) if form.answers))
    }

    /// What was not settled in time has failed, and is tried again by the policy.
    pub(super) fn end_unsettled(&mut self) {
        let now = self.broker.now();
        while let Some((subscription, leased)) = self.waiting.take_ended(now) {
            let reason = "its receiver did not settle it in time".to_owned();
            let failure = Failure { reason, blame: Blame::Message, retry_after: None };
            self.fail(&subscription, leased, &failure, now);
            self.note_end_of_one(subscription.id);
        }
    }
}
