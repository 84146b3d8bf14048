//! `posthouse consume`: print messages as they come, and take them out of their queue.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use posthouse_amqp::method::{BasicAck, BasicConsume, BasicNack, BasicQos};
use posthouse_amqp::raw_table::RawTable;

use super::{Broker, interrupted};
use crate::client::{Happened, Received, Session};
use crate::message::{Form, arguments, show};
use crate::printer::Printer;

/// Print the messages of a queue as they come, and acknowledge each after it was printed.
///
/// Goes on until interrupted, until --count messages were printed, or until the queue is deleted (then with 1).
#[derive(Debug, Args)]
pub(super) struct Consume {
    #[command(flatten)]
    broker: Broker,
    /// Which queue.
    queue: String,
    /// Stop after this many messages.
    #[arg(long, short = 'n')]
    count: Option<u64>,
    /// Messages that may be under way to us and not yet acknowledged; 0 is no limit.
    #[arg(long, default_value_t = 100)]
    prefetch: u16,
    /// Acknowledge messages after they were printed; this is what happens anyway.
    #[arg(long, conflicts_with_all = ["requeue", "no_ack"])]
    ack: bool,
    /// Put the messages back into the queue in the end instead of acknowledging them; needs --count.
    #[arg(long, requires = "count", conflicts_with = "no_ack")]
    requeue: bool,
    /// Let the broker forget messages as it sends them: faster, and what is under way is lost if this stops.
    #[arg(long)]
    no_ack: bool,
    /// Be the only consumer of the queue.
    #[arg(long)]
    exclusive: bool,
    /// An argument of the consumer, such as x-priority:=10 or x-stream-offset=first. May be repeated.
    #[arg(long = "argument", value_name = "NAME=VALUE")]
    arguments: Vec<String>,
    /// Print bodies only.
    #[arg(long)]
    body: bool,
}

/// What is done with messages that were printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// They are acknowledged.
    Acknowledge,
    /// They go back in the end.
    Requeue,
    /// Nothing: the broker has forgotten them.
    Nothing,
}

impl Consume {
    pub(super) async fn run(self, json: bool) -> anyhow::Result<ExitCode> {
        let mut session = self.broker.connect().await?;
        let arguments =
            arguments(&self.arguments).context("--argument")?.to_entries().context("--argument")?;
        let afterwards = match (self.requeue, self.no_ack) {
            (true, _) => Afterwards::Requeue,
            (false, true) => Afterwards::Nothing,
            (false, false) => Afterwards::Acknowledge,
        };
        // All of them are held until the end, so the limit must let that many through.
        let prefetch = match self.count {
            Some(count) if self.requeue => u16::try_from(count).unwrap_or(0),
            _ => self.prefetch,
        };
        session.ask(BasicQos { prefetch_size: 0, prefetch_count: prefetch, global: false }).await?;
        let consume = BasicConsume {
            queue: &self.queue,
            consumer_tag: "",
            no_ack: afterwards == Afterwards::Nothing,
            exclusive: self.exclusive,
            arguments: RawTable::from_bytes(&arguments),
            ..BasicConsume::default()
        };
        session.ask(consume).await?;
        print_deliveries(session, Form::of(json, self.body), self.count, afterwards).await
    }
}

/// Prints deliveries until interrupted or until there were `count`.
pub(super) async fn print_deliveries(
    mut session: Session,
    form: Form,
    count: Option<u64>,
    afterwards: Afterwards,
) -> anyhow::Result<ExitCode> {
    let mut printed =
        Printed { printer: Printer::new(), form, count, shown: 0, last_tag: 0, settled_tag: 0 };
    let mut stop = std::pin::pin!(interrupted());
    while printed.wants_more() {
        let happened = tokio::select! {
            happened = session.next() => happened?,
            () = &mut stop => break,
        };
        printed.handle(happened)?;
        // What came in the same read is printed first, so that one acknowledgement is for all of it.
        while printed.wants_more()
            && let Some(happened) = session.take()?
        {
            printed.handle(happened)?;
        }
        if afterwards == Afterwards::Acknowledge {
            printed.acknowledge(&mut session)?;
        }
    }
    if afterwards == Afterwards::Requeue && printed.last_tag > 0 {
        session.send(BasicNack {
            delivery_tag: printed.last_tag,
            multiple: true,
            requeue: true,
        })?;
    }
    session.close(|_| ()).await?;
    Ok(ExitCode::SUCCESS)
}

struct Printed {
    printer: Printer,
    form: Form,
    count: Option<u64>,
    shown: u64,
    last_tag: u64,
    settled_tag: u64,
}

impl Printed {
    fn wants_more(&self) -> bool {
        self.count.is_none_or(|count| self.shown < count)
    }

    fn handle(&mut self, happened: Happened) -> anyhow::Result<()> {
        match happened {
            Happened::Delivered(message) => self.print(&message),
            Happened::Cancelled => anyhow::bail!(
                "broker ended the consumer: the queue was deleted or is not available"
            ),
            _ => Ok(()),
        }
    }

    fn print(&mut self, message: &Received) -> anyhow::Result<()> {
        self.printer.bytes(&show(message, self.form))?;
        self.shown += 1;
        self.last_tag = message.delivery_tag;
        Ok(())
    }

    /// Acknowledges everything printed since the last time.
    fn acknowledge(&mut self, session: &mut Session) -> anyhow::Result<()> {
        if self.last_tag > self.settled_tag {
            session.send(BasicAck { delivery_tag: self.last_tag, multiple: true })?;
            self.settled_tag = self.last_tag;
        }
        Ok(())
    }
}
