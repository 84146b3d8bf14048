//! What a database must do for outbox and inbox; one file per database does it: `postgres`, `mysql`, `sqlite`.
//!
//! All times are the database's: no function here is given a moment, only durations. So programs whose clocks differ agree
//! on what is due.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use sqlx::{Connection as _, Database};
use uuid::Uuid;

use crate::error::Error;
use crate::message::Message;
use crate::schema::Migration;

/// A database that outboxes can be in. Implemented for sqlx's `Postgres`, `MySql` and `Sqlite`; sealed, because its
/// functions follow the schema.
pub trait Dialect: Database + sealed::Sealed {
    /// The versions of the tables, oldest first.
    #[doc(hidden)]
    const MIGRATIONS: &'static [Migration];

    /// Applies migrations that are missing; several programs may do it at once.
    #[doc(hidden)]
    fn migrate(connection: &mut Self::Connection)
    -> impl Future<Output = Result<(), Error>> + Send;

    /// Prepares a connection that the relay keeps.
    #[doc(hidden)]
    fn prepare(connection: &mut Self::Connection)
    -> impl Future<Output = Result<(), Error>> + Send;

    /// Adds a row; false if its dedupe id is there. One statement.
    #[doc(hidden)]
    fn insert(
        connection: &mut Self::Connection,
        message: &Message,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// What became of a message; `None` if there is no such row.
    #[doc(hidden)]
    fn state(
        connection: &mut Self::Connection,
        id: Uuid,
    ) -> impl Future<Output = Result<Option<State>, Error>> + Send;

    /// Withdraws messages that wait and are not being sent; returns how many.
    #[doc(hidden)]
    fn cancel(
        connection: &mut Self::Connection,
        cancel_key: &str,
    ) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Leases due rows for an attempt each.
    #[doc(hidden)]
    fn lease(
        connection: &mut Self::Connection,
        ask: &Ask,
    ) -> impl Future<Output = Result<Batch, Error>> + Send;

    /// Ends leases; what has another lease by now is left alone. All or none.
    #[doc(hidden)]
    fn settle(
        connection: &mut Self::Connection,
        settlements: &[Settlement],
        keep: Keep,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Removes at most `limit` finished rows that ended longer ago than `age`, dead ones apart; returns how many.
    #[doc(hidden)]
    fn purge_finished(
        connection: &mut Self::Connection,
        age: Duration,
        limit: u32,
    ) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Dead letters, the oldest first.
    #[doc(hidden)]
    fn dead(
        connection: &mut Self::Connection,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<DeadLetter>, Error>> + Send;

    /// Lets dead letters wait again as if they were new; returns how many.
    #[doc(hidden)]
    fn revive(
        connection: &mut Self::Connection,
        which: &Which,
    ) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Removes dead letters; returns how many.
    #[doc(hidden)]
    fn purge_dead(
        connection: &mut Self::Connection,
        which: &Which,
    ) -> impl Future<Output = Result<u64, Error>> + Send;

    /// How many rows there are in each state, and the age of the oldest that is due.
    #[doc(hidden)]
    fn count(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Counts, Error>> + Send;

    /// Adds an inbox row; false if it is there.
    #[doc(hidden)]
    fn claim(
        connection: &mut Self::Connection,
        consumer: &str,
        id: &str,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Whether an inbox row is there, as this connection sees it.
    #[doc(hidden)]
    fn is_claimed(
        connection: &mut Self::Connection,
        consumer: &str,
        id: &str,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Removes at most `limit` inbox rows older than `age`; returns how many.
    #[doc(hidden)]
    fn purge_inbox(
        connection: &mut Self::Connection,
        age: Duration,
        limit: u32,
    ) -> impl Future<Output = Result<u64, Error>> + Send;
}

pub(crate) mod sealed {
    /// Only this crate implements [`super::Dialect`].
    pub trait Sealed {}
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// To be sent, or being sent.
    Waiting,
    /// Sent, and whoever received it said so.
    Delivered,
    /// Given up; see [`crate::Outbox::dead_letters`].
    Dead,
    /// Its time was over before it could be sent.
    Expired,
    /// Withdrawn.
    Cancelled,
}

impl State {
    /// The number in the column `state`; part of the SQL contract.
    #[must_use]
    pub const fn number(self) -> i16 {
        match self {
            Self::Waiting => 0,
            Self::Delivered => 1,
            Self::Dead => 2,
            Self::Expired => 3,
            Self::Cancelled => 4,
        }
    }

    /// What a number in the column `state` means.
    #[must_use]
    pub const fn from_number(number: i16) -> Option<Self> {
        match number {
            0 => Some(Self::Waiting),
            1 => Some(Self::Delivered),
            2 => Some(Self::Dead),
            3 => Some(Self::Expired),
            4 => Some(Self::Cancelled),
            _ => None,
        }
    }
}

/// What the relay wants to lease.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Most rows.
    pub(crate) limit: u32,
    /// How long the lease lasts.
    pub(crate) lease_for: Duration,
    /// Keys that are being sent or that cannot be now; their rows are passed over.
    pub(crate) busy: Vec<String>,
    /// Keys that have something to do, whether or not this look comes across one of their rows. At most half of `limit`.
    pub(crate) ready: Vec<String>,
    /// Where among the due rows to begin; `None` is the first.
    pub(crate) after: Option<Place>,
}

impl Ask {
    /// Due rows that one look goes over, most of which may be those of busy keys: what a look costs does not depend on
    /// how many wait.
    pub(crate) fn examined(&self) -> i64 {
        2 * i64::from(self.limit)
    }

    /// Due rows that it may take; some room is left for keys that are ready.
    pub(crate) fn due(&self) -> i64 {
        let ready = i64::try_from(self.ready.len()).unwrap_or(i64::MAX);
        i64::from(self.limit).saturating_sub(ready).max(1)
    }
}

/// A place among the due rows, which are ordered by when they became due. A hint where to go on looking and never a
/// reason to leave something out for good: what is before it may be free by now, or have been committed late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// When the row at it was due, in microseconds since 1970.
    pub(crate) due_us: i64,
    /// That row's number.
    pub(crate) seq: i64,
}

/// A look that did not come to the end of the due rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The last row that it went over.
    pub(crate) place: Place,
    /// The database's clock then.
    pub(crate) now_us: i64,
    /// It found less than it could have taken: most were leased or of busy keys.
    pub(crate) is_clogged: bool,
}

/// What was leased.
#[derive(Debug, Default)]
pub struct Batch {
    /// The rows, those of one key in their order.
    pub(crate) leased: Vec<Leased>,
    /// Leased by accident: something before them was not to be had. To be released at once.
    pub(crate) torn: Vec<(Uuid, i64)>,
    /// Keys with rows that are due but not the first of their key.
    pub(crate) blocked: Vec<String>,
    /// Where the look ended, if not with the last due row.
    pub(crate) cut: Option<Cut>,
}

/// A message that is being sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Leased {
    /// The fencing token: the lease that this is. A row that was leased again has a higher one.
    pub(crate) lease: i64,
    /// Its time is over.
    pub(crate) expired: bool,
    /// Why it can never be sent, if somebody wrote nonsense into its row.
    pub(crate) broken: Option<String>,
    /// More of its key may stand behind it.
    pub(crate) is_followed: bool,
    /// What transports see of it.
    pub(crate) letter: Letter,
}

/// A message as a [`crate::Transport`] gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// Its name from end to end, the same in every attempt.
    pub id: Uuid,
    /// Who sends.
    pub source: String,
    /// What happened.
    pub topic: String,
    /// Messages of one key are sent one after the other.
    pub key: Option<String>,
    /// MIME type of the payload.
    pub content_type: String,
    /// The application's own fields.
    pub headers: BTreeMap<String, String>,
    /// The payload.
    pub payload: Bytes,
    /// When the application sent it, in microseconds since 1970, by the database's clock.
    pub created_us: i64,
    /// How long it is still of use; counted from when it was leased.
    pub expires_in: Option<Duration>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    pub(crate) id: Uuid,
    pub(crate) lease: i64,
    pub(crate) outcome: Outcome,
}

/// How a lease ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Delivered,
    /// Failed; again after a time.
    Retry {
        wait: Duration,
        error: String,
    },
    /// Failed for good.
    Dead {
        error: String,
    },
    Expired,
    /// Not tried: as if it had not been leased, but not before a time.
    Release {
        wait: Duration,
    },
}

