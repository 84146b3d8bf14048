//! Which database, for the commands that work on an application's outbox.

use anyhow::{Context, bail};
use clap::Args;
use posthouse_outbox::{Dialect, Outbox};
use sqlx::{MySql, Pool, Postgres, Sqlite};

/// The application's database.
#[derive(Debug, Args)]
pub(super) struct Database {
    /// The application's database: postgres://user:password@host/name, mysql://user:password@host/name (MariaDB as
    /// well), or sqlite:FILE.
    #[arg(
        long = "database",
        env = "POSTHOUSE_DATABASE",
        hide_env_values = true,
        value_name = "URL"
    )]
    url: String,
}

/// An outbox in one of the databases that there are.
pub(super) enum AnyOutbox {
    Postgres(Outbox<Postgres>),
    MySql(Outbox<MySql>),
    Sqlite(Outbox<Sqlite>),
}

/// Does the same with an outbox, whichever database it is in.
macro_rules! with_outbox {
    ($any:expr, $outbox:ident => $work:expr) => {
        match $any {
            $crate::command::database::AnyOutbox::Postgres($outbox) => $work,
            $crate::command::database::AnyOutbox::MySql($outbox) => $work,
            $crate::command::database::AnyOutbox::Sqlite($outbox) => $work,
        }
    };
}

pub(super) use with_outbox;

impl Database {
    /// Connects once, so that a wrong address is found at once.
    pub(super) async fn open(&self) -> anyhow::Result<AnyOutbox> {
        // The address has a password, so no message shows it.
        match self.url.split_once(':').map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => Ok(AnyOutbox::Postgres(open(&self.url).await?)),
            Some("mysql" | "mariadb") => Ok(AnyOutbox::MySql(open(&self.url).await?)),
            Some("sqlite") => Ok(AnyOutbox::Sqlite(open(&self.url).await?)),
            _ => bail!(
                "the address of the database must begin with postgres://, mysql:// or sqlite:"
            ),
        }
    }
}

async fn open<D: Dialect>(url: &str) -> anyhow::Result<Outbox<D>> {
    let pool = Pool::<D>::connect(url).await;
    Ok(Outbox::new(pool.context("cannot connect to the database (--database)")?))
}
