//! Arguments: JSON in files, field tables in AMQP.

use posthouse_amqp::table::{DEPTH_MAX, Table, Value};
use serde_json::{Map, Number, Value as Json};

/// Longest name of an entry: a short string.
const NAME_BYTES_MAX: usize = 255;

/// A field table with the values of a JSON object: whole numbers as 64 bits (`l`), others as double, as RabbitMQ does.
///
/// # Errors
///
/// A sentence, if a number does not fit or it nests too deep.
pub fn table_of_json(object: &Map<String, Json>) -> Result<Table, String> {
    table_at(object, 1)
}

/// One value of a field table.
///
/// # Errors
///
/// As [`table_of_json`].
pub(super) fn value_of_json(value: &Json) -> Result<Value, String> {
    value_at(value, 1)
}

/// A JSON object with the values of a field table. Bytes that are not UTF-8 are replaced, as JSON cannot hold them.
#[must_use]
pub fn json_of_table(table: &Table) -> Json {
    Json::Object(
        table.iter().map(|(name, value)| (name.to_owned(), json_of_value(value))).collect(),
    )
}

fn table_at(object: &Map<String, Json>, depth: usize) -> Result<Table, String> {
    if depth > DEPTH_MAX {
        return Err(format!("must not nest deeper than {DEPTH_MAX}"));
    }
    let mut table = Table::new();
    for (name, value) in object {
        if name.len() > NAME_BYTES_MAX {
            return Err(format!("name `{name}` is longer than {NAME_BYTES_MAX} bytes"));
        }
        table.insert(name.as_str(), value_at(value, depth)?);
    }
    Ok(table)
}

fn value_at(value: &Json, depth: usize) -> Result<Value, String> {
    Ok(match value {
        Json::Null => Value::Void,
        Json::Bool(switch) => Value::Bool(*switch),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::I64(whole),
            (None, Some(fraction)) if !number.is_u64() => Value::F64(fraction),
            _ => return Err(format!("number {number} does not fit into 64 bits with sign")),
        },
        Json::String(text) => Value::LongString(text.clone().into_bytes()),
        Json::Array(_) if depth >= DEPTH_MAX => {
            return Err(format!("must not nest deeper than {DEPTH_MAX}"));
        }
        Json::Array(items) => Value::Array(
            items.iter().map(|item| value_at(item, depth + 1)).collect::<Result<_, _>>()?,
        ),
        Json::Object(object) => Value::Table(table_at(object, depth + 1)?),
    })
}

fn json_of_value(value: &Value) -> Json {
    match value {
        Value::Void => Json::Null,
        Value::Bool(switch) => Json::Bool(*switch),
        Value::I8(number) => (*number).into(),
        Value::U8(number) => (*number).into(),
        Value::I16(number) => (*number).into(),
        Value::U16(number) => (*number).into(),
        Value::I32(number) => (*number).into(),
        Value::U32(number) => (*number).into(),
        Value::I64(number) => (*number).into(),
        Value::Timestamp(secs) => (*secs).into(),
        Value::F32(number) => fraction(f64::from(*number)),
        Value::F64(number) => fraction(*number),
        Value::Decimal { scale, value } => {
            fraction(f64::from(*value) / 10_f64.powi(i32::from(*scale)))
        }
        Value::LongString(bytes) | Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into(),
        Value::Array(items) => items.iter().map(json_of_value).collect(),
        Value::Table(table) => json_of_table(table),
    }
}

/// JSON has no infinity and no "not a number"; they become null.
fn fraction(number: f64) -> Json {
    Number::from_f64(number).map_or(Json::Null, Json::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(json: &Json) -> Map<String, Json> {
        json.as_object().unwrap().clone()
    }

    #[test]
    fn what_json_can_say_comes_back_as_it_was() {
        let json = json!({
            "x-message-ttl": 60000, "ratio": 0.5, "x-overflow": "drop-head", "on": true, "none": null,
            "list": [1, "a", {"deep": [2]}],
        });

        let table = table_of_json(&object(&json)).unwrap();

        assert_eq!(table.get("x-message-ttl"), Some(&Value::I64(60_000)));
        assert_eq!(json_of_table(&table), json);
    }

    #[test]
    fn what_a_table_cannot_hold_is_refused() {
        let mut deep = json!(1);
        for _ in 0..DEPTH_MAX {
            deep = json!({ "x": deep });
        }
        assert!(table_of_json(&object(&deep)).is_ok());
        assert!(table_of_json(&object(&json!({ "x": deep }))).is_err());
        assert!(table_of_json(&object(&json!({ "x": u64::MAX }))).is_err());
    }
}
