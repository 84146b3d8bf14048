//! `posthouse tail`: watch messages go by without taking them from anybody.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use posthouse_amqp::method::{BasicConsume, BasicQos, QueueBind, QueueDeclare};
use posthouse_amqp::raw_table::RawTable;
use posthouse_amqp::table::{Table, Value};

use super::Broker;
use super::consume::{Afterwards, print_deliveries};
use crate::client::{Happened, Session};
use crate::message::{Form, arguments};

/// Messages that the broker keeps for a slow terminal; older ones are dropped, as this only watches.
const BACKLOG_MAX: i64 = 100_000;

/// Messages of a stream that may be under way to us.
const STREAM_PREFETCH: u16 = 100;

/// Watch messages go by: copies of what an exchange routes, or a stream. Nobody loses a message by it.
///
/// Of an exchange it shows what is published from now on, over a temporary queue that goes with it.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("source").required(true).args(["exchange", "stream"])))]
pub(super) struct Tail {
    #[command(flatten)]
    broker: Broker,
    /// Exchange to watch; its default one cannot be.
    #[arg(long, short)]
    exchange: Option<String>,
    /// Routing key or pattern to bind with; may be repeated. Default: # (everything, on topic exchanges).
    #[arg(long = "key", short, value_name = "KEY", requires = "exchange")]
    keys: Vec<String>,
    /// An argument of the binding, such as x-match=any on headers exchanges. May be repeated.
    #[arg(long = "argument", value_name = "NAME=VALUE", requires = "exchange")]
    arguments: Vec<String>,
    /// Stream queue to read.
    #[arg(long, value_name = "QUEUE")]
    stream: Option<String>,
    /// Where to begin in the stream: first, last, next, a number, or an age such as 1h.
    #[arg(long, default_value = "next", requires = "stream")]
    offset: String,
    /// Stop after this many messages.
    #[arg(long, short = 'n')]
    count: Option<u64>,
    /// Print bodies only.
    #[arg(long)]
    body: bool,
}

impl Tail {
    pub(super) async fn run(self, json: bool) -> anyhow::Result<ExitCode> {
        let mut session = self.broker.connect().await?;
        let afterwards = match (&self.exchange, &self.stream) {
            (Some(exchange), _) => self.follow_exchange(&mut session, exchange).await?,
            (None, Some(stream)) => self.follow_stream(&mut session, stream).await?,
            (None, None) => anyhow::bail!("--exchange or --stream must be given"),
        };
        print_deliveries(session, Form::of(json, self.body), self.count, afterwards).await
    }

    async fn follow_exchange(
        &self,
        session: &mut Session,
        exchange: &str,
    ) -> anyhow::Result<Afterwards> {
        let bounds = Table::from_iter([
            ("x-max-length", Value::I64(BACKLOG_MAX)),
            ("x-overflow", Value::LongString(b"drop-head".to_vec())),
        ]);
        let bounds = bounds.to_entries().context("queue cannot be declared")?;
        let declare = QueueDeclare {
            exclusive: true,
            auto_delete: true,
            arguments: RawTable::from_bytes(&bounds),
            ..QueueDeclare::default()
        };
        let Happened::QueueDeclared(queue) = session.ask(declare).await? else {
            anyhow::bail!("broker did not say how it named the temporary queue");
        };
        let arguments =
            arguments(&self.arguments).context("--argument")?.to_entries().context("--argument")?;
        let everything = ["#".to_owned()];
        let keys = if self.keys.is_empty() { &everything[..] } else { &self.keys };
        for routing_key in keys {
            let bind = QueueBind {
                queue: &queue,
                exchange,
                routing_key,
                no_wait: false,
                arguments: RawTable::from_bytes(&arguments),
            };
            session.ask(bind).await?;
        }
        session
            .ask(BasicConsume {
                queue: &queue,
                no_ack: true,
                exclusive: true,
                ..BasicConsume::default()
            })
            .await?;
        Ok(Afterwards::Nothing)
    }

    /// A stream is read with acknowledgements, which only pace the broker: nothing is taken out.
    async fn follow_stream(
        &self,
        session: &mut Session,
        stream: &str,
    ) -> anyhow::Result<Afterwards> {
        let offset = match self.offset.parse() {
            Ok(number) => Value::I64(number),
            Err(_) => Value::LongString(self.offset.clone().into_bytes()),
        };
        let arguments =
            Table::from_iter([("x-stream-offset", offset)]).to_entries().context("--offset")?;
        session
            .ask(BasicQos { prefetch_size: 0, prefetch_count: STREAM_PREFETCH, global: false })
            .await?;
        let consume = BasicConsume {
            queue: stream,
            arguments: RawTable::from_bytes(&arguments),
            ..BasicConsume::default()
        };
        session.ask(consume).await?;
        Ok(Afterwards::Acknowledge)
    }
}
