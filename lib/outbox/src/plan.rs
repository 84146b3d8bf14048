//! What is to be leased where that takes several steps: rows without a key, and of each key the rows from its first on.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

/// A row at the beginning of its key's line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Standing {
    pub(crate) seq: i64,
    pub(crate) free: bool,
    pub(crate) id: Uuid,
    pub(crate) key: String,
}

/// What is to be leased: rows without a key, and the beginnings of keys.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) single: Vec<Uuid>,
    pub(crate) chains: HashMap<String, Chain>,
}

/// Rows of one key, from its first one on, with nothing in their way.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    pub(crate) ids: Vec<Uuid>,
    /// More of the key stands behind them, or nobody has looked.
    pub(crate) is_followed: bool,
}

/// What may be sent of a plan: a row and its place in its key, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reachable {
    pub(crate) place: i64,
    pub(crate) id: Uuid,
    pub(crate) is_followed: bool,
}

impl Plan {
    /// The rows to lock, at most `limit`: of each key the first before the second of any.
    pub(crate) fn ids(&self, limit: usize) -> Vec<Uuid> {
        let mut ids = self.single.clone();
        let longest = self.chains.values().map(|chain| chain.ids.len()).max().unwrap_or_default();
        for place in 0..longest {
            ids.extend(self.chains.values().filter_map(|chain| chain.ids.get(place)));
        }
        ids.truncate(limit);
        ids
    }

    /// What of the locked may be sent: of each key the rows up to the first that was not to be had.
    pub(crate) fn reachable(&self, locked: &HashSet<Uuid>) -> Vec<Reachable> {
        let single = self.single.iter().filter(|id| locked.contains(id));
        let single = single.map(|id| Reachable { place: 1, id: *id, is_followed: false });
        let chained = self.chains.values().flat_map(|chain| {
            let last = chain.ids.last().filter(|_| !chain.is_followed);
            let ids = (1..).zip(chain.ids.iter().copied());
            ids.take_while(|(_, id)| locked.contains(id)).map(move |(place, id)| Reachable {
                place,
                id,
                is_followed: last != Some(&id),
            })
        });
        single.chain(chained).collect()
    }

    /// Puts lines of keys, of each of which at most so many rows were looked for, into the plan; returns the keys whose
    /// first rows are not to be had.
    pub(crate) fn stand_in_line(&mut self, mut lines: Vec<Standing>, most: usize) -> Vec<String> {
        lines.sort_unstable();
        // A key may have been asked for more than once.
        lines.dedup();
        let mut keys: HashMap<String, Vec<Standing>> = HashMap::new();
        for row in lines {
            match keys.get_mut(&row.key) {
                Some(line) => line.push(row),
                None => drop(keys.insert(row.key.clone(), vec![row])),
            }
        }
        let mut blocked = Vec::new();
        for (key, line) in keys {
            let ids: Vec<Uuid> = line.iter().take_while(|row| row.free).map(|row| row.id).collect();
            if ids.is_empty() {
                blocked.push(key);
                continue;
            }
            let is_followed = ids.len() < line.len() || line.len() >= most;
            self.chains.insert(key, Chain { ids, is_followed });
        }
        blocked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_takes_the_first_of_each_key_before_the_second_of_any() {
        let ids: Vec<Uuid> = (0..7).map(|_| Uuid::now_v7()).collect();
        let mut plan = Plan { single: vec![ids[0]], ..Plan::default() };
        let standing = |key: &str, number: usize, free| Standing {
            seq: i64::try_from(number).unwrap(),
            free,
            id: ids[number],
            key: key.to_owned(),
        };
        let lines = [standing("a", 3, true), standing("a", 1, true), standing("a", 2, true)];
        let more = [standing("b", 4, true), standing("b", 5, true), standing("c", 6, false)];
        let blocked = plan.stand_in_line(lines.into_iter().chain(more).collect(), 3);
        assert_eq!(blocked, ["c"]);

        let chosen: HashSet<Uuid> = plan.ids(3).into_iter().collect();

        assert_eq!(chosen, HashSet::from([ids[0], ids[1], ids[4]]));
        let locked = HashSet::from([ids[1], ids[3], ids[5]]);
        let first = Reachable { place: 1, id: ids[1], is_followed: true };
        assert_eq!(plan.reachable(&locked), [first], "the others are behind a gap");
    }
}
