//! When the next group is worth a wait: whoever was answered with the last one often has the next commit ready in a moment,
//! and one sync for all costs less than two for a part each.
//!
//! Clients that wait for every answer fall into two halves otherwise, each of which waits for the other's sync as well.
//! Where syncs are fast the halves keep processors and disk busy at the same time, and nothing is gained. The wait is a
//! part of what a sync takes, ends when everybody is there, and is tried less and less often where it is in vain.

use std::time::Duration;

/// Where syncs take less, groups go at once.
const SYNC_MIN: Duration = Duration::from_micros(400);

/// Longest wait.
const WAIT_MAX: Duration = Duration::from_millis(1);

/// After waits in vain, one after the other, so many groups go at once: 2 to the power of their number, at most this.
const MISSES_MAX: u32 = 7;

/// A wait for other commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    /// It ends when so many commits are in the group.
    pub(crate) commits: u32,
    /// It ends in any case after this.
    pub(crate) at_most: Duration,
}

/// What was learned of the groups so far.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    /// Commits that the next group could hold: those of the last one and those that came during its sync.
    expected: u32,
    /// What a sync takes, smoothed over the last dozen.
    sync: Duration,
    /// Waits in vain, one after the other.
    misses: u32,
    /// Groups that go at once before the next wait.
    at_once: u32,
}

impl Gather {
    /// What to wait for with so many commits in the group; `None` if it is to go at once.
    pub(crate) fn wait(&mut self, present: u32) -> Option<Wait> {
        if self.sync < SYNC_MIN || present == 0 || present >= self.expected {
            return None;
        }
        if self.at_once > 0 {
            self.at_once -= 1;
            return None;
        }
        Some(Wait { commits: self.expected, at_most: (self.sync / 2).min(WAIT_MAX) })
    }

    /// Learns whether everybody came.
    pub(crate) fn waited(&mut self, complete: bool) {
        self.misses = if complete { 0 } else { (self.misses + 1).min(MISSES_MAX) };
        self.at_once = (1 << self.misses) - 1;
    }

    /// Learns of a sync: how many commits it was for, how long it took, how many came meanwhile.
    pub(crate) fn synced(&mut self, commits: u32, time: Duration, meanwhile: u32) {
        self.expected = commits.saturating_add(meanwhile);
        self.sync = (self.sync * 7 + time) / 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_millis(4);

    fn after_slow_syncs(commits: u32, meanwhile: u32) -> Gather {
        let mut gather = Gather::default();
        for _ in 0..20 {
            gather.synced(commits, SLOW, meanwhile);
        }
        gather
    }

    #[test]
    fn a_group_waits_for_those_who_were_answered_with_the_last_one() {
        let mut gather = after_slow_syncs(4, 4);

        let wait = gather.wait(4).unwrap();

        assert_eq!(wait, Wait { commits: 8, at_most: WAIT_MAX });
        assert_eq!(gather.wait(8), None, "everybody is there");
    }

    #[test]
    fn one_who_waits_for_each_answer_is_never_kept_waiting() {
        assert_eq!(after_slow_syncs(1, 0).wait(1), None);
    }

    #[test]
    fn fast_syncs_are_not_waited_for() {
        let mut gather = after_slow_syncs(4, 4);
        for _ in 0..40 {
            gather.synced(4, SYNC_MIN / 2, 4);
        }

        assert_eq!(gather.wait(4), None);
    }

    #[test]
    fn waits_in_vain_become_rare_and_come_back_when_they_pay() {
        let mut gather = after_slow_syncs(4, 4);
        let mut waits = 0;
        for _ in 0..1000 {
            if gather.wait(4).is_some() {
                waits += 1;
                gather.waited(false);
            }
        }
        assert!((7..=20).contains(&waits), "{waits} of 1000 groups waited");

        while gather.wait(4).is_none() {}
        gather.waited(true);

        assert!(gather.wait(4).is_some());
    }
}
