//! One connection: publishes out, confirms and returns in.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use posthouse_amqp::encode::{encode_body, encode_content_header};
use posthouse_amqp::event::Event;
use posthouse_amqp::method::{BasicPublish, ConfirmSelect, Method};
use posthouse_amqp::properties::Properties;
use posthouse_amqp::{ClientOptions, Connection, ReplyCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};

use crate::transport::SendError;
use crate::transport::stream::{Peer, Stream};

const CHANNEL: u16 = 1;

/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;

/// Bytes that may wait to be written before further publishes are taken.
const WRITE_BYTES: usize = 512 * 1024;

/// A message for the broker.
pub(super) struct Publish {
    /// Its message id; a return names it.
    pub(super) id: String,
    pub(super) exchange: String,
    pub(super) routing_key: String,
    /// Encoded.
    pub(super) properties: Vec<u8>,
    pub(super) payload: Bytes,
    pub(super) answer: oneshot::Sender<Result<(), SendError>>,
}

/// A publish that the broker has not answered.
struct Pending {
    tag: u64,
    id: String,
    returned: Option<String>,
    answer: oneshot::Sender<Result<(), SendError>>,
}

/// A connection with a channel in confirm mode.
pub(super) struct Driver {
    connection: Connection,
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    input: Vec<u8>,
    out: Vec<u8>,
    /// How much of `out` was written.
    written: usize,
    last_tag: u64,
    /// In the order of their tags.
    pending: VecDeque<Pending>,
    /// Why the broker takes nothing just now.
    blocked: Option<String>,
}

/// How far the handshake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Open,
    Channel,
    Confirming,
}

impl Driver {
    /// Connects, logs in, opens a channel, switches confirms on.
    pub(super) async fn connect(peer: &Peer, options: ClientOptions) -> Result<Self, String> {
        let stream = peer.connect().await.map_err(|error| format!("cannot connect: {error}"))?;
        let (reader, writer) = tokio::io::split(stream);
        let mut out = Vec::new();
        let connection = Connection::client(options, Instant::now(), &mut out);
        let mut driver = Self {
            connection,
            reader,
            writer,
            input: Vec::with_capacity(READ_BYTES),
            out,
            written: 0,
            last_tag: 0,
            pending: VecDeque::new(),
            blocked: None,
        };
        let mut reached = None;
        while reached != Some(Step::Confirming) {
            if let Some(step) = driver.hear()? {
                reached = Some(step);
                driver.next_step(step)?;
                continue;
            }
            // What was heard may have been answered.
            driver.flush().await?;
            driver.read().await?;
        }
        Ok(driver)
    }

