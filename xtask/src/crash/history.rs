//! The checker: what was published, confirmed, delivered and settled, and what of it must not be.
//!
//! Rules are those of the fault plan. An outcome that is unknown (the connection died before the answer) counts
//! neither as stored nor as lost: such a message may appear or not.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant, SystemTime};

use super::client::Delivered;
use super::ledger::Ledger;
use super::message_id::MessageId;
use super::plan::{Kind, QUEUES, QueueIndex, Route, name};
use super::ticks::Tick;

/// How long an acknowledgement may take to become durable; one lost later than this is a fault of the broker.
///
/// A group commit takes milliseconds; the rest is room for a machine that is busy with the rig itself. While the machine
/// stands still this does not run.
const ACK_DURABLE_WITHIN: Duration = Duration::from_millis(1_500);

/// Room for clocks and scheduling when a delayed message comes early.
const EARLY_MAX: Duration = Duration::from_millis(5);

/// Most complaints that are kept; the rest is counted.
const COMPLAINTS_MAX: usize = 40;

/// What the broker said about a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Unknown,
    Confirmed,
    Refused,
}

#[derive(Debug)]
struct Message {
    route: Route,
    len: usize,
    outcome: Outcome,
    started: SystemTime,
    not_before: Option<Instant>,
}

/// How the last delivery of a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    Held,
    Requeued,
    Acked(Tick),
    /// Acknowledged in a transaction whose commit was answered.
    Committed,
    /// Acknowledged in a transaction whose commit was not answered yet.
    InDoubt(usize),
}

#[derive(Debug)]
struct Seen {
    epoch: usize,
    session: u64,
    settled: Settled,
}

/// A transaction: messages taken and messages put.
#[derive(Debug)]
struct Transaction {
    taken: Vec<MessageId>,
    put: Vec<MessageId>,
    committed: bool,
    /// The broker said that nothing of it happened.
    refused: bool,
    /// How many of `taken` came again.
    returned: usize,
}

/// What one consumer has seen on its one connection.
#[derive(Debug)]
pub(crate) struct Session {
    number: u64,
    queue: QueueIndex,
    last: HashMap<u64, MessageId>,
}

impl Session {
    /// The queue that is consumed.
    pub(crate) fn queue(&self) -> QueueIndex {
        self.queue
    }
}

/// Figures of a campaign.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) published: u64,
    pub(crate) confirmed: u64,
    pub(crate) delivered: u64,
    /// Outcome unknown, and it appeared.
    pub(crate) recovered: u64,
    /// Delivered again, as allowed.
    pub(crate) duplicates: u64,
    /// First delivery, but flagged as redelivered; allowed after a crash.
    pub(crate) over_flagged: u64,
    pub(crate) commits: u64,
}

/// Everything known about the cycle at hand.
#[derive(Debug)]
pub(crate) struct History {
    cycle: u64,
    ledger: Ledger,
    messages: HashMap<MessageId, Message>,
    seen: HashMap<(QueueIndex, MessageId), Seen>,
    transactions: Vec<Transaction>,
    /// When each life of the server ended.
    deaths: Vec<Tick>,
    sessions: u64,
    producers: u64,
    missing: u64,
    /// Commits of this life whose answer is awaited.
    commits_open: u64,
    /// How often something has come.
    arrivals: u64,
    complaints: Vec<String>,
    complaints_beyond: usize,
    pub(crate) figures: Figures,
    /// Queues declared and bound by the topology part; `None` where the outcome is unknown.
    pub(crate) topology: BTreeMap<u64, Option<bool>>,
    /// Messages that a fault damaged on disk: their loss is the rig's doing.
    pub(crate) sacrificed: Vec<MessageId>,
}

impl History {
    /// The history of a new cycle.
    pub(crate) fn new(cycle: u64, ledger: Ledger) -> Self {
        Self {
            cycle,
            ledger,
            messages: HashMap::new(),
            seen: HashMap::new(),
            transactions: Vec::new(),
            deaths: Vec::new(),
            sessions: 0,
            producers: 0,
            missing: 0,
            commits_open: 0,
            arrivals: 0,
            complaints: Vec::new(),
            complaints_beyond: 0,
            figures: Figures::default(),
            topology: BTreeMap::new(),
            sacrificed: Vec::new(),
        }
    }

