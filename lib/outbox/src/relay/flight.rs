//! One message on its way, and what waits behind it in its key.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::FutureExt as _;
use tokio::sync::{Semaphore, SemaphorePermit};
use uuid::Uuid;

use super::Shared;
use crate::dialect::{Leased, Letter, Outcome, Settlement};
use crate::transport::{Exit, SendError};

/// Longest text about a failure that is kept, in bytes.
const ERROR_BYTES_MAX: usize = 1000;

/// A message that has landed, and those behind it.
pub(crate) struct Flight {
    pub(crate) settlement: Settlement,
    pub(crate) rest: VecDeque<Leased>,
    pub(crate) key: Option<String>,
    /// More of the key may stand behind this one.
    pub(crate) is_followed: bool,
    pub(crate) leased_at: Instant,
}

/// Sends a message, if it is still to be sent.
pub(crate) async fn fly(
    shared: Arc<Shared>,
    first: Leased,
    rest: VecDeque<Leased>,
    leased_at: Instant,
) -> Flight {
    // A panic would end the lane, and with it all that it has under way and is yet to find.
    let attempt = AssertUnwindSafe(attempt(&shared, &first, leased_at)).catch_unwind();
    let outcome = match attempt.await {
        Ok(outcome) => outcome,
        Err(panic) => failed(&shared, &first.letter, &said(&*panic), None),
    };
    count(&shared, &outcome);
    let settlement = Settlement { id: first.letter.id, lease: first.lease, outcome };
    let is_followed = first.is_followed;
    Flight { settlement, rest, key: first.letter.key, is_followed, leased_at }
}

async fn attempt(shared: &Shared, leased: &Leased, leased_at: Instant) -> Outcome {
    if let Some(outcome) = untried(shared, leased, leased_at) {
        return outcome;
    }
    let letter = &leased.letter;
    let Some(exit) = shared.routes.exit(&letter.source, &letter.topic) else {
        let error =
            format!("no transport for source `{}` and topic `{}`", letter.source, letter.topic);
        return failed(shared, letter, &error, None);
    };
    let _turn = match &exit.turns {
        None => None,
        Some(turns) => match turn(shared, turns, leased_at).await {
            Some(turn) => Some(turn),
            None => return Outcome::Release { wait: Duration::ZERO },
        },
    };
    // Its turn may have come late.
    if let Some(outcome) = untried(shared, leased, leased_at) {
        return outcome;
    }
    if let Some(wait) = exit.gate.rest() {
        return Outcome::Release { wait };
    }
    send(shared, letter, exit).await
}

/// What becomes of a message that is not to be sent now.
fn untried(shared: &Shared, leased: &Leased, leased_at: Instant) -> Option<Outcome> {
    let letter = &leased.letter;
    if leased.expired || letter.expires_in.is_some_and(|left| left <= leased_at.elapsed()) {
        return Some(Outcome::Expired);
    }
    if let Some(error) = &leased.broken {
        return Some(Outcome::Dead { error: plain(error) });
    }
    if letter.attempt > shared.settings.schedule.attempts {
        // Each of these attempts began and none ended: whoever made them may have died of it.
        let error = "all attempts began and none ended; the relay was killed or crashed meanwhile";
        return Some(Outcome::Dead { error: error.to_owned() });
    }
    let is_late = leased_at.elapsed() > sent_before(shared);
    is_late.then_some(Outcome::Release { wait: Duration::ZERO })
}

/// How long after it was leased a message may still be sent. A lease that may end before the answer comes would have the
/// message sent by two at a time.
fn sent_before(shared: &Shared) -> Duration {
    shared.settings.lease.saturating_sub(shared.settings.send_timeout)
}

/// Waits for a message's turn, as long as it can still be sent then; `None` if its turn does not come.
async fn turn<'a>(
    shared: &Shared,
    turns: &'a Semaphore,
    leased_at: Instant,
) -> Option<SemaphorePermit<'a>> {
    if let Ok(turn) = turns.try_acquire() {
        return Some(turn);
    }
    let mut stopping = shared.stopping.subscribe();
    let late = leased_at + sent_before(shared);
    tokio::select! {
        turn = turns.acquire() => turn.ok(),
        () = tokio::time::sleep_until(late.into()) => None,
        // Whoever runs next need not wait for the lease to end.
        _ = stopping.wait_for(|stopping| *stopping) => None,
    }
}

async fn send(shared: &Shared, letter: &Letter, exit: &Exit) -> Outcome {
    let sent = tokio::time::timeout(shared.settings.send_timeout, exit.transport.send(letter));
    match sent.await {
        Ok(Ok(())) => {
            opened(exit);
            Outcome::Delivered
        }
        Ok(Err(SendError::Unavailable(error))) => {
            let (wait, is_new) = exit.gate.close();
            if is_new {
                tracing::warn!(error, transport = ?exit.transport, "the far end is away; its messages wait");
            }
            Outcome::Release { wait }
        }
        Ok(Err(SendError::Refused(error))) => {
            opened(exit);
            tracing::error!(id = %letter.id, topic = letter.topic, error, "message refused and given up");
            Outcome::Dead { error: plain(&error) }
        }
        Ok(Err(SendError::Retry(error))) => {
            opened(exit);
            failed(shared, letter, &error, None)
        }
        Ok(Err(SendError::RetryAfter { wait, error })) => {
            opened(exit);
            failed(shared, letter, &error, Some(wait))
        }
        Err(_) => {
            let error = format!("no answer within {:?}", shared.settings.send_timeout);
            failed(shared, letter, &error, None)
        }
    }
}

fn opened(exit: &Exit) {
    if exit.gate.open() {
        tracing::info!(transport = ?exit.transport, "the far end is back");
    }
}

fn failed(shared: &Shared, letter: &Letter, error: &str, wished: Option<Duration>) -> Outcome {
    let schedule = &shared.settings.schedule;
    let Some(wait) = schedule.wait(letter.attempt, luck()) else {
        tracing::error!(id = %letter.id, topic = letter.topic, attempts = letter.attempt, error, "message given up");
        return Outcome::Dead { error: plain(error) };
    };
    let wait = wished.map_or(wait, |wished| wished.min(schedule.cap).max(wait));
    tracing::debug!(id = %letter.id, topic = letter.topic, attempt = letter.attempt, error, ?wait, "not sent");
    Outcome::Retry { wait, error: plain(error) }
}

/// What a panic says.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the transport panicked: {}", text.unwrap_or("without a text"))
}

/// A failure's text as every database takes it.
fn plain(error: &str) -> String {
    let mut end = error.len().min(ERROR_BYTES_MAX);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    error.get(..end).unwrap_or_default().replace('\0', "\u{fffd}")
}

/// Between 0 and 1; a coincidence is no harm.
fn luck() -> f64 {
    let [a, b, c, d, ..] = *Uuid::new_v4().as_bytes();
    f64::from(u32::from_be_bytes([a, b, c, d])) / f64::from(u32::MAX)
}

fn count(shared: &Shared, outcome: &Outcome) {
    let counters = &shared.counters;
    let counter = match outcome {
        Outcome::Delivered => &counters.delivered,
        Outcome::Retry { .. } => &counters.failed,
        Outcome::Dead { .. } => &counters.dead,
        Outcome::Expired => &counters.expired,
        Outcome::Release { .. } => &counters.released,
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_error_is_cut_between_characters_and_has_no_nul() {
        let error = format!("\0{}ü", "x".repeat(ERROR_BYTES_MAX - 2));

        let plain = plain(&error);

        assert!(plain.starts_with('\u{fffd}') && plain.ends_with('x'));
    }
}
