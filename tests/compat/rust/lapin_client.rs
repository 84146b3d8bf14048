//! lapin: what most Rust programs use.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_lite::StreamExt;
use it::broker::unique;
use it::{Broker, PATIENCE, SILENCE};
use lapin::message::{BasicGetMessage, Delivery};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions,
    BasicQosOptions, BasicRejectOptions, ConfirmSelectOptions, ExchangeBindOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    ExchangeKind,
};

async fn connect(address: SocketAddr) -> Connection {
    let url = format!("amqp://guest:guest@{address}/%2f");
    Connection::connect(&url, ConnectionProperties::default()).await.expect("a connection")
}

fn table<const N: usize>(fields: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        table.insert(name.into(), value);
    }
    table
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

async fn declare(channel: &Channel, queue: &str, arguments: FieldTable) {
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), exclusive, arguments).await.expect("a queue");
}

async fn publish(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &str,
    properties: BasicProperties,
) -> Confirmation {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let sent = channel
        .basic_publish(exchange.into(), key.into(), options, body.as_bytes(), properties)
        .await;
    sent.expect("a publish").await.expect("a confirmation")
}

async fn send(channel: &Channel, queue: &str, body: &str) -> Confirmation {
    publish(channel, "", queue, body, BasicProperties::default()).await
}

async fn consume(channel: &Channel, queue: &str) -> Consumer {
    let options = BasicConsumeOptions::default();
    channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await
        .expect("a consumer")
}

async fn next(consumer: &mut Consumer) -> Delivery {
    let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await;
    delivery.expect("a delivery in time").expect("an open consumer").expect("a delivery")
}

async fn take(channel: &Channel, queue: &str) -> Option<BasicGetMessage> {
    let options = BasicGetOptions { no_ack: true };
    channel.basic_get(queue.into(), options).await.expect("get-ok or get-empty")
}

fn body(delivery: &Delivery) -> &str {
    std::str::from_utf8(&delivery.data).expect("text")
}

fn reason(delivery: &Delivery) -> String {
    let headers = delivery.properties.headers().as_ref().expect("headers");
    let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get("x-death") else {
        panic!("x-death in {headers:?}")
    };
    let [AMQPValue::FieldTable(death)] = deaths.as_slice() else {
        panic!("one death in {deaths:?}")
    };
    let Some(AMQPValue::LongString(reason)) = death.inner().get("reason") else {
        panic!("a reason in {death:?}")
    };
    reason.to_string()
}

