//! The text that Prometheus reads, in OpenMetrics' format.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use store::embedded::{SYNC_BOUNDS_SECS, SyncTimes};

use super::Snapshot;
use crate::alarms::{Raised, Readings};

/// What the labels of every dashboard of RabbitMQ start from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of this node, such as `posthouse@host`.
    pub node: String,
    /// Name of the cluster that it stands for.
    pub cluster: String,
    /// The release whose behaviour is followed.
    pub rabbitmq_version: String,
    /// Our own release.
    pub version: &'static str,
}

/// What only the process knows.
#[derive(Debug, Clone, Copy)]
pub struct ProcessNumbers {
    /// Memory and disk.
    pub readings: Readings,
    /// Alarms.
    pub raised: Raised,
    /// Descriptors open.
    pub fds_open: u64,
    /// Descriptors allowed.
    pub fds_max: u64,
    /// Seconds since the start.
    pub uptime_secs: u64,
}

/// Writes the numbers over all tenants.
///
/// # Errors
///
/// None in practice, as a string takes all that is written.
pub fn overall(
    identity: &Identity,
    process: ProcessNumbers,
    snapshot: Snapshot,
) -> Result<String, fmt::Error> {
    write(Overall { identity: identity.clone(), process, snapshot })
}

pub(super) fn write(collector: impl Collector) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(collector));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Overall {
    identity: Identity,
    process: ProcessNumbers,
    snapshot: Snapshot,
}

impl Collector for Overall {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let e = &mut encoder;
        self.encode_identity(e)?;
        self.encode_process(e)?;
        self.encode_standing(e)?;
        self.encode_connections(e)?;
        self.encode_messages(e)?;
        self.encode_dead_letters(e)?;
        self.encode_delivery(e)?;
        self.encode_inbox(e)?;
        self.encode_store(e)
    }
}

impl Overall {
    fn encode_identity(&self, e: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let identity = &self.identity;
        let build = [
            ("rabbitmq_version", identity.rabbitmq_version.as_str()),
            ("posthouse_version", identity.version),
        ];
        e.encode_descriptor("rabbitmq_build", "Which release this is.", None, MetricType::Info)?
            .encode_info(&build)?;
        let names = [
            ("rabbitmq_node", identity.node.as_str()),
            ("rabbitmq_cluster", identity.cluster.as_str()),
            ("rabbitmq_cluster_permanent_id", identity.cluster.as_str()),
        ];
        e.encode_descriptor("rabbitmq_identity", "Which node this is.", None, MetricType::Info)?
            .encode_info(&names)
    }

    fn encode_process(&self, e: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (process, readings, raised) =
            (self.process, self.process.readings, self.process.raised);
        let sockets = self.snapshot.now.connections;
        gauges(
            e,
            &[
                (
                    "rabbitmq_process_resident_memory_bytes",
                    "Resident memory.",
                    readings.memory_resident,
                ),
                (
                    "rabbitmq_resident_memory_limit_bytes",
                    "Level of the memory alarm.",
                    readings.memory_limit,
                ),
                (
                    "rabbitmq_disk_space_available_bytes",
                    "Free on the disk of the data.",
                    readings.disk_free,
                ),
                (
                    "rabbitmq_disk_space_available_limit_bytes",
                    "Level of the disk alarm.",
                    readings.disk_limit,
                ),
                ("rabbitmq_process_open_fds", "File descriptors open.", process.fds_open),
                ("rabbitmq_process_max_fds", "File descriptors allowed.", process.fds_max),
                ("rabbitmq_process_open_tcp_sockets", "Sockets of clients.", sockets),
                ("rabbitmq_process_max_tcp_sockets", "Sockets allowed.", process.fds_max),
                (
                    "rabbitmq_alarms_memory_used_watermark",
                    "1 while memory is low.",
                    raised.memory.into(),
                ),
                (
                    "rabbitmq_alarms_free_disk_space_watermark",
                    "1 while the disk is low.",
                    raised.disk.into(),
                ),
                ("posthouse_uptime_seconds", "Time since the start.", process.uptime_secs),
            ],
        )
    }

