//! Members of a JSON object as arguments: `name=text`, or `name:=JSON`.

use anyhow::Context;
use serde_json::{Map, Value};

/// An object of `name=text` and `name:=JSON` pairs.
///
/// # Errors
///
/// If a pair has no `=`, or its JSON is none.
pub(crate) fn members(pairs: &[String]) -> anyhow::Result<Map<String, Value>> {
    pairs.iter().map(|pair| member(pair)).collect()
}

fn member(pair: &str) -> anyhow::Result<(String, Value)> {
    let (name, value) =
        pair.split_once('=').with_context(|| format!("{pair}: must be NAME=VALUE"))?;
    match name.strip_suffix(':') {
        Some(name) => {
            let json = serde_json::from_str(value)
                .with_context(|| format!("{pair}: not JSON after :="))?;
            Ok((name.to_owned(), json))
        }
        None => Ok((name.to_owned(), value.into())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_and_json_are_told_apart() {
        let pairs = ["a=1", "b:=1", "c:={\"d\": null}", "e==="].map(str::to_owned);

        let object = Value::Object(members(&pairs).unwrap());

        assert_eq!(object, json!({ "a": "1", "b": 1, "c": { "d": null }, "e": "==" }));
        assert!(members(&["a".to_owned()]).is_err());
        assert!(members(&["a:={".to_owned()]).is_err());
    }
}
