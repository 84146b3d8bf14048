//! Pre-signed URLs: a project hands out the right to use some of its paths until some time, without a login.
//!
//! Signatures are Zaqar's, byte for byte, so that URLs made by either are good at the other:
//!
//! ```text
//! HMAC-SHA256(secret, "PATH,PATH\nMETHOD,METHOD\nPROJECT\nYYYY-MM-DDTHH:MM:SS")  as lower-case hexadecimal digits
//!                               ^^ backslash and n, two characters; lists are sorted
//! ```
//!
//! Stricter than Zaqar where that opens holes: a signed path covers itself and what is below it by whole segments (Zaqar
//! searches it as a regular expression anywhere in the path), the comparison takes the same time for every signature, and
//! what could be read in two ways (commas, backslashes, control characters) is refused when signed and when used.

use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};
use hyper::HeaderMap;
use model::Timestamp;

use crate::config::SignedUrls;
use crate::iso_time;

/// Most paths or methods in one URL. Three kinds of path and a handful of methods are all that make sense.
const LIST_MAX: usize = 32;
/// Longest of any of its texts, in bytes.
const TEXT_BYTES_MAX: usize = 2048;

/// Makes and checks signatures.
#[derive(Debug)]
pub struct Signer {
    /// Newest first: it signs, all are good.
    keys: Vec<hmac::Key>,
    lifetime_max: Duration,
}

/// What a signature says, in the form in which Zaqar answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Sorted.
    pub paths: Vec<String>,
    /// Sorted.
    pub methods: Vec<String>,
    /// Whose.
    pub project: String,
    /// `YYYY-MM-DDTHH:MM:SS`, UTC.
    pub expires: String,
    /// 64 lower-case hexadecimal digits.
    pub signature: String,
}

/// What a request or a WebSocket message brings instead of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown<'a> {
    /// `URL-Signature`.
    pub signature: &'a str,
    /// `URL-Expires`.
    pub expires: &'a str,
    /// `URL-Methods`.
    pub methods: Vec<&'a str>,
    /// `URL-Paths`.
    pub paths: Vec<&'a str>,
    /// `X-Project-Id`.
    pub project: &'a str,
}

/// Why nothing was signed. Texts are Zaqar's where it has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// No secret is configured.
    #[error("The `key` can't be None")]
    NoSecret,
    /// The end lies in the past.
    #[error("`expires` is lower than the current time")]
    Past,
    /// The end lies too far in the future.
    #[error("`expires` is more than {0} seconds from now")]
    TooLong(u64),
    /// No method, too many, or one that is no method.
    #[error("`methods` must be 1 to {LIST_MAX} names of HTTP methods")]
    Methods,
    /// No path, too many, or one that could be read in two ways.
    #[error(
        "`paths` must be 1 to {LIST_MAX} paths without commas, backslashes and control characters"
    )]
    Paths,
    /// The project's name could be read in two ways.
    #[error("the project must not have backslashes and control characters")]
    Project,
}

/// The signature does not allow this request; the answer is 404 whatever the reason is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not allowed by its signature")]
pub struct NotSigned;

