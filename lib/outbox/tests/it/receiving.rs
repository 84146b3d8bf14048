//! The inbox: once, in the transaction of the effects.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use posthouse_outbox::Error;
use posthouse_outbox::inbox::door::Inbox;
use posthouse_outbox::inbox::{Claim, claim_once};
use posthouse_outbox::signature::Secret;
use serde_json::{Value, json};
use sqlx::{Pool, Postgres};
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::on_every_database;
use crate::server::Server;

on_every_database!(
    a_claim_counts_if_its_transaction_commits,
    two_deliveries_at_once_are_one_effect,
    a_claim_is_of_a_logical_id_and_of_a_consumer,
);

async fn claim<S: Server>(connection: &mut S::Connection, consumer: &str, id: &str) -> Claim {
    claim_once::<S::Connection>(connection, consumer, id).await.unwrap()
}

async fn a_claim_counts_if_its_transaction_commits<S: Server>() {
    let (_, pool) = S::outbox().await;

    let mut failed = pool.begin().await.unwrap();
    assert_eq!(claim::<S>(&mut failed, "a", "1").await, Claim::First);
    failed.rollback().await.unwrap();
    // A retry is not taken for its own duplicate.
    let mut handled = pool.begin().await.unwrap();
    assert_eq!(claim::<S>(&mut handled, "a", "1").await, Claim::First);
    handled.commit().await.unwrap();
    let mut again = pool.begin().await.unwrap();
    assert_eq!(claim::<S>(&mut again, "a", "1").await, Claim::Duplicate);
    // A duplicate does not spoil the transaction that it is found in.
    assert_eq!(claim::<S>(&mut again, "a", "2").await, Claim::First);
    again.commit().await.unwrap();
}

async fn two_deliveries_at_once_are_one_effect<S: Server>() {
    let (_, pool) = S::outbox().await;
    S::run(&mut pool.acquire().await.unwrap(), "create table effects (n int)").await.unwrap();

    let deliveries = (0..8).map(|_| {
        let pool: Pool<S> = pool.clone();
        tokio::spawn(async move {
            // As a sender does: again, when a database says that two were in each other's way.
            loop {
                let mut transaction = pool.begin().await.unwrap();
                match deliver::<S>(&mut transaction).await {
                    Ok(()) => return transaction.commit().await.unwrap(),
                    Err(error) => assert!(error.is_transient(), "{error:?}"),
                }
            }
        })
    });
    for delivery in deliveries.collect::<Vec<_>>() {
        delivery.await.unwrap();
    }

    let mut connection = pool.acquire().await.unwrap();
    assert_eq!(S::number(&mut connection, "select count(*) from effects").await, 1);
}

async fn deliver<S: Server>(connection: &mut S::Connection) -> Result<(), Error> {
    if claim_once::<S::Connection>(connection, "a", "the same").await? == Claim::First {
        S::run(connection, "insert into effects values (1)").await?;
    }
    Ok(())
}

async fn a_claim_is_of_a_logical_id_and_of_a_consumer<S: Server>() {
    let (_, pool) = S::outbox().await;
    let mut transaction = pool.begin().await.unwrap();

    assert_eq!(claim::<S>(&mut transaction, "shipping", "order-7").await, Claim::First);
    assert_eq!(claim::<S>(&mut transaction, "billing", "order-7").await, Claim::First);
    assert_eq!(claim::<S>(&mut transaction, "shipping", "ORDER-7").await, Claim::First);
    assert_eq!(claim::<S>(&mut transaction, "shipping", "order-7").await, Claim::Duplicate);
    for nonsense in ["", "a ", "a\0", &"x".repeat(256)] {
        let refused = claim_once::<S::Connection>(&mut transaction, "shipping", nonsense).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{nonsense:?}");
    }
}

