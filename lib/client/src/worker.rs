//! What works a consumer's messages off: handler, then what the outcome asks for, then the settlement.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tower::{Service, ServiceExt};

use crate::client::Client;
use crate::consumer::{DeadLetters, DeliveryService, Policy, Waiting, Work, waiting_queue};
use crate::delivery::{ATTEMPT_HEADER, Delivery};
use crate::error::PublishError;
use crate::intake::Intake;
use crate::later::{Decided, Later, tell};
use crate::link::jittered;
use crate::metrics::QueueMetrics;
use crate::outcome::{Answer, Outcome};
use crate::publish::{Draft, Publish};
use crate::rpc::RpcError;
use crate::settlements::Settle;
use crate::topology::text;

/// How long a message is held that could be put nowhere, before it goes back to its queue.
const NOWHERE_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause of a consumer, as with the server's webhooks, so that no answer stops a consumer for ever.
const PAUSE_MAX: Duration = Duration::from_hours(1);

/// First wait after a conflict; twice as long each time, and cut at random, so that two do not meet again.
const CONFLICT_PAUSE: Duration = Duration::from_millis(10);

/// Longest wait after a conflict.
const CONFLICT_PAUSE_MAX: Duration = Duration::from_secs(5);

/// How often a message is tried again here after conflicts before it goes back to its queue, if it has no order to keep:
/// about ten seconds. Brokers count what is given back, so it should not happen lightly.
const CONFLICTS_MAX: u32 = 10;

/// Headers that brokers have written about the past of a message, or that would act once more on its copy.
const NOT_COPIED: [&str; 14] = [
    "x-death",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-first-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
    "x-last-death-exchange",
    "x-delivery-count",
    "x-acquired-count",
    "x-dedup-id",
    "x-delay",
    "CC",
    "BCC",
    "x-opt-delivery-count",
];

/// Where a message was published, on copies.
pub(crate) const EXCHANGE_HEADER: &str = "posthouse-exchange";
/// With which routing key, on copies.
pub(crate) const ROUTING_KEY_HEADER: &str = "posthouse-routing-key";
/// Header of dead letters: why.
pub const REASON_HEADER: &str = "posthouse-reason";
/// Header of dead letters: where it was given up.
pub const QUEUE_HEADER: &str = "posthouse-queue";

/// What workers of one consumer share.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) intake: Arc<Intake>,
    pub(crate) client: Client,
    pub(crate) policy: Policy,
    pub(crate) dead: DeadLetters,
    pub(crate) ordered: bool,
    pub(crate) metrics: QueueMetrics,
}

/// Works until the inbox has ended.
pub(crate) async fn work(bench: Arc<Bench>, work: Work) {
    match work {
        Work::Each(mut service) => {
            // Messages that are settled later. Dropped with this worker at the end of the drain: they are nobody's then, and
            // go back when the connection is closed.
            let mut held = JoinSet::new();
            while let Some(delivery) = bench.intake.inbox.take().await {
                bench.handle(&mut service, delivery, &mut held).await;
                while held.try_join_next().is_some() {}
            }
            while held.join_next().await.is_some() {}
        }
        Work::Batch { handle, up_to, within } => {
            while let Some(first) = bench.intake.inbox.take().await {
                let deliveries = bench.collect(first, up_to, within).await;
                bench.metrics.attempts.inc();
                let began = Instant::now();
                let running = AssertUnwindSafe(handle(deliveries.clone())).catch_unwind();
                let outcomes = running
                    .await
                    .unwrap_or_else(|panic| vec![panicked(panic.as_ref()); deliveries.len()]);
                let outcomes: Vec<_> =
                    outcomes.into_iter().map(|outcome| bench.pause(outcome)).collect();
                bench.metrics.handling.observe(began.elapsed().as_secs_f64());
                if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Conflict { .. })) {
                    // They go back at once and come again: this is no tight circle.
                    tokio::time::sleep(jittered(NOWHERE_PAUSE)).await;
                }
                for (delivery, outcome) in deliveries.iter().zip(outcomes) {
                    bench.end(delivery, outcome).await;
                }
            }
        }
    }
}

