//! What a purge removes.

use crate::door::zaqar::json::{Kind, Raw};
use crate::door::zaqar::problem::Problem;

/// What a purge removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Purge {
    pub(crate) messages: bool,
    pub(crate) subscriptions: bool,
}

impl Purge {
    pub(crate) const ALL: Self = Self { messages: true, subscriptions: true };
}

/// Reads `{"resource_types": […]}`; no document is everything.
///
/// # Errors
///
/// 400 for anything else.
pub(crate) fn read_purge(document: Option<Raw<'_>>) -> Result<Purge, Problem> {
    let Some(document) = document else { return Ok(Purge::ALL) };
    let Some(types) = document.member("resource_types") else {
        return Err(Problem::invalid("Post body must contain key \"resource_types\"."));
    };
    let mut purge = Purge { messages: false, subscriptions: false };
    let mut known = types.kind() == Kind::Array;
    for kind in types.items() {
        match kind.string().as_deref() {
            Some("messages") => purge.messages = true,
            Some("subscriptions") => purge.subscriptions = true,
            _ => known = false,
        }
    }
    if known {
        return Ok(purge);
    }
    Err(Problem::invalid("Resource types must be a sub set of {'messages', 'subscriptions'}."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::zaqar::json::check;

    fn read(text: &str) -> Result<Purge, Problem> {
        read_purge(Some(check(text.as_bytes()).unwrap()))
    }

    #[test]
    fn a_purge_removes_what_it_names_or_everything() {
        assert_eq!(read_purge(None), Ok(Purge::ALL));
        let messages = Purge { messages: true, subscriptions: false };
        assert_eq!(read(r#"{"resource_types": ["messages"]}"#), Ok(messages));
        assert_eq!(
            read(r#"{"resource_types": []}"#),
            Ok(Purge { messages: false, subscriptions: false })
        );
        for bad in ["{}", "[]", r#"{"resource_types": "messages"}"#, r#"{"resource_types": ["x"]}"#]
        {
            assert_eq!(read(bad).unwrap_err().status, 400, "{bad}");
        }
    }
}
