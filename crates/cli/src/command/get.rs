//! `posthouse get`: look at the first messages of a queue, or take them.

use std::process::ExitCode;

use clap::Args;
use posthouse_amqp::method::{BasicAck, BasicGet, BasicRecover};

use super::{Broker, NOTHING_THERE};
use crate::client::Happened;
use crate::message::{Form, show};
use crate::printer::Printer;

/// Show the first messages of a queue; they stay there unless --ack is given.
///
/// A message that was looked at keeps its place and is marked as redelivered. Exits with 3 if the queue is empty.
#[derive(Debug, Args)]
pub(super) struct Get {
    #[command(flatten)]
    broker: Broker,
    /// Which queue.
    queue: String,
    /// Show at most this many.
    #[arg(long, short = 'n', default_value_t = 1)]
    count: u64,
    /// Take the messages out of the queue, after they have been printed.
    #[arg(long, conflicts_with = "requeue")]
    ack: bool,
    /// Leave the messages in the queue; this is what happens anyway.
    #[arg(long)]
    requeue: bool,
    /// Print bodies only.
    #[arg(long)]
    body: bool,
}

impl Get {
    pub(super) async fn run(self, json: bool) -> anyhow::Result<ExitCode> {
        let mut session = self.broker.connect().await?;
        let form = Form::of(json, self.body);
        let mut printer = Printer::new();
        let mut shown = 0_u64;
        while shown < self.count {
            let Happened::Got(message) =
                session.ask(BasicGet { queue: &self.queue, no_ack: false }).await?
            else {
                break;
            };
            printer.bytes(&show(&message, form))?;
            let delivery_tag = message.delivery_tag;
            shown += 1;
            if self.ack {
                session.send(BasicAck { delivery_tag, multiple: false })?;
            }
        }
        // Only in the end, or the first message would be got again and again.
        if shown > 0 && !self.ack {
            // Posthouse does not count this as a delivery that failed; a nack it would.
            session.send(BasicRecover { requeue: true })?;
        }
        session.close(|_| ()).await?;
        Ok(if shown == 0 { ExitCode::from(NOTHING_THERE) } else { ExitCode::SUCCESS })
    }
}
