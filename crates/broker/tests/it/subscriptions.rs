//! Subscriptions: whoever follows a queue gets what enters it, once, through restarts.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use broker::follow::{Attempted, Held, PassOn, TOLD_EXCHANGE};
use broker::{
    Access, Backlog, BrokerError, BrowseFilter, ClaimRequest, Confirmation, ConsumeOptions, Credit,
    Outbox, Outgoing, Output, Poison, Publish, Published, Publisher, Subscribe, Subscribed,
    Subscription, SubscriptionChange, Updated,
};
use model::SubscriptionId;
use posthouse_amqp::properties::Properties;
use posthouse_amqp::{Table, Value};
use store::Leased;
use testkit::store::wait;

use crate::world::{World, bodies, post, properties, with_queue};

const HOUR_MS: u64 = 3_600_000;

const BACKLOG: Backlog = Backlog { messages_max: 3, bytes_max: 1000 };

fn to<'a>(subscriber: &'a str, output: Output) -> Subscribe<'a> {
    let confirmation = Confirmation::NotNeeded;
    Subscribe { subscriber, options: b"{}", ttl_ms: HOUR_MS, confirmation, output }
}

fn subscribe(access: &Access, queue: &str, subscriber: &str) -> Arc<Subscription> {
    let subscribe = to(subscriber, Output::Delivery);
    match access.subscribe(queue, &subscribe, access.now()).unwrap() {
        Subscribed::New(subscription, _) => subscription,
        Subscribed::Exists(_) => panic!("{subscriber} is new"),
    }
}

fn news(world: &World) -> Vec<SubscriptionId> {
    match world.broker.poll_subscription_news(&Context::from_waker(Waker::noop())) {
        Poll::Ready(news) => news,
        Poll::Pending => Vec::new(),
    }
}

/// Leases as a deliverer does: when it is told that there is something.
fn lease(world: &World, subscription: &Subscription) -> Vec<Leased> {
    loop {
        let found = world.broker.lease_followed(subscription, 10, usize::MAX, world.now()).unwrap();
        if !found.messages.is_empty() || !found.more {
            return found.messages;
        }
        // The store has to write something first.
        wait(std::future::poll_fn(|context| world.broker.watch().poll_ready(context)));
    }
}

fn texts(leased: &[Leased]) -> Vec<String> {
    let text = |one: &Leased| String::from_utf8_lossy(one.message.body()).into_owned();
    leased.iter().map(text).collect()
}

fn settle(world: &World, subscription: &Subscription, leased: &[Leased], how: Attempted<'_>) {
    let attempts: Vec<_> = leased.iter().map(|one| (one.clone(), how)).collect();
    let ticket =
        world.broker.settle_followed(subscription, Held::Leased, &attempts, world.now()).unwrap();
    world.durable(ticket.unwrap());
}

#[test]
fn what_is_posted_reaches_every_follower_and_stays_in_the_queue() {
    let (world, access) = with_queue();
    post(&access, "q", &["before"]);
    let (one, two) = (subscribe(&access, "q", "http://one"), subscribe(&access, "q", "http://two"));
    news(&world);

    post(&access, "q", &["a", "b"]);

    let mut told = news(&world);
    told.sort();
    let mut both = vec![one.id, two.id];
    both.sort();
    assert_eq!(told, both);
    assert_eq!(
        (texts(&lease(&world, &one)), texts(&lease(&world, &two))),
        (vec!["a".into(), "b".into()], vec!["a".into(), "b".into()])
    );
    assert_eq!(access.queue_fill("q", world.now()).unwrap().free, 3);
    assert_eq!(access.queues_page("", 10, |_| true).len(), 1);
}

