//! What enters the outbox, and what does not.

use std::time::Duration;

use posthouse_outbox::{Error, Message, Sent, State};
use sqlx::{Acquire as _, MySql};

use crate::on_every_database;
use crate::recorder::{Recorder, Running, quick};
use crate::server::Server;

on_every_database!(
    a_message_leaves_if_its_transaction_commits_and_never_if_it_does_not,
    a_transport_gets_everything_that_was_said,
    a_repeated_dedupe_id_adds_no_second_message_not_even_after_delivery,
    the_same_dedupe_id_of_another_topic_is_another_message,
    a_delayed_message_waits_and_an_expired_one_is_not_sent,
    waiting_messages_are_withdrawn_by_their_cancel_key,
    the_tables_can_be_made_by_many_programs_at_once,
    sending_adds_one_statement_and_no_row_elsewhere,
);

/// Whatever character set the server has for what does not name one.
#[tokio::test]
async fn text_that_mariadb_is_given_by_sql_keeps_all_its_characters() {
    let (outbox, pool) = MySql::outbox().await;
    let recorder = Recorder::new();

    let mut connection = pool.acquire().await.unwrap();
    let send = r#"call posthouse_send('orders 📦', '{}', '{"key": "ada 😀"}', @id)"#;
    MySql::run(&mut connection, send).await.unwrap();

    let relay = Running::start(&outbox, recorder.clone(), quick());
    recorder.until_sent(1).await;
    relay.stop().await;
    assert_eq!(recorder.topics(), ["orders 📦"]);
}

fn message(topic: &str) -> Message {
    Message::new(topic, "text/plain", "hello")
}

async fn a_message_leaves_if_its_transaction_commits_and_never_if_it_does_not<S: Server>() {
    let (outbox, pool) = S::outbox().await;
    let recorder = Recorder::new();

    let mut dropped = outbox.begin().await.unwrap();
    dropped.send(&message("dropped")).await.unwrap();
    drop(dropped);
    let mut rolled_back = pool.begin().await.unwrap();
    outbox.send(&mut rolled_back, &message("rolled back")).await.unwrap();
    rolled_back.rollback().await.unwrap();
    let mut committed = outbox.begin().await.unwrap();
    let sent = committed.send(&message("committed")).await.unwrap();
    committed.commit().await.unwrap();

    let relay = Running::start(&outbox, recorder.clone(), quick());
    recorder.until_sent(1).await;
    relay.stop().await;
    assert_eq!(recorder.topics(), ["committed"]);
    let Sent::Added(id) = sent else { panic!("{sent:?}") };
    assert_eq!(outbox.state(id).await.unwrap(), Some(State::Delivered));
}

async fn a_transport_gets_everything_that_was_said<S: Server>() {
    let (outbox, pool) = S::outbox().await;
    let recorder = Recorder::new();
    let message = Message::new("orders.placed", "application/x-thing", vec![0, 159, 146, 150])
        .source("shop")
        .key("customer ü")
        .header("trace", "\"quoted\" ü")
        .expires(Duration::from_secs(3600));

    let mut connection = pool.acquire().await.unwrap();
    outbox.send(&mut connection, &message).await.unwrap();
    let relay = Running::start(&outbox, recorder.clone(), quick());
    recorder.until_sent(1).await;
    relay.stop().await;

    let letter = recorder.sent().remove(0);
    assert_eq!(letter.id, message.id);
    assert_eq!((letter.source, letter.topic), (message.source, message.topic));
    assert_eq!((letter.key, letter.headers), (message.key, message.headers));
    assert_eq!(letter.content_type, message.content_type);
    assert_eq!(letter.payload, message.payload);
    assert_eq!(letter.attempt, 1);
    let left = letter.expires_in.unwrap();
    assert!(left <= Duration::from_secs(3600) && left > Duration::from_secs(3000), "{left:?}");
    assert!(letter.created_us > 1_600_000_000_000_000, "{}", letter.created_us);
}

async fn a_repeated_dedupe_id_adds_no_second_message_not_even_after_delivery<S: Server>() {
    let (outbox, pool) = S::outbox().await;
    let recorder = Recorder::new();
    let mut connection = pool.acquire().await.unwrap();

    let first = outbox.send(&mut connection, &message("a").dedupe(7)).await.unwrap();
    let second = outbox.send(&mut connection, &message("a").dedupe(7)).await.unwrap();
    let relay = Running::start(&outbox, recorder.clone(), quick());
    recorder.until_sent(1).await;
    relay.stop().await;
    let third = outbox.send(&mut connection, &message("a").dedupe(7)).await.unwrap();

    assert!(matches!(first, Sent::Added(_)));
    assert_eq!((second, third), (Sent::Duplicate, Sent::Duplicate));
    assert_eq!(S::number(&mut connection, "select count(*) from posthouse_outbox").await, 1);
}

