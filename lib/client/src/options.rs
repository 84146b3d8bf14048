//! What an application decides about its connections.

use std::time::Duration;

/// Limits and times of a client; each has a default that suits most.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Name of the connection, shown by brokers. Default: `posthouse-client`.
    pub name: String,
    /// Most messages that wait to be confirmed, sent or not. Publishing waits for room while the broker is there and
    /// fails at once while it is away. Default: 10,000.
    pub unconfirmed_max: usize,
    /// Most bytes of those. Default: 64 MiB.
    pub unconfirmed_bytes_max: usize,
    /// How long a publish waits for its confirm unless it says otherwise. Default: 30 s.
    pub confirm_timeout: Duration,
    /// How long a question (declare, purge, count) waits for its answer. Default: 30 s.
    pub answer_timeout: Duration,
    /// First pause before a lost connection is tried again; doubled each time, with jitter. Default: 200 ms.
    pub reconnect_first: Duration,
    /// Longest such pause. Default: 30 s.
    pub reconnect_max: Duration,
    /// How long [`crate::Client::close`] and a graceful stop take at most. The last tenth of it, at most a second, is kept
    /// for settling and saying goodbye; until then they wait for what is under way. Default: 30 s.
    pub drain_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "posthouse-client".to_owned(),
            unconfirmed_max: 10_000,
            unconfirmed_bytes_max: 64 * 1024 * 1024,
            confirm_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(30),
            reconnect_first: Duration::from_millis(200),
            reconnect_max: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl Options {
    /// The same with another name of the connection.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The same with other bounds of what waits for confirms.
    #[must_use]
    pub const fn unconfirmed(mut self, messages_max: usize, bytes_max: usize) -> Self {
        self.unconfirmed_max = messages_max;
        self.unconfirmed_bytes_max = bytes_max;
        self
    }

    /// The same with another wait for confirms.
    #[must_use]
    pub const fn confirm_within(mut self, timeout: Duration) -> Self {
        self.confirm_timeout = timeout;
        self
    }

    /// The same with other pauses between attempts to connect.
    #[must_use]
    pub const fn reconnect(mut self, first: Duration, max: Duration) -> Self {
        self.reconnect_first = first;
        self.reconnect_max = max;
        self
    }

    /// The same with another time for a graceful end.
    #[must_use]
    pub const fn drain_within(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }
}
