//! What a dead letter tells about its past: the header `x-death` and its companions, as RabbitMQ writes them.
//!
//! One entry per queue and reason, the latest in front. A message that went round without any consumer having rejected
//! it would go round for ever, so such rounds end, exactly as RabbitMQ does it: by [`Buried::closes_cycle`] of each queue
//! that it is about to reach.

use posthouse_amqp::{
    error::{DecodeError, EncodeError},
    properties::Property,
    rewrite::Rewrite,
    table::{Table, TableError, Value},
};

use crate::{decision::Reason, message::Message, property_bytes::PropertyBytes, time::Timestamp};

const DEATHS: &str = "x-death";
const CC: &str = "CC";

/// How a message left a queue.
#[derive(Debug, Clone, Copy)]
pub struct Death<'a> {
    /// The queue it left.
    pub queue: &'a str,
    /// Why.
    pub reason: Reason,
    /// Where it had been published to.
    pub exchange: &'a str,
    /// With which routing key.
    pub routing_key: &'a str,
    /// The routing key it will be published with again, its own if `None`.
    pub new_routing_key: Option<&'a str>,
    /// When; told in seconds.
    pub time: Timestamp,
}

/// The properties of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buried {
    /// Encoded, with the story of the message and without expiration.
    pub properties: Vec<u8>,
    /// More keys to route it by: those of CC, unless a new routing key replaces them all.
    pub extra_keys: Vec<String>,
    /// The queues it was in since a consumer last rejected it.
    automatic: Vec<Box<str>>,
}

impl Buried {
    /// Whether going to `queue` would close a round in which nobody rejected the message. RabbitMQ leaves such queues
    /// out when it routes a dead letter.
    #[must_use]
    pub fn closes_cycle(&self, queue: &str) -> bool {
        self.automatic.iter().any(|visited| **visited == *queue)
    }
}

/// Why the story cannot be written. The message can still be kept as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuryError {
    /// The properties cannot be read.
    #[error("the properties of a dead letter cannot be read")]
    Properties(#[from] DecodeError),
    /// The headers cannot be read.
    #[error("the headers of a dead letter cannot be read")]
    Headers(#[from] TableError),
    /// The headers cannot be written.
    #[error("the headers of a dead letter cannot be written")]
    Encode(#[from] EncodeError),
    /// With the story they would be longer than [`Message::PROPERTIES_BYTES_MAX`].
    #[error(
        "the properties of a dead letter must be at most {} bytes",
        Message::PROPERTIES_BYTES_MAX
    )]
    TooLarge,
}

/// Writes `death` into encoded properties, whatever their past.
///
/// # Errors
///
/// [`BuryError`] if the properties cannot be read or become too large.
pub fn record(properties: &[u8], death: &Death<'_>) -> Result<Buried, BuryError> {
    Letter::open(properties)?.close(death)
}

/// The properties with as much of the story as fits into `bytes_max`: the oldest deaths are left out. `None` if they
/// fit as they are, cannot be read, or would not fit without a story either.
#[must_use]
pub fn shorten(properties: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    if properties.len() <= bytes_max {
        return None;
    }
    let mut letter = Letter::open(properties).ok()?;
    while letter.deaths.pop().is_some() {
        if !letter.deaths.is_empty() {
            letter.headers.insert(DEATHS, letter.deaths.clone());
        } else {
            letter.headers.remove(DEATHS);
        }
        letter.rewrite.set_headers(&letter.headers).ok()?;
        let mut shorter = Vec::new();
        letter.rewrite.encode(&mut shorter);
        if shorter.len() <= bytes_max {
            return Some(shorter);
        }
    }
    None
}

/// A message taken apart.
struct Letter<'a> {
    rewrite: Rewrite<'a>,
    expiration: Option<&'a [u8]>,
    /// Without `x-death`.
    headers: Table,
    /// The elements of `x-death`. One that is not an array was not written by a broker and is replaced.
    deaths: Vec<Value>,
}

