//! A commit over several pools, cut into one of each, and into what comes first and what comes when that is durable.

use std::collections::{BTreeMap, BTreeSet};

use model::QueueId;
use smallvec::SmallVec;

use crate::error::{ErrorKind, StoreError};
use crate::pool::{Admission, Change, Commit, Receipt, Targets};

/// A commit of one pool.
pub(super) type Part = (u16, Commit);

/// The pools that a commit touches, each once.
pub(super) fn homes(changes: &[Change], home: fn(QueueId) -> u16) -> SmallVec<[u16; 4]> {
    let mut homes: SmallVec<[u16; 4]> = SmallVec::new();
    let mut add = |queue: QueueId| {
        let number = home(queue);
        if !homes.contains(&number) {
            homes.push(number);
        }
    };
    for change in changes {
        match change {
            Change::Enqueue { targets, .. } => targets.iter().for_each(|it| add(it.queue)),
            Change::CreateQueue { queue, .. }
            | Change::DeleteQueue { queue }
            | Change::Settle { queue, .. }
            | Change::Purge { queue }
            | Change::Remove { queue, .. }
            | Change::EndClaim { queue, .. }
            | Change::Trim { queue, .. } => add(*queue),
        }
    }
    homes
}

/// A commit that was cut.
#[derive(Debug)]
pub(super) struct Cut {
    /// By pool, what is committed at once.
    pub(super) first: Vec<Part>,
    /// What is committed when all of that is durable.
    pub(super) then: Vec<Part>,
    /// Pools that get messages.
    pub(super) filled: BTreeSet<u16>,
    /// Of each change in `first`, by pool: its index in the whole.
    indexes: BTreeMap<u16, Vec<usize>>,
    /// In how many pools each enqueue was put.
    copies: BTreeMap<usize, usize>,
    /// The pool that tells the sequence of the last enqueue.
    last: Option<u16>,
}

impl Cut {
    pub(super) fn new(commit: Commit, home: fn(QueueId) -> u16) -> Result<Self, StoreError> {
        let Commit { changes, now, handout, .. } = commit;
        // Each pool was asked whether it has space before the first gets its part.
        let admission = Admission::Granted;
        let mut cut = Self {
            first: Vec::new(),
            then: Vec::new(),
            filled: BTreeSet::new(),
            indexes: BTreeMap::new(),
            copies: BTreeMap::new(),
            last: None,
        };
        let mut first: BTreeMap<u16, Vec<Change>> = BTreeMap::new();
        let mut ends: BTreeMap<u16, Vec<(usize, Change)>> = BTreeMap::new();
        for (index, change) in changes.into_iter().enumerate() {
            match change {
                Change::Enqueue { message, targets, dedup } => {
                    cut.last = targets.first().map(|target| home(target.queue));
                    for (number, targets) in by_home(&targets, home) {
                        let message = message.clone();
                        let part = Change::Enqueue { message, targets, dedup };
                        cut.put(&mut first, number, index, part);
                        cut.filled.insert(number);
                        *cut.copies.entry(index).or_default() += 1;
                    }
                }
                Change::Settle { queue, .. } => {
                    ends.entry(home(queue)).or_default().push((index, change));
                }
                Change::Remove { .. } => {
                    return Err(StoreError::new(
                        ErrorKind::Unsupported,
                        "messages are removed by a commit of one pool only",
                    ));
                }
                Change::CreateQueue { queue, .. }
                | Change::DeleteQueue { queue }
                | Change::Purge { queue }
                | Change::EndClaim { queue, .. }
                | Change::Trim { queue, .. } => cut.put(&mut first, home(queue), index, change),
            }
        }
        for (number, changes) in ends {
            // Leases may end at once if nothing has to be durable elsewhere before.
            if cut.filled.iter().all(|filled| *filled == number) {
                for (index, change) in changes {
                    cut.put(&mut first, number, index, change);
                }
                continue;
            }
            let changes = changes.into_iter().map(|it| it.1).collect();
            cut.then.push((number, Commit { changes, now, handout, admission }));
        }
        let part = |(number, changes)| (number, Commit { changes, now, handout, admission });
        cut.first = first.into_iter().map(part).collect();
        Ok(cut)
    }

    fn put(
        &mut self,
        parts: &mut BTreeMap<u16, Vec<Change>>,
        number: u16,
        index: usize,
        change: Change,
    ) {
        parts.entry(number).or_default().push(change);
        self.indexes.entry(number).or_default().push(index);
    }

    /// What came of the whole: a message is a duplicate if it was one in every pool.
    pub(super) fn merge(&self, receipts: BTreeMap<u16, Receipt>) -> Receipt {
        let mut whole = Receipt::default();
        let mut duplicates: BTreeMap<usize, usize> = BTreeMap::new();
        for (number, receipt) in receipts {
            whole.congested |= receipt.congested;
            whole.removed += receipt.removed;
            if self.last == Some(number) {
                whole.last = receipt.last;
            }
            let indexes = self.indexes.get(&number);
            for own in receipt.duplicates {
                if let Some(index) = indexes.and_then(|indexes| indexes.get(own)) {
                    *duplicates.entry(*index).or_default() += 1;
                }
            }
        }
        let everywhere = |(index, count): &(usize, usize)| self.copies.get(index) == Some(count);
        whole.duplicates =
            duplicates.into_iter().filter(everywhere).map(|(index, _)| index).collect();
        whole
    }
}

fn by_home(targets: &Targets, home: fn(QueueId) -> u16) -> BTreeMap<u16, Targets> {
    let mut by_home: BTreeMap<u16, Targets> = BTreeMap::new();
    for target in targets {
        by_home.entry(home(target.queue)).or_default().push(*target);
    }
    by_home
}
