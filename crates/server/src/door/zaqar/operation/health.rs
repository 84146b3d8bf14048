//! Whether the service works: a round trip of messages through a queue made for it, each step waited for and measured.

use std::sync::Arc;
use std::time::Instant;

use broker::{Access, BrokerError, ClaimRequest, Condition, Post, Queue};
use model::{Sequence, Ticket};
use uuid::Uuid;

use super::Operations;
use crate::auth::Caller;
use crate::door::zaqar::json::write;
use crate::door::zaqar::problem::Problem;

/// Messages of a round trip, as in Zaqar.
const MESSAGES: usize = 100;

/// Times of the claim, in milliseconds; it is released at once.
const CLAIM_MS: u64 = 60_000;

/// Times to live of the messages, in milliseconds, should their deletion fail.
const MESSAGE_MS: u64 = 60_000;

/// A step, whether it succeeded, and how long it took.
#[derive(Debug)]
struct Step {
    name: &'static str,
    succeeded: bool,
    seconds: f64,
}

impl Operations {
    /// Whether the store takes changes.
    pub(crate) fn is_reachable(&self) -> bool {
        !self.broker.watch().failed()
    }

    /// Does a round trip in the caller's project; the report as JSON.
    ///
    /// # Errors
    ///
    /// 403 if there are as many projects as there may be.
    pub(crate) async fn health(&self, caller: &Caller) -> Result<Vec<u8>, Problem> {
        let access = self
            .broker
            .enter_service_or_create(&caller.project, self.limits.projects_max)
            .map_err(|error| Problem::from_broker(&error, "Project cannot be entered."))?;
        let mut trip = Trip {
            operations: self,
            name: format!("amq.posthouse.health.{}", Uuid::new_v4()),
            access,
            steps: Vec::with_capacity(8),
        };
        trip.travel().await;
        Ok(self.report(&trip.steps))
    }

    fn report(&self, steps: &[Step]) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(b"{\"storage_reachable\":");
        out.extend_from_slice(if self.is_reachable() { b"true" } else { b"false" });
        out.extend_from_slice(b",\"operation_status\":{");
        for (index, step) in steps.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write::string(&mut out, step.name);
            let Step { succeeded, seconds, .. } = step;
            let reference = match succeeded {
                true => "null".to_owned(),
                false => format!("\"{}\"", Uuid::new_v4()),
            };
            let text = format!(
                ":{{\"succeeded\":{succeeded},\"seconds\":{seconds:.6},\"ref\":{reference}}}"
            );
            out.extend_from_slice(text.as_bytes());
        }
        let (free, claimed) = self.volume();
        let total = free + claimed;
        let volume = format!(
            "}},\"message_volume\":{{\"free\":{free},\"claimed\":{claimed},\"total\":{total}}}}}"
        );
        out.extend_from_slice(volume.as_bytes());
        out
    }

    /// Messages of all projects: free ones and claimed ones.
    fn volume(&self) -> (u64, u64) {
        let queues = self.broker.all_queues();
        let stats = queues.iter().filter_map(|queue: &Arc<Queue>| self.broker.stats(queue).ok());
        stats.fold((0, 0), |(free, claimed), stats| {
            (free + stats.ready + stats.delayed, claimed + stats.leased)
        })
    }
}

/// A round trip under way.
struct Trip<'a> {
    operations: &'a Operations,
    access: Access,
    /// The queue's name; lists do not show it.
    name: String,
    steps: Vec<Step>,
}

impl Trip<'_> {
    async fn travel(&mut self) {
        let (access, name) = (self.access.clone(), self.name.clone());
        let now = self.operations.now();
        self.step("create_queue", || Ok(access.ensure_queue(&name, now)?.2)).await;
        let mut first = Sequence(0);
        let post = Post {
            properties: &[0, 0],
            body: b"{}",
            expires: Some(now.after_ms(MESSAGE_MS)),
            not_before: None,
        };
        let posting = || {
            let posted = access.post(&name, &[post; MESSAGES], now)?;
            first = posted.first;
            Ok(posted.ticket)
        };
        self.step("post_messages", posting).await;
        let request =
            ClaimRequest { count_max: 10, ttl_ms: CLAIM_MS, grace_ms: CLAIM_MS, poison: None };
        let mut claim = None;
        let claiming = || {
            let claimed = access.claim(&name, &request, now)?;
            claim = Some(claimed.id);
            Ok(claimed.ticket)
        };
        self.step("claim_messages", claiming).await;
        let listing = || {
            access.browse(&name, None, 10, broker::BrowseFilter::default(), now)?;
            Ok(Ticket::NONE)
        };
        self.step("list_messages", listing).await;
        let releasing = || match claim {
            Some(claim) => access.release_claim(&name, claim, now),
            None => Ok(Ticket::NONE),
        };
        self.step("delete_claim", releasing).await;
        let deleting = || {
            let one = access.remove(&name, &[first], Condition::Always, now)?;
            Ok(one.ticket)
        };
        self.step("delete_messages", deleting).await;
        let rest: Vec<_> = (1..MESSAGES as u64).map(|place| Sequence(first.0 + place)).collect();
        let emptying = || Ok(access.remove(&name, &rest, Condition::Always, now)?.ticket);
        self.step("bulk_delete_messages", emptying).await;
        let removing = || Ok(access.delete_queue(&name, false, false, now)?.1);
        self.step("delete_queue", removing).await;
    }

    /// Does a step and waits until it is durable.
    async fn step(
        &mut self,
        name: &'static str,
        act: impl FnOnce() -> Result<Ticket, BrokerError>,
    ) {
        let begun = Instant::now();
        let succeeded = match act() {
            Ok(ticket) => self.operations.broker.watch().until_durable(ticket).await.is_ok(),
            Err(error) => {
                tracing::warn!(%error, step = name, "a step of the health check failed");
                false
            }
        };
        self.steps.push(Step { name, succeeded, seconds: begun.elapsed().as_secs_f64() });
    }
}
