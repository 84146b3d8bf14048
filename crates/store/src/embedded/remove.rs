//! Forgetting single messages by their sequence, if they are held as they should be.

use model::{QueueId, Sequence};

use super::commit::{Work, runs_bound};
use super::entry::Entry;
use super::event::{Event, Runs, push_run};
use super::queue::Locked;
use super::timers::{Reason, Timer};
use crate::pool::{Change, Condition, Removal};

impl Work<'_> {
    pub(super) fn remove(
        &mut self,
        queue: QueueId,
        sequences: &[Sequence],
        condition: Condition,
        rest: &[Change],
    ) {
        let shared = self.shared;
        let index = self.index_of(queue);
        let state = index.and_then(|index| self.locked.get_mut(index));
        let Some(state) = state.filter(|state| !state.kind.stream) else {
            self.receipt.removals.extend(sequences.iter().map(|_| Removal::Missing));
            return;
        };
        let mut runs = Runs::new();
        for Sequence(sequence) in sequences {
            let removal = judge(state, *sequence, condition, self.now.0);
            self.receipt.removals.push(removal);
            if removal != Removal::Removed {
                continue;
            }
            let Some(mut entry) = take(state, *sequence) else { continue };
            match entry {
                Taken::Leased(ref mut entry) if entry.until != 0 => {
                    shared.leave_claim(queue, state, entry);
                }
                Taken::Delayed(ref entry) => {
                    let (at, sequence) = (entry.until, entry.sequence);
                    let timer = Timer { at, queue, reason: Reason::Delayed, sequence };
                    shared.timers.remove(&timer);
                }
                Taken::Leased(_) | Taken::Ready(_) => {}
            }
            let entry = entry.into_entry();
            if entry.durable {
                push_run(&mut runs, entry.sequence);
            }
            self.freed.add(&shared.log.segments, entry.position);
        }
        if !runs.is_empty() {
            let own = runs_bound(runs.len());
            self.log(own, rest).event(&Event::Ack { queue, runs });
        }
    }
}

/// Where a message was.
enum Taken {
    Leased(Entry),
    Delayed(Entry),
    Ready(Entry),
}

impl Taken {
    fn into_entry(self) -> Entry {
        match self {
            Self::Leased(entry) | Self::Delayed(entry) | Self::Ready(entry) => entry,
        }
    }
}

fn take(state: &mut Locked<'_>, sequence: u64) -> Option<Taken> {
    let mut leased = None;
    state.leased.take(sequence, sequence, |entry| leased = Some(entry));
    if let Some(entry) = leased {
        return Some(Taken::Leased(entry));
    }
    let delayed = state.take_delayed(sequence).map(Taken::Delayed);
    delayed.or_else(|| state.take_ready(sequence).map(Taken::Ready))
}

/// What is to become of a message.
fn judge(state: &Locked<'_>, sequence: u64, condition: Condition, now: u64) -> Removal {
    if let Some(entry) = state.leased.get(sequence) {
        return match condition {
            Condition::Always => Removal::Removed,
            Condition::HeldBy(claim) if state.claim_of(entry) == Some(claim) => Removal::Removed,
            Condition::HeldBy(_) | Condition::Unheld => Removal::Held,
        };
    }
    let delayed = state.delayed.get(&sequence).map(|entry| entry.expires);
    match delayed.or_else(|| state.ready_expires(sequence)) {
        Some(expires) if expires > now => match condition {
            Condition::HeldBy(_) => Removal::NotHeld,
            Condition::Unheld | Condition::Always => Removal::Removed,
        },
        Some(_) | None => Removal::Missing,
    }
}
