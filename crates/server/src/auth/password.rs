//! Password hashes: Argon2id for our own, RabbitMQ's salted digests for those that were imported.
//!
//! Imported ones keep working without a reset; [`PasswordHash::is_weak`] asks for a new hash at the next good login.

use std::fmt;

use argon2::password_hash::phc;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::{constant_time, digest};
use base64::prelude::{BASE64_STANDARD, Engine};

/// Memory of one hash in KiB: 19 MiB with two passes is OWASP's first choice for Argon2id (2024).
const ARGON2_MEMORY_KIB: u32 = 19 * 1024;
const ARGON2_PASSES: u32 = 2;
const ARGON2_LANES: u32 = 1;

/// What an imported Argon2id hash may cost at most, so that a definitions file cannot make every login a bomb.
const IMPORTED_MEMORY_KIB_MAX: u32 = 256 * 1024;
const IMPORTED_PASSES_MAX: u32 = 16;
const IMPORTED_LANES_MAX: u32 = 4;

/// RabbitMQ puts this much salt before the digest.
const RABBITMQ_SALT_BYTES: usize = 4;

/// Longest password that is looked at, in bytes. One that does not fit into a SASL response cannot be right.
const PASSWORD_BYTES_MAX: usize = 4096;

/// Nobody's password: what an unknown user's password is compared with, at the price of a known one's.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGlzIGhlcmU$2nfjJtS6M5jTjT2vQ9l8F3N0X1JBxQmT6l0m4mH4m9Y";

/// Names that definitions files use for algorithms.
const SHA256_NAME: &str = "rabbit_password_hashing_sha256";
const SHA512_NAME: &str = "rabbit_password_hashing_sha512";
const MD5_NAME: &str = "rabbit_password_hashing_md5";
const ARGON2ID_NAME: &str = "posthouse_argon2id";

/// What a password is checked against.
#[derive(Clone, PartialEq, Eq)]
pub enum PasswordHash {
    /// Argon2id as PHC string.
    Argon2id(Box<str>),
    /// RabbitMQ's default: 4 bytes of salt, then SHA-256 over salt and password.
    Sha256(Box<[u8]>),
    /// RabbitMQ's alternative: 4 bytes of salt, then SHA-512 over salt and password.
    Sha512(Box<[u8]>),
    /// No password lets this user in; a certificate may.
    Locked,
}

/// Why a password or a hash cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordError {
    /// A blank password would let everybody in. Choose another.
    #[error("password must not be blank")]
    Blank,
    /// No SASL response carries it. Choose a shorter one.
    #[error("password must be at most {PASSWORD_BYTES_MAX} bytes")]
    TooLong,
    /// MD5 is too weak to be kept. The user needs a new password.
    #[error(
        "MD5 password hashes are refused because they protect nothing; set a new password for this user"
    )]
    Md5,
    /// The algorithm is not one of RabbitMQ's or ours.
    #[error("unknown password hashing algorithm `{0}`")]
    UnknownAlgorithm(String),
    /// The text is not a hash of its algorithm.
    #[error("password hash is malformed: {0}")]
    Malformed(&'static str),
    /// Checking it would cost more than a login may.
    #[error(
        "Argon2id hash costs too much: at most {IMPORTED_MEMORY_KIB_MAX} KiB, {IMPORTED_PASSES_MAX} passes and \
         {IMPORTED_LANES_MAX} lanes"
    )]
    TooExpensive,
    /// The system has no randomness or memory. Try again.
    #[error("password could not be hashed: {0}")]
    System(String),
}

