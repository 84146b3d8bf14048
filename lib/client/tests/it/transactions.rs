//! A transaction per message, on every database.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthouse_client::prelude::*;
use posthouse_client::{Consumer, FromParts, Later, QueueLabel};
use posthouse_outbox::Outbox;
use posthouse_testing::TestBus;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{MySql, Pool, Postgres, Sqlite};
use tokio::sync::{Barrier, Notify};

use crate::broken_commit::{Lost, loses_first_commit};
use crate::broker::{options, until};
use crate::cutter::Cutter;
use crate::database::{Server, eventually};

/// Makes a test per database of functions over a [`Server`].
macro_rules! on_every_database {
    ($($name:ident),+ $(,)?) => {
        mod postgres { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<sqlx::Postgres>().await; }
        )+ }
        mod mysql { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<sqlx::MySql>().await; }
        )+ }
        mod sqlite { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<sqlx::Sqlite>().await; }
        )+ }
    };
}

on_every_database!(
    what_a_handler_writes_and_sends_is_there_when_its_message_is_gone,
    a_message_that_comes_again_is_acknowledged_without_the_handler,
    what_a_handler_wrote_that_did_not_succeed_is_gone,
    a_transaction_that_was_undone_behind_the_handlers_back_is_no_success,
    a_message_whose_ack_was_lost_has_one_effect,
    a_message_without_a_name_is_a_dead_letter,
);

/// An application: what its handlers need, and how often they ran.
struct Shop<S: Server, X = ()> {
    outbox: Outbox<S>,
    runs: Arc<Mutex<BTreeMap<String, u32>>>,
    beside: Arc<X>,
}

impl<S: Server, X> Clone for Shop<S, X> {
    fn clone(&self) -> Self {
        let (runs, beside) = (Arc::clone(&self.runs), Arc::clone(&self.beside));
        Self { outbox: self.outbox.clone(), runs, beside }
    }
}

impl<S: Server, X> FromState<Shop<S, X>> for Outbox<S> {
    fn from_state(shop: &Shop<S, X>) -> Self {
        shop.outbox.clone()
    }
}

impl<S: Server, X> Shop<S, X> {
    fn ran(&self, body: &str) -> u32 {
        let mut runs = self.runs.lock().unwrap();
        let count = runs.entry(body.to_owned()).or_default();
        *count += 1;
        *count
    }

    fn runs(&self, body: &str) -> u32 {
        self.runs.lock().unwrap().get(body).copied().unwrap_or_default()
    }
}

/// A database with the application's tables, and the application with something beside.
async fn shop<S: Server, X>(beside: X) -> (Shop<S, X>, Pool<S>) {
    let (outbox, pool) = S::outbox().await;
    let tables =
        "create table effects (n bigint); create table counters (id bigint primary key, n bigint);
        insert into counters values (1, 0); insert into counters values (2, 0);";
    for table in tables.split_terminator(';') {
        S::run(&mut pool.acquire().await.unwrap(), table).await.unwrap();
    }
    (Shop { outbox, runs: Arc::default(), beside: Arc::new(beside) }, pool)
}

/// The application on a broker, consuming from the queue `q`.
struct Scene<S: Server, X = ()> {
    shop: Shop<S, X>,
    pool: Pool<S>,
    bus: TestBus,
    app: App,
}

impl<S: Server> Scene<S> {
    /// With [`handle`], three attempts for each message.
    async fn usual() -> Self {
        let backoff = Backoff::constant(Duration::from_secs(1)).attempts(3);
        Self::of((), consume(handle::<S>).retry(backoff)).await
    }
}