impl Signer {
    /// A signer with the secrets of the configuration; without one it signs nothing and finds nothing good.
    #[must_use]
    pub fn new(options: &SignedUrls) -> Self {
        let keys = [&options.secret, &options.previous_secret]
            .into_iter()
            .filter(|secret| !secret.reveal().is_empty())
            .map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes()))
            .collect();
        Self { keys, lifetime_max: options.lifetime_max }
    }

    /// Signs the right to use `methods` on `paths` of `project` until `expires`.
    ///
    /// # Errors
    ///
    /// Every [`SignError`].
    pub fn sign(
        &self,
        paths: &[String],
        methods: &[String],
        project: &str,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<Signed, SignError> {
        let key = self.keys.first().ok_or(SignError::NoSecret)?;
        // Whole seconds are all that the form can say, so what is left of this one is the past already.
        if expires.0 / 1000 <= now.0 / 1000 {
            return Err(SignError::Past);
        }
        if expires.since(now) > self.lifetime_max {
            return Err(SignError::TooLong(self.lifetime_max.as_secs()));
        }
        let (mut paths, mut methods) = (paths.to_vec(), methods.to_vec());
        paths.sort();
        methods.sort();
        check_paths(paths.iter().map(String::as_str)).ok_or(SignError::Paths)?;
        check_methods(methods.iter().map(String::as_str)).ok_or(SignError::Methods)?;
        check_project(project).ok_or(SignError::Project)?;
        let expires = iso_time::format(expires);
        let text = signed_text(&paths.join(","), &methods.join(","), project, &expires);
        let signature = hexadecimal(hmac::sign(key, text.as_bytes()).as_ref());
        Ok(Signed { paths, methods, project: project.to_owned(), expires, signature })
    }

    /// Whether what was shown allows `method` on `path`, the request's path as it is routed, without its query.
    ///
    /// # Errors
    ///
    /// [`NotSigned`]: expired, too long, another method, another path, or another signature.
    pub fn verify(
        &self,
        shown: &Shown<'_>,
        method: &str,
        path: &str,
        now: Timestamp,
    ) -> Result<(), NotSigned> {
        let (mut paths, mut methods) = (shown.paths.clone(), shown.methods.clone());
        paths.sort_unstable();
        methods.sort_unstable();
        check_paths(paths.iter().copied()).ok_or(NotSigned)?;
        check_methods(methods.iter().copied()).ok_or(NotSigned)?;
        check_project(shown.project).ok_or(NotSigned)?;
        let expires = iso_time::parse(shown.expires).ok_or(NotSigned)?;
        // Zaqar signs the normalised form, whatever form it was given.
        let normal = iso_time::format(expires);
        let text = signed_text(&paths.join(","), &methods.join(","), shown.project, &normal);
        let good = self.keys.iter().any(|key| {
            let expected = hexadecimal(hmac::sign(key, text.as_bytes()).as_ref());
            let (expected, shown) = (expected.as_bytes(), shown.signature.as_bytes());
            constant_time::verify_slices_are_equal(expected, shown).is_ok()
        });
        let in_time = now < expires && expires.since(now) <= self.lifetime_max;
        let covered = methods.contains(&method) && paths.iter().any(|signed| covers(signed, path));
        if good && in_time && covered { Ok(()) } else { Err(NotSigned) }
    }
}

impl<'a> Shown<'a> {
    /// What the headers of an HTTP request show; `None` without `URL-Signature`.
    ///
    /// # Errors
    ///
    /// [`NotSigned`] if another part is missing, is there twice or is not text.
    pub fn from_headers(headers: &'a HeaderMap) -> Option<Result<Self, NotSigned>> {
        headers.contains_key("url-signature").then(|| {
            Ok(Self {
                signature: single(headers, "url-signature")?,
                expires: single(headers, "url-expires")?,
                methods: single(headers, "url-methods")?.split(',').collect(),
                paths: single(headers, "url-paths")?.split(',').collect(),
                project: single(headers, "x-project-id")?,
            })
        })
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, NotSigned> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => std::str::from_utf8(value.as_bytes()).map_err(|_| NotSigned),
        (None | Some(_), _) => Err(NotSigned),
    }
}

fn signed_text(paths: &str, methods: &str, project: &str, expires: &str) -> String {
    format!("{paths}\\n{methods}\\n{project}\\n{expires}")
}

/// Whether `path` is the signed one or lies below it. No path is normalised: the router does not, either.
fn covers(signed: &str, path: &str) -> bool {
    path.strip_prefix(signed).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn check_paths<'a>(paths: impl Iterator<Item = &'a str>) -> Option<()> {
    check_list(paths, |path| {
        path.len() > 1
            && path.starts_with('/')
            && !path.ends_with('/')
            && !path.contains(['\\', ','])
            && !path.contains(char::is_control)
    })
}

fn check_methods<'a>(methods: impl Iterator<Item = &'a str>) -> Option<()> {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '-';
    check_list(methods, |method| !method.is_empty() && method.chars().all(letter))
}

fn check_project(project: &str) -> Option<()> {
    let clear = !project.contains('\\') && !project.contains(char::is_control);
    (clear && !project.is_empty() && project.len() <= TEXT_BYTES_MAX).then_some(())
}