impl<'a> Letter<'a> {
    fn open(properties: &'a [u8]) -> Result<Self, BuryError> {
        let expiration = PropertyBytes::of(properties)?.expiration();
        let rewrite = Rewrite::of(properties)?;
        let headers = rewrite.headers().map(|headers| headers.decode()).transpose()?;
        let mut headers = headers.unwrap_or_default();
        let deaths = match headers.remove(DEATHS) {
            Some(Value::Array(deaths)) => deaths,
            _ => Vec::new(),
        };
        Ok(Self { rewrite, expiration, headers, deaths })
    }

    fn close(mut self, death: &Death<'_>) -> Result<Buried, BuryError> {
        self.add(death);
        self.write_first_and_last(death);
        let extra_keys = self.take_keys(death);
        let automatic = self.deaths.iter().take_while(|entry| !is_rejection(entry));
        let automatic =
            automatic.filter_map(|entry| text(entry, "queue")).map(Into::into).collect();
        self.headers.insert(DEATHS, self.deaths);
        self.rewrite.set_headers(&self.headers)?;
        self.rewrite.remove(Property::Expiration);
        let mut properties = Vec::new();
        self.rewrite.encode(&mut properties);
        if properties.len() > Message::PROPERTIES_BYTES_MAX {
            return Err(BuryError::TooLarge);
        }
        Ok(Buried { properties, extra_keys, automatic })
    }

    /// Puts the death in front, counted into the entry of the same queue and reason if there is one.
    fn add(&mut self, death: &Death<'_>) {
        let (same, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.deaths).into_iter().partition(|entry| is_of(entry, death));
        let count = same.iter().map(count).fold(1, i64::saturating_add);
        let known = same.into_iter().find_map(|entry| match entry {
            Value::Table(table) => Some(table),
            _ => None,
        });
        let mut entry = known.unwrap_or_else(|| self.entry(death));
        entry.insert("count", count);
        self.deaths = Vec::with_capacity(others.len() + 1);
        self.deaths.push(entry.into());
        self.deaths.extend(others);
    }

    fn entry(&self, death: &Death<'_>) -> Table {
        let copies = self.headers.get(CC).and_then(Value::as_array).unwrap_or_default();
        let copies = copies.iter().filter(|key| matches!(key, Value::LongString(_))).cloned();
        let keys: Vec<_> = std::iter::once(Value::from(death.routing_key)).chain(copies).collect();
        let mut entry = Table::from_iter([
            ("count", Value::from(1_i64)),
            ("reason", death.reason.word().into()),
            ("queue", death.queue.into()),
            ("time", Value::Timestamp(death.time.0 / 1000)),
            ("exchange", death.exchange.into()),
            ("routing-keys", keys.into()),
        ]);
        if let Some(expiration) = self.expiration {
            entry.insert("original-expiration", Value::LongString(expiration.to_vec()));
        }
        entry
    }

    fn write_first_and_last(&mut self, death: &Death<'_>) {
        let reason = death.reason.word();
        if self.headers.get("x-first-death-queue").is_none() {
            self.headers.insert("x-first-death-reason", reason);
            self.headers.insert("x-first-death-queue", death.queue);
            self.headers.insert("x-first-death-exchange", death.exchange);
        }
        self.headers.insert("x-last-death-reason", reason);
        self.headers.insert("x-last-death-queue", death.queue);
        self.headers.insert("x-last-death-exchange", death.exchange);
    }

    /// The keys to route by besides the first; a new routing key takes CC away.
    fn take_keys(&mut self, death: &Death<'_>) -> Vec<String> {
        if death.new_routing_key.is_some() {
            self.headers.remove(CC);
        }
        let copies = self.headers.get(CC).and_then(Value::as_array).unwrap_or_default();
        copies.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }
}

fn is_rejection(entry: &Value) -> bool {
    text(entry, "reason") == Some(Reason::Rejected.word())
}

