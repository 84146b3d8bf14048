//! The runner: messages of subscriptions are sent, repeated, given up, and none is lost.

use std::time::{Duration, Instant};

use delivery::sign::signature;
use serde_json::{Value, json};

use crate::receiver::{Answer, Receiver, status};
use crate::world::{World, server_secret, until};

/// No retries but one at once.
fn once_more() -> Value {
    json!({"_retry_policy": {
        "retries_with_no_delay": 1, "minimum_delay_retries": 0, "minimum_delay": 0,
        "maximum_delay": 10, "maximum_delay_retries": 0,
    }})
}

fn url(receiver: &Receiver) -> String {
    format!("http://{}/hook", receiver.address)
}

async fn received(receiver: &Receiver, count: usize) {
    until("messages are received", || receiver.count() >= count).await;
}

fn json_of(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

#[tokio::test]
async fn a_message_is_sent_to_every_subscriber_as_zaqar_does_and_signed_for_each() {
    let world = World::in_memory();
    let [first, second] =
        [Receiver::start(|_| status(200)).await, Receiver::start(|_| status(200)).await];
    let subscription = world.subscribe(&url(&first), &json!({}));
    world.subscribe(&url(&second), &json!({"post_data": "{\"in\": \"$zaqar_message$\"}"}));

    world.post("{\"a\": 1}").await;

    received(&first, 1).await;
    received(&second, 1).await;
    let message = json!({
        "body": {"a": 1}, "ttl": 300, "queue_name": "q", "Message_Type": "Notification",
    });
    let request = first.received().remove(0);
    assert_eq!(json_of(&request.body), message);
    assert_eq!(json_of(&second.received()[0].body), json!({"in": message}));
    let secret = server_secret().derive("project", "q", &subscription.id.to_string());
    let timestamp = request.header("webhook-timestamp").unwrap().parse().unwrap();
    let id = request.header("webhook-id").unwrap();
    let expected = signature(&[secret], id, timestamp, &request.body);
    assert_eq!(request.header("webhook-signature"), Some(expected.as_str()));
    assert_eq!(world.content("q").len(), 1, "it stays in its queue as well");
}

#[tokio::test]
async fn a_failed_attempt_is_repeated_with_the_same_id() {
    let world = World::in_memory();
    let receiver = Receiver::start(|place| if place < 3 { status(500) } else { status(200) }).await;
    world.subscribe(&url(&receiver), &json!({}));

    world.post("1").await;

    until("it is delivered", || world.counters.delivered.value() == 1).await;
    let requests = receiver.received();
    assert_eq!(requests.len(), 4);
    let first = requests[0].header("webhook-id").unwrap();
    assert!(requests.iter().all(|request| request.header("webhook-id") == Some(first)));
    assert_eq!(world.counters.failed.value(), 3);
}

#[tokio::test]
async fn what_is_given_up_lies_in_the_dead_letter_queue_with_the_reason() {
    let world = World::in_memory();
    let receiver = Receiver::start(|_| status(410)).await;
    let mut options = once_more();
    options["dead_letter_queue"] = json!("lost");
    let subscription = world.subscribe(&url(&receiver), &options);

    world.post("{\"a\": 1}").await;

    until("it is given up", || !world.content("lost").is_empty()).await;
    let (body, headers) = world.content("lost").remove(0);
    assert_eq!(body, "{\"a\": 1}");
    let header = |name: &str| {
        headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.clone()).unwrap()
    };
    assert_eq!(header("x-posthouse-reason"), "HTTP status 410");
    assert_eq!(header("x-posthouse-attempts"), "4");
    assert_eq!(header("x-posthouse-subscriber"), url(&receiver));
    assert_eq!(header("x-posthouse-subscription"), subscription.id.to_string());
    assert_eq!(receiver.received().len(), 4, "once, at once again, and twice while delays grow");
}