async fn the_same_dedupe_id_of_another_topic_is_another_message<S: Server>() {
    let (outbox, pool) = S::outbox().await;
    let mut transaction = pool.begin().await.unwrap();

    for other in [message("a"), message("b"), message("a").source("s")] {
        let sent = outbox.send(&mut transaction, &other.dedupe("7")).await.unwrap();
        assert!(matches!(sent, Sent::Added(_)));
    }
    // A duplicate does not spoil the transaction that it is found in.
    let again = outbox.send(&mut transaction, &message("a").dedupe("7")).await.unwrap();
    assert_eq!(again, Sent::Duplicate);
    outbox.send(&mut transaction, &message("c")).await.unwrap();
    transaction.commit().await.unwrap();

    assert_eq!(outbox.count().await.unwrap().waiting, 4);
}

async fn a_delayed_message_waits_and_an_expired_one_is_not_sent<S: Server>() {
    let (outbox, pool) = S::outbox().await;
    let recorder = Recorder::new();
    let mut connection = pool.acquire().await.unwrap();
    let late = message("late").delay(Duration::from_secs(3));
    let never = message("tomorrow").delay(Duration::from_secs(24 * 3600));
    let stale = message("stale").expires(Duration::from_micros(1));

    for message in [&never, &stale, &late, &message("now")] {
        outbox.send(&mut connection, message).await.unwrap();
    }
    let relay = Running::start(&outbox, recorder.clone(), quick());
    recorder.until_sent(2).await;
    let counters = std::sync::Arc::clone(&relay.counters);
    relay.stop().await;

    assert_eq!(recorder.topics(), ["now", "late"]);
    assert_eq!(outbox.state(stale.id).await.unwrap(), Some(State::Expired));
    assert_eq!(outbox.state(never.id).await.unwrap(), Some(State::Waiting));
    assert_eq!((counters.delivered(), counters.expired()), (2, 1));
}

async fn waiting_messages_are_withdrawn_by_their_cancel_key<S: Server>() {
    let (outbox, pool) = S::outbox().await;
    let recorder = Recorder::new();
    let hour = Duration::from_secs(3600);
    let reminder = message("reminder").cancel_key("remind:7").delay(hour);
    let mut transaction = pool.begin().await.unwrap();
    outbox.send(&mut transaction, &reminder).await.unwrap();
    outbox.send(&mut transaction, &message("other").cancel_key("remind:8")).await.unwrap();
    transaction.commit().await.unwrap();

    let mut transaction = pool.begin().await.unwrap();
    assert_eq!(outbox.cancel(&mut transaction, "remind:7").await.unwrap(), 1);
    assert_eq!(outbox.cancel(&mut transaction, "remind:7").await.unwrap(), 0);
    transaction.commit().await.unwrap();

    assert_eq!(outbox.state(reminder.id).await.unwrap(), Some(State::Cancelled));
    let relay = Running::start(&outbox, recorder.clone(), quick());
    recorder.until_sent(1).await;
    relay.stop().await;
    assert_eq!(recorder.topics(), ["other"]);
}

async fn the_tables_can_be_made_by_many_programs_at_once<S: Server>() {
    let pool = S::empty().await;
    let programs = (0..4).map(|_| {
        let outbox = posthouse_outbox::Outbox::new(pool.clone());
        tokio::spawn(async move { outbox.migrate().await })
    });

    for program in programs.collect::<Vec<_>>() {
        program.await.unwrap().unwrap();
    }

    let mut connection = pool.acquire().await.unwrap();
    let newest = "select count(*) from posthouse_schema";
    let known = S::number(&mut connection, newest).await;
    S::run(&mut connection, "insert into posthouse_schema (version) values (1000)").await.unwrap();
    let refused = posthouse_outbox::Outbox::new(pool).migrate().await;
    let Err(Error::TooNew { found: 1000, known: ours }) = refused else { panic!("{refused:?}") };
    assert_eq!(i64::from(ours), known);
}

async fn sending_adds_one_statement_and_no_row_elsewhere<S: Server>() {
    let (outbox, pool) = S::outbox().await;
    let mut connection = pool.acquire().await.unwrap();
    let mut transaction = connection.begin().await.unwrap();

    outbox.send(&mut transaction, &message("a").key("k").dedupe("d")).await.unwrap();
    transaction.commit().await.unwrap();

    assert_eq!(S::number(&mut connection, "select count(*) from posthouse_outbox").await, 1);
    assert_eq!(S::number(&mut connection, "select count(*) from posthouse_inbox").await, 0);
}
