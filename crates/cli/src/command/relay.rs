//! `posthouse relay`: the relay as a program, for applications in any language.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use posthouse_outbox::signature::Secret;
use posthouse_outbox::transport::{self, Transport, http::Inbox};
use posthouse_outbox::{Dialect, Outbox, Routes, Schedule, Settings};
use server::auth::secret_file;
use server::config::units::parse_duration;
use server::config::{Log, LogFormat};

use super::database::{Database, with_outbox};
use super::serve::told_to_end;
use crate::printer::Printer;

/// Limit of a file with a secret, in bytes: far more than any secret.
const SECRET_BYTES_MAX: u64 = 4096;

/// Send what applications have put into their outbox.
///
/// The tables are those of `posthouse outbox schema`. Any number of relays may work on one database. Prints `ready` when
/// it has reached the database; ends on SIGINT and SIGTERM when what is under way has been sent.
#[derive(Debug, Args)]
pub(super) struct Relay {
    #[command(flatten)]
    database: Database,
    /// Where to: a broker (amqp://user:password@host/vhost?exchange=NAME), an inbox (http://token@host/inbox/) or a
    /// queue of a Zaqar service (http://host:8888/v2/queues/NAME?project=ID); amqps:// and https:// for TLS.
    #[arg(long, env = "POSTHOUSE_RELAY_TO", hide_env_values = true, value_name = "URL")]
    to: Option<String>,
    /// Where messages of a source and topic go instead: SOURCE/TOPIC=URL. A * at the end of either stands for any
    /// rest; the first that fits is taken. May be given several times.
    #[arg(long = "route", value_name = "ROUTE")]
    routes: Vec<String>,
    /// File with a secret (whsec_…) to sign requests to inboxes with, as Standard Webhooks says. Nobody but its owner
    /// and group may be able to read it.
    #[arg(long, env = "POSTHOUSE_RELAY_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Make the tables or bring them up to date first.
    #[arg(long)]
    migrate: bool,
    /// Most messages that are leased at once.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Attempts before a message is given up.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
    attempts: u32,
    /// How much longer each wait is than the one before; the first is as many seconds.
    #[arg(long, default_value_t = 5.0)]
    factor: f64,
    /// Longest wait between two attempts.
    #[arg(long, value_parser = parse_duration, default_value = "1d", value_name = "DURATION")]
    cap: Duration,
    /// How long delivered rows stay, and with them their dedupe ids; 0s removes them at once.
    #[arg(long, value_parser = parse_duration, default_value = "1d", value_name = "DURATION")]
    retention: Duration,
    /// How long the messages of a relay that died wait for another; at least twice the send timeout.
    #[arg(long, value_parser = parse_duration, default_value = "90s", value_name = "DURATION")]
    lease: Duration,
    /// How long a message may take to be sent.
    #[arg(long, value_parser = parse_duration, default_value = "30s", value_name = "DURATION")]
    send_timeout: Duration,
    /// What is logged to standard error: a level, or directives.
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    log: String,
}

impl Relay {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        server::telemetry::start(&Log { level: self.log.clone(), format: LogFormat::Text });
        // Two threads: one sends what was leased while the other reads what is leased next.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("relay")
            .enable_all()
            .build()
            .context("runtime cannot be started")?;
        runtime.block_on(async {
            // Transports are made inside of the runtime, and before the database is asked for anything.
            let (routes, settings) = (self.routes()?, self.settings());
            let outbox = self.database.open().await?;
            with_outbox!(outbox, outbox => self.relay(&outbox, routes, settings).await)
        })
    }

    async fn relay<D: Dialect>(
        &self,
        outbox: &Outbox<D>,
        routes: Routes,
        settings: Settings,
    ) -> anyhow::Result<ExitCode> {
        let shutdown = told_to_end()?;
        if self.migrate {
            outbox.migrate().await.context("the tables cannot be made")?;
        }
        let waiting = outbox.count().await.context(
            "there is no outbox in this database; `--migrate` makes one, `posthouse outbox schema` shows it",
        )?;
        tracing::info!(waiting = waiting.waiting, dead = waiting.dead, "relays");
        Printer::new().line("ready")?;
        outbox.relay(routes, settings).run(shutdown).await;
        Ok(ExitCode::SUCCESS)
    }

    fn routes(&self) -> anyhow::Result<Routes> {
        let destinations = self.destinations()?;
        let secret = match &self.secret_file {
            Some(path) => {
                ensure!(
                    destinations.iter().any(|(_, _, to)| transport::is_inbox(to)),
                    "--secret-file signs requests to inboxes (http://, https://), and nothing is sent to one"
                );
                Some(secret(path)?)
            }
            None => None,
        };
        let mut routes = Routes::default();
        for (source, topic, to) in destinations {
            routes = routes.to(source, topic, open(to, secret.as_ref())?);
        }
        Ok(routes)
    }

    /// Sources, topics and where they go, in the order in which they are looked through.
    fn destinations(&self) -> anyhow::Result<Vec<(&str, &str, &str)>> {
        let mut destinations = Vec::new();
        for route in &self.routes {
            let parts =
                route.split_once('=').and_then(|(from, to)| Some((from.split_once('/')?, to)));
            let Some(((source, topic), to)) = parts else {
                bail!("a route is SOURCE/TOPIC=URL, not `{route}`");
            };
            destinations.push((source, topic, to));
        }
        destinations.extend(self.to.as_deref().map(|to| ("*", "*", to)));
        ensure!(!destinations.is_empty(), "say where to: --to URL or --route");
        Ok(destinations)
    }

    fn settings(&self) -> Settings {
        let schedule = Schedule {
            attempts: self.attempts,
            factor: self.factor,
            cap: self.cap,
            ..Schedule::default()
        };
        Settings {
            schedule,
            batch: self.batch,
            retention: self.retention,
            lease: self.lease,
            send_timeout: self.send_timeout,
            ..Settings::default()
        }
    }
}

/// The transport of an address; requests to an inbox are signed if there is a secret.
fn open(address: &str, secret: Option<&Secret>) -> anyhow::Result<Box<dyn Transport>> {
    match secret {
        Some(secret) if transport::is_inbox(address) => {
            Ok(Box::new(Inbox::new(address)?.signed(secret.clone())))
        }
        _ => Ok(transport::open(address)?),
    }
}

fn secret(path: &Path) -> anyhow::Result<Secret> {
    let text = secret_file::read(path, SECRET_BYTES_MAX)?;
    let text = text.trim();
    ensure!(
        !text.is_empty(),
        "file {} is empty; `posthouse token create --signing` makes a secret for it",
        path.display()
    );
    Secret::new(text).with_context(|| format!("file {} cannot be used", path.display()))
}
