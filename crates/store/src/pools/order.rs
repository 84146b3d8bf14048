//! One order of tickets over several pools.
//!
//! Each commit gets the next number, with the tickets that its pools gave it. The watermark moves over a number when all
//! of them are durable, in order: a slow disk holds up what was committed behind it, whatever pool that is in. That is
//! the price of one watermark for everybody who waits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::task::{Context, Poll, Wake, Waker};

use model::Ticket;
use smallvec::SmallVec;

use super::Table;
use super::cut::Part;
use crate::error::{ErrorKind, StoreError};
use crate::pool::Pool;
use crate::watch::Watch;

/// Pools by number.
pub(super) type Members = BTreeMap<u16, Arc<dyn Pool>>;

/// Tickets of pools.
type Tickets = SmallVec<[(u16, Ticket); 2]>;

/// A commit that is not durable.
#[derive(Debug)]
struct Waiting {
    number: u64,
    tickets: Tickets,
    /// Committed when the tickets are durable.
    then: Vec<Part>,
}

#[derive(Debug, Default)]
struct Queue {
    last: u64,
    waiting: VecDeque<Waiting>,
    /// The pool whose watch will wake us, and how often it had woken others before.
    registered: Option<(u16, u64)>,
}

/// The pools, and what of them is durable.
#[derive(Debug)]
pub(super) struct Order {
    me: Weak<Self>,
    /// False when all is over. Held by whoever is woken by a member, in that member's own thread: what lets go of members
    /// waits for them, because a member must not end in a thread of its own.
    open: RwLock<bool>,
    table: Table,
    watch: Watch,
    queue: Mutex<Queue>,
}

/// What a member's watch wakes.
struct Nudge {
    order: Weak<Order>,
    number: u16,
}

impl Wake for Nudge {
    fn wake(self: Arc<Self>) {
        let Some(order) = self.order.upgrade() else { return };
        let open = order.open.read().unwrap_or_else(PoisonError::into_inner);
        if *open {
            order.follow_hints(self.number);
            order.advance();
        }
    }
}

/// What a member wakes when something is due earlier, perhaps with its locks held: it only passes that on.
struct DueNudge(Weak<Order>);

impl Wake for DueNudge {
    fn wake(self: Arc<Self>) {
        if let Some(order) = self.0.upgrade() {
            order.watch.hint_due();
        }
    }
}

impl Order {
    pub(super) fn new() -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            open: RwLock::new(true),
            table: Table::default(),
            watch: Watch::default(),
            queue: Mutex::default(),
        })
    }

    pub(super) fn members(&self) -> Arc<Members> {
        self.table.get()
    }

    pub(super) fn add(&self, number: u16, pool: Arc<dyn Pool>) {
        let due = Waker::from(Arc::new(DueNudge(Weak::clone(&self.me))));
        if pool.watch().poll_due(&Context::from_waker(&due)).is_ready() {
            self.watch.hint_due();
        }
        self.table.change(|members| drop(members.insert(number, pool)));
        self.follow_hints(number);
    }

    pub(super) fn remove(&self, number: u16) {
        let before = {
            let _nobody_woken = self.open.write().unwrap_or_else(PoisonError::into_inner);
            let before = self.members();
            self.table.change(|members| drop(members.remove(&number)));
            before
        };
        drop(before);
        self.advance();
    }

    /// Lets go of all members, in this thread.
    pub(super) fn close(&self) {
        let before = {
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            *open = false;
            let before = self.members();
            self.table.change(Members::clear);
            before
        };
        drop(before);
    }

    pub(super) fn watch(&self) -> &Watch {
        let full = self.members().values().any(|pool| pool.watch().full());
        if full != self.watch.full() {
            self.watch.set_full(full);
        }
        &self.watch
    }

    /// Hands an answer of a member on; a member that has failed takes all with it.
    pub(super) fn noticing<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        if answer.as_ref().is_err_and(|error| error.kind == ErrorKind::Poisoned) {
            self.watch.fail();
        }
        answer
    }

    /// Gives a commit its place; [`Ticket::NONE`] if it needs none.
    pub(super) fn enter(&self, mut tickets: Tickets, then: Vec<Part>) -> Ticket {
        tickets.retain(|(_, ticket)| *ticket != Ticket::NONE);
        if tickets.is_empty() && then.is_empty() {
            return Ticket::NONE;
        }
        let number = {
            let mut queue = self.queue();
            queue.last += 1;
            let number = queue.last;
            queue.waiting.push_back(Waiting { number, tickets, then });
            number
        };
        self.advance();
        Ticket(number)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waker(&self, number: u16) -> Waker {
        Waker::from(Arc::new(Nudge { order: Weak::clone(&self.me), number }))
    }

    /// Passes on what a member says about queues that became ready.
    fn follow_hints(&self, number: u16) {
        let Some(pool) = self.members().get(&number).cloned() else { return };
        let waker = self.waker(number);
        while let Poll::Ready(queues) = pool.watch().poll_ready(&Context::from_waker(&waker)) {
            queues.into_iter().for_each(|queue| self.watch.hint_ready(queue));
        }
    }

    /// Moves the watermark over all that is durable, and sees to it that the next is noticed.
    fn advance(&self) {
        let members = self.members();
        let mut durable = Ticket::NONE;
        {
            let mut queue = self.queue();
            while let Some(front) = queue.waiting.front_mut() {
                front.tickets.retain(|(number, ticket)| {
                    members.get(number).is_some_and(|pool| pool.watch().durable() < *ticket)
                });
                if let Some((number, ticket)) = front.tickets.first().copied() {
                    if self.will_be_woken(&mut queue, &members, number, ticket) {
                        break;
                    }
                    continue;
                }
                if !front.then.is_empty() {
                    let then = std::mem::take(&mut front.then);
                    front.tickets = self.carry_out(&members, then);
                    continue;
                }
                durable = Ticket(front.number);
                queue.waiting.pop_front();
                queue.registered = None;
            }
        }
        if durable != Ticket::NONE {
            self.watch.advance(durable);
        }
    }

    /// False if the ticket is durable by now.
    fn will_be_woken(
        &self,
        queue: &mut Queue,
        members: &Members,
        number: u16,
        ticket: Ticket,
    ) -> bool {
        let Some(pool) = members.get(&number) else { return false };
        let wakes = pool.watch().wakes();
        if queue.registered == Some((number, wakes)) {
            return true;
        }
        let waker = self.waker(number);
        match pool.watch().poll_durable(&Context::from_waker(&waker), ticket) {
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(_)) => {
                self.watch.fail();
                true
            }
            Poll::Pending => {
                queue.registered = Some((number, wakes));
                true
            }
        }
    }

    /// Commits what waited for the rest of its commit.
    fn carry_out(&self, members: &Members, then: Vec<Part>) -> Tickets {
        let mut tickets = Tickets::new();
        for (number, commit) in then {
            let Some(pool) = members.get(&number) else { continue };
            match self.noticing(pool.commit(commit).now()) {
                Ok(receipt) => tickets.push((number, receipt.ticket)),
                // A settle is refused by a pool that has failed only, and that is noticed.
                Err(error) => tracing::error!(pool = number, %error, "leases cannot be ended"),
            }
        }
        tickets.retain(|(_, ticket)| *ticket != Ticket::NONE);
        tickets
    }
}
