//! The contract for messages and leases.
//!
//! Changes are data: a commit is a list of them, applied all or none. A commit has two moments: *accepted*, when the
//! returned [`Pending`] resolves (it is ordered and visible), and *durable*, when the [`Watch`] reaches its ticket.
//! Callers do not wait for one commit before issuing the next; commits take effect in the order of the calls.
//!
//! A store carries no policy: it never knows why a message is settled or where dead letters go. What has expired it
//! reports; what becomes of it the broker decides and commits.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use model::{ClaimId, DedupId, Message, QueueId, Sequence, Ticket, Timestamp};
use smallvec::SmallVec;

use crate::error::StoreError;
use crate::watch::Watch;

/// An answer that may already be there.
///
/// Local drivers answer at once and cost nothing; remote drivers box a future, which is one allocation per batch.
pub enum Pending<T> {
    /// Known already. `None` after it was taken.
    Now(Option<Result<T, StoreError>>),
    /// To be awaited.
    Later(Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>),
}

impl<T> Pending<T> {
    /// An answer that is known.
    pub fn ready(result: Result<T, StoreError>) -> Self {
        Self::Now(Some(result))
    }

    /// The answer of a local driver, without awaiting.
    ///
    /// The broker's hot path runs inside a connection's own turn and never suspends there; a remote driver will be
    /// driven by a submission task in front of it.
    ///
    /// # Errors
    ///
    /// The answer's own error, or [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if it is not there yet.
    pub fn now(self) -> Result<T, StoreError> {
        match self {
            Self::Now(Some(result)) => result,
            Self::Now(None) | Self::Later(_) => Err(StoreError::new(
                crate::ErrorKind::Unsupported,
                "this driver does not answer at once",
            )),
        }
    }
}

impl<T: Unpin> Future for Pending<T> {
    type Output = Result<T, StoreError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Now(result) => match result.take() {
                Some(result) => Poll::Ready(result),
                None => Poll::Pending,
            },
            Self::Later(future) => future.as_mut().poll(context),
        }
    }
}

impl<T> Debug for Pending<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Now(_) => "Pending::Now",
            Self::Later(_) => "Pending::Later",
        })
    }
}

/// What a driver can promise. The engine refuses a feature rather than weaken it silently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// A durable ticket survives a power cut.
    pub durable: bool,
    /// A commit over several queues is all or none.
    pub atomic_across_queues: bool,
    /// Leases come in the order of sequences, also after a release.
    pub ordered: bool,
    /// `not_before` is honoured.
    pub delayed: bool,
}

/// How a queue keeps its messages; fixed for its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueKind {
    /// Persistent messages and the queue itself survive a restart.
    pub durable: bool,
    /// Highest priority, 0 for a plain queue. Higher priorities are leased first.
    pub priority_max: u8,
    /// Messages are read by sequence with [`Pool::read`] and go only by [`Change::Trim`]; leasing is refused.
    pub stream: bool,
}

/// Where one message goes, with the facts that differ per queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The queue.
    pub queue: QueueId,
    /// Priority in that queue, at most its `priority_max`.
    pub priority: u8,
    /// When it must not be delivered any more.
    pub expires: Option<Timestamp>,
    /// When it may be delivered first.
    pub not_before: Option<Timestamp>,
}

/// The queues of one message: one without an allocation.
pub type Targets = SmallVec<[Target; 1]>;

/// Inclusive runs of sequences, growing: `[(1, 5), (9, 9)]`.
pub type Sequences = SmallVec<[(Sequence, Sequence); 2]>;

/// How a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// The message is done with and forgotten.
    Ack,
    /// Back to its place. Redelivered from now on.
    Release {
        /// Not leased again before; `None` for at once.
        not_before: Option<Timestamp>,
        /// Whether `delivery_count` grows by one.
        counted: bool,
    },
}

