//! One connection's loop: settle what has landed, lease what is due, wait.
//!
//! What is under way goes on while the database works or is away: its time is running, and it may hold what others wait for.
//! What lands while the database works is settled together the next time round, so batches grow with the load.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use sqlx::Pool;
use tokio::sync::watch;

use super::Shared;
use super::flight::{Flight, fly};
use crate::dialect::{Ask, Dialect, Leased, Outcome, Settlement, connect};
use crate::error::Error;

/// The time to the next look after one that found something.
const LOOK_MIN: Duration = Duration::from_millis(2);

/// Longest time between the looks of a sweep that finds nothing.
const SWEEP_MAX: Duration = Duration::from_millis(20);

/// Most keys that a look goes on with, if it may lease twice as many rows.
const READY_MAX: u32 = 64;

/// How long a key is passed over that has something due behind something that is not to be had.
const BLOCKED: Duration = Duration::from_millis(100);

/// How often the first lane removes what is old.
const PURGE_EVERY: Duration = Duration::from_secs(30);

/// Rows that are removed at once.
const PURGE_ROWS: u32 = 2000;

/// Waits before connecting again, the first and the longest.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Messages that are tried when the far end was away the last time.
const PROBES: u32 = 16;

/// A key of which nothing is under way any more.
struct Freed {
    key: String,
    /// How long it is passed over, if its first message is to wait.
    wait: Option<Duration>,
    is_followed: bool,
}

pub(crate) struct Lane<D: Dialect> {
    /// The first one looks even if nothing happens; the others when the first finds more than it can do, or can do
    /// nothing more itself.
    number: u32,
    pool: Pool<D>,
    pub(super) shared: Arc<Shared>,
    connection: Option<D::Connection>,
    flying: FuturesUnordered<BoxFuture<'static, Flight>>,
    /// To be polled from the next [`Lane::wait`] on.
    launched: Vec<BoxFuture<'static, Flight>>,
    /// How many fly or are launched, or have landed unseen.
    under_way: usize,
    pub(super) landed: Vec<Settlement>,
    /// Since when the database takes none of it.
    pub(super) refused_since: Option<Instant>,
    /// Keys that are let go when what has landed is settled; before that, what is next in them is not to be had.
    freed: Vec<Freed>,
    /// When to look again; `None` when only a wake-up is a reason.
    next_look: Option<Instant>,
    /// When the first one, if it has no room, has another look for it again.
    next_call: Instant,
    /// The time between looks, growing while nothing is found.
    pace: Duration,
    reconnect: Duration,
    next_purge: Instant,
    stopping: watch::Receiver<bool>,
}

impl<D: Dialect> Lane<D> {
    pub(crate) fn new(number: u32, pool: Pool<D>, shared: Arc<Shared>) -> Self {
        let now = Instant::now();
        let stopping = shared.stopping.subscribe();
        Self {
            number,
            pool,
            shared,
            connection: None,
            flying: FuturesUnordered::new(),
            launched: Vec::new(),
            under_way: 0,
            landed: Vec::new(),
            refused_since: None,
            freed: Vec::new(),
            next_look: (number == 0).then_some(now),
            next_call: now,
            pace: LOOK_MIN,
            reconnect: RECONNECT.0,
            next_purge: now,
            stopping,
        }
    }

    pub(crate) async fn run(mut self) {
        loop {
            self.turn_in_flight().await;
            if self.is_stopping() && self.under_way == 0 && self.landed.is_empty() {
                return;
            }
            self.wait().await;
        }
    }

    /// A turn, beside which what is under way goes on; what lands meanwhile is noted after it.
    async fn turn_in_flight(&mut self) {
        let mut flying = std::mem::take(&mut self.flying);
        let mut landed = Vec::new();
        {
            let mut turn = pin!(self.turn_or_pause());
            loop {
                tokio::select! {
                    biased;
                    () = &mut turn => break,
                    Some(flight) = flying.next(), if !flying.is_empty() => landed.push(flight),
                }
                // All that has landed together, and not a look at the turn after each.
                while let Some(Some(flight)) = flying.next().now_or_never() {
                    landed.push(flight);
                }
            }
        }
        self.flying = flying;
        for flight in landed {
            self.land(flight);
        }
    }

    /// If the database fails, there is a pause before it is connected again.
    async fn turn_or_pause(&mut self) {
        let Err(error) = self.turn().await else { return };
        self.connection = None;
        tracing::warn!(error = %DisplayChain(&error), wait = ?self.reconnect, "database failed; connects again");
        tokio::time::sleep(self.reconnect).await;
        self.reconnect = (self.reconnect * 2).min(RECONNECT.1);
    }

