//! One queue as the broker sees it: its definition, its consumers, and who is next.
//!
//! The messages are the pool's. The dispatcher is a lock that whoever makes a message ready takes for a moment (the
//! publisher, the one who settles, the sweeper): no task per queue, no hop between tasks on the way of a message, and
//! an idle queue costs a few hundred bytes. Lock order: a queue's dispatcher, then the pool, then an outbox.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::task::{Context, Waker};

use model::{
    Address, QueueDefinition, QueueId, QueueSettings, QueueType, SubscriptionId, Timestamp,
};
use smallvec::SmallVec;
use store::{Hold, LeaseRequest, Leased, Pool, QueueStats};

use crate::consumer::Consumer;
use crate::metadata::Metadata;
use crate::outbox::{Outgoing, delivery_bytes};

/// Most messages leased in one go: long enough to make locks cheap, short enough to share a backlog fairly.
const LEASE_MESSAGES_MAX: usize = 1024;

/// Most consumers considered in one round, so that a round costs the same however many there are.
const ROUND_CONSUMERS_MAX: usize = 64;

/// More than this ready although there are consumers, and publishers wait a little for them. Enough for some round
/// trips of the fastest consumer; less than what costs memory.
const CROWD_MESSAGES: u64 = 4096;

/// Which connection, in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u64);

/// What a queue is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// For clients.
    Ordinary,
    /// Delayed messages of an exchange wait in it.
    WaitingRoom,
    /// It follows a queue for a subscription, and has consumers.
    Follower,
    /// It follows a queue for a subscription whose deliverer is told when there is something.
    Fed(SubscriptionId),
}

/// A queue.
#[derive(Debug)]
pub struct Queue {
    /// Its identity in the pool.
    pub id: QueueId,
    /// Its name; at most 255 bytes, unique in its tenant.
    pub name: Arc<str>,
    /// The tenant's name.
    pub tenant: Arc<str>,
    /// What it was declared as.
    pub definition: QueueDefinition,
    /// The connection that it belongs to, if exclusive.
    pub owner: Option<ConnectionId>,
    settings: RwLock<Arc<QueueSettings>>,
    dispatch: Mutex<Dispatch>,
    used: AtomicU64,
    deleted: AtomicBool,
    /// Its consumers took nothing while a publisher waited for them: no use in waiting again before they do.
    stalled: AtomicBool,
    pushed_out: AtomicU64,
    role: Role,
    /// Whatever enters this queue enters these, too.
    followers: RwLock<Arc<[Arc<Self>]>>,
    metadata: Mutex<Option<Arc<Metadata>>>,
    /// What is posted to it by name has this address.
    address: OnceLock<Arc<Address>>,
}

#[derive(Debug, Default)]
struct Dispatch {
    /// Highest priority first, then oldest first.
    consumers: Vec<Arc<Consumer>>,
    /// Where the next round starts among equals.
    turn: usize,
    had_consumer: bool,
    /// Messages given to consumers since the start.
    given: u64,
    /// Publishers that wait until consumers have caught up.
    crowd: Vec<Waker>,
}

/// Why a consumer could not be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddConsumerError {
    ExclusiveUse,
    Deleted,
}

