//! Copies of what is published.

use posthouse_client::{Queue, Topology};

use crate::bus::TestBus;
use crate::queue::TestMessage;

/// What has been published to an exchange since the recorder was started.
#[derive(Debug)]
pub struct Recorder<'b> {
    bus: &'b TestBus,
    queue: String,
}

impl<'b> Recorder<'b> {
    pub(crate) async fn start(bus: &'b TestBus, exchange: &str, key: &str) -> Self {
        let queue = format!("recorded.{exchange}.{key}");
        let topology = Topology::new().queue(Queue::new(&queue)).bind(&queue, exchange, key);
        if let Err(error) = bus.client().apply(&topology).await {
            panic!("exchange `{exchange}` cannot be recorded: {error}");
        }
        Self { bus, queue }
    }

    /// Everything so far, in its order.
    #[must_use]
    pub fn messages(&self) -> Vec<TestMessage> {
        self.bus.queue(&self.queue).messages().to_vec()
    }

    /// Asserts the bodies of everything so far, as text.
    ///
    /// # Panics
    ///
    /// If they are others.
    #[track_caller]
    pub fn assert_texts(&self, expected: &[&str]) {
        let messages = self.messages();
        let texts: Vec<&str> = messages.iter().map(TestMessage::text).collect();
        assert_eq!(texts, expected, "what was published");
    }
}