/// An application whose handler writes a row, and fails the first time for a topic `fails`, always for `panics`. For
/// `conceals` it keeps an error of the database to itself.
async fn app() -> (Router, Pool<Postgres>) {
    let (_, pool) = Postgres::outbox().await;
    let mut connection = pool.acquire().await.unwrap();
    Postgres::run(&mut connection, "create table effects (topic text)").await.unwrap();
    let failures = Arc::new(AtomicU32::new(0));
    let inbox = Inbox::new(pool.clone(), "app").handle("shop", "*", move |connection, message| {
        let failures = Arc::clone(&failures);
        Box::pin(async move {
            let insert = sqlx::query("insert into effects values ($1)").bind(&message.topic);
            insert.execute(&mut *connection).await?;
            match message.topic.as_str() {
                "fails" if failures.fetch_add(1, Ordering::SeqCst) == 0 => Err("first time".into()),
                "panics" => panic!("as told"),
                "conceals" => {
                    Postgres::run(connection, "select 1 / 0").await.unwrap_err();
                    Ok(())
                }
                _ => Ok(()),
            }
        })
    });
    (inbox.router(), pool)
}

fn document(topic: &str) -> Value {
    json!({
        "uuid": Uuid::now_v7(), "message_source": "shop", "message_type": topic,
        "origin_create_time": "2026-11-21T12:00:00.123456Z", "payload": {"id": 7},
    })
}

async fn post(app: &Router, document: &Value) -> (StatusCode, Value) {
    post_with(app, document.to_string(), &[]).await
}