    /// Everything that needs the database.
    async fn turn(&mut self) -> Result<(), Error> {
        self.settle().await?;
        if self.is_stopping() {
            return Ok(());
        }
        // Before the look: the leases of what that finds are running.
        if self.number == 0 && self.next_purge <= Instant::now() {
            self.purge().await?;
        }
        let now = Instant::now();
        if self.next_look.is_some_and(|at| at <= now) {
            match (self.has_room(), self.shared.routes.rest()) {
                (true, None) => self.look().await?,
                (true, Some(rest)) => self.next_look = Some(now + rest),
                (false, _) if self.number == 0 && self.next_call <= now => self.call_another(),
                (false, _) => {}
            }
        }
        self.reconnect = RECONNECT.0;
        Ok(())
    }

    pub(super) async fn connection(&mut self) -> Result<&mut D::Connection, Error> {
        if self.connection.is_none() {
            self.connection = Some(connect::<D>(&self.pool).await?);
        }
        self.connection.as_mut().ok_or(Error::Database(sqlx::Error::WorkerCrashed))
    }

    async fn look(&mut self) -> Result<(), Error> {
        let settings = &self.shared.settings;
        let limit = match self.shared.routes.is_doubtful() {
            true => settings.batch.min(PROBES),
            false => settings.batch,
        };
        let ready = usize::try_from(READY_MAX.min(limit / 2)).unwrap_or_default();
        let look = self.shared.scan.next();
        let ask = Ask {
            limit,
            lease_for: settings.lease,
            ready: self.shared.keys.ready(ready),
            busy: self.shared.keys.busy(),
            after: look.after,
        };
        // Before the database counts, so that we think of the lease's end sooner than it does.
        let leased_at = Instant::now();
        self.shared.counters.looks.fetch_add(1, Ordering::Relaxed);
        let leased = match self.connection().await {
            Ok(connection) => D::lease(connection, &ask).await,
            Err(error) => Err(error),
        };
        let batch = match leased {
            Ok(batch) => batch,
            Err(error) => {
                self.shared.keys.go_back(ask.ready);
                return Err(error);
            }
        };
        let (found, is_blocked) = (batch.leased.len(), !batch.blocked.is_empty());
        for key in batch.blocked {
            self.shared.keys.rest(key, BLOCKED);
        }
        for (id, lease) in batch.torn {
            let outcome = Outcome::Release { wait: Duration::ZERO };
            self.landed.push(Settlement { id, lease, outcome });
        }
        for chain in by_key(batch.leased) {
            if let Some(key) = chain.front().and_then(|first| first.letter.key.as_deref()) {
                self.shared.keys.hold(key);
            }
            self.launch(chain, leased_at);
        }
        let is_full = found >= usize::try_from(limit).unwrap_or(usize::MAX);
        if is_full {
            self.call_another();
        }
        let is_unfinished = self.shared.scan.done(look, batch.cut);
        self.plan_next_look(found > 0, is_full || is_blocked, is_unfinished);
        Ok(())
    }

    /// Has another connection look, which has more room. With the first one's sends under way for minutes, nobody else
    /// would find what is new.
    fn call_another(&mut self) {
        self.shared.more.notify_one();
        self.next_call = Instant::now() + self.shared.settings.idle;
    }

    fn plan_next_look(&mut self, found: bool, is_more: bool, is_unfinished: bool) {
        let now = Instant::now();
        self.pace = match found {
            true => LOOK_MIN,
            false => (self.pace * 2).min(self.shared.settings.idle),
        };
        let is_more = is_more || (is_unfinished && found);
        self.next_look = match (is_more, found || self.number == 0) {
            (true, _) => Some(now),
            (false, true) if is_unfinished => Some(now + self.pace.min(SWEEP_MAX)),
            (false, true) => Some(now + self.pace),
            // Nothing left for a further lane: it sleeps until the first has too much again.
            (false, false) => None,
        };
    }

    fn launch(&mut self, mut chain: VecDeque<Leased>, leased_at: Instant) {
        let Some(first) = chain.pop_front() else { return };
        let shared = Arc::clone(&self.shared);
        self.under_way += 1;
        self.launched.push(fly(shared, first, chain, leased_at).boxed());
    }

    /// Notes what became of a message, and launches what is behind it, or gives that back.
    fn land(&mut self, flight: Flight) {
        self.under_way -= 1;
        let Flight { settlement, rest, key, is_followed, leased_at } = flight;
        let wait = match &settlement.outcome {
            Outcome::Retry { wait, .. } | Outcome::Release { wait } => Some(*wait),
            // What was given up or is too late lets the next one pass: poison does not stop its key for ever.
            Outcome::Delivered | Outcome::Dead { .. } | Outcome::Expired => None,
        };
        self.landed.push(settlement);
        let wait = match (wait, self.is_stopping()) {
            (None, false) if !rest.is_empty() => return self.launch(rest, leased_at),
            (wait, _) => wait,
        };
        if let Some(key) = key {
            self.freed.push(Freed { key, wait, is_followed });
        }
        for leased in rest {
            let outcome = Outcome::Release { wait: wait.unwrap_or_default() };
            self.shared.counters.released.fetch_add(1, Ordering::Relaxed);
            self.landed.push(Settlement { id: leased.letter.id, lease: leased.lease, outcome });
        }
    }