fn dying_into(dead: &str) -> FieldTable {
    table([("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text(dead))])
}

#[tokio::test]
async fn topology_routes_through_two_exchanges() {
    let broker = Broker::start();
    let connection = connect(broker.address()).await;
    let channel = connection.create_channel().await.unwrap();
    let (from, to, queue) = (unique("from"), unique("to"), unique("queue"));
    let options = ExchangeDeclareOptions { auto_delete: true, ..ExchangeDeclareOptions::default() };
    for (name, kind) in [(&from, ExchangeKind::Topic), (&to, ExchangeKind::Fanout)] {
        channel
            .exchange_declare(name.as_str().into(), kind, options, FieldTable::default())
            .await
            .unwrap();
    }
    declare(&channel, &queue, FieldTable::default()).await;
    let (source, target) = (from.as_str(), to.as_str());
    let binding = ExchangeBindOptions::default();
    channel
        .exchange_bind(target.into(), source.into(), "a.#".into(), binding, FieldTable::default())
        .await
        .unwrap();
    let binding = QueueBindOptions::default();
    channel
        .queue_bind(queue.as_str().into(), target.into(), "".into(), binding, FieldTable::default())
        .await
        .unwrap();

    publish(&channel, &from, "a.b", "through", BasicProperties::default()).await;

    assert_eq!(body(&next(&mut consume(&channel, &queue).await).await), "through");
}

#[tokio::test]
async fn publishes_are_confirmed_and_returned() {
    let broker = Broker::start();
    let connection = connect(broker.address()).await;
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let queue = unique("confirmed");
    let limits =
        table([("x-max-length", AMQPValue::LongInt(1)), ("x-overflow", text("reject-publish"))]);
    declare(&channel, &queue, limits).await;

    let routed = send(&channel, &queue, "x").await;
    let full = send(&channel, &queue, "x").await;
    let nowhere = send(&channel, "nowhere", "back").await;

    assert_eq!(routed, Confirmation::Ack(None));
    assert_eq!(full, Confirmation::Nack(None));
    let Confirmation::Ack(Some(returned)) = nowhere else { panic!("{nowhere:?}") };
    assert_eq!((returned.reply_code, &*returned.data), (312, b"back".as_slice()));
}

#[tokio::test]
async fn prefetch_holds_back_and_nack_gives_back() {
    let broker = Broker::start();
    let connection = connect(broker.address()).await;
    let channel = connection.create_channel().await.unwrap();
    let queue = unique("prefetch");
    declare(&channel, &queue, FieldTable::default()).await;
    for number in ["0", "1", "2"] {
        send(&channel, &queue, number).await;
    }
    channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
    let mut consumer = consume(&channel, &queue).await;

    let first = next(&mut consumer).await;
    assert!(tokio::time::timeout(SILENCE, consumer.next()).await.is_err());
    first.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await.unwrap();
    let again = next(&mut consumer).await;
    again.ack(BasicAckOptions::default()).await.unwrap();

    assert_eq!((body(&again), again.redelivered), ("0", true));
    assert_eq!(body(&next(&mut consumer).await), "1");
}

#[tokio::test]
async fn rejected_and_expired_messages_are_dead_lettered() {
    let broker = Broker::start();
    let connection = connect(broker.address()).await;
    let channel = connection.create_channel().await.unwrap();
    let (queue, dead) = (unique("dying"), unique("dead"));
    declare(&channel, &dead, FieldTable::default()).await;
    declare(&channel, &queue, dying_into(&dead)).await;
    let mut deaths = consume(&channel, &dead).await;

    publish(&channel, "", &queue, "old", BasicProperties::default().with_expiration("40".into()))
        .await;
    assert_eq!(reason(&next(&mut deaths).await), "expired");
    send(&channel, &queue, "bad").await;
    let bad = next(&mut consume(&channel, &queue).await).await;
    bad.reject(BasicRejectOptions { requeue: false }).await.unwrap();

    assert_eq!(reason(&next(&mut deaths).await), "rejected");
}

#[tokio::test]
async fn priorities_reorder() {
    let broker = Broker::start();
    let connection = connect(broker.address()).await;
    let channel = connection.create_channel().await.unwrap();
    let queue = unique("priorities");
    declare(&channel, &queue, table([("x-max-priority", AMQPValue::ShortShortUInt(9))])).await;
    for priority in [1, 9, 5] {
        let properties = BasicProperties::default().with_priority(priority);
        publish(&channel, "", &queue, &priority.to_string(), properties).await;
    }

    let mut consumer = consume(&channel, &queue).await;
    for expected in ["9", "5", "1"] {
        assert_eq!(body(&next(&mut consumer).await), expected);
    }
}

#[tokio::test]
async fn delayed_messages_wait() {
    let Some(program) = Broker::start_own("has no delayed exchange") else { return };
    let connection = connect(program.address).await;
    let channel = connection.create_channel().await.unwrap();
    let kind = ExchangeKind::Custom("x-delayed-message".to_owned());
    let arguments = table([("x-delayed-type", text("fanout"))]);
    channel
        .exchange_declare("d".into(), kind, ExchangeDeclareOptions::default(), arguments)
        .await
        .unwrap();
    declare(&channel, "q", FieldTable::default()).await;
    let binding = QueueBindOptions::default();
    channel
        .queue_bind("q".into(), "d".into(), "".into(), binding, FieldTable::default())
        .await
        .unwrap();
    let mut consumer = consume(&channel, "q").await;
    let started = Instant::now();

    let properties =
        BasicProperties::default().with_headers(table([("x-delay", AMQPValue::LongInt(300))]));
    let options = BasicPublishOptions::default();
    channel
        .basic_publish("d".into(), "".into(), options, b"later", properties)
        .await
        .unwrap()
        .await
        .unwrap();

    assert_eq!(body(&next(&mut consumer).await), "later");
    assert!(started.elapsed() >= Duration::from_millis(299));
}

#[tokio::test]
async fn transactions_commit_and_roll_back() {
    let broker = Broker::start();
    let connection = connect(broker.address()).await;
    let channel = connection.create_channel().await.unwrap();
    let queue = unique("tx");
    declare(&channel, &queue, FieldTable::default()).await;
    channel.tx_select().await.unwrap();

    let options = BasicPublishOptions::default();
    let name = queue.as_str();
    channel
        .basic_publish("".into(), name.into(), options, b"undone", BasicProperties::default())
        .await
        .unwrap();
    channel.tx_rollback().await.unwrap();
    channel
        .basic_publish("".into(), name.into(), options, b"done", BasicProperties::default())
        .await
        .unwrap();
    assert!(take(&connection.create_channel().await.unwrap(), &queue).await.is_none());
    channel.tx_commit().await.unwrap();

    assert_eq!(take(&channel, &queue).await.unwrap().data, b"done");
    assert!(take(&channel, &queue).await.is_none());
}

#[tokio::test]
async fn deleting_a_queue_ends_its_consumer() {
    let broker = Broker::start();
    let connection = connect(broker.address()).await;
    let channel = connection.create_channel().await.unwrap();
    let queue = unique("deleted");
    declare(&channel, &queue, FieldTable::default()).await;
    let mut consumer = consume(&channel, &queue).await;

    let other = connection.create_channel().await.unwrap();
    other.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();

    let end = tokio::time::timeout(PATIENCE, consumer.next()).await.expect("an end in time");
    assert!(end.is_none(), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_recovers_by_itself_goes_on_after_a_kill() {
    let Some(mut program) = Broker::start_own("is not ours to kill") else { return };
    let url = format!("amqp://guest:guest@{}/%2f", program.address);
    let properties = ConnectionProperties::default().enable_auto_recover();
    let connection = Connection::connect(&url, properties).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    channel
        .queue_declare("q".into(), QueueDeclareOptions::durable(), FieldTable::default())
        .await
        .unwrap();
    for number in 0..50 {
        let properties = BasicProperties::default().with_delivery_mode(2);
        publish(&channel, "", "q", &number.to_string(), properties).await;
    }

    tokio::task::block_in_place(|| program.restart());

    // An operation that meets the broken connection says so; lapin then heals the channel.
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
    let healed = async {
        while let Err(error) =
            channel.queue_declare("q".into(), passive, FieldTable::default()).await
        {
            channel.wait_for_recovery(error).await.expect("a healed channel");
        }
    };
    tokio::time::timeout(PATIENCE, healed).await.expect("healed in time");
    for number in 0..50 {
        assert_eq!(
            take(&channel, "q").await.expect("a message").data,
            number.to_string().as_bytes()
        );
    }
}
