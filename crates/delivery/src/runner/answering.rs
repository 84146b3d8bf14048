//! Settling a message with an answer for whoever asked.

use std::sync::Arc;

use broker::follow::{Answering, Held};
use broker::{BrokerError, Subscription};
use model::{Ticket, Timestamp};
use store::Leased;

use super::Runner;
use crate::answer::Answer;
use crate::attempt::{Blame, Failure};

impl Runner {
    /// Ends a message that was sent and answered.
    pub(super) fn answer(
        &self,
        subscription: &Arc<Subscription>,
        leased: Leased,
        answer: &Answer,
        now: Timestamp,
    ) {
        match self.send_answer(subscription, (&leased, Held::Leased), answer, now) {
            Ok(_) => {}
            // With the subscription its messages are gone.
            Err(BrokerError::NotFound { .. }) => {}
            Err(error) => {
                let reason = format!("its answer was not stored: {error}");
                let failure = Failure { reason, blame: Blame::Message, retry_after: None };
                self.fail(subscription, leased, &failure, now);
            }
        }
    }

    /// Ends a message and sends its answer, in one commit.
    pub(super) fn send_answer(
        &self,
        subscription: &Subscription,
        (leased, held): (&Leased, Held),
        answer: &Answer,
        now: Timestamp,
    ) -> Result<Ticket, BrokerError> {
        let properties = answer.properties(&leased.message);
        let answering = Answering { properties: &properties, body: &answer.body };
        let answered =
            self.broker.answer_followed(subscription, (leased, held), &answering, now)?;
        self.counters.delivered.add(1);
        match answered.sent {
            Ok(()) => self.counters.answers.add(1),
            Err(why) => self.note_nowhere(subscription, &why.to_string()),
        }
        Ok(answered.ticket)
    }

    /// One line per doubling: whoever asks like that asks again.
    fn note_nowhere(&self, subscription: &Subscription, why: &str) {
        let (id, queue) = (subscription.id, &subscription.queue);
        self.counters.answers_nowhere.add(1);
        let count = self.counters.answers_nowhere.value();
        if count.is_power_of_two() {
            tracing::warn!(%id, %queue, count, why, "an answer has nowhere to go");
        } else {
            tracing::debug!(%id, %queue, count, why, "an answer has nowhere to go");
        }
    }
}
