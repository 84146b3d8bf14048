//! Messages encrypted at rest, for queues with `_enable_encrypt_messages`.
//!
//! A body is sealed before it is committed and opened when it is read, so that log, index and backups have cipher text
//! only. AES-256-GCM; each tenant has keys of its own, derived from the key of the configuration.
//!
//! ```text
//! 'P' 'S' version=1 | key name: length u8, bytes | queue: length u8, bytes | salt 16 | counter u64 | cipher text | tag 16
//! └──────────────────────────── authenticated, together with the tenant ────────────────────────┘
//! key   = HKDF-SHA256(key of the configuration, salt, "posthouse message" ‖ tenant)
//! nonce = 0 0 0 0 ‖ counter
//! ```
//!
//! The salt is random and made anew at each start of the process, and the counter never repeats within one, so no nonce is
//! ever used twice with a key, however many messages there are. (Random nonces with one key would have to end after 2^32
//! messages.) The queue is the one that the message was posted to: a message that moves to a dead letter queue, or is seen
//! through a subscription, opens there as well. A message that somebody carries to another tenant's log does not open.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// Content type under which a sealed body is stored.
pub const CONTENT_TYPE: &str = "application/vnd.posthouse.sealed";

const MAGIC: [u8; 3] = *b"PS\x01";
const SALT_BYTES: usize = 16;
const COUNTER_BYTES: usize = 8;
const KEY_BYTES: usize = 32;
/// Most keys in a ring: a rotation a month for five years.
const KEYS_MAX: usize = 64;
/// Derived keys that are kept. One is used per tenant, and one per tenant and earlier start while its messages are read.
const DERIVED_MAX: usize = 1024;

/// Keys by name; the first one seals, all open.
pub struct KeyRing {
    keys: Vec<(Box<str>, [u8; KEY_BYTES])>,
    salt: [u8; SALT_BYTES],
    counter: AtomicU64,
    derived: Mutex<HashMap<Derivation, Arc<LessSafeKey>>>,
}

/// What a derived key depends on.
#[derive(PartialEq, Eq, Hash)]
struct Derivation {
    key: usize,
    salt: [u8; SALT_BYTES],
    tenant: Box<str>,
}

/// Why there is no key ring. The server does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRingError {
    /// A line is not a key.
    #[error(
        "queues.encryption.keys: key {0} must be NAME:BASE64 with a name of 1 to 64 letters, digits, `-`, `_`, and 32 bytes"
    )]
    Key(usize),
    /// Two keys have one name, so messages would not say which one opens them.
    #[error("queues.encryption.keys: key {0} has the name of another")]
    Twice(usize),
    /// More than can be meant.
    #[error("queues.encryption.keys must be at most {KEYS_MAX} keys")]
    TooMany,
    /// The system has no randomness.
    #[error("the system has no randomness")]
    Random,
}

/// Why a body could not be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// No key is configured.
    #[error("no key for messages at rest is configured (queues.encryption.keys)")]
    NoKey,
    /// What was stored is not in the form of a sealed body.
    #[error("the stored message is not a sealed one")]
    NotSealed,
    /// The key that sealed it is not in the ring any more.
    #[error("the key that sealed the message is not configured any more")]
    UnknownKey,
    /// It was changed, or belongs to another tenant.
    #[error("the stored message was changed or is another tenant's")]
    Tampered,
    /// Queue or message are longer than the form allows.
    #[error("the message cannot be sealed")]
    TooLong,
}