async fn post_with(app: &Router, body: String, headers: &[(&str, &str)]) -> (StatusCode, Value) {
    let mut request = Request::post("/inbox/").header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = app.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

async fn effects(pool: &Pool<Postgres>) -> i64 {
    let mut connection = pool.acquire().await.unwrap();
    Postgres::number(&mut connection, "select count(*) from effects").await
}

#[tokio::test]
async fn a_new_message_and_a_duplicate_are_both_created_and_handled_once() {
    let (app, pool) = app().await;
    let document = document("orders.placed");

    for _ in 0..2 {
        let (status, answer) = post(&app, &document).await;
        assert_eq!(status, StatusCode::CREATED);
        assert_eq!(answer, document);
    }

    assert_eq!(effects(&pool).await, 1);
}

#[tokio::test]
async fn a_handler_that_fails_keeps_nothing_and_is_asked_again() {
    let (app, pool) = app().await;
    let document = document("fails");

    assert_eq!(post(&app, &document).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(effects(&pool).await, 0);
    assert_eq!(post(&app, &document).await.0, StatusCode::CREATED);
    assert_eq!(effects(&pool).await, 1);
}

#[tokio::test]
async fn a_handler_that_panics_is_a_failure_like_others() {
    let (app, pool) = app().await;

    assert_eq!(post(&app, &document("panics")).await.0, StatusCode::INTERNAL_SERVER_ERROR);

    assert_eq!(effects(&pool).await, 0);
}

#[tokio::test]
async fn an_error_that_a_handler_keeps_to_itself_makes_no_success_of_an_undone_transaction() {
    let (app, pool) = app().await;

    // PostgreSQL has undone the transaction, and would answer its commit with success.
    assert_eq!(post(&app, &document("conceals")).await.0, StatusCode::INTERNAL_SERVER_ERROR);

    assert_eq!(effects(&pool).await, 0);
}

#[tokio::test]
async fn a_message_that_nobody_handles_is_sent_again() {
    let (app, _) = app().await;
    let mut document = document("orders.placed");
    document["message_source"] = "somebody else".into();

    assert_eq!(post(&app, &document).await.0, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn a_document_with_mistakes_is_answered_with_one_text_per_field() {
    let (app, _) = app().await;
    let mut document = document("orders.placed");
    document["uuid"] = "none".into();
    document.as_object_mut().unwrap().remove("payload");

    let (status, answer) = post(&app, &document).await;

    assert_eq!(status, StatusCode::BAD_REQUEST);
    let errors = json!({"uuid": ["Must be a valid UUID."], "payload": ["This field is required."]});
    assert_eq!(answer, errors);
    let (status, answer) = post_with(&app, "{".to_owned(), &[]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(answer["detail"].as_str().unwrap().starts_with("JSON parse error"));
}

#[tokio::test]
async fn who_has_neither_token_nor_signature_is_not_let_in() {
    let (_, pool) = Postgres::outbox().await;
    let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let app = Inbox::new(pool, "app")
        .token("sesame")
        .signature(secret.clone())
        .handle("*", "*", |_, _| Box::pin(async { Ok(()) }))
        .router();
    let body = document("a").to_string();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (time, signature) = (now.to_string(), secret.sign("m", now, body.as_bytes()));
    let signed = [
        ("webhook-id", "m"),
        ("webhook-timestamp", time.as_str()),
        ("webhook-signature", signature.as_str()),
    ];

    for refused in [&[][..], &[("authorization", "Bearer wrong")], &signed[..2]] {
        let (status, _) = post_with(&app, body.clone(), refused).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{refused:?}");
    }
    for welcome in
        [&[("authorization", "Bearer sesame")][..], &[("authorization", "token sesame")], &signed]
    {
        let (status, _) = post_with(&app, body.clone(), welcome).await;
        assert_eq!(status, StatusCode::CREATED, "{welcome:?}");
    }
}

#[tokio::test]
async fn the_body_of_a_stranger_is_not_read() {
    let (_, pool) = Postgres::outbox().await;
    let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let app = Inbox::new(pool, "app").token("sesame").signature(secret).router();
    let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let request = Request::post("/inbox/").header("authorization", "Bearer wrong");

    let answer = app.oneshot(request.body(Body::from_stream(never)).unwrap()).await.unwrap();

    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn what_one_outbox_sends_another_applications_inbox_takes_once() {
    use posthouse_outbox::Message;
    use posthouse_outbox::transport::http;

    use crate::recorder::{Running, quick};
    use crate::server::eventually;

    let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let (_, there) = Postgres::outbox().await;
    let mut connection = there.acquire().await.unwrap();
    Postgres::run(&mut connection, "create table effects (n bigint)").await.unwrap();
    let attempts = Arc::new(AtomicU32::new(0));
    let tries = Arc::clone(&attempts);
    let inbox = Inbox::new(there.clone(), "app").signature(secret.clone());
    let inbox = inbox.handle("shop", "orders.placed", move |connection, message| {
        let tries = Arc::clone(&tries);
        Box::pin(async move {
            let order: Value = message.json()?;
            let insert = sqlx::query("insert into effects values ($1)").bind(order["id"].as_i64());
            insert.execute(connection).await?;
            match tries.fetch_add(1, Ordering::SeqCst).is_multiple_of(3) {
                true => Err("every third attempt".into()),
                false => Ok(()),
            }
        })
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { axum::serve(listener, inbox.router()).await });

    let (outbox, _) = Postgres::outbox().await;
    let mut transaction = outbox.begin().await.unwrap();
    for id in 0..50 {
        let message = Message::json("orders.placed", &json!({ "id": id })).unwrap();
        transaction.send(&message.source("shop").key(id % 5)).await.unwrap();
    }
    transaction.commit().await.unwrap();
    let to = http::Inbox::new(&format!("http://{address}/inbox/")).unwrap().signed(secret);
    let mut settings = quick();
    settings.schedule.attempts = 1000;
    let relay = Running::start(&outbox, to, settings);
    eventually(async || outbox.count().await.unwrap().waiting == 0).await;
    relay.stop().await;
    serving.abort();

    let distinct = "select count(distinct n) from effects";
    assert_eq!(Postgres::number(&mut connection, distinct).await, 50);
    assert_eq!(effects(&there).await, 50);
    assert!(attempts.load(Ordering::SeqCst) > 50);
}
