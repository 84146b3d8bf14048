//! Which fault is next, and how long it lasts: decided by the seed, before anything is done.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::crash::random::Random;

/// Longest pause, stall and absence: longer than the leases of the relays.
const LONG_MS: u64 = 6_000;

/// What is done, and to which of those that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `SIGKILL` of a process, which then stays away.
    Kill { whom: usize, away: Duration },
    /// `SIGSTOP`, and `SIGCONT` later.
    Pause { whom: usize, lasts: Duration },
    /// A wire is cut: connections are gone, new ones are refused for a while.
    Cut { wire: usize, lasts: Duration },
    /// A wire passes nothing on for a while; then it goes on, or its connections are lost.
    Stall { wire: usize, lasts: Duration, then_lost: bool },
    /// A disk is full for a while, to its last block or to where alarms begin.
    Disk { disk: usize, lasts: Duration, to_the_last_block: bool },
}

/// How many there are to choose from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Targets {
    pub(crate) processes: usize,
    pub(crate) wires: usize,
    pub(crate) disks: usize,
}

/// How often each kind of fault has struck whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally(BTreeMap<&'static str, BTreeMap<String, u64>>);

impl Fault {
    /// The next one.
    pub(crate) fn choose(random: &mut Random, targets: Targets) -> Self {
        let below = |random: &mut Random, count: usize| {
            usize::try_from(random.below(count as u64)).unwrap_or_default()
        };
        match random.below(if targets.disks > 0 { 14 } else { 12 }) {
            0..5 => Self::Kill { whom: below(random, targets.processes), away: short(random) },
            5..8 => Self::Pause { whom: below(random, targets.processes), lasts: any(random) },
            8..10 => Self::Cut { wire: below(random, targets.wires), lasts: short(random) },
            10..12 => Self::Stall {
                wire: below(random, targets.wires),
                lasts: any(random),
                then_lost: random.one_in(2),
            },
            _ => Self::Disk {
                disk: below(random, targets.disks),
                lasts: any(random),
                to_the_last_block: random.one_in(2),
            },
        }
    }

    /// What it is called in the count.
    const fn kind(self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::Pause { .. } => "pause",
            Self::Cut { .. } => "cut",
            Self::Stall { .. } => "stall",
            Self::Disk { .. } => "full disk",
        }
    }
}

impl Tally {
    /// Counts one that has struck somebody.
    pub(crate) fn count(&mut self, fault: Fault, whom: String) {
        *self.0.entry(fault.kind()).or_default().entry(whom).or_default() += 1;
    }

    /// All of them.
    pub(crate) fn sum(&self) -> u64 {
        self.0.values().flat_map(BTreeMap::values).sum()
    }
}

/// `cut 2 (a wire 2); kill 3 (broker 1, relay-1 2)`
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (kind, struck)) in self.0.iter().enumerate() {
            let before = if number > 0 { "; " } else { "" };
            write!(f, "{before}{kind} {}", struck.values().sum::<u64>())?;
            let each: Vec<_> = struck.iter().map(|(whom, n)| format!("{whom} {n}")).collect();
            write!(f, " ({})", each.join(", "))?;
        }
        Ok(())
    }
}

fn short(random: &mut Random) -> Duration {
    Duration::from_millis(random.below(1_000))
}

/// Mostly short; one in eight longer than a lease.
fn any(random: &mut Random) -> Duration {
    match random.one_in(8) {
        true => Duration::from_millis(random.between(3_000, LONG_MS)),
        false => Duration::from_millis(random.between(50, 1_500)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fault_comes_and_the_same_seed_chooses_the_same() {
        let targets = Targets { processes: 7, wires: 5, disks: 2 };
        let chosen = |seed| {
            let mut random = Random::new(seed);
            (0..200).map(|_| Fault::choose(&mut random, targets)).collect::<Vec<_>>()
        };

        let mut tally = Tally::default();
        chosen(7).into_iter().for_each(|fault| tally.count(fault, "whom".to_owned()));

        assert_eq!(chosen(7), chosen(7));
        assert_ne!(chosen(7), chosen(8));
        let counts: Vec<u64> = tally.0.values().flat_map(BTreeMap::values).copied().collect();
        assert!(counts.len() == 5 && counts.iter().all(|count| *count > 5), "{tally}");
        assert_eq!(tally.sum(), 200);
    }

    #[test]
    fn the_count_says_who_was_struck() {
        let mut tally = Tally::default();
        let kill = Fault::Kill { whom: 0, away: Duration::ZERO };
        let cut = Fault::Cut { wire: 0, lasts: Duration::ZERO };
        for (fault, whom) in
            [(kill, "relay-1"), (cut, "a wire"), (kill, "broker"), (kill, "broker")]
        {
            tally.count(fault, whom.to_owned());
        }

        assert_eq!(tally.to_string(), "cut 1 (a wire 1); kill 3 (broker 2, relay-1 1)");
    }
}
