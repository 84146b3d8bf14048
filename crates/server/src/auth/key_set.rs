//! The public keys that JWTs are checked with (RFC 7517), from a file or an address, read again from time to time.
//!
//! A set is replaced only by a good one: an answer that is not 200, is too long, or has no key that can be used leaves
//! what is there. Addresses are `https://` with a checked certificate; in clear text only on this machine.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{Method, StatusCode};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::fetch::{Address, FetchError, Fetcher, Question};
use super::secret_file::{self, SecretFileError};
use crate::config::TokenAccess;

/// Largest set, in bytes.
const BYTES_MAX: usize = 256 * 1024;
/// Most keys in a set.
const KEYS_MAX: usize = 100;
/// For fetching it.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon it is fetched again because a token names a key that is not there: anybody can name one.
const UNKNOWN_KEY_PAUSE: Duration = Duration::from_secs(10);
/// Least bytes of an RSA modulus: 2048 bits.
const RSA_BYTES_MIN: usize = 256;

/// A set of keys and where it comes from.
#[derive(Debug)]
pub struct KeySet {
    source: Source,
    refresh: Duration,
    state: Mutex<State>,
    /// One fetch at a time.
    turn: Semaphore,
}

#[derive(Debug)]
enum Source {
    File(PathBuf),
    Address(Address, Fetcher),
}

#[derive(Default)]
struct State {
    keys: Option<Arc<Vec<Key>>>,
    /// When it was last tried, with success or not.
    tried: Option<Instant>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("keys", &self.keys.as_ref().map(|keys| keys.len())).finish()
    }
}

/// A key and what it may check.
struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeySetError {
    /// The file cannot be read, or others can.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The address cannot be used or does not answer.
    #[error("keys of JWTs cannot be fetched")]
    Fetch(#[from] FetchError),
    /// Keys would come in clear text over a network.
    #[error("queues.token.jwks must be an https:// address, as keys decide who gets in")]
    ClearText,
    /// The answer is not 200.
    #[error("the address of the keys answered {0}")]
    Status(StatusCode),
    /// It is not a set of keys.
    #[error("this is no JSON Web Key Set: {0}")]
    Malformed(String),
    /// There is no key in it that can be used.
    #[error("there is no key in it that can check signatures")]
    Empty,
}

impl KeySet {
    /// Reads a file at once; an address is asked when the first token comes.
    ///
    /// # Errors
    ///
    /// Every [`KeySetError`].
    pub fn open(access: &TokenAccess) -> Result<Arc<Self>, KeySetError> {
        let mut state = State::default();
        let source = if access.jwks.contains("://") {
            let address = Address::parse(&access.jwks)?;
            if address.is_exposed() {
                return Err(KeySetError::ClearText);
            }
            Source::Address(address, Fetcher::new(access.jwks_ca.as_deref(), FETCH_TIMEOUT)?)
        } else {
            let path = PathBuf::from(&access.jwks);
            state.keys = Some(Arc::new(read_file(&path)?));
            state.tried = Some(Instant::now());
            Source::File(path)
        };
        let (refresh, state) = (access.jwks_refresh, Mutex::new(state));
        Ok(Arc::new(Self { source, refresh, state, turn: Semaphore::new(1) }))
    }

    /// The keys that may have made a signature: those of this id, or all of the kind where the token names none; `None`
    /// while there are no keys at all. Waits for new keys where the set is old or the id is not in it; a fetch has a
    /// deadline, and the next is not begun at once.
    pub(super) async fn candidates(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Option<Vec<DecodingKey>> {
        let known = |keys: &[Key]| id.is_none_or(|id| keys.iter().any(|key| key.is(id)));
        let (keys, tried) = self.state();
        let age = tried.map(|at| at.elapsed());
        let due = match &keys {
            None => age.is_none_or(|age| age >= UNKNOWN_KEY_PAUSE),
            Some(keys) => {
                age.is_none_or(|age| age >= self.refresh)
                    || (!known(keys) && age.is_none_or(|age| age >= UNKNOWN_KEY_PAUSE))
            }
        };
        let has_it = keys.as_ref().is_some_and(|keys| known(keys));
        if due && has_it {
            // The old ones do until the new ones are there.
            let this = Arc::clone(self);
            drop(tokio::spawn(async move { this.renew(tried).await }));
        } else if due || keys.is_none() {
            self.renew(tried).await;
        }
        let keys = self.state().0?;
        let fits =
            |key: &&Key| key.algorithms.contains(&algorithm) && id.is_none_or(|id| key.is(id));
        Some(keys.iter().filter(fits).map(|key| key.key.clone()).collect())
    }

    fn state(&self) -> (Option<Arc<Vec<Key>>>, Option<Instant>) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.keys.clone(), state.tried)
    }

    /// Reads the keys again, unless somebody has since `seen`.
    async fn renew(&self, seen: Option<Instant>) {
        let Ok(_turn) = self.turn.acquire().await else { return };
        let (keys, tried) = self.state();
        let pausing = keys.is_none() && tried.is_some_and(|at| at.elapsed() < UNKNOWN_KEY_PAUSE);
        if tried != seen || pausing {
            return;
        }
        let read = match &self.source {
            Source::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
                read.unwrap_or(Err(KeySetError::Empty))
            }
            Source::Address(address, fetcher) => fetch(address, fetcher).await,
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.tried = Some(Instant::now());
        match read {
            Ok(keys) => state.keys = Some(Arc::new(keys)),
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::error!("keys of JWTs stay as they were: {error:#}");
            }
        }
    }
}

