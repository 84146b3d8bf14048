//! The runner: has the messages of subscriptions sent, and settles them by what came of it.
//!
//! One task knows everything; an attempt that runs is a task of its own, and there are at most as many as there are
//! [`Places`]. What waits, for a retry or for a place, waits in its queue and not in memory. A message is leased only when
//! it can be sent at once.
//!
//! ```text
//! news ──► ready (by standing) ──► lease ──► filter ──► attempt ──► settle: delivered │ again at … │ given up
//!                ▲                                          │
//!                └───────────── ended, rested ◄─────────────┘
//! ```

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use broker::follow::{Attempted, PassOn};
use broker::{Broker, BrokerError, Subscription};
use model::{SubscriptionId, Timestamp};
use store::Leased;
use tokio::task::{Id, JoinError, JoinSet};

use crate::attempt::{Attempt, Blame, Failure, Outcome};
use crate::counters::Counters;
use crate::letter::{Letter, LetterError, Obituary, Opener, ttl_ms};
use crate::limit::{Endpoint, Place, Places, Standing, Verdict};
use crate::options::Form;
use crate::output::Output as _;
use crate::output::smtp::Smtp;
use crate::output::webhook::Webhook;
use crate::plan::{Defaults, Plan, QueueRules, Target};
use crate::request::{OwnRequest, Terms};
use crate::retry::RetryPolicy;

mod answering;

/// Messages of one subscription handled before others have their turn.
const TURN_MESSAGES_MAX: usize = 64;

/// Subscriptions served before news and endings are looked at.
const TURN_SUBSCRIPTIONS_MAX: usize = 256;

/// How long after its time to live a message is still attempted, in milliseconds: a subscriber that comes back after a
/// short outage gets it, one that is gone does not let a queue grow for ever.
const LATE_MS_MAX: u64 = 60 * 60 * 1000;

