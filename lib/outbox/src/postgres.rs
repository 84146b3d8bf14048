//! Outbox and inbox in PostgreSQL 12 and later.
//!
//! One statement leases: it plans from its snapshot, locks what it planned without waiting for anybody, and marks it. A
//! row's lease touches no index, because no index has the columns that it changes.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{Connection as _, Executor as _, PgConnection, Postgres, Row as _};
use uuid::Uuid;

use crate::chain::chains;
use crate::dialect::{
    Ask, Batch, CHAIN_MAX, Counts, Cut, DeadLetter, Dialect, Keep, Leased, Letter, Outcome, Place,
    Settlement, State, Which, headers, headers_json, sealed,
};
use crate::error::Error;
use crate::message::{Message, micros};
use crate::schema::{self, Migration};

impl sealed::Sealed for Postgres {}

/// Names the lock that migrations hold: "posthous" in ASCII.
const MIGRATION_LOCK: i64 = 0x706f_7374_686f_7573;

/// Planning a lease costs more than running it, and statistics of a table that is empty most of the time mislead: the
/// relay's own connections plan once, and by the indexes.
const PREPARE: &str = "set plan_cache_mode = force_generic_plan; set enable_seqscan = off; set enable_hashjoin = off; \
     set enable_mergejoin = off; set enable_bitmapscan = off; set jit = off; set application_name = 'posthouse relay'";

const INSERT: &str = "
insert into posthouse_outbox
    (id, source, topic, key, dedupe_id, cancel_key, content_type, headers, payload, not_before, next_attempt, expires_at)
select $1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9,
    now.now + $10 * interval '1 microsecond', now.now + $10 * interval '1 microsecond',
    now.now + $11 * interval '1 microsecond'
from (select clock_timestamp() as now) now
on conflict (source, topic, dedupe_id) where dedupe_id is not null do nothing";

/// 1: how many; 2: microseconds of the lease; 3: keys to pass over; 4: keys that are ready; 5, 6: the place to begin
/// behind; 7: how many due rows to go over; 8: how many of them to take; 9: rows of one key.
///
/// `seen` goes over rows in the order in which they became due, and `cut` says where it stopped. A row with a key only
/// says that its key has something to do: `lines` has the key's rows from the first on, of which `plan` takes as many as
/// have nothing in their way. `locked` looks again at what was planned, because others may have been there since.
///
/// What was not delayed stands in its key's line even if its time has not come: then the clock was set back, and what was
/// sent since must not go before it. (Defaults of two columns are some microseconds apart.)
///
/// No state is below 0, so `= 0`, `<= 0` and `< 1` mean the same, but not to the planner: the index of due rows serves only
/// `= 0`, that of keys only `< 1`. Statistics of a table that was just empty make it look the cheapest for everything, and
/// then each row that is locked or settled would cost a look at all that are due.
const LEASE: &str = "
with seen as materialized (
    select id, key, next_attempt, seq, (lease_until is null or lease_until <= statement_timestamp())
        and (key is null or key <> all($3::text[])) as fits
    from posthouse_outbox
    where state = 0 and next_attempt <= statement_timestamp()
        and (next_attempt, seq) > (coalesce(timestamptz 'epoch' + $5 * interval '1 microsecond', '-infinity'), $6)
    order by next_attempt, seq limit $7
), due as materialized (
    select id, key, next_attempt, seq from seen where fits order by next_attempt, seq limit $8
), cut as materialized (
    (select next_attempt, seq, false as is_clogged from due order by next_attempt, seq offset $8 - 1)
    union all
    (select next_attempt, seq, true from seen order by next_attempt, seq offset $7 - 1)
    limit 1
), keys as materialized (
    select key from due where key is not null union select unnest($4::text[])
), most as materialized (
    select least($9, greatest(2, 2 * $1 / greatest(count(*), 1))) as rows from keys
), lines as materialized (
    select line.id, keys.key, line.place, line.reachable, line.is_followed from keys cross join lateral (
        select id, row_number() over line as place, bool_and(free) over line as reachable,
            row_number() over line = (select rows from most) or lead(id) over line is not null as is_followed
        from (
            select id, seq, next_attempt <= statement_timestamp()
                and (lease_until is null or lease_until <= statement_timestamp()) as free
            from posthouse_outbox row
            where row.key = keys.key and row.state < 1
                and (row.not_before <= row.created_at + interval '1 millisecond' or row.not_before <= statement_timestamp())
            order by row.seq limit (select rows from most)
        ) line_up
        window line as (order by seq)
    ) line
), plan as materialized (
    select id, 1::bigint as place, false as is_followed from due where key is null
    union all select id, place, is_followed from lines where reachable
    order by place limit $1
), locked as materialized (
    select row.id, plan.place, plan.is_followed from plan join posthouse_outbox row on row.id = plan.id
    where row.state <= 0 and row.next_attempt <= statement_timestamp()
        and (row.lease_until is null or row.lease_until <= statement_timestamp())
    for update of row skip locked
), leased as (
    update posthouse_outbox row
    set lease = row.lease + 1, attempts = row.attempts + 1,
        lease_until = statement_timestamp() + $2 * interval '1 microsecond'
    from locked where row.id = locked.id
    returning row.id, row.lease, row.seq, locked.place, row.source, row.topic, row.key, row.content_type,
        nullif(row.headers::text, '{}') as headers, row.payload,
        (extract(epoch from row.created_at) * 1000000)::bigint as created_us,
        (extract(epoch from row.expires_at - statement_timestamp()) * 1000000)::bigint as expires_us,
        row.attempts, locked.is_followed
)
select *, null::bigint as cut_us, null::bigint as now_us from leased
union all
select null, 0, 0, 0, '', '', lines.key, '', null, '', 0, null, 0, false, null, null
from lines where place = 1 and not reachable
union all
select null, 0, seq, 0, '', '', null, '', null, '', 0, null, 0, is_clogged,
    (extract(epoch from greatest(next_attempt, 'epoch')) * 1000000)::bigint,
    (extract(epoch from statement_timestamp()) * 1000000)::bigint