    fn encode_standing(&self, e: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let now = &self.snapshot.now;
        gauges(
            e,
            &[
                ("rabbitmq_connections", "Connections open.", now.connections),
                ("rabbitmq_channels", "Channels open.", now.channels),
                ("rabbitmq_consumers", "Consumers.", now.consumers),
                ("rabbitmq_queues", "Queues.", now.queues),
                ("posthouse_exchanges", "Exchanges.", now.exchanges),
                ("posthouse_bindings", "Bindings.", now.bindings),
                ("posthouse_tenants", "Tenants (virtual hosts).", now.tenants),
                (
                    "posthouse_connections_blocked",
                    "Connections that an alarm blocks.",
                    now.connections_blocked,
                ),
                (
                    "rabbitmq_queue_messages_ready",
                    "Messages ready for delivery.",
                    now.messages_ready,
                ),
                (
                    "rabbitmq_queue_messages_unacked",
                    "Messages delivered and not acknowledged.",
                    now.messages_unacked,
                ),
                (
                    "rabbitmq_queue_messages",
                    "Messages ready and unacknowledged.",
                    now.messages_ready.saturating_add(now.messages_unacked),
                ),
                (
                    "rabbitmq_queue_messages_ready_bytes",
                    "Bodies of ready messages.",
                    now.message_bytes_ready,
                ),
                (
                    "rabbitmq_queue_messages_unacked_bytes",
                    "Bodies of unacknowledged messages.",
                    now.message_bytes_unacked,
                ),
                ("rabbitmq_queue_consumers", "Consumers on queues.", now.consumers),
                (
                    "posthouse_messages_delayed",
                    "Messages waiting for their time.",
                    now.messages_delayed,
                ),
                (
                    "rabbitmq_channel_messages_unconfirmed",
                    "Publishes that wait for their confirm.",
                    now.messages_unconfirmed,
                ),
                (
                    "rabbitmq_channel_messages_unacked",
                    "Deliveries not acknowledged.",
                    now.messages_unacked,
                ),
                ("rabbitmq_channel_consumers", "Consumers on channels.", now.consumers),
            ],
        )?;
        for (name, help, value) in [
            ("rabbitmq_global_publishers", "Channels that publish.", now.publishers),
            ("rabbitmq_global_consumers", "Consumers.", now.consumers),
        ] {
            e.encode_descriptor(name, help, None, MetricType::Gauge)?
                .encode_family(&PROTOCOL)?
                .encode_gauge(&value)?;
        }
        Ok(())
    }

    fn encode_connections(&self, e: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = &self.snapshot.since_start;
        counters(
            e,
            &[
                ("rabbitmq_connections_opened", "Connections opened.", all.connections_opened),
                ("rabbitmq_connections_closed", "Connections closed.", all.connections_closed),
                ("rabbitmq_channels_opened", "Channels opened.", all.channels_opened),
                ("rabbitmq_channels_closed", "Channels closed.", all.channels_closed),
                ("rabbitmq_queues_declared", "Queues declared, new or not.", all.queues_declared),
                ("rabbitmq_queues_created", "Queues created.", all.queues_created),
                ("rabbitmq_queues_deleted", "Queues deleted.", all.queues_deleted),
                (
                    "rabbitmq_auth_attempts",
                    "Logins tried.",
                    all.auth_succeeded.saturating_add(all.auth_failed),
                ),
                ("rabbitmq_auth_attempts_succeeded", "Logins accepted.", all.auth_succeeded),
                ("rabbitmq_auth_attempts_failed", "Logins refused.", all.auth_failed),
                (
                    "posthouse_logins_throttled",
                    "Logins refused unseen after many failures.",
                    all.auth_throttled,
                ),
                (
                    "rabbitmq_connection_incoming_bytes",
                    "Bytes read from clients.",
                    all.bytes_received,
                ),
                ("rabbitmq_connection_outgoing_bytes", "Bytes written to clients.", all.bytes_sent),
            ],
        )
    }

