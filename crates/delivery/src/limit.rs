//! How many attempts may run: of one endpoint, of all together, and of those that hang.
//!
//! An endpoint begins with one attempt at a time and earns more by answering. One that fails again and again is left
//! alone for growing times, and one that asks for it for as long as it says. Of all places, those who did not answer last
//! time may have half, and those who have not answered yet may have seven eighths, so that whoever answers always finds a
//! place at once.

use model::Timestamp;

use crate::attempt::{Blame, Outcome};
use crate::retry::RETRY_AFTER_MAX;

/// Failures in a row after which an endpoint is left alone for a while.
const FAILURES_MAX: u32 = 5;

/// For how long at first, doubled with each further failure.
const REST_MS: u64 = 1000;

/// Longest rest of one that fails. One that says itself how long gets at most [`RETRY_AFTER_MAX`].
const REST_MS_MAX: u64 = 60_000;

/// What an endpoint has shown of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has not answered yet.
    Unproven,
    /// It answered last time.
    Proven,
    /// It failed, or did not answer, last time.
    Suspect,
}

/// The limits of one endpoint.
#[derive(Debug)]
pub struct Endpoint {
    running: u32,
    /// How many may run.
    window: u32,
    /// In a row.
    failures: u32,
    resting_until: Timestamp,
    standing: Standing,
}

/// Whether one more attempt may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Go,
    /// As many run as may.
    Full,
    /// The endpoint is left alone until then.
    RestsUntil(Timestamp),
}

impl Default for Endpoint {
    fn default() -> Self {
        Self {
            running: 0,
            window: 1,
            failures: 0,
            resting_until: Timestamp(0),
            standing: Standing::Unproven,
        }
    }
}

impl Endpoint {
    /// Whether one more attempt may begin.
    #[must_use]
    pub fn verdict(&self, now: Timestamp) -> Verdict {
        if self.running >= self.window {
            return Verdict::Full;
        }
        if now < self.resting_until {
            return Verdict::RestsUntil(self.resting_until);
        }
        Verdict::Go
    }

    /// What it has shown of itself.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Attempts that run.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.running
    }

    /// Whether it is left alone.
    #[must_use]
    pub fn rests(&self, now: Timestamp) -> bool {
        now < self.resting_until
    }

    /// An attempt begins.
    pub fn begin(&mut self) {
        self.running += 1;
    }

    /// An attempt ended; at most `window_max` may run at once.
    pub fn end(&mut self, outcome: &Outcome, window_max: u32, now: Timestamp) {
        self.running = self.running.saturating_sub(1);
        let blame = match outcome {
            Outcome::Failed(failure) => failure.blame,
            // Nobody was asked, or an answer came that is about the message.
            Outcome::Delivered
            | Outcome::Answered(_)
            | Outcome::Later(_)
            | Outcome::Hopeless(_) => Blame::Message,
        };
        match blame {
            Blame::Message => {
                self.standing = Standing::Proven;
                self.failures = 0;
                // Who wants to be left alone does not earn more by what was under way.
                if !self.rests(now) {
                    self.window = self.window.saturating_add(1).min(window_max.max(1));
                }
            }
            Blame::Endpoint | Blame::Silence => {
                self.standing = Standing::Suspect;
                self.window = 1;
                self.failures = self.failures.saturating_add(1);
                if let Some(more) = self.failures.checked_sub(FAILURES_MAX) {
                    let rest = REST_MS.saturating_mul(1 << more.min(10)).min(REST_MS_MAX);
                    self.resting_until = now.after_ms(rest);
                }
            }
        }
        if let Outcome::Failed(failure) = outcome
            && let Some(retry_after) = failure.retry_after
        {
            let wait = u64::try_from(retry_after.min(RETRY_AFTER_MAX).as_millis());
            self.resting_until = self.resting_until.max(now.after_ms(wait.unwrap_or(REST_MS_MAX)));
            self.window = 1;
        }
    }
}

/// Places for attempts, over all endpoints.
#[derive(Debug)]
pub struct Places {
    attempts_max: usize,
    bytes_max: usize,
    all: Load,
    unproven: Load,
    suspect: Load,
}

#[derive(Debug, Default, Clone, Copy)]
struct Load {
    attempts: usize,
    bytes: usize,
}

impl Load {
    /// By bytes it may be overdrawn by one message: how long the next one is nobody knows before it is leased.
    fn has_room(self, attempts_max: usize, bytes_max: usize) -> bool {
        self.attempts < attempts_max.max(1) && self.bytes < bytes_max.max(1)
    }

