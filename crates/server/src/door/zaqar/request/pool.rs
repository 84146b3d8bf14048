//! Pools and flavors, as administrators define them.

use crate::door::zaqar::json::{Kind, Raw};
use crate::door::zaqar::problem::Problem;

/// Longest URI and name of a flavor, in characters.
const TEXT_CHARS_MAX: usize = 255;

/// What is said about a pool; `None` where nothing is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PoolChange {
    pub(crate) weight: Option<u32>,
    pub(crate) uri: Option<String>,
    /// `Some(None)` for no flavor.
    pub(crate) flavor: Option<Option<String>>,
    /// A JSON object, as it was sent.
    pub(crate) options: Option<String>,
}

/// Reads a whole pool: weight and URI are there, and nothing that is not known, but what stands `beside` it.
///
/// # Errors
///
/// 400 in the words of a JSON schema.
pub(crate) fn read_pool(document: Raw<'_>, beside: &[&str]) -> Result<PoolChange, Problem> {
    refuse_others(document, &["weight", "uri", "flavor", "options"], beside)?;
    for required in ["weight", "uri"] {
        if document.member(required).is_none() {
            return Err(Problem::body(format!("'{required}' is a required property")));
        }
    }
    read_pool_members(document)
}

/// Reads a change of a pool; what is not known is ignored.
///
/// # Errors
///
/// 400 if it changes nothing, or in the words of a JSON schema.
pub(crate) fn read_pool_change(document: Raw<'_>) -> Result<PoolChange, Problem> {
    if document.kind() != Kind::Object {
        return Err(Problem::document_type());
    }
    let change = read_pool_members(document)?;
    if change == PoolChange::default() {
        return Err(Problem::body(
            "One of `uri`, `weight`, `flavor`, or `options` needs to be specified",
        ));
    }
    Ok(change)
}

fn read_pool_members(document: Raw<'_>) -> Result<PoolChange, Problem> {
    let weight = |value: Raw<'_>| {
        let whole = value.integer().ok_or_else(|| wrong(value, "is not of type 'integer'"))?;
        u32::try_from(whole).map_err(|_| wrong(value, "is not from 0 to 4294967295"))
    };
    let flavor = |value: Raw<'_>| match value.kind() {
        Kind::Null => Ok(None),
        _ => Ok(Some(text(value)?).filter(|flavor| !flavor.is_empty())),
    };
    let options = |value: Raw<'_>| match value.kind() {
        Kind::Object => Ok(value.text().to_owned()),
        _ => Err(wrong(value, "is not of type 'object'")),
    };
    Ok(PoolChange {
        weight: document.member("weight").map(weight).transpose()?,
        uri: document.member("uri").map(text).transpose()?,
        flavor: document.member("flavor").map(flavor).transpose()?,
        options: document.member("options").map(options).transpose()?,
    })
}

/// Reads a flavor's list of pools; `None` if it is not there.
///
/// # Errors
///
/// 400 in the words of a JSON schema.
pub(crate) fn read_pool_list(document: Raw<'_>) -> Result<Option<Vec<String>>, Problem> {
    if document.kind() != Kind::Object {
        return Err(Problem::document_type());
    }
    let Some(list) = document.member("pool_list") else { return Ok(None) };
    if list.kind() != Kind::Array {
        return Err(wrong(list, "is not of type 'array'"));
    }
    list.items().map(text).collect::<Result<_, _>>().map(Some)
}

/// Reads a whole flavor: its list of pools, and nothing that is not known, but what stands `beside` it.
///
/// # Errors
///
/// 400 in the words of a JSON schema.
pub(crate) fn read_flavor(document: Raw<'_>, beside: &[&str]) -> Result<Vec<String>, Problem> {
    refuse_others(document, &["pool_list", "capabilities"], beside)?;
    let list = read_pool_list(document)?;
    if let Some(other) = document.member("capabilities").filter(|it| it.kind() != Kind::Object) {
        return Err(wrong(other, "is not of type 'object'"));
    }
    list.ok_or_else(|| Problem::body("'pool_list' is a required property"))
}

fn refuse_others(document: Raw<'_>, known: &[&str], beside: &[&str]) -> Result<(), Problem> {
    if document.kind() != Kind::Object {
        return Err(Problem::document_type());
    }
    let is_known = |name: &str| known.contains(&name) || beside.contains(&name);
    match document.members().find(|(name, _)| !is_known(name)) {
        None => Ok(()),
        Some((name, _)) => {
            let shown: String = name.chars().take(TEXT_CHARS_MAX).collect();
            Err(Problem::body(format!(
                "Additional properties are not allowed ('{shown}' was unexpected)"
            )))
        }
    }
}

fn text(value: Raw<'_>) -> Result<String, Problem> {
    let text = value.string().ok_or_else(|| wrong(value, "is not of type 'string'"))?;
    if text.chars().nth(TEXT_CHARS_MAX).is_some() {
        return Err(wrong(value, "is too long"));
    }
    Ok(text.into_owned())
}

fn wrong(value: Raw<'_>, what: &str) -> Problem {
    let shown: String = value.text().chars().take(TEXT_CHARS_MAX + 2).collect();
    Problem::body(format!("{} {what}", shown.replace('"', "'")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::zaqar::json::check;

    fn refused<T: std::fmt::Debug>(outcome: Result<T, Problem>) -> String {
        outcome.unwrap_err().description.unwrap().into_owned()
    }

    #[test]
    fn a_pool_has_a_weight_and_a_uri_and_nothing_unknown() {
        let pool = |text: &str| read_pool(check(text.as_bytes()).unwrap(), &[]);

        let read = pool(r#"{"weight": 10, "uri": "memory:", "flavor": ""}"#).unwrap();
        assert_eq!(
            (read.weight, read.uri.as_deref(), read.flavor),
            (Some(10), Some("memory:"), Some(None))
        );
        assert_eq!(refused(pool(r#"{"weight": 1}"#)), "'uri' is a required property");
        assert_eq!(
            refused(pool(r#"{"weight": -1, "uri": "a"}"#)),
            "-1 is not from 0 to 4294967295"
        );
        assert_eq!(refused(pool(r#"{"weight": "x", "uri": "a"}"#)), "'x' is not of type 'integer'");
        assert_eq!(
            refused(pool(r#"{"weight": 1, "uri": "a", "x": 1}"#)),
            "Additional properties are not allowed ('x' was unexpected)"
        );
        assert_eq!(
            refused(read_pool_change(check(b"{}").unwrap())),
            "One of `uri`, `weight`, `flavor`, or `options` needs to be specified"
        );
    }

    #[test]
    fn a_flavor_is_a_list_of_pools() {
        let flavor = |text: &str| read_flavor(check(text.as_bytes()).unwrap(), &[]);

        assert_eq!(flavor(r#"{"pool_list": ["a"], "capabilities": {}}"#).unwrap(), ["a"]);
        assert_eq!(refused(flavor("{}")), "'pool_list' is a required property");
        assert_eq!(refused(flavor(r#"{"pool_list": "a"}"#)), "'a' is not of type 'array'");
        assert_eq!(
            refused(flavor(r#"{"pool_list": ["a"], "capabilities": []}"#)),
            "[] is not of type 'object'"
        );
    }
}