impl KeyRing {
    /// A ring from lines of `NAME:BASE64`, newest first; commas and spaces separate as well. Empty: none.
    ///
    /// # Errors
    ///
    /// Every [`KeyRingError`].
    pub fn parse(text: &str) -> Result<Option<Self>, KeyRingError> {
        let mut keys: Vec<(Box<str>, [u8; KEY_BYTES])> = Vec::new();
        let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|w| !w.is_empty());
        for (number, word) in (1..).zip(words) {
            if keys.len() >= KEYS_MAX {
                return Err(KeyRingError::TooMany);
            }
            let (name, base64) = word.split_once(':').ok_or(KeyRingError::Key(number))?;
            let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            let named = (1..=64).contains(&name.len()) && name.bytes().all(letter);
            let bytes = BASE64_STANDARD.decode(base64).ok().and_then(|b| b.try_into().ok());
            let bytes: [u8; KEY_BYTES] =
                bytes.filter(|_| named).ok_or(KeyRingError::Key(number))?;
            if keys.iter().any(|(other, _)| **other == *name) {
                return Err(KeyRingError::Twice(number));
            }
            keys.push((name.into(), bytes));
        }
        if keys.is_empty() {
            return Ok(None);
        }
        let mut salt = [0; SALT_BYTES];
        rand::fill(&mut salt).map_err(|_| KeyRingError::Random)?;
        let (counter, derived) = (AtomicU64::new(0), Mutex::default());
        Ok(Some(Self { keys, salt, counter, derived }))
    }

    /// Seals a body that is posted to `queue` of `tenant`. Costs about a microsecond per KiB.
    ///
    /// # Errors
    ///
    /// [`SealError::TooLong`].
    pub fn seal(&self, tenant: &str, queue: &str, body: &[u8]) -> Result<Vec<u8>, SealError> {
        let (name, _) = self.keys.first().ok_or(SealError::NoKey)?;
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        let mut sealed = Vec::with_capacity(
            MAGIC.len()
                + 2
                + name.len()
                + queue.len()
                + SALT_BYTES
                + COUNTER_BYTES
                + body.len()
                + AES_256_GCM.tag_len(),
        );
        sealed.extend_from_slice(&MAGIC);
        for text in [&**name, queue] {
            sealed.push(u8::try_from(text.len()).map_err(|_| SealError::TooLong)?);
            sealed.extend_from_slice(text.as_bytes());
        }
        sealed.extend_from_slice(&self.salt);
        sealed.extend_from_slice(&counter.to_be_bytes());
        let aad = authenticated(&sealed, tenant);
        let key = self.derived(0, self.salt, tenant)?;
        let head = sealed.len();
        sealed.extend_from_slice(body);
        let plain = sealed.get_mut(head..).ok_or(SealError::TooLong)?;
        let tag = key
            .seal_in_place_separate_tag(nonce(counter), Aad::from(&aad), plain)
            .map_err(|_| SealError::TooLong)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// The body of a sealed one that is read in `tenant`.
    ///
    /// # Errors
    ///
    /// Every [`SealError`] about opening. What was stored is never returned in place of the body.
    pub fn open(&self, tenant: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let parts = Parts::read(sealed).ok_or(SealError::NotSealed)?;
        let index = self.keys.iter().position(|(name, _)| name.as_bytes() == parts.key);
        let key = self.derived(index.ok_or(SealError::UnknownKey)?, parts.salt, tenant)?;
        let aad = authenticated(parts.head, tenant);
        let mut body = parts.cipher.to_vec();
        let length = key
            .open_in_place(nonce(parts.counter), Aad::from(&aad), &mut body)
            .map_err(|_| SealError::Tampered)?
            .len();
        body.truncate(length);
        Ok(body)
    }

    fn derived(
        &self,
        index: usize,
        salt: [u8; SALT_BYTES],
        tenant: &str,
    ) -> Result<Arc<LessSafeKey>, SealError> {
        let derivation = Derivation { key: index, salt, tenant: tenant.into() };
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = derived.get(&derivation) {
            return Ok(Arc::clone(key));
        }
        let (_, master) = self.keys.get(index).ok_or(SealError::UnknownKey)?;
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &salt).extract(master);
        let mut bytes = [0; KEY_BYTES];
        let filled = prk
            .expand(&[b"posthouse message", tenant.as_bytes()], &AES_256_GCM)
            .and_then(|okm| okm.fill(&mut bytes));
        filled.map_err(|_| SealError::NoKey)?;
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| SealError::NoKey)?;
        let key = Arc::new(LessSafeKey::new(key));
        if derived.len() >= DERIVED_MAX {
            derived.clear();
        }
        derived.insert(derivation, Arc::clone(&key));
        Ok(key)
    }
}

impl fmt::Debug for KeyRing {
    /// Names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|(name, _)| name)).finish()
    }
}

/// A sealed body, taken apart.
struct Parts<'a> {
    head: &'a [u8],
    key: &'a [u8],
    salt: [u8; SALT_BYTES],
    counter: u64,
    cipher: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(sealed: &'a [u8]) -> Option<Self> {
        let rest = sealed.strip_prefix(&MAGIC)?;
        let (key, rest) = short(rest)?;
        let (_queue, rest) = short(rest)?;
        let (salt, rest) = rest.split_first_chunk::<SALT_BYTES>()?;
        let (counter, cipher) = rest.split_first_chunk::<COUNTER_BYTES>()?;
        let head = sealed.get(..sealed.len() - cipher.len())?;
        Some(Self { head, key, salt: *salt, counter: u64::from_be_bytes(*counter), cipher })
    }
}