    fn next_step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Open => self
                .connection
                .open_channel(CHANNEL, &mut self.out)
                .map_err(|error| format!("no channel can be opened: {error}")),
            Step::Channel => Method::from(ConfirmSelect { no_wait: false })
                .encode(CHANNEL, &mut self.out)
                .map_err(|error| error.to_string()),
            Step::Confirming => Ok(()),
        }
    }

    /// Publishes until the connection ends or nobody can ask for more; then answers what is left.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Publish>) {
        let ended = self.serve(&mut queue).await;
        // Nothing more can be handed over; what was, is answered here.
        queue.close();
        match ended {
            Ok(()) => self.say_goodbye().await,
            Err(error) => {
                tracing::debug!(error, "connection to the broker ended");
                // What was written may have been what the broker did not survive, so it counts as an attempt.
                let tried = SendError::Retry(format!("connection to the broker ended: {error}"));
                for pending in self.pending.drain(..) {
                    drop(pending.answer.send(Err(tried.clone())));
                }
                let untried = SendError::Unavailable(error);
                while let Some(publish) = queue.recv().await {
                    drop(publish.answer.send(Err(untried.clone())));
                }
            }
        }
    }

    async fn serve(&mut self, queue: &mut mpsc::Receiver<Publish>) -> Result<(), String> {
        loop {
            while self.hear()?.is_some() {}
            let due = self.connection.poll_timeout().map(tokio::time::Instant::from_std);
            let clock = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let room = self.out.len() - self.written < WRITE_BYTES;
            let unsent = self.out.get(self.written..).unwrap_or_default();
            self.input.reserve(READ_BYTES);
            tokio::select! {
                read = self.reader.read_buf(&mut self.input) => heard(read)?,
                written = self.writer.write(unsent), if !unsent.is_empty() => {
                    let written = written.map_err(|error| error.to_string())?;
                    if written == 0 {
                        return Err("the socket takes nothing more".to_owned());
                    }
                    self.wrote(written);
                    self.writer.flush().await.map_err(|error| error.to_string())?;
                    continue;
                }
                publish = queue.recv(), if room => match publish {
                    Some(publish) => {
                        self.publish(publish);
                        self.publish_what_waits(queue);
                    }
                    None if self.pending.is_empty() => return Ok(()),
                    None => self.drain().await?,
                },
                () = clock => {
                    let event = self.connection.handle_timeout(Instant::now(), &mut self.out);
                    if let Some(event) = event {
                        translate(event, &mut self.pending, &mut self.blocked)?;
                    }
                }
            }
        }
    }

    /// Nobody publishes any more; waits for the answers that are due.
    async fn drain(&mut self) -> Result<(), String> {
        while !self.pending.is_empty() {
            self.flush().await?;
            self.read().await?;
            while self.hear()?.is_some() {}
        }
        Ok(())
    }

    /// One write for all that waits: a publish costs no system call of its own.
    fn publish_what_waits(&mut self, queue: &mut mpsc::Receiver<Publish>) {
        while self.out.len() - self.written < WRITE_BYTES {
            let Ok(publish) = queue.try_recv() else { return };
            self.publish(publish);
        }
    }

    fn publish(&mut self, publish: Publish) {
        if let Some(reason) = &self.blocked {
            let error = format!("the broker takes no messages just now: {reason}");
            drop(publish.answer.send(Err(SendError::Unavailable(error))));
            return;
        }
        let method = BasicPublish {
            exchange: &publish.exchange,
            routing_key: &publish.routing_key,
            mandatory: true,
            immediate: false,
        };
        if let Err(error) = Method::from(method).encode(CHANNEL, &mut self.out) {
            drop(publish.answer.send(Err(SendError::Refused(error.to_string()))));
            return;
        }
        let payload = &publish.payload;
        encode_content_header(&mut self.out, CHANNEL, payload.len() as u64, &publish.properties);
        encode_body(&mut self.out, CHANNEL, payload, self.connection.frame_max());
        self.last_tag += 1;
        self.pending.push_back(Pending {
            tag: self.last_tag,
            id: publish.id,
            returned: None,
            answer: publish.answer,
        });
    }

    async fn flush(&mut self) -> Result<(), String> {
        let unsent = self.out.get(self.written..).unwrap_or_default();
        self.writer.write_all(unsent).await.map_err(|error| error.to_string())?;
        self.writer.flush().await.map_err(|error| error.to_string())?;
        self.wrote(unsent_len(&self.out, self.written));
        Ok(())
    }

    fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written >= self.out.len() {
            self.out.clear();
            self.written = 0;
        } else if self.written >= WRITE_BYTES {
            self.out.drain(..self.written);
            self.written = 0;
        }
        self.connection.sent(Instant::now());
    }

    /// Waits for bytes.
    async fn read(&mut self) -> Result<(), String> {
        self.input.reserve(READ_BYTES);
        heard(self.reader.read_buf(&mut self.input).await)
    }

    /// Takes in what was read: a step of the handshake, or nothing when all is taken.
    fn hear(&mut self) -> Result<Option<Step>, String> {
        let mut rest = self.input.as_slice();
        let mut step = None;
        while step.is_none() {
            let event = self.connection.handle_bytes(Instant::now(), &mut rest, &mut self.out);
            let Some(event) = event else { break };
            step = translate(event, &mut self.pending, &mut self.blocked)?;
        }
        let taken = self.input.len() - rest.len();
        self.input.drain(..taken);
        Ok(step)
    }

    async fn say_goodbye(&mut self) {
        self.connection.close(ReplyCode::Success, "bye", (0, 0), &mut self.out);
        // Nothing is at stake any more.
        drop(self.flush().await);
    }
}

fn unsent_len(out: &[u8], written: usize) -> usize {
    out.len() - written
}

