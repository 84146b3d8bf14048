//! `posthouse publish`: messages from arguments, files and standard input.

use std::collections::VecDeque;
use std::io::{self, BufReader, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use posthouse_amqp::method::{BasicPublish, ConfirmSelect};
use serde_json::json;

use super::Broker;
use crate::client::{Happened, Session};
use crate::input;
use crate::message::MessageOptions;
use crate::printer::Printer;

/// Publishes that may wait for their confirm: enough to keep a disk busy, and little to repeat after a failure.
const UNCONFIRMED_MAX: usize = 1000;

/// Publish messages and wait until the broker has confirmed them.
///
/// Exits with 1 if the broker refuses a message, or if one met no queue with --mandatory.
#[derive(Debug, Args)]
pub(super) struct Publish {
    #[command(flatten)]
    broker: Broker,
    /// The body; without it and without --file it is read from standard input.
    body: Option<String>,
    /// Exchange to publish to; empty for the default exchange.
    #[arg(long, short, default_value = "")]
    exchange: String,
    /// Routing key.
    #[arg(long, short, default_value = "")]
    key: String,
    /// Straight into this queue: the default exchange with the queue's name as key.
    #[arg(long, short, conflicts_with_all = ["exchange", "key"])]
    queue: Option<String>,
    #[command(flatten)]
    message: MessageOptions,
    /// Read the body from this file; - is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "body")]
    file: Option<PathBuf>,
    /// One message per line of the input instead of one of all of it.
    #[arg(long, conflicts_with = "body")]
    lines: bool,
    /// Publish everything this many times.
    #[arg(long, default_value_t = 1, conflicts_with = "lines")]
    count: u64,
    /// Fail if a message meets no queue.
    #[arg(long)]
    mandatory: bool,
    /// Do not wait for confirms: faster, and nobody knows whether the messages arrived.
    #[arg(long)]
    no_confirm: bool,
}

impl Publish {
    pub(super) async fn run(self, json: bool) -> anyhow::Result<ExitCode> {
        let properties = self.message.encode()?;
        let mut publisher =
            Publisher::start(self.broker.connect().await?, !self.no_confirm).await?;
        if self.lines {
            let mut input = BufReader::new(input::open(self.file.as_deref())?);
            while let Some(line) = input::next_line(&mut input)? {
                publisher.publish(self.target(), &properties, &line).await?;
            }
        } else {
            let body = self.whole_body()?;
            for _ in 0..self.count {
                publisher.publish(self.target(), &properties, &body).await?;
            }
        }
        publisher.finish().await?.report(json, !self.no_confirm)
    }

    fn target(&self) -> BasicPublish<'_> {
        let (exchange, routing_key) = match &self.queue {
            Some(queue) => ("", queue.as_str()),
            None => (self.exchange.as_str(), self.key.as_str()),
        };
        BasicPublish { exchange, routing_key, mandatory: self.mandatory, immediate: false }
    }

    fn whole_body(&self) -> anyhow::Result<Vec<u8>> {
        match &self.body {
            Some(body) => Ok(body.clone().into_bytes()),
            None => input::whole(self.file.as_deref()),
        }
    }
}

/// Publishes with a window of unconfirmed messages and counts what becomes of them.
struct Publisher {
    session: Session,
    confirm: bool,
    /// Tags that wait, ascending; confirms may come in any order.
    waiting: VecDeque<u64>,
    outcome: Outcome,
}

/// What became of the messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Outcome {
    published: u64,
    confirmed: u64,
    refused: u64,
    returned: u64,
    /// Of the first that was returned.
    return_reason: Option<String>,
}

impl Publisher {
    async fn start(mut session: Session, confirm: bool) -> anyhow::Result<Self> {
        if confirm {
            session.ask(ConfirmSelect { no_wait: false }).await?;
        }
        Ok(Self { session, confirm, waiting: VecDeque::new(), outcome: Outcome::default() })
    }