fn short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// What is authenticated besides the body: the head, and the tenant with its length in front.
fn authenticated(head: &[u8], tenant: &str) -> Vec<u8> {
    let mut aad = Vec::with_capacity(head.len() + 8 + tenant.len());
    aad.extend_from_slice(&(tenant.len() as u64).to_be_bytes());
    aad.extend_from_slice(tenant.as_bytes());
    aad.extend_from_slice(head);
    aad
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes.iter_mut().skip(4).zip(counter.to_be_bytes()).for_each(|(to, from)| *to = from);
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, byte: u8) -> String {
        format!("{name}:{}", BASE64_STANDARD.encode([byte; KEY_BYTES]))
    }

    fn ring(keys: &[String]) -> KeyRing {
        KeyRing::parse(&keys.join("\n")).unwrap().unwrap()
    }

    #[test]
    fn what_is_sealed_opens_and_does_not_contain_what_was_sealed() {
        let ring = ring(&[key("k1", 1)]);
        for body in [&b""[..], b"{}", b"the canary sings", &[0; 100_000]] {
            let sealed = ring.seal("p", "q", body).unwrap();

            assert_eq!(ring.open("p", &sealed).as_deref(), Ok(body));
            assert!(!sealed.windows(10).any(|window| body.windows(10).next() == Some(window)));
        }
    }

    #[test]
    fn equal_bodies_are_sealed_differently_and_no_nonce_is_used_twice() {
        let ring = ring(&[key("k1", 1)]);
        let again = self::ring(&[key("k1", 1)]);

        let sealed: std::collections::HashSet<_> = (0..1000)
            .flat_map(|_| [ring.seal("p", "q", b"x").unwrap(), again.seal("p", "q", b"x").unwrap()])
            .collect();

        assert_eq!(sealed.len(), 2000);
        assert_ne!(ring.salt, again.salt);
    }

    #[test]
    fn after_a_rotation_the_newest_seals_and_all_open() {
        let before = ring(&[key("k1", 1)]);
        let old = before.seal("p", "q", b"old").unwrap();

        let after = ring(&[key("k2", 2), key("k1", 1)]);
        let new = after.seal("p", "q", b"new").unwrap();

        assert_eq!(after.open("p", &old).as_deref(), Ok(&b"old"[..]));
        assert_eq!(after.open("p", &new).as_deref(), Ok(&b"new"[..]));
        assert_eq!(before.open("p", &new), Err(SealError::UnknownKey));
        assert_eq!(ring(&[key("k1", 9)]).open("p", &old), Err(SealError::Tampered));
    }

    #[test]
    fn every_changed_bit_and_every_truncation_is_noticed() {
        let ring = ring(&[key("k1", 1)]);
        let sealed = ring.seal("p", "q", b"body").unwrap();

        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(ring.open("p", &changed).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(ring.open("p", &sealed[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_message_opens_in_its_tenant_only() {
        let ring = ring(&[key("k1", 1)]);
        let sealed = ring.seal("p", "q", b"body").unwrap();

        assert_eq!(ring.open("other", &sealed), Err(SealError::Tampered));
        assert_eq!(ring.open("p", b"{\"plain\": true}"), Err(SealError::NotSealed));
    }

    #[test]
    fn rings_are_read_strictly() {
        assert!(KeyRing::parse(" \n").unwrap().is_none());
        for (text, error) in [
            ("k1", KeyRingError::Key(1)),
            ("k1:AAAA", KeyRingError::Key(1)),
            (&*format!(":{}", key("", 1)), KeyRingError::Key(1)),
            (&*format!("{},k 2", key("k1", 1)), KeyRingError::Key(2)),
            (&*format!("{} {}", key("k1", 1), key("k1", 2)), KeyRingError::Twice(2)),
        ] {
            assert_eq!(KeyRing::parse(text).unwrap_err(), error, "{text}");
        }
        let many: Vec<_> = (0..65).map(|number| key(&format!("k{number}"), number)).collect();
        assert_eq!(KeyRing::parse(&many.join("\n")).unwrap_err(), KeyRingError::TooMany);
    }

    #[test]
    fn keys_are_not_in_the_debug_form() {
        assert_eq!(format!("{:?}", ring(&[key("k1", 1)])), "[\"k1\"]");
    }
}
