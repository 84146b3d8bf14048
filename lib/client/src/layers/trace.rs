//! A span per message, as part of the trace that its headers name (W3C trace context).

use tracing::Instrument;

use super::{Answered, Around, Inner};
use crate::consumer::BoxError;
use crate::delivery::Delivery;
use crate::outcome::Outcome;
use crate::trace::TraceContext;

/// Runs each handler in a `tracing` span with the trace's identity, and makes what the handler publishes part of the same
/// trace. A message without `traceparent` begins one.
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceLayer;

impl TraceLayer {
    /// The layer.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Around for TraceLayer {
    fn around<S: Inner>(&self, mut inner: S, delivery: Delivery) -> Answered {
        let parent: Option<TraceContext> =
            delivery.header("traceparent").and_then(|text| text.parse().ok());
        let mut context = parent.as_ref().map_or_else(TraceContext::begin, TraceContext::child);
        context.state = delivery.header("tracestate").map(str::to_owned);
        let span = tracing::info_span!(
            "message",
            queue = delivery.queue(),
            attempt = delivery.attempt(),
            message_id = delivery.message_id().unwrap_or_default(),
            trace_id = format!("{:032x}", context.trace_id),
            span_id = format!("{:016x}", context.span_id),
            parent_span_id = parent.map(|parent| format!("{:016x}", parent.span_id)),
            outcome = tracing::field::Empty,
        );
        let recorded = span.clone();
        let handled = async move {
            let outcome = inner.call(delivery).await;
            recorded.record("outcome", name(&outcome));
            outcome
        };
        Box::pin(context.scope(handled.instrument(span)))
    }
}

const fn name(outcome: &Result<Outcome, BoxError>) -> &'static str {
    match outcome {
        Ok(Outcome::Ack) => "ack",
        Ok(Outcome::Reply(_)) => "reply",
        Ok(Outcome::Retry { .. }) | Err(_) => "retry",
        Ok(Outcome::Pause { .. }) => "pause",
        Ok(Outcome::Dead { .. }) => "dead",
        Ok(Outcome::Drop { .. }) => "drop",
        Ok(Outcome::Release) => "release",
        Ok(Outcome::Conflict { .. }) => "conflict",
        Ok(Outcome::Later(_)) => "later",
    }
}