#[test]
fn what_is_published_reaches_the_followers_with_the_same_commit() {
    let (world, access) = with_queue();
    let mut publisher = Publisher::new(access.clone());
    let properties = properties("me");
    let mut publish = |body: &str| {
        let publish = Publish {
            exchange: "",
            routing_key: "q",
            properties: &properties,
            body: body.as_bytes(),
            reply_token: None,
        };
        publisher.publish(publish, world.now()).unwrap();
        publisher.flush(world.now()).unwrap();
    };
    publish("before");
    let subscription = subscribe(&access, "q", "http://one");

    publish("after");
    let followed = lease(&world, &subscription);
    access.unsubscribe("q", subscription.id, world.now()).unwrap();
    publish("later");

    assert_eq!(texts(&followed), ["after"]);
    assert!(world.broker.live_subscription(subscription.id).is_none());
    assert_eq!(access.queue_fill("q", world.now()).unwrap().free, 3);
}

#[test]
fn what_a_full_queue_refuses_reaches_no_follower() {
    let (world, access) = with_queue();
    let mut arguments = Table::new();
    arguments.insert("x-max-length", Value::I64(1));
    arguments.insert("x-overflow", Value::from("reject-publish"));
    let (name, durable, generated) = ("full", true, false);
    let (exclusive, auto_delete) = (false, false);
    let declare =
        broker::DeclareQueue { name, generated, durable, exclusive, auto_delete, arguments };
    access.declare_queue(&declare, world.now()).unwrap();
    let subscription = subscribe(&access, "full", "http://one");
    let mut publisher = Publisher::new(access.clone());
    let properties = properties("me");
    let publish = Publish {
        exchange: "",
        routing_key: "full",
        properties: &properties,
        body: b"a",
        reply_token: None,
    };

    let outcomes = [(); 2].map(|()| publisher.publish(publish, world.now()).unwrap());
    publisher.flush(world.now()).unwrap();
    let one = broker::Post { properties: &properties, body: b"b", expires: None, not_before: None };
    let refused = access.post("full", &[one], world.now());

    assert_eq!(outcomes, [Published::Queued, Published::Refused]);
    assert!(matches!(refused, Err(BrokerError::LimitReached(_))));
    assert_eq!(texts(&lease(&world, &subscription)), ["a"]);
}

#[test]
fn a_delayed_message_reaches_the_followers_when_its_delay_is_over() {
    let (world, access) = with_queue();
    let subscription = subscribe(&access, "q", "http://one");
    let properties = properties("me");
    let not_before = Some(world.now().after_ms(5000));
    let late = broker::Post { properties: &properties, body: b"late", expires: None, not_before };
    access.post("q", &[late], world.now()).unwrap();
    assert!(lease(&world, &subscription).is_empty());
    news(&world);

    world.pass(5000);

    assert_eq!(news(&world), [subscription.id]);
    assert_eq!(texts(&lease(&world, &subscription)), ["late"]);
}

#[test]
fn a_dead_letter_reaches_the_followers_of_its_queue() {
    let (world, access) = with_queue();
    access.ensure_queue("dead", world.now()).unwrap();
    let subscription = subscribe(&access, "dead", "http://one");
    post(&access, "q", &["poison"]);
    let poison = Some(Poison { count_max: 0, queue: "dead", ttl_ms: None });
    let request = ClaimRequest { count_max: 1, ttl_ms: 1000, grace_ms: 0, poison };

    access.claim("q", &request, world.now()).unwrap();

    assert_eq!(texts(&lease(&world, &subscription)), ["poison"]);
}

#[test]
fn a_failed_delivery_is_tried_again_at_its_time_and_counted() {
    let (world, access) = with_queue();
    let subscription = subscribe(&access, "q", "http://one");
    post(&access, "q", &["a"]);
    let first = lease(&world, &subscription);

    settle(
        &world,
        &subscription,
        &first,
        Attempted::Failed { retry_at: world.now().after_ms(500) },
    );
    assert!(lease(&world, &subscription).is_empty());
    news(&world);
    world.pass(500);

    assert_eq!(news(&world), [subscription.id]);
    let second = lease(&world, &subscription);
    assert_eq!((first[0].delivery_count, second[0].delivery_count), (0, 1));
    settle(&world, &subscription, &second, Attempted::Postponed { until: None });
    assert_eq!(news(&world), [subscription.id]);
    let third = lease(&world, &subscription);
    assert_eq!(third[0].delivery_count, 1);
    settle(&world, &subscription, &third, Attempted::Delivered);
    assert_eq!(world.broker.followed_stats(&subscription).unwrap().leased, 0);
}