impl PasswordHash {
    /// Hashes a password with Argon2id and a new salt.
    ///
    /// Takes about 20 ms and 19 MiB: not for a thread that serves connections.
    ///
    /// # Errors
    ///
    /// [`PasswordError::Blank`], [`PasswordError::TooLong`], [`PasswordError::System`].
    pub fn of(password: &[u8]) -> Result<Self, PasswordError> {
        if password.is_empty() {
            return Err(PasswordError::Blank);
        }
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(PasswordError::TooLong);
        }
        let system = |error: &dyn fmt::Display| PasswordError::System(error.to_string());
        let params = Params::new(ARGON2_MEMORY_KIB, ARGON2_PASSES, ARGON2_LANES, None)
            .map_err(|e| system(&e))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let hash: phc::PasswordHash = argon2.hash_password(password).map_err(|e| system(&e))?;
        Ok(Self::Argon2id(hash.to_string().into()))
    }

    /// Reads `password_hash` and `hashing_algorithm` of a definitions file.
    ///
    /// # Errors
    ///
    /// Every variant but those of making a new hash.
    pub fn from_definitions(hash: &str, algorithm: &str) -> Result<Self, PasswordError> {
        if hash.is_empty() {
            return Ok(Self::Locked);
        }
        match algorithm {
            SHA256_NAME => salted(hash, digest::SHA256_OUTPUT_LEN).map(Self::Sha256),
            SHA512_NAME => salted(hash, digest::SHA512_OUTPUT_LEN).map(Self::Sha512),
            ARGON2ID_NAME => argon2id(hash),
            MD5_NAME => Err(PasswordError::Md5),
            other => Err(PasswordError::UnknownAlgorithm(other.to_owned())),
        }
    }

    /// `password_hash` and `hashing_algorithm` for a definitions file; RabbitMQ can read all but Argon2id.
    #[must_use]
    pub fn to_definitions(&self) -> (String, &'static str) {
        match self {
            Self::Argon2id(text) => (text.to_string(), ARGON2ID_NAME),
            Self::Sha256(salted) => (BASE64_STANDARD.encode(salted), SHA256_NAME),
            Self::Sha512(salted) => (BASE64_STANDARD.encode(salted), SHA512_NAME),
            Self::Locked => (String::new(), SHA256_NAME),
        }
    }

    /// Whether the password is the one that was hashed. A blank one never is.
    ///
    /// A refusal costs an Argon2id hash whatever the kind of hash, so that time does not tell which users exist; see
    /// [`PasswordHash::refuse`]. Not for a thread that serves connections.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
            return Self::refuse(password);
        }
        match self {
            Self::Argon2id(text) => verify_argon2id(text, password),
            Self::Sha256(salted) => {
                matches_digest(&digest::SHA256, salted, password) || Self::refuse(password)
            }
            Self::Sha512(salted) => {
                matches_digest(&digest::SHA512, salted, password) || Self::refuse(password)
            }
            Self::Locked => Self::refuse(password),
        }
    }

    /// Does the work of comparing and says no: for users who do not exist.
    pub fn refuse(password: &[u8]) -> bool {
        let bounded = password.get(..PASSWORD_BYTES_MAX).unwrap_or(password);
        // The outcome is thrown away, so that even NOBODY's password opens nothing.
        let _same = std::hint::black_box(verify_argon2id(NOBODY, bounded));
        false
    }

    /// Whether a good login should be used to replace this hash by an Argon2id one.
    #[must_use]
    pub fn is_weak(&self) -> bool {
        matches!(self, Self::Sha256(_) | Self::Sha512(_))
    }

    /// Bytes that are different for different hashes.
    pub(super) fn identity(&self) -> &[u8] {
        match self {
            Self::Argon2id(text) => text.as_bytes(),
            Self::Sha256(salted) | Self::Sha512(salted) => salted,
            Self::Locked => &[],
        }
    }
}

impl fmt::Debug for PasswordHash {
    /// The kind only: a hash in a log is a hash to be cracked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Argon2id(_) => "Argon2id(***)",
            Self::Sha256(_) => "Sha256(***)",
            Self::Sha512(_) => "Sha512(***)",
            Self::Locked => "Locked",
        })
    }
}

fn salted(hash: &str, digest_len: usize) -> Result<Box<[u8]>, PasswordError> {
    let bytes =
        BASE64_STANDARD.decode(hash.trim()).map_err(|_| PasswordError::Malformed("not base64"))?;
    if bytes.len() != RABBITMQ_SALT_BYTES + digest_len {
        return Err(PasswordError::Malformed("length is not that of salt and digest"));
    }
    Ok(bytes.into())
}

fn argon2id(text: &str) -> Result<PasswordHash, PasswordError> {
    let malformed = || PasswordError::Malformed("not a PHC string of Argon2id");
    let hash = phc::PasswordHash::new(text).map_err(|_| malformed())?;
    if hash.algorithm.as_str() != "argon2id" || hash.salt.is_none() || hash.hash.is_none() {
        return Err(malformed());
    }
    let params = Params::try_from(&hash).map_err(|_| malformed())?;
    let cheap = params.m_cost() <= IMPORTED_MEMORY_KIB_MAX
        && params.t_cost() <= IMPORTED_PASSES_MAX
        && params.p_cost() <= IMPORTED_LANES_MAX;
    if cheap { Ok(PasswordHash::Argon2id(text.into())) } else { Err(PasswordError::TooExpensive) }
}

