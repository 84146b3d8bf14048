//! What `/metrics/per-object` shows: the numbers of each queue.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::QueueSample;
use super::exposition::{gauges, write};

/// Writes the numbers of each queue; `total` is how many queues there are, shown or not.
///
/// # Errors
///
/// None in practice, as a string takes all that is written.
pub(super) fn per_queue(queues: Vec<QueueSample>, total: usize) -> Result<String, fmt::Error> {
    write(PerQueue { queues, total: total as u64 })
}

#[derive(Debug)]
struct PerQueue {
    queues: Vec<QueueSample>,
    total: u64,
}

impl Collector for PerQueue {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let e = &mut encoder;
        let omitted = self.total.saturating_sub(self.queues.len() as u64);
        gauges(
            e,
            &[("posthouse_metrics_queues_omitted", "Queues that are not shown here.", omitted)],
        )?;
        self.each(e, "rabbitmq_queue_messages_ready", MetricType::Gauge, |queue| {
            queue.messages_ready
        })?;
        self.each(e, "rabbitmq_queue_messages_unacked", MetricType::Gauge, |queue| {
            queue.messages_unacked
        })?;
        self.each(e, "rabbitmq_queue_messages", MetricType::Gauge, |queue| {
            queue.messages_ready.saturating_add(queue.messages_unacked)
        })?;
        self.each(e, "rabbitmq_queue_messages_bytes", MetricType::Gauge, |queue| {
            queue.message_bytes
        })?;
        self.each(e, "rabbitmq_queue_consumers", MetricType::Gauge, |queue| queue.consumers)?;
        self.each(e, "rabbitmq_queue_messages_published", MetricType::Counter, |queue| {
            queue.published
        })?;
        self.each(e, "posthouse_queue_messages_delivered", MetricType::Counter, |queue| {
            queue.delivered
        })?;
        self.each(e, "posthouse_queue_messages_redelivered", MetricType::Counter, |queue| {
            queue.redelivered
        })?;
        self.each(e, "posthouse_queue_messages_acknowledged", MetricType::Counter, |queue| {
            queue.acknowledged
        })
    }
}

impl PerQueue {
    fn each(
        &self,
        e: &mut DescriptorEncoder<'_>,
        name: &str,
        metric_type: MetricType,
        value: impl Fn(&QueueSample) -> u64,
    ) -> Result<(), fmt::Error> {
        let is_counter = matches!(metric_type, MetricType::Counter);
        let mut metric = e.encode_descriptor(name, "Of one queue.", None, metric_type)?;
        for queue in &self.queues {
            let labels = [("vhost", queue.tenant.as_str()), ("queue", queue.queue.as_str())];
            let mut sample = metric.encode_family(&labels)?;
            if is_counter {
                sample.encode_counter::<[(&str, &str); 0], _, u64>(&value(queue), None)?;
            } else {
                sample.encode_gauge(&value(queue))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_cannot_break_the_format_by_its_name() {
        let queue = QueueSample {
            queue: "a\"} 9\n\\".to_owned(),
            tenant: "/".to_owned(),
            ..QueueSample::default()
        };

        let text = per_queue(vec![queue], 3).unwrap();

        assert!(
            text.contains(
                "rabbitmq_queue_messages_ready{vhost=\"/\",queue=\"a\\\"} 9\\n\\\\\"} 0\n"
            ),
            "{text}"
        );
        assert!(text.contains("posthouse_metrics_queues_omitted 2\n"));
    }
}
