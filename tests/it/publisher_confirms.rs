//! What a publisher hears about its messages.

use it::broker::unique;
use it::value::table;
use it::{Broker, PATIENCE, Properties, SILENCE};

#[test]
fn confirms_count_from_one_per_channel() {
    let broker = Broker::start();
    let connection = broker.connect();
    let (first, second) = (connection.channel(), connection.channel());
    let queue = first.declare("", &[]).unwrap().name;
    first.send(&queue, "before confirm.select does not count");
    first.confirms();
    second.confirms();

    for channel in [&first, &second] {
        (0..5).for_each(|_| channel.send(&queue, "x"));
    }

    assert!(first.wait_confirms(5).is_empty());
    assert!(second.wait_confirms(5).is_empty());
    assert_eq!(first.next_confirm(SILENCE), None);
    assert_eq!(first.inspect(&queue).unwrap().messages, 11);
}

#[test]
fn a_confirm_means_that_the_message_is_in_every_queue_it_was_routed_to() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let exchange = unique("confirms");
    channel.exchange(&exchange, "fanout").unwrap();
    let queues: Vec<String> = (0..4).map(|_| channel.declare("", &[]).unwrap().name).collect();
    queues.iter().for_each(|queue| channel.bind(queue, &exchange, "", &[]).unwrap());
    channel.confirms();

    channel.publish(&exchange, "", &Properties::persistent(), b"x");
    channel.wait_confirms(1);

    for queue in &queues {
        assert_eq!(channel.inspect(queue).unwrap().messages, 1);
    }
}

#[test]
fn a_message_that_has_its_channel_closed_is_not_confirmed_before() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;
    channel.confirms();
    channel.send(&queue, "good");
    channel.wait_confirms(1);

    channel.publish("no such exchange", "", &Properties::persistent(), b"bad");

    let told = channel.next_event(PATIENCE).unwrap();
    assert_eq!(told.id, (20, 40), "channel.close, and no confirm in front of it");
}

#[test]
fn a_mandatory_message_without_a_queue_is_returned_before_its_confirm() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    channel.confirms();

    let properties = Properties { message_id: Some("m".to_owned()), ..Properties::persistent() };
    channel.publish_flagged("amq.topic", "no.where", [true, false], &properties, b"back");

    let first = channel.next_event(PATIENCE).unwrap();
    let second = channel.next_event(PATIENCE).unwrap();
    assert_eq!((first.id, second.id), ((60, 50), (60, 80)));
    let (returned, body) = first.content.unwrap();
    assert_eq!((returned, body.as_slice()), (properties, b"back".as_slice()));
}

#[test]
fn a_return_names_the_reason_the_exchange_and_the_key() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();

    channel.publish_flagged("amq.direct", "key", [true, false], &Properties::default(), b"");

    let returned = channel.next_return(PATIENCE).unwrap();
    assert_eq!(returned.returned, Some((312, "NO_ROUTE".to_owned())));
    assert_eq!((returned.exchange.as_str(), returned.routing_key.as_str()), ("amq.direct", "key"));
    assert!(returned.body.is_empty());
}

#[test]
fn an_unroutable_message_is_acked_because_nothing_is_wrong_with_it() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    channel.confirms();

    channel.publish("amq.direct", "nobody", &Properties::persistent(), b"x");

    assert!(channel.wait_confirms(1).is_empty());
}

#[test]
fn a_full_queue_with_reject_publish_nacks_and_keeps_what_it_has() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let limits = table([("x-max-length", 2.into()), ("x-overflow", "reject-publish".into())]);
    let queue = channel.declare("", &limits).unwrap().name;
    channel.confirms();

    ["1", "2", "3", "4"].iter().for_each(|body| channel.send(&queue, body));

    assert_eq!(channel.wait_confirms(4), [3, 4]);
    assert_eq!(channel.take_all(&queue), ["1", "2"]);
}

#[test]
fn selecting_confirms_twice_is_fine_and_keeps_counting() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;
    channel.confirms();
    channel.send(&queue, "1");
    channel.wait_confirms(1);

    channel.confirms();
    channel.send(&queue, "2");

    assert_eq!(channel.next_confirm(PATIENCE).map(|confirm| confirm.tag), Some(2));
}

#[test]
fn a_thousand_publishes_without_waiting_are_all_confirmed_in_order() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = unique("pipelined");
    channel.declare_durable(&queue, &[]).unwrap();
    channel.confirms();

    for number in 0..1000 {
        channel.publish("", &queue, &Properties::persistent(), format!("{number}").as_bytes());
    }
    channel.wait_confirms(1000);

    let expected: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
    assert_eq!(channel.take_all(&queue), expected);
    channel.delete(&queue, [false, false]).unwrap();
}

#[test]
fn a_body_larger_than_a_frame_arrives_whole() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;
    let body: Vec<u8> = (0..1_000_003_u32)
        .map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1])
        .collect();

    channel.publish("", &queue, &Properties::default(), &body);

    assert_eq!(channel.take_soon(&queue).body, body);
}
