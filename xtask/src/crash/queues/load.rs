//! Posters, workers that claim and delete, and one that pops: each a thread with a connection of its own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::record::{Place, Record, Sight, body, guard};
use super::{Queues, connect};
use crate::crash::random::Random;
use crate::http::Connection;

/// Between two posts of a poster, so that what is left can be read back in a moment.
const BETWEEN_POSTS: Duration = Duration::from_micros(500);

/// Life of a message: longer than any cycle.
const TTL_S: u64 = 3_600;

/// Messages of a pop.
const POP: usize = 3;

/// The running threads.
#[derive(Debug)]
pub(super) struct Load {
    is_ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// One thread's means.
struct Client {
    connection: Connection,
    queues: Queues,
    record: Arc<Mutex<Record>>,
    random: Random,
}

impl Load {
    /// Starts all threads.
    pub(super) fn start(
        address: SocketAddr,
        queues: &Queues,
        record: &Arc<Mutex<Record>>,
        seed: u64,
    ) -> Self {
        let is_ending = Arc::new(AtomicBool::new(false));
        let random = Random::new(seed);
        let parts: [fn(&mut Client) -> anyhow::Result<()>; 7] = [
            |client| client.post(Place::Worked),
            |client| client.post(Place::Worked),
            |client| client.post(Place::Popped),
            |client| client.post(Place::Hooked),
            Client::work,
            Client::work,
            Client::pop,
        ];
        let threads = (1_u64..).zip(parts).map(|(number, part)| {
            let mut client = Client {
                connection: connect(address, number),
                queues: queues.clone(),
                record: Arc::clone(record),
                random: random.fork(number),
            };
            let is_ending = Arc::clone(&is_ending);
            std::thread::spawn(move || {
                if let Err(error) = part(&mut client)
                    && !is_ending.load(Ordering::SeqCst)
                {
                    guard(&client.record).complain(format!("REFUSED: {error:#}"));
                }
            })
        });
        let threads = threads.collect();
        Self { is_ending, threads }
    }

    /// From now on failures are what is expected.
    pub(super) fn expect_the_end(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
    }

    /// Waits for the threads, which end with the server.
    pub(super) fn finish(self) {
        for thread in self.threads {
            drop(thread.join());
        }
    }
}

impl Client {
    /// Posts batches of one to ten.
    fn post(&mut self, place: Place) -> anyhow::Result<()> {
        let path = format!("{}/messages", self.queues.path(place));
        let poster = guard(&self.record).poster() << 32;
        let mut next = poster;
        loop {
            let count = self.random.between(1, 10);
            let keys: Vec<u64> = (next..next + count).collect();
            next += count;
            let messages: Vec<Value> =
                keys.iter().map(|key| json!({ "ttl": TTL_S, "body": body(*key) })).collect();
            let post = guard(&self.record).posting(place, &keys);
            let document = json!({ "messages": messages });
            let answer = self.connection.expect(201, "POST", &path, &document)?;
            let resources = answer.get("resources").and_then(Value::as_array);
            let ids: Vec<String> = resources
                .context("no resources")?
                .iter()
                .filter_map(|href| href.as_str()?.rsplit('/').next())
                .map(str::to_owned)
                .collect();
            guard(&self.record).posted(post, &ids);
            std::thread::sleep(BETWEEN_POSTS);
        }
    }

    /// Claims a few; then deletes, releases or keeps them.
    fn work(&mut self) -> anyhow::Result<()> {
        let queue = self.queues.path(Place::Worked);
        let wish = serde_json::to_vec(&json!({ "ttl": 600, "grace": 60 }))?;
        loop {
            let path = format!("{queue}/claims?limit={}", self.random.between(1, 5));
            let answer = self.connection.request("POST", &path, &wish)?;
            if answer.status == 204 {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            ensure!(answer.status == 201, "POST {path}: {}", answer.status);
            let claim = answer.location.context("a claim without a location")?;
            let id = claim.rsplit('/').next().unwrap_or_default().to_owned();
            let document: Value = serde_json::from_slice(&answer.body)?;
            let messages = document.get("messages").and_then(Value::as_array);
            let sights: Vec<Sight> =
                messages.context("no messages")?.iter().map(Sight::of).collect();
            let number = guard(&self.record).claimed(id.clone(), &sights);
            match self.random.below(10) {
                0 => {}
                1 | 2 => {
                    guard(&self.record).releasing(number);
                    self.connection.expect(204, "DELETE", &claim, &Value::Null)?;
                }
                3..=5 => self.delete_together(&queue, &sights)?,
                _ => self.delete_one_by_one(&queue, &id, &sights)?,
            }
        }
    }

    fn delete_together(&mut self, queue: &str, sights: &[Sight]) -> anyhow::Result<()> {
        let keys = Record::keys_of(sights);
        let ids: Vec<&str> = sights.iter().map(|sight| sight.id.as_str()).collect();
        guard(&self.record).deleting(&keys);
        let path = format!("{queue}/messages?ids={}", ids.join(","));
        self.connection.expect(204, "DELETE", &path, &Value::Null)?;
        guard(&self.record).deleted(&keys);
        Ok(())
    }

    fn delete_one_by_one(
        &mut self,
        queue: &str,
        claim: &str,
        sights: &[Sight],
    ) -> anyhow::Result<()> {
        // Not all of them: a claim that still holds something must hold it after the crash.
        let count = usize::try_from(self.random.between(1, 5))?;
        for sight in sights.iter().take(count) {
            let keys = Record::keys_of(std::slice::from_ref(sight));
            guard(&self.record).deleting(&keys);
            let path = format!("{queue}/messages/{}?claim_id={claim}", sight.id);
            self.connection.expect(204, "DELETE", &path, &Value::Null)?;
            guard(&self.record).deleted(&keys);
        }
        Ok(())
    }

    /// Pops a few.
    fn pop(&mut self) -> anyhow::Result<()> {
        let path = format!("{}/messages?pop={POP}", self.queues.path(Place::Popped));
        loop {
            guard(&self.record).popping(POP);
            let answer = self.connection.expect(200, "DELETE", &path, &Value::Null)?;
            let messages = answer.get("messages").and_then(Value::as_array);
            let sights: Vec<Sight> =
                messages.context("no messages")?.iter().map(Sight::of).collect();
            guard(&self.record).popped(POP, &sights);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