impl Key {
    fn is(&self, id: &str) -> bool {
        self.id.as_deref() == Some(id)
    }
}

async fn fetch(address: &Address, fetcher: &Fetcher) -> Result<Vec<Key>, KeySetError> {
    let question = Question { method: Method::GET, path: "", headers: &[], body: Bytes::new() };
    let answer = fetcher.ask(address, question, BYTES_MAX).await?;
    if answer.status != StatusCode::OK {
        return Err(KeySetError::Status(answer.status));
    }
    parse(&answer.body, Symmetric::Refused)
}

fn read_file(path: &Path) -> Result<Vec<Key>, KeySetError> {
    let max = BYTES_MAX as u64;
    match secret_file::read(path, max) {
        Ok(text) => parse(text.as_bytes(), Symmetric::Allowed),
        // Public keys are no secret: others may read them, and nobody but the owner may write.
        Err(SecretFileError::Open { mode, path }) if mode & 0o022 == 0 => {
            let read = |source| SecretFileError::Read { path: path.clone(), source };
            let text = std::fs::read(&path).map_err(read)?;
            if text.len() > BYTES_MAX {
                return Err(SecretFileError::TooLarge { path, max }.into());
            }
            parse(&text, Symmetric::Refused)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether a set may have symmetric keys: only a file that nobody else can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Symmetric {
    Allowed,
    Refused,
}

/// Reads a set. Keys that are for something else or not understood are left out, as RFC 7517 §5 asks.
fn parse(json: &[u8], symmetric: Symmetric) -> Result<Vec<Key>, KeySetError> {
    let malformed = |text: &str| KeySetError::Malformed(text.to_owned());
    let set: Value =
        serde_json::from_slice(json).map_err(|error| KeySetError::Malformed(error.to_string()))?;
    let keys =
        set.get("keys").and_then(Value::as_array).ok_or_else(|| malformed("no list `keys`"))?;
    if keys.len() > KEYS_MAX {
        return Err(KeySetError::Malformed(format!("more than {KEYS_MAX} keys")));
    }
    let keys: Vec<_> = keys.iter().filter_map(|key| usable(key, symmetric)).collect();
    if keys.is_empty() { Err(KeySetError::Empty) } else { Ok(keys) }
}

fn usable(json: &Value, symmetric: Symmetric) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(json.clone()).ok()?;
    let use_fits = jwk.common.public_key_use.as_ref().is_none_or(|u| *u == PublicKeyUse::Signature);
    let operations = jwk.common.key_operations.as_ref();
    if !use_fits || operations.is_some_and(|list| !list.contains(&KeyOperations::Verify)) {
        return None;
    }
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(key) => {
            let long = decoded_len(&key.n) >= RSA_BYTES_MIN;
            let all = [
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ];
            long.then(|| all.to_vec())?
        }
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(key) => match key.curve {
            EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
            _ => return None,
        },
        AlgorithmParameters::OctetKey(key) => {
            // RFC 7518 §3.2: a key must be as long as the digest.
            let good = symmetric == Symmetric::Allowed && decoded_len(&key.value) >= 32;
            good.then(|| vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512])?
        }
        _ => return None,
    };
    // A key that says its algorithm is for no other.
    if let Some(own) = json.get("alg") {
        let own: Algorithm = own.as_str()?.parse().ok()?;
        algorithms.retain(|algorithm| *algorithm == own);
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    (!algorithms.is_empty()).then_some(Key { id: jwk.common.key_id, algorithms, key })
}

/// Bytes that so much base64 without padding stands for.
fn decoded_len(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}
