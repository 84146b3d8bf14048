//! The checker of the queue service: what was asked, what was answered, and what of it must not be.
//!
//! A request whose answer did not come has an outcome that is unknown: its messages may be there or not, but those of one
//! post all or none. Whatever is seen of an unknown post makes the whole of it stored from then on.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

/// Most complaints that are kept.
const COMPLAINTS_MAX: usize = 20;

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// Workers claim and delete.
    Worked,
    /// Messages are popped.
    Popped,
    /// A webhook is told of every message.
    Hooked,
}

impl Place {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Worked, Self::Popped, Self::Hooked];

    /// Its part of the queue's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Worked => "worked",
            Self::Popped => "popped",
            Self::Hooked => "hooked",
        }
    }
}

/// Number of a message: poster and sequence.
pub(super) type Key = u64;

/// What is known of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Its post was not answered.
    Sent,
    Stored,
    /// Its deletion was not answered.
    Deleting,
    Deleted,
}

#[derive(Debug)]
struct Message {
    place: Place,
    post: usize,
    fate: Fate,
    id: Option<String>,
    /// The claim that holds it.
    holder: Option<usize>,
}

#[derive(Debug)]
struct Claim {
    id: String,
    held: Vec<Key>,
    is_released: bool,
}

/// A message as the server shows it.
#[derive(Debug)]
pub(super) struct Sight {
    /// From the body; `None` if the body is none of ours.
    pub(super) key: Option<Key>,
    /// From the address, or the member `id` of a popped one.
    pub(super) id: String,
}

impl Sight {
    /// Reads a message object.
    pub(super) fn of(message: &Value) -> Self {
        let href = message.get("href").and_then(Value::as_str).unwrap_or_default();
        let last = href.rsplit('/').next().unwrap_or_default();
        let id = last.split('?').next().unwrap_or_default();
        let member = message.get("id").and_then(Value::as_str);
        let id = if id.is_empty() { member.unwrap_or_default() } else { id };
        Self { key: message.get("body").and_then(read), id: id.to_owned() }
    }
}

/// The body of a message, from which its number can be read and every damage be told.
pub(super) fn body(key: Key) -> Value {
    let length = usize::try_from(key % 700).unwrap_or_default();
    Value::String(format!("rig-{key:016x}-{}", "x".repeat(length)))
}

/// The number in a body, if it is whole.
pub(super) fn read(found: &Value) -> Option<Key> {
    let hex = found.as_str()?.strip_prefix("rig-")?.get(..16)?;
    let key = Key::from_str_radix(hex, 16).ok()?;
    (*found == body(key)).then_some(key)
}

/// Counts of a cycle.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Figures {
    pub(super) posted: u64,
    pub(super) stored: u64,
    pub(super) claimed: u64,
    pub(super) notified: u64,
    /// Posts without an answer that were found stored.
    pub(super) recovered: u64,
}

/// Everything known about the cycle at hand.
#[derive(Debug, Default)]
pub(super) struct Record {
    messages: HashMap<Key, Message>,
    posts: Vec<Vec<Key>>,
    claims: Vec<Claim>,
    posters: u64,
    /// Messages that pops without an answer may have taken.
    popped_unknown: usize,
    notified: HashSet<Key>,
    complaints: Vec<String>,
    pub(super) figures: Figures,
}