fn verify_argon2id(text: &str, password: &[u8]) -> bool {
    // Cost and algorithm come from the hash, which was checked when it was made or imported.
    phc::PasswordHash::new(text)
        .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

fn matches_digest(algorithm: &'static digest::Algorithm, salted: &[u8], password: &[u8]) -> bool {
    let Some((salt, expected)) = salted.split_at_checked(RABBITMQ_SALT_BYTES) else { return false };
    let mut context = digest::Context::new(algorithm);
    context.update(salt);
    context.update(password);
    constant_time::verify_slices_are_equal(context.finish().as_ref(), expected).is_ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A cheap one of ours, as the real cost takes long without optimisation.
    pub(in crate::auth) fn cheap(password: &[u8]) -> PasswordHash {
        let params = Params::new(64, 1, 1, None).unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let hash: phc::PasswordHash = argon2.hash_password(password).unwrap();
        PasswordHash::from_definitions(&hash.to_string(), ARGON2ID_NAME).unwrap()
    }

    fn rabbitmq(algorithm: &'static digest::Algorithm, password: &[u8]) -> String {
        let salt = [0x90, 0x8d, 0xc6, 0x0a];
        let mut context = digest::Context::new(algorithm);
        context.update(&salt);
        context.update(password);
        BASE64_STANDARD.encode([&salt[..], context.finish().as_ref()].concat())
    }

    #[test]
    fn a_hash_of_ours_accepts_its_password_only() {
        let hash = PasswordHash::of(b"hunter2").unwrap();

        assert!(hash.verify(b"hunter2"));
        assert!(!hash.verify(b"hunter3"));
        assert!(!hash.is_weak());
        let (text, _) = hash.to_definitions();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
    }

    #[test]
    fn the_example_of_rabbitmqs_documentation_is_accepted() {
        // https://www.rabbitmq.com/docs/passwords: "test12" with salt 908DC60A.
        let hash = PasswordHash::from_definitions(
            "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR",
            SHA256_NAME,
        );

        assert!(hash.unwrap().verify(b"test12"));
    }

    #[test]
    fn imported_digests_accept_their_password_and_go_out_as_they_came() {
        for (algorithm, name) in [(&digest::SHA256, SHA256_NAME), (&digest::SHA512, SHA512_NAME)] {
            let text = rabbitmq(algorithm, b"test12");

            let hash = PasswordHash::from_definitions(&text, name).unwrap();

            assert!(hash.verify(b"test12"));
            assert!(!hash.verify(b"test13"));
            assert!(hash.is_weak());
            assert_eq!(hash.to_definitions(), (text, name));
        }
    }

    #[test]
    fn a_blank_password_never_authenticates() {
        let blank = rabbitmq(&digest::SHA256, b"");

        assert!(!PasswordHash::from_definitions(&blank, SHA256_NAME).unwrap().verify(b""));
        assert!(!PasswordHash::Locked.verify(b""));
        assert_eq!(PasswordHash::of(b""), Err(PasswordError::Blank));
    }

    #[test]
    fn hashes_that_cannot_be_kept_are_refused_with_the_reason() {
        let refuse = |hash: &str, algorithm: &str| {
            PasswordHash::from_definitions(hash, algorithm).unwrap_err()
        };

        assert_eq!(refuse("ySEKbQ==", MD5_NAME), PasswordError::Md5);
        assert_eq!(refuse("x", "bcrypt"), PasswordError::UnknownAlgorithm("bcrypt".to_owned()));
        assert!(matches!(refuse("%%%", SHA256_NAME), PasswordError::Malformed(_)));
        assert!(matches!(refuse("AAAA", SHA512_NAME), PasswordError::Malformed(_)));
        let bomb = NOBODY.replace("m=19456", "m=4194304");
        assert_eq!(refuse(&bomb, ARGON2ID_NAME), PasswordError::TooExpensive);
    }

    #[test]
    fn nobodys_hash_costs_what_ours_cost() {
        let hash = phc::PasswordHash::new(NOBODY).unwrap();
        let params = Params::try_from(&hash).unwrap();

        let cost = (params.m_cost(), params.t_cost(), params.p_cost());

        assert_eq!(cost, (ARGON2_MEMORY_KIB, ARGON2_PASSES, ARGON2_LANES));
        assert_eq!(hash.algorithm.as_str(), "argon2id");
    }

    #[test]
    fn a_hash_is_not_in_its_debug_form() {
        assert_eq!(format!("{:?}", cheap(b"canary")), "Argon2id(***)");
    }
}
