//! A message for an exchange of the same tenant: moved, not sent.

use std::sync::Arc;

use broker::Subscription;
use broker::follow::{Attempted, Held, PassOn};
use model::Timestamp;
use store::Leased;

use super::Runner;
use crate::attempt::Outcome;
use crate::letter::{Letter, LetterError, ttl_ms};

impl Runner {
    pub(super) fn pass_on(
        &mut self,
        subscription: &Arc<Subscription>,
        leased: Leased,
        letter: &Letter,
        (exchange, routing_key): (&str, &str),
        now: Timestamp,
    ) {
        if letter.is_told() {
            // Exchanges have nobody who could confirm.
            self.settle(subscription, (leased, Held::Leased), Attempted::Delivered, now);
            return;
        }
        if let Some(known) = self.known.get_mut(&subscription.id) {
            known.endpoint.begin();
        }
        let passed = letter.passed_on().map(|(properties, body)| {
            let ttl_ms = ttl_ms(&leased.message);
            let to = PassOn { exchange, routing_key, properties: &properties, body, ttl_ms };
            self.broker.pass_on(subscription, &leased, &to, now)
        });
        let outcome = match passed {
            Ok(Ok(Some(_))) => {
                // Settled by the same commit.
                self.counters.attempts.add(1);
                self.counters.delivered.add(1);
                if let Some(known) = self.known.get_mut(&subscription.id) {
                    let most = self.limits.per_subscription_max;
                    known.endpoint.end(&Outcome::Delivered, most, now);
                }
                return;
            }
            Ok(Ok(None)) => Outcome::endpoint("no queue wants it"),
            Ok(Err(error)) => Outcome::endpoint(error.to_string()),
            Err(error @ LetterError::Circle) => Outcome::Hopeless(error.to_string()),
            Err(error) => Outcome::Hopeless(error.to_string()),
        };
        self.end(subscription, leased, &outcome, now);
    }
}