    fn encode_messages(&self, e: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = &self.snapshot.since_start;
        let delivered = [
            all.delivered_consume_manual_ack,
            all.delivered_consume_auto_ack,
            all.delivered_get_manual_ack,
            all.delivered_get_auto_ack,
        ];
        labelled_counters(
            e,
            &PROTOCOL,
            &[
                ("received", "Published by clients.", all.received),
                ("received_confirm", "Published on channels with confirms.", all.received_confirm),
                ("routed", "Copies put into queues.", all.routed),
                ("confirmed", "Confirmed to publishers.", all.confirmed),
                ("unroutable_dropped", "Dropped without a queue.", all.unroutable_dropped),
                ("unroutable_returned", "Returned without a queue.", all.unroutable_returned),
                ("delivered", "Delivered.", delivered.iter().sum()),
                (
                    "delivered_consume_manual_ack",
                    "Delivered, to be acknowledged.",
                    all.delivered_consume_manual_ack,
                ),
                (
                    "delivered_consume_auto_ack",
                    "Delivered, not to be acknowledged.",
                    all.delivered_consume_auto_ack,
                ),
                (
                    "delivered_get_manual_ack",
                    "Fetched, to be acknowledged.",
                    all.delivered_get_manual_ack,
                ),
                (
                    "delivered_get_auto_ack",
                    "Fetched, not to be acknowledged.",
                    all.delivered_get_auto_ack,
                ),
                ("get_empty", "Fetches that found nothing.", all.get_empty),
                ("redelivered", "Delivered again.", all.redelivered),
                ("acknowledged", "Acknowledged by consumers.", all.acknowledged),
            ],
        )?;
        counters(
            e,
            &[
                ("posthouse_messages_nacked", "Refused to publishers.", all.nacked),
                (
                    "posthouse_messages_deduplicated",
                    "Confirmed without a second copy.",
                    all.deduplicated,
                ),
                ("posthouse_messages_parked", "Put into a parking queue.", all.parked),
                (
                    "posthouse_messages_parked_lost",
                    "Dropped by a parking queue, full or after their time.",
                    all.parked_lost,
                ),
            ],
        )
    }

    fn encode_dead_letters(&self, e: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = &self.snapshot.since_start;
        let labels =
            [("queue_type", "rabbit_classic_queue"), ("dead_letter_strategy", "at_least_once")];
        labelled_counters(
            e,
            &labels,
            &[
                (
                    "dead_lettered_expired",
                    "Dead-lettered after their time.",
                    all.dead_lettered_expired,
                ),
                (
                    "dead_lettered_rejected",
                    "Dead-lettered by consumers.",
                    all.dead_lettered_rejected,
                ),
                (
                    "dead_lettered_maxlen",
                    "Dead-lettered by a full queue.",
                    all.dead_lettered_maxlen,
                ),
                (
                    "dead_lettered_delivery_limit",
                    "Delivered too often.",
                    all.dead_lettered_delivery_limit,
                ),
            ],
        )
    }

    fn encode_delivery(&self, e: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let delivery = &self.snapshot.delivery;
        counters(
            e,
            &[
                ("posthouse_delivery_attempts", "Attempts that ended.", delivery.attempts),
                ("posthouse_delivery_delivered", "Sent to subscribers.", delivery.delivered),
                ("posthouse_delivery_failed", "Failed, to be repeated.", delivery.failed),
                ("posthouse_delivery_given_up", "Dead-lettered or dropped.", delivery.given_up),
                ("posthouse_delivery_filtered", "Not matched by a filter.", delivery.filtered),
                (
                    "posthouse_delivery_filter_errors",
                    "Filters without an answer.",
                    delivery.unanswered,
                ),
                ("posthouse_delivery_answers", "Sent to reply-to.", delivery.answers),
                (
                    "posthouse_delivery_answers_nowhere",
                    "Answers with nowhere to go.",
                    delivery.answers_nowhere,
                ),
                ("posthouse_delivery_settled_later", "Settled later.", delivery.settled_later),
            ],
        )?;
        gauges(
            e,
            &[
                ("posthouse_delivery_running", "Attempts that run.", delivery.running),
                ("posthouse_delivery_waiting", "Subscriptions that wait.", delivery.waiting),
                ("posthouse_delivery_unsettled", "To be settled later.", delivery.unsettled),
                ("posthouse_delivery_resting", "Endpoints left alone.", delivery.resting),
            ],
        )
    }

    fn encode_inbox(&self, e: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let inbox = &self.snapshot.inbox;
        counters(
            e,
            &[
                ("posthouse_inbox_accepted", "New messages taken.", inbox.accepted),
                ("posthouse_inbox_duplicates", "Messages taken before.", inbox.duplicates),
                ("posthouse_inbox_refused", "Requests refused: 4xx.", inbox.refused),
                ("posthouse_inbox_unroutable", "Nobody takes them: 500.", inbox.unroutable),
                ("posthouse_inbox_unavailable", "Not taken now: 503.", inbox.unavailable),
            ],
        )?;
        gauges(e, &[("posthouse_inbox_connections", "Connections open.", inbox.connections)])
    }