impl<S: Server, X: Send + Sync + 'static> Scene<S, X> {
    async fn of(beside: X, consumer: Consumer<Shop<S, X>>) -> Self {
        let (shop, pool) = shop(beside).await;
        Self::on(shop, pool, consumer).await
    }

    async fn on(shop: Shop<S, X>, pool: Pool<S>, consumer: Consumer<Shop<S, X>>) -> Self {
        let bus = TestBus::start().await;
        let app = bus.serve(Router::new().queue("q", consumer).with_state(shop.clone())).await;
        Self { shop, pool, bus, app }
    }

    async fn publish(&self, id: &str, body: &str) {
        let publish = self.bus.client().publish_to("", "q", body.to_owned());
        publish.message_id(id).await.unwrap();
    }

    /// Lets time pass until so many messages of the queue are settled, one way or another.
    async fn finish(&self, count: u64) {
        let label = QueueLabel { queue: "q".to_owned() };
        let metrics = self.app.metrics();
        eventually(async || {
            self.bus.advance(Duration::from_secs(1)).await;
            let ends = [&metrics.acked, &metrics.dead_lettered, &metrics.dropped];
            ends.map(|end| end.get_or_create(&label).get()).iter().sum::<u64>() >= count
        })
        .await;
        self.bus.quiet().await;
    }

    async fn number(&self, sql: &str) -> i64 {
        S::number(&mut self.pool.acquire().await.unwrap(), sql).await
    }

    /// Rows that handlers have written.
    async fn effects(&self) -> i64 {
        self.number("select count(*) from effects").await
    }

    /// Messages that handlers have sent.
    async fn sent(&self) -> i64 {
        self.number("select count(*) from posthouse_outbox").await
    }

    fn assert_dead(&self, count: usize) {
        self.bus.queue("q.dead").assert_len(count);
    }

    async fn stop(self) {
        self.app.stop().await;
    }
}

/// Writes, sends, and does what the body says.
async fn handle<S: Server>(
    State(shop): State<Shop<S>>,
    mut tx: Tx<S>,
    body: String,
) -> Result<Ack, Fail> {
    let run = shop.ran(&body);
    S::run(&mut tx, "insert into effects values (1)").await?;
    tx.send(&posthouse_outbox::Message::new("done", "text/plain", body.clone())).await?;
    match (body.as_str(), run) {
        ("once", 1) => Err(Fail::retry("once")),
        ("retry", _) => Err(Fail::retry("stock down")),
        ("dead", _) => Err(Fail::dead("no such order")),
        ("drop", _) => Err(Fail::drop("nobody cares")),
        ("panic", _) => panic!("a bug"),
        // Whatever the reason, the error goes no further.
        ("undone", _) => {
            S::run(&mut tx, "rollback").await?;
            Ok(Ack)
        }
        _ => Ok(Ack),
    }
}

async fn what_a_handler_writes_and_sends_is_there_when_its_message_is_gone<S: Server>() {
    let scene = Scene::<S>::usual().await;

    scene.publish("1", "a").await;
    scene.finish(1).await;

    assert_eq!((scene.effects().await, scene.sent().await), (1, 1));
    let inbox = "select count(*) from posthouse_inbox where consumer = 'q' and id = '1'";
    assert_eq!(scene.number(inbox).await, 1);
    scene.bus.queue("q").assert_len(0);
    scene.stop().await;
}

async fn a_message_that_comes_again_is_acknowledged_without_the_handler<S: Server>() {
    let scene = Scene::<S>::usual().await;

    scene.publish("1", "a").await;
    scene.finish(1).await;
    scene.publish("1", "a").await;
    scene.publish("2", "b").await;
    scene.finish(3).await;

    assert_eq!((scene.shop.runs("a"), scene.shop.runs("b")), (1, 1));
    assert_eq!(scene.effects().await, 2);
    scene.bus.queue("q").assert_len(0);
    scene.stop().await;
}

async fn what_a_handler_wrote_that_did_not_succeed_is_gone<S: Server>() {
    let scene = Scene::<S>::usual().await;

    for body in ["retry", "dead", "drop", "panic", "once"] {
        scene.publish(body, body).await;
    }
    scene.finish(5).await;

    // A retry is not taken for its own duplicate.
    let runs = ["retry", "dead", "drop", "panic", "once"].map(|body| scene.shop.runs(body));
    assert_eq!(runs, [3, 1, 1, 3, 2]);
    assert_eq!((scene.effects().await, scene.sent().await), (1, 1));
    let inbox = "select count(*) from posthouse_inbox where id = 'once'";
    assert_eq!(scene.number(inbox).await, 1);
    scene.assert_dead(3);
    scene.stop().await;
}

async fn a_transaction_that_was_undone_behind_the_handlers_back_is_no_success<S: Server>() {
    let scene = Scene::<S>::usual().await;

    scene.publish("1", "undone").await;
    scene.finish(1).await;

    assert_eq!(scene.effects().await, 0);
    scene.assert_dead(1);
    // And the connection is as good as new.
    scene.publish("2", "fine").await;
    scene.finish(2).await;
    assert_eq!(scene.effects().await, 1);
    scene.stop().await;
}

