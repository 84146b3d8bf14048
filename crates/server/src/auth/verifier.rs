//! Checking passwords without paying for a slow hash at every login.
//!
//! A right password is remembered for at most a minute as a keyed hash over user, stored hash and password; the key is
//! made at start and never leaves the process. As the stored hash is part of it, a changed password is a different entry
//! and needs no clearing to be safe. Wrong passwords are not remembered: guessing stays expensive.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::Semaphore;

use super::password::{PasswordError, PasswordHash};

/// Most passwords remembered: 48 bytes each, about 1 MiB. When full, all are forgotten, which costs a hash per user.
const REMEMBERED_MAX: usize = 16_384;

/// Checks passwords on a bounded number of threads and remembers the right ones for a while.
#[derive(Debug)]
pub struct Verifier {
    key: hmac::Key,
    lifetime: Duration,
    remembered: Mutex<HashMap<[u8; 32], Instant>>,
    checks: Arc<Semaphore>,
}

/// What came of a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is right.
    Accepted,
    /// It is right, and the stored hash should be replaced by one that [`Verifier::hash`] makes.
    AcceptedWeak,
    /// It is wrong, or there is no such user; both took the same work.
    Refused,
}

impl Verifier {
    /// A verifier that remembers right passwords for `lifetime` (zero: not at all) and hashes at most `checks_max` at
    /// the same time.
    ///
    /// # Errors
    ///
    /// [`PasswordError::System`] if the system has no randomness.
    pub fn new(lifetime: Duration, checks_max: usize) -> Result<Self, PasswordError> {
        // From the kernel itself: the library's own source gathers entropy for 20 ms first, at every start.
        let mut secret = [0; 32];
        let filled = getrandom(&mut secret, GetRandomFlags::empty()).unwrap_or(0);
        if filled < secret.len() {
            return Err(PasswordError::System("no randomness".to_owned()));
        }
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            lifetime,
            remembered: Mutex::new(HashMap::new()),
            checks: Arc::new(Semaphore::new(checks_max.max(1))),
        })
    }

    /// Whether `password` was found right a moment ago; costs no slow hash.
    pub fn is_known(&self, user: &str, password: &[u8], hash: Option<&PasswordHash>) -> bool {
        self.is_remembered(&self.entry(user, password, hash), Instant::now())
    }

    /// Whether `password` is the one of `user`, whose stored hash is `hash`; `None` if there is no such user.
    ///
    /// Returns at once for a remembered one; otherwise waits for a thread and a hash. Cancel-safe: a hash that runs goes
    /// on to its end, counted, and its outcome is dropped.
    pub async fn verify(
        &self,
        user: &str,
        password: &[u8],
        hash: Option<&PasswordHash>,
    ) -> Verdict {
        let entry = self.entry(user, password, hash);
        if self.is_remembered(&entry, Instant::now()) {
            return Verdict::Accepted;
        }
        let Ok(permit) = Arc::clone(&self.checks).acquire_owned().await else {
            return Verdict::Refused;
        };
        // Many connections with one password at the same time: the first hashes, the others find it remembered.
        if self.is_remembered(&entry, Instant::now()) {
            return Verdict::Accepted;
        }
        let weak = hash.is_some_and(PasswordHash::is_weak);
        let (password, hash) = (password.to_vec(), hash.cloned());
        let right = tokio::task::spawn_blocking(move || {
            let right = match hash {
                Some(hash) => hash.verify(&password),
                None => PasswordHash::refuse(&password),
            };
            drop(permit);
            right
        });
        if !right.await.unwrap_or(false) {
            return Verdict::Refused;
        }
        self.remember(entry, Instant::now());
        if weak { Verdict::AcceptedWeak } else { Verdict::Accepted }
    }

    /// Makes a new hash of a password, on the same bounded threads.
    ///
    /// # Errors
    ///
    /// Those of [`PasswordHash::of`].
    pub async fn hash(&self, password: &[u8]) -> Result<PasswordHash, PasswordError> {
        let gone = |_| PasswordError::System("the process is stopping".to_owned());
        let permit = Arc::clone(&self.checks).acquire_owned().await.map_err(|_| gone(()))?;
        let password = password.to_vec();
        let hash = tokio::task::spawn_blocking(move || {
            let hash = PasswordHash::of(&password);
            drop(permit);
            hash
        });
        hash.await.map_err(|_| gone(()))?
    }

    /// Forgets every remembered password; to be called on any change of a user.
    pub fn forget_all(&self) {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn entry(&self, user: &str, password: &[u8], hash: Option<&PasswordHash>) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        let hash = hash.map_or(&[][..], PasswordHash::identity);
        // With lengths before them, so that no two triples make the same bytes.
        for part in [user.as_bytes(), hash, password] {
            context.update(&part.len().to_le_bytes());
            context.update(part);
        }
        let mut entry = [0; 32];
        entry.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        entry
    }

    fn is_remembered(&self, entry: &[u8; 32], now: Instant) -> bool {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(entry).is_some_and(|until| now < *until)
    }

    fn remember(&self, entry: [u8; 32], now: Instant) {
        if self.lifetime.is_zero() {
            return;
        }
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, until| now < *until);
        }
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(entry, now + self.lifetime);
    }
}

