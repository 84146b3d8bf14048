//! The deadlines of one connection: handshake, heartbeats in both directions, the wait for a close to be answered.

use std::time::{Duration, Instant};

/// Times told by the owner, and what follows from them.
#[derive(Debug)]
pub(crate) struct Timers {
    /// The latest time heard of.
    now: Instant,
    received: Instant,
    sent: Instant,
    /// Agreed interval; `None` if heartbeats are off.
    heartbeat: Option<Duration>,
    reading: Reading,
    /// Until when the handshake, or the answer to a close, has time.
    until: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Silence counts.
    Going,
    /// The owner does not read: silence says nothing about the peer.
    Paused,
}

impl Timers {
    pub(crate) fn new(now: Instant, handshake: Duration) -> Self {
        let until = now.checked_add(handshake);
        Self { now, received: now, sent: now, heartbeat: None, reading: Reading::Going, until }
    }

    #[inline]
    pub(crate) const fn received(&mut self, now: Instant) {
        self.now = now;
        self.received = now;
    }

    pub(crate) const fn sent(&mut self, now: Instant) {
        self.now = now;
        self.sent = now;
    }

    pub(crate) const fn passed(&mut self, now: Instant) {
        self.now = now;
    }

    pub(crate) const fn pause_reading(&mut self) {
        self.reading = Reading::Paused;
    }

    pub(crate) const fn resume_reading(&mut self, now: Instant) {
        self.reading = Reading::Going;
        self.received(now);
    }

    /// Starts heartbeats; 0 seconds are none.
    pub(crate) fn agree(&mut self, heartbeat_secs: u16) {
        self.heartbeat = (heartbeat_secs > 0).then(|| Duration::from_secs(heartbeat_secs.into()));
        self.received = self.now;
        self.sent = self.now;
    }

    pub(crate) const fn heartbeat(&self) -> Option<Duration> {
        self.heartbeat
    }

    /// The handshake is over, or nothing more is to come.
    pub(crate) const fn clear_deadline(&mut self) {
        self.until = None;
    }

    pub(crate) fn set_deadline(&mut self, wait: Duration) {
        self.until = self.now.checked_add(wait);
    }

    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.until
    }

    pub(crate) fn deadline_has_passed(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// When to send a heartbeat unless something else is sent: half an interval after the last octet.
    pub(crate) fn beat_at(&self) -> Option<Instant> {
        self.sent.checked_add(self.heartbeat? / 2)
    }

    /// When the peer is taken for dead: RabbitMQ needs between two and three intervals to find out, we two and a half.
    pub(crate) fn dead_at(&self) -> Option<Instant> {
        match self.reading {
            Reading::Going => self.received.checked_add(self.heartbeat? * 5 / 2),
            Reading::Paused => None,
        }
    }
}