from cut
order by place, seq";

const DELIVERED: &str = "
update posthouse_outbox row set state = 1, finished_at = statement_timestamp(), lease_until = null, last_error = null
from unnest($1::uuid[], $2::bigint[]) as settled(id, lease)
where row.id = settled.id and row.lease = settled.lease and row.state <= 0";

const DELIVERED_AND_GONE: &str = "
delete from posthouse_outbox row using unnest($1::uuid[], $2::bigint[]) as settled(id, lease)
where row.id = settled.id and row.lease = settled.lease and row.state <= 0";

/// 3: microseconds to wait; 4: errors, null for what was not tried. Ending a lease makes its token worthless, so what is
/// settled twice because nobody knew whether it was is settled once.
const AGAIN: &str = "
update posthouse_outbox row
set lease = row.lease + 1, lease_until = null,
    next_attempt = statement_timestamp() + settled.wait * interval '1 microsecond',
    attempts = case when settled.error is null then greatest(row.attempts - 1, 0) else row.attempts end,
    last_error = coalesce(settled.error, row.last_error)
from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[]) as settled(id, lease, wait, error)
where row.id = settled.id and row.lease = settled.lease and row.state <= 0";

/// 3: states; 4: errors.
const ENDED: &str = "
update posthouse_outbox row
set state = settled.state, lease = row.lease + 1, finished_at = statement_timestamp(), lease_until = null,
    last_error = coalesce(settled.error, row.last_error)
from unnest($1::uuid[], $2::bigint[], $3::smallint[], $4::text[]) as settled(id, lease, state, error)
where row.id = settled.id and row.lease = settled.lease and row.state <= 0";

/// A lease that is over or was not there makes a row free to be withdrawn.
const CANCEL: &str = "
update posthouse_outbox
set state = 4, lease = lease + 1, finished_at = statement_timestamp(), lease_until = null
where cancel_key = $1 and state = 0 and (lease_until is null or lease_until <= statement_timestamp())";

const PURGE_FINISHED: &str = "
delete from posthouse_outbox where id in (
    select id from posthouse_outbox
    where state in (1, 3, 4) and finished_at < statement_timestamp() - $1 * interval '1 microsecond'
    order by finished_at limit $2 for update skip locked)";

const DEAD: &str = "
select id, source, topic, key, attempts, coalesce(last_error, '') as error,
    (extract(epoch from created_at) * 1000000)::bigint as created_us,
    (extract(epoch from finished_at) * 1000000)::bigint as finished_us
