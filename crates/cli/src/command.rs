//! The command line: what can be said, and which module does it.

mod check;
mod claim;
mod completions;
mod conformance;
mod consume;
mod database;
mod get;
mod message;
mod outbox;
mod publish;
mod queue;
mod relay;
mod serve;
mod store;
mod subscription;
mod tail;
mod token;

use std::future::Future;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use posthouse_amqp::Address;

use crate::client::Session;

/// Exit code when the queue had no message.
const NOTHING_THERE: u8 = 3;

const AFTER_HELP: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 nothing there
(get, message pop, claim create).";

/// A message broker that speaks AMQP 0-9-1 and Zaqar's queue API, and a client for any such broker or service.
#[derive(Debug, Parser)]
#[command(name = "posthouse", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub(crate) struct Program {
    /// Print JSON, one object per line, errors included.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Check(check::Check),
    Publish(publish::Publish),
    Get(get::Get),
    Consume(consume::Consume),
    Tail(tail::Tail),
    Queue(queue::Queue),
    Message(message::Message),
    Claim(claim::Claim),
    Subscription(subscription::Subscription),
    Outbox(outbox::Outbox),
    Relay(relay::Relay),
    Store(store::Store),
    Token(token::Token),
    Completions(completions::Completions),
}

impl Program {
    /// Whether output is JSON.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Does what was asked for.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let json = self.json;
        match self.command {
            Command::Serve(serve) => serve.run(),
            Command::Check(check) => check.run(json),
            Command::Publish(publish) => block_on(publish.run(json)),
            Command::Get(get) => block_on(get.run(json)),
            Command::Consume(consume) => block_on(consume.run(json)),
            Command::Tail(tail) => block_on(tail.run(json)),
            Command::Queue(queue) => block_on(queue.run(json)),
            Command::Message(message) => block_on(message.run(json)),
            Command::Claim(claim) => block_on(claim.run(json)),
            Command::Subscription(subscription) => block_on(subscription.run(json)),
            Command::Outbox(outbox) => block_on(outbox.run(json)),
            Command::Relay(relay) => relay.run(),
            Command::Store(store) => store.run(json),
            Command::Token(token) => token.run(json),
            Command::Completions(completions) => completions.run(),
        }
    }
}

/// Which broker, for the commands that are clients.
#[derive(Debug, Args)]
struct Broker {
    /// Where the broker is: amqp://user:password@host:port/vhost, or amqps:// for TLS. The virtual host is `/` if
    /// there is none; a slash in its name is written %2f. After `?`: heartbeat, connection_timeout (ms), cacertfile,
    /// certfile, keyfile, auth_mechanism=external.
    #[arg(
        long,
        env = "POSTHOUSE_URI",
        hide_env_values = true,
        default_value = "amqp://127.0.0.1:5672"
    )]
    uri: Address,
}

impl Broker {
    /// Connects, logs in and opens the channel that every command uses.
    async fn connect(&self) -> anyhow::Result<Session> {
        Session::connect(&self.uri).await
    }
}

/// Runs a client command: one thread is enough.
fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("runtime cannot be started")?.block_on(work)
}

/// Is over when the user wants to stop.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Program::command().debug_assert();
    }
}
