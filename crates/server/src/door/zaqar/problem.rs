//! Why a request is refused, in Zaqar's words. Clients compare titles and descriptions, so they are kept letter by letter.

use std::borrow::Cow;

use broker::BrokerError;

use super::json::{Flaw, write};

/// A refusal: a status with HTTP's meaning, a title, and mostly a description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// 400 to 599.
    pub(crate) status: u16,
    pub(crate) title: Cow<'static, str>,
    pub(crate) description: Option<Cow<'static, str>>,
}

/// The text of a refusal.
type Text = Cow<'static, str>;

impl Problem {
    pub(crate) fn new(status: u16, title: &'static str, description: impl Into<Text>) -> Self {
        Self { status, title: title.into(), description: Some(description.into()) }
    }

    /// A status that speaks for itself: `404 Not Found`.
    pub(crate) fn bare(status: u16, title: &'static str) -> Self {
        Self { status, title: title.into(), description: None }
    }

    /// A value breaks a limit or rule.
    pub(crate) fn invalid(description: impl Into<Text>) -> Self {
        Self::new(400, "Invalid API request", description)
    }

    /// The body cannot be used.
    pub(crate) fn body(description: impl Into<Text>) -> Self {
        Self::new(400, "Invalid request body", description)
    }

    pub(crate) fn not_found(description: impl Into<Text>) -> Self {
        Self::new(404, "Not found", description)
    }

    pub(crate) fn conflict(description: impl Into<Text>) -> Self {
        Self::new(409, "Resource conflict", description)
    }

    /// The policy says no.
    pub(crate) fn forbidden() -> Self {
        Self::new(403, "Not authorized", "You are not authorized to complete this action.")
    }

    /// A body that must be an array is an object, or the other way round.
    pub(crate) fn document_type() -> Self {
        Self::body("Document type not supported.")
    }

    pub(crate) fn unparsable(flaw: Flaw) -> Self {
        Self::body(match flaw {
            Flaw::Malformed => "Request body could not be parsed.",
            Flaw::IntegerTooLarge => "JSON contains integer that is too large.",
        })
    }

    pub(crate) fn missing_field(name: &str) -> Self {
        Self::body(format!("Missing \"{name}\" field."))
    }

    pub(crate) fn field_type(name: &str, wanted: &str) -> Self {
        Self::body(format!("The value of the \"{name}\" field must be a {wanted}."))
    }

    /// The engine cannot do it now; `step` says what failed, with a full stop.
    pub(crate) fn unavailable(step: &str) -> Self {
        Self::new(
            503,
            "Service temporarily unavailable",
            format!("{step} Please try again in a few seconds."),
        )
    }

    /// What the engine refused, as a client of this door may hear it.
    pub(crate) fn from_broker(error: &BrokerError, step: &str) -> Self {
        match error {
            BrokerError::LimitReached(text) => Self::new(403, "Limit reached", text.clone()),
            BrokerError::Unsupported(text) | BrokerError::Invalid(text) => {
                Self::invalid(text.clone())
            }
            BrokerError::AccessRefused { .. } => Self::forbidden(),
            // It was deleted while the request was under way.
            BrokerError::NotFound { .. } => Self::unavailable(step),
            BrokerError::Store(error) => {
                tracing::warn!(%error, step, "the store refused");
                Self::unavailable(step)
            }
            other => Self::conflict(other.to_string()),
        }
    }

    /// `{"title": …, "description": …}`.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(b"{\"title\": ");
        write::string(&mut out, &self.title);
        if let Some(description) = &self.description {
            out.extend_from_slice(b", \"description\": ");
            write::string(&mut out, description);
        }
        out.push(b'}');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_an_object_with_title_and_description() {
        let problem = Problem::missing_field("body");

        assert_eq!(problem.status, 400);
        assert_eq!(
            String::from_utf8(problem.to_json()).unwrap(),
            r#"{"title": "Invalid request body", "description": "Missing \"body\" field."}"#
        );
        assert_eq!(Problem::bare(404, "404 Not Found").to_json(), br#"{"title": "404 Not Found"}"#);
    }
}