/// The record, whether or not a thread that had it panicked.
pub(super) fn guard(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Record {
    /// A number for a poster.
    pub(super) fn poster(&mut self) -> u64 {
        self.posters += 1;
        self.posters
    }

    /// A post is about to be sent; its number.
    pub(super) fn posting(&mut self, place: Place, keys: &[Key]) -> usize {
        let post = self.posts.len();
        self.posts.push(keys.to_vec());
        self.figures.posted += 1;
        for key in keys {
            let message = Message { place, post, fate: Fate::Sent, id: None, holder: None };
            self.messages.insert(*key, message);
        }
        post
    }

    /// A post was answered with 201 and these ids.
    pub(super) fn posted(&mut self, post: usize, ids: &[String]) {
        let keys = self.posts.get(post).cloned().unwrap_or_default();
        if keys.len() != ids.len() {
            self.complain(format!("WRONG: {} ids for {} messages", ids.len(), keys.len()));
        }
        self.figures.stored += 1;
        for (key, id) in keys.iter().zip(ids) {
            if let Some(message) = self.messages.get_mut(key) {
                // A worker may have been faster than the answer.
                if message.fate == Fate::Sent {
                    message.fate = Fate::Stored;
                }
                message.id = Some(id.clone());
            }
        }
    }

    /// A message was seen: it is ours and whole, and its post is stored as a whole.
    fn seen(&mut self, place: Place, sight: &Sight) -> Option<Key> {
        let Some(key) = sight.key.filter(|key| self.messages.contains_key(key)) else {
            self.complain(format!("PHANTOM or CORRUPT in {}: {}", place.name(), sight.id));
            return None;
        };
        let message = self.messages.get(&key)?;
        let (post, id, there) = (message.post, message.id.clone(), message.place);
        if there != place {
            self.complain(format!("PHANTOM in {}: {key:x} was posted to another", place.name()));
        }
        if id.is_some_and(|id| id != sight.id) {
            self.complain(format!("WRONG ID of {key:x}: {}", sight.id));
        }
        let mut is_news = false;
        for key in self.posts.get(post).cloned().unwrap_or_default() {
            if let Some(message) = self.messages.get_mut(&key).filter(|it| it.fate == Fate::Sent) {
                message.fate = Fate::Stored;
                is_news = true;
            }
        }
        self.figures.recovered += u64::from(is_news);
        Some(key)
    }

    /// A claim was answered; its number.
    pub(super) fn claimed(&mut self, id: String, sights: &[Sight]) -> usize {
        let number = self.claims.len();
        let mut held = Vec::new();
        for sight in sights {
            let Some(key) = self.seen(Place::Worked, sight) else { continue };
            self.figures.claimed += 1;
            let holder = self.messages.get(&key).and_then(|message| message.holder);
            if let Some(other) = holder.and_then(|other| self.claims.get(other)) {
                let text =
                    format!("GIVEN TWICE: {key:x} by claim {id} while {} holds it", other.id);
                self.complain(text);
            }
            if let Some(message) = self.messages.get_mut(&key) {
                message.holder = Some(number);
                if message.fate == Fate::Deleted {
                    self.complain(format!(
                        "RESURRECTED: {key:x} was deleted and is claimed by {id}"
                    ));
                }
            }
            held.push(key);
        }
        self.claims.push(Claim { id, held, is_released: false });
        number
    }

    /// A claim is about to be released: from now on others may get its messages.
    pub(super) fn releasing(&mut self, number: usize) {
        let Some(claim) = self.claims.get_mut(number) else { return };
        claim.is_released = true;
        for key in &claim.held {
            if let Some(message) = self.messages.get_mut(key).filter(|it| it.holder == Some(number))
            {
                message.holder = None;
            }
        }
    }

    /// Deletions are about to be sent.
    pub(super) fn deleting(&mut self, keys: &[Key]) {
        self.set(keys, Fate::Deleting);
    }

    /// Deletions were answered.
    pub(super) fn deleted(&mut self, keys: &[Key]) {
        self.set(keys, Fate::Deleted);
    }

    fn set(&mut self, keys: &[Key], fate: Fate) {
        for key in keys {
            if let Some(message) = self.messages.get_mut(key) {
                message.fate = fate;
            }
        }
    }

    /// Ids of the messages.
    pub(super) fn keys_of(sights: &[Sight]) -> Vec<Key> {
        sights.iter().filter_map(|sight| sight.key).collect()
    }

    /// A pop is about to be sent.
    pub(super) fn popping(&mut self, count: usize) {
        self.popped_unknown += count;
    }

    /// A pop of that many was answered.
    pub(super) fn popped(&mut self, count: usize, sights: &[Sight]) {
        self.popped_unknown = self.popped_unknown.saturating_sub(count);
        for sight in sights {
            let Some(key) = self.seen(Place::Popped, sight) else { continue };
            self.figures.claimed += 1;
            if self.messages.get(&key).is_some_and(|message| message.fate == Fate::Deleted) {
                self.complain(format!("GIVEN TWICE: {key:x} was popped before"));
            }
            self.set(&[key], Fate::Deleted);
        }
    }

    /// The webhook was told of a message.
    pub(super) fn notified(&mut self, found: &Value) {
        let Some(key) = read(found).filter(|key| self.messages.contains_key(key)) else {
            // Of an earlier cycle, whose receiver had the same port.
            return;
        };
        self.figures.notified += u64::from(self.notified.insert(key));
    }

    /// What a queue lists after the last start.
    pub(super) fn left(&mut self, place: Place, listed: &[Sight]) {
        let mut there = HashSet::new();
        let mut last: HashMap<u64, Key> = HashMap::new();
        for sight in listed {
            let Some(key) = self.seen(place, sight) else { continue };
            if !there.insert(key) {
                self.complain(format!("DUPLICATE in {}: {key:x}", place.name()));
            }
            if last.insert(key >> 32, key).is_some_and(|before| before > key) {
                self.complain(format!("ORDER in {}: {key:x} came late", place.name()));
            }
        }
        let (mut lost, mut back) = (Vec::new(), Vec::new());
        for (key, message) in self.messages.iter().filter(|(_, message)| message.place == place) {
            match message.fate {
                Fate::Stored if !there.contains(key) => lost.push(*key),
                Fate::Deleted if there.contains(key) => back.push(*key),
                Fate::Stored | Fate::Deleted | Fate::Sent | Fate::Deleting => {}
            }
        }
        if place == Place::Popped && lost.len() <= self.popped_unknown {
            lost.clear();
        }
        lost.sort_unstable();
        for key in lost {
            self.complain(format!("LOST in {}: {key:x}", place.name()));
        }
        for key in back {
            self.complain(format!("RESURRECTED in {}: {key:x}", place.name()));
        }
    }

    /// Claims that were answered and never released.
    pub(super) fn open_claims(&self) -> Vec<(usize, String)> {
        let open = self.claims.iter().enumerate().filter(|(_, claim)| !claim.is_released);
        open.map(|(number, claim)| (number, claim.id.clone())).collect()
    }

    /// What a claim holds after the last start; `None` if the server does not know it.
    pub(super) fn still_claims(&mut self, number: usize, sights: Option<Vec<Sight>>) {
        let Some(claim) = self.claims.get(number) else { return };
        let (id, held) = (claim.id.clone(), claim.held.clone());
        let sights: HashSet<Key> = Self::keys_of(&sights.unwrap_or_default()).into_iter().collect();
        for key in &held {
            let Some(message) = self.messages.get(key) else { continue };
            match message.fate {
                Fate::Stored if !sights.contains(key) => {
                    self.complain(format!("CLAIM LOST: {id} does not hold {key:x} any more"));
                }
                Fate::Deleted if sights.contains(key) => {
                    self.complain(format!("RESURRECTED: {key:x} in claim {id}"));
                }
                Fate::Stored | Fate::Deleted | Fate::Sent | Fate::Deleting => {}
            }
        }
        if sights.iter().any(|key| !held.contains(key)) {
            self.complain(format!("GIVEN TWICE: claim {id} holds what it was not given"));
        }
    }

    /// Stored messages of which the webhook has not been told.
    pub(super) fn unnotified(&self) -> usize {
        let stored = self.messages.iter().filter(|(key, message)| {
            message.place == Place::Hooked
                && message.fate == Fate::Stored
                && !self.notified.contains(key)
        });
        stored.count()
    }

    /// Something that must not be.
    pub(super) fn complain(&mut self, text: String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(text);
        }
    }

    /// Every complaint.
    pub(super) fn verdict(&mut self) -> Vec<String> {
        let missing = self.unnotified();
        if missing > 0 {
            self.complain(format!(
                "NOT NOTIFIED: {missing} stored messages never reached the webhook"
            ));
        }
        std::mem::take(&mut self.complaints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(key: Key) -> Sight {
        Sight { key: Some(key), id: format!("id-{key}") }
    }

    fn posted(keys: &[Key]) -> Record {
        let mut record = Record::default();
        let post = record.posting(Place::Worked, keys);
        let ids: Vec<String> = keys.iter().map(|key| format!("id-{key}")).collect();
        record.posted(post, &ids);
        record
    }

    #[test]
    fn what_was_answered_and_is_not_there_is_lost() {
        let mut record = posted(&[1, 2]);

        record.left(Place::Worked, &[sight(1)]);

        assert_eq!(record.verdict(), ["LOST in worked: 2"]);
    }

    #[test]
    fn a_post_without_an_answer_is_there_as_a_whole_or_not_at_all() {
        let mut record = Record::default();
        record.posting(Place::Worked, &[1, 2]);
        record.left(Place::Worked, &[]);
        assert!(record.verdict().is_empty());

        record.left(Place::Worked, &[sight(1)]);
        assert_eq!(record.verdict(), ["LOST in worked: 2"]);
    }

    #[test]
    fn what_was_deleted_does_not_come_back() {
        let mut record = posted(&[1]);
        record.deleting(&[1]);
        record.left(Place::Worked, &[sight(1)]);
        assert!(record.verdict().is_empty(), "a deletion without an answer may not have happened");

        record.deleted(&[1]);
        record.left(Place::Worked, &[sight(1)]);
        assert_eq!(record.verdict(), ["RESURRECTED in worked: 1"]);
    }

    #[test]
    fn a_message_has_one_claim_until_it_is_released() {
        let mut record = posted(&[1]);
        let first = record.claimed("a".to_owned(), &[sight(1)]);
        record.releasing(first);
        record.claimed("b".to_owned(), &[sight(1)]);
        assert!(record.verdict().is_empty());

        record.claimed("c".to_owned(), &[sight(1)]);
        assert_eq!(record.verdict(), ["GIVEN TWICE: 1 by claim c while b holds it"]);
    }

    #[test]
    fn a_claim_is_still_there_after_a_crash() {
        let mut record = posted(&[1, 2]);
        let claim = record.claimed("a".to_owned(), &[sight(1), sight(2)]);
        record.deleted(&[2]);

        record.still_claims(claim, Some(vec![sight(1)]));
        assert!(record.verdict().is_empty());
        record.still_claims(claim, None);
        assert_eq!(record.verdict(), ["CLAIM LOST: a does not hold 1 any more"]);
    }

    #[test]
    fn a_damaged_body_is_told() {
        assert_eq!(read(&body(0x1234)), Some(0x1234));
        assert_eq!(read(&Value::String("rig-0000000000001234-y".to_owned())), None);
        assert_eq!(read(&Value::Null), None);
    }
}