    fn add(&mut self, bytes: usize) {
        self.attempts += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn remove(&mut self, bytes: usize) {
        self.attempts = self.attempts.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// A place that was taken; to be given back.
#[derive(Debug)]
#[must_use = "a place that is not given back is lost"]
pub struct Place {
    standing: Standing,
    bytes: usize,
}

impl Places {
    /// So many attempts, with so many bytes of messages.
    #[must_use]
    pub fn new(attempts_max: usize, bytes_max: usize) -> Self {
        Self {
            attempts_max,
            bytes_max,
            all: Load::default(),
            unproven: Load::default(),
            suspect: Load::default(),
        }
    }

    /// Whether an endpoint of that standing finds a place.
    #[must_use]
    pub fn has_room(&self, standing: Standing) -> bool {
        let (attempts, bytes) = (self.attempts_max, self.bytes_max);
        self.all.has_room(attempts, bytes)
            && match standing {
                Standing::Proven => true,
                Standing::Unproven => self.unproven.has_room(attempts / 8 * 7, bytes / 8 * 7),
                Standing::Suspect => self.suspect.has_room(attempts / 2, bytes / 2),
            }
    }

    /// Takes a place for a message of so many bytes; ask [`Places::has_room`] first.
    pub fn take(&mut self, standing: Standing, bytes: usize) -> Place {
        self.all.add(bytes);
        if let Some(class) = self.class(standing) {
            class.add(bytes);
        }
        Place { standing, bytes }
    }

    /// Gives a place back.
    #[expect(clippy::needless_pass_by_value, reason = "a place can be given back once")]
    pub fn give_back(&mut self, place: Place) {
        self.all.remove(place.bytes);
        if let Some(class) = self.class(place.standing) {
            class.remove(place.bytes);
        }
    }

    /// Attempts that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.all.attempts
    }

    fn class(&mut self, standing: Standing) -> Option<&mut Load> {
        match standing {
            Standing::Proven => None,
            Standing::Unproven => Some(&mut self.unproven),
            Standing::Suspect => Some(&mut self.suspect),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::attempt::Failure;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn after(outcomes: &[Outcome]) -> Endpoint {
        let mut endpoint = Endpoint::default();
        for outcome in outcomes {
            endpoint.begin();
            endpoint.end(outcome, 4, NOW);
        }
        endpoint
    }

    fn room(endpoint: &mut Endpoint) -> u32 {
        let mut count = 0;
        while endpoint.verdict(NOW) == Verdict::Go {
            endpoint.begin();
            count += 1;
        }
        count
    }

    #[test]
    fn an_endpoint_earns_more_attempts_by_answering() {
        assert_eq!(room(&mut after(&[])), 1);
        assert_eq!(room(&mut after(&[Outcome::Delivered])), 2);
        assert_eq!(room(&mut after(&vec![Outcome::Delivered; 9])), 4);
    }

    #[test]
    fn a_failure_takes_them_away() {
        let mut outcomes = vec![Outcome::Delivered; 9];
        outcomes.push(Outcome::silence("slow"));

        let mut endpoint = after(&outcomes);

        assert_eq!(endpoint.standing(), Standing::Suspect);
        assert_eq!(room(&mut endpoint), 1);
    }

    #[test]
    fn an_endpoint_that_fails_again_and_again_is_left_alone_for_growing_times() {
        let rest = |failures| after(&vec![Outcome::endpoint("refused"); failures]).verdict(NOW);

        assert_eq!(rest(4), Verdict::Go);
        assert_eq!(rest(5), Verdict::RestsUntil(NOW.after_ms(1000)));
        assert_eq!(rest(6), Verdict::RestsUntil(NOW.after_ms(2000)));
        assert_eq!(rest(100), Verdict::RestsUntil(NOW.after_ms(60_000)));
    }

    #[test]
    fn an_answer_about_the_message_says_that_the_endpoint_is_well() {
        let mut outcomes = vec![Outcome::endpoint("refused"); 4];
        outcomes.push(Outcome::failed("400", Blame::Message));

        let endpoint = after(&outcomes);

        assert_eq!((endpoint.standing(), endpoint.verdict(NOW)), (Standing::Proven, Verdict::Go));
    }

    fn asking_for(seconds: u64, blame: Blame) -> Outcome {
        let retry_after = Some(Duration::from_secs(seconds));
        Outcome::Failed(Failure { reason: "later".to_owned(), blame, retry_after })
    }

    #[test]
    fn an_endpoint_can_ask_to_be_left_alone_for_an_hour_at_most() {
        for blame in [Blame::Endpoint, Blame::Message] {
            let rest = |seconds| after(&[asking_for(seconds, blame)]).verdict(NOW);

            assert_eq!(rest(7), Verdict::RestsUntil(NOW.after_ms(7000)));
            assert_eq!(rest(1800), Verdict::RestsUntil(NOW.after_ms(1_800_000)));
            assert_eq!(rest(100_000), Verdict::RestsUntil(NOW.after_ms(3_600_000)));
        }
    }

    #[test]
    fn after_that_it_begins_with_one_attempt_whatever_was_answered_meanwhile() {
        let mut outcomes = vec![Outcome::Delivered; 9];
        outcomes.push(asking_for(7, Blame::Message));
        let mut endpoint = after(&outcomes);
        endpoint.begin();
        endpoint.end(&Outcome::Delivered, 4, NOW.after_ms(1));

        let later = NOW.after_ms(7000);

        assert_eq!(endpoint.verdict(NOW.after_ms(6999)), Verdict::RestsUntil(later));
        assert_eq!(endpoint.verdict(later), Verdict::Go);
        endpoint.begin();
        assert_eq!(endpoint.verdict(later), Verdict::Full);
    }

    #[test]
    fn whoever_answers_finds_a_place_however_many_hang() {
        let taken = |places: &mut Places, standing| {
            let mut count = 0;
            while places.has_room(standing) {
                // Never given back: they hang.
                drop(places.take(standing, 1));
                count += 1;
            }
            count
        };

        let mut places = Places::new(16, 1600);
        assert_eq!(taken(&mut places, Standing::Suspect), 8);
        assert_eq!(taken(&mut places, Standing::Proven), 8);
        let mut places = Places::new(16, 1600);
        assert_eq!(taken(&mut places, Standing::Unproven), 14);
        assert_eq!(taken(&mut places, Standing::Proven), 2);
    }

    #[test]
    fn places_are_bounded_by_bytes_as_well_and_come_back() {
        let mut places = Places::new(16, 100);

        let first = places.take(Standing::Proven, 500);
        assert!(!places.has_room(Standing::Proven));
        places.give_back(first);

        assert!(places.has_room(Standing::Proven));
        assert_eq!(places.running(), 0);
    }
}
