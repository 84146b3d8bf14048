//! What a queue service answered, and its words where it refused.

use anyhow::Context;
use hyper::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Characters shown of an answer that is not the service's own, such as a proxy's page.
const STRANGER_CHARS: usize = 200;

/// A good answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// Where what was made can be found: a path.
    pub(crate) location: Option<String>,
    body: Vec<u8>,
}

/// A refusal: Zaqar's own has title and description, Keystone's an error.
#[derive(Debug, Default, Deserialize)]
struct Refusal {
    title: Option<String>,
    description: Option<String>,
    error: Option<KeystoneError>,
}

#[derive(Debug, Deserialize)]
struct KeystoneError {
    message: Option<String>,
}

impl Answer {
    /// An answer, if it is a good one.
    ///
    /// # Errors
    ///
    /// If its status is not 2xx: with title and description of the service.
    pub(crate) fn of(
        status: StatusCode,
        location: Option<String>,
        body: Vec<u8>,
    ) -> anyhow::Result<Self> {
        if status.is_success() {
            return Ok(Self { status, location, body });
        }
        let reason = reason(status, &body);
        let hint = hint(status, &reason);
        anyhow::bail!("{reason} (status {}){hint}", status.as_u16())
    }

    /// The body's JSON.
    ///
    /// # Errors
    ///
    /// If it is not what the API says.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.body).with_context(|| {
            format!("answer is not what a queue service sends: {}", excerpt(&self.body))
        })
    }

    /// The body as it came.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn reason(status: StatusCode, body: &[u8]) -> String {
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
    let message = refusal.error.and_then(|error| error.message);
    let said = match (refusal.title, refusal.description.or(message)) {
        (Some(title), Some(description)) => format!("{title}: {description}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) if body.is_empty() => {
            status.canonical_reason().unwrap_or("server refused without a reason").to_owned()
        }
        (None, None) => excerpt(body),
    };
    printable(&said)
}

/// What to look at, where the service's words do not say it.
fn hint(status: StatusCode, reason: &str) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST if reason.contains("X-PROJECT-ID") => {
            "; --project or POSTHOUSE_PROJECT says which one"
        }
        StatusCode::UNAUTHORIZED => "; --token or POSTHOUSE_TOKEN says who asks",
        status if status.is_redirection() => "; does --url name a queue service?",
        _ => "",
    }
}

fn excerpt(body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).chars().take(STRANGER_CHARS).collect();
    printable(&text)
}

/// Nothing that a server says may move a terminal's cursor.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str) -> String {
        let status = StatusCode::from_u16(status).unwrap();
        Answer::of(status, None, body.as_bytes().to_vec()).unwrap_err().to_string()
    }

    #[test]
    fn a_refusal_is_shown_in_the_words_of_the_service() {
        let both = refused(400, r#"{"title": "Invalid API request", "description": "Limit"}"#);
        let title = refused(404, r#"{"title": "404 Not Found"}"#);
        let keystone = refused(401, r#"{"error": {"code": 401, "message": "required"}}"#);
        let project = refused(
            400,
            r#"{"title": "Project-Id Missing", "description": "The header X-PROJECT-ID was missing."}"#,
        );

        assert_eq!(both, "Invalid API request: Limit (status 400)");
        assert!(project.ends_with("--project or POSTHOUSE_PROJECT says which one"), "{project}");
        assert_eq!(title, "404 Not Found (status 404)");
        assert!(keystone.starts_with("required (status 401); --token"), "{keystone}");
    }

    #[test]
    fn an_answer_of_a_stranger_is_shortened_and_harmless() {
        let page = refused(502, &format!("\u{1b}[2J{}", "x".repeat(10_000)));

        assert!(page.chars().count() < 300 && !page.contains('\u{1b}'), "{page}");
        assert_eq!(refused(503, ""), "Service Unavailable (status 503)");
        assert!(refused(300, "{}").contains("--url"));
    }
}