fn check_list<'a>(items: impl Iterator<Item = &'a str>, good: impl Fn(&str) -> bool) -> Option<()> {
    let mut count = 0;
    for item in items {
        count += 1;
        if count > LIST_MAX || item.len() > TEXT_BYTES_MAX || !good(item) {
            return None;
        }
    }
    (count > 0).then_some(())
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const NOW: Timestamp = Timestamp(4_922_000_000_000); // 2125-12-21
    const PATH: &str = "/v2/queues/q/messages";

    fn signer(secret: &str, previous: &str) -> Signer {
        Signer::new(&SignedUrls {
            secret: Secret::new(secret.to_owned()),
            previous_secret: Secret::new(previous.to_owned()),
            lifetime_max: Duration::from_secs(400 * 86_400),
        })
    }

    fn texts(items: &[&str]) -> Vec<String> {
        items.iter().map(|&item| item.to_owned()).collect()
    }

    fn sign(paths: &[&str], methods: &[&str]) -> Result<Signed, SignError> {
        let expires = NOW.after(Duration::from_secs(3600));
        signer("secret", "").sign(&texts(paths), &texts(methods), "p", expires, NOW)
    }

    fn shown(signed: &Signed) -> Shown<'_> {
        Shown {
            signature: &signed.signature,
            expires: &signed.expires,
            methods: signed.methods.iter().map(String::as_str).collect(),
            paths: signed.paths.iter().map(String::as_str).collect(),
            project: &signed.project,
        }
    }

    /// Secret, paths, methods, project, expires, signature.
    type Vector = (
        &'static str,
        &'static [&'static str],
        &'static [&'static str],
        &'static str,
        &'static str,
        &'static str,
    );

    /// Made by `zaqar.common.urls.create_signed_url` of Zaqar 23.0.1.
    const VECTORS: [Vector; 4] = [
        (
            "secret",
            &["/v2/queues/q/messages"],
            &["GET"],
            "p1",
            "2126-01-01T00:00:00",
            "1c0fef9c1a239ab3875e8d9b23eced9e444cc492f08d11e512ed23a89a5799ba",
        ),
        (
            "naïve ключ",
            &["/v2/queues/q/subscriptions", "/v2/queues/q/messages", "/v2/queues/q/claims"],
            &["POST", "GET", "DELETE"],
            "a project",
            "2126-12-31T23:59:59",
            "1fab775d74a579009bfd9b8284853bc108776f3446cdca7ac52f305a432d5fdb",
        ),
        (
            "secret",
            &["/v2/queues/a.b-c_D/messages"],
            &["PATCH", "GET"],
            "8d4b8a0e9c3f4b0b9f8a",
            "2126-02-28T12:30:05+02:00",
            "5fe86690a72d20d289471692d02001fb9c8e3a69acea2525004075128a62d587",
        ),
        (
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            &["/v2/queues/q/claims"],
            &["GET", "HEAD"],
            "ключ",
            "2126-01-01T00:00:00Z",
            "09fece5df04182c0c60ce90ab99d8dce3c529ee0b205762c388a65874bf1bafe",
        ),
    ];

    #[test]
    fn signatures_are_those_of_zaqar() {
        for (secret, paths, methods, project, expires, signature) in VECTORS {
            let signer = signer(secret, "");
            let until = iso_time::parse(expires).unwrap();

            let signed = signer.sign(&texts(paths), &texts(methods), project, until, NOW).unwrap();

            assert_eq!(signed.signature, signature, "{paths:?}");
            let theirs = Shown {
                signature,
                expires,
                methods: methods.to_vec(),
                paths: paths.to_vec(),
                project,
            };
            assert_eq!(signer.verify(&theirs, methods[0], paths[0], NOW), Ok(()));
        }
    }

    #[test]
    fn a_signed_path_covers_what_is_below_it_and_not_what_begins_like_it() {
        let signed = sign(&[PATH], &["GET"]).unwrap();
        let verify = |path: &str| signer("secret", "").verify(&shown(&signed), "GET", path, NOW);

        assert_eq!(verify(PATH), Ok(()));
        assert_eq!(verify("/v2/queues/q/messages/50b68a50d6f5b8c8a7c62b01"), Ok(()));
        for path in [
            "/v2/queues/q/messagesx",
            "/v2/queues/q/message",
            "/v2/queues/q",
            "/v2/queues/xq/messages",
            "/x/v2/queues/q/messages",
            "/v2/queues/q/claims",
        ] {
            assert_eq!(verify(path), Err(NotSigned), "{path}");
        }
        let dotted = sign(&["/v2/queues/a.b/messages"], &["GET"]).unwrap();
        let other = "/v2/queues/aXb/messages";
        assert!(signer("secret", "").verify(&shown(&dotted), "GET", other, NOW).is_err());
    }

    #[test]
    fn anything_changed_makes_a_signature_worthless() {
        let signed = sign(&[PATH], &["GET"]).unwrap();
        let good = shown(&signed);
        let later = iso_time::format(NOW.after(Duration::from_secs(7200)));
        let upper = signed.signature.to_uppercase();
        let refused = |shown: Shown<'_>, method: &str| {
            signer("secret", "").verify(&shown, method, PATH, NOW).is_err()
        };

        assert!(!refused(good.clone(), "GET"));
        assert!(refused(good.clone(), "POST"));
        assert!(refused(Shown { project: "other", ..good.clone() }, "GET"));
        assert!(refused(Shown { methods: vec!["GET", "POST"], ..good.clone() }, "POST"));
        assert!(refused(
            Shown { paths: vec![PATH, "/v2/queues/r/messages"], ..good.clone() },
            "GET"
        ));
        assert!(refused(Shown { expires: &later, ..good.clone() }, "GET"));
        assert!(refused(Shown { signature: &upper, ..good.clone() }, "GET"));
        assert!(refused(Shown { signature: "", ..good.clone() }, "GET"));
        let expired = NOW.after(Duration::from_secs(3600));
        assert!(signer("secret", "").verify(&good, "GET", PATH, expired).is_err());
    }

    #[test]
    fn the_secret_before_is_good_and_the_one_before_that_is_not() {
        let signed = sign(&[PATH], &["GET"]).unwrap();

        assert!(signer("new", "secret").verify(&shown(&signed), "GET", PATH, NOW).is_ok());
        assert!(signer("newer", "new").verify(&shown(&signed), "GET", PATH, NOW).is_err());
        assert!(signer("", "").verify(&shown(&signed), "GET", PATH, NOW).is_err());
    }

    #[test]
    fn a_life_too_long_is_refused_when_signed_and_when_used() {
        let short = Signer::new(&SignedUrls {
            secret: Secret::new("secret".to_owned()),
            previous_secret: Secret::new(String::new()),
            lifetime_max: Duration::from_secs(60),
        });
        let signed = sign(&[PATH], &["GET"]).unwrap();
        let until = |secs| NOW.after(Duration::from_secs(secs));
        let (paths, methods) = (texts(&[PATH]), texts(&["GET"]));

        assert!(short.verify(&shown(&signed), "GET", PATH, NOW).is_err());
        assert_eq!(short.sign(&paths, &methods, "p", until(61), NOW), Err(SignError::TooLong(60)));
        assert_eq!(short.sign(&paths, &methods, "p", NOW, NOW), Err(SignError::Past));
        assert!(short.sign(&paths, &methods, "p", until(60), NOW).is_ok());
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_not_signed() {
        for path in ["/a,/b", "/a\\n", "/a\n", "a", "", "/", "/a/", "/a\u{7f}"] {
            assert_eq!(sign(&[path], &["GET"]), Err(SignError::Paths), "{path}");
        }
        for method in ["", "GET,POST", "GET\\np", "GET POST"] {
            assert_eq!(sign(&[PATH], &[method]), Err(SignError::Methods), "{method}");
        }
        assert_eq!(sign(&[], &["GET"]), Err(SignError::Paths));
        assert_eq!(sign(&[PATH; LIST_MAX + 1], &["GET"]), Err(SignError::Paths));
        assert_eq!(signer("", "").sign(&[], &[], "p", NOW, NOW), Err(SignError::NoSecret));
    }
}