/// One change of a commit.
#[derive(Debug, Clone)]
pub enum Change {
    /// Makes a queue; with an id never used before.
    CreateQueue {
        /// Its identity.
        queue: QueueId,
        /// How it keeps messages.
        kind: QueueKind,
    },
    /// Forgets a queue with all its messages and leases; fine if it is not there.
    DeleteQueue {
        /// Its identity.
        queue: QueueId,
    },
    /// Puts one message into queues. A queue that is gone is skipped: it was deleted while this was on its way.
    Enqueue {
        /// The message; stored once however many targets.
        message: Message,
        /// Where to.
        targets: Targets,
        /// If the pool saw this id within the window, the change is skipped and reported in [`Receipt::duplicates`].
        dedup: Option<DedupId>,
    },
    /// Ends leases. Sequences that are not leased are skipped: their queue was purged or their lease ran out.
    Settle {
        /// The queue.
        queue: QueueId,
        /// Which messages of it.
        sequences: Sequences,
        /// How.
        settlement: Settlement,
    },
    /// Forgets all ready messages of a queue, and its delayed ones; leased ones stay.
    Purge {
        /// The queue.
        queue: QueueId,
    },
    /// Forgets single messages wherever they are, if they are held as the condition says. What became of each is told in
    /// [`Receipt::removals`]. One that has expired and is not held counts as missing: it is reported as expired in its
    /// turn.
    Remove {
        /// The queue.
        queue: QueueId,
        /// Which messages of it, in any order.
        sequences: Box<[Sequence]>,
        /// Who may hold them.
        condition: Condition,
    },
    /// Ends a claim: what it still holds is ready again in its place, redelivered and counted. Fine if there is none.
    EndClaim {
        /// The queue.
        queue: QueueId,
        /// The claim.
        claim: ClaimId,
    },
    /// Stream retention: forgets all messages before a sequence.
    Trim {
        /// The stream queue.
        queue: QueueId,
        /// First sequence to keep.
        before: Sequence,
    },
}

/// Who may hold a message that is removed by its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Nobody: it is ready or delayed.
    Unheld,
    /// This claim.
    HeldBy(ClaimId),
    /// Anybody or nobody.
    Always,
}

/// What became of one message of a [`Change::Remove`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is gone.
    Removed,
    /// There was none.
    Missing,
    /// Somebody else holds it; it stays.
    Held,
    /// Nobody holds it, although [`Condition::HeldBy`] was asked for; it stays.
    NotHeld,
}

/// Changes applied all or none, in order.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// What changes.
    pub changes: Vec<Change>,
    /// The time of the commit, for expiry, delays and the dedup window.
    pub now: Timestamp,
    /// When its messages may be leased.
    pub handout: Handout,
    /// Whether it may be refused for lack of space.
    pub admission: Admission,
}

/// Whether a commit may be refused for lack of space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Admission {
    /// It may, if it enqueues.
    #[default]
    Asked,
    /// It was admitted before: parts of it are committed elsewhere, so it is taken, and becomes durable when there is
    /// space.
    Granted,
}

/// When the messages of a commit may be leased.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Handout {
    /// As soon as the commit is accepted: nothing else happened in it, and who published the message has no answer yet.
    #[default]
    AtOnce,
    /// When the commit is durable: it moved a message or settled others, and nobody may see the outcome of what a crash
    /// could undo.
    WhenDurable,
}

/// What came of an accepted commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Durable when the watermark reaches it; [`Ticket::NONE`] if nothing needed the disk. For a duplicate, the ticket
    /// covers the original.
    pub ticket: Ticket,
    /// Indexes of the `Enqueue` changes that were skipped as duplicates.
    pub duplicates: Vec<usize>,
    /// The pool has more to write than it likes: publish again when `ticket` is durable. Nothing is refused; it is for
    /// the publisher's door to wait, so that the backlog stays in the network and not in memory.
    pub congested: bool,
    /// How many messages the `Purge`, `DeleteQueue` and `Trim` changes removed that were ready.
    pub removed: u64,
    /// What became of each sequence of the `Remove` changes, in their order.
    pub removals: Vec<Removal>,
    /// The sequence that the last `Enqueue` got in the first of its queues that is there. Sequences of one queue within
    /// a commit follow one another, so it tells those of the messages before as well.
    pub last: Sequence,
}