    /// Lets go of the keys whose messages are settled, and goes on with those of which there is more.
    pub(super) fn let_go(&mut self) {
        for Freed { key, wait, is_followed } in self.freed.drain(..) {
            self.shared.keys.let_go(&key);
            match wait {
                Some(wait) => self.shared.keys.rest(key, wait.min(Duration::from_secs(1))),
                None if is_followed => {
                    self.shared.keys.go_on(key);
                    self.next_look = Some(Instant::now());
                }
                None => {}
            }
        }
    }

    /// Waits until there is something to do, and takes in all that has landed.
    async fn wait(&mut self) {
        let can_look = self.has_room() && !self.is_stopping();
        // The first one hears of everything, if only to call another.
        let hears = can_look || (self.number == 0 && !self.is_stopping());
        let look_due = match can_look {
            true => self.next_look,
            false => self.next_look.filter(|_| hears).map(|at| at.max(self.next_call)),
        };
        let due = [look_due, self.purge_due()];
        let due = due.into_iter().flatten().min();
        let shared = Arc::clone(&self.shared);
        let number = self.number;
        let clock = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        let call = async {
            match (hears, number) {
                (false, _) => std::future::pending().await,
                (true, 0) => shared.wake.notified().await,
                (true, _) => shared.more.notified().await,
            }
        };
        let is_stopping = self.is_stopping();
        let stopping = &mut self.stopping;
        let stop = async {
            match is_stopping {
                true => std::future::pending().await,
                false => drop(stopping.wait_for(|stopping| *stopping).await),
            }
        };
        self.flying.extend(self.launched.drain(..));
        let landed = tokio::select! {
            Some(flight) = self.flying.next(), if !self.flying.is_empty() => Some(flight),
            () = clock => None,
            // What a look gave back, what landed beside the turn or could not be settled in it: nobody else can have it
            // before. No reason to wait, and none not to hear a call.
            () = std::future::ready(()), if !self.landed.is_empty() => None,
            () = call => {
                self.shared.scan.prefer_fresh();
                let now = Instant::now();
                (self.next_look, self.next_call, self.pace) = (Some(now), now, LOOK_MIN);
                None
            }
            () = stop => None,
        };
        if let Some(flight) = landed {
            self.land(flight);
        }
        self.take_in();
    }

    /// Starts what was launched, and notes all that has landed, and what follows in a key and lands at once.
    fn take_in(&mut self) {
        loop {
            self.flying.extend(self.launched.drain(..));
            let Some(Some(flight)) = self.flying.next().now_or_never() else { return };
            self.land(flight);
        }
    }

    fn has_room(&self) -> bool {
        let batch = usize::try_from(self.shared.settings.batch).unwrap_or(usize::MAX);
        self.under_way <= batch / 2
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    fn purge_due(&self) -> Option<Instant> {
        (self.number == 0 && !self.is_stopping()).then_some(self.next_purge)
    }

    /// Removes some of what is old; soon again if there is more.
    async fn purge(&mut self) -> Result<(), Error> {
        // First of all: what fails is not repeated at every turn.
        self.next_purge = Instant::now() + PURGE_EVERY;
        let settings = &self.shared.settings;
        let (finished_age, inbox_age) = (settings.retention, settings.inbox_retention);
        let connection = self.connection().await?;
        let mut most = purged(D::purge_finished(connection, finished_age, PURGE_ROWS).await)?;
        if let Some(age) = inbox_age {
            most = most.max(purged(D::purge_inbox(connection, age, PURGE_ROWS).await)?);
        }
        if most >= u64::from(PURGE_ROWS) {
            self.next_purge = Instant::now() + LOOK_MIN;
        }
        Ok(())
    }
}

/// How many rows were removed. What the database refuses, such as a row that another table refers to, must not keep
/// messages from being sent.
fn purged(removed: Result<u64, Error>) -> Result<u64, Error> {
    match removed {
        Err(error @ Error::Database(sqlx::Error::Database(_))) => {
            tracing::warn!(error = %DisplayChain(&error), again = ?PURGE_EVERY, "old rows cannot be removed");
            Ok(0)
        }
        removed => removed,
    }
}

/// The rows of one key together, in their order; each without a key alone.
fn by_key(leased: Vec<Leased>) -> Vec<VecDeque<Leased>> {
    let mut chains: Vec<VecDeque<Leased>> = Vec::with_capacity(leased.len());
    let mut places: HashMap<String, usize> = HashMap::new();
    for row in leased {
        let Some(key) = row.letter.key.clone() else {
            chains.push(VecDeque::from([row]));
            continue;
        };
        let place = *places.entry(key).or_insert(chains.len());
        match chains.get_mut(place) {
            Some(chain) => chain.push_back(row),
            None => chains.push(VecDeque::from([row])),
        }
    }
    chains
}

/// An error with its causes on one line.
pub(super) struct DisplayChain<'a>(pub(super) &'a Error);

impl std::fmt::Display for DisplayChain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