    /// A number for a producer.
    pub(crate) fn producer(&mut self) -> u64 {
        self.producers += 1;
        self.producers
    }

    /// The number of the cycle.
    pub(crate) fn cycle(&self) -> u64 {
        self.cycle
    }

    /// A consumer begins on a new connection.
    pub(crate) fn session(&mut self, queue: QueueIndex) -> Session {
        self.sessions += 1;
        self.ledger.note(format_args!("session {} {}", self.sessions, name(queue)));
        Session { number: self.sessions, queue, last: HashMap::new() }
    }

    /// A message is about to be written to the socket.
    pub(crate) fn publish_start(
        &mut self,
        id: MessageId,
        route: Route,
        len: usize,
        not_before: Option<Instant>,
    ) {
        self.ledger.note(format_args!("publish-start {} {route:?} {len}", id.text()));
        self.figures.published += 1;
        let (outcome, started) = (Outcome::Unknown, SystemTime::now());
        self.messages.insert(id, Message { route, len, outcome, started, not_before });
    }

    /// The broker has confirmed the message.
    pub(crate) fn confirmed(&mut self, id: MessageId) {
        self.ledger.note(format_args!("confirmed {}", id.text()));
        let Some(message) = self.messages.get_mut(&id) else { return };
        if message.outcome != Outcome::Unknown {
            return self.complain(format!("{}: confirmed twice", id.text()));
        }
        message.outcome = Outcome::Confirmed;
        let targets = message.route.targets().iter();
        let unseen = targets.filter(|queue| !self.seen.contains_key(&(**queue, id))).count();
        self.figures.confirmed += 1;
        self.missing += unseen as u64;
    }

    /// The broker has refused the message, or returned it: it may be stored or not.
    pub(crate) fn refused(&mut self, id: MessageId) {
        self.ledger.note(format_args!("refused {}", id.text()));
        if let Some(message) = self.messages.get_mut(&id) {
            message.outcome = Outcome::Refused;
        }
    }

    /// A message has come; returns its id if it is one of ours.
    pub(crate) fn delivered(
        &mut self,
        session: &mut Session,
        got: &Delivered,
    ) -> Option<MessageId> {
        self.arrivals += 1;
        let queue = session.queue;
        let text = got.message_id.as_deref().unwrap_or("(none)");
        let flag = if got.redelivered { "redelivered" } else { "first" };
        let number = session.number;
        self.ledger.note(format_args!("delivered {text} {} {number} {flag}", name(queue)));
        let Some(id) = MessageId::parse(text) else {
            self.complain(format!("PHANTOM in {}: message-id {text}", name(queue)));
            return None;
        };
        let Some(message) = self.messages.get(&id) else {
            let what = if id.cycle() < self.cycle {
                "RESURRECTED from an earlier cycle"
            } else {
                "PHANTOM"
            };
            self.complain(format!(
                "{what} in {}: {text}, which this cycle never sent",
                name(queue)
            ));
            return Some(id);
        };
        let Message { route, len, outcome, not_before, .. } = *message;
        if !route.targets().contains(&queue) {
            self.complain(format!("PHANTOM in {}: {text} was not routed there", name(queue)));
        }
        if got.body != id.body(len) {
            let came = got.body.len();
            self.complain(format!(
                "CORRUPT in {}: {text}, {came} bytes came of {len} sent",
                name(queue)
            ));
        }
        if not_before.is_some_and(|due| due > Instant::now() + EARLY_MAX) {
            self.complain(format!(
                "EARLY in {}: {text} came before its delay was over",
                name(queue)
            ));
        }
        self.check_order(session, id, got.redelivered);
        self.check_repetition(session, id, got.redelivered, outcome);
        self.figures.delivered += 1;
        let (epoch, settled) = (self.deaths.len(), Settled::Held);
        self.seen.insert((queue, id), Seen { epoch, session: session.number, settled });
        Some(id)
    }