from posthouse_outbox where state = 2 order by finished_at, seq limit $1";

/// Parameters 1 and 2 choose: a topic, an id, or neither.
const REVIVE: &str = "
update posthouse_outbox set state = 0, attempts = 0, next_attempt = statement_timestamp(), finished_at = null,
    lease = lease + 1
where state = 2 and ($1::text is null or topic = $1) and ($2::uuid is null or id = $2)";

const PURGE_DEAD: &str = "
delete from posthouse_outbox
where state = 2 and ($1::text is null or topic = $1) and ($2::uuid is null or id = $2)";

const COUNT: &str = "
select (select count(*) from posthouse_outbox where state = 0) as waiting,
    (select count(*) from posthouse_outbox where state = 2) as dead,
    coalesce((select (extract(epoch from statement_timestamp() - min(next_attempt)) * 1000)::bigint
        from posthouse_outbox where state = 0 and next_attempt <= statement_timestamp()), 0) as oldest_due_ms";

impl Dialect for Postgres {
    const MIGRATIONS: &'static [Migration] =
        &[Migration { version: 1, sql: include_str!("schema/postgres/0001.sql") }];

    async fn migrate(connection: &mut PgConnection) -> Result<(), Error> {
        let mut transaction = connection.begin().await?;
        sqlx::query("select pg_advisory_xact_lock($1)")
            .bind(MIGRATION_LOCK)
            .execute(&mut *transaction)
            .await?;
        transaction.execute(schema::HISTORY).await?;
        let found: i32 =
            sqlx::query_scalar("select coalesce(max(version), 0) from posthouse_schema")
                .fetch_one(&mut *transaction)
                .await?;
        for migration in schema::missing::<Self>(found)? {
            sqlx::raw_sql(migration.sql).execute(&mut *transaction).await?;
            sqlx::query("insert into posthouse_schema (version) values ($1)")
                .bind(migration.version)
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn prepare(connection: &mut PgConnection) -> Result<(), Error> {
        sqlx::raw_sql(PREPARE).execute(connection).await?;
        Ok(())
    }

    async fn insert(connection: &mut PgConnection, message: &Message) -> Result<bool, Error> {
        let done = sqlx::query(INSERT)
            .bind(message.id)
            .bind(&message.source)
            .bind(&message.topic)
            .bind(&message.key)
            .bind(&message.dedupe_id)
            .bind(&message.cancel_key)
            .bind(&message.content_type)
            .bind(headers_json(message))
            .bind(&message.payload)
            .bind(micros(message.delay))
            .bind(message.expires.map(micros))
            .execute(connection)
            .await?;
        Ok(done.rows_affected() == 1)
    }

    async fn state(connection: &mut PgConnection, id: Uuid) -> Result<Option<State>, Error> {
        let number: Option<i16> =
            sqlx::query_scalar("select state from posthouse_outbox where id = $1")
                .bind(id)
                .fetch_optional(connection)
                .await?;
        Ok(number.and_then(State::from_number))
    }

    async fn cancel(connection: &mut PgConnection, cancel_key: &str) -> Result<u64, Error> {
        Ok(sqlx::query(CANCEL).bind(cancel_key).execute(connection).await?.rows_affected())
    }

    async fn lease(connection: &mut PgConnection, ask: &Ask) -> Result<Batch, Error> {
        let rows = sqlx::query(LEASE)
            .bind(i64::from(ask.limit))
            .bind(micros(ask.lease_for))
            .bind(&ask.busy)
            .bind(&ask.ready)
            .bind(ask.after.map(|place| place.due_us))
            .bind(ask.after.map_or(0, |place| place.seq))
            .bind(ask.examined())
            .bind(ask.due())
            .bind(CHAIN_MAX)
            .fetch_all(connection)
            .await?;
        let (mut blocked, mut cut) = (Vec::new(), None);
        let mut leased = Vec::with_capacity(rows.len());
        for row in &rows {
            match row.try_get::<Option<Uuid>, _>("id")? {
                None => match row.try_get::<Option<String>, _>("key")? {
                    Some(key) => blocked.push(key),
                    None => cut = Some(read_cut(row)?),
                },
                Some(id) => leased.push((row.try_get::<i64, _>("place")?, read_leased(id, row)?)),
            }
        }
        Ok(Batch { cut, ..chains(leased, blocked) })
    }

    async fn settle(
        connection: &mut PgConnection,
        settlements: &[Settlement],
        keep: Keep,
    ) -> Result<(), Error> {
        let (mut delivered, mut again, mut ended) =
            (Delivered::default(), Again::default(), Ended::default());
        for settlement in settlements {
            match &settlement.outcome {
                Outcome::Delivered => delivered.push(settlement),
                Outcome::Retry { wait, error } => again.push(settlement, *wait, Some(error)),
                Outcome::Release { wait } => again.push(settlement, *wait, None),
                Outcome::Dead { error } => ended.push(settlement, State::Dead, Some(error)),
                Outcome::Expired => ended.push(settlement, State::Expired, None),
            }
        }
        let kinds = [&delivered.ids, &again.ids, &ended.ids];
        // One kind is one statement, which needs no transaction around it.
        if kinds.into_iter().filter(|ids| !ids.is_empty()).count() == 1 {
            delivered.run(connection, keep).await?;
            again.run(connection).await?;
            return ended.run(connection).await;
        }
        let mut transaction = connection.begin().await?;
        delivered.run(&mut transaction, keep).await?;
        again.run(&mut transaction).await?;
        ended.run(&mut transaction).await?;
        Ok(transaction.commit().await?)
    }

    async fn purge_finished(
        connection: &mut PgConnection,
        age: Duration,
        limit: u32,
    ) -> Result<u64, Error> {
        let purge = sqlx::query(PURGE_FINISHED).bind(micros(age)).bind(i64::from(limit));
        Ok(purge.execute(connection).await?.rows_affected())
    }

    async fn dead(connection: &mut PgConnection, limit: u32) -> Result<Vec<DeadLetter>, Error> {
        let rows = sqlx::query(DEAD).bind(i64::from(limit)).fetch_all(connection).await?;
        let read = |row: &PgRow| {
            Ok(DeadLetter {
                id: row.try_get("id")?,
                source: row.try_get("source")?,
                topic: row.try_get("topic")?,
                key: row.try_get("key")?,
                attempts: u32::try_from(row.try_get::<i32, _>("attempts")?).unwrap_or_default(),
                error: row.try_get("error")?,
                created_us: row.try_get("created_us")?,
                finished_us: row.try_get("finished_us")?,
            })
        };
        rows.iter().map(read).collect()
    }

    async fn revive(connection: &mut PgConnection, which: &Which) -> Result<u64, Error> {
        let (topic, id) = chosen(which);
        Ok(sqlx::query(REVIVE).bind(topic).bind(id).execute(connection).await?.rows_affected())
    }

    async fn purge_dead(connection: &mut PgConnection, which: &Which) -> Result<u64, Error> {
        let (topic, id) = chosen(which);
        Ok(sqlx::query(PURGE_DEAD).bind(topic).bind(id).execute(connection).await?.rows_affected())
    }

    async fn count(connection: &mut PgConnection) -> Result<Counts, Error> {
        let row = sqlx::query(COUNT).fetch_one(connection).await?;
        let number = |name| -> Result<u64, Error> {
            Ok(u64::try_from(row.try_get::<i64, _>(name)?).unwrap_or_default())
        };
        Ok(Counts {
            waiting: number("waiting")?,
            dead: number("dead")?,
            oldest_due_ms: number("oldest_due_ms")?,
        })
    }

    async fn claim(connection: &mut PgConnection, consumer: &str, id: &str) -> Result<bool, Error> {
        let claim =
            "insert into posthouse_inbox (consumer, id) values ($1, $2) on conflict do nothing";
        let done = sqlx::query(claim).bind(consumer).bind(id).execute(connection).await?;
        Ok(done.rows_affected() == 1)
    }

    async fn is_claimed(
        connection: &mut PgConnection,
        consumer: &str,
        id: &str,
    ) -> Result<bool, Error> {
        let row = "select true from posthouse_inbox where consumer = $1 and id = $2";
        let row = sqlx::query(row).bind(consumer).bind(id);
        Ok(row.fetch_optional(connection).await?.is_some())
    }

    async fn purge_inbox(
        connection: &mut PgConnection,
        age: Duration,
        limit: u32,
    ) -> Result<u64, Error> {
        let purge = "delete from posthouse_inbox where (consumer, id) in (
            select consumer, id from posthouse_inbox
            where received_at < statement_timestamp() - $1 * interval '1 microsecond'
            order by received_at limit $2)";
        let purge = sqlx::query(purge).bind(micros(age)).bind(i64::from(limit));
        Ok(purge.execute(connection).await?.rows_affected())
    }
}

fn read_cut(row: &PgRow) -> Result<Cut, Error> {
    let place = Place { due_us: row.try_get("cut_us")?, seq: row.try_get("seq")? };
    let is_clogged = row.try_get("is_followed")?;
    Ok(Cut { place, now_us: row.try_get("now_us")?, is_clogged })
}

fn read_leased(id: Uuid, row: &PgRow) -> Result<Leased, Error> {
    let expires_us: Option<i64> = row.try_get("expires_us")?;
    let text: Option<&str> = row.try_get("headers")?;
    let headers = headers(text.unwrap_or_default());
    Ok(Leased {
        lease: row.try_get("lease")?,
        expired: expires_us.is_some_and(|left| left <= 0),
        broken: headers.as_ref().err().cloned(),
        is_followed: row.try_get("is_followed")?,
        letter: Letter {
            id,
            source: row.try_get("source")?,
            topic: row.try_get("topic")?,
            key: row.try_get("key")?,
            content_type: row.try_get("content_type")?,
            headers: headers.unwrap_or_default(),
            payload: row.try_get::<Vec<u8>, _>("payload")?.into(),
            created_us: row.try_get("created_us")?,
            expires_in: expires_us
                .and_then(|left| u64::try_from(left).ok())
                .map(Duration::from_micros),
            attempt: u32::try_from(row.try_get::<i32, _>("attempts")?).unwrap_or_default(),
        },
    })
}

fn chosen(which: &Which) -> (Option<&str>, Option<Uuid>) {
    match which {
        Which::All => (None, None),
        Which::Topic(topic) => (Some(topic), None),
        Which::Id(id) => (None, Some(*id)),
    }
}

/// Settlements of one kind, column by column, as `unnest` wants them.
#[derive(Default)]
struct Delivered {
    ids: Vec<Uuid>,
    leases: Vec<i64>,
}

impl Delivered {
    fn push(&mut self, settlement: &Settlement) {
        self.ids.push(settlement.id);
        self.leases.push(settlement.lease);
    }

