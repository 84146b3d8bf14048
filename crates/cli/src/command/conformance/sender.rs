//! Who sends in a trial: the functions of the tables, or a program in any language that says how it went.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::tables::Tables;

/// The longest that a program may take for an answer; it may have to start first.
const ANSWER: Duration = Duration::from_secs(60);

/// A message that is to be sent. What is absent is not to be said: its default is checked.
#[derive(Debug, Default, Serialize)]
pub(super) struct Wish {
    pub(super) topic: String,
    pub(super) payload: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dedupe_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cancel_key: Option<String>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) delay: Option<u32>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) headers: Option<Map<String, Value>>,
}

/// One transaction of the application.
#[derive(Debug, Serialize)]
pub(super) struct Transaction {
    pub(super) messages: Vec<Wish>,
    /// Whether it is to be committed, or rolled back.
    pub(super) commit: bool,
}

/// How it went: the ids of its messages, null for those of a repeated dedupe id; or why it was refused.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Answer {
    Sent { ids: Vec<Option<String>> },
    Refused { error: String },
}

/// Who sends.
pub(super) enum Sender {
    /// The functions of the tables, over a connection of their own.
    Functions(Box<Tables>),
    /// A program.
    Program(Program),
}

/// A program that sends; it ends when its standard input does.
pub(super) struct Program {
    process: Child,
    input: Option<ChildStdin>,
    lines: Receiver<std::io::Result<String>>,
}

/// What became of a transaction.
pub(super) type Sent = Result<Vec<Option<String>>, String>;

impl Sender {
    pub(super) fn functions(tables: Tables) -> Self {
        Self::Functions(Box::new(tables))
    }

    /// Starts a command of the user's shell.
    pub(super) fn start(command: &str) -> anyhow::Result<Self> {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(command).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = shell.spawn().context("cannot start the shell for --send")?;
        let input = process.stdin.take();
        let output = process.stdout.take().context("no standard output of --send")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self::Program(Program { process, input, lines }))
    }

    /// Does a transaction. `Err` is a sender that does not work; a refusal of the database is an answer.
    pub(super) async fn send(&mut self, transaction: &Transaction) -> anyhow::Result<Sent> {
        let sent = match self {
            Self::Functions(tables) => tables.send(transaction).await,
            Self::Program(program) => program.send(transaction)?,
        };
        if let Ok(ids) = &sent {
            let (wanted, got) = (transaction.messages.len(), ids.len());
            ensure!(wanted == got, "{wanted} messages were sent, and {got} ids answered");
        }
        Ok(sent)
    }
}

impl Program {
    fn send(&mut self, transaction: &Transaction) -> anyhow::Result<Sent> {
        let mut line = serde_json::to_string(transaction)?;
        line.push('\n');
        let input = self.input.as_mut().context("the command of --send has no input")?;
        input.write_all(line.as_bytes()).context("the command of --send does not listen")?;
        let answer = match self.lines.recv_timeout(ANSWER) {
            Ok(line) => line.context("the command of --send writes no text")?,
            Err(RecvTimeoutError::Timeout) => {
                bail!("the command of --send gives no answer within {ANSWER:?}")
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("the command of --send has ended instead of answering")
            }
        };
        match serde_json::from_str(&answer) {
            Ok(Answer::Sent { ids }) => Ok(Ok(ids)),
            Ok(Answer::Refused { error }) => Ok(Err(error)),
            Err(_) => Err(anyhow!(
                "the command of --send must answer {{\"ids\": […]}} or {{\"error\": \"…\"}}, not `{answer}`"
            )),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Its end of input tells it to end; whoever does not listen to that is not waited for.
        drop(self.input.take());
        while let Ok(line) = self.lines.recv_timeout(ANSWER) {
            drop(line);
        }
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
