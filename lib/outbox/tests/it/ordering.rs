//! Order within a key.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use posthouse_outbox::{Letter, Message, SendError, Settings};

use crate::on_every_database;
use crate::recorder::{Recorder, Running, quick};
use crate::server::Server;

on_every_database!(
    messages_of_a_key_are_sent_in_order_by_any_number_of_relays,
    a_failed_message_holds_back_its_key_and_no_other,
    what_was_given_up_lets_its_key_go_on,
    a_delayed_message_does_not_hold_back_its_key,
    an_outage_does_not_change_the_order,
    many_messages_of_one_key_do_not_keep_others_from_being_found,
);

/// A topic of its own per message, by which its place is told.
fn place(letter: &Letter) -> u32 {
    letter.topic.parse().unwrap()
}

fn assert_in_order(recorder: &Recorder) {
    let mut last: HashMap<Option<String>, u32> = HashMap::new();
    for letter in recorder.sent() {
        let place = place(&letter);
        if let Some(last) = last.insert(letter.key.clone(), place) {
            assert!(last < place, "{:?}: {place} after {last}", letter.key);
        }
    }
}

async fn messages_of_a_key_are_sent_in_order_by_any_number_of_relays<S: Server>() {
    let (outbox, _) = S::outbox().await;
    let failures = Arc::new(AtomicU32::new(0));
    let recorder = Recorder::with(move |letter| {
        // Every seventh attempt fails; with this many attempts nobody is given up.
        match failures.fetch_add(1, Ordering::SeqCst).is_multiple_of(7) && letter.attempt < 50 {
            true => Err(SendError::Retry("every seventh".to_owned())),
            false => Ok(()),
        }
    });
    let mut settings = Settings { batch: 16, ..quick() };
    settings.schedule.attempts = 1000;
    let relays: Vec<Running> =
        (0..3).map(|_| Running::start(&outbox, recorder.clone(), settings.clone())).collect();

    for n in 0..60_u32 {
        let mut transaction = outbox.begin().await.unwrap();
        for key in ["a", "b", "c", "d", "e"] {
            let message = Message::new(n.to_string(), "text/plain", "").key(key);
            transaction.send(&message).await.unwrap();
        }
        transaction.commit().await.unwrap();
    }
    recorder.until_sent(300).await;
    for relay in relays {
        relay.stop().await;
    }

    assert_in_order(&recorder);
    assert_eq!(recorder.sent().len(), 300);
}

async fn a_failed_message_holds_back_its_key_and_no_other<S: Server>() {
    let (outbox, _) = S::outbox().await;
    let recorder = Recorder::with(|letter| match letter.topic.as_str() {
        "1" => Err(SendError::Retry("not yet".to_owned())),
        _ => Ok(()),
    });
    let mut settings = quick();
    settings.schedule.unit = Duration::from_secs(3600);
    settings.schedule.cap = settings.schedule.unit;
    let mut transaction = outbox.begin().await.unwrap();
    for (place, key) in [("1", "a"), ("2", "a"), ("3", "b"), ("4", "a"), ("5", "b")] {
        transaction.send(&Message::new(place, "text/plain", "").key(key)).await.unwrap();
    }
    transaction.commit().await.unwrap();

    let relay = Running::start(&outbox, recorder.clone(), settings);
    recorder.until_sent(2).await;
    let mut later = outbox.begin().await.unwrap();
    later.send(&Message::new("6", "text/plain", "").key("a")).await.unwrap();
    later.send(&Message::new("7", "text/plain", "")).await.unwrap();
    later.commit().await.unwrap();
    recorder.until_sent(3).await;
    relay.stop().await;

    let mut topics = recorder.topics();
    topics.sort();
    assert_eq!(topics, ["3", "5", "7"]);
    assert_eq!(outbox.count().await.unwrap().waiting, 4);
}

async fn what_was_given_up_lets_its_key_go_on<S: Server>() {
    let (outbox, _) = S::outbox().await;
    let recorder = Recorder::with(|letter| match letter.topic.as_str() {
        "1" => Err(SendError::Refused("never".to_owned())),
        _ => Ok(()),
    });
    let mut transaction = outbox.begin().await.unwrap();
    for place in ["1", "2", "3"] {
        transaction.send(&Message::new(place, "text/plain", "").key("a")).await.unwrap();
    }
    transaction.commit().await.unwrap();

    let relay = Running::start(&outbox, recorder.clone(), quick());
    recorder.until_sent(2).await;
    relay.stop().await;

    assert_eq!(recorder.topics(), ["2", "3"]);
}

async fn a_delayed_message_does_not_hold_back_its_key<S: Server>() {
    let (outbox, _) = S::outbox().await;
    let recorder = Recorder::new();
    let mut transaction = outbox.begin().await.unwrap();
    let reminder = Message::new("1", "text/plain", "").delay(Duration::from_secs(3600));
    transaction.send(&reminder.key("a")).await.unwrap();
    transaction.send(&Message::new("2", "text/plain", "").key("a")).await.unwrap();
    transaction.commit().await.unwrap();

    let relay = Running::start(&outbox, recorder.clone(), quick());
    recorder.until_sent(1).await;
    relay.stop().await;

    assert_eq!(recorder.topics(), ["2"]);
}

async fn an_outage_does_not_change_the_order<S: Server>() {
    let (outbox, _) = S::outbox().await;
    let attempts = Arc::new(AtomicU32::new(0));
    let recorder = Recorder::with(move |_| match attempts.fetch_add(1, Ordering::SeqCst) % 5 {
        0 => Err(SendError::Unavailable("gone for a moment".to_owned())),
        _ => Ok(()),
    });
    let relay = Running::start(&outbox, recorder.clone(), Settings { batch: 8, ..quick() });
    for n in 0..20_u32 {
        let mut transaction = outbox.begin().await.unwrap();
        for key in ["a", "b"] {
            let message = Message::new(n.to_string(), "text/plain", "").key(key);
            transaction.send(&message).await.unwrap();
        }
        transaction.commit().await.unwrap();
    }
    recorder.until_sent(40).await;
    relay.stop().await;

    assert_in_order(&recorder);
}

async fn many_messages_of_one_key_do_not_keep_others_from_being_found<S: Server>() {
    let (outbox, _) = S::outbox().await;
    let recorder = Recorder::with(|letter| match letter.topic.as_str() {
        "0" => Err(SendError::Retry("not yet".to_owned())),
        _ => Ok(()),
    });
    let mut settings = Settings { batch: 10, ..quick() };
    settings.schedule.unit = Duration::from_secs(3600);
    settings.schedule.cap = settings.schedule.unit;
    let mut transaction = outbox.begin().await.unwrap();
    for n in 0..100 {
        let message = Message::new(n.to_string(), "text/plain", "").key("stuck");
        transaction.send(&message).await.unwrap();
    }
    transaction.send(&Message::new("1000", "text/plain", "").key("free")).await.unwrap();
    transaction.send(&Message::new("1001", "text/plain", "")).await.unwrap();
    transaction.commit().await.unwrap();

    let relay = Running::start(&outbox, recorder.clone(), settings);
    recorder.until_sent(2).await;
    relay.stop().await;

    let mut topics = recorder.topics();
    topics.sort();
    assert_eq!(topics, ["1000", "1001"]);
}