impl Bench {
    /// Works on a message until it is settled, or in `held` from where it is to be settled later.
    async fn handle(
        self: &Arc<Self>,
        service: &mut DeliveryService,
        delivery: Delivery,
        held: &mut JoinSet<()>,
    ) {
        let attempt = delivery.attempt();
        match self.run(service, delivery.clone(), attempt).await {
            Outcome::Later(later) => {
                let (bench, mut service) = (Arc::clone(self), service.clone());
                held.spawn(async move {
                    let ended = bench.decided(later).await;
                    bench.finish(&mut service, delivery, attempt, ended).await;
                });
            }
            outcome => self.finish(service, delivery, attempt, outcome.into()).await,
        }
    }

    /// Settles a message whose first attempt here has ended, after further ones if it keeps its place.
    async fn finish(
        &self,
        service: &mut DeliveryService,
        delivery: Delivery,
        mut attempt: u32,
        ended: Decided,
    ) {
        let mut conflicts = 0;
        let Decided { mut outcome, mut done } = ended;
        loop {
            let wait = match &outcome {
                // In an order, what is tried again keeps its place: it waits here.
                Outcome::Retry { after, .. } if self.ordered => {
                    let wait = self.policy.backoff.wait(attempt, *after);
                    attempt += u32::from(wait.is_some());
                    wait
                }
                Outcome::Release if self.ordered => Some(conflict_pause(&mut conflicts)),
                Outcome::Conflict { reason } if self.ordered || conflicts < CONFLICTS_MAX => {
                    tracing::debug!(queue = delivery.queue(), conflicts, reason, "a conflict");
                    Some(conflict_pause(&mut conflicts))
                }
                _ => None,
            };
            let Some(wait) = wait else {
                self.end_after(&delivery, outcome, attempt).await;
                return tell(done);
            };
            tell(done.take());
            if self.intake.cancelled.load(Ordering::Acquire) {
                return self.give_back(&delivery);
            }
            if matches!(outcome, Outcome::Retry { .. }) {
                self.metrics.retried.inc();
            }
            let inbox = &self.intake.inbox;
            if !(inbox.lasts(wait).await && inbox.rested().await) {
                return self.give_back(&delivery);
            }
            outcome = self.run(service, delivery.clone(), attempt).await;
            while let Outcome::Later(later) = outcome {
                Decided { outcome, done } = self.decided(later).await;
            }
        }
    }

    /// What became of a message that was to be settled later.
    async fn decided(&self, later: Later) -> Decided {
        let Decided { outcome, done } = later.decided(self.policy.settle_within).await;
        Decided { outcome: self.pause(outcome), done }
    }

    /// Has the consumer take nothing for a while if that is what the outcome says; for the message it is a retry.
    fn pause(&self, outcome: Outcome) -> Outcome {
        let Outcome::Pause { wait, reason } = outcome else { return outcome };
        let pause = wait.min(PAUSE_MAX);
        tracing::warn!(queue = &*self.intake.queue, ?pause, reason, "a consumer pauses");
        self.metrics.paused.inc();
        self.intake.inbox.rest(pause);
        Outcome::Retry { after: Some(wait), reason }
    }

    /// Back to the queue because this consumer ends, with what is behind it in its order.
    fn give_back(&self, delivery: &Delivery) {
        self.intake.settlements.put(delivery.receipt, Settle::Requeue);
        for behind in self.intake.inbox.give_back(delivery) {
            self.intake.settlements.put(behind.receipt, Settle::Requeue);
        }
    }

