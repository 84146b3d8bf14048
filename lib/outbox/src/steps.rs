//! What MySQL and SQLite have in common: a lease in several steps.
//!
//! Neither can change rows and return them with all that PostgreSQL's one statement does, so: look without locking,
//! plan, lock what was planned without waiting for anybody and look again at it, mark, read. Nobody else can take what is
//! locked, and what somebody took in between is missed, which `Plan::reachable` minds.
//!
//! The two differ in how they say now, how they lock, and what a duplicate is; those are the arguments of
//! [`implement_in_steps`].

use std::collections::HashMap;

use uuid::Uuid;

use crate::dialect::Settlement;

/// Inbox rows that one statement removes; each has two parameters.
pub(crate) const PURGE_AT_ONCE: usize = 200;

/// `?, ?, ?` for a number of values, rounded up so that few statements are prepared: the rest repeats the last value.
pub(crate) fn marks(count: usize) -> (usize, String) {
    let count = count.next_power_of_two();
    (count, vec!["?"; count].join(", "))
}

/// Values with the last one repeated up to a number.
pub(crate) fn padded(values: &[String], count: usize) -> impl Iterator<Item = &String> {
    let last = values.last();
    values.iter().chain(std::iter::repeat_with(move || last).flatten()).take(count)
}

/// Ids as a list of literals. Ids have no characters that mean anything to a database.
pub(crate) fn literals(ids: impl IntoIterator<Item = Uuid>) -> String {
    let ids: Vec<String> = ids.into_iter().map(|id| format!("'{id}'")).collect();
    ids.join(", ")
}

/// Delivered messages by their fencing tokens; most have the first.
pub(crate) fn by_lease<'a>(
    delivered: impl Iterator<Item = &'a Settlement>,
) -> HashMap<i64, Vec<Uuid>> {
    let mut groups: HashMap<i64, Vec<Uuid>> = HashMap::new();
    for settlement in delivered {
        groups.entry(settlement.lease).or_default().push(settlement.id);
    }
    groups
}

