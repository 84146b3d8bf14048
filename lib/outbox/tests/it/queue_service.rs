//! From the outbox to a queue over Zaqar's HTTP API, on the program's own queue service.

use posthouse_outbox::transport::http::Queue;
use posthouse_outbox::{Message, State};
use serde_json::{Value, json};
use sqlx::MySql;

use crate::recorder::{Running, quick};
use crate::server::{Server, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn messages_become_messages_of_a_queue_in_the_order_of_their_key() {
    let (outbox, _) = MySql::outbox().await;
    let service = it::Program::start();
    let address = service.queues.unwrap();
    let mut transaction = outbox.begin().await.unwrap();
    let mut sent = Vec::new();
    for n in 0..20 {
        let message = Message::json("orders.placed", &json!({ "n": n })).unwrap();
        let message = message.source("shop").key("customer-1");
        transaction.send(&message).await.unwrap();
        sent.push((message.id.to_string(), n));
    }
    transaction.commit().await.unwrap();

    let to = format!("http://{address}/v2/queues/orders?project=p");
    let relay = Running::start(&outbox, Queue::new(&to).unwrap(), quick());
    eventually(async || outbox.count().await.unwrap().waiting == 0).await;
    relay.stop().await;

    let mut http = it::Http::new(&service);
    let page = http.get("/v2/queues/orders/messages?limit=20").json();
    let bodies = page["messages"].as_array().unwrap().iter().map(|message| &message["body"]);
    let got: Vec<(String, i64)> = bodies
        .map(|body| {
            assert_eq!(
                (&body["message_source"], &body["message_type"]),
                (&json!("shop"), &json!("orders.placed"))
            );
            (body["uuid"].as_str().unwrap().to_owned(), body["payload"]["n"].as_i64().unwrap())
        })
        .collect();
    assert_eq!(got, sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_queue_service_refuses_is_tried_again_and_then_a_dead_letter() {
    let (outbox, pool) = MySql::outbox().await;
    let service = it::Program::start();
    let address = service.queues.unwrap();
    // More than a message of a queue may be.
    let huge = Message::json("orders.placed", &json!({ "text": "x".repeat(2_000_000) })).unwrap();
    let good = Message::json("orders.placed", &json!({ "id": 7 })).unwrap();
    for message in [&huge, &good] {
        outbox.send(&mut pool.acquire().await.unwrap(), message).await.unwrap();
    }

    let to = format!("http://{address}/v2/queues/orders?project=p");
    let relay = Running::start(&outbox, Queue::new(&to).unwrap(), quick());
    eventually(async || outbox.count().await.unwrap().waiting == 0).await;
    relay.stop().await;

    assert_eq!(outbox.state(good.id).await.unwrap(), Some(State::Delivered));
    let dead = outbox.dead_letters(10).await.unwrap();
    assert_eq!(dead.iter().map(|letter| letter.id).collect::<Vec<_>>(), [huge.id]);
    assert!(dead[0].error.contains("answers 4"), "{}", dead[0].error);
    let page: Value = it::Http::new(&service).get("/v2/queues/orders/messages").json();
    assert_eq!(page["messages"].as_array().unwrap().len(), 1);
}