    /// Calls the handler once.
    async fn run(
        &self,
        service: &mut DeliveryService,
        delivery: Delivery,
        attempt: u32,
    ) -> Outcome {
        self.metrics.attempts.inc();
        let began = Instant::now();
        if attempt > self.policy.backoff.attempts_max() && self.dead != DeadLetters::Answer {
            // Handed out more often than allowed: whoever had it did not live to say what became of it.
            let reason = format!("attempt {attempt} of {}", self.policy.backoff.attempts_max());
            return Outcome::Dead { reason };
        }
        let called = async {
            match service.ready().await {
                Ok(service) => service.call(delivery).await,
                Err(error) => Err(error),
            }
        };
        let outcome = match AssertUnwindSafe(called).catch_unwind().await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::Retry { after: None, reason: error.to_string() },
            Err(panic) => panicked(panic.as_ref()),
        };
        self.metrics.handling.observe(began.elapsed().as_secs_f64());
        self.pause(outcome)
    }

    /// The first message and what comes soon after it.
    async fn collect(&self, first: Delivery, up_to: usize, within: Duration) -> Vec<Delivery> {
        let deadline = Instant::now() + within;
        let mut deliveries = vec![first];
        loop {
            deliveries.extend(self.intake.inbox.take_ready(up_to - deliveries.len()));
            if deliveries.len() >= up_to {
                return deliveries;
            }
            match timeout_at(deadline, self.intake.inbox.take()).await {
                Ok(Some(delivery)) => deliveries.push(delivery),
                Ok(None) | Err(_) => return deliveries,
            }
        }
    }

    async fn end(&self, delivery: &Delivery, outcome: Outcome) {
        self.end_after(delivery, outcome, delivery.attempt()).await;
    }

    /// Does what the outcome asks for and settles.
    async fn end_after(&self, delivery: &Delivery, outcome: Outcome, attempt: u32) {
        let settle = match outcome {
            Outcome::Ack => {
                self.metrics.acked.inc();
                Settle::Ack
            }
            Outcome::Reply(answer) => self.reply(delivery, answer).await,
            Outcome::Retry { after, reason } => self.retry(delivery, attempt, after, reason).await,
            Outcome::Pause { wait, reason } => {
                self.retry(delivery, attempt, Some(wait), reason).await
            }
            Outcome::Later(_) => {
                let reason = "a batch cannot be settled later".to_owned();
                self.retry(delivery, attempt, None, reason).await
            }
            Outcome::Dead { reason } => self.give_up(delivery, attempt, &reason).await,
            Outcome::Drop { reason } => {
                tracing::info!(queue = delivery.queue(), reason, "a message was dropped");
                self.metrics.dropped.inc();
                Settle::Ack
            }
            Outcome::Release => Settle::Requeue,
            Outcome::Conflict { reason } => {
                tracing::warn!(
                    queue = delivery.queue(),
                    reason,
                    "a message goes back to its queue"
                );
                Settle::Requeue
            }
        };
        self.settle(delivery, settle);
    }

    fn settle(&self, delivery: &Delivery, settle: Settle) {
        self.intake.settlements.put(delivery.receipt, settle);
        self.intake.inbox.done(delivery);
    }

    async fn reply(&self, delivery: &Delivery, answer: Answer) -> Settle {
        self.metrics.acked.inc();
        let properties = delivery.properties();
        let Some(reply_to) = properties.reply_to.filter(|queue| !queue.is_empty()) else {
            return Settle::Ack;
        };
        let draft = Draft {
            routing_key: reply_to.to_owned().into(),
            body: answer.body,
            content_type: Some(answer.content_type.into()),
            content_encoding: answer.content_encoding,
            kind: answer.kind.map(Into::into),
            correlation_id: properties.correlation_id.map(str::to_owned),
            // Whoever asked may be gone, and the answer is of no use to anybody else.
            mandatory: false,
            ..Draft::default()
        };
        match self.publish(draft).await {
            Ok(()) => Settle::Ack,
            Err(error) if error.is_retryable() => self.nowhere(&error).await,
            Err(error) => {
                tracing::warn!(queue = delivery.queue(), %error, "an answer could not be sent");
                Settle::Ack
            }
        }
    }

    async fn retry(
        &self,
        delivery: &Delivery,
        attempt: u32,
        after: Option<Duration>,
        reason: String,
    ) -> Settle {
        let Some(wait) = self.policy.backoff.wait(attempt, after) else {
            return self.give_up(delivery, attempt, &reason).await;
        };
        tracing::warn!(
            queue = delivery.queue(),
            attempt,
            ?wait,
            reason,
            "a message is tried again"
        );
        self.metrics.retried.inc();
        if self.policy.waiting == Waiting::Broker {
            return Settle::Requeue;
        }
        let mut draft = copy(delivery);
        draft.routing_key = waiting_queue(delivery.queue(), wait).into();
        draft.headers.insert(ATTEMPT_HEADER, i64::from(attempt.saturating_add(1)));
        match self.publish(draft).await {
            Ok(()) => Settle::Ack,
            Err(error) => self.nowhere(&error).await,
        }
    }

    async fn give_up(&self, delivery: &Delivery, attempt: u32, reason: &str) -> Settle {
        tracing::error!(queue = delivery.queue(), attempt, reason, "a message was given up");
        self.metrics.dead_lettered.inc();
        match &self.dead {
            DeadLetters::Broker => Settle::Reject,
            DeadLetters::Answer => {
                let failed = RpcError::new("failed", reason);
                self.reply(delivery, failed.answer()).await
            }
            DeadLetters::Queue(queue) => {
                let mut draft = copy(delivery);
                draft.routing_key = queue.clone().into();
                draft.headers.insert(ATTEMPT_HEADER, i64::from(attempt));
                draft.headers.insert(REASON_HEADER, text(reason));
                draft.headers.insert(QUEUE_HEADER, text(delivery.queue()));
                match self.publish(draft).await {
                    Ok(()) => Settle::Ack,
                    Err(error) => self.nowhere(&error).await,
                }
            }
        }
    }

    /// A copy could be put nowhere: the original goes back, after a while, so that this is no tight circle.
    async fn nowhere(&self, error: &PublishError) -> Settle {
        tracing::error!(%error, "a message goes back to its queue, as its copy was not accepted");
        tokio::time::sleep(NOWHERE_PAUSE).await;
        Settle::Requeue
    }

    async fn publish(&self, draft: Draft) -> Result<(), PublishError> {
        Publish::new(Arc::clone(&self.client.link), Ok(draft)).await.map(drop)
    }
}