    fn encode_store(&self, e: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let store = &self.snapshot.store;
        counters(
            e,
            &[
                ("posthouse_store_bytes_written", "Written to the log.", store.bytes_written),
                ("posthouse_store_commits", "Commits accepted.", store.commits),
                (
                    "posthouse_store_records_damaged",
                    "Records found damaged.",
                    store.records_damaged,
                ),
            ],
        )?;
        gauges(
            e,
            &[
                ("posthouse_store_disk_bytes", "Size of the log on disk.", store.disk_bytes),
                ("posthouse_store_segments", "Segments of the log.", store.segments),
            ],
        )?;
        let help = "How long the disk took to make writes durable.";
        let mut encoder =
            e.encode_descriptor("posthouse_store_sync_seconds", help, None, MetricType::Histogram)?;
        encoder.encode_histogram::<[(&str, &str); 0]>(
            store.syncs.total.as_secs_f64(),
            store.syncs.count(),
            &buckets(&store.syncs),
            None,
        )
    }
}

/// RabbitMQ counts messages by protocol; AMQP 0-9-1 is called so.
const PROTOCOL: [(&str, &str); 1] = [("protocol", "amqp091")];

pub(super) type Row = (&'static str, &'static str, u64);

pub(super) fn gauges(e: &mut DescriptorEncoder<'_>, rows: &[Row]) -> Result<(), fmt::Error> {
    for (name, help, value) in rows {
        e.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(value)?;
    }
    Ok(())
}

/// Counters; the format adds `_total` to their names.
fn counters(e: &mut DescriptorEncoder<'_>, rows: &[Row]) -> Result<(), fmt::Error> {
    for (name, help, value) in rows {
        e.encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<[(&str, &str); 0], _, u64>(value, None)?;
    }
    Ok(())
}

/// Counters of `rabbitmq_global_messages_…` with labels.
fn labelled_counters(
    e: &mut DescriptorEncoder<'_>,
    labels: &impl EncodeLabelSet,
    rows: &[Row],
) -> Result<(), fmt::Error> {
    for (name, help, value) in rows {
        let name = format!("rabbitmq_global_messages_{name}");
        e.encode_descriptor(&name, help, None, MetricType::Counter)?
            .encode_family(labels)?
            .encode_counter::<[(&str, &str); 0], _, u64>(value, None)?;
    }
    Ok(())
}

fn buckets(durations: &SyncTimes) -> Vec<(f64, u64)> {
    SYNC_BOUNDS_SECS.into_iter().chain([f64::INFINITY]).zip(durations.counts).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Standing, StoreNumbers, Totals};
    use super::*;

    fn text(snapshot: Snapshot) -> String {
        let identity = Identity {
            node: "posthouse@here".to_owned(),
            cluster: "here".to_owned(),
            rabbitmq_version: "4.3.0".to_owned(),
            version: "0.0.0",
        };
        let readings =
            Readings { memory_resident: 7, memory_limit: 8, disk_free: 9, disk_limit: 10 };
        let raised = Raised { memory: false, disk: true };
        let process = ProcessNumbers { readings, raised, fds_open: 1, fds_max: 2, uptime_secs: 3 };
        overall(&identity, process, snapshot).unwrap()
    }

    #[test]
    fn rabbitmqs_names_are_there_with_their_values() {
        let now = Standing {
            connections: 3,
            messages_ready: 5,
            messages_unacked: 2,
            ..Standing::default()
        };
        let since_start = Totals { received: 11, connections_opened: 4, ..Totals::default() };

        let text = text(Snapshot { now, since_start, ..Snapshot::default() });

        for line in [
            "rabbitmq_build_info{rabbitmq_version=\"4.3.0\",posthouse_version=\"0.0.0\"} 1",
            "rabbitmq_connections 3",
            "rabbitmq_queue_messages 7",
            "rabbitmq_global_messages_received_total{protocol=\"amqp091\"} 11",
            "rabbitmq_connections_opened_total 4",
            "rabbitmq_alarms_free_disk_space_watermark 1",
            "rabbitmq_process_resident_memory_bytes 7",
            "# EOF",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn no_name_is_described_twice() {
        let text = text(Snapshot::default());
        let mut names: Vec<_> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let before = names.len();

        names.sort_unstable();
        names.dedup();

        assert_eq!(names.len(), before);
    }

    #[test]
    fn syncs_are_a_histogram_whose_last_bucket_holds_all() {
        let mut store = StoreNumbers::default();
        store.syncs.counts[4] = 1;
        store.syncs.counts[12] = 1;

        let text = text(Snapshot { store, ..Snapshot::default() });

        assert!(text.contains("posthouse_store_sync_seconds_bucket{le=\"0.0025\"} 1\n"), "{text}");
        assert!(text.contains("posthouse_store_sync_seconds_bucket{le=\"+Inf\"} 2\n"));
        assert!(text.contains("posthouse_store_sync_seconds_count 2\n"));
    }
}
