//! `posthouse outbox conformance`: whether tables, functions and an application's own `send` keep the SQL contract.
//!
//! | file | concept |
//! |---|---|
//! | this | the command: which checks ran, what they found |
//! | `checks` | the contract, a check per sentence |
//! | `claims` | the inbox's part of it |
//! | `sender` | who sends: our functions, or a program in any language |
//! | `tables` | what the database says about rows and time |

mod checks;
mod claims;
mod sender;
mod tables;

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde_json::json;
use uuid::Uuid;

use self::checks::{Check, Trial};
use self::sender::Sender;
use self::tables::Tables;
use super::database::{Database, with_outbox};
use crate::printer::Printer;

/// Check that tables, functions and an application's own sending keep the SQL contract.
///
/// Works on a database for tests, whose outbox is empty and on which no relay runs; removes what it writes. Prints a line
/// per sentence of the contract; the exit code is 1 if one does not hold. Without --send it uses `posthouse_send` and
/// `posthouse_claim_once` (SQLite: inserts).
#[derive(Debug, Args)]
pub(super) struct Conformance {
    #[command(flatten)]
    database: Database,
    /// The application's own sending: a command for the shell that reads a line of JSON per transaction and answers with
    /// one, see docs/outbox.md.
    #[arg(long, value_name = "COMMAND")]
    send: Option<String>,
}

impl Conformance {
    pub(super) async fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        let outbox = self.database.open().await?;
        let counts = with_outbox!(&outbox, outbox => outbox.count().await)?;
        if counts.waiting > 0 {
            bail!(
                "messages wait in this outbox ({}); use a database for tests, on which no relay runs",
                counts.waiting
            );
        }
        let sender = match &self.send {
            Some(command) => Sender::start(command)?,
            None => Sender::functions(Tables::connect(self.database.url()).await?),
        };
        let prefix = format!("conformance.{}.", Uuid::new_v4().simple());
        let tables = Tables::connect(self.database.url()).await?;
        let mut trial = Trial { outbox, tables, sender, prefix };
        let (mut passed, mut failed) = (0, 0);
        let mut printer = Printer::new();
        for check in Check::ALL {
            let found = trial.run(check).await.err().map(|error| format!("{error:#}"));
            match found.is_none() {
                true => passed += 1,
                false => failed += 1,
            }
            printer.line(&line(json, check.sentence(), found.as_deref()))?;
        }
        // What sends has ended before its rows are removed, so that it holds no locks.
        let Trial { mut tables, prefix, sender, .. } = trial;
        drop(sender);
        tables.remove(&prefix).await?;
        printer.line(&match json {
            true => json!({ "passed": passed, "failed": failed }).to_string(),
            false => format!("{passed} passed, {failed} failed"),
        })?;
        match failed {
            0 => Ok(ExitCode::SUCCESS),
            _ => Ok(ExitCode::FAILURE),
        }
    }
}

fn line(json: bool, sentence: &str, found: Option<&str>) -> String {
    match (json, found) {
        (true, None) => json!({ "check": sentence, "passed": true }).to_string(),
        (true, Some(found)) => {
            json!({ "check": sentence, "passed": false, "found": found }).to_string()
        }
        (false, None) => format!("ok      {sentence}"),
        (false, Some(found)) => format!("FAILED  {sentence}: {found}"),
    }
}