    async fn publish(
        &mut self,
        target: BasicPublish<'_>,
        properties: &[u8],
        body: &[u8],
    ) -> anyhow::Result<()> {
        while self.waiting.len() >= UNCONFIRMED_MAX {
            let happened = self.session.next().await?;
            self.handle(happened);
        }
        self.session.publish(target, properties, body).await?;
        self.outcome.published += 1;
        if self.confirm {
            self.waiting.push_back(self.outcome.published);
        }
        while let Some(happened) = self.session.take()? {
            self.handle(happened);
        }
        Ok(())
    }

    async fn finish(mut self) -> anyhow::Result<Outcome> {
        while !self.waiting.is_empty() {
            let happened = self.session.next().await?;
            self.handle(happened);
        }
        let (mut waiting, mut outcome) = (self.waiting, self.outcome);
        self.session.close(|happened| outcome.handle(&mut waiting, happened)).await?;
        Ok(outcome)
    }

    fn handle(&mut self, happened: Happened) {
        self.outcome.handle(&mut self.waiting, happened);
    }
}

impl Outcome {
    fn handle(&mut self, waiting: &mut VecDeque<u64>, happened: Happened) {
        match happened {
            Happened::Confirmed { tag, multiple } => {
                self.confirmed += settle(waiting, tag, multiple);
            }
            Happened::Refused { tag, multiple } => self.refused += settle(waiting, tag, multiple),
            Happened::Returned { reason, exchange, routing_key } => {
                self.returned += 1;
                self.return_reason.get_or_insert_with(|| {
                    format!("exchange `{exchange}` with routing key `{routing_key}`: {reason}")
                });
            }
            Happened::Blocked(reason) => {
                remark(&format!("broker takes no messages for now: {reason}; waiting"));
            }
            Happened::Unblocked => remark("broker takes messages again"),
            _ => {}
        }
    }

    fn report(&self, json: bool, confirm: bool) -> anyhow::Result<ExitCode> {
        let line = match (json, confirm) {
            (true, _) => json!({
                "published": self.published,
                "confirmed": self.confirmed,
                "refused": self.refused,
                "returned": self.returned,
            })
            .to_string(),
            (false, true) => format!("published {}, confirmed {}", self.published, self.confirmed),
            (false, false) => format!("published {}, not confirmed", self.published),
        };
        Printer::new().line(&line)?;
        if self.refused > 0 {
            anyhow::bail!("broker refused {} of {} messages", self.refused, self.published);
        }
        if let Some(reason) = &self.return_reason {
            anyhow::bail!(
                "{} of {} messages met no queue: {reason}",
                self.returned,
                self.published
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Takes the settled tags out and counts them.
fn settle(waiting: &mut VecDeque<u64>, tag: u64, multiple: bool) -> u64 {
    let settled = match (multiple, waiting.binary_search(&tag)) {
        (true, Ok(index)) => waiting.drain(..=index).count(),
        (true, Err(index)) => waiting.drain(..index).count(),
        (false, Ok(index)) => usize::from(waiting.remove(index).is_some()),
        (false, Err(_)) => 0,
    };
    settled as u64
}

/// Tells the user something that is no result.
fn remark(text: &str) {
    // Where nobody reads standard error, nobody misses it.
    drop(writeln!(io::stderr(), "{text}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirms_settle_one_or_all_up_to_it_in_any_order() {
        let mut waiting: VecDeque<u64> = (1..=6).collect();

        let settled = [(2, false), (3, true), (2, false), (6, false), (9, true)]
            .map(|(tag, multiple)| settle(&mut waiting, tag, multiple));

        assert_eq!(settled, [1, 2, 0, 1, 2]);
        assert!(waiting.is_empty());
    }

    #[test]
    fn a_message_without_a_queue_is_a_failure() {
        let mut outcome = Outcome { published: 1, confirmed: 1, ..Outcome::default() };
        let returned = Happened::Returned {
            reason: "312 NO_ROUTE".to_owned(),
            exchange: String::new(),
            routing_key: "nowhere".to_owned(),
        };

        outcome.handle(&mut VecDeque::new(), returned);

        let error = outcome.report(true, true).unwrap_err().to_string();
        assert!(
            error.contains("1 of 1 messages met no queue") && error.contains("`nowhere`"),
            "{error}"
        );
    }
}
