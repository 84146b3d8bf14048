//! The runner: has the messages of subscriptions sent, and settles them by what came of it.
//!
//! One task knows everything; an attempt that runs is a task of its own, and there are at most as many as there are
//! [`Places`]. What waits, for a retry or for a place, waits in its queue and not in memory. A message is leased only when
//! it can be sent at once. Only what its receiver settles later waits in memory, and that is bounded.
//!
//! | file | concept |
//! |---|---|
//! | `starting` | an attempt begins |
//! | `passing` | a message for an exchange |
//! | `answering` | a message's end with an answer |
//! | `unsettled`, `settling` | messages that are settled later, and settling them |
//!
//! ```text
//! news ──► ready (by standing) ──► lease ──► filter ──► attempt ──► settle: delivered │ again at … │ given up
//!                ▲                                          │
//!                └───────────── ended, rested ◄─────────────┘
//! ```

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use broker::follow::{Attempted, Held};
use broker::{Broker, BrokerError, Subscription};
use model::{SubscriptionId, Ticket, Timestamp};
use store::Leased;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};

use crate::attempt::{Attempt, Blame, Failure, Outcome};
use crate::counters::Counters;
use crate::letter::{Letter, Obituary, Opener, ttl_ms};
use crate::limit::{Endpoint, Place, Places, Standing, Verdict};
use crate::output::Output as _;
use crate::output::smtp::Smtp;
use crate::output::webhook::Webhook;
use crate::plan::{Defaults, Plan, QueueRules, Target};
use crate::retry::RetryPolicy;
use crate::settle::{Ask, Settler};

mod answering;
mod passing;
mod settling;
mod starting;
mod unsettled;

use unsettled::{Room, Waiting};

/// Messages of one subscription handled before others have their turn.
const TURN_MESSAGES_MAX: usize = 64;

/// Subscriptions served before news and endings are looked at.
const TURN_SUBSCRIPTIONS_MAX: usize = 256;

/// How long after its time to live a message is still attempted, in milliseconds: a subscriber that comes back after a
/// short outage gets it, one that is gone does not let a queue grow for ever.
const LATE_MS_MAX: u64 = 60 * 60 * 1000;

/// Time to live in milliseconds where a message does not say.
const TTL_MS: u64 = 60 * 60 * 1000;

/// When a subscription that found no room for messages to be settled later looks again, in milliseconds.
const FULL_MS: u64 = 1000;

/// How often connections that nobody uses are looked for.
const TIDY: Duration = Duration::from_secs(10);

/// How many attempts run at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Over all subscriptions.
    pub attempts_max: usize,
    /// Bytes of their messages.
    pub bytes_max: usize,
    /// Of one subscription.
    pub per_subscription_max: u32,
    /// Bytes of an answer that somebody waits for.
    pub answer_bytes_max: usize,
    /// Messages that wait to be settled later, or are being sent and may come to wait.
    pub unsettled_max: usize,
    /// Of them, of one subscription.
    pub unsettled_per_subscription_max: usize,
    /// Bytes of those that wait; those that are being sent may come on top.
    pub unsettled_bytes_max: usize,
}

/// What carries messages out.
#[derive(Debug)]
pub struct Outputs {
    /// Requests.
    pub webhook: Webhook,
    /// Mail; none if no relay is configured.
    pub smtp: Option<Smtp>,
}

impl Outputs {
    async fn send(&self, target: &Target, attempt: &Attempt) -> Outcome {
        match target {
            Target::Webhook(target) => self.webhook.send(target, attempt).await,
            Target::Mail(target) => match &self.smtp {
                Some(smtp) => smtp.send(target, attempt).await,
                None => Outcome::Hopeless("no mail can be sent".to_owned()),
            },
            Target::Exchange { .. } => Outcome::Hopeless("an exchange is not sent to".to_owned()),
        }
    }
}

