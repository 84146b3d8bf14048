//! Requests that are signed as <https://www.standardwebhooks.com> has it, instead of showing a token.
//!
//! `webhook-signature` is one or several of `v1,` and base64 of the HMAC-SHA256 of `id.timestamp.body`. What is sent again
//! within the tolerance is good again: whoever takes it has to recognise duplicates.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use delivery::sign::{Secret, signature};
use hyper::HeaderMap;
use model::Timestamp;

/// How far a signature's time may be from ours, in seconds; the same as in our libraries.
const TOLERANCE_SECS: u64 = 300;

/// Most signatures of a request that are looked at: one per secret while secrets are rotated.
const SIGNATURES_MAX: usize = 4;

/// Longest id, in bytes.
const ID_BYTES_MAX: usize = 256;

/// What a signed request shows.
#[derive(Debug, Clone)]
pub struct Signature {
    id: String,
    time_secs: u64,
    tags: Vec<String>,
}

/// Why a request's signature is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsigned {
    /// There is none.
    Missing,
    /// Its three headers are not what they should be.
    Broken,
    /// Its time is too far from ours.
    Untimely,
}

impl Signature {
    /// The signature in these headers, if it is of about `now`.
    ///
    /// # Errors
    ///
    /// [`Unsigned`].
    pub fn of(headers: &HeaderMap, now: Timestamp) -> Result<Self, Unsigned> {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let tags = text("webhook-signature").ok_or(Unsigned::Missing)?;
        let tags = tags.split(' ').filter(|tag| tag.starts_with("v1,")).map(str::to_owned);
        let tags: Vec<_> = tags.take(SIGNATURES_MAX).collect();
        let id = text("webhook-id").unwrap_or_default();
        let time_secs = text("webhook-timestamp").and_then(|time| time.parse::<u64>().ok());
        let time_secs = time_secs.ok_or(Unsigned::Broken)?;
        if tags.is_empty() || !(1..=ID_BYTES_MAX).contains(&id.len()) {
            return Err(Unsigned::Broken);
        }
        if time_secs.abs_diff(now.0 / 1000) > TOLERANCE_SECS {
            return Err(Unsigned::Untimely);
        }
        Ok(Self { id: id.to_owned(), time_secs, tags })
    }

    /// Whether it is of this body, by who has the secret. Costs a hash of the body.
    #[must_use]
    pub fn is_by(&self, secret: &Secret, body: &[u8]) -> bool {
        let right = signature(std::slice::from_ref(secret), &self.id, self.time_secs, body);
        let fits = |tag: &String| verify_slices_are_equal(tag.as_bytes(), right.as_bytes()).is_ok();
        self.tags.iter().any(fits)
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    const NOW: Timestamp = Timestamp(1_614_265_330_000);
    /// From the specification's own test suite.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;

    fn headers(time: &'static str, signature: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", HeaderValue::from_static("msg_p5jXN8AQM9LWM0D4loKWxJek"));
        headers.insert("webhook-timestamp", HeaderValue::from_static(time));
        headers.insert("webhook-signature", HeaderValue::from_static(signature));
        headers
    }

    fn read(time: &'static str, signature: &'static str) -> Result<Signature, Unsigned> {
        Signature::of(&headers(time, signature), NOW)
    }

    #[test]
    fn the_example_of_the_specification_is_by_its_secret_and_no_other() {
        let secret = Secret::parse(SECRET).unwrap();
        let other = Secret::from_bytes(vec![7; 32]).unwrap();

        let signature = read("1614265330", SIGNATURE).unwrap();

        assert!(signature.is_by(&secret, BODY));
        assert!(!signature.is_by(&other, BODY));
        assert!(!signature.is_by(&secret, br#"{"test": 2432232315}"#));
        let several = "v1,AAAA v1a,x v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert!(read("1614265330", several).unwrap().is_by(&secret, BODY));
        assert!(!read("1614265331", SIGNATURE).unwrap().is_by(&secret, BODY), "another time");
        let many = "v1,A v1,B v1,C v1,D v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert!(!read("1614265330", many).unwrap().is_by(&secret, BODY), "too many");
    }

    #[test]
    fn what_is_no_signature_of_now_is_not_looked_at() {
        let of = |time, signature| read(time, signature).map(drop).unwrap_err();

        assert_eq!(Signature::of(&HeaderMap::new(), NOW).unwrap_err(), Unsigned::Missing);
        assert_eq!(of("1614265631", SIGNATURE), Unsigned::Untimely);
        assert_eq!(of("1614265029", SIGNATURE), Unsigned::Untimely);
        assert!(read("1614265630", SIGNATURE).is_ok());
        for (time, signature) in [
            ("", SIGNATURE),
            ("now", SIGNATURE),
            ("-1", SIGNATURE),
            ("1614265330", ""),
            ("1614265330", "v2,x"),
        ] {
            assert_eq!(of(time, signature), Unsigned::Broken, "{time} {signature}");
        }
        let mut nameless = headers("1614265330", SIGNATURE);
        nameless.remove("webhook-id");
        assert_eq!(Signature::of(&nameless, NOW).unwrap_err(), Unsigned::Broken);
    }
}
