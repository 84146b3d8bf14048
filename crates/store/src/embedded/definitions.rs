//! Definitions: all in memory, each with the segment of its newest record.

use std::collections::BTreeMap;

use model::Ticket;

use super::bytes::u32_of;
use super::event::Event;
use super::log::COMMIT_BYTES_MAX;
use super::record::record_len;
use super::shared::Shared;
use crate::catalog::{Catalog, Definition, DefinitionChange};
use crate::error::{ErrorKind, StoreError};
use crate::pool::Pending;

use super::Embedded;

/// A value and where it is recorded.
#[derive(Debug)]
pub(crate) struct Defined {
    pub(crate) value: Box<[u8]>,
    pub(crate) segment: u32,
}

/// All definitions by key.
pub(crate) type Definitions = BTreeMap<Box<str>, Defined>;

impl Catalog for Embedded {
    fn load(&self) -> Pending<Vec<Definition>> {
        let definitions = self.shared.definitions();
        let copy = |(key, defined): (&Box<str>, &Defined)| Definition {
            key: key.clone(),
            value: defined.value.clone(),
        };
        Pending::ready(Ok(definitions.iter().map(copy).collect()))
    }

    fn commit_definitions(&self, changes: Vec<DefinitionChange>) -> Pending<Ticket> {
        Pending::ready(self.shared.commit_definitions(changes))
    }
}

impl Shared {
    fn commit_definitions(&self, changes: Vec<DefinitionChange>) -> Result<Ticket, StoreError> {
        self.check_alive()?;
        if changes.is_empty() {
            return Ok(Ticket::NONE);
        }
        let bound: usize = changes.iter().map(change_bytes).sum();
        if bound > COMMIT_BYTES_MAX {
            return Err(StoreError::new(
                ErrorKind::Unsupported,
                format!("definitions of {bound} bytes exceed {COMMIT_BYTES_MAX} in one commit"),
            ));
        }
        let mut definitions = self.definitions();
        let mut log = self.log.begin(bound);
        for change in changes {
            match change {
                DefinitionChange::Put(Definition { key, value }) => {
                    let event = Event::Define { key: key.clone() };
                    let segment = log.event_with_body(&event, &value).segment;
                    definitions.insert(key, Defined { value, segment });
                }
                DefinitionChange::Remove(key) => {
                    definitions.remove(&key);
                    log.event(&Event::Undefine { key });
                }
            }
        }
        Ok(log.finish().0)
    }

    /// Writes anew what is recorded in segments that go. Returns how many there were.
    pub(crate) fn carry_definitions(&self, up_to_segment: u32) -> usize {
        let mut definitions = self.definitions();
        let bytes =
            |(key, defined): (&Box<str>, &Defined)| record_len(key.len(), defined.value.len());
        let bound = definitions.iter().filter(|it| it.1.segment <= up_to_segment).map(bytes).sum();
        if bound == 0 {
            return 0;
        }
        let mut carried = 0;
        let mut log = self.log.begin(bound);
        for (key, defined) in definitions.iter_mut().filter(|it| it.1.segment <= up_to_segment) {
            let event = Event::Define { key: key.clone() };
            defined.segment = log.event_with_body(&event, &defined.value).segment;
            carried += 1;
        }
        log.finish();
        carried
    }
}

fn change_bytes(change: &DefinitionChange) -> usize {
    match change {
        DefinitionChange::Put(Definition { key, value }) => {
            debug_assert!(u32_of(value.len()) < u32::MAX, "at most 1 MiB");
            record_len(key.len(), value.len())
        }
        DefinitionChange::Remove(key) => record_len(key.len(), 0),
    }
}