#[cfg(test)]
mod tests {
    use super::super::password::tests::cheap;
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_right_password_is_remembered_until_its_time_is_over() {
        let verifier = Verifier::new(MINUTE, 1).unwrap();
        let hash = cheap(b"right");

        assert_eq!(verifier.verify("ann", b"right", Some(&hash)).await, Verdict::Accepted);

        let entry = verifier.entry("ann", b"right", Some(&hash));
        assert!(verifier.is_remembered(&entry, Instant::now()));
        assert!(!verifier.is_remembered(&entry, Instant::now() + MINUTE));
        verifier.forget_all();
        assert!(!verifier.is_remembered(&entry, Instant::now()));
    }

    #[tokio::test]
    async fn a_wrong_password_and_an_unknown_user_are_refused_and_not_remembered() {
        let verifier = Verifier::new(MINUTE, 1).unwrap();
        let hash = cheap(b"right");

        assert_eq!(verifier.verify("ann", b"wrong", Some(&hash)).await, Verdict::Refused);
        assert_eq!(verifier.verify("bob", b"right", None).await, Verdict::Refused);

        assert!(verifier.remembered.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_remembered_password_ends_with_the_hash_it_was_checked_against() {
        let verifier = Verifier::new(MINUTE, 1).unwrap();
        let (old, new) = (cheap(b"old"), cheap(b"new"));
        assert_eq!(verifier.verify("ann", b"old", Some(&old)).await, Verdict::Accepted);

        assert_eq!(verifier.verify("ann", b"old", Some(&new)).await, Verdict::Refused);
    }

    #[tokio::test]
    async fn an_imported_hash_asks_for_a_better_one_once() {
        let verifier = Verifier::new(MINUTE, 1).unwrap();
        let algorithm = "rabbit_password_hashing_sha256";
        let documented = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";
        let hash = PasswordHash::from_definitions(documented, algorithm).unwrap();

        assert_eq!(verifier.verify("ann", b"test12", Some(&hash)).await, Verdict::AcceptedWeak);
        assert_eq!(verifier.verify("ann", b"test12", Some(&hash)).await, Verdict::Accepted);
    }

    #[tokio::test]
    async fn nothing_is_remembered_where_that_is_off() {
        let verifier = Verifier::new(Duration::ZERO, 1).unwrap();

        verifier.verify("ann", b"right", Some(&cheap(b"right"))).await;

        assert!(verifier.remembered.lock().unwrap().is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let verifier = Verifier::new(MINUTE, 1).unwrap();
        let now = Instant::now();

        for number in 0..REMEMBERED_MAX * 2 {
            verifier.remember(verifier.entry("ann", &number.to_le_bytes(), None), now);
        }

        assert!(verifier.remembered.lock().unwrap().len() <= REMEMBERED_MAX);
    }
}