    fn check_order(&mut self, session: &mut Session, id: MessageId, redelivered: bool) {
        let applies = match QUEUES.get(session.queue).map(|queue| queue.kind) {
            Some(Kind::Ordered) => true,
            Some(Kind::Requeue) => !redelivered,
            Some(Kind::Moved | Kind::Expiring | Kind::Loose | Kind::Priority) | None => false,
        };
        if !applies {
            return;
        }
        if let Some(before) = session.last.insert(id.producer(), id).filter(|before| *before >= id)
        {
            self.complain(format!(
                "ORDER in {}: {} came after {} (session {})",
                name(session.queue),
                id.text(),
                before.text(),
                session.number
            ));
        }
    }

    fn check_repetition(
        &mut self,
        session: &Session,
        id: MessageId,
        redelivered: bool,
        outcome: Outcome,
    ) {
        let (queue, epoch) = (session.queue, self.deaths.len());
        let place = format!("{} in {}", id.text(), name(queue));
        let Some(Seen { epoch: life, session: holder, settled }) = self.seen.get(&(queue, id))
        else {
            match outcome {
                Outcome::Confirmed => self.missing = self.missing.saturating_sub(1),
                Outcome::Unknown if epoch > 0 => self.figures.recovered += 1,
                Outcome::Unknown | Outcome::Refused => {}
            }
            self.figures.over_flagged += u64::from(redelivered);
            return;
        };
        let (holder, settled, death) = (*holder, *settled, self.deaths.get(*life).copied());
        if !redelivered {
            self.complain(format!("LYING FLAG: {place} was delivered before, but comes unflagged"));
        }
        match settled {
            Settled::Held if death.is_none() && holder == session.number => {
                self.complain(format!("DUPLICATE: {place} is still held by the same consumer"));
            }
            Settled::Held | Settled::Requeued => {}
            Settled::Acked(at) => match death {
                None => self.complain(format!("DUPLICATE: {place} was acknowledged in this life")),
                Some(death) if death.since(at) > ACK_DURABLE_WITHIN => {
                    let ms = death.since(at).as_millis();
                    self.complain(format!(
                        "RESURRECTED: {place}, acknowledged {ms} ms before the fault"
                    ));
                }
                Some(_) => {}
            },
            Settled::Committed => {
                self.complain(format!("RESURRECTED: {place}, whose tx.commit was answered"));
            }
            Settled::InDoubt(number) => {
                if let Some(transaction) = self.transactions.get_mut(number) {
                    transaction.returned += 1;
                }
            }
        }
        self.figures.duplicates += 1;
    }

    /// Acknowledgements are about to be written.
    pub(crate) fn acked(&mut self, queue: QueueIndex, ids: impl IntoIterator<Item = MessageId>) {
        for id in ids {
            self.ledger.note(format_args!("ack-sent {} {}", id.text(), name(queue)));
            self.settle(queue, id, Settled::Acked(Tick::now()));
        }
    }

    /// A message is about to be given back.
    pub(crate) fn requeued(&mut self, queue: QueueIndex, id: MessageId) {
        self.ledger.note(format_args!("requeue-sent {} {}", id.text(), name(queue)));
        self.settle(queue, id, Settled::Requeued);
    }

    /// A transaction is about to be committed; returns its number.
    pub(crate) fn commit_start(
        &mut self,
        queue: QueueIndex,
        taken: &[MessageId],
        put: &[MessageId],
    ) -> usize {
        let number = self.transactions.len();
        self.commits_open += 1;
        for (id, new) in taken.iter().zip(put) {
            self.ledger.note(format_args!("commit-start {number} {} {}", id.text(), new.text()));
            self.settle(queue, *id, Settled::InDoubt(number));
        }
        let (taken, put) = (taken.to_vec(), put.to_vec());
        let (committed, refused) = (false, false);
        self.transactions.push(Transaction { taken, put, committed, refused, returned: 0 });
        number
    }

