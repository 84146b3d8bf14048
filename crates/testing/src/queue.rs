//! A look into a queue, which takes nothing and counts as no delivery.

use std::sync::Arc;

use broker::{Broker, BrokerError, BrowseFilter, Seen};
use model::Timestamp;
use posthouse_client::{Properties, REASON_HEADER, Table};

/// Most messages that are looked at.
const LOOK_MAX: usize = 10_000;

/// A queue as it was when it was asked for.
#[derive(Debug)]
pub struct TestQueue {
    name: String,
    messages: Vec<TestMessage>,
    /// Delivered and not settled, or waiting for their time.
    others: usize,
}

/// A message in a queue.
#[derive(Debug, Clone, PartialEq)]
pub struct TestMessage {
    /// Its identity, if it has one.
    pub id: Option<String>,
    /// Its body.
    pub body: Vec<u8>,
    /// Its headers.
    pub headers: Table,
    /// MIME type of its body.
    pub content_type: Option<String>,
}

impl TestQueue {
    pub(crate) fn new(broker: &Arc<Broker>, now: Timestamp, name: &str) -> Self {
        let everything = BrowseFilter { claimed: true, delayed: true, not_from: None };
        let page = broker.enter("guest", "/").and_then(|access| {
            let ready = access.browse(name, None, LOOK_MAX, BrowseFilter::default(), now)?;
            let all = access.browse(name, None, LOOK_MAX, everything, now)?;
            Ok::<_, BrokerError>((ready, all))
        });
        match page {
            Ok((ready, all)) => {
                let others = all.messages.len().saturating_sub(ready.messages.len());
                let messages = ready.messages.iter().map(TestMessage::of).collect();
                Self { name: name.to_owned(), messages, others }
            }
            Err(error) => panic!("queue `{name}` cannot be looked into: {error}"),
        }
    }

    /// Ready messages, in their order.
    #[must_use]
    pub fn messages(&self) -> &[TestMessage] {
        &self.messages
    }

    /// How many messages are ready.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether nothing is ready.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Asserts how many messages are ready.
    ///
    /// # Panics
    ///
    /// If it is another number.
    #[track_caller]
    pub fn assert_len(&self, expected: usize) {
        let (name, others) = (&self.name, self.others);
        assert_eq!(self.len(), expected, "ready messages in `{name}`, beside {others} others");
    }

    /// Asserts that one message is ready, and gives it.
    ///
    /// # Panics
    ///
    /// If there is none, or more.
    #[track_caller]
    #[must_use]
    pub fn assert_one(&self) -> &TestMessage {
        self.assert_len(1);
        self.messages.first().expect("one message")
    }
}

impl TestMessage {
    fn of(seen: &Seen) -> Self {
        let properties = Properties::decode(seen.message.properties()).unwrap_or_default();
        let headers = properties.headers.and_then(|headers| headers.decode().ok());
        Self {
            id: properties.message_id.map(str::to_owned),
            body: seen.message.body().to_vec(),
            headers: headers.unwrap_or_default(),
            content_type: properties.content_type.map(str::to_owned),
        }
    }

    /// Its body as text.
    ///
    /// # Panics
    ///
    /// If it is not UTF-8.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// A header, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.as_str()
    }

    /// Asserts why it was given up.
    ///
    /// # Panics
    ///
    /// If the reason is another one, or there is none.
    #[track_caller]
    pub fn assert_reason(&self, expected: &str) {
        assert_eq!(self.header(REASON_HEADER), Some(expected), "why the message was given up");
    }
}
