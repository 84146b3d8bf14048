//! Time that stands still while the machine does.
//!
//! How long the broker had for something is counted in passes of a thread of this process. Where the whole machine stops
//! for a while, broker and rig alike, that is one pass, and nothing that waited in a buffer meanwhile looks old.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long the thread sleeps in a pass.
const PASS: Duration = Duration::from_millis(10);

/// Passes of this process so far.
static PASSES: AtomicU64 = AtomicU64::new(0);

/// A moment, as the number of passes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(u64);

impl Tick {
    /// This moment. The first call begins the count.
    pub(crate) fn now() -> Self {
        static COUNT: Once = Once::new();
        COUNT.call_once(|| {
            std::thread::spawn(|| {
                loop {
                    std::thread::sleep(PASS);
                    PASSES.fetch_add(1, Ordering::SeqCst);
                }
            });
        });
        Self(PASSES.load(Ordering::SeqCst))
    }

    /// The time from another moment to this one, without what the machine stood still; zero if the other is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        let passes = self.0.saturating_sub(earlier.0);
        PASS.saturating_mul(u32::try_from(passes).unwrap_or(u32::MAX))
    }

    /// The time from this moment until now.
    pub(crate) fn elapsed(self) -> Duration {
        Self::now().since(self)
    }
}

#[cfg(test)]
impl Tick {
    /// The first one.
    pub(crate) const ZERO: Self = Self(0);

    /// The moment that much later.
    pub(crate) fn after(self, time: Duration) -> Self {
        Self(self.0 + u64::try_from(time.as_millis() / PASS.as_millis()).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_go_on() {
        let began = Tick::now();
        while began.elapsed() < 2 * PASS {
            std::thread::yield_now();
        }

        assert_eq!(began.after(PASS).since(began), PASS);
        assert_eq!(began.since(Tick::now()), Duration::ZERO);
    }
}
