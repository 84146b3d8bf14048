//! Changes of a queue's metadata as `application/openstack-messaging-v2.0-json-patch`: a small part of RFC 6902.

use super::identity::Family;
use super::json::{Kind, Raw};
use super::metadata::{Metadata, is_reserved};
use super::problem::Problem;

/// The media type of such a list.
pub(crate) const MEDIA_TYPE: &str = "application/openstack-messaging-v2.0-json-patch";

const OPERATIONS: &str = "It must be one of the following: add, remove, replace.";

/// One change of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    root: String,
    key: String,
    what: What<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What<'a> {
    Add(Raw<'a>),
    Replace(Raw<'a>),
    Remove,
}

/// Reads a list of changes.
///
/// # Errors
///
/// 400 for the first element that is not one.
pub(crate) fn parse(document: Raw<'_>) -> Result<Vec<Change<'_>>, Problem> {
    if document.kind() != Kind::Array {
        return Err(Problem::document_type());
    }
    document.items().map(parse_change).collect()
}

fn parse_change(element: Raw<'_>) -> Result<Change<'_>, Problem> {
    if element.kind() != Kind::Object {
        return Err(Problem::body("Operations must be JSON objects."));
    }
    let Some(operation) = element.member("op") else {
        return Err(Problem::body(format!(
            "Unable to find `op` in JSON Schema change. {OPERATIONS}"
        )));
    };
    let name = operation.string().unwrap_or_else(|| operation.text().into());
    if !matches!(&*name, "add" | "remove" | "replace") {
        return Err(Problem::body(format!("Invalid operation: `{name}`. {OPERATIONS}")));
    }
    let Some(path) = element.member("path").and_then(Raw::string) else {
        return Err(Problem::body("Unable to find 'path' in JSON Schema change"));
    };
    let (root, key) = parse_pointer(&path)?;
    let value = || {
        element.member("value").ok_or_else(|| {
            Problem::body(format!("Operation \"{name}\" requires a member named \"value\"."))
        })
    };
    let what = match &*name {
        "add" => What::Add(value()?),
        "replace" => What::Replace(value()?),
        _ => What::Remove,
    };
    Ok(Change { root, key, what })
}

/// The two segments of a pointer, with `~1` and `~0` decoded.
fn parse_pointer(pointer: &str) -> Result<(String, String), Problem> {
    let refuse = |what: &str| Err(Problem::body(format!("Pointer `{pointer}` {what}")));
    let Some(path) = pointer.strip_prefix('/') else {
        return refuse("does not start with \"/\".");
    };
    let segments: Vec<_> = path.split('/').collect();
    let inner = segments.get(..segments.len() - 1).unwrap_or_default();
    if inner.iter().any(|segment| segment.trim().is_empty()) {
        return refuse("contains adjacent \"/\".");
    }
    if pointer.len() > 1 && pointer.ends_with('/') {
        return refuse("end with \"/\".");
    }
    if pointer.split('~').skip(1).any(|after| !after.starts_with(['0', '1'])) {
        return refuse("contains \"~\" not part of a recognized escape sequence.");
    }
    let decode = |segment: &str| segment.trim().replace("~1", "/").replace("~0", "~");
    match segments.as_slice() {
        [root, key] => Ok((decode(root), decode(key))),
        _ => Err(Problem::body(format!(
            "Invalid JSON pointer for this resource: '{pointer}, e.g /metadata/key'"
        ))),
    }
}

/// Applies changes in order. What is half done after an error must be thrown away.
///
/// # Errors
///
/// 400 for a path outside the metadata, 409 for replacing or removing what is not there.
pub(crate) fn apply(
    changes: &[Change<'_>],
    metadata: &mut Metadata,
    family: Family,
) -> Result<(), Problem> {
    for Change { root, key, what } in changes {
        if !matches!(what, What::Remove) && !root.eq_ignore_ascii_case("metadata") {
            return Err(Problem::body("The root of path must be metadata, e.g /metadata/key."));
        }
        let there = metadata.get(key).is_some() || is_reserved(key, family);
        match what {
            What::Add(value) => metadata.set(key, *value),
            What::Replace(value) if there => metadata.set(key, *value),
            What::Remove if there => drop(metadata.remove(key)),
            What::Replace(_) => {
                return Err(Problem::conflict(format!("Can't replace non-existent object {key}.")));
            }
            What::Remove => {
                return Err(Problem::conflict(format!("Can't remove non-existent object {key}.")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::json::check;
    use super::*;

    /// What becomes of `{"a": 1}`, or the refusal.
    fn patched(patch: &str) -> Result<String, String> {
        let mut metadata = Metadata::from_json(br#"{"a": 1}"#);
        let changes = parse(check(patch.as_bytes()).unwrap());
        let outcome = changes.and_then(|changes| apply(&changes, &mut metadata, Family::Queues));
        outcome
            .map(|()| String::from_utf8(metadata.to_json()).unwrap())
            .map_err(|problem| format!("{} {}", problem.status, problem.description.unwrap()))
    }

    #[test]
    fn changes_are_applied_in_order() {
        let patch = r#"[{"op": "add", "path": "/metadata/b~1c~0", "value": {"x": [1]}},
            {"op": "replace", "path": "/metadata/a", "value": null},
            {"op": "remove", "path": "/metadata/_max_claim_count"},
            {"op": "replace", "path": "/Metadata/_default_message_ttl", "value": 70}]"#;

        assert_eq!(
            patched(patch).unwrap(),
            r#"{"a": null, "b/c~": {"x": [1]}, "_default_message_ttl": 70}"#
        );
        assert_eq!(patched("[]").unwrap(), r#"{"a": 1}"#);
    }

    #[test]
    fn refusals_have_zaqars_words() {
        let refused = |patch: &str| patched(patch).unwrap_err();

        assert_eq!(refused("{}"), "400 Document type not supported.");
        assert_eq!(refused("[1]"), "400 Operations must be JSON objects.");
        assert_eq!(
            refused("[{}]"),
            "400 Unable to find `op` in JSON Schema change. It must be one of the following: add, remove, replace."
        );
        assert_eq!(
            refused(r#"[{"op": "move"}]"#),
            "400 Invalid operation: `move`. It must be one of the following: add, remove, replace."
        );
        assert_eq!(
            refused(r#"[{"op": "add"}]"#),
            "400 Unable to find 'path' in JSON Schema change"
        );
        assert_eq!(
            refused(r#"[{"op": "add", "path": "/metadata/a"}]"#),
            "400 Operation \"add\" requires a member named \"value\"."
        );
        assert_eq!(
            refused(r#"[{"op": "add", "path": "/a/b/c", "value": 1}]"#),
            "400 Invalid JSON pointer for this resource: '/a/b/c, e.g /metadata/key'"
        );
        assert_eq!(
            refused(r#"[{"op": "add", "path": "/a/b", "value": 1}]"#),
            "400 The root of path must be metadata, e.g /metadata/key."
        );
        assert_eq!(
            refused(r#"[{"op": "replace", "path": "/metadata/z", "value": 1}]"#),
            "409 Can't replace non-existent object z."
        );
        assert_eq!(
            refused(r#"[{"op": "remove", "path": "/metadata/z"}]"#),
            "409 Can't remove non-existent object z."
        );
        for pointer in
            ["metadata/a", "/metadata//a", "/metadata/a/", "/metadata/a~2", "/metadata/a~"]
        {
            let patch = format!(r#"[{{"op": "remove", "path": "{pointer}"}}]"#);
            assert!(refused(&patch).contains(&format!("Pointer `{pointer}`")), "{pointer}");
        }
    }
}
