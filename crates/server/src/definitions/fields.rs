//! One entry of a definitions file: typed access to its fields, with a note about everything that was not taken.

use posthouse_amqp::table::Table;
use serde_json::{Map, Value as Json};

use super::json_table::value_of_json;
use super::report::Report;

/// Fields of an object that are taken one by one; what is left in the end was not understood.
#[derive(Debug)]
pub(super) struct Fields<'r> {
    path: String,
    map: Map<String, Json>,
    report: &'r mut Report,
}

impl<'r> Fields<'r> {
    pub(super) fn new(path: String, map: Map<String, Json>, report: &'r mut Report) -> Self {
        Self { path, map, report }
    }

    /// A text that must be there; without it the entry is skipped.
    pub(super) fn required(&mut self, name: &str) -> Option<String> {
        match self.map.remove(name) {
            Some(Json::String(text)) => Some(text),
            Some(other) => {
                self.note(name, &format!("must be a string, not {other}; this entry is skipped"));
                None
            }
            None => {
                self.note(name, "is missing; this entry is skipped");
                None
            }
        }
    }

    /// A text that may be missing.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        match self.take(name)? {
            Json::String(text) => Some(text),
            // RabbitMQ 3.x writes `undefined` so.
            Json::Array(items) if items.is_empty() => None,
            other => self.refuse(name, &other, "a string"),
        }
    }

    pub(super) fn switch(&mut self, name: &str, otherwise: bool) -> bool {
        let taken = self.take(name).and_then(|value| match value {
            Json::Bool(switch) => Some(switch),
            other => self.refuse(name, &other, "true or false"),
        });
        taken.unwrap_or(otherwise)
    }

    pub(super) fn whole_number(&mut self, name: &str) -> Option<i64> {
        let value = self.take(name)?;
        match value.as_i64() {
            Some(number) => Some(number),
            None => self.refuse(name, &value, "a whole number"),
        }
    }

    /// A bound; RabbitMQ's negative ones mean none.
    pub(super) fn bound(&mut self, name: &str) -> Option<u64> {
        u64::try_from(self.whole_number(name)?).ok()
    }

    /// Tags: a list, or one string with commas.
    pub(super) fn tags(&mut self, name: &str) -> Vec<String> {
        let items = match self.take(name) {
            None => Vec::new(),
            Some(Json::String(text)) => text.split(',').map(|tag| tag.trim().to_owned()).collect(),
            Some(Json::Array(items)) => items
                .iter()
                .filter_map(|item| match item {
                    Json::String(tag) => Some(tag.clone()),
                    other => self.refuse(name, other, "a string"),
                })
                .collect(),
            Some(other) => self.refuse(name, &other, "a list of strings").unwrap_or_default(),
        };
        items.into_iter().filter(|tag: &String| !tag.is_empty()).collect()
    }

    pub(super) fn object(&mut self, name: &str) -> Map<String, Json> {
        match self.take(name) {
            None => Map::new(),
            Some(Json::Object(map)) => map,
            Some(other) => match pairs(&other) {
                Some(map) => map,
                None => self.refuse(name, &other, "an object").unwrap_or_default(),
            },
        }
    }

    /// Arguments; one that a field table cannot hold is left out with a note.
    pub(super) fn table(&mut self, name: &str) -> Table {
        let mut table = Table::new();
        for (key, value) in self.object(name) {
            match value_of_json(&value) {
                Ok(value) => {
                    table.insert(key, value);
                }
                Err(reason) => {
                    self.note(&format!("{name}.{key}"), &format!("{reason}; it is left out"));
                }
            }
        }
        table
    }

    /// Any JSON; null if missing.
    pub(super) fn any(&mut self, name: &str) -> Json {
        self.map.remove(name).unwrap_or_default()
    }

    /// Fields of a nested object, with notes in the same report.
    pub(super) fn nested(&mut self, name: &str) -> Fields<'_> {
        let map = self.object(name);
        Fields { path: format!("{}.{name}", self.path), map, report: self.report }
    }

    /// Fields that say nothing that could be lost.
    pub(super) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            drop(self.map.remove(*name));
        }
    }

    pub(super) fn note(&mut self, name: &str, reason: &str) {
        self.report.add(format!("{}.{name}", self.path), reason);
    }

    /// Notes every field that nobody took.
    pub(super) fn finish(mut self) {
        for (name, value) in std::mem::take(&mut self.map) {
            if !says_nothing(&value) {
                self.note(&name, "is not understood and has no effect");
            }
        }
    }

    fn take(&mut self, name: &str) -> Option<Json> {
        self.map.remove(name).filter(|value| !value.is_null() && value != "undefined")
    }

    fn refuse<T>(&mut self, name: &str, value: &Json, wanted: &str) -> Option<T> {
        self.note(name, &format!("must be {wanted}, not {value}; it is left out"));
        None
    }
}

/// An Erlang proplist as RabbitMQ 3.10 exports it: `[["max-length", 100]]`, and `[]` for an empty object.
fn pairs(value: &Json) -> Option<Map<String, Json>> {
    let pair = |item: &Json| match item.as_array().map(Vec::as_slice) {
        Some([Json::String(key), value]) => Some((key.clone(), value.clone())),
        _ => None,
    };
    value.as_array()?.iter().map(pair).collect()
}

fn says_nothing(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::String(text) => text.is_empty() || text == "undefined",
        Json::Array(items) => items.is_empty(),
        Json::Object(map) => map.is_empty(),
        Json::Bool(_) | Json::Number(_) => false,
    }
}
