//! A hop: leases that end, and messages that go from their queues into others, all in one commit.
//!
//! Whoever gives up messages plans them into a [`Hop`] first, as many as come together: a nack of many, a turn's nacks,
//! the refusals of a transaction, what expired. A hop that finds no space leaves its messages where they were.

use std::sync::Arc;

use model::decision::Reason;
use model::{Message, Sequence, Timestamp};
use store::{Change, Commit, ErrorKind, Handout, ReadRequest, Sequences, Settlement, Which};

use crate::broker::Broker;
use crate::dead_letter::enqueue;
use crate::declare::PARKING_QUEUE;
use crate::error::BrokerError;
use crate::pools::once;
use crate::queue::Queue;
use crate::route_cache::RouteTarget;
use crate::settle::{Counted, Refused, SettleBatch, in_order};

/// Most copies of messages in one hop; what is beyond goes with the next.
const COPIES_MAX: usize = 2048;

/// Most bytes of messages in one hop, but for a single message.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most bytes of messages that one transaction moves; a commit holds at most 1 GiB.
const TRANSACTION_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Sequences of some queues.
#[derive(Debug, Default)]
struct Places(Vec<(Arc<Queue>, Sequences)>);

impl Places {
    fn add(&mut self, queue: &Arc<Queue>, sequence: Sequence) {
        let found = self.0.iter().rposition(|(known, _)| Arc::ptr_eq(known, queue));
        let index = found.unwrap_or_else(|| {
            self.0.push((Arc::clone(queue), Sequences::new()));
            self.0.len() - 1
        });
        let Some((_, runs)) = self.0.get_mut(index) else { return };
        match runs.last_mut() {
            Some((_, last)) if last.0 + 1 == sequence.0 => *last = sequence,
            _ => runs.push((sequence, sequence)),
        }
    }

    fn settle(&self, settlement: Settlement) -> impl Iterator<Item = Change> {
        self.0.iter().map(move |(queue, runs)| Change::Settle {
            queue: queue.id,
            sequences: in_order(runs.clone()),
            settlement,
        })
    }
}

/// What one commit ends and moves, and what follows it.
#[derive(Debug, Default)]
pub struct Hop {
    /// Back to their queues, at a time or at once.
    released: Vec<(Option<Timestamp>, Places)>,
    counted: bool,
    /// Nobody wants them.
    gone: Places,
    moved: Places,
    /// The copies of `moved`.
    copies: Vec<Change>,
    copied: usize,
    bytes: usize,
    reached: Vec<RouteTarget>,
    /// Why messages moved, for the figures.
    reasons: Vec<Reason>,
    parked: u64,
    /// Gone from a parking queue without anybody having looked.
    parked_lost: u64,
    /// Whose credit returns.
    ended: SettleBatch,
}

impl Hop {
    /// Its changes, all or none.
    pub fn changes(&mut self) -> Vec<Change> {
        let mut changes = self.without_copies(Settlement::Ack);
        changes.append(&mut self.copies);
        changes
    }

    /// Whether it puts messages into queues, which needs space.
    #[must_use]
    pub fn moves(&self) -> bool {
        self.copied > 0
    }

    /// The changes that need no space, with `moved` as the end of what would have moved.
    fn without_copies(&self, moved: Settlement) -> Vec<Change> {
        let counted = self.counted;
        let released = self.released.iter().flat_map(|(not_before, places)| {
            places.settle(Settlement::Release { not_before: *not_before, counted })
        });
        let gone = self.gone.settle(Settlement::Ack);
        released.chain(gone).chain(self.moved.settle(moved)).collect()
    }

    /// Whether it is large enough for a commit.
    fn is_full(&self) -> bool {
        self.copied >= COPIES_MAX || self.bytes >= BYTES_MAX
    }

    /// A transaction cannot be cut into several.
    pub(crate) fn check_size(&self) -> Result<(), BrokerError> {
        if self.bytes > TRANSACTION_BYTES_MAX {
            return Err(BrokerError::LimitReached(format!(
                "the refusals of a transaction move at most {TRANSACTION_BYTES_MAX} bytes"
            )));
        }
        Ok(())
    }

    fn add_released(&mut self, queue: &Arc<Queue>, sequence: Sequence, at: Option<Timestamp>) {
        let found = self.released.iter().rposition(|(known, _)| *known == at);
        let index = found.unwrap_or_else(|| {
            self.released.push((at, Places::default()));
            self.released.len() - 1
        });
        if let Some((_, places)) = self.released.get_mut(index) {
            places.add(queue, sequence);
        }
    }
}

impl Broker {
    /// Plans the end of a message that left its queue: where its fate sends it.
    pub(crate) fn plan_dead(
        &self,
        hop: &mut Hop,
        queue: &Arc<Queue>,
        (sequence, message): (Sequence, &Message),
        reason: Reason,
        now: Timestamp,
    ) -> Result<(), BrokerError> {
        let Some(grave) = self.bury(queue, message, reason, now)? else {
            hop.gone.add(queue, sequence);
            if *queue.name == *PARKING_QUEUE && reason != Reason::Rejected {
                hop.parked_lost += 1;
            }
            return Ok(());
        };
        hop.moved.add(queue, sequence);
        hop.copied += grave.to.len();
        hop.bytes += grave.message.payload().len();
        let copy = enqueue(grave.message, &grave.to, None, now, &self.sweeper);
        hop.copies.push(once(queue, sequence, &grave.to, copy));
        hop.reached.extend(grave.to);
        match grave.parked {
            true => hop.parked += 1,
            false => hop.reasons.push(reason),
        }
        Ok(())
    }