#[tokio::test]
async fn the_queue_says_where_dead_letters_go_and_else_they_are_parked() {
    let world = World::in_memory();
    let metadata = json!({"_dead_letter_queue": "of-queue", "_retry_policy": {
        "retries_with_no_delay": 0, "minimum_delay_retries": 0, "minimum_delay": 0,
        "maximum_delay": 10, "maximum_delay_retries": 0, "ignore_subscription_override": true,
    }});
    let receiver = Receiver::start(|_| status(500)).await;
    world.subscribe(&url(&receiver), &json!({}));
    let metadata = metadata.to_string();
    world.access.set_metadata("q", metadata.as_bytes(), world.broker.now()).unwrap();

    world.post("1").await;
    until("it is given up", || world.content("of-queue").len() == 1).await;

    world.access.set_metadata("q", b"", world.broker.now()).unwrap();
    let nowhere = world.subscribe("http://127.0.0.1:1/", &once_more());
    world.post("2").await;
    until("it is parked", || !world.content(broker::PARKING_QUEUE).is_empty()).await;
    let (_, headers) = world.content(broker::PARKING_QUEUE).remove(0);
    assert!(headers.contains(&("x-posthouse-subscription".into(), nowhere.id.to_string())));
}

#[tokio::test]
async fn a_filter_decides_what_is_sent() {
    let world = World::in_memory();
    let receiver = Receiver::start(|_| status(200)).await;
    world.subscribe(&url(&receiver), &json!({"filter": "body.kind == 'order' && ttl == 300"}));

    world.post("{\"kind\": \"other\"}").await;
    world.post("\"no object\"").await;
    world.post("{\"kind\": \"order\"}").await;

    received(&receiver, 1).await;
    until("all are settled", || {
        world.counters.filtered.value() + world.counters.unanswered.value() == 2
            && world.counters.delivered.value() == 1
    })
    .await;
    assert_eq!(json_of(&receiver.received()[0].body)["body"], json!({"kind": "order"}));
}

#[tokio::test]
async fn an_exchange_can_subscribe_and_no_circle_goes_on_for_ever() {
    let world = World::in_memory();
    world.access.ensure_queue("next", world.broker.now()).unwrap();
    world.subscribe("amqp:/next", &json!({}));

    world.post("{\"a\": 1}").await;

    until("it is passed on", || world.content("next").len() == 1).await;
    assert_eq!(world.content("next")[0].0, "{\"a\": 1}");

    let mut options = once_more();
    options["dead_letter_queue"] = json!("circles");
    world.subscribe("amqp:/q", &options);
    world.post("2").await;
    until("the circle ends", || !world.content("circles").is_empty()).await;
    assert_eq!(world.content("q").len(), 2 + 16);
}

#[tokio::test]
async fn a_subscriber_is_told_to_confirm_as_it_is_and_before_it_gets_messages() {
    let world = World::in_memory();
    let receiver = Receiver::start(|_| status(200)).await;
    let options = json!({"filter": "false", "post_data": "x"});
    let subscription = world.subscribe(&url(&receiver), &options);

    let body = b"{\"Message_Type\": \"SubscriptionConfirmation\"}";
    let told = world.broker.tell_subscriber(&subscription, &[0, 0], body, world.broker.now());

    told.unwrap();
    received(&receiver, 1).await;
    assert_eq!(receiver.received()[0].body, body);
}

#[tokio::test]
async fn what_was_not_delivered_is_delivered_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let hanging = Receiver::start(|_| Answer::Hang).await;
    let world = World::on_disk(directory.path());
    let options = json!({"_retry_policy": {"retries_with_no_delay": 100}});
    let subscription = world.subscribe(&url(&hanging), &options);
    world.post("1").await;
    world.post("2").await;
    received(&hanging, 1).await;
    let id = subscription.id;
    drop(subscription);

    world.stop().await;

    let well = Receiver::start(|_| status(200)).await;
    let world = World::on_disk(directory.path());
    let there = url(&well);
    let change = broker::SubscriptionChange {
        subscriber: Some(&there),
        ..broker::SubscriptionChange::default()
    };
    world.access.update_subscription("q", id, &change, world.broker.now()).unwrap();
    received(&well, 2).await;
    let bodies: Vec<_> =
        well.received().iter().map(|request| json_of(&request.body)["body"].clone()).collect();
    assert_eq!(bodies, [json!(1), json!(2)]);
}

