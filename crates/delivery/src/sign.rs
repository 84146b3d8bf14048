//! Signatures of webhooks as <https://www.standardwebhooks.com> has them: `v1`, HMAC-SHA256 over
//! `id.timestamp.body`, base64; one signature per secret while secrets are rotated.
//!
//! A subscription that brings no secret has one of its own all the same: derived from the server's, so that no endpoint
//! can sign for another, and nothing has to be stored.

use std::fmt;

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// What secrets begin with in text form.
const PREFIX: &str = "whsec_";

/// Fewest and most bytes of a secret, as the specification says.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Most secrets that sign at once: an old one, a new one, and room for a slow rotation.
pub const SECRETS_MAX: usize = 4;

/// Padding may be there or not: secrets are typed by people.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A secret that signs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// Why a text is not a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Not `whsec_` and base64.
    #[error("a signing secret must be `whsec_` and base64")]
    Unreadable,
    /// Not 24 to 64 bytes.
    #[error("a signing secret must have 24 to 64 bytes, not {0}")]
    Length(usize),
}

/// The system has no randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system has no randomness")]
pub struct NoRandomness;

/// Reads secrets that are separated by commas or line ends.
pub fn secrets(text: &str) -> impl Iterator<Item = Result<Secret, SecretError>> {
    let parts = text.split([',', '\n']).map(str::trim);
    parts.filter(|part| !part.is_empty()).map(Secret::parse)
}

impl Secret {
    /// From the text form, `whsec_` and base64.
    ///
    /// # Errors
    ///
    /// [`SecretError`] if it is not of that form, or has less than 24 or more than 64 bytes.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(SecretError::Unreadable)?;
        let bytes = LENIENT.decode(encoded).map_err(|_| SecretError::Unreadable)?;
        Self::from_bytes(bytes)
    }

    /// From bytes.
    ///
    /// # Errors
    ///
    /// [`SecretError::Length`] if there are less than 24 or more than 64.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SecretError> {
        if SECRET_BYTES.contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(SecretError::Length(bytes.len()))
        }
    }

    /// A new one.
    ///
    /// # Errors
    ///
    /// If the system has no randomness.
    pub fn random() -> Result<Self, NoRandomness> {
        let mut bytes = vec![0; 32];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(Self(bytes))
    }

    /// The secret of one subscription, for who has none of its own.
    #[must_use]
    pub fn derive(&self, tenant: &str, queue: &str, subscription: &str) -> Self {
        let parts = [tenant.as_bytes(), queue.as_bytes(), subscription.as_bytes()];
        Self(self.authenticate(b"posthouse webhook secret 1", &parts).as_ref().to_vec())
    }

    /// What only who has the secret can say of these parts, for this purpose: HMAC-SHA256.
    pub(crate) fn authenticate(&self, purpose: &[u8], parts: &[&[u8]]) -> hmac::Tag {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut context = hmac::Context::with_key(&key);
        context.update(purpose);
        for part in parts {
            // Lengths first: no two lists of parts look the same.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign()
    }

    /// Whether it was who has the secret that said `mac`. Takes as long for every wrong one.
    pub(crate) fn authenticates(&self, purpose: &[u8], parts: &[&[u8]], mac: &[u8]) -> bool {
        let own = self.authenticate(purpose, parts);
        constant_time::verify_slices_are_equal(own.as_ref(), mac).is_ok()
    }

    /// The text form, which a receiver needs.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The value of `webhook-signature`: one signature per secret, separated by spaces.
///
/// `timestamp` is in seconds since 1970, of this attempt and not of the message. The id must hold no dot.
#[must_use]
pub fn signature(secrets: &[Secret], id: &str, timestamp: u64, body: &[u8]) -> String {
    let mut value = String::new();
    for secret in secrets.iter().take(SECRETS_MAX) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.0);
        let mut context = hmac::Context::with_key(&key);
        context.update(id.as_bytes());
        context.update(b".");
        context.update(timestamp.to_string().as_bytes());
        context.update(b".");
        context.update(body);
        if !value.is_empty() {
            value.push(' ');
        }
        value.push_str("v1,");
        STANDARD.encode_string(context.sign().as_ref(), &mut value);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the specification's own test suite.
    const KNOWN: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_signature_is_the_one_of_the_specification() {
        let secret = Secret::parse(KNOWN).unwrap();

        let value = signature(
            &[secret],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );

        assert_eq!(value, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn while_secrets_are_rotated_each_signs() {
        let secrets = [Secret::parse(KNOWN).unwrap(), Secret::from_bytes(vec![7; 32]).unwrap()];

        let both = signature(&secrets, "m", 1, b"x");

        let each: Vec<_> = secrets
            .iter()
            .map(|secret| signature(std::slice::from_ref(secret), "m", 1, b"x"))
            .collect();
        assert_eq!(both, each.join(" "));
    }

    #[test]
    fn each_subscription_has_a_secret_of_its_own() {
        let server = Secret::from_bytes(vec![1; 32]).unwrap();

        let secret = server.derive("t", "q", "1");

        assert_eq!(secret, server.derive("t", "q", "1"));
        for other in [
            server.derive("t", "q", "2"),
            server.derive("tq", "", "1"),
            server.derive("", "tq", "1"),
        ] {
            assert_ne!(secret, other);
        }
        assert_eq!(Secret::parse(&secret.reveal()).unwrap(), secret);
    }

    #[test]
    fn what_was_said_for_one_purpose_is_nothing_for_another() {
        let [secret, other] = [1, 2].map(|byte| Secret::from_bytes(vec![byte; 32]).unwrap());

        let mac = secret.authenticate(b"a", &[b"x", b"y"]);

        assert!(secret.authenticates(b"a", &[b"x", b"y"], mac.as_ref()));
        assert!(!secret.authenticates(b"b", &[b"x", b"y"], mac.as_ref()));
        assert!(!secret.authenticates(b"a", &[b"xy", b""], mac.as_ref()));
        assert!(!secret.authenticates(b"a", &[b"x", b"y"], &mac.as_ref()[..31]));
        assert!(!other.authenticates(b"a", &[b"x", b"y"], mac.as_ref()));
    }

    #[test]
    fn what_is_not_a_secret_is_refused() {
        assert_eq!(Secret::parse("abc"), Err(SecretError::Unreadable));
        assert_eq!(Secret::parse("whsec_!"), Err(SecretError::Unreadable));
        assert_eq!(Secret::parse("whsec_AAAA"), Err(SecretError::Length(3)));
        assert_eq!(format!("{:?}", Secret::parse(KNOWN).unwrap()), "***");
        assert!(Secret::parse(&format!("{KNOWN}\n")).is_ok());
    }
}
