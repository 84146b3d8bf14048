//! Handing out messages from the head of a queue.

use model::Message;

use super::claims::{claim_timer, end_of, kept};
use super::entry::Entry;
use super::event::{ClaimEvent, Event, Runs, push_run};
use super::queue::{Locked, Place};
use super::segment::Freed;
use super::shared::Shared;
use crate::error::StoreError;
use crate::memory::{EXPIRED_PER_LEASE_MAX, no_lease_from_stream, no_queue};
use crate::pool::{Claim, Hold, Lease, LeaseRequest, Leased};

/// Most bytes of a record that a lease may add, its runs aside.
const RECORD_BYTES: usize = 256;

/// What came of looking at the head of a lane.
enum Step {
    /// A message was handed out.
    Next,
    /// The lane has none.
    Empty,
    /// The head may not be handed out before its reservation is durable.
    Blocked,
}

/// A lease request in work.
struct Handing<'a> {
    shared: &'a Shared,
    request: LeaseRequest,
    lease: Lease,
    bytes: usize,
    /// The last durable message that was handed out.
    last_durable: Option<u64>,
    /// Durable ones that were taken or claimed.
    recorded: Runs,
    /// The number of the claim, once it holds something.
    claim: Option<u64>,
    /// Whether what is handed out must be reserved before, because whoever gets it does not wait for the disk.
    reserving: bool,
    freed: Freed,
}

impl Shared {
    pub(crate) fn lease(&self, request: LeaseRequest) -> Result<Lease, StoreError> {
        self.check_alive()?;
        let queue = self.queue(request.queue).ok_or_else(|| no_queue(request.queue))?;
        if queue.kind.stream {
            return Err(no_lease_from_stream(request.queue));
        }
        let mut state = queue.lock(&self.resident);
        if state.deleted {
            return Err(no_queue(request.queue));
        }
        let reserving = matches!(request.hold, Hold::Take | Hold::UntilSettled);
        state.consumed |= reserving;
        state.reservation.advance(self.watch.durable());
        let mut handing = Handing {
            shared: self,
            request,
            lease: Lease::default(),
            bytes: 0,
            last_durable: None,
            recorded: Runs::new(),
            claim: None,
            reserving,
            freed: Freed::default(),
        };
        handing.hand_out(&mut state);
        handing.record();
        handing.reserve_ahead(&mut state);
        handing.lease.more = state.ready > 0;
        if state.expiring {
            self.watch_head(request.queue, &mut state);
        }
        drop(state);
        if handing.freed.flush(&self.log.segments) {
            self.keeper.ring();
        }
        Ok(handing.lease)
    }
}

