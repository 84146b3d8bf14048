//! W3C trace context: which request a message belongs to, in the headers `traceparent` and `tracestate`.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

/// Where in a trace something happens (W3C Trace Context level 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// The whole trace; never 0.
    pub trace_id: u128,
    /// The span that others name as their parent; never 0.
    pub span_id: u64,
    /// Bit 0: sampled.
    pub flags: u8,
    /// What vendors have added, passed on as it came.
    pub state: Option<String>,
}

tokio::task_local! {
    static CURRENT: RefCell<Option<TraceContext>>;
}

impl TraceContext {
    /// A trace that begins here.
    #[must_use]
    pub fn begin() -> Self {
        Self { trace_id: random() | 1, span_id: random_span(), flags: 1, state: None }
    }

    /// A step of the same trace.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span_id: random_span(), ..self.clone() }
    }

    /// What the running handler belongs to; what it publishes belongs to the same trace.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
    }

    /// Runs something as a part of this trace.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(RefCell::new(Some(self)), future).await
    }
}

fn random() -> u128 {
    uuid::Uuid::new_v4().as_u128()
}

fn random_span() -> u64 {
    // The lower half of a random identity has two fixed bits in front.
    u64::try_from(random() & u128::from(u64::MAX)).unwrap_or(1)
}

/// As `traceparent` is written.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// The text is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("traceparent must be 00-(32 hexadecimal digits)-(16)-(2), with no part all zero")]
pub struct TraceError;

impl FromStr for TraceContext {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        let mut parts = text.split('-');
        let mut part = |digits: usize| {
            let part = parts.next().ok_or(TraceError)?;
            let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            let good = part.len() == digits && part.bytes().all(hex);
            good.then_some(part).ok_or(TraceError)
        };
        let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        // Later versions may have more parts; version ff is none.
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return Err(TraceError);
        }
        let trace_id = u128::from_str_radix(trace, 16).map_err(|_| TraceError)?;
        let span_id = u64::from_str_radix(span, 16).map_err(|_| TraceError)?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| TraceError)?;
        if trace_id == 0 || span_id == 0 {
            return Err(TraceError);
        }
        Ok(Self { trace_id, span_id, flags, state: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read_as_it_is_written() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

        let context: TraceContext = text.parse().unwrap();

        assert_eq!(context.to_string(), text);
        let child = context.child();
        assert_eq!(child.trace_id, context.trace_id);
        assert_ne!(child.span_id, context.span_id);
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        for text in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(text.parse::<TraceContext>(), Err(TraceError), "{text}");
        }
    }

    #[tokio::test]
    async fn what_runs_in_a_trace_knows_it() {
        let context = TraceContext::begin();

        let seen = context.clone().scope(async { TraceContext::current() }).await;

        assert_eq!(seen, Some(context));
        assert_eq!(TraceContext::current(), None);
    }
}
