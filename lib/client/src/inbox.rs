//! Deliveries between the connection's task and the workers of one consumer.
//!
//! The broker's prefetch bounds it. With an order by key, a message waits here while another one of its key is worked on:
//! one at a time per key, in the order of arrival, and as many keys beside each other as there are workers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use crate::delivery::Delivery;

/// Which messages must not overtake each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Order {
    /// None: workers take what comes.
    #[default]
    None,
    /// Those with the same value of a header.
    Header(String),
    /// Those with the same routing key.
    RoutingKey,
}

impl Order {
    /// The key of a delivery; those without one are a key of their own together.
    pub(crate) fn key(&self, delivery: &Delivery) -> Option<Box<str>> {
        match self {
            Self::None => None,
            Self::RoutingKey => Some(delivery.routing_key().into()),
            Self::Header(name) => {
                let value = delivery.headers().get(name).ok().flatten();
                let text = value.map(|value| match (value.as_str(), value.as_i64()) {
                    (Some(text), _) => text.to_owned(),
                    (None, Some(number)) => number.to_string(),
                    (None, None) => format!("{value:?}"),
                });
                Some(text.unwrap_or_default().into())
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Delivery>,
    /// Keys that are worked on or ready, and what waits behind.
    lanes: HashMap<Box<str>, VecDeque<Delivery>>,
    /// Keys of which a message went back to its queue: what comes behind it must go back as well.
    closed: HashSet<Box<str>>,
    ended: bool,
}

/// What has arrived and nobody has taken yet.
#[derive(Debug)]
pub(crate) struct Inbox {
    order: Order,
    state: Mutex<State>,
    /// At least one for each ready delivery: a permit is a reason to look, not a promise.
    hints: Semaphore,
    workers: usize,
}

impl Inbox {
    pub(crate) fn new(order: Order, workers: usize) -> Self {
        Self { order, state: Mutex::default(), hints: Semaphore::new(0), workers }
    }

    /// Takes in what one read of the socket has brought; returns what has to go back.
    #[must_use]
    pub(crate) fn put(&self, deliveries: impl Iterator<Item = Delivery>) -> Vec<Delivery> {
        let mut state = self.lock();
        let (mut hints, mut unwanted) = (0, Vec::new());
        for delivery in deliveries {
            let Some(key) = self.order.key(&delivery) else {
                state.ready.push_back(delivery);
                hints += 1;
                continue;
            };
            if state.closed.contains(&key) {
                unwanted.push(delivery);
                continue;
            }
            if let Some(lane) = state.lanes.get_mut(&key) {
                lane.push_back(delivery);
                continue;
            }
            state.lanes.insert(key, VecDeque::new());
            state.ready.push_back(delivery);
            hints += 1;
        }
        drop(state);
        self.hints.add_permits(hints);
        unwanted
    }

    /// The next delivery for a worker; `None` when the inbox has ended and is empty. Cancel-safe.
    pub(crate) async fn take(&self) -> Option<Delivery> {
        loop {
            // The semaphore is never closed.
            self.hints.acquire().await.ok()?.forget();
            let mut state = self.lock();
            if let Some(delivery) = state.ready.pop_front() {
                return Some(delivery);
            }
            if state.ended && state.lanes.is_empty() {
                // The hint of the end is everybody's.
                self.hints.add_permits(1);
                return None;
            }
        }
    }

    /// What is ready, without waiting; at most `count`.
    pub(crate) fn take_ready(&self, count: usize) -> Vec<Delivery> {
        let mut state = self.lock();
        let count = count.min(state.ready.len());
        state.ready.drain(..count).collect()
    }

    /// A delivery was settled: the next of its key may be taken.
    pub(crate) fn done(&self, delivery: &Delivery) {
        let Some(key) = self.order.key(delivery) else { return };
        let mut state = self.lock();
        let next = state.lanes.get_mut(&key).and_then(VecDeque::pop_front);
        match next {
            Some(next) => state.ready.push_back(next),
            None => drop(state.lanes.remove(&key)),
        }
        let hints = if state.ended { self.workers.max(1) } else { 1 };
        drop(state);
        self.hints.add_permits(hints);
    }

    /// A delivery goes back to its queue, for good as far as this consumer is concerned: so do those behind it of its key,
    /// which would overtake it, now (they are returned) and when they come.
    #[must_use]
    pub(crate) fn give_back(&self, delivery: &Delivery) -> Vec<Delivery> {
        let Some(key) = self.order.key(delivery) else { return Vec::new() };
        let mut state = self.lock();
        let behind = state.lanes.remove(&key).unwrap_or_default();
        state.closed.insert(key);
        let hints = if state.ended { self.workers.max(1) } else { 0 };
        drop(state);
        self.hints.add_permits(hints);
        behind.into()
    }

    /// The channel is gone and everything that nobody works on will come again.
    pub(crate) fn clear(&self) {
        let mut state = self.lock();
        let ready = std::mem::take(&mut state.ready);
        state.closed.clear();
        for delivery in &ready {
            if let Some(key) = self.order.key(delivery) {
                state.lanes.remove(&key);
            }
        }
        // What is left is worked on: the lane stays, so that the message's next copy waits for this one's end.
        state.lanes.values_mut().for_each(VecDeque::clear);
    }

    /// No more will come; workers end when they have worked off what is here.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.hints.add_permits(self.workers.max(1));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{Origin, Receipt};

    fn delivery(key: &str, tag: u64) -> Delivery {
        let origin = Origin {
            queue: "q".into(),
            exchange: "".into(),
            routing_key: key.into(),
            redelivered: false,
            receipt: Receipt { epoch: 1, tag },
        };
        Delivery::new(origin, &[0, 0], b"")
    }

    fn put<const N: usize>(inbox: &Inbox, deliveries: [Delivery; N]) {
        assert!(inbox.put(deliveries.into_iter()).is_empty());
    }

    fn ready(inbox: &Inbox) -> Vec<u64> {
        inbox.take_ready(10).iter().map(|delivery| delivery.receipt.tag).collect()
    }

    #[test]
    fn one_message_of_a_key_is_worked_on_at_a_time_and_other_keys_beside_it() {
        let inbox = Inbox::new(Order::RoutingKey, 4);
        let (first, second) = (delivery("a", 1), delivery("a", 2));
        put(&inbox, [first.clone(), second, delivery("b", 3), delivery("a", 4)]);

        assert_eq!(ready(&inbox), [1, 3]);
        assert!(ready(&inbox).is_empty());
        inbox.done(&first);
        assert_eq!(ready(&inbox), [2]);
    }

    #[test]
    fn what_was_lost_with_its_channel_does_not_block_its_key() {
        let inbox = Inbox::new(Order::RoutingKey, 4);
        put(&inbox, [delivery("a", 1), delivery("a", 2)]);

        inbox.clear();
        put(&inbox, [delivery("a", 7)]);

        assert_eq!(ready(&inbox), [7]);
    }

    #[test]
    fn what_goes_back_takes_those_behind_it_of_its_key_along() {
        let inbox = Inbox::new(Order::RoutingKey, 4);
        let first = delivery("a", 1);
        put(&inbox, [first.clone(), delivery("a", 2), delivery("b", 3)]);
        assert_eq!(ready(&inbox), [1, 3]);

        let tags = |deliveries: Vec<Delivery>| -> Vec<u64> {
            deliveries.iter().map(|delivery| delivery.receipt.tag).collect()
        };
        assert_eq!(tags(inbox.give_back(&first)), [2]);
        let late = [delivery("a", 4), delivery("b", 5)];
        assert_eq!(tags(inbox.put(late.into_iter())), [4]);

        // On another channel everything begins anew.
        inbox.clear();
        put(&inbox, [delivery("a", 6)]);
        assert_eq!(ready(&inbox), [6]);
    }

    #[tokio::test]
    async fn workers_end_after_the_last_message_of_the_last_key() {
        let inbox = Inbox::new(Order::RoutingKey, 2);
        put(&inbox, [delivery("a", 1), delivery("a", 2)]);
        inbox.end();

        let first = inbox.take().await.unwrap();
        inbox.done(&first);
        let second = inbox.take().await.unwrap();
        inbox.done(&second);

        assert!(inbox.take().await.is_none());
        assert!(inbox.take().await.is_none(), "for every worker");
    }
}