impl Handing<'_> {
    fn hand_out(&mut self, state: &mut Locked<'_>) {
        for lane in (0..state.lanes.len()).rev() {
            let priority = u8::try_from(lane).unwrap_or(u8::MAX);
            loop {
                if self.is_full() {
                    return;
                }
                match self.step(state, priority) {
                    Step::Next => {}
                    Step::Empty => break,
                    Step::Blocked => return,
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        self.lease.messages.len() >= self.request.messages_max
            || self.lease.expired.len() >= EXPIRED_PER_LEASE_MAX
            || (self.bytes >= self.request.bytes_max && !self.lease.messages.is_empty())
    }

    fn step(&mut self, state: &mut Locked<'_>, priority: u8) -> Step {
        let head = state.lanes.get(usize::from(priority)).and_then(|lane| lane.head());
        let Some(head) = head else { return Step::Empty };
        if head.place == Place::Cold {
            self.shared.refill(state, priority);
            return Step::Next;
        }
        let expired = head.expires <= self.request.now.0;
        if head.durable && !expired && self.reserving {
            if !state.reservation.allows(head.sequence) {
                self.reserve(state, head.sequence);
                if self.lease.messages.is_empty() {
                    self.lease.blocked_until = state.reservation.awaited_for(head.sequence);
                }
                return Step::Blocked;
            }
            self.last_durable = Some(head.sequence);
        }
        let Some(mut entry) = state.pop(priority, head.place) else { return Step::Empty };
        entry.redelivered |= state.was_delivered(entry.sequence);
        let Some(message) = self.shared.detach(&mut entry) else {
            self.freed.add(&self.shared.log.segments, entry.position);
            return Step::Next;
        };
        if expired {
            self.lease.expired.push(entry.leased(message.clone()));
            self.shared.hold(state, entry, message);
            return Step::Next;
        }
        self.bytes += message.body_len();
        self.give(state, entry, message);
        Step::Next
    }

    fn give(&mut self, state: &mut Locked<'_>, mut entry: Entry, message: Message) {
        match self.request.hold {
            Hold::Take | Hold::TakeDurably => {
                if entry.durable {
                    push_run(&mut self.recorded, entry.sequence);
                }
                self.freed.add(&self.shared.log.segments, entry.position);
                self.lease.messages.push(entry.leased(message));
                return;
            }
            Hold::UntilSettled => entry.until = 0,
            Hold::Claim(claim) => self.claim(state, &mut entry, claim),
        }
        self.lease.messages.push(entry.leased(message.clone()));
        self.shared.hold(state, entry, message);
    }

    fn claim(&mut self, state: &mut Locked<'_>, entry: &mut Entry, claim: Claim) {
        let until = end_of(claim.until);
        let claims = state.claims_mut();
        let number = *self.claim.get_or_insert_with(|| {
            let number = claims.open(claim.id.to_bits(), self.request.now.0, until);
            let before = claims.move_end(number, self.request.now.0, until).unwrap_or(until);
            let (queue, timers) = (self.request.queue, &self.shared.timers);
            timers.remove(&claim_timer(queue, number, before));
            timers.insert(claim_timer(queue, number, until));
            number
        });
        claims.add(number, entry.sequence);
        entry.until = number;
        entry.expires = kept(entry.expires, until, claim.keep_until.0);
        if entry.durable {
            push_run(&mut self.recorded, entry.sequence);
        }
    }

    /// Starts the reservation that the head waits for, if it is not on its way.
    fn reserve(&self, state: &mut Locked<'_>, sequence: u64) {
        if sequence >= state.reservation.top() {
            self.append_reservation(state, sequence);
        }
    }

    /// Reserves what will be asked for next, so that nobody has to wait for it.
    fn reserve_ahead(&self, state: &mut Locked<'_>) {
        if let Some(sequence) = self.last_durable
            && state.reservation.is_half_used(sequence)
            && state.next > state.reservation.top()
            && state.ready > 0
        {
            self.append_reservation(state, sequence);
        }
    }

    fn append_reservation(&self, state: &mut Locked<'_>, sequence: u64) {
        let queue = self.request.queue;
        let up_to = state.reservation.propose(sequence);
        let next = state.next;
        let mut log = self.shared.log.begin(RECORD_BYTES);
        log.event(&Event::Reserve { queue, up_to });
        log.hint(queue);
        state.reservation.appended(up_to, next, log.ticket());
        log.finish();
    }

    /// Records what was taken or claimed.
    fn record(&mut self) {
        if self.recorded.is_empty() {
            return;
        }
        let runs = std::mem::take(&mut self.recorded);
        let queue = self.request.queue;
        let mut log = self.shared.log.begin(RECORD_BYTES + runs.len() * 16);
        let event = match self.request.hold {
            Hold::Claim(claim) => {
                let (id, since, until) =
                    (claim.id.to_bits(), self.request.now.0, end_of(claim.until));
                let keep_until = claim.keep_until.0;
                Event::Claim(ClaimEvent { queue, id, since, until, keep_until, runs })
            }
            Hold::Take | Hold::TakeDurably | Hold::UntilSettled => Event::Ack { queue, runs },
        };
        log.event(&event);
        self.lease.ticket = log.finish().0;
    }
}

impl Shared {
    /// Takes the message out of an entry, from the log if need be; `None` if it is lost.
    pub(crate) fn detach(&self, entry: &mut Entry) -> Option<Message> {
        if let Some(message) = entry.message.take() {
            return Some(message);
        }
        let (message, enqueued) = self.message(entry)?;
        entry.enqueued = enqueued;
        Some(message)
    }

    /// Keeps an entry as leased. Its holder has the message; here it is kept only if the log does not have it.
    pub(crate) fn hold(&self, state: &mut Locked<'_>, mut entry: Entry, message: Message) {
        entry.message = (!entry.position.is_logged()).then_some(message);
        state.leased.insert(entry);
    }

    /// Hands an entry out as expired.
    pub(crate) fn hold_expired(
        &self,
        state: &mut Locked<'_>,
        mut entry: Entry,
        freed: &mut Freed,
    ) -> Option<Leased> {
        entry.redelivered |= state.was_delivered(entry.sequence);
        let Some(message) = self.detach(&mut entry) else {
            freed.add(&self.log.segments, entry.position);
            return None;
        };
        let leased = entry.leased(message.clone());
        self.hold(state, entry, message);
        Some(leased)
    }
}