    async fn run(&self, connection: &mut PgConnection, keep: Keep) -> Result<(), Error> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let statement = match keep {
            Keep::Finished => DELIVERED,
            Keep::Nothing => DELIVERED_AND_GONE,
        };
        sqlx::query(statement).bind(&self.ids).bind(&self.leases).execute(connection).await?;
        Ok(())
    }
}

#[derive(Default)]
struct Again<'a> {
    ids: Vec<Uuid>,
    leases: Vec<i64>,
    waits: Vec<i64>,
    errors: Vec<Option<&'a str>>,
}

impl<'a> Again<'a> {
    fn push(&mut self, settlement: &Settlement, wait: Duration, error: Option<&'a String>) {
        self.ids.push(settlement.id);
        self.leases.push(settlement.lease);
        self.waits.push(micros(wait));
        self.errors.push(error.map(String::as_str));
    }

    async fn run(&self, connection: &mut PgConnection) -> Result<(), Error> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let again = sqlx::query(AGAIN).bind(&self.ids).bind(&self.leases);
        again.bind(&self.waits).bind(&self.errors).execute(connection).await?;
        Ok(())
    }
}

#[derive(Default)]
struct Ended<'a> {
    ids: Vec<Uuid>,
    leases: Vec<i64>,
    states: Vec<i16>,
    errors: Vec<Option<&'a str>>,
}

impl<'a> Ended<'a> {
    fn push(&mut self, settlement: &Settlement, state: State, error: Option<&'a String>) {
        self.ids.push(settlement.id);
        self.leases.push(settlement.lease);
        self.states.push(state.number());
        self.errors.push(error.map(String::as_str));
    }

    async fn run(&self, connection: &mut PgConnection) -> Result<(), Error> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let ended = sqlx::query(ENDED).bind(&self.ids).bind(&self.leases);
        ended.bind(&self.states).bind(&self.errors).execute(connection).await?;
        Ok(())
    }
}