    /// `tx.commit-ok` has come.
    pub(crate) fn committed(&mut self, queue: QueueIndex, number: usize) {
        self.ledger.note(format_args!("commit-ok {number}"));
        self.figures.commits += 1;
        self.commits_open = self.commits_open.saturating_sub(1);
        self.arrivals += 1;
        let Some(transaction) = self.transactions.get_mut(number) else { return };
        transaction.committed = true;
        let (taken, put) = (transaction.taken.clone(), transaction.put.clone());
        for id in taken {
            self.settle(queue, id, Settled::Committed);
        }
        for id in put {
            self.confirmed(id);
        }
    }

    /// The broker has refused a commit: its messages must come again, and what it put must never come.
    pub(crate) fn commit_refused(&mut self, number: usize) {
        self.ledger.note(format_args!("commit-refused {number}"));
        self.commits_open = self.commits_open.saturating_sub(1);
        let Some(transaction) = self.transactions.get_mut(number) else { return };
        transaction.refused = true;
        for id in transaction.put.clone() {
            self.refused(id);
        }
    }

    fn settle(&mut self, queue: QueueIndex, id: MessageId, settled: Settled) {
        if let Some(seen) = self.seen.get_mut(&(queue, id)) {
            seen.settled = settled;
        }
    }

    /// A fault is about to happen.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be written.
    pub(crate) fn fault(&mut self, kind: &str) -> anyhow::Result<()> {
        self.note(format_args!("fault {kind}"));
        self.ledger.sync()
    }

    /// The server died at that moment, and everything that it had sent was read.
    pub(crate) fn died(&mut self, at: Tick) {
        self.note("died");
        self.commits_open = 0;
        self.deaths.push(at);
    }

    /// Something for the reader of the ledger.
    pub(crate) fn note(&mut self, text: impl std::fmt::Display) {
        self.ledger.note(text);
    }