    /// Plans the refusal of a delivery for good.
    pub(crate) fn plan_refusal(
        &self,
        hop: &mut Hop,
        refused: &Refused,
        reason: Reason,
        now: Timestamp,
    ) -> Result<(), BrokerError> {
        hop.ended.add(&refused.holder, refused.sequence);
        let queue = refused.holder.queue();
        if queue.is_stream() {
            return Ok(());
        }
        let request = ReadRequest {
            queue: queue.id,
            which: Which::ALL,
            from: refused.sequence,
            messages_max: 1,
            bytes_max: usize::MAX,
        };
        let stored = match self.pool.read(request).now() {
            Ok(stored) => stored,
            Err(error) if error.kind == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        // Otherwise its queue was purged or deleted meanwhile.
        if let Some(stored) = stored.first().filter(|found| found.sequence == refused.sequence) {
            self.plan_dead(hop, queue, (stored.sequence, &stored.message), reason, now)?;
        }
        Ok(())
    }

    /// Plans the return of a delivery to its queue, or where the delivery limit sends it.
    pub(crate) fn plan_release(
        &self,
        hop: &mut Hop,
        refused: &Refused,
        counted: Counted,
        now: Timestamp,
    ) -> Result<(), BrokerError> {
        let queue = refused.holder.queue();
        let mut not_before = None;
        if counted == Counted::Yes {
            hop.counted = true;
            let settings = queue.settings();
            let attempts = refused.delivery_count + 1;
            if settings.delivery_limit.is_some_and(|limit| attempts > limit) {
                return self.plan_refusal(hop, refused, Reason::DeliveryLimit, now);
            }
            let delay_ms = settings.retry_delay_ms(attempts, refused.setback);
            not_before = delay_ms.map(|delay_ms| now.after_ms(delay_ms));
        }
        hop.ended.add(&refused.holder, refused.sequence);
        if !queue.is_stream() {
            hop.add_released(queue, refused.sequence, not_before);
        }
        Ok(())
    }

    /// Ends deliveries that were given back and that were refused: one commit, or a few for very many.
    pub(crate) fn give_up(
        &self,
        released: &[Refused],
        counted: Counted,
        rejected: &[Refused],
        now: Timestamp,
    ) -> Result<(), BrokerError> {
        let mut hop = Hop::default();
        for one in released {
            self.plan_release(&mut hop, one, counted, now)?;
            if hop.is_full() {
                self.carry_out(std::mem::take(&mut hop), now, 0)?;
            }
        }
        for one in rejected {
            self.plan_refusal(&mut hop, one, Reason::Rejected, now)?;
            if hop.is_full() {
                self.carry_out(std::mem::take(&mut hop), now, 0)?;
            }
        }
        self.carry_out(hop, now, 0)
    }

    /// Takes leased messages out of their queue and puts each where its fate sends it.
    pub(crate) fn move_dead(
        &self,
        queue: &Arc<Queue>,
        messages: &[(Sequence, Message)],
        reason: Reason,
        now: Timestamp,
        depth: usize,
    ) -> Result<(), BrokerError> {
        let mut hop = Hop::default();
        for (sequence, message) in messages {
            self.plan_dead(&mut hop, queue, (*sequence, message), reason, now)?;
            if hop.is_full() {
                self.carry_out(std::mem::take(&mut hop), now, depth)?;
            }
        }
        self.carry_out(hop, now, depth)
    }

    /// Commits a hop. Without space for it what would move goes back and is tried again: it must not stay leased to
    /// nobody.
    pub(crate) fn carry_out(
        &self,
        mut hop: Hop,
        now: Timestamp,
        depth: usize,
    ) -> Result<(), BrokerError> {
        let changes = hop.changes();
        if !changes.is_empty() {
            // What only returns or goes may be handed out at once.
            let handout = if hop.moves() { Handout::WhenDurable } else { Handout::AtOnce };
            match self.pool.commit(Commit { changes, now, handout, ..Commit::default() }).now() {
                Ok(_) => {
                    if hop.moves() && self.stalls.dead_letters.went_on() {
                        tracing::info!("dead letters move again");
                    }
                }
                Err(error) if error.retryable() => {
                    if self.stalls.dead_letters.failed(now) {
                        tracing::warn!(%error, "dead letters wait on");
                    }
                    self.postpone(&mut hop, now)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.landed(hop, now, depth);
        Ok(())
    }

    /// Commits what of a hop needs no space; the rest waits in its queues for a moment.
    fn postpone(&self, hop: &mut Hop, now: Timestamp) -> Result<(), BrokerError> {
        let later = self.a_little_later(now);
        let back = Settlement::Release { not_before: Some(later), counted: false };
        let changes = hop.without_copies(back);
        hop.reached.clear();
        hop.reasons.clear();
        hop.parked = 0;
        self.pool.commit(Commit { changes, now, ..Commit::default() }).now()?;
        Ok(())
    }

    /// After its commit: figures, credit, and the queues deliver.
    pub(crate) fn landed(&self, hop: Hop, now: Timestamp, depth: usize) {
        for reason in hop.reasons {
            self.count_dead(reason);
        }
        self.counters.parked.add(hop.parked);
        if hop.parked_lost > 0 {
            self.counters.parked_lost.add(hop.parked_lost);
            tracing::warn!(messages = hop.parked_lost, "a parking queue dropped its oldest");
        }
        for not_before in hop.released.iter().filter_map(|(not_before, _)| *not_before) {
            self.sweeper.set(not_before);
        }
        self.settled(&hop.ended, now);
        self.follow_up(hop.reached, now, depth);
    }
}