/// Has the messages of subscriptions sent.
#[derive(Debug)]
pub struct Runner {
    broker: Arc<Broker>,
    outputs: Arc<Outputs>,
    defaults: Defaults,
    opener: Option<Arc<dyn Opener>>,
    counters: Arc<Counters>,
    limits: Limits,
    known: HashMap<SubscriptionId, Known>,
    ready: Ready,
    rests: BTreeSet<(Timestamp, SubscriptionId)>,
    places: Places,
    waiting: Waiting,
    settler: Settler,
    asks: mpsc::Receiver<Ask>,
    running: JoinSet<Outcome>,
    started: HashMap<Id, Started>,
}

/// What is remembered of a subscription that had something to deliver.
#[derive(Debug)]
struct Known {
    subscription: Arc<Subscription>,
    plan: Result<Arc<Plan>, Arc<str>>,
    endpoint: Endpoint,
}

/// An attempt that runs.
#[derive(Debug)]
struct Started {
    subscription: Arc<Subscription>,
    /// None if somebody has settled the message meanwhile.
    leased: Option<Leased>,
    /// Whether it may be settled later.
    may_wait: bool,
    place: Place,
}

/// Subscriptions that may have something to deliver, those who answer first.
#[derive(Debug, Default)]
struct Ready {
    queued: HashSet<SubscriptionId>,
    proven: VecDeque<SubscriptionId>,
    unproven: VecDeque<SubscriptionId>,
    suspect: VecDeque<SubscriptionId>,
}

impl Ready {
    fn of(&mut self, standing: Standing) -> &mut VecDeque<SubscriptionId> {
        match standing {
            Standing::Proven => &mut self.proven,
            Standing::Unproven => &mut self.unproven,
            Standing::Suspect => &mut self.suspect,
        }
    }

    fn push(&mut self, id: SubscriptionId, standing: Standing) {
        if self.queued.insert(id) {
            self.of(standing).push_back(id);
        }
    }

    fn pop(&mut self, standing: Standing) -> Option<SubscriptionId> {
        let id = self.of(standing).pop_front()?;
        self.queued.remove(&id);
        Some(id)
    }
}

impl Runner {
    /// A runner that has not begun.
    #[must_use]
    pub fn new(
        broker: Arc<Broker>,
        outputs: Outputs,
        defaults: Defaults,
        opener: Option<Arc<dyn Opener>>,
        limits: Limits,
    ) -> Self {
        let (settler, asks) =
            Settler::new(Arc::clone(&broker), &defaults.secrets, limits.answer_bytes_max);
        Self {
            broker,
            outputs: Arc::new(outputs),
            defaults,
            opener,
            counters: Arc::default(),
            limits,
            known: HashMap::new(),
            ready: Ready::default(),
            rests: BTreeSet::new(),
            places: Places::new(limits.attempts_max, limits.bytes_max),
            waiting: Waiting::new(limits),
            settler,
            asks,
            running: JoinSet::new(),
            started: HashMap::new(),
        }
    }

    /// What it has done and does.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Settles messages by their names.
    #[must_use]
    pub fn settler(&self) -> Settler {
        self.settler.clone()
    }

    /// Runs until dropped. Attempts that run then are cut off, and made again by the next one.
    pub async fn run(mut self) {
        let broker = Arc::clone(&self.broker);
        let mut tidy = tokio::time::interval(TIDY);
        loop {
            let more = self.serve_some();
            self.count();
            let rest = self.next_alarm().map(|until| until.since(broker.now()));
            tokio::select! {
                news = broker.subscription_news() => {
                    for id in news {
                        self.note(id);
                    }
                }
                Some(ended) = self.running.join_next_with_id() => {
                    self.handle_end(ended);
                    while let Some(ended) = self.running.try_join_next_with_id() {
                        self.handle_end(ended);
                    }
                }
                Some(ask) = self.asks.recv() => self.handle_ask(ask),
                () = tokio::time::sleep(rest.unwrap_or(TIDY)), if rest.is_some() => {
                    self.wake_rested();
                    self.end_unsettled();
                }
                () = std::future::ready(()), if more => tokio::task::yield_now().await,
                _ = tidy.tick() => {
                    self.outputs.webhook.drop_idle();
                    if let Some(smtp) = &self.outputs.smtp {
                        smtp.drop_idle().await;
                    }
                }
            }
        }
    }

