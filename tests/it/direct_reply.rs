//! Requests that are answered without a queue (`amq.rabbitmq.reply-to`).

use it::{Broker, Channel, Properties, SILENCE};

const REPLY_TO: &str = "amq.rabbitmq.reply-to";

fn request(to: &Channel, queue: &str) {
    let properties = Properties {
        reply_to: Some(REPLY_TO.to_owned()),
        correlation_id: Some("7".to_owned()),
        ..Properties::default()
    };
    to.publish("", queue, &properties, b"question");
}

#[test]
fn a_reply_reaches_the_channel_that_asked() {
    let broker = Broker::start();
    let (asking, answering) = (broker.connect(), broker.connect());
    let (client, server) = (asking.channel(), answering.channel());
    let queue = it::broker::unique("rpc");
    server.declare_queue(&queue, [false, false, false, true], &[]).unwrap();
    server.consume_flagged(&queue, "server", [true, false], &[]).unwrap();
    client.consume_flagged(REPLY_TO, "replies", [true, false], &[]).unwrap();

    request(&client, &queue);
    let question = server.next();
    let token = question.properties.reply_to.clone().unwrap();
    assert!(token.starts_with("amq.rabbitmq.reply-to."), "{token}");
    assert_eq!(server.inspect(&token).map(|declared| declared.consumers), Ok(1));
    let properties =
        Properties { correlation_id: question.properties.correlation_id, ..Properties::default() };
    server.publish("", &token, &properties, b"answer");

    let answer = client.next();
    assert_eq!((answer.consumer.as_str(), answer.text()), ("replies", "answer"));
    assert_eq!((answer.exchange.as_str(), answer.routing_key.as_str()), ("", &*token));
    assert_eq!(answer.properties.correlation_id.as_deref(), Some("7"));
}

#[test]
fn when_the_one_who_asked_is_gone_its_address_is_gone_too() {
    let broker = Broker::start();
    let (asking, answering) = (broker.connect(), broker.connect());
    let (client, server) = (asking.channel(), answering.channel());
    let queue = it::broker::unique("rpc");
    server.declare_queue(&queue, [false, false, false, true], &[]).unwrap();
    server.consume_flagged(&queue, "server", [true, false], &[]).unwrap();
    client.consume_flagged(REPLY_TO, "replies", [true, false], &[]).unwrap();
    request(&client, &queue);
    let token = server.next().properties.reply_to.unwrap();

    client.close().unwrap();

    server.publish("", &token, &Properties::default(), b"too late");
    assert_eq!(answering.channel().inspect(&token).unwrap_err().code, 404);
    server.sync();
}

#[test]
fn misuse_of_direct_reply_to_is_refused() {
    let broker = Broker::start();
    let connection = broker.connect();

    let with_acks = connection.channel().consume(REPLY_TO, "c", &[]).unwrap_err();
    let twice = connection.channel();
    twice.consume_flagged(REPLY_TO, "one", [true, false], &[]).unwrap();
    let second = twice.consume_flagged(REPLY_TO, "two", [true, false], &[]).unwrap_err();
    let without = connection.channel();
    request(&without, "anywhere");

    let text = |what: &str| (406, format!("PRECONDITION_FAILED - {what}"));
    assert_eq!((with_acks.code, with_acks.text), text("reply consumer cannot acknowledge"));
    assert_eq!((second.code, second.text), text("reply consumer already set"));
    let close = without.closed();
    assert_eq!((close.code, close.text), text("fast reply consumer does not exist"));
}

#[test]
fn a_cancelled_reply_consumer_gets_nothing_more() {
    let broker = Broker::start();
    let connection = broker.connect();
    let (client, server) = (connection.channel(), connection.channel());
    let queue = server.declare("", &[]).unwrap().name;
    client.consume_flagged(REPLY_TO, "replies", [true, false], &[]).unwrap();
    request(&client, &queue);
    let token = server.take_soon(&queue).properties.reply_to.unwrap();

    client.cancel("replies").unwrap();
    server.publish("", &token, &Properties::default(), b"x");

    assert!(client.delivery(SILENCE).is_none());
}