/// The same message once more, for the default exchange. It does not expire, and its user is not vouched for: brokers
/// take a `user-id` only from that user.
fn copy(delivery: &Delivery) -> Draft {
    let properties = delivery.properties();
    let own = |text: Option<&str>| text.map(str::to_owned);
    let mut headers = delivery.header_table();
    for name in NOT_COPIED {
        headers.remove(name);
    }
    headers.insert(EXCHANGE_HEADER, text(delivery.exchange()));
    headers.insert(ROUTING_KEY_HEADER, text(delivery.routing_key()));
    Draft {
        mandatory: true,
        persistent: properties.delivery_mode == Some(2),
        body: delivery.body(),
        content_type: own(properties.content_type).map(Into::into),
        content_encoding: own(properties.content_encoding),
        headers,
        priority: properties.priority,
        correlation_id: own(properties.correlation_id),
        reply_to: own(properties.reply_to),
        message_id: own(properties.message_id),
        timestamp: properties.timestamp,
        kind: own(properties.kind).map(Into::into),
        app_id: own(properties.app_id),
        ..Draft::default()
    }
}

fn conflict_pause(conflicts: &mut u32) -> Duration {
    let pause = CONFLICT_PAUSE.saturating_mul(1_u32.checked_shl(*conflicts).unwrap_or(u32::MAX));
    *conflicts = conflicts.saturating_add(1);
    jittered(pause.min(CONFLICT_PAUSE_MAX))
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Outcome {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a text");
    Outcome::Retry { after: None, reason: format!("the handler panicked: {text}") }
}