    /// When a rest or the time of an unsettled message is over.
    fn next_alarm(&self) -> Option<Timestamp> {
        let rest = self.rests.first().map(|rest| rest.0);
        [rest, self.waiting.next_end()].into_iter().flatten().min()
    }

    fn count(&self) {
        let ready = &self.ready;
        self.counters.unsettled.set(self.waiting.len());
        self.counters.running.set(self.places.running());
        self.counters.waiting.set(ready.queued.len());
        self.counters.resting.set(self.rests.len());
    }

    /// A subscription may have something more to deliver, and there may be room for who waits for that.
    fn note_end_of_one(&mut self, id: SubscriptionId) {
        if let Some(first) = self.waiting.first_in_line() {
            self.note(first);
        }
        self.note(id);
    }

    /// There may be something to deliver for a subscription.
    fn note(&mut self, id: SubscriptionId) {
        let standing = self.known.get(&id).map_or(Standing::Unproven, |it| it.endpoint.standing());
        self.ready.push(id, standing);
    }

    fn wake_rested(&mut self) {
        let now = self.broker.now();
        while let Some(&(until, id)) = self.rests.first() {
            if until > now {
                return;
            }
            self.rests.pop_first();
            self.note(id);
        }
    }

    /// Serves subscriptions that are ready, as far as there are places; true if there is more to do at once.
    fn serve_some(&mut self) -> bool {
        let mut left = TURN_SUBSCRIPTIONS_MAX;
        for standing in [Standing::Proven, Standing::Unproven, Standing::Suspect] {
            while self.places.has_room(standing) {
                if left == 0 {
                    return true;
                }
                let Some(id) = self.ready.pop(standing) else { break };
                self.serve(id);
                left -= 1;
            }
        }
        false
    }

    fn serve(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.broker.live_subscription(id) else {
            self.known.remove(&id);
            self.waiting.forget(id);
            return;
        };
        match self.serve_messages(&subscription) {
            Room::Free | Room::OwnFull => self.waiting.leave_line(id),
            Room::AllFull => {
                self.rests.insert((self.broker.now().after_ms(FULL_MS), id));
            }
        }
    }

    /// Serves a subscription as far as it goes. [`Room::AllFull`] if it stands in line then.
    fn serve_messages(&mut self, subscription: &Arc<Subscription>) -> Room {
        let id = subscription.id;
        for _ in 0..TURN_MESSAGES_MAX {
            let now = self.broker.now();
            let endpoint = self.known.get(&id).map(|known| &known.endpoint);
            let standing = endpoint.map_or(Standing::Unproven, Endpoint::standing);
            match endpoint.map_or(Verdict::Go, |endpoint| endpoint.verdict(now)) {
                Verdict::Go => {}
                // Its next attempt that ends looks again.
                Verdict::Full => return Room::Free,
                Verdict::RestsUntil(until) => {
                    self.rests.insert((until, id));
                    return Room::Free;
                }
            }
            match self.room(subscription) {
                Room::Free => {}
                // Of its own: the next of its messages that is settled looks again.
                full @ (Room::OwnFull | Room::AllFull) => return full,
            }
            if !self.places.has_room(standing) {
                break;
            }
            let leased = match self.broker.lease_followed(subscription, 1, usize::MAX, now) {
                Ok(followed) => followed.messages.into_iter().next(),
                Err(error) => {
                    tracing::debug!(%id, %error, "subscription cannot be served");
                    None
                }
            };
            // The next message is news.
            let Some(leased) = leased else { return Room::Free };
            self.begin(subscription, leased, now);
        }
        self.note(id);
        Room::Free
    }

    /// Whether a message more may come to wait to be settled later.
    fn room(&mut self, subscription: &Arc<Subscription>) -> Room {
        let id = subscription.id;
        let known = self.known.get(&id).filter(|it| Arc::ptr_eq(&it.subscription, subscription));
        let Some(known) = known else { return Room::Free };
        let plan = known.plan.as_ref().ok();
        match plan.and_then(|plan| plan.settle_within()) {
            Some(_) => self.waiting.room(id, known.endpoint.running() as usize),
            None => Room::Free,
        }
    }

