//! Deliveries between the connection's task and the workers of one consumer.
//!
//! The broker's prefetch bounds it. With an order by key, a message waits here while another one of its key is worked on:
//! one at a time per key, in the order of arrival, and as many keys beside each other as there are workers.
//!
//! It can rest: then nothing is taken for a while, whatever arrives.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};

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
    rests_until: Option<Instant>,
    ended: bool,
}

impl State {
    /// How much longer nothing is taken. The end of the inbox is that of its rest.
    fn rests_for(&self) -> Duration {
        let until = self.rests_until.filter(|_| !self.ended);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Everything that nobody works on.
    fn take_back(&mut self, order: &Order) -> Vec<Delivery> {
        let mut back: Vec<_> = self.ready.drain(..).collect();
        for index in 0..back.len() {
            let lane = back.get(index).and_then(|delivery| order.key(delivery));
            back.extend(lane.and_then(|key| self.lanes.remove(&key)).into_iter().flatten());
        }
        // What is left is worked on: the lane stays, so that the message's next copy waits for this one's end.
        back.extend(self.lanes.values_mut().flat_map(|lane| lane.drain(..)));
        back
    }
}

/// What has arrived and nobody has taken yet.
#[derive(Debug)]
pub(crate) struct Inbox {
    order: Order,
    state: Mutex<State>,
    /// At least one for each ready delivery: a permit is a reason to look, not a promise.
    hints: Semaphore,
    /// Wakes those who wait for the end, or for the end of a rest.
    roused: Notify,
    workers: usize,
}

impl Inbox {
    pub(crate) fn new(order: Order, workers: usize) -> Self {
        let (state, roused) = (Mutex::default(), Notify::new());
        Self { order, state, hints: Semaphore::new(0), roused, workers }
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
            self.rested().await;
            // The semaphore is never closed.
            let hint = self.hints.acquire().await.ok()?;
            let mut state = self.lock();
            if state.rests_for() > Duration::ZERO {
                continue;
            }
            hint.forget();
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
        if state.rests_for() > Duration::ZERO {
            return Vec::new();
        }
        let count = count.min(state.ready.len());
        state.ready.drain(..count).collect()
    }

    /// Nothing is taken for so long; longer, if it rests longer already.
    pub(crate) fn rest(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut state = self.lock();
        state.rests_until = state.rests_until.max(Some(until));
    }

    /// How much longer nothing is taken.
    pub(crate) fn rests_for(&self) -> Duration {
        self.lock().rests_for()
    }

    /// Waits for the end of a rest, if there is one; false if it is over because the inbox has ended. Cancel-safe.
    pub(crate) async fn rested(&self) -> bool {
        let mut waited = false;
        loop {
            let roused = self.roused.notified();
            tokio::pin!(roused);
            roused.as_mut().enable();
            let left = self.rests_for();
            if left.is_zero() {
                return !(waited && self.lock().ended);
            }
            waited = true;
            tokio::select! {
                () = sleep_until(Instant::now() + left) => {}
                () = roused => {}
            }
        }
    }

    /// Waits so long; false if the inbox has ended before that. Cancel-safe.
    pub(crate) async fn lasts(&self, wait: Duration) -> bool {
        let ended = async {
            loop {
                let roused = self.roused.notified();
                tokio::pin!(roused);
                roused.as_mut().enable();
                if self.lock().ended {
                    return;
                }
                roused.await;
            }
        };
        timeout(wait, ended).await.is_err()
    }

    /// Everything that nobody works on, to go back to the queue.
    #[must_use]
    pub(crate) fn take_back(&self) -> Vec<Delivery> {
        self.lock().take_back(&self.order)
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
        state.closed.clear();
        drop(state.take_back(&self.order));
    }

    /// No more will come; workers end when they have worked off what is here. What nobody was to take yet, because the
    /// inbox rests, is returned, to go back to the queue.
    #[must_use]
    pub(crate) fn end(&self) -> Vec<Delivery> {
        let mut state = self.lock();
        let back = match state.rests_for().is_zero() {
            true => Vec::new(),
            false => state.take_back(&self.order),
        };
        state.ended = true;
        drop(state);
        self.hints.add_permits(self.workers.max(1));
        self.roused.notify_waiters();
        back
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

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
    async fn nothing_is_taken_while_it_rests() {
        let inbox = Inbox::new(Order::None, 1);
        let began = Instant::now();
        inbox.rest(Duration::from_millis(300));
        inbox.rest(Duration::from_millis(1));
        put(&inbox, [delivery("a", 1), delivery("a", 2)]);

        assert_eq!(inbox.take().await.unwrap().receipt.tag, 1);

        assert!(began.elapsed() >= Duration::from_millis(300));
        assert_eq!(ready(&inbox), [2]);
        inbox.rest(Duration::from_hours(1));
        put(&inbox, [delivery("a", 3)]);
        assert!(ready(&inbox).is_empty());
    }

    #[tokio::test]
    async fn what_rests_at_the_end_goes_back_and_the_workers_end() {
        let inbox = Inbox::new(Order::RoutingKey, 2);
        put(&inbox, [delivery("a", 1), delivery("a", 2), delivery("b", 3), delivery("b", 4)]);
        let worked_on = inbox.take().await.unwrap();
        inbox.rest(Duration::from_hours(1));

        let mut back: Vec<_> = inbox.end().iter().map(|delivery| delivery.receipt.tag).collect();
        back.sort_unstable();

        assert_eq!((worked_on.receipt.tag, back), (1, vec![2, 3, 4]));
        inbox.done(&worked_on);
        assert!(inbox.take().await.is_none());
        assert!(inbox.take().await.is_none());
    }

    #[tokio::test]
    async fn who_waits_with_a_message_in_hand_is_told_of_the_end() {
        let inbox = Inbox::new(Order::RoutingKey, 1);
        assert!(inbox.lasts(Duration::from_millis(1)).await);
        let mut waits = pin!(inbox.lasts(Duration::from_hours(1)));
        assert_eq!(waits.as_mut().now_or_never(), None);

        assert!(inbox.end().is_empty());

        assert_eq!(waits.now_or_never(), Some(false));
        assert!(!inbox.lasts(Duration::from_hours(1)).await);
    }

    #[tokio::test]
    async fn workers_end_after_the_last_message_of_the_last_key() {
        let inbox = Inbox::new(Order::RoutingKey, 2);
        put(&inbox, [delivery("a", 1), delivery("a", 2)]);
        assert!(inbox.end().is_empty());

        let first = inbox.take().await.unwrap();
        inbox.done(&first);
        let second = inbox.take().await.unwrap();
        inbox.done(&second);

        assert!(inbox.take().await.is_none());
        assert!(inbox.take().await.is_none(), "for every worker");
    }
}
