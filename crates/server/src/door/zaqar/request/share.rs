//! What a pre-signed URL shall allow.

use model::Timestamp;

use crate::door::zaqar::iso_time;
use crate::door::zaqar::json::{Kind, Raw};
use crate::door::zaqar::problem::Problem;

/// Milliseconds that a URL is good for that does not say: a day.
const LIFETIME_MS: u64 = 86_400_000;

/// What a pre-signed URL shall allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    /// Below the queue: `messages`, `subscriptions`, `claims`.
    pub(crate) paths: Vec<String>,
    pub(crate) methods: Vec<String>,
    pub(crate) expires: Timestamp,
}

/// Reads `{"paths"?, "methods"?, "expires"?}`.
///
/// # Errors
///
/// 400 in Zaqar's words.
pub(crate) fn read_share(document: Raw<'_>, now: Timestamp) -> Result<Share, Problem> {
    if document.kind() != Kind::Object {
        return Err(Problem::document_type());
    }
    let known = ["paths", "methods", "expires"];
    let unknown = |(name, _): &(std::borrow::Cow<'_, str>, Raw<'_>)| !known.contains(&&**name);
    let unknown: Vec<_> =
        document.members().filter(unknown).map(|(name, _)| name.into_owned()).collect();
    if !unknown.is_empty() {
        return Err(Problem::invalid(format!("Unknown keys: {}", set_of(&unknown))));
    }
    let paths = match document.member("paths") {
        None => vec!["messages".to_owned()],
        Some(paths) => texts(paths).ok_or_else(|| Problem::invalid("`paths` should be a list"))?,
    };
    let allowed = ["messages", "subscriptions", "claims"];
    let foreign: Vec<_> =
        paths.iter().filter(|path| !allowed.contains(&path.as_str())).cloned().collect();
    if !foreign.is_empty() {
        return Err(Problem::invalid(format!("Invalid paths: {}", set_of(&foreign))));
    }
    let methods = match document.member("methods") {
        None => vec!["GET".to_owned()],
        Some(methods) => {
            texts(methods).ok_or_else(|| Problem::invalid("`methods` should be a list"))?
        }
    };
    let expires = match document.member("expires") {
        None => Timestamp(now.0 + LIFETIME_MS),
        Some(expires) => read_expires(expires)?,
    };
    Ok(Share { paths, methods, expires })
}

fn read_expires(expires: Raw<'_>) -> Result<Timestamp, Problem> {
    let Some(text) = expires.string() else {
        return Err(Problem::invalid(format!(
            "`expires` should be date format, for example 2016-01-01T00:00:00, not integer value: {}",
            expires.text()
        )));
    };
    iso_time::parse(&text)
        .ok_or_else(|| Problem::invalid(format!("Unable to parse date string '{text}'")))
}

/// A list of strings.
fn texts(list: Raw<'_>) -> Option<Vec<String>> {
    (list.kind() == Kind::Array)
        .then(|| list.items().map(|item| Some(item.string()?.into_owned())).collect())
        .flatten()
}

/// As Python shows a set.
fn set_of(names: &[String]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("'{name}'")).collect();
    format!("{{{}}}", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::zaqar::json::check;

    fn read(text: &str) -> Result<Share, String> {
        read_share(check(text.as_bytes()).unwrap(), Timestamp(1000))
            .map_err(|problem| problem.description.unwrap().into_owned())
    }

    #[test]
    fn what_is_not_said_is_reading_messages_for_a_day() {
        let share = read("{}").unwrap();

        assert_eq!(
            (share.paths, share.methods),
            (vec!["messages".to_owned()], vec!["GET".to_owned()])
        );
        assert_eq!(share.expires, Timestamp(1000 + 86_400_000));
    }

    #[test]
    fn refusals_have_zaqars_words() {
        let refused = |text: &str| read(text).unwrap_err();

        assert_eq!(refused(r#"{"path": 1}"#), "Unknown keys: {'path'}");
        assert_eq!(refused(r#"{"paths": ["x"]}"#), "Invalid paths: {'x'}");
        assert_eq!(refused(r#"{"methods": "GET"}"#), "`methods` should be a list");
        assert_eq!(refused(r#"{"expires": "x"}"#), "Unable to parse date string 'x'");
        assert_eq!(
            refused(r#"{"expires": 5}"#),
            "`expires` should be date format, for example 2016-01-01T00:00:00, not integer value: 5"
        );
    }
}