    fn begin(&mut self, subscription: &Arc<Subscription>, leased: Leased, now: Timestamp) {
        let plan = match self.plan(subscription) {
            Ok(plan) => plan,
            Err(reason) => {
                self.give_up(subscription, (leased, Held::Leased), &reason, now);
                return;
            }
        };
        let alive_ms = ttl_ms(&leased.message).unwrap_or(TTL_MS).saturating_add(LATE_MS_MAX);
        if leased.enqueued.after_ms(alive_ms) < now {
            let reason = "its time to live was over long before it could be delivered";
            self.give_up(subscription, (leased, Held::Leased), reason, now);
            return;
        }
        let opener = self.opener.as_deref();
        let letter = match Letter::open(&leased, subscription, opener, self.defaults.shown_name) {
            Ok(letter) => letter,
            Err(error) => {
                // The key may be back after the next restart.
                let (reason, blame) = (error.to_string(), Blame::Message);
                let failure = Failure { reason, blame, retry_after: None };
                self.fail(subscription, leased, &failure, now);
                return;
            }
        };
        if let Some(filter) = &plan.filter {
            match letter.matches(filter) {
                Ok(true) => {}
                Ok(false) => {
                    self.counters.filtered.add(1);
                    self.settle(subscription, (leased, Held::Leased), Attempted::Delivered, now);
                    return;
                }
                Err(error) => {
                    tracing::debug!(id = %subscription.id, %error, "filter has no answer");
                    self.counters.unanswered.add(1);
                    self.settle(subscription, (leased, Held::Leased), Attempted::Delivered, now);
                    return;
                }
            }
        }
        if let Target::Exchange { exchange, routing_key } = &plan.target {
            let to = (&**exchange, &**routing_key);
            self.pass_on(subscription, leased, &letter, to, now);
            return;
        }
        self.start(subscription, leased, letter, plan, now);
    }