#[test]
fn a_delivery_that_is_given_up_lies_in_the_dead_letter_queue() {
    let (world, access) = with_queue();
    let subscription = subscribe(&access, "q", "http://one");
    post(&access, "q", &["a"]);
    let leased = lease(&world, &subscription);

    let why = properties("given-up");
    let given_up = Attempted::GivenUp { queue: Some("dead"), properties: &why };
    settle(&world, &subscription, &leased, given_up);

    let dead = access.browse("dead", None, 10, BrowseFilter::default(), world.now()).unwrap();
    assert_eq!(bodies(&dead.messages), ["a"]);
    assert_eq!(app_id(dead.messages[0].message.properties()), "given-up");
    assert!(lease(&world, &subscription).is_empty());
}

fn app_id(encoded: &[u8]) -> String {
    Properties::decode(encoded).unwrap().app_id.unwrap_or_default().to_owned()
}

#[test]
fn a_message_can_be_passed_on_to_an_exchange_of_its_tenant() {
    let (world, access) = with_queue();
    access.ensure_queue("next", world.now()).unwrap();
    let subscription = subscribe(&access, "q", "amqp:/next");
    post(&access, "q", &["a"]);
    let leased = lease(&world, &subscription);
    let changed = properties("passed");
    let to = |routing_key| PassOn {
        exchange: "",
        routing_key,
        properties: &changed,
        body: None,
        ttl_ms: Some(1000),
    };

    let nowhere = world.broker.pass_on(&subscription, &leased[0], &to("nobody"), world.now());
    assert_eq!(nowhere.unwrap(), None);
    assert_eq!(world.broker.followed_stats(&subscription).unwrap().leased, 1);
    let passed = world.broker.pass_on(&subscription, &leased[0], &to("next"), world.now());
    assert!(passed.unwrap().is_some());

    let next = access.browse("next", None, 10, BrowseFilter::default(), world.now()).unwrap();
    assert_eq!(bodies(&next.messages), ["a"]);
    assert_eq!(app_id(next.messages[0].message.properties()), "passed");
    assert_eq!(world.broker.followed_stats(&subscription).unwrap().leased, 0);
    world.pass(1001);
    assert_eq!(
        access
            .browse("next", None, 10, BrowseFilter::default(), world.now())
            .unwrap()
            .messages
            .len(),
        0
    );
}

#[test]
fn a_subscriber_that_gets_no_messages_yet_can_be_told_to_confirm() {
    let (world, access) = with_queue();
    let awaited = Confirmation::Awaited;
    let wish = Subscribe { confirmation: awaited, ..to("http://one", Output::Delivery) };
    let Subscribed::New(subscription, _) = access.subscribe("q", &wish, world.now()).unwrap()
    else {
        panic!("it is new")
    };
    post(&access, "q", &["not for it"]);
    news(&world);

    let told = world.broker.tell_subscriber(&subscription, &properties("door"), b"?", world.now());

    assert!(told.is_ok());
    assert_eq!(news(&world), [subscription.id]);
    let leased = lease(&world, &subscription);
    assert_eq!(texts(&leased), ["?"]);
    assert_eq!(&*leased[0].message.address.exchange, TOLD_EXCHANGE);
}