/// What the wire to the broker does after the commit.
struct Wire {
    cutter: Cutter,
    /// The broker has noticed.
    is_cut: Notify,
    cuts: AtomicU32,
}

/// Taken before the transaction, so what it does before the settlement comes after the commit.
struct Cut;

impl<S: Server> FromParts<Shop<S, Wire>> for Cut {
    async fn from_parts(delivery: &mut Delivery, shop: &Shop<S, Wire>) -> Result<Self, Fail> {
        let wire = Arc::clone(&shop.beside);
        delivery.before_settling(|outcome| async move {
            if wire.cuts.fetch_add(1, Ordering::SeqCst) == 0 {
                wire.cutter.part();
                wire.is_cut.notified().await;
            }
            outcome
        });
        Ok(Self)
    }
}

async fn a_message_whose_ack_was_lost_has_one_effect<S: Server>() {
    async fn handle<S: Server>(
        State(shop): State<Shop<S, Wire>>,
        _: Cut,
        mut tx: Tx<S>,
        body: String,
    ) -> Result<Ack, Fail> {
        shop.ran(&body);
        S::run(&mut tx, "insert into effects values (1)").await?;
        Ok(Ack)
    }
    let bus = TestBus::start().await;
    let cutter = Cutter::before(&bus.url()).await;
    let url = cutter.url();
    let (shop, pool) = shop(Wire { cutter, is_cut: Notify::new(), cuts: AtomicU32::new(0) }).await;
    let router = Router::new().queue("q", consume(handle::<S>)).with_state(shop.clone());
    let app = App::start(&url, router, options()).await.unwrap();
    let scene = Scene { shop, pool, bus, app };

    scene.publish("1", "a").await;
    // The broker has it back: whatever is acknowledged now is not heard.
    until("the message is back", || async { scene.bus.queue("q").len() == 1 }).await;
    assert_eq!(scene.effects().await, 1);
    scene.shop.beside.is_cut.notify_one();
    scene.shop.beside.cutter.mend();
    until("the message is gone", || async { scene.bus.queue("q").is_empty() }).await;
    scene.bus.quiet().await;

    assert_eq!(scene.shop.runs("a"), 1);
    assert_eq!(scene.effects().await, 1);
    scene.assert_dead(0);
    scene.stop().await;
}