#[tokio::test]
async fn endpoints_that_hang_do_not_delay_those_that_answer() {
    let world = World::with_timeout(Duration::from_secs(60));
    let [well, hanging] =
        [Receiver::start(|_| status(200)).await, Receiver::start(|_| Answer::Hang).await];
    for number in 0..50 {
        world.subscribe(&format!("{}/{number}", url(&well)), &json!({}));
    }
    for number in 0..100 {
        world.subscribe(&format!("{}/{number}", url(&hanging)), &json!({}));
    }

    for round in 1..=10 {
        let begun = Instant::now();
        world.post("1").await;
        received(&well, 50 * round).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "all of those that hang come first");
    }

    received(&hanging, 100).await;
    assert_eq!(hanging.count(), 100, "one attempt each");
    until("only those that hang run", || world.counters.running.value() == 100).await;
}

#[tokio::test]
async fn an_endpoint_that_answers_gets_several_messages_at_once() {
    let world = World::in_memory();
    let receiver = Receiver::start(|_| status(200)).await;
    world.subscribe(&url(&receiver), &json!({}));

    for number in 0..200 {
        world.post(&number.to_string()).await;
    }

    until("all are delivered", || world.counters.delivered.value() == 200).await;
    let connections = receiver.received().iter().map(|it| it.connection).max().unwrap();
    assert!((1..8).contains(&connections), "some connections, used again: {connections}");
}

#[tokio::test]
async fn a_subscription_that_ends_is_not_sent_to_any_more() {
    let world = World::in_memory();
    let receiver = Receiver::start(|_| status(500)).await;
    let options = json!({"_retry_policy": {"retries_with_no_delay": 0, "minimum_delay_retries": 9,
        "minimum_delay": 1}});
    let subscription = world.subscribe(&url(&receiver), &options);
    world.post("1").await;
    received(&receiver, 1).await;

    world.access.unsubscribe("q", subscription.id, world.broker.now()).unwrap();

    until("nothing runs", || world.counters.running.value() == 0).await;
    assert!(world.broker.followed_stats(&subscription).is_err(), "its messages are gone");
    world
        .access
        .subscription("q", subscription.id, world.broker.now())
        .unwrap()
        .ok_or(())
        .unwrap_err();
}

/// The 99th percentile of the time from a post to its arrival, over `rounds` posts to 500 subscribers that answer.
async fn p99(world: &World, well: &Receiver, rounds: usize) -> Duration {
    let mut took = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        world.post("{\"a\": 1}").await;
        received(well, 500).await;
        took.extend(well.take().iter().map(|request| request.at.duration_since(begun)));
    }
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

/// `cargo test -p delivery --profile fast --test it -- --ignored --nocapture half_of`; needs 4096 open files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, for a quiet machine"]
async fn half_of_the_endpoints_hang_and_the_others_hardly_notice() {
    let world = World::with_timeout(Duration::from_secs(15));
    let [well, hanging] =
        [Receiver::start(|_| status(200)).await, Receiver::start(|_| Answer::Hang).await];
    for number in 0..500 {
        world.subscribe(&format!("{}/{number}", url(&well)), &json!({}));
    }
    // Connections are made, and everybody has shown what they are.
    p99(&world, &well, 5).await;
    let alone = p99(&world, &well, 40).await;
    for number in 0..500 {
        world.subscribe(&format!("{}/{number}", url(&hanging)), &json!({}));
    }
    let first = p99(&world, &well, 1).await;
    let beside = p99(&world, &well, 40).await;

    println!("alone {alone:?}, first beside 500 that hang {first:?}, then {beside:?}");
    assert!(beside <= alone * 2, "p99 {beside:?} is more than twice {alone:?}");
}
