//! What a message of the rig is called, and the body that belongs to the name.

use super::random::Random;

/// Cycle, producer and sequence in one number; 24, 12 and 28 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct MessageId(pub(crate) u64);

impl MessageId {
    /// The id of a producer's message.
    pub(crate) fn new(cycle: u64, producer: u64, sequence: u64) -> Self {
        Self(cycle << 40 | producer << 28 | sequence)
    }

    /// What stands in the property `message-id`.
    pub(crate) fn text(self) -> String {
        format!("rig-{:016x}", self.0)
    }

    /// The id in the property `message-id`; `None` if it is not of the rig.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text.strip_prefix("rig-")?, 16).ok().map(Self)
    }

    /// Which cycle it was published in.
    pub(crate) fn cycle(self) -> u64 {
        self.0 >> 40
    }

    /// Who published it.
    pub(crate) fn producer(self) -> u64 {
        self.0 >> 28
    }

    /// The body that belongs to the id: nothing else needs to be remembered to tell a damaged one.
    pub(crate) fn body(self, len: usize) -> Vec<u8> {
        let mut body = vec![0; len];
        Random::new(self.0).fill(&mut body);
        body
    }
}
