//! The queue service under `kill -9`: posts, claims, deletions and webhooks over HTTP.
//!
//! Each cycle has queues of its own. Posters and workers run until the server dies; after the last start everything that
//! is left is read back and compared with what was answered ([`record`]). What was answered with 201 is there, what was
//! answered with 204 to a deletion is not, a claim still holds what it held and nobody else got it, and every stored
//! message of the queue with a subscriber reached the webhook of the rig ([`receiver`]).

mod load;
mod receiver;
mod record;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::cycle::Cycle;
use super::load::lock as lock_history;
use crate::http::Connection;
use load::Load;
use receiver::Receiver;
use record::{Place, Record, guard};

/// The project of all requests.
const PROJECT: &str = "rig";

/// Settings that the rig needs: the door, and deliveries to this machine.
pub(super) const SETTINGS: [&str; 4] = [
    "queues.listen=127.0.0.1:0",
    "queues.websocket_listen=",
    "delivery.allow=[\"127.0.0.0/8\"]",
    "delivery.ports=[\"1024-65535\"]",
];

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long notifications may take after the last start: a delivery that died is tried again within this.
const NOTIFIED_WITHIN: Duration = Duration::from_secs(90);

/// The queues of a cycle.
#[derive(Debug, Clone)]
pub(super) struct Queues {
    cycle: u64,
}

impl Queues {
    /// The path of one of them.
    fn path(&self, place: Place) -> String {
        format!("/v2/queues/rig-{}-{}", self.cycle, place.name())
    }
}

/// One to three lives under load, each killed; then a look at what is left.
///
/// # Errors
///
/// If the server does not come up again or refuses what it must not.
pub(super) fn run(cycle: &mut Cycle<'_>) -> anyhow::Result<()> {
    let queues = Queues { cycle: cycle.rig.number };
    let record = Arc::new(Mutex::new(Record::default()));
    let receiver = Receiver::listen(&record)?;
    let mut subscription = None;
    for life in 0..cycle.random.between(1, 3) {
        let up = cycle.start()?;
        let address = up.server.queues()?;
        if life == 0 {
            let left = forgotten(address, &queues)?;
            if !left.is_empty() {
                let text = format!("RESURRECTED: queues that were deleted: {left:?}");
                lock_history(&cycle.history).complain(text);
            }
            subscription = Some(subscribe(address, &queues, receiver.port)?);
        }
        let load = Load::start(address, &queues, &record, cycle.random.next());
        cycle.run_for(50, 700);
        lock_history(&cycle.history).fault("kill -9")?;
        cycle.rig.faults += 1;
        load.expect_the_end();
        let killed = up.server.kill();
        load.finish();
        killed?;
    }
    let up = cycle.start()?;
    let address = up.server.queues()?;
    look(address, &queues, &record)?;
    let subscription = subscription.context("no subscription")?;
    connect(address, 0)
        .expect(200, "GET", &subscription, &Value::Null)
        .context("LOST: a subscription whose creation was answered")?;
    wait_for_notifications(&record);
    clear(address, &queues)?;
    tell(cycle, &record);
    if cycle.random.one_in(2) {
        return up.server.stop();
    }
    up.server.kill()?;
    Ok(())
}

/// Puts the findings and figures of the cycle where those of every cycle are.
fn tell(cycle: &Cycle<'_>, record: &Mutex<Record>) {
    let mut record = guard(record);
    let mut history = lock_history(&cycle.history);
    for complaint in record.verdict() {
        history.complain(complaint);
    }
    history.figures.published += record.figures.posted;
    history.figures.confirmed += record.figures.stored;
    history.figures.delivered += record.figures.claimed + record.figures.notified;
    history.figures.recovered += record.figures.recovered;
}

fn connect(address: SocketAddr, client: u64) -> Connection {
    let client_id = format!("3381af92-2b9e-11e3-b191-{client:012x}");
    Connection::new(address, PROJECT, &client_id, PATIENCE)
}

/// Queues of earlier cycles that are still there.
fn forgotten(address: SocketAddr, queues: &Queues) -> anyhow::Result<Vec<String>> {
    let list = connect(address, 0).expect(200, "GET", "/v2/queues?limit=20", &Value::Null)?;
    let own = format!("rig-{}-", queues.cycle);
    let list = list.get("queues").and_then(Value::as_array).context("no list of queues")?;
    let names = list.iter().filter_map(|queue| queue.get("name")?.as_str());
    Ok(names
        .filter(|name| name.starts_with("rig-") && !name.starts_with(&own))
        .map(str::to_owned)
        .collect())
}

/// Subscribes the rig's receiver; the path of the subscription.
fn subscribe(address: SocketAddr, queues: &Queues, port: u16) -> anyhow::Result<String> {
    let path = format!("{}/subscriptions", queues.path(Place::Hooked));
    let retries = json!({ "minimum_delay": 1, "maximum_delay": 12 });
    let body = json!({
        "subscriber": format!("http://127.0.0.1:{port}/"), "ttl": 43_200,
        "options": { "_retry_policy": retries },
    });
    let answer = connect(address, 0).expect(201, "POST", &path, &body)?;
    let id = answer.get("subscription_id").and_then(Value::as_str).context("no id")?;
    Ok(format!("{path}/{id}"))
}

/// Reads everything back and lets the record judge it.
fn look(address: SocketAddr, queues: &Queues, record: &Mutex<Record>) -> anyhow::Result<()> {
    let mut connection = connect(address, 0);
    for place in Place::ALL {
        let path = queues.path(place);
        let mut next = format!("{path}/messages?limit=20&echo=true&include_claimed=true");
        let mut listed = Vec::new();
        loop {
            let page = connection.expect(200, "GET", &next, &Value::Null)?;
            let messages = page.get("messages").and_then(Value::as_array).context("no messages")?;
            if messages.is_empty() {
                break;
            }
            listed.extend(messages.iter().map(record::Sight::of));
            let link = page.pointer("/links/0/href").and_then(Value::as_str);
            link.context("a page without a link")?.clone_into(&mut next);
            ensure!(listed.len() < 10_000_000, "{path} is listed without an end");
        }
        guard(record).left(place, &listed);
    }
    let claims = guard(record).open_claims();
    for (number, id) in claims {
        let path = format!("{}/claims/{id}", queues.path(Place::Worked));
        let answer = connection.request("GET", &path, b"")?;
        let messages = match answer.status {
            200 => {
                let claim: Value = serde_json::from_slice(&answer.body)?;
                let messages = claim.get("messages").and_then(Value::as_array);
                Some(messages.context("no messages")?.iter().map(record::Sight::of).collect())
            }
            404 => None,
            other => anyhow::bail!("GET {path}: {other}"),
        };
        guard(record).still_claims(number, messages);
    }
    Ok(())
}

/// Waits until the receiver has everything; the record complains of what is missing then.
fn wait_for_notifications(record: &Mutex<Record>) {
    let began = Instant::now();
    while guard(record).unnotified() > 0 && began.elapsed() < NOTIFIED_WITHIN {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn clear(address: SocketAddr, queues: &Queues) -> anyhow::Result<()> {
    let mut connection = connect(address, 0);
    for place in Place::ALL {
        connection.expect(204, "DELETE", &queues.path(place), &Value::Null)?;
    }
    Ok(())
}