fn heard(read: std::io::Result<usize>) -> Result<(), String> {
    match read {
        Ok(0) => Err("closed without a word, as after a refused login".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// What an event means: answers to publishes are given, a step of the handshake is returned.
///
/// # Errors
///
/// If channel or connection end.
fn translate(
    event: Event<'_>,
    pending: &mut VecDeque<Pending>,
    blocked: &mut Option<String>,
) -> Result<Option<Step>, String> {
    match event {
        Event::Opened => return Ok(Some(Step::Open)),
        Event::ChannelOpened(_) => return Ok(Some(Step::Channel)),
        Event::Method { method: Method::ConfirmSelectOk(_), .. } => {
            return Ok(Some(Step::Confirming));
        }
        Event::Method { method: Method::BasicAck(ack), .. } => {
            settle(pending, ack.delivery_tag, ack.multiple, &Ok(()));
        }
        Event::Method { method: Method::BasicNack(nack), .. } => {
            let refused = SendError::Retry("the broker could not take the message".to_owned());
            settle(pending, nack.delivery_tag, nack.multiple, &Err(refused));
        }
        Event::Method { method: Method::ConnectionBlocked(said), .. } => {
            *blocked = Some(said.reason.to_owned());
        }
        Event::Method { method: Method::ConnectionUnblocked(_), .. } => *blocked = None,
        Event::Return { returned, content, .. } => {
            let reason = format!(
                "no queue takes it: {} {} (exchange `{}`, routing key `{}`)",
                returned.reply_code, returned.reply_text, returned.exchange, returned.routing_key
            );
            let properties = Properties::decode(&content.properties);
            let id = properties.ok().and_then(|properties| properties.message_id);
            // Returns come in order, before their confirms. A message that took too long is here twice.
            let publish = pending
                .iter_mut()
                .find(|publish| publish.returned.is_none() && Some(publish.id.as_str()) == id);
            if let Some(publish) = publish {
                publish.returned = Some(reason);
            }
        }
        Event::ChannelCloseRequested { code, text, .. }
        | Event::CloseRequested { code, text, .. } => return Err(format!("{code} {text}")),
        Event::ChannelFailed { failure, .. } | Event::Failed(failure) => {
            return Err(failure.to_string());
        }
        Event::Closed => return Err("closed".to_owned()),
        _ => {}
    }
    Ok(None)
}

/// Answers publishes up to a tag, or one.
fn settle(
    pending: &mut VecDeque<Pending>,
    tag: u64,
    multiple: bool,
    outcome: &Result<(), SendError>,
) {
    let answer = |publish: Pending| {
        let outcome = match publish.returned {
            Some(reason) => Err(SendError::Retry(reason)),
            None => outcome.clone(),
        };
        // Who does not wait any more has said that the time was over.
        drop(publish.answer.send(outcome));
    };
    if multiple {
        // Tag 0 with `multiple` is everything (AMQP 0-9-1, basic.ack).
        while pending.front().is_some_and(|publish| publish.tag <= tag || tag == 0) {
            pending.pop_front().map(answer);
        }
        return;
    }
    if let Ok(place) = pending.binary_search_by_key(&tag, |publish| publish.tag) {
        pending.remove(place).map(answer);
    }
}

#[cfg(test)]
mod tests {
    use posthouse_amqp::event::{Content, Returned};

    use super::*;

    type Answered = oneshot::Receiver<Result<(), SendError>>;

    fn publish(pending: &mut VecDeque<Pending>, tag: u64, id: &str) -> Answered {
        let (answer, answered) = oneshot::channel();
        pending.push_back(Pending { tag, id: id.to_owned(), returned: None, answer });
        answered
    }

    fn give_back(pending: &mut VecDeque<Pending>, id: &str) {
        let mut properties = Vec::new();
        let named = Properties { message_id: Some(id), ..Properties::default() };
        named.encode(&mut properties).unwrap();
        let returned = Returned {
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
            exchange: "events".into(),
            routing_key: "nowhere".into(),
        };
        let content = Content { properties: properties.into(), body: b"{}".as_slice().into() };
        let event = Event::Return { channel: CHANNEL, returned, content };
        translate(event, pending, &mut None).unwrap();
    }

    #[test]
    fn a_message_that_was_sent_again_and_returned_twice_is_delivered_neither_time() {
        let mut pending = VecDeque::new();
        let (first, again) = (publish(&mut pending, 1, "a"), publish(&mut pending, 2, "a"));
        let mut other = publish(&mut pending, 3, "b");

        give_back(&mut pending, "a");
        give_back(&mut pending, "a");
        settle(&mut pending, 3, true, &Ok(()));

        for mut answered in [first, again] {
            assert!(matches!(answered.try_recv(), Ok(Err(SendError::Retry(_)))));
        }
        assert_eq!(other.try_recv(), Ok(Ok(())));
    }
}