/// Most rows of one key that are leased at once; they are sent one after the other and held in memory meanwhile.
pub(crate) const CHAIN_MAX: i64 = 100;

/// Whether delivered rows stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Until the retention is over.
    Finished,
    /// No: they are removed at once.
    Nothing,
}

/// A message that was given up.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DeadLetter {
    /// Its id.
    pub id: Uuid,
    /// Who sent it.
    pub source: String,
    /// What happened.
    pub topic: String,
    /// Its key.
    pub key: Option<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub error: String,
    /// When it was sent by the application, in microseconds since 1970.
    pub created_us: i64,
    /// When it was given up, in microseconds since 1970.
    pub finished_us: i64,
}

/// Which dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Every one.
    All,
    /// Those of a topic.
    Topic(String),
    /// One.
    Id(Uuid),
}

/// How full an outbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Counts {
    /// To be sent.
    pub waiting: u64,
    /// Given up.
    pub dead: u64,
    /// How long the oldest message that could be sent has been waiting, in milliseconds.
    pub oldest_due_ms: u64,
}

/// Headers from a JSON object: texts as they are, everything else as JSON.
///
/// # Errors
///
/// If the text is something else. It is one row's error, and must not keep others from being read.
pub(crate) fn headers(text: &str) -> Result<BTreeMap<String, String>, String> {
    if text.is_empty() || text == "{}" {
        return Ok(BTreeMap::new());
    }
    let parsed: BTreeMap<String, serde_json::Value> = serde_json::from_str(text)
        .map_err(|error| format!("headers are no JSON object: {error}"))?;
    let plain = |value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(parsed.into_iter().map(|(name, value)| (name, plain(value))).collect())
}

/// Headers as a JSON object.
pub(crate) fn headers_json(message: &Message) -> String {
    if message.headers.is_empty() {
        return "{}".to_owned();
    }
    serde_json::to_value(&message.headers).unwrap_or_default().to_string()
}

/// A connection of the relay's own, beside the application's pool.
pub(crate) async fn connect<D: Dialect>(pool: &sqlx::Pool<D>) -> Result<D::Connection, Error> {
    let options = pool.connect_options();
    let mut connection = D::Connection::connect_with(&options).await?;
    D::prepare(&mut connection).await?;
    Ok(connection)
}
