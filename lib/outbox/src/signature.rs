//! Signatures of Standard Webhooks: HMAC-SHA-256 over id, time and body.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(feature = "axum")]
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::Error;

/// How far a signature's time may be from ours, in seconds.
const TOLERANCE_SECS: u64 = 300;

/// A secret that two sides share.
#[derive(Clone)]
pub struct Secret(Arc<hmac::Key>);

impl Secret {
    /// A secret as Standard Webhooks writes them: `whsec_` and base64.
    ///
    /// # Errors
    ///
    /// If it is not written so, or has fewer than 16 bytes.
    pub fn new(text: &str) -> Result<Self, Error> {
        let encoded = text.strip_prefix("whsec_").unwrap_or(text);
        let bytes = STANDARD.decode(encoded).unwrap_or_default();
        if bytes.len() < 16 {
            let what = "secret must be `whsec_` and at least 16 bytes in base64";
            return Err(Error::Invalid(what.to_owned()));
        }
        Ok(Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &bytes))))
    }

    /// The value of `webhook-signature`.
    #[must_use]
    pub fn sign(&self, id: &str, time_secs: u64, body: &[u8]) -> String {
        let tag = hmac::sign(&self.0, &signed(id, &time_secs.to_string(), body));
        format!("v1,{}", STANDARD.encode(tag))
    }

    /// Whether one of the signatures is ours and of now. `header` finds a header by its name in small letters.
    #[must_use]
    pub fn verify<'a>(&self, header: impl Fn(&str) -> Option<&'a str>, body: &[u8]) -> bool {
        let (Some(id), Some(time), Some(signatures)) =
            (header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"))
        else {
            return false;
        };
        let Ok(time_secs) = time.parse::<u64>() else { return false };
        if time_secs.abs_diff(now_secs()) > TOLERANCE_SECS {
            return false;
        }
        let signed = signed(id, time, body);
        let mut candidates = signatures.split(' ').filter_map(|text| text.strip_prefix("v1,"));
        candidates.any(|text| {
            STANDARD.decode(text).is_ok_and(|tag| hmac::verify(&self.0, &signed, &tag).is_ok())
        })
    }
}

/// Shows nothing of it.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Whether two texts are the same, in a time that says nothing about where they differ.
#[cfg(feature = "axum")]
pub(crate) fn is_same(a: &str, b: &str) -> bool {
    verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()
}

pub(crate) fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn signed(id: &str, time: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", time.as_bytes(), b".", body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification_is_signed_the_same() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();

        let signature =
            secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);

        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_signature_of_another_body_secret_or_time_is_refused() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let other = Secret::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
        let verify = |secret: &Secret, time: u64, signature: &str, body: &[u8]| {
            let time = time.to_string();
            let header = |name: &str| match name {
                "webhook-id" => Some("m"),
                "webhook-timestamp" => Some(time.as_str()),
                _ => Some(signature),
            };
            secret.verify(header, body)
        };
        let now = now_secs();
        let signature = secret.sign("m", now, b"body");

        assert!(verify(&secret, now, &signature, b"body"));
        assert!(verify(&secret, now, &format!("v1,AAAA {signature}"), b"body"));
        assert!(!verify(&secret, now, &signature, b"bodY"));
        assert!(!verify(&other, now, &signature, b"body"));
        assert!(!verify(&secret, now + 1, &signature, b"body"));
        let old = now - TOLERANCE_SECS - 10;
        assert!(!verify(&secret, old, &secret.sign("m", old, b"body"), b"body"));
        assert!(Secret::new("whsec_short").is_err());
    }
}
