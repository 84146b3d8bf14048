//! Rows of one key are only sent from the first on: what was leased behind a gap goes back.
//!
//! A lease is planned and then taken. What others took in between is missing, and what comes behind it in its key must
//! not be sent before it.

use std::collections::HashMap;

use crate::dialect::{Batch, Leased};

/// Sorts leased rows, each with its place in its key (counted from 1), into those that may be sent and those that must
/// go back.
pub(crate) fn chains(mut rows: Vec<(i64, Leased)>, blocked: Vec<String>) -> Batch {
    rows.sort_by_key(|(place, _)| *place);
    let mut next: HashMap<String, i64> = HashMap::new();
    let mut batch = Batch { leased: Vec::with_capacity(rows.len()), blocked, ..Batch::default() };
    for (place, row) in rows {
        let Some(key) = &row.letter.key else {
            batch.leased.push(row);
            continue;
        };
        let expected = match next.get_mut(key) {
            Some(expected) => expected,
            None => next.entry(key.clone()).or_insert(1),
        };
        if place == *expected {
            *expected += 1;
            batch.leased.push(row);
        } else {
            batch.torn.push((row.letter.id, row.lease));
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use uuid::Uuid;

    use super::*;
    use crate::dialect::Letter;

    fn row(place: i64, key: Option<&str>) -> (i64, Leased) {
        let letter = Letter {
            id: Uuid::now_v7(),
            source: String::new(),
            topic: place.to_string(),
            key: key.map(str::to_owned),
            content_type: String::new(),
            headers: BTreeMap::new(),
            payload: bytes::Bytes::new(),
            created_us: 0,
            expires_in: None,
            attempt: 1,
        };
        (place, Leased { lease: 1, expired: false, broken: None, is_followed: false, letter })
    }

    #[test]
    fn what_is_behind_a_gap_goes_back() {
        let rows = vec![
            row(1, Some("a")),
            row(3, Some("a")),
            row(2, Some("b")),
            row(1, None),
            row(1, None),
            row(2, Some("c")),
            row(1, Some("c")),
        ];

        let batch = chains(rows, Vec::new());

        let sent: Vec<(Option<&str>, &str)> = batch
            .leased
            .iter()
            .map(|row| (row.letter.key.as_deref(), row.letter.topic.as_str()))
            .collect();
        let wanted =
            [(Some("a"), "1"), (None, "1"), (None, "1"), (Some("c"), "1"), (Some("c"), "2")];
        assert_eq!(sent, wanted);
        assert_eq!(batch.torn.len(), 2);
    }
}