    /// Something that must not be.
    pub(crate) fn complain(&mut self, text: String) {
        self.ledger.note(format_args!("WRONG {text}"));
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(text);
        } else {
            self.complaints_beyond += 1;
        }
    }

    /// Confirmed messages that have not come yet, each counted per queue.
    pub(crate) fn missing(&self) -> u64 {
        self.missing
    }

    /// Whether a transaction may still put messages into a queue.
    pub(crate) fn is_committing(&self) -> bool {
        self.commits_open > 0
    }

    /// How often something has come: a delivery, or the answer to a commit.
    pub(crate) fn arrivals(&self) -> u64 {
        self.arrivals
    }

    /// When the last delayed message is due.
    pub(crate) fn last_due(&self) -> Option<Instant> {
        self.messages.values().filter_map(|message| message.not_before).max()
    }

    /// Confirmed messages that were published after the moment; there must be none after a failed sync.
    pub(crate) fn confirmed_since(&self, moment: SystemTime) -> usize {
        let confirmed = |message: &&Message| message.outcome == Outcome::Confirmed;
        self.messages.values().filter(confirmed).filter(|message| message.started > moment).count()
    }

    /// Ids that are confirmed and were never delivered.
    pub(crate) fn undelivered(&self) -> impl Iterator<Item = (QueueIndex, MessageId)> {
        let confirmed =
            self.messages.iter().filter(|(_, message)| message.outcome == Outcome::Confirmed);
        confirmed
            .flat_map(|(id, message)| message.route.targets().iter().map(|queue| (*queue, *id)))
            .filter(|place| !self.seen.contains_key(place))
    }

    /// The verdict: every complaint, and once the queues are drained the lost messages among them.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be written.
    pub(crate) fn verdict(&mut self, is_drained: bool) -> anyhow::Result<Vec<String>> {
        if is_drained {
            self.check_lost();
            self.check_transactions();
        } else {
            let text =
                format!("NOT DRAINED: {} confirmed messages have not come so far", self.missing);
            self.complain(text);
        }
        self.ledger.sync()?;
        let mut complaints = std::mem::take(&mut self.complaints);
        if self.complaints_beyond > 0 {
            complaints.push(format!("and {} more like these", self.complaints_beyond));
        }
        Ok(complaints)
    }

    fn check_lost(&mut self) {
        let mut lost: Vec<_> =
            self.undelivered().filter(|(_, id)| !self.sacrificed.contains(id)).collect();
        lost.sort_unstable();
        for (queue, id) in lost {
            let message =
                format!("LOST: {} confirmed for {}, never delivered", id.text(), name(queue));
            self.complain(message);
        }
    }

    /// A transaction without an answer happened as a whole or not at all; one that was refused did not happen.
    fn check_transactions(&mut self) {
        let mut torn = Vec::new();
        for (number, transaction) in self.transactions.iter().enumerate() {
            let all = transaction.put.len();
            let seen = |id: &&MessageId| self.seen.contains_key(&(super::plan::MOVED_TO, **id));
            let put = transaction.put.iter().filter(seen).count();
            let whole = put == all && transaction.returned == 0 && !transaction.refused;
            // A message may be handed out before it is durable; one that was not confirmed may be gone for good.
            let kept = transaction.taken.iter().filter(|id| {
                let message = self.messages.get(id);
                message.is_none_or(|message| message.outcome == Outcome::Confirmed)
            });
            let nothing = put == 0 && (kept.count()..=all).contains(&transaction.returned);
            if !transaction.committed && !whole && !nothing {
                torn.push(format!(
                    "TORN TRANSACTION {number} of {all}: {put} published, {} acknowledgements undone",
                    transaction.returned
                ));
            }
        }
        for text in torn {
            self.complain(text);
        }
    }

    /// Ends the cycle and removes its ledger, or leaves it for who looks into what went wrong.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be removed.
    pub(crate) fn close(self, keep: bool) -> anyhow::Result<()> {
        if keep { Ok(()) } else { self.ledger.forget() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unconfirmed_message_may_be_gone_with_the_transaction_that_took_it() {
        let ledger = Ledger::create(std::path::Path::new("/dev/null")).unwrap();
        let mut history = History::new(1, ledger);
        let taken = [MessageId::new(1, 1, 1), MessageId::new(1, 1, 2)];
        for id in taken {
            history.publish_start(id, Route::Queue(6), 8, None);
        }
        history.confirmed(taken[0]);
        let number = history.commit_start(6, &taken, &[MessageId::new(1, 2, 1)]);

        history.transactions[number].returned = 1;
        history.check_transactions();
        assert!(history.complaints.is_empty(), "{:?}", history.complaints);

        history.transactions[number].returned = 0;
        history.check_transactions();
        assert_eq!(history.complaints.len(), 1);
    }

    #[test]
    fn an_acknowledgement_is_for_good_when_the_broker_had_time_to_keep_it() {
        let ledger = Ledger::create(std::path::Path::new("/dev/null")).unwrap();
        let mut history = History::new(1, ledger);
        let mut session = history.session(1);
        let id = MessageId::new(1, 1, 1);
        history.publish_start(id, Route::Queue(1), 8, None);
        let death = |ms| Tick::ZERO.after(Duration::from_millis(ms));

        for (ms, wrong) in [(1_500, 0), (1_510, 1)] {
            let settled = Settled::Acked(Tick::ZERO);
            let seen = Seen { epoch: 0, session: session.number, settled };
            history.seen.insert((1, id), seen);
            history.deaths = vec![death(ms)];
            session.number += 1;
            history.check_repetition(&session, id, true, Outcome::Confirmed);
            assert_eq!(history.complaints.len(), wrong, "{ms} ms: {:?}", history.complaints);
        }
    }

    #[test]
    fn a_transaction_that_was_refused_must_not_have_happened() {
        let ledger = Ledger::create(std::path::Path::new("/dev/null")).unwrap();
        let mut history = History::new(1, ledger);
        let (taken, put) = (MessageId::new(1, 1, 1), MessageId::new(1, 2, 1));
        history.publish_start(taken, Route::Queue(6), 8, None);
        history.confirmed(taken);
        let number = history.commit_start(6, &[taken], &[put]);
        history.commit_refused(number);

        history.transactions[number].returned = 1;
        history.check_transactions();
        assert!(history.complaints.is_empty(), "{:?}", history.complaints);

        history.transactions[number].returned = 0;
        let seen = Seen { epoch: 0, session: 1, settled: Settled::Held };
        history.seen.insert((super::super::plan::MOVED_TO, put), seen);
        history.check_transactions();
        assert_eq!(history.complaints.len(), 1);
    }
}
