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

/// Members of the report that are no pools.
const MEMBERS: [&str; 4] =
    ["catalog_reachable", "storage_reachable", "operation_status", "message_volume"];

/// Where a round trip's queue lives.
#[derive(Debug, Clone, Copy)]
enum Home<'a> {
    /// Where a new queue would.
    Usual,
    /// In this pool.
    Pool(&'a str),
}

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

    /// Does a round trip in the caller's project, and one in each pool; the report as JSON.
    ///
    /// # Errors
    ///
    /// 403 if there are as many projects as there may be.
    pub(crate) async fn health(&self, caller: &Caller) -> Result<Vec<u8>, Problem> {
        let access = self
            .broker
            .enter_service_or_create(&caller.project, self.limits.projects_max)
            .map_err(|error| Problem::from_broker(&error, "Project cannot be entered."))?;
        let mut out = Vec::with_capacity(1024);
        out.push(b'{');
        if self.limits.pooling {
            out.extend_from_slice(b"\"catalog_reachable\":");
            write_bool(&mut out, self.is_reachable());
            for pool in self.broker.pools_page("", usize::MAX) {
                // Of two members with one name nobody could read both.
                if MEMBERS.contains(&&*pool.name) {
                    continue;
                }
                let steps = self.travel(&access, Home::Pool(&pool.name)).await;
                out.push(b',');
                write::string(&mut out, &pool.name);
                out.extend_from_slice(b":{");
                self.report(&mut out, &steps, self.broker.pool_volume(&pool));
                out.push(b'}');
            }
            out.push(b',');
        }
        let steps = self.travel(&access, Home::Usual).await;
        self.report(&mut out, &steps, self.volume());
        out.push(b'}');
        Ok(out)
    }

    async fn travel(&self, access: &Access, home: Home<'_>) -> Vec<Step> {
        let mut trip = Trip {
            operations: self,
            name: format!("amq.posthouse.health.{}", Uuid::new_v4()),
            home,
            access: access.clone(),
            steps: Vec::with_capacity(8),
        };
        trip.travel().await;
        trip.steps
    }

    fn report(&self, out: &mut Vec<u8>, steps: &[Step], (free, claimed): (u64, u64)) {
        out.extend_from_slice(b"\"storage_reachable\":");
        write_bool(out, self.is_reachable());
        out.extend_from_slice(b",\"operation_status\":{");
        for (index, step) in steps.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write::string(out, step.name);
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
        let total = free + claimed;
        let volume = format!(
            "}},\"message_volume\":{{\"free\":{free},\"claimed\":{claimed},\"total\":{total}}}"
        );
        out.extend_from_slice(volume.as_bytes());
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

fn write_bool(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

/// A round trip under way.
struct Trip<'a> {
    operations: &'a Operations,
    access: Access,
    /// The queue's name; lists do not show it.
    name: String,
    home: Home<'a>,
    steps: Vec<Step>,
}

impl Trip<'_> {
    async fn travel(&mut self) {
        let (access, name) = (self.access.clone(), self.name.clone());
        let now = self.operations.now();
        let home = self.home;
        let creating = || {
            let made = match home {
                Home::Usual => access.ensure_queue(&name, now),
                Home::Pool(pool) => access.ensure_queue_in_pool(&name, pool, now),
            };
            Ok(made?.2)
        };
        self.step("create_queue", creating).await;
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
