//! Slower guessing: who failed to log in waits before a password of theirs is looked at again.
//!
//! Failures are counted per address and user, per address, and per user. The first two refuse without a hash, so that a
//! flood of wrong passwords costs no work. The third never refuses an address that has not failed itself: many addresses
//! that guess one user's password cannot lock that user out. A password that is remembered as right is not counted at
//! all, so programs that were logged in come back at once even from an address that guesses.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most keys remembered, about 2 MiB. When full, the older half is forgotten.
const KEYS_MAX: usize = 32 * 1024;

/// Failures are forgotten after so long without another.
const MEMORY: Duration = Duration::from_secs(600);

/// The first wait; each further failure doubles it,
const WAIT_MIN: Duration = Duration::from_secs(1);

/// up to this.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Failures of one user from one address that cost no wait: programs restart with a password that is not there yet.
const FREE_PER_PAIR: u32 = 10;

/// Failures of all users from one address; many people may share one.
const FREE_PER_ADDRESS: u32 = 50;

/// Failures of one user from all addresses; beyond it an address has one try instead of [`FREE_PER_PAIR`].
const FREE_PER_USER: u32 = 100;

/// Who failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Pair(IpAddr, u64),
    Address(IpAddr),
    User(u64),
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    /// Whether the next try still waits if `free` failures cost nothing.
    fn waits(&self, free: u32, now: Instant) -> bool {
        let Some(over) = self.count.checked_sub(free) else { return false };
        let doubled = 1_u32.checked_shl(over).unwrap_or(u32::MAX);
        now < self.last + WAIT_MIN.saturating_mul(doubled).min(WAIT_MAX)
    }
}

/// Counts failed logins. Bounded, whatever addresses and names come.
#[derive(Debug, Default)]
pub struct BackOff {
    failures: Mutex<HashMap<Key, Failures>>,
    names: RandomState,
}

impl BackOff {
    /// Whether a password may be looked at now. If so, it counts as a failure until [`BackOff::forgive`], so that tries
    /// at the same time count as well.
    pub fn admit(&self, address: IpAddr, user: &str, now: Instant) -> bool {
        let [pair, address, user] = self.keys(address, user);
        let mut failures = self.failures();
        let known = |key| failures.get(&key).filter(|known| now < known.last + MEMORY);
        let waits = |key, free| known(key).is_some_and(|known| known.waits(free, now));
        let guessed = known(user).is_some_and(|known| known.count > FREE_PER_USER);
        let free = if guessed { 1 } else { FREE_PER_PAIR };
        if waits(pair, free) || waits(address, FREE_PER_ADDRESS) {
            return false;
        }
        for key in [pair, address, user] {
            let entry = failures.entry(key).or_insert(Failures { count: 0, last: now });
            if now >= entry.last + MEMORY {
                entry.count = 0;
            }
            *entry = Failures { count: entry.count.saturating_add(1), last: now };
        }
        prune(&mut failures, now);
        true
    }

    /// The password was right: the try is no failure, and nothing is held against this user from this address.
    pub fn forgive(&self, address: IpAddr, user: &str) {
        let [pair, address, user] = self.keys(address, user);
        let mut failures = self.failures();
        failures.remove(&pair);
        for key in [address, user] {
            if let Some(entry) = failures.get_mut(&key) {
                entry.count = entry.count.saturating_sub(1);
            }
        }
    }

    fn keys(&self, address: IpAddr, user: &str) -> [Key; 3] {
        let (address, user) = (network(address), self.names.hash_one(user));
        [Key::Pair(address, user), Key::Address(address), Key::User(user)]
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<Key, Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one machine cannot change at will: its IPv4 address, or the first 64 bits of its IPv6 address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

fn prune(failures: &mut HashMap<Key, Failures>, now: Instant) {
    if failures.len() <= KEYS_MAX {
        return;
    }
    failures.retain(|_, known| now < known.last + MEMORY);
    if failures.len() > KEYS_MAX / 2 {
        let mut times: Vec<Instant> = failures.values().map(|known| known.last).collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        failures.retain(|_, known| known.last > median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn tries(back_off: &BackOff, from: &str, user: &str, count: u32, now: Instant) -> u32 {
        (0..count).map(|_| u32::from(back_off.admit(address(from), user, now))).sum()
    }

    #[test]
    fn after_some_failures_a_user_waits_longer_and_longer_at_that_address() {
        let (back_off, now) = (BackOff::default(), Instant::now());

        assert_eq!(tries(&back_off, "10.0.0.1", "ann", 100, now), FREE_PER_PAIR);
        let later = now + WAIT_MIN;
        assert_eq!(tries(&back_off, "10.0.0.1", "ann", 100, later), 1);
        assert_eq!(tries(&back_off, "10.0.0.1", "ann", 100, later + WAIT_MIN), 0);
        assert_eq!(tries(&back_off, "10.0.0.1", "ann", 100, later + WAIT_MIN * 2), 1);
        assert_eq!(tries(&back_off, "10.0.0.1", "bob", 1, now), 1);
        assert_eq!(tries(&back_off, "10.0.0.2", "ann", 1, now), 1);
        assert_eq!(tries(&back_off, "10.0.0.1", "ann", 100, later + MEMORY * 2), FREE_PER_PAIR);
    }

    #[test]
    fn an_address_that_tries_many_users_waits_for_all_of_them() {
        let (back_off, now) = (BackOff::default(), Instant::now());
        let users: Vec<String> = (0..200).map(|number| number.to_string()).collect();

        let admitted: u32 =
            users.iter().map(|user| tries(&back_off, "2001:db8::1", user, 1, now)).sum();

        assert_eq!(admitted, FREE_PER_ADDRESS);
        assert_eq!(tries(&back_off, "2001:db8::2", "ann", 1, now), 0);
        assert_eq!(tries(&back_off, "2001:db8:0:1::1", "ann", 1, now), 1);
    }

    #[test]
    fn many_addresses_cannot_lock_a_user_out() {
        let (back_off, now) = (BackOff::default(), Instant::now());
        for number in 0..=FREE_PER_USER {
            let [_, _, high, low] = number.to_be_bytes();
            assert!(back_off.admit(IpAddr::from([10, 0, high, low]), "ann", now));
        }

        assert_eq!(tries(&back_off, "10.9.9.9", "ann", 100, now), 1);
        assert_eq!(tries(&back_off, "10.9.9.8", "ann", 1, now), 1);
    }

    #[test]
    fn a_right_password_is_no_failure() {
        let (back_off, now) = (BackOff::default(), Instant::now());

        for _ in 0..1000 {
            assert!(back_off.admit(address("10.0.0.1"), "ann", now));
            back_off.forgive(address("10.0.0.1"), "ann");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (back_off, now) = (BackOff::default(), Instant::now());

        for number in 0..2 * u32::try_from(KEYS_MAX).unwrap() {
            let at = now + Duration::from_millis(u64::from(number));
            back_off.admit(IpAddr::from(number.to_be_bytes()), "ann", at);
        }

        assert!(back_off.failures().len() <= KEYS_MAX);
    }
}