async fn a_message_without_a_name_is_a_dead_letter<S: Server>() {
    let scene = Scene::<S>::usual().await;

    scene.publish("ends with a space ", "a").await;
    scene.finish(1).await;

    scene
        .bus
        .queue("q.dead")
        .assert_one()
        .assert_reason("message id must have no NUL and no space at its end");
    assert_eq!(scene.shop.runs("a"), 0);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_with_a_transaction_cannot_be_settled_later() {
    async fn handle(State(shop): State<Shop<Sqlite>>, mut tx: Tx<Sqlite>, body: String) -> Later {
        shop.ran(&body);
        Sqlite::run(&mut tx, "insert into effects values (1)").await.unwrap();
        Later::new()
    }
    let scene = Scene::<Sqlite>::of((), consume(handle)).await;

    scene.publish("m-1", "a").await;
    scene.finish(1).await;

    scene
        .bus
        .queue("q.dead")
        .assert_one()
        .assert_reason("a message with a transaction cannot be settled later");
    assert_eq!((scene.shop.runs("a"), scene.effects().await), (1, 0));
    scene.stop().await;
}

/// Two messages, each with a row that the other wants next.
async fn a_deadlock_releases_one_message_and_counts_no_attempt<S: Server>() {
    struct Meeting(Barrier, AtomicU32);
    async fn handle<S: Server>(
        State(shop): State<Shop<S, Meeting>>,
        meta: Meta,
        mut tx: Tx<S>,
        body: String,
    ) -> Result<Ack, Fail> {
        assert_eq!(meta.attempt, 1);
        let rows = if body == "a" { [1, 2] } else { [2, 1] };
        let add = |id| format!("update counters set n = n + 1 where id = {id}");
        S::run(&mut tx, &add(rows[0])).await?;
        if shop.ran(&body) == 1 {
            shop.beside.0.wait().await;
        }
        shop.beside.1.fetch_add(1, Ordering::SeqCst);
        S::run(&mut tx, &add(rows[1])).await?;
        Ok(Ack)
    }
    let meeting = Meeting(Barrier::new(2), AtomicU32::new(0));
    // One attempt: a conflict that counted would be a dead letter.
    let consumer = consume(handle::<S>).retry(Backoff::never());
    let scene = Scene::of(meeting, consumer).await;

    scene.publish("1", "a").await;
    scene.publish("2", "b").await;
    scene.finish(2).await;

    for counter in [1, 2] {
        let sql = format!("select n from counters where id = {counter}");
        assert_eq!(scene.number(&sql).await, 2);
    }
    let second_updates = scene.shop.beside.1.load(Ordering::SeqCst);
    assert!(second_updates >= 3, "there was no deadlock");
    scene.assert_dead(0);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_of_postgresql_is_no_failed_attempt() {
    a_deadlock_releases_one_message_and_counts_no_attempt::<Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_of_mariadb_is_no_failed_attempt() {
    a_deadlock_releases_one_message_and_counts_no_attempt::<MySql>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_somebody_else_writes_to_is_waited_for_without_counting() {
    let (mut shop, pool) = shop::<Sqlite, _>(()).await;
    let impatient = (*pool.connect_options()).clone().busy_timeout(Duration::from_millis(1));
    let impatient = SqlitePoolOptions::new().connect_with(impatient).await.unwrap();
    shop.outbox = Outbox::new(impatient);
    let consumer = consume(handle::<Sqlite>).retry(Backoff::never());
    let scene = Scene::on(shop, pool, consumer).await;

    let mut writer = scene.pool.begin().await.unwrap();
    Sqlite::run(&mut writer, "insert into effects values (2)").await.unwrap();
    scene.publish("1", "a").await;
    eventually(async || scene.bus.attempts(&scene.app, "q") > 5).await;
    writer.rollback().await.unwrap();
    scene.finish(1).await;

    assert_eq!(scene.shop.runs("a"), 1);
    assert_eq!(scene.effects().await, 1);
    scene.assert_dead(0);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_of_which_nobody_knows_is_neither_acknowledged_nor_doubled() {
    for lost in [Lost::Request, Lost::Answer] {
        let (mut shop, pool) = shop(()).await;
        shop.outbox = Outbox::new(loses_first_commit(&pool, lost).await);
        let consumer = consume(handle::<Postgres>).retry(Backoff::never());
        let scene = Scene::on(shop, pool, consumer).await;

        scene.publish("1", "a").await;
        scene.finish(1).await;

        let runs = if lost == Lost::Request { 2 } else { 1 };
        assert_eq!(scene.shop.runs("a"), runs, "{lost:?}");
        assert_eq!((scene.effects().await, scene.sent().await), (1, 1), "{lost:?}");
        scene.assert_dead(0);
        scene.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_a_handler_keeps_to_itself_makes_no_success_of_an_undone_transaction() {
    async fn handle(mut tx: Tx<Postgres>) -> Ack {
        Postgres::run(&mut tx, "insert into effects values (1)").await.unwrap();
        // PostgreSQL undoes the transaction, and will answer the commit with success.
        Postgres::run(&mut tx, "select 1 / 0").await.unwrap_err();
        Ack
    }
    let scene = Scene::<Postgres>::of((), consume(handle).retry(Backoff::never())).await;

    scene.publish("1", "a").await;
    scene.finish(1).await;

    assert_eq!(scene.effects().await, 0);
    let dead = scene.bus.queue("q.dead").assert_one().clone();
    let reason = dead.headers.get(posthouse_client::REASON_HEADER).unwrap().as_str().unwrap();
    assert!(reason.contains("an error that was not passed on"), "{reason}");
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_a_handler_gives_away_is_not_taken_for_committed() {
    type Kept = Mutex<Vec<Tx<Postgres>>>;
    async fn handle(tx: Tx<Postgres>, State(shop): State<Shop<Postgres, Kept>>) -> Ack {
        shop.beside.lock().unwrap().push(tx);
        Ack
    }
    let scene = Scene::of(Kept::default(), consume(handle).retry(Backoff::never())).await;

    scene.publish("1", "a").await;
    scene.finish(1).await;

    scene
        .bus
        .queue("q.dead")
        .assert_one()
        .assert_reason("the handler has given its transaction away, so it cannot be committed");
    scene.shop.beside.lock().unwrap().clear();
    scene.stop().await;
}