fn is_of(entry: &Value, death: &Death<'_>) -> bool {
    text(entry, "queue") == Some(death.queue) && text(entry, "reason") == Some(death.reason.word())
}

fn text<'v>(entry: &'v Value, name: &str) -> Option<&'v str> {
    entry.as_table()?.get(name)?.as_str()
}

/// At least one: it is there, whatever it says.
fn count(entry: &Value) -> i64 {
    let count = entry.as_table().and_then(|entry| entry.get("count")?.as_i64());
    count.unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use posthouse_amqp::{properties::Properties, raw_table::RawTable};

    use super::*;

    fn death(queue: &str, reason: Reason) -> Death<'_> {
        Death {
            queue,
            reason,
            exchange: "orders",
            routing_key: "new",
            new_routing_key: None,
            time: Timestamp(7_999),
        }
    }

    fn encoded(headers: &Table) -> Vec<u8> {
        let entries = headers.to_entries().unwrap();
        let headers = Some(RawTable::from_bytes(&entries));
        let mut raw = Vec::new();
        let properties = Properties { headers, expiration: Some("50"), ..Properties::default() };
        properties.encode(&mut raw).unwrap();
        raw
    }

    fn headers(properties: &[u8]) -> Table {
        Properties::decode(properties).unwrap().headers.unwrap().decode().unwrap()
    }

    fn deaths(properties: &[u8]) -> Vec<(String, String, i64)> {
        let headers = headers(properties);
        let entry = |entry: &Value| {
            let text = |name| text(entry, name).unwrap().to_owned();
            (text("queue"), text("reason"), count(entry))
        };
        headers.get(DEATHS).unwrap().as_array().unwrap().iter().map(entry).collect()
    }

    /// Lets a message die several times.
    fn history(story: &[(&str, Reason)]) -> Buried {
        let start = Buried { properties: vec![0, 0], extra_keys: vec![], automatic: vec![] };
        story.iter().fold(start, |letter, (queue, reason)| {
            record(&letter.properties, &death(queue, *reason)).unwrap()
        })
    }

    #[test]
    fn the_first_death_is_told_in_full() {
        let copies = Value::Array(vec!["copy".into()]);
        let raw = encoded(&Table::from_iter([("mine", Value::Bool(true)), (CC, copies.clone())]));

        let buried = record(&raw, &death("q", Reason::Expired)).unwrap();

        let keys = Value::Array(vec!["new".into(), "copy".into()]);
        let entry = Table::from_iter([
            ("count", Value::I64(1)),
            ("reason", "expired".into()),
            ("queue", "q".into()),
            ("time", Value::Timestamp(7)),
            ("exchange", "orders".into()),
            ("routing-keys", keys),
            ("original-expiration", "50".into()),
        ]);
        let expected = Table::from_iter([
            ("mine", Value::Bool(true)),
            (CC, copies),
            ("x-first-death-reason", "expired".into()),
            ("x-first-death-queue", "q".into()),
            ("x-first-death-exchange", "orders".into()),
            ("x-last-death-reason", "expired".into()),
            ("x-last-death-queue", "q".into()),
            ("x-last-death-exchange", "orders".into()),
            (DEATHS, Value::Array(vec![entry.into()])),
        ]);
        assert_eq!(headers(&buried.properties), expected);
        assert_eq!(Properties::decode(&buried.properties).unwrap().expiration, None);
        assert_eq!(buried.extra_keys, ["copy"]);
    }

    #[test]
    fn a_new_routing_key_takes_the_copies_away() {
        let raw = encoded(&Table::from_iter([(CC, Value::Array(vec!["copy".into()]))]));
        let death = Death { new_routing_key: Some("dead"), ..death("q", Reason::Rejected) };

        let buried = record(&raw, &death).unwrap();

        let headers = headers(&buried.properties);
        let keys = headers.get(DEATHS).unwrap().as_array().unwrap()[0].as_table().unwrap();
        assert_eq!(keys.get("routing-keys").unwrap().as_array().unwrap().len(), 2);
        assert_eq!(headers.get(CC), None);
        assert!(buried.extra_keys.is_empty());
    }

    #[test]
    fn deaths_of_the_same_queue_and_reason_are_counted_and_move_to_the_front() {
        let story = [("a", Reason::Rejected), ("b", Reason::Expired), ("a", Reason::Rejected)];

        let buried = history(&story);

        let expected = [("a", "rejected", 2), ("b", "expired", 1)];
        let expected = expected.map(|(queue, reason, count)| (queue.into(), reason.into(), count));
        assert_eq!(deaths(&buried.properties), expected);
        let headers = headers(&buried.properties);
        assert_eq!(headers.get("x-first-death-queue").unwrap().as_str(), Some("a"));
        assert_eq!(headers.get("x-last-death-queue").unwrap().as_str(), Some("a"));
    }

    #[test]
    fn a_round_by_expiry_alone_ends() {
        let round = history(&[("a", Reason::Expired), ("b", Reason::Expired)]);

        assert!(round.closes_cycle("a") && round.closes_cycle("b"));
        assert!(!round.closes_cycle("c"));
    }

    #[test]
    fn a_round_with_a_rejection_goes_on() {
        let round = history(&[("work", Reason::Rejected), ("wait", Reason::Expired)]);

        let again = record(&round.properties, &death("work", Reason::Rejected)).unwrap();
        let once_more = record(&again.properties, &death("wait", Reason::Expired)).unwrap();

        assert!(!round.closes_cycle("work") && !again.closes_cycle("wait"));
        assert!(!once_more.closes_cycle("work"));
        assert_eq!(deaths(&once_more.properties)[0], ("wait".into(), "expired".into(), 2));
    }

    #[test]
    fn a_round_closes_after_the_last_rejection() {
        let story = [("work", Reason::Rejected), ("a", Reason::Expired), ("b", Reason::MaxLength)];

        let buried = history(&story);

        assert!(buried.closes_cycle("a"));
        assert!(!buried.closes_cycle("work"));
    }

    #[test]
    fn a_past_that_no_broker_wrote_is_replaced() {
        let raw = encoded(&Table::from_iter([(DEATHS, "long ago")]));

        let buried = record(&raw, &death("q", Reason::MaxLength)).unwrap();

        assert_eq!(deaths(&buried.properties), [("q".into(), "maxlen".into(), 1)]);
    }

    #[test]
    fn properties_that_are_not_text_are_kept() {
        let raw = [&Property::CorrelationId.flag().to_be_bytes()[..], &[2, 0xff, 0xfe]].concat();

        let buried = record(&raw, &death("q", Reason::Rejected)).unwrap();

        assert!(buried.properties.ends_with(&[2, 0xff, 0xfe]));
        assert!(record(&[0xff], &death("q", Reason::Rejected)).is_err());
    }

    #[test]
    fn a_story_too_long_to_store_is_an_error() {
        let text = "x".repeat(Message::PROPERTIES_BYTES_MAX - 100);
        let raw = encoded(&Table::from_iter([("x", &*text)]));

        let refused = record(&raw, &death("q", Reason::Rejected));

        assert_eq!(refused, Err(BuryError::TooLarge));
    }

    #[test]
    fn a_story_too_long_for_a_frame_loses_its_oldest_deaths() {
        let queues: Vec<String> = (0..50).map(|number| format!("queue-{number}")).collect();
        let story: Vec<_> = queues.iter().map(|queue| (&**queue, Reason::Rejected)).collect();
        let long = history(&story).properties;

        let short = shorten(&long, 2000).unwrap();

        let (told, all) = (deaths(&short), deaths(&long));
        assert!(short.len() <= 2000 && told.len() > 5);
        assert_eq!(told, all[..told.len()]);
        assert_eq!(headers(&short).get("x-first-death-queue").unwrap().as_str(), Some("queue-0"));
        assert_eq!(shorten(&long, long.len()), None);
        assert_eq!(shorten(&long, 10), None);
    }
}