    fn handle_end(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let (task, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "an attempt to deliver broke off");
                (error.id(), Outcome::endpoint("the attempt broke off"))
            }
        };
        let Some(Started { subscription, leased, may_wait, place }) = self.started.remove(&task)
        else {
            return;
        };
        self.places.give_back(place);
        if may_wait {
            self.waiting.end();
        }
        let now = self.broker.now();
        match leased {
            Some(leased) => self.end(&subscription, leased, &outcome, now),
            None => {
                self.note_end(&subscription, &outcome, now);
                self.note_end_of_one(subscription.id);
            }
        }
    }

    fn note_end(&mut self, subscription: &Subscription, outcome: &Outcome, now: Timestamp) {
        self.counters.attempts.add(1);
        if let Some(known) = self.known.get_mut(&subscription.id) {
            known.endpoint.end(outcome, self.limits.per_subscription_max, now);
        }
    }

    /// Notes what came of an attempt, and settles the message by it.
    fn end(
        &mut self,
        subscription: &Arc<Subscription>,
        leased: Leased,
        outcome: &Outcome,
        now: Timestamp,
    ) {
        self.note_end(subscription, outcome, now);
        match outcome {
            Outcome::Delivered => {
                self.counters.delivered.add(1);
                self.settle(subscription, (leased, Held::Leased), Attempted::Delivered, now);
            }
            Outcome::Answered(answer) => self.answer(subscription, leased, answer, now),
            Outcome::Later(until) => self.waiting.put(subscription, leased, *until),
            Outcome::Failed(failure) => {
                self.fail(subscription, leased, failure, now);
            }
            Outcome::Hopeless(reason) => {
                self.give_up(subscription, (leased, Held::Leased), reason, now);
            }
        }
        self.note_end_of_one(subscription.id);
    }

    fn fail(
        &self,
        subscription: &Arc<Subscription>,
        leased: Leased,
        failure: &Failure,
        now: Timestamp,
    ) -> Option<Ticket> {
        let own = self.known.get(&subscription.id).and_then(|known| known.plan.as_ref().ok());
        let own = own.and_then(|plan| plan.retry_policy.as_ref());
        let rules = self.queue_rules(subscription);
        let policy = RetryPolicy::effective(own, rules.retry_policy.as_ref());
        let failed = leased.delivery_count.saturating_add(1);
        tracing::debug!(id = %subscription.id, failed, reason = failure.reason, "attempt failed");
        match policy.delay_after(failed, failure.retry_after) {
            Some(delay) => {
                self.counters.failed.add(1);
                let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                let attempted = Attempted::Failed { retry_at: now.after_ms(delay_ms) };
                self.settle(subscription, (leased, Held::Leased), attempted, now)
            }
            None => self.give_up(subscription, (leased, Held::Leased), &failure.reason, now),
        }
    }

    fn give_up(
        &self,
        subscription: &Arc<Subscription>,
        (leased, held): (Leased, Held),
        reason: &str,
        now: Timestamp,
    ) -> Option<Ticket> {
        self.counters.given_up.add(1);
        let (id, attempts) = (subscription.id, leased.delivery_count.saturating_add(1));
        tracing::info!(%id, queue = %subscription.queue, attempts, reason, "delivery given up");
        if crate::letter::is_told(&leased.message) {
            return self.settle(subscription, (leased, held), Attempted::Delivered, now);
        }
        let own = self.known.get(&subscription.id).and_then(|known| known.plan.as_ref().ok());
        let own = own.and_then(|plan| plan.dead_letter_queue.as_deref());
        let rules = self.queue_rules(subscription);
        let queue = own.or(rules.dead_letter_queue.as_deref());
        let properties = Obituary { subscription, reason, attempts }.write(&leased.message);
        let attempted = Attempted::GivenUp { queue, properties: &properties };
        self.settle(subscription, (leased, held), attempted, now)
    }

    /// Settles a message; it is so when the ticket is durable. None if it was not.
    fn settle(
        &self,
        subscription: &Arc<Subscription>,
        (leased, held): (Leased, Held),
        attempted: Attempted<'_>,
        now: Timestamp,
    ) -> Option<Ticket> {
        match self.broker.settle_followed(subscription, held, &[(leased, attempted)], now) {
            Ok(ticket) => ticket,
            // With the subscription its messages are gone.
            Err(BrokerError::NotFound { .. }) => None,
            Err(error) => {
                tracing::warn!(id = %subscription.id, %error, "delivery not settled");
                None
            }
        }
    }

    /// How a subscription is delivered to, read anew when it has changed.
    fn plan(&mut self, subscription: &Arc<Subscription>) -> Result<Arc<Plan>, Arc<str>> {
        if let Some(known) = self.known.get(&subscription.id)
            && Arc::ptr_eq(&known.subscription, subscription)
        {
            return known.plan.clone();
        }
        let id = subscription.id.to_string();
        let names = [&*subscription.tenant, &*subscription.queue, id.as_str()];
        let plan =
            Plan::make(&subscription.subscriber, &subscription.options, names, &self.defaults);
        let plan = match plan {
            Ok(plan) => Ok(Arc::new(plan)),
            Err(error) => Err(error.to_string().into()),
        };
        let before = self.known.remove(&subscription.id);
        // Another subscriber has to prove itself.
        let endpoint = before
            .filter(|known| known.subscription.subscriber == subscription.subscriber)
            .map(|known| known.endpoint)
            .unwrap_or_default();
        let subscription = Arc::clone(subscription);
        let known = Known { subscription, plan: plan.clone(), endpoint };
        self.known.insert(known.subscription.id, known);
        plan
    }

    fn queue_rules(&self, subscription: &Subscription) -> QueueRules {
        let metadata = self
            .broker
            .enter_service(&subscription.tenant)
            .and_then(|access| access.metadata(&subscription.queue));
        match metadata {
            Ok(Some(metadata)) => QueueRules::parse(metadata.json()),
            Ok(None) | Err(_) => QueueRules::default(),
        }
    }
}