/// Implements [`crate::Dialect`] but for `insert`, `claim`, `migrate` and `prepare`, which the database's file has.
///
/// `now` is microseconds since 1970 as an expression, `lock` what makes a query lock the rows that it finds without
/// waiting, `begin` how a transaction that writes begins; `by_id` has rows found by their ids and in no other way, because
/// what a statement looks at on its way it locks, and `delete` begins such a removal; `by_due` has them found in the order
/// in which they became due.
macro_rules! implement_in_steps {
    (
        database: $database:ty, connection: $connection:ty, row: $row:ty,
        now: $now:literal, lock: $lock:literal, begin: $begin:literal,
        by_id: $by_id:literal, by_due: $by_due:literal, delete: $delete:literal,
        migrations: $migrations:expr
    ) => {
        impl $crate::dialect::sealed::Sealed for $database {}

        impl Dialect for $database {
            const MIGRATIONS: &'static [Migration] = $migrations;

            async fn migrate(connection: &mut $connection) -> Result<(), Error> {
                migrate(connection).await
            }

            async fn prepare(connection: &mut $connection) -> Result<(), Error> {
                prepare(connection).await
            }

            async fn insert(connection: &mut $connection, message: &Message) -> Result<bool, Error> {
                let insert = concat!(
                    "insert into posthouse_outbox (id, source, topic, `key`, dedupe_id, cancel_key, content_type, ",
                    "headers, payload, created_at, not_before, next_attempt, expires_at) values ",
                    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ", $now, ", ", $now, " + ?, ", $now, " + ?, ", $now, " + ?)"
                );
                let insert = sqlx::query(insert)
                    .bind(message.id.to_string())
                    .bind(&message.source)
                    .bind(&message.topic)
                    .bind(&message.key)
                    .bind(&message.dedupe_id)
                    .bind(&message.cancel_key)
                    .bind(&message.content_type)
                    .bind(headers_json(message))
                    .bind(&message.payload)
                    .bind(micros(message.delay))
                    .bind(micros(message.delay))
                    .bind(message.expires.map(micros));
                added(insert.execute(connection).await)
            }

            async fn state(connection: &mut $connection, id: Uuid) -> Result<Option<State>, Error> {
                let query = sqlx::query_scalar("select state from posthouse_outbox where id = ?");
                let number: Option<i64> =
                    query.bind(id.to_string()).fetch_optional(connection).await?;
                Ok(number.and_then(|number| State::from_number(i16::try_from(number).ok()?)))
            }

            async fn cancel(connection: &mut $connection, cancel_key: &str) -> Result<u64, Error> {
                // First without locking: what an update looks for, InnoDB locks with the gaps around it, and holds up
                // what others insert there.
                let which = concat!(
                    "select id from posthouse_outbox where cancel_key = ? and state = 0 and lease_until <= ", $now
                );
                let rows = sqlx::query(which).bind(cancel_key).fetch_all(&mut *connection).await?;
                let ids: Vec<Uuid> = rows.iter().map(read_id).collect::<Result<_, _>>()?;
                if ids.is_empty() {
                    return Ok(0);
                }
                let cancel = format!(
                    concat!(
                        "update posthouse_outbox", $by_id, " set state = 4, lease = lease + 1, finished_at = ", $now,
                        " where id in ({}) and state = 0 and lease_until <= ", $now
                    ),
                    literals(ids)
                );
                Ok(once(cancel).execute(connection).await?.rows_affected())
            }

            async fn lease(connection: &mut $connection, ask: &Ask) -> Result<Batch, Error> {
                let mut batch = Batch::default();
                let plan = plan(connection, ask, &mut batch).await?;
                let limit = usize::try_from(ask.limit).unwrap_or(usize::MAX);
                let ids = plan.ids(limit);
                if ids.is_empty() {
                    return Ok(batch);
                }
                let mut transaction = connection.begin_with($begin).await?;
                let lock = format!(
                    concat!(
                        "select id from posthouse_outbox", $by_id, " where id in ({}) and state = 0 and next_attempt <= ", $now,
                        " and lease_until <= ", $now, " ", $lock
                    ),
                    literals(ids)
                );
                let locked = once(lock).fetch_all(&mut *transaction).await?;
                let locked: HashSet<Uuid> = locked.iter().map(read_id).collect::<Result<_, _>>()?;
                let reachable = plan.reachable(&locked);
                if reachable.is_empty() {
                    transaction.rollback().await?;
                    return Ok(batch);
                }
                let chosen = literals(reachable.iter().map(|row| row.id));
                let mark = format!(
                    concat!(
                        "update posthouse_outbox", $by_id, " set lease = lease + 1, attempts = attempts + 1, lease_until = ", $now,
                        " + {} where id in ({})"
                    ),
                    micros(ask.lease_for), chosen
                );
                once(mark).execute(&mut *transaction).await?;
                let read = format!(
                    concat!(
                        "select id, lease, source, topic, `key`, content_type, headers, payload, created_at, ",
                        "cast(expires_at - ", $now, " as signed) as expires_us, attempts ",
                        "from posthouse_outbox where id in ({})"
                    ),
                    chosen
                );
                let rows = once(read).fetch_all(&mut *transaction).await?;
                transaction.commit().await?;
                let places: HashMap<Uuid, Reachable> =
                    reachable.into_iter().map(|row| (row.id, row)).collect();
                let mut leased = Vec::with_capacity(rows.len());
                for row in &rows {
                    let mut row = read_leased(row)?;
                    let Some(reachable) = places.get(&row.letter.id) else { continue };
                    row.is_followed = reachable.is_followed;
                    leased.push((reachable.place, row));
                }
                Ok(Batch { cut: batch.cut, ..chains(leased, batch.blocked) })
            }

            async fn settle(
                connection: &mut $connection,
                settlements: &[Settlement],
                keep: Keep,
            ) -> Result<(), Error> {
                let mut transaction = connection.begin_with($begin).await?;
                let delivered =
                    settlements.iter().filter(|one| one.outcome == Outcome::Delivered);
                for (lease, ids) in by_lease(delivered) {
                    let which = format!(
                        "where id in ({}) and lease = {lease} and state = 0", literals(ids)
                    );
                    let statement = match keep {
                        Keep::Nothing => format!(concat!($delete, " {}"), which),
                        Keep::Finished => format!(
                            concat!(
                                "update posthouse_outbox", $by_id, " set state = 1, lease_until = 0, last_error = null, ",
                                "finished_at = ", $now, " {}"
                            ),
                            which
                        ),
                    };
                    once(statement).execute(&mut *transaction).await?;
                }
                for settlement in settlements {
                    settle_other(&mut transaction, settlement).await?;
                }
                Ok(transaction.commit().await?)
            }

            async fn purge_finished(
                connection: &mut $connection,
                age: Duration,
                limit: u32,
            ) -> Result<u64, Error> {
                // First without locking, as in `cancel`.
                let old = concat!(
                    "select id from posthouse_outbox where state = ? and finished_at < ", $now,
                    " - ? order by finished_at limit ?"
                );
                let mut count = 0;
                // By state, so that dead letters, which stay, are not even looked at.
                for state in [State::Delivered, State::Expired, State::Cancelled] {
                    let old = sqlx::query(old)
                        .bind(i64::from(state.number()))
                        .bind(micros(age))
                        .bind(i64::from(limit));
                    let rows = old.fetch_all(&mut *connection).await?;
                    let ids: Vec<Uuid> = rows.iter().map(read_id).collect::<Result<_, _>>()?;
                    if ids.is_empty() {
                        continue;
                    }
                    let purge = format!(
                        concat!($delete, " where id in ({}) and state = {}"), literals(ids), state.number()
                    );
                    count += once(purge).execute(&mut *connection).await?.rows_affected();
                }
                Ok(count)
            }

            async fn dead(connection: &mut $connection, limit: u32) -> Result<Vec<DeadLetter>, Error> {
                let query = "select id, source, topic, `key`, attempts, coalesce(last_error, '') as error, \
                     created_at, finished_at from posthouse_outbox \
                     where state = 2 and finished_at is not null order by finished_at, seq limit ?";
                let rows = sqlx::query(query).bind(i64::from(limit)).fetch_all(connection).await?;
                let read = |row: &$row| {
                    Ok(DeadLetter {
                        id: read_id(row)?,
                        source: row.try_get("source")?,
                        topic: row.try_get("topic")?,
                        key: row.try_get("key")?,
                        attempts: u32::try_from(row.try_get::<i64, _>("attempts")?).unwrap_or_default(),
                        error: row.try_get("error")?,
                        created_us: row.try_get("created_at")?,
                        finished_us: row.try_get("finished_at")?,
                    })
                };
                rows.iter().map(read).collect()
            }

            async fn revive(connection: &mut $connection, which: &Which) -> Result<u64, Error> {
                let revive = concat!(
                    "update posthouse_outbox set state = 0, attempts = 0, finished_at = null, lease = lease + 1, ",
                    "lease_until = 0, next_attempt = ", $now,
                    " where state = 2 and (? is null or topic = ?) and (? is null or id = ?)"
                );
                let (topic, id) = chosen(which);
                let revive = sqlx::query(revive).bind(topic).bind(topic).bind(&id).bind(&id);
                Ok(revive.execute(connection).await?.rows_affected())
            }

            async fn purge_dead(connection: &mut $connection, which: &Which) -> Result<u64, Error> {
                let purge = "delete from posthouse_outbox \
                     where state = 2 and (? is null or topic = ?) and (? is null or id = ?)";
                let (topic, id) = chosen(which);
                let purge = sqlx::query(purge).bind(topic).bind(topic).bind(&id).bind(&id);
                Ok(purge.execute(connection).await?.rows_affected())
            }

            async fn count(connection: &mut $connection) -> Result<Counts, Error> {
                let query = concat!(
                    "select (select count(*) from posthouse_outbox where state = 0) as waiting, ",
                    "(select count(*) from posthouse_outbox where state = 2) as dead, ",
                    "cast(coalesce((select (", $now, " - min(next_attempt)) / 1000 from posthouse_outbox ",
                    "where state = 0 and next_attempt <= ", $now, "), 0) as signed) as oldest_due_ms"
                );
                let row = sqlx::query(query).fetch_one(connection).await?;
                let number = |name| -> Result<u64, Error> {
                    Ok(u64::try_from(row.try_get::<i64, _>(name)?).unwrap_or_default())
                };
                Ok(Counts {
                    waiting: number("waiting")?,
                    dead: number("dead")?,
                    oldest_due_ms: number("oldest_due_ms")?,
                })
            }

            async fn claim(connection: &mut $connection, consumer: &str, id: &str) -> Result<bool, Error> {
                let claim = "insert into posthouse_inbox (consumer, id) values (?, ?)";
                added(sqlx::query(claim).bind(consumer).bind(id).execute(connection).await)
            }

            async fn is_claimed(
                connection: &mut $connection,
                consumer: &str,
                id: &str,
            ) -> Result<bool, Error> {
                let row = "select 1 from posthouse_inbox where consumer = ? and id = ?";
                let row = sqlx::query(row).bind(consumer).bind(id);
                Ok(row.fetch_optional(connection).await?.is_some())
            }

            async fn purge_inbox(
                connection: &mut $connection,
                age: Duration,
                limit: u32,
            ) -> Result<u64, Error> {
                // First without locking, as in `cancel`.
                let old = concat!(
                    "select consumer, id from posthouse_inbox where received_at < ", $now,
                    " - ? order by received_at limit ?"
                );
                let old = sqlx::query(old).bind(micros(age)).bind(i64::from(limit));
                let rows = old.fetch_all(&mut *connection).await?;
                let mut count = 0;
                for rows in rows.chunks(PURGE_AT_ONCE) {
                    let which = vec!["(consumer = ? and id = ?)"; rows.len()].join(" or ");
                    let mut purge = once(format!("delete from posthouse_inbox where {which}"));
                    for row in rows {
                        purge = purge.bind(row.try_get::<String, _>("consumer")?);
                        purge = purge.bind(row.try_get::<String, _>("id")?);
                    }
                    count += purge.execute(&mut *connection).await?.rows_affected();
                }
                Ok(count)
            }
        }

        /// What is due, and of each key the rows from the first on, as far as nothing is in the way.
        async fn plan(
            connection: &mut $connection,
            ask: &Ask,
            batch: &mut Batch,
        ) -> Result<Plan, Error> {
            let (mut plan, mut keys) = (Plan::default(), Vec::new());
            let mut known: HashSet<String> = HashSet::new();
            for key in &ask.ready {
                if known.insert(key.clone()) {
                    keys.push(key.clone());
                }
            }
            for (id, key) in due(connection, ask, &mut batch.cut).await? {
                match key {
                    None => plan.single.push(id),
                    Some(key) if known.insert(key.clone()) => keys.push(key),
                    Some(_) => {}
                }
            }
            if keys.is_empty() {
                return Ok(plan);
            }
            let count = i64::try_from(keys.len()).unwrap_or(i64::MAX);
            let most = (2 * i64::from(ask.limit) / count).clamp(2, CHAIN_MAX);
            let (most, lines) = lines(connection, &keys, most).await?;
            batch.blocked = plan.stand_in_line(lines, usize::try_from(most).unwrap_or(usize::MAX));
            Ok(plan)
        }

        /// Due rows that are free, and their keys, in the order in which they became due; `cut` is where it stopped.
        async fn due(
            connection: &mut $connection,
            ask: &Ask,
            cut: &mut Option<Cut>,
        ) -> Result<Vec<(Uuid, Option<String>)>, Error> {
            let busy = match $crate::steps::marks(ask.busy.len()) {
                (_, marks) if !ask.busy.is_empty() => format!(" and (`key` is null or `key` not in ({marks}))"),
                _ => String::new(),
            };
            let busy_count = if ask.busy.is_empty() { 0 } else { ask.busy.len().next_power_of_two() };
            // Rows of one moment and those after it, because of a pair's order MySQL makes no use.
            let seen = |columns: &str| {
                format!(
                    concat!(
                        "select * from (select {0} from posthouse_outbox", $by_due, " where state = 0 and next_attempt = ? ",
                        "and next_attempt <= ", $now, " and seq > ? order by seq limit {1}) same union all ",
                        "select * from (select {0} from posthouse_outbox", $by_due, " where state = 0 and next_attempt > ? ",
                        "and next_attempt <= ", $now, " order by next_attempt, seq limit {1}) later ",
                        "order by next_attempt, seq limit {1}"
                    ),
                    columns, ask.examined()
                )
            };
            let due = format!(
                concat!(
                    "select * from (select id, `key`, next_attempt, seq, ", $now, " as now_us from ({}) seen ",
                    "where lease_until <= ", $now, "{} order by next_attempt, seq limit ?) due union all ",
                    "select * from (select '' as id, null as `key`, next_attempt, seq, ", $now, " as now_us from ({}) places ",
                    "order by next_attempt, seq limit 1 offset {}) last"
                ),
                seen("id, `key`, next_attempt, seq, lease_until"), busy, seen("next_attempt, seq"), ask.examined() - 1
            );
            let after = ask.after.unwrap_or(Place { due_us: i64::MIN, seq: 0 });
            let mut query = sqlx::query(AssertSqlSafe(due));
            query = query.bind(after.due_us).bind(after.seq).bind(after.due_us);
            for key in padded(&ask.busy, busy_count) {
                query = query.bind(key);
            }
            query = query.bind(ask.due()).bind(after.due_us).bind(after.seq).bind(after.due_us);
            let rows = query.fetch_all(connection).await?;
            let mut found = Vec::with_capacity(rows.len());
            let (mut last_found, mut last_seen) = (None, None);
            for row in &rows {
                let place = Place { due_us: row.try_get("next_attempt")?, seq: row.try_get("seq")? };
                let now_us = row.try_get("now_us")?;
                if row.try_get::<String, _>("id")?.is_empty() {
                    last_seen = Some(Cut { place, now_us, is_clogged: true });
                } else {
                    found.push((read_id(row)?, row.try_get("key")?));
                    last_found = last_found.max(Some((place, now_us)));
                }
            }
            let is_full = i64::try_from(found.len()).unwrap_or(i64::MAX) >= ask.due();
            let full = last_found.filter(|_| is_full);
            *cut = full.map(|(place, now_us)| Cut { place, now_us, is_clogged: false }).or(last_seen);
            Ok(found)
        }

        /// A settlement that is not [`Outcome::Delivered`]; those are few, or the database is not what is slow.
        async fn settle_other(connection: &mut $connection, settlement: &Settlement) -> Result<(), Error> {
            let Settlement { id, lease, outcome } = settlement;
            let again = concat!(
                "update posthouse_outbox", $by_id, " set lease = lease + 1, lease_until = 0, next_attempt = ", $now, " + ?, ",
                "attempts = case when ? = 1 then attempts - 1 else attempts end, ",
                "last_error = coalesce(?, last_error) where id = ? and lease = ? and state = 0"
            );
            let again = |wait: Duration, error: Option<String>| {
                let is_untried = i64::from(error.is_none());
                sqlx::query(again).bind(micros(wait)).bind(is_untried).bind(error)
            };
            let ended = concat!(
                "update posthouse_outbox", $by_id, " set lease = lease + 1, lease_until = 0, finished_at = ", $now, ", state = ?, ",
                "last_error = coalesce(?, last_error) where id = ? and lease = ? and state = 0"
            );
            let ended = |state: State, error: Option<String>| {
                sqlx::query(ended).bind(i64::from(state.number())).bind(error)
            };
            let settle = match outcome {
                Outcome::Delivered => return Ok(()),
                Outcome::Retry { wait, error } => again(*wait, Some(error.clone())),
                Outcome::Release { wait } => again(*wait, None),
                Outcome::Dead { error } => ended(State::Dead, Some(error.clone())),
                Outcome::Expired => ended(State::Expired, None),
            };
            settle.bind(id.to_string()).bind(lease).execute(connection).await?;
            Ok(())
        }

        /// A statement that is not worth remembering: it has ids in it.
        fn once(sql: String) -> sqlx::query::Query<'static, $database, <$database as sqlx::Database>::Arguments> {
            sqlx::query(AssertSqlSafe(sql)).persistent(false)
        }

        fn read_id(row: &$row) -> Result<Uuid, Error> {
            let text: String = row.try_get("id")?;
            Uuid::parse_str(&text).map_err(|error| Error::Database(sqlx::Error::Decode(Box::new(error))))
        }

        fn standing(row: &$row) -> Result<Standing, Error> {
            Ok(Standing {
                seq: row.try_get("seq")?,
                free: row.try_get::<i64, _>("free")? == 1,
                id: read_id(row)?,
                key: row.try_get("key")?,
            })
        }

        fn read_leased(row: &$row) -> Result<Leased, Error> {
            let expires_us: Option<i64> = row.try_get("expires_us")?;
            let headers = headers(&row.try_get::<String, _>("headers")?);
            Ok(Leased {
                lease: row.try_get("lease")?,
                expired: expires_us.is_some_and(|left| left <= 0),
                broken: headers.as_ref().err().cloned(),
                is_followed: false,
                letter: Letter {
                    id: read_id(row)?,
                    source: row.try_get("source")?,
                    topic: row.try_get("topic")?,
                    key: row.try_get("key")?,
                    content_type: row.try_get("content_type")?,
                    headers: headers.unwrap_or_default(),
                    payload: row.try_get::<Vec<u8>, _>("payload")?.into(),
                    created_us: row.try_get("created_at")?,
                    expires_in: expires_us
                        .and_then(|left| u64::try_from(left).ok())
                        .map(Duration::from_micros),
                    attempt: u32::try_from(row.try_get::<i64, _>("attempts")?).unwrap_or_default(),
                },
            })
        }

        fn chosen(which: &Which) -> (Option<&str>, Option<String>) {
            match which {
                Which::All => (None, None),
                Which::Topic(topic) => (Some(topic), None),
                Which::Id(id) => (None, Some(id.to_string())),
            }
        }
    };
}

pub(crate) use implement_in_steps;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_rounded_up_with_their_last_value() {
        let values: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();

        let (count, marks) = marks(values.len());

        assert_eq!((count, marks.as_str()), (4, "?, ?, ?, ?"));
        let padded: Vec<&String> = padded(&values, count).collect();
        assert_eq!(padded, ["a", "b", "c", "c"]);
    }
}