/// Time to live in milliseconds where a message does not say.
const TTL_MS: u64 = 60 * 60 * 1000;

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
    leased: Leased,
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
            running: JoinSet::new(),
            started: HashMap::new(),
        }
    }

    /// What it has done and does.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Runs until dropped. Attempts that run then are cut off, and made again by the next one.
    pub async fn run(mut self) {
        let broker = Arc::clone(&self.broker);
        let mut tidy = tokio::time::interval(TIDY);
        loop {
            let more = self.serve_some();
            self.count();
            let rest = self.rests.first().map(|(until, _)| until.since(broker.now()));
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
                () = tokio::time::sleep(rest.unwrap_or(TIDY)), if rest.is_some() => self.wake_rested(),
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

    fn count(&self) {
        let ready = &self.ready;
        self.counters.running.set(self.places.running());
        self.counters.waiting.set(ready.queued.len());
        self.counters.resting.set(self.rests.len());
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
            return;
        };
        for _ in 0..TURN_MESSAGES_MAX {
            let now = self.broker.now();
            let endpoint = self.known.get(&id).map(|known| &known.endpoint);
            let standing = endpoint.map_or(Standing::Unproven, Endpoint::standing);
            match endpoint.map_or(Verdict::Go, |endpoint| endpoint.verdict(now)) {
                Verdict::Go => {}
                // Its next attempt that ends looks again.
                Verdict::Full => return,
                Verdict::RestsUntil(until) => {
                    self.rests.insert((until, id));
                    return;
                }
            }
            if !self.places.has_room(standing) {
                break;
            }
            let leased = match self.broker.lease_followed(&subscription, 1, usize::MAX, now) {
                Ok(followed) => followed.messages.into_iter().next(),
                Err(error) => {
                    tracing::debug!(%id, %error, "subscription cannot be served");
                    None
                }
            };
            // The next message is news.
            let Some(leased) = leased else { return };
            self.begin(&subscription, leased, now);
        }
        self.note(id);
    }

    fn begin(&mut self, subscription: &Arc<Subscription>, leased: Leased, now: Timestamp) {
        let plan = match self.plan(subscription) {
            Ok(plan) => plan,
            Err(reason) => {
                self.give_up(subscription, leased, &reason, now);
                return;
            }
        };
        let alive_ms = ttl_ms(&leased.message).unwrap_or(TTL_MS).saturating_add(LATE_MS_MAX);
        if leased.enqueued.after_ms(alive_ms) < now {
            let reason = "its time to live was over long before it could be delivered";
            self.give_up(subscription, leased, reason, now);
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
                    self.settle(subscription, leased, Attempted::Delivered, now);
                    return;
                }
                Err(error) => {
                    tracing::debug!(id = %subscription.id, %error, "filter has no answer");
                    self.counters.unanswered.add(1);
                    self.settle(subscription, leased, Attempted::Delivered, now);
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

    fn start(
        &mut self,
        subscription: &Arc<Subscription>,
        leased: Leased,
        letter: Letter,
        plan: Arc<Plan>,
        now: Timestamp,
    ) {
        let follower = subscription.follower().id;
        let (id, number) = (message_id(follower.0, leased.sequence.0), leased.delivery_count + 1);
        let time_left = ttl_ms(&leased.message)
            .map(|ttl_ms| leased.enqueued.after_ms(ttl_ms).since(now).as_millis())
            .map(|left| u64::try_from(left).unwrap_or(u64::MAX));
        let outputs = Arc::clone(&self.outputs);
        let standing = match self.known.get_mut(&subscription.id) {
            Some(known) => {
                known.endpoint.begin();
                known.endpoint.standing()
            }
            None => Standing::Unproven,
        };
        let place = self.places.take(standing, leased.message.body_len());
        let answer_bytes_max = self.limits.answer_bytes_max;
        let task = self.running.spawn(async move {
            let made = match &plan.form {
                Form::Request(form) if !letter.is_told() => {
                    let made = letter.request(form.path.as_ref(), number, time_left);
                    let wanted = (form.answers && letter.is_asked()).then_some(answer_bytes_max);
                    let terms = Terms { answer_bytes_max: wanted };
                    made.map(|(payload, request)| {
                        (payload, Some(Box::new(OwnRequest { terms, ..request })))
                    })
                }
                Form::Notification | Form::Request(_) => {
                    letter.payload(plan.post_data.as_deref()).map(|payload| (payload, None))
                }
            };
            let (payload, request) = match made {
                Ok(made) => made,
                Err(error) => return Outcome::Hopeless(error.to_string()),
            };
            drop(letter);
            let attempt = Attempt { id, number, timestamp: now.0 / 1000, payload, request };
            outputs.send(&plan.target, &attempt).await
        });
        let started = Started { subscription: Arc::clone(subscription), leased, place };
        self.started.insert(task.id(), started);
    }

    fn handle_end(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let (task, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "an attempt to deliver broke off");
                (error.id(), Outcome::endpoint("the attempt broke off"))
            }
        };
        let Some(Started { subscription, leased, place }) = self.started.remove(&task) else {
            return;
        };
        self.places.give_back(place);
        let now = self.broker.now();
        self.end(&subscription, leased, &outcome, now);
    }

    /// Notes what came of an attempt, and settles the message by it.
    fn end(
        &mut self,
        subscription: &Arc<Subscription>,
        leased: Leased,
        outcome: &Outcome,
        now: Timestamp,
    ) {
        self.counters.attempts.add(1);
        if let Some(known) = self.known.get_mut(&subscription.id) {
            known.endpoint.end(outcome, self.limits.per_subscription_max, now);
        }
        match outcome {
            Outcome::Delivered => {
                self.counters.delivered.add(1);
                self.settle(subscription, leased, Attempted::Delivered, now);
            }
            Outcome::Answered(answer) => self.answer(subscription, leased, answer, now),
            Outcome::Failed(failure) => self.fail(subscription, leased, failure, now),
            Outcome::Hopeless(reason) => self.give_up(subscription, leased, reason, now),
        }
        self.note(subscription.id);
    }

    fn fail(
        &self,
        subscription: &Arc<Subscription>,
        leased: Leased,
        failure: &Failure,
        now: Timestamp,
    ) {
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
                self.settle(subscription, leased, attempted, now);
            }
            None => self.give_up(subscription, leased, &failure.reason, now),
        }
    }

    fn pass_on(
        &mut self,
        subscription: &Arc<Subscription>,
        leased: Leased,
        letter: &Letter,
        (exchange, routing_key): (&str, &str),
        now: Timestamp,
    ) {
        if letter.is_told() {
            // Exchanges have nobody who could confirm.
            self.settle(subscription, leased, Attempted::Delivered, now);
            return;
        }
        if let Some(known) = self.known.get_mut(&subscription.id) {
            known.endpoint.begin();
        }
        let passed = letter.passed_on().map(|(properties, body)| {
            let ttl_ms = ttl_ms(&leased.message);
            let to = PassOn { exchange, routing_key, properties: &properties, body, ttl_ms };
            self.broker.pass_on(subscription, &leased, &to, now)
        });
        let outcome = match passed {
            Ok(Ok(Some(_))) => {
                // Settled by the same commit.
                self.counters.attempts.add(1);
                self.counters.delivered.add(1);
                if let Some(known) = self.known.get_mut(&subscription.id) {
                    let most = self.limits.per_subscription_max;
                    known.endpoint.end(&Outcome::Delivered, most, now);
                }
                return;
            }
            Ok(Ok(None)) => Outcome::endpoint("no queue wants it"),
            Ok(Err(error)) => Outcome::endpoint(error.to_string()),
            Err(error @ LetterError::Circle) => Outcome::Hopeless(error.to_string()),
            Err(error) => Outcome::Hopeless(error.to_string()),
        };
        self.end(subscription, leased, &outcome, now);
    }

    fn give_up(
        &self,
        subscription: &Arc<Subscription>,
        leased: Leased,
        reason: &str,
        now: Timestamp,
    ) {
        self.counters.given_up.add(1);
        let (id, attempts) = (subscription.id, leased.delivery_count.saturating_add(1));
        tracing::info!(%id, queue = %subscription.queue, attempts, reason, "delivery given up");
        if crate::letter::is_told(&leased.message) {
            self.settle(subscription, leased, Attempted::Delivered, now);
            return;
        }
        let own = self.known.get(&subscription.id).and_then(|known| known.plan.as_ref().ok());
        let own = own.and_then(|plan| plan.dead_letter_queue.as_deref());
        let rules = self.queue_rules(subscription);
        let queue = own.or(rules.dead_letter_queue.as_deref());
        let properties = Obituary { subscription, reason, attempts }.write(&leased.message);
        let attempted = Attempted::GivenUp { queue, properties: &properties };
        self.settle(subscription, leased, attempted, now);
    }

    fn settle(
        &self,
        subscription: &Arc<Subscription>,
        leased: Leased,
        attempted: Attempted<'_>,
        now: Timestamp,
    ) {
        match self.broker.settle_followed(subscription, &[(leased, attempted)], now) {
            Ok(_) => {}
            // With the subscription its messages are gone.
            Err(BrokerError::NotFound { .. }) => {}
            Err(error) => tracing::warn!(id = %subscription.id, %error, "delivery not settled"),
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

/// `msg_`, and 24 hexadecimal digits of the follower and the place in it: the same for all attempts.
fn message_id(follower: u64, sequence: u64) -> String {
    format!("msg_{:08x}{sequence:016x}", follower & u64::from(u32::MAX))
}