impl Queue {
    pub(crate) fn new(
        id: QueueId,
        tenant: Arc<str>,
        definition: QueueDefinition,
        owner: Option<ConnectionId>,
        settings: Arc<QueueSettings>,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            name: definition.name.clone(),
            tenant,
            definition,
            owner,
            settings: RwLock::new(settings),
            dispatch: Mutex::default(),
            used: AtomicU64::new(now.0),
            deleted: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            pushed_out: AtomicU64::new(0),
            role: Role::Ordinary,
            followers: RwLock::default(),
            metadata: Mutex::default(),
            address: OnceLock::new(),
        }
    }

    /// What its users say about it; `None` if nothing.
    pub fn metadata(&self) -> Option<Arc<Metadata>> {
        self.metadata_slot().clone()
    }

    pub(crate) fn metadata_slot(&self) -> MutexGuard<'_, Option<Arc<Metadata>>> {
        self.metadata.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of messages that are put into it by its name.
    pub(crate) fn address(&self) -> Arc<Address> {
        let make = || Address { exchange: "".into(), routing_key: (*self.name).into() };
        Arc::clone(self.address.get_or_init(|| Arc::new(make())))
    }

    /// What holds for it now: its arguments and the policies that match.
    pub fn settings(&self) -> Arc<QueueSettings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_settings(&self, settings: Arc<QueueSettings>) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// The queue in which the delayed messages of an exchange wait.
    pub(crate) fn waiting_room(
        id: QueueId,
        tenant: Arc<str>,
        exchange: &str,
        durable: bool,
        now: Timestamp,
    ) -> Self {
        let definition = QueueDefinition { durable, ..QueueDefinition::plain(exchange) };
        let role = Role::WaitingRoom;
        Self { role, ..Self::new(id, tenant, definition, None, Arc::default(), now) }
    }

    /// The queue that follows others for a subscription.
    pub(crate) fn follower(
        id: QueueId,
        tenant: Arc<str>,
        definition: QueueDefinition,
        (role, settings): (Role, QueueSettings),
        now: Timestamp,
    ) -> Self {
        Self { role, ..Self::new(id, tenant, definition, None, Arc::new(settings), now) }
    }

    /// Messages that were dropped because it was full, since the start.
    pub fn pushed_out(&self) -> u64 {
        self.pushed_out.load(Ordering::Relaxed)
    }

    pub(crate) fn note_pushed_out(&self, count: usize) {
        self.pushed_out.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Whether delayed messages of the exchange of its name wait in it.
    pub(crate) fn is_waiting_room(&self) -> bool {
        self.role == Role::WaitingRoom
    }

    /// Whether clients see it.
    pub(crate) fn is_visible(&self) -> bool {
        self.role == Role::Ordinary
    }

    /// Whether it follows others for a subscription.
    pub(crate) fn follows(&self) -> bool {
        matches!(self.role, Role::Follower | Role::Fed(_))
    }

    /// The subscription that is told when it has something, instead of a consumer.
    pub(crate) fn feeds(&self) -> Option<SubscriptionId> {
        match self.role {
            Role::Fed(subscription) => Some(subscription),
            Role::Ordinary | Role::WaitingRoom | Role::Follower => None,
        }
    }

    /// The queues that whatever enters this one enters, too.
    pub(crate) fn followers(&self) -> Arc<[Arc<Self>]> {
        Arc::clone(&self.followers.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_followers(&self, followers: Arc<[Arc<Self>]>) {
        *self.followers.write().unwrap_or_else(PoisonError::into_inner) = followers;
    }

    /// The pseudo-queue of a consumer of direct replies.
    pub(crate) fn for_replies(tenant: Arc<str>, now: Timestamp) -> Self {
        let definition = QueueDefinition::plain(crate::reply::REPLY_TO);
        Self::new(QueueId(0), tenant, definition, None, Arc::default(), now)
    }

    /// Whether its consumers are told how often a message was delivered before (`x-delivery-count`).
    #[must_use]
    pub fn counts_deliveries(&self) -> bool {
        self.definition.queue_type == QueueType::Quorum || self.settings().delivery_limit.is_some()
    }

    /// Whether it is a stream.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.definition.is_stream()
    }

    /// How many consume it.
    pub fn consumer_count(&self) -> usize {
        self.lock().consumers.len()
    }

    /// Those who consume it.
    pub fn consumers(&self) -> Vec<Arc<Consumer>> {
        self.lock().consumers.clone()
    }

    /// Whether it was deleted; it then only finishes what was under way.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Notes a use that renews its lease (declare, get), see `x-expires`.
    pub fn touch(&self, now: Timestamp) {
        self.used.fetch_max(now.0, Ordering::AcqRel);
    }

    /// When it was used last.
    pub fn last_used(&self) -> Timestamp {
        Timestamp(self.used.load(Ordering::Acquire))
    }

    pub(crate) fn add_consumer(&self, consumer: Arc<Consumer>) -> Result<(), AddConsumerError> {
        let mut dispatch = self.lock();
        if self.is_deleted() {
            return Err(AddConsumerError::Deleted);
        }
        let taken = dispatch.consumers.iter().any(|other| other.options.exclusive);
        if taken || (consumer.options.exclusive && !dispatch.consumers.is_empty()) {
            return Err(AddConsumerError::ExclusiveUse);
        }
        let priority = consumer.options.priority;
        let at = dispatch.consumers.partition_point(|other| other.options.priority >= priority);
        dispatch.consumers.insert(at, consumer);
        dispatch.had_consumer = true;
        Ok(())
    }

    /// Removes a consumer; true if it was the last one of a queue that had some.
    pub(crate) fn remove_consumer(&self, id: u64, now: Timestamp) -> bool {
        let mut dispatch = self.lock();
        let before = dispatch.consumers.len();
        dispatch.consumers.retain(|consumer| consumer.id != id);
        self.touch(now);
        before > 0 && dispatch.consumers.is_empty() && dispatch.had_consumer
    }

    /// Marks it deleted and takes its consumers; `None` if it was already.
    pub(crate) fn delete(&self) -> Option<Vec<Arc<Consumer>>> {
        let mut dispatch = self.lock();
        if self.deleted.swap(true, Ordering::AcqRel) {
            return None;
        }
        Some(std::mem::take(&mut dispatch.consumers))
    }

    /// Gives ready messages to consumers with room, as long as there are both.
    ///
    /// Returns the expired messages met at the head, leased to the caller, who settles them by policy.
    #[must_use]
    pub(crate) fn dispatch(&self, pool: &dyn Pool, now: Timestamp) -> Vec<Leased> {
        let mut expired = Vec::new();
        let mut dispatch = self.lock();
        if dispatch.consumers.is_empty() {
            return expired;
        }
        if self.is_stream() {
            for consumer in &dispatch.consumers {
                crate::stream::deliver(self.id, consumer, pool);
            }
            return expired;
        }
        let single_active = self.settings().single_active_consumer;
        while let Some(round) = dispatch.plan(single_active) {
            let request = LeaseRequest {
                queue: self.id,
                messages_max: round.messages_max,
                bytes_max: round.bytes_max,
                hold: round.hold,
                now,
            };
            let lease = match pool.lease(request).now() {
                Ok(lease) => lease,
                Err(error) => {
                    tracing::warn!(queue = %self.name, %error, "cannot lease");
                    break;
                }
            };
            let nothing = lease.messages.is_empty() && lease.expired.is_empty();
            expired.extend(lease.expired);
            if !lease.messages.is_empty() {
                dispatch.given += lease.messages.len() as u64;
                self.stalled.store(false, Ordering::Relaxed);
                dispatch.assign(&round, lease.messages);
            }
            if nothing || !lease.more {
                break;
            }
        }
        if !dispatch.crowd.is_empty() && self.has_caught_up(pool) {
            dispatch.crowd.drain(..).for_each(Waker::wake);
        }
        expired
    }

    /// Whether so many messages wait that publishers should wait, too. What came while messages lay on disk goes through the
    /// disk as well, to keep its place: without a pause this would never end, though consumers are almost there.
    fn is_crowded(&self, pool: &dyn Pool) -> bool {
        pool.stats(self.id).now().is_ok_and(|stats| stats.ready > CROWD_MESSAGES || stats.cold > 0)
    }

    fn has_caught_up(&self, pool: &dyn Pool) -> bool {
        let enough = |stats: QueueStats| stats.ready <= CROWD_MESSAGES / 2 && stats.cold == 0;
        pool.stats(self.id).now().is_ok_and(enough)
    }

    /// Whether consumers that keep up otherwise are so far behind that a publisher should let them catch up; what to
    /// compare in [`Queue::poll_relaxed`].
    pub(crate) fn crowd(&self, pool: &dyn Pool) -> Option<u64> {
        let dispatch = self.lock();
        if dispatch.consumers.is_empty()
            || self.is_stream()
            || self.follows()
            || self.stalled.load(Ordering::Relaxed)
        {
            return None;
        }
        let given = dispatch.given;
        drop(dispatch);
        self.is_crowded(pool).then_some(given)
    }

    /// Whether consumers have caught up; otherwise the context's task is woken when they have.
    pub(crate) fn poll_relaxed(&self, context: &Context<'_>, pool: &dyn Pool) -> bool {
        let mut dispatch = self.lock();
        if dispatch.consumers.is_empty() || self.is_deleted() || self.has_caught_up(pool) {
            return true;
        }
        if !dispatch.crowd.iter().any(|waker| waker.will_wake(context.waker())) {
            dispatch.crowd.push(context.waker().clone());
        }
        false
    }

    /// The publisher has waited long enough; `given` is what [`Queue::crowd`] said.
    pub(crate) fn give_up_waiting(&self, given: u64) {
        let mut dispatch = self.lock();
        // Nobody has to be told: each waits as briefly. A queue that is never caught up with would gather them for ever.
        dispatch.crowd.clear();
        if dispatch.given == given {
            self.stalled.store(true, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Dispatch> {
        self.dispatch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who takes part in one round, all of one priority and one way of settling.
#[derive(Debug)]
struct Round {
    /// Where the group of equals begins.
    start: usize,
    /// Index of the consumer, and how many messages it may be given.
    members: SmallVec<[(usize, u32); 8]>,
    messages_max: usize,
    bytes_max: usize,
    hold: Hold,
}

impl Dispatch {
    /// The next round: consumers with room of the highest priority that has any, starting after the last one served.
    fn plan(&self, single_active: bool) -> Option<Round> {
        let considered =
            if single_active { 1.min(self.consumers.len()) } else { self.consumers.len() };
        let mut start = 0;
        while let Some(first) = self.consumers.get(start).filter(|_| start < considered) {
            let priority = first.options.priority;
            let equals = self.consumers.get(start..considered).unwrap_or_default();
            let equals = equals.partition_point(|consumer| consumer.options.priority == priority);
            if let Some(round) = self.plan_among(start, equals) {
                return Some(round);
            }
            start += equals;
        }
        None
    }

    fn plan_among(&self, start: usize, count: usize) -> Option<Round> {
        let mut members: SmallVec<[(usize, u32); 8]> = SmallVec::new();
        let mut hold = None;
        let (mut messages, mut bytes) = (0_usize, 0_usize);
        for step in 0..count {
            let index = start + (self.turn + step) % count;
            let Some(consumer) = self.consumers.get(index) else { continue };
            let room = consumer.room();
            let wanted = if consumer.options.no_ack { Hold::Take } else { Hold::UntilSettled };
            // Those who settle otherwise have their own round, and so has one whose room is shared with others.
            let shared = consumer.channel_credit.is_limited() && !consumer.options.no_ack;
            if room == 0 || hold.is_some_and(|hold| hold != wanted || shared) {
                continue;
            }
            hold = Some(wanted);
            members.push((index, room));
            messages = messages.saturating_add(room as usize);
            bytes = bytes.saturating_add(consumer.outbox.room_bytes());
            if shared || members.len() == ROUND_CONSUMERS_MAX {
                break;
            }
        }
        let hold = hold?;
        // One lease serves each member about equally, so that nobody gets a whole backlog in one round.
        let messages_max = messages.min(LEASE_MESSAGES_MAX.max(members.len()));
        Some(Round { start, members, messages_max, bytes_max: bytes.max(1), hold })
    }

    /// Deals the messages out in turns.
    fn assign(&mut self, round: &Round, messages: Vec<Leased>) {
        if let [(index, _)] = round.members[..] {
            self.turn = index - round.start + 1;
            if let Some(consumer) = self.consumers.get(index) {
                consumer.take_credit(u32::try_from(messages.len()).unwrap_or(u32::MAX));
                let deliver = |leased| Outgoing::Deliver { consumer: Arc::clone(consumer), leased };
                consumer.outbox.push(&mut messages.into_iter().map(deliver).collect());
            }
            return;
        }
        let mut hands: SmallVec<[Hand<'_>; 8]> = round
            .members
            .iter()
            .filter_map(|&(index, room)| {
                let consumer = self.consumers.get(index)?;
                Some(Hand {
                    index,
                    consumer,
                    room,
                    bytes: consumer.outbox.room_bytes(),
                    items: Vec::new(),
                })
            })
            .collect();
        let mut turn = 0;
        let mut last = round.start;
        for leased in messages {
            let Some(hand) = next_hand(&mut hands, &mut turn) else { break };
            hand.room -= 1;
            hand.bytes = hand.bytes.saturating_sub(delivery_bytes(&leased));
            last = hand.index;
            hand.items.push(Outgoing::Deliver { consumer: Arc::clone(hand.consumer), leased });
        }
        for mut hand in hands {
            if !hand.items.is_empty() {
                hand.consumer.take_credit(u32::try_from(hand.items.len()).unwrap_or(u32::MAX));
                hand.consumer.outbox.push(&mut hand.items);
            }
        }
        self.turn = last - round.start + 1;
    }
}

/// One consumer's share of a round.
struct Hand<'a> {
    index: usize,
    consumer: &'a Arc<Consumer>,
    room: u32,
    bytes: usize,
    items: Vec<Outgoing>,
}

/// The next consumer in turn with room; the last resort is one whose outbox is full, because the lease is given.
fn next_hand<'h, 'c>(hands: &'h mut [Hand<'c>], turn: &mut usize) -> Option<&'h mut Hand<'c>> {
    let count = hands.len();
    let found = (0..count)
        .map(|step| (*turn + step) % count)
        .find(|&at| hands.get(at).is_some_and(|hand| hand.room > 0 && hand.bytes > 0))
        .or_else(|| {
            (0..count)
                .map(|step| (*turn + step) % count)
                .find(|&at| hands.get(at).is_some_and(|h| h.room > 0))
        })?;
    *turn = (found + 1) % count;
    hands.get_mut(found)
}