#[test]
fn subscriptions_and_what_they_are_owed_survive_a_restart() {
    let world = World::on_disk();
    let access = world.enter();
    access.ensure_queue("q", world.now()).unwrap();
    let subscription = subscribe(&access, "q", "http://one");
    let transient =
        access.subscribe("q", &to("ws://socket", Output::Consumer(BACKLOG)), world.now());
    assert!(matches!(transient, Ok(Subscribed::New(..))));
    world.durable(post(&access, "q", &["a", "b", "c"]).ticket);
    let leased = lease(&world, &subscription);
    settle(&world, &subscription, &leased[..1], Attempted::Delivered);
    let retry_at = world.now().after_ms(100);
    settle(&world, &subscription, &leased[1..2], Attempted::Failed { retry_at });
    let id = subscription.id;
    drop((access, subscription));

    let world = world.restarted();

    assert_eq!(news(&world), [id]);
    let subscription = world.broker.live_subscription(id).unwrap();
    assert_eq!((&*subscription.subscriber, &*subscription.queue), ("http://one", "q"));
    let rest = lease(&world, &subscription);
    assert_eq!((texts(&rest), rest[0].redelivered), (vec!["c".into()], true));
    world.pass(100);
    let again = lease(&world, &subscription);
    assert_eq!((texts(&again), again[0].delivery_count), (vec!["b".into()], 1));
    let access = world.enter();
    world.durable(post(&access, "q", &["d"]).ticket);
    assert_eq!(texts(&lease(&world, &subscription)), ["d"]);
    assert_eq!(access.subscriptions_page("q", None, 10, world.now()).unwrap().len(), 1);
}

#[test]
fn no_more_waits_for_a_transient_subscriber_than_its_backlog() {
    let (world, access) = with_queue();
    let wish = to("ws://socket", Output::Consumer(BACKLOG));
    let Ok(Subscribed::New(small, _)) = access.subscribe("q", &wish, world.now()) else { panic!() };
    let wish = to("ws://named", Output::DurableConsumer);
    let Ok(Subscribed::New(named, _)) = access.subscribe("q", &wish, world.now()) else { panic!() };

    world.durable(post(&access, "q", &["a", "b", "c", "d", "e"]).ticket);
    assert_eq!(world.broker.followed_stats(&small).unwrap().ready, 3);
    assert_eq!(small.follower().pushed_out(), 2);
    let large = "x".repeat(700);
    world.durable(post(&access, "q", &[&large, &large]).ticket);

    assert_eq!(world.broker.followed_stats(&small).unwrap().ready, 1);
    assert_eq!(small.follower().pushed_out(), 6);
    assert_eq!(world.broker.followed_stats(&named).unwrap().ready, 7);
    assert_eq!(
        access.browse("q", None, 10, BrowseFilter::default(), world.now()).unwrap().messages.len(),
        7
    );
}

#[test]
fn a_subscription_ends_in_its_time_and_its_subscriber_may_come_again() {
    let (world, access) = with_queue();
    let first = subscribe(&access, "q", "http://one");
    let again = access.subscribe("q", &to("http://one", Output::Delivery), world.now()).unwrap();
    assert!(matches!(again, Subscribed::Exists(same) if same.id == first.id));
    news(&world);

    world.pass(HOUR_MS);

    assert_eq!(news(&world), [first.id]);
    assert!(world.broker.live_subscription(first.id).is_none());
    assert!(access.subscription("q", first.id, world.now()).unwrap().is_none());
    assert_ne!(subscribe(&access, "q", "http://one").id, first.id);
}

#[test]
fn a_subscription_can_be_changed() {
    let (world, access) = with_queue();
    let (one, two) = (subscribe(&access, "q", "http://one"), subscribe(&access, "q", "http://two"));
    world.pass(HOUR_MS / 2);
    let update = |id, change: SubscriptionChange<'_>| {
        access.update_subscription("q", id, &change, world.now()).unwrap()
    };
    let none = SubscriptionChange::default();

    let taken = update(one.id, SubscriptionChange { subscriber: Some("http://two"), ..none });
    let moved = update(one.id, SubscriptionChange { subscriber: Some("http://three"), ..none });
    let longer = update(two.id, SubscriptionChange { ttl_ms: Some(HOUR_MS), ..none });
    let missing = update(SubscriptionId::from_bits(1), none);

    assert!(matches!((taken, missing), (Updated::Taken, Updated::Missing)));
    assert!(matches!(moved, Updated::Updated(now, _) if &*now.subscriber == "http://three"));
    assert!(matches!(longer, Updated::Updated(now, _) if now.updated == world.now()));
    world.pass(HOUR_MS / 2);
    let left = access.subscriptions_page("q", None, 10, world.now()).unwrap();
    assert_eq!(left.iter().map(|it| it.id).collect::<Vec<_>>(), [two.id]);
}

