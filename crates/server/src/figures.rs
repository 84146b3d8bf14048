//! The broker's numbers, as the metrics want them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use broker::{Broker, Queue};
use delivery::Counters;
use store::{Embedded, QueueStats};

use crate::door::amqp::listener::Door;
use crate::door::inbox::listener::Door as InboxDoor;
use crate::metrics::{
    DeliveryNumbers, InboxNumbers, MetricsSource, QueueSample, Snapshot, Standing, StoreNumbers,
    Totals,
};

/// Reads the broker when somebody scrapes.
#[derive(Debug)]
pub struct Figures {
    broker: Arc<Broker>,
    store: Arc<Embedded>,
    door: Door,
    delivery: Arc<Counters>,
    inbox: Option<InboxDoor>,
    ready: AtomicBool,
}

impl Figures {
    /// Figures of a broker, its store and its AMQP door; not ready yet.
    #[must_use]
    pub fn new(broker: Arc<Broker>, store: Arc<Embedded>, door: Door) -> Self {
        let (delivery, ready) = (Arc::default(), AtomicBool::new(false));
        Self { broker, store, door, delivery, inbox: None, ready }
    }

    /// The same with what a runner of deliveries counts.
    #[must_use]
    pub fn with_delivery(mut self, counters: Arc<Counters>) -> Self {
        self.delivery = counters;
        self
    }

    /// The same with what an inbox counts, if there is one.
    #[must_use]
    pub fn with_inbox(mut self, inbox: Option<InboxDoor>) -> Self {
        self.inbox = inbox;
        self
    }

    /// Clients are served from now on, or no more.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    fn stats(&self, queue: &Queue) -> QueueStats {
        self.broker.stats(queue).unwrap_or_default()
    }

    fn standing(&self) -> Standing {
        let tenants = self.broker.tenant_names();
        let counters = &self.broker.counters;
        let queues = self.broker.all_queues();
        let mut standing = Standing {
            tenants: tenants.len() as u64,
            connections: self.door.connections() as u64,
            channels: counters
                .channels_opened
                .value()
                .saturating_sub(counters.channels_closed.value()),
            queues: queues.len() as u64,
            ..Standing::default()
        };
        for queue in &queues {
            let stats = self.stats(queue);
            standing.consumers += queue.consumer_count() as u64;
            standing.messages_ready += stats.ready;
            standing.messages_unacked += stats.leased;
            standing.message_bytes_ready += stats.ready_bytes;
            standing.messages_delayed += stats.delayed;
        }
        for tenant in tenants.iter().filter_map(|name| self.broker.tenant(name)) {
            let (exchanges, bindings) = tenant.topology_size();
            standing.exchanges += exchanges as u64;
            standing.bindings += bindings as u64;
        }
        standing
    }

    fn totals(&self) -> Totals {
        let counters = &self.broker.counters;
        Totals {
            connections_opened: counters.connections_opened.value(),
            connections_closed: counters.connections_closed.value(),
            channels_opened: counters.channels_opened.value(),
            channels_closed: counters.channels_closed.value(),
            queues_declared: counters.queues_declared.value(),
            queues_created: counters.queues_created.value(),
            queues_deleted: counters.queues_deleted.value(),
            received: counters.published.value(),
            received_confirm: counters.published_confirm.value(),
            routed: counters.routed.value(),
            confirmed: counters.confirmed.value(),
            nacked: counters.nacked.value(),
            unroutable_dropped: counters.unroutable_dropped.value(),
            unroutable_returned: counters.unroutable_returned.value(),
            delivered_consume_manual_ack: counters.delivered.value(),
            delivered_consume_auto_ack: counters.delivered_no_ack.value(),
            delivered_get_manual_ack: counters.fetched.value(),
            delivered_get_auto_ack: counters.fetched_no_ack.value(),
            get_empty: counters.fetched_nothing.value(),
            redelivered: counters.redelivered.value(),
            acknowledged: counters.acknowledged.value(),
            dead_lettered_expired: counters.dead_lettered_expired.value(),
            dead_lettered_rejected: counters.dead_lettered_rejected.value(),
            dead_lettered_maxlen: counters.dead_lettered_maxlen.value(),
            dead_lettered_delivery_limit: counters.dead_lettered_delivery_limit.value(),
            deduplicated: counters.duplicates.value(),
            auth_succeeded: counters.logins.value(),
            auth_failed: counters.logins_failed.value(),
            auth_throttled: counters.logins_throttled.value(),
            parked: counters.parked.value(),
            parked_lost: counters.parked_lost.value(),
            bytes_received: counters.bytes_received.value(),
            bytes_sent: counters.bytes_sent.value(),
        }
    }

    fn store_numbers(&self) -> StoreNumbers {
        let stats = self.store.embedded_stats();
        StoreNumbers {
            syncs: stats.syncs,
            bytes_written: stats.bytes_written,
            commits: stats.commits,
            disk_bytes: stats.log_bytes,
            segments: stats.segments,
            records_damaged: stats.damages,
        }
    }

    fn delivery_numbers(&self) -> DeliveryNumbers {
        let counters = &self.delivery;
        DeliveryNumbers {
            attempts: counters.attempts.value(),
            delivered: counters.delivered.value(),
            failed: counters.failed.value(),
            given_up: counters.given_up.value(),
            filtered: counters.filtered.value(),
            unanswered: counters.unanswered.value(),
            answers: counters.answers.value(),
            answers_nowhere: counters.answers_nowhere.value(),
            settled_later: counters.settled_later.value(),
            unsettled: counters.unsettled.value(),
            running: counters.running.value(),
            waiting: counters.waiting.value(),
            resting: counters.resting.value(),
        }
    }

    fn inbox_numbers(&self) -> InboxNumbers {
        let Some(inbox) = &self.inbox else { return InboxNumbers::default() };
        let counters = inbox.counters();
        InboxNumbers {
            accepted: counters.accepted.value(),
            duplicates: counters.duplicates.value(),
            refused: counters.refused.value(),
            unroutable: counters.unroutable.value(),
            unavailable: counters.unavailable.value(),
            connections: inbox.connections() as u64,
        }
    }

    fn sample(&self, queue: &Queue) -> QueueSample {
        let stats = self.stats(queue);
        QueueSample {
            tenant: queue.tenant.to_string(),
            queue: queue.name.to_string(),
            messages_ready: stats.ready,
            messages_unacked: stats.leased,
            message_bytes: stats.ready_bytes,
            consumers: queue.consumer_count() as u64,
            published: stats.next.0,
            ..QueueSample::default()
        }
    }
}

impl MetricsSource for Arc<Figures> {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            now: self.standing(),
            since_start: self.totals(),
            store: self.store_numbers(),
            delivery: self.delivery_numbers(),
            inbox: self.inbox_numbers(),
        }
    }

    fn queues(&self, max: usize) -> (Vec<QueueSample>, usize) {
        let queues = self.broker.all_queues();
        (queues.iter().take(max).map(|queue| self.sample(queue)).collect(), queues.len())
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    fn is_alive(&self) -> bool {
        !self.broker.watch().failed()
    }
}
