//! Publishers that flood a queue wait a little for its consumers.

use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use broker::{Access, ConsumeOptions, Credit, Outbox, Publish, Publisher};
use posthouse_amqp::properties::Properties;
use store::embedded::Options;

use crate::world::World;

/// Publishes transient messages of 1 KiB in one batch.
fn flood(access: &Access, messages: usize) -> Publisher {
    let mut properties = Vec::new();
    Properties::default().encode(&mut properties).unwrap();
    let mut publisher = Publisher::new(access.clone());
    for _ in 0..messages {
        let (properties, body) = (properties.as_slice(), [0; 1024].as_slice());
        let publish =
            Publish { exchange: "", routing_key: "q", properties, body, reply_token: None };
        publisher.publish(publish, access.now()).unwrap();
    }
    publisher.flush(access.now()).unwrap();
    publisher
}

/// Publishes a batch; whether the publisher is to wait.
fn crowds(access: &Access, messages: usize) -> bool {
    flood(access, messages).is_crowded()
}

/// Somebody who takes one message and no more.
fn consume(access: &Access) {
    let options = ConsumeOptions {
        tag: "c".into(),
        channel: 1,
        no_ack: false,
        exclusive: false,
        priority: 0,
        prefetch: 1,
        stream_offset: None,
        timeout_ms: None,
    };
    let (outbox, credit) = (Arc::new(Outbox::default()), Arc::new(Credit::new(1)));
    let consumer = access.consume("q", options, &outbox, credit, access.now()).unwrap();
    access.dispatch(&consumer.queue, access.now());
}

#[test]
fn a_flood_waits_while_messages_lie_on_disk_only_and_a_single_message_does_not() {
    let world = World::with_options(Options { resident_transient_bytes: 1, ..Options::default() });
    let access = world.enter();
    access.ensure_queue("q", world.now()).unwrap();
    assert!(!crowds(&access, 200), "nobody consumes");
    consume(&access);

    assert!(crowds(&access, 40));
    assert!(!crowds(&access, 1));
}

#[test]
fn a_flood_does_not_wait_for_the_few_messages_that_are_in_memory() {
    let world = World::on_disk();
    let access = world.enter();
    access.ensure_queue("q", world.now()).unwrap();
    crowds(&access, 200);
    consume(&access);

    assert!(!crowds(&access, 40));
    assert!(crowds(&access, 5000));
}

struct Somebody;

impl Wake for Somebody {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn who_waits_for_consumers_is_remembered_once_and_not_when_the_wait_is_over() {
    let world = World::with_options(Options { resident_transient_bytes: 1, ..Options::default() });
    let access = world.enter();
    access.ensure_queue("q", world.now()).unwrap();
    flood(&access, 200);
    consume(&access);
    let mut publisher = flood(&access, 40);
    let somebody = Arc::new(Somebody);
    let waker = Waker::from(Arc::clone(&somebody));

    for _ in 0..100 {
        assert!(!publisher.poll_relaxed(&Context::from_waker(&waker)));
    }
    assert_eq!(Arc::strong_count(&somebody), 3);
    publisher.give_up_waiting();

    assert_eq!(Arc::strong_count(&somebody), 2);
}
