//! Messages that their receiver has taken and settles later, as long as they may wait.
//!
//! Each is leased and kept in memory, without a connection and without a place among the attempts. A restart ends the lease:
//! the message is sent again. How many may be is bounded, with those that are under way and may come to wait. Subscriptions
//! that find no room stand in a line, so that each has its turn.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use broker::Subscription;
use model::{Sequence, SubscriptionId, Timestamp};
use store::Leased;

use super::Limits;

/// Bytes of one that waits beside its message, for the bound of all.
const OVERHEAD_BYTES: usize = 512;

/// Messages that wait to be settled.
#[derive(Debug)]
pub(super) struct Waiting {
    messages: HashMap<(SubscriptionId, Sequence), One>,
    ends: BTreeSet<(Timestamp, SubscriptionId, Sequence)>,
    counts: HashMap<SubscriptionId, usize>,
    bytes: usize,
    /// Messages that are being sent and may come to wait.
    under_way: usize,
    /// Subscriptions that found no room among all.
    line: VecDeque<SubscriptionId>,
    limits: Limits,
}

#[derive(Debug)]
struct One {
    subscription: Arc<Subscription>,
    leased: Leased,
    until: Timestamp,
}

/// Whether one more message of a subscription may be sent that is perhaps settled later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// It may.
    Free,
    /// As many of this subscription wait as may.
    OwnFull,
    /// As many of all wait as may.
    AllFull,
}

impl Waiting {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            messages: HashMap::new(),
            ends: BTreeSet::new(),
            counts: HashMap::new(),
            bytes: 0,
            under_way: 0,
            line: VecDeque::new(),
            limits,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether a subscription has room, of which so many are under way; it stands in line if others are the reason that it
    /// has none.
    pub(super) fn room(&mut self, id: SubscriptionId, own_under_way: usize) -> Room {
        let own = self.counts.get(&id).copied().unwrap_or(0);
        if own + own_under_way >= self.limits.unsettled_per_subscription_max {
            self.leave_line(id);
            return Room::OwnFull;
        }
        let is_full = self.messages.len() + self.under_way >= self.limits.unsettled_max
            || self.bytes >= self.limits.unsettled_bytes_max;
        let is_first = self.line.front().is_none_or(|first| *first == id);
        if is_first && !is_full {
            return Room::Free;
        }
        if !self.line.contains(&id) {
            self.line.push_back(id);
        }
        Room::AllFull
    }

    /// A message is sent that may come to wait. Its subscription has had its turn.
    pub(super) fn begin(&mut self, id: SubscriptionId) {
        self.under_way += 1;
        self.leave_line(id);
    }

    /// That message waits from now on, or does not.
    pub(super) fn end(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// A subscription has nothing more to send.
    pub(super) fn leave_line(&mut self, id: SubscriptionId) {
        self.line.retain(|it| *it != id);
    }

    /// Whose turn it is when there is room.
    pub(super) fn first_in_line(&self) -> Option<SubscriptionId> {
        self.line.front().copied()
    }

    /// When the first one's time is over.
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|end| end.0)
    }

    pub(super) fn put(
        &mut self,
        subscription: &Arc<Subscription>,
        leased: Leased,
        until: Timestamp,
    ) {
        let (id, sequence) = (subscription.id, leased.sequence);
        self.bytes = self.bytes.saturating_add(bytes_of(&leased));
        *self.counts.entry(id).or_default() += 1;
        self.ends.insert((until, id, sequence));
        let one = One { subscription: Arc::clone(subscription), leased, until };
        self.messages.insert((id, sequence), one);
    }

    pub(super) fn take(&mut self, id: SubscriptionId, sequence: Sequence) -> Option<Leased> {
        let one = self.messages.remove(&(id, sequence))?;
        self.ends.remove(&(one.until, id, sequence));
        self.bytes = self.bytes.saturating_sub(bytes_of(&one.leased));
        if let Some(count) = self.counts.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&id);
            }
        }
        Some(one.leased)
    }

    /// One whose time is over.
    pub(super) fn take_ended(&mut self, now: Timestamp) -> Option<(Arc<Subscription>, Leased)> {
        let (_, id, sequence) = *self.ends.first().filter(|end| end.0 <= now)?;
        let subscription = Arc::clone(&self.messages.get(&(id, sequence))?.subscription);
        let leased = self.take(id, sequence)?;
        Some((subscription, leased))
    }

    /// Forgets those of a subscription that is gone, its messages with it.
    pub(super) fn forget(&mut self, id: SubscriptionId) {
        self.leave_line(id);
        if !self.counts.contains_key(&id) {
            return;
        }
        let of_it = self.messages.keys().filter(|key| key.0 == id);
        let sequences: Vec<Sequence> = of_it.map(|key| key.1).collect();
        for sequence in sequences {
            self.take(id, sequence);
        }
    }
}

fn bytes_of(leased: &Leased) -> usize {
    leased.message.payload().len() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(unsettled_max: usize, unsettled_per_subscription_max: usize) -> Waiting {
        Waiting::new(Limits {
            attempts_max: 9,
            bytes_max: 9,
            per_subscription_max: 9,
            answer_bytes_max: 9,
            unsettled_max,
            unsettled_per_subscription_max,
            unsettled_bytes_max: 9,
        })
    }

    fn ids() -> [SubscriptionId; 3] {
        [1, 2, 3].map(|random| SubscriptionId::new(0, random))
    }

    #[test]
    fn who_finds_no_room_among_all_has_a_turn_before_others() {
        let (mut waiting, [one, two, three]) = (waiting(1, 9), ids());
        assert_eq!(waiting.room(one, 0), Room::Free);
        waiting.begin(one);
        assert_eq!([two, three].map(|id| waiting.room(id, 0)), [Room::AllFull; 2]);

        waiting.end();

        assert_eq!(waiting.first_in_line(), Some(two));
        assert_eq!([one, three].map(|id| waiting.room(id, 0)), [Room::AllFull; 2]);
        assert_eq!(waiting.room(two, 0), Room::Free);
        waiting.begin(two);
        waiting.end();
        assert_eq!(waiting.room(two, 0), Room::AllFull);
        assert_eq!(waiting.room(three, 0), Room::Free);
    }

    #[test]
    fn who_has_nothing_to_send_or_no_room_of_its_own_holds_up_nobody() {
        let (mut waiting, [one, two, three]) = (waiting(1, 1), ids());
        waiting.begin(one);
        assert_eq!([two, three].map(|id| waiting.room(id, 0)), [Room::AllFull; 2]);
        waiting.end();

        waiting.leave_line(two);
        assert_eq!(waiting.room(three, 1), Room::OwnFull);

        assert_eq!(waiting.room(one, 0), Room::Free);
    }
}