/// Messages of a queue held by somebody whom the store knows by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The holder. A second lease by the same holder adds to its claim.
    pub id: ClaimId,
    /// When what is not settled is ready again.
    pub until: Timestamp,
    /// A message that would expire before `until` lives up to here instead.
    pub keep_until: Timestamp,
}

/// A claim as it stands.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// When it was made, or extended last.
    pub since: Timestamp,
    /// When it ends.
    pub until: Timestamp,
    /// What it holds, by sequence. What was lost to damage is left out.
    pub messages: Vec<Stored>,
}

/// What came of extending a claim.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extended {
    /// Messages that it holds; 0 if there is no such claim any more.
    pub messages: u64,
    /// Durable when the watermark reaches it.
    pub ticket: Ticket,
}

/// How long and in what way a lease holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Leased and acknowledged in one: the message is gone when it is returned (AMQP no-ack).
    Take,
    /// As `Take`, by a caller who shows the messages to nobody before [`Lease::ticket`] is durable (Zaqar pop). So a
    /// crash cannot make it a second delivery, and no message has to wait for the disk before it is handed out.
    TakeDurably,
    /// Until settled: its holder is in this process (AMQP unacked). Not recorded: a restart ends it.
    UntilSettled,
    /// Until settled, removed or ended, at the latest at the claim's end; then ready again, counted (Zaqar claim).
    /// Recorded: a restart does not end it. The caller shows the messages to nobody before [`Lease::ticket`] is durable.
    Claim(Claim),
}

/// Asks for messages of one queue.
#[derive(Debug, Clone, Copy)]
pub struct LeaseRequest {
    /// The queue.
    pub queue: QueueId,
    /// Most messages.
    pub messages_max: usize,
    /// Stop after the message that passes this many body bytes.
    pub bytes_max: usize,
    /// How it holds.
    pub hold: Hold,
    /// The time: what expires at or before it is reported in [`Lease::expired`].
    pub now: Timestamp,
}

/// One leased message.
#[derive(Debug, Clone)]
pub struct Leased {
    /// Its place in the queue, and the name of its lease.
    pub sequence: Sequence,
    /// The message.
    pub message: Message,
    /// Counted deliveries that ended in a release, before this one.
    pub delivery_count: u32,
    /// Whether it may have been delivered before (also before a crash).
    pub redelivered: bool,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// When it was enqueued.
    pub enqueued: Timestamp,
}

/// What a lease request returned.
#[derive(Debug, Default)]
pub struct Lease {
    /// Highest priority first, then by sequence.
    pub messages: Vec<Leased>,
    /// Expired ones met at the head, leased ([`Hold::UntilSettled`]) to the caller, who must settle them by policy.
    pub expired: Vec<Leased>,
    /// Whether more is ready now.
    pub more: bool,
    /// When what was taken or claimed is so for good; [`Ticket::NONE`] if nothing needed the disk.
    pub ticket: Ticket,
    /// What must be durable before there are messages, if there are some and none can be leased before; otherwise
    /// [`Ticket::NONE`].
    pub blocked_until: Ticket,
}

/// Which messages of a queue are looked at. Others cost nothing, however many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Which {
    /// Those that can be leased now; all of a stream.
    pub ready: bool,
    /// Those that wait for `not_before`.
    pub delayed: bool,
    /// Those that are leased or claimed.
    pub leased: bool,
}

impl Which {
    /// All that are there.
    pub const ALL: Self = Self { ready: true, delayed: true, leased: true };
}

