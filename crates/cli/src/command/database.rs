//! Which database, for the commands that work on an application's outbox.

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
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

/// Which database.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Kind {
    Postgres,
    /// MariaDB as well.
    Mysql,
    Sqlite,
}

impl Kind {
    /// The one that an address is of. The address has a password, so no message shows it.
    pub(super) fn of(url: &str) -> anyhow::Result<Self> {
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => Ok(Self::Postgres),
            Some("mysql" | "mariadb") => Ok(Self::Mysql),
            Some("sqlite") => Ok(Self::Sqlite),
            _ => bail!(
                "the address of the database must begin with postgres://, mysql:// or sqlite:"
            ),
        }
    }
}

impl Database {
    /// Connects once, so that a wrong address is found at once.
    pub(super) async fn open(&self) -> anyhow::Result<AnyOutbox> {
        Ok(match Kind::of(&self.url)? {
            Kind::Postgres => AnyOutbox::Postgres(open(&self.url).await?),
            Kind::Mysql => AnyOutbox::MySql(open(&self.url).await?),
            Kind::Sqlite => AnyOutbox::Sqlite(open(&self.url).await?),
        })
    }

    /// Its address, which may have a password in it.
    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

async fn open<D: Dialect>(url: &str) -> anyhow::Result<Outbox<D>> {
    let pool = Pool::<D>::connect(url).await;
    Ok(Outbox::new(pool.context("cannot connect to the database (--database)")?))
}