#[test]
fn subscriptions_are_listed_in_pages() {
    let (world, access) = with_queue();
    for number in 0..5 {
        subscribe(&access, "q", &format!("http://{number}"));
    }

    let first = access.subscriptions_page("q", None, 3, world.now()).unwrap();
    let rest = access.subscriptions_page("q", Some(first[2].id), 3, world.now()).unwrap();

    assert_eq!((first.len(), rest.len()), (3, 2));
    assert!(first.iter().chain(&rest).map(|it| it.id).is_sorted());
}

#[test]
fn nothing_is_kept_for_a_subscriber_who_has_to_agree_and_has_not() {
    let (world, access) = with_queue();
    let awaited =
        Subscribe { confirmation: Confirmation::Awaited, ..to("http://one", Output::Delivery) };
    let Subscribed::New(subscription, _) = access.subscribe("q", &awaited, world.now()).unwrap()
    else {
        panic!("it is new")
    };
    post(&access, "q", &["before"]);

    let confirm = |confirmation| {
        access.confirm_subscription("q", subscription.id, confirmation, world.now()).unwrap()
    };
    let (confirmed, _) = confirm(Confirmation::Confirmed).unwrap();
    post(&access, "q", &["agreed"]);
    confirm(Confirmation::Awaited);
    post(&access, "q", &["taken back"]);

    assert!(confirmed.confirmed);
    assert_eq!(texts(&lease(&world, &subscription)), ["agreed"]);
}

#[test]
fn a_subscription_follows_the_next_queue_of_its_name() {
    let (world, access) = with_queue();
    let subscription = subscribe(&access, "q", "http://one");
    access.delete_queue("q", false, false, world.now()).unwrap();
    access.ensure_queue("q", world.now()).unwrap();

    post(&access, "q", &["a"]);

    assert_eq!(texts(&lease(&world, &subscription)), ["a"]);
}

#[test]
fn a_socket_gets_what_was_posted_and_what_it_missed() {
    let (world, access) = with_queue();
    let named = to("ws:name", Output::DurableConsumer);
    let Subscribed::New(subscription, _) = access.subscribe("q", &named, world.now()).unwrap()
    else {
        panic!("it is new")
    };
    post(&access, "q", &["missed"]);
    let outbox = Arc::new(Outbox::default());
    let options = ConsumeOptions {
        tag: "socket".into(),
        channel: 0,
        no_ack: true,
        exclusive: true,
        priority: 0,
        prefetch: broker::PREFETCH_UNLIMITED,
        stream_offset: None,
        timeout_ms: None,
    };

    let consumer = access
        .consume_subscription(
            &subscription,
            options,
            &outbox,
            Arc::new(Credit::default()),
            world.now(),
        )
        .unwrap();
    access.dispatch(&consumer.queue, world.now());
    post(&access, "q", &["posted"]);
    access.unsubscribe("q", subscription.id, world.now()).unwrap();

    let got: Vec<String> = outbox
        .take_rest()
        .into_iter()
        .map(|item| match item {
            Outgoing::Deliver { leased, .. } => texts(&[leased]).remove(0),
            Outgoing::Cancelled { .. } => "cancelled".to_owned(),
        })
        .collect();
    assert_eq!(got, ["missed", "posted", "cancelled"]);
}

#[test]
fn a_tenant_that_goes_takes_its_subscriptions_with_it() {
    let (world, access) = with_queue();
    let subscription = subscribe(&access, "q", "http://one");

    world.broker.delete_tenant("project").unwrap();

    assert!(world.broker.live_subscription(subscription.id).is_none());
    assert!(world.broker.live_subscriptions().is_empty());
}