/// Asks to look at messages without leasing them.
#[derive(Debug, Clone, Copy)]
pub struct ReadRequest {
    /// The queue.
    pub queue: QueueId,
    /// Which of its messages.
    pub which: Which,
    /// First sequence looked at.
    pub from: Sequence,
    /// Most messages.
    pub messages_max: usize,
    /// Stop after the message that passes this many body bytes.
    pub bytes_max: usize,
}

/// One message as it lies in a queue.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its place.
    pub sequence: Sequence,
    /// The message.
    pub message: Message,
    /// When it was enqueued.
    pub enqueued: Timestamp,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// Not delivered before.
    pub not_before: Option<Timestamp>,
    /// Counted deliveries.
    pub delivery_count: u32,
    /// Whether it is leased now.
    pub leased: bool,
    /// The claim that holds it.
    pub claim: Option<ClaimId>,
}

/// Counters of one queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Messages that can be leased now.
    pub ready: u64,
    /// Their body bytes.
    pub ready_bytes: u64,
    /// Those of them that have to be read back from a disk; 0 where a driver does not know.
    pub cold: u64,
    /// Messages leased.
    pub leased: u64,
    /// Messages that wait for `not_before`.
    pub delayed: u64,
    /// The oldest sequence still there (streams: first offset), the next one to be given.
    pub first: Sequence,
    /// The sequence that the next message gets.
    pub next: Sequence,
}

/// What time has done.
#[derive(Debug, Default)]
pub struct Due {
    /// Expired messages at the heads of queues, leased ([`Hold::UntilSettled`]) to the caller, who settles by policy.
    pub expired: Vec<(QueueId, Leased)>,
    /// Queues in which delayed messages or ended leases became ready.
    pub ready: Vec<QueueId>,
    /// When to ask again; `None` if nothing waits.
    pub next: Option<Timestamp>,
}

/// Where messages and leases are kept.
pub trait Pool: Send + Sync + Debug {
    /// What this driver promises.
    fn capabilities(&self) -> Capabilities;

    /// Applies all changes or none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) when out of space (only commits that enqueue, and
    /// are not [`Admission::Granted`]),
    /// [`ErrorKind::Poisoned`](crate::ErrorKind::Poisoned) after a failed sync.
    fn commit(&self, commit: Commit) -> Pending<Receipt>;

    /// Hands out ready messages from the head. A message is never in two leases.
    fn lease(&self, request: LeaseRequest) -> Pending<Lease>;

    /// Moves the end of a claim, and the expiry of messages that would be gone before.
    fn extend(&self, queue: QueueId, claim: Claim, now: Timestamp) -> Pending<Extended>;

    /// A claim with all that it holds; `None` if there is none, or nothing is left of it.
    fn claimed(&self, queue: QueueId, claim: ClaimId) -> Pending<Option<Claimed>>;

    /// What became due at or before `now`: at most `messages_max` expired messages.
    fn due(&self, now: Timestamp, messages_max: usize) -> Pending<Due>;

    /// Messages by sequence, without leasing: browsing, and reading streams.
    fn read(&self, request: ReadRequest) -> Pending<Vec<Stored>>;

    /// The message with the highest sequence, in whatever state. The oldest is the first that [`Pool::read`] finds.
    fn newest(&self, queue: QueueId) -> Pending<Option<Stored>>;

    /// The first sequence of a stream whose message was enqueued at or after `since`.
    fn sequence_at(&self, queue: QueueId, since: Timestamp) -> Pending<Sequence>;

    /// Counters of a queue, cheap enough to ask per batch.
    fn stats(&self, queue: QueueId) -> Pending<QueueStats>;

    /// The queues that exist here, with their kinds: what recovery found.
    fn queues(&self) -> Pending<Vec<(QueueId, QueueKind)>>;

    /// The watermark and hints.
    fn watch(&self) -> &Watch;
}
