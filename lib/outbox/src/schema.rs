//! The tables as versioned migrations.
//!
//! `posthouse_schema` says which have been applied. A migration is never changed once it was released; what changes
//! is a new one. The tables' columns and functions are a contract: see `docs/outbox.md`.

use crate::dialect::Dialect;
use crate::error::Error;

/// One step from a version of the tables to the next.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Counts from 1.
    pub version: i32,
    /// Its statements.
    pub sql: &'static str,
}

/// The newest version.
pub(crate) fn newest<D: Dialect>() -> i32 {
    D::MIGRATIONS.last().map_or(0, |migration| migration.version)
}

/// The migrations that a database of version `found` lacks.
///
/// # Errors
///
/// [`Error::TooNew`] if it is ahead of this program.
pub(crate) fn missing<D: Dialect>(
    found: i32,
) -> Result<impl Iterator<Item = &'static Migration>, Error> {
    let known = newest::<D>();
    if found > known {
        return Err(Error::TooNew { found, known });
    }
    Ok(D::MIGRATIONS.iter().filter(move |migration| migration.version > found))
}

/// The table that remembers which migrations were applied; the same in all databases.
pub(crate) const HISTORY: &str = "create table if not exists posthouse_schema (
    version    integer not null primary key,
    applied_at timestamp not null default current_timestamp
)";

/// Everything that makes the newest version in an empty database, as a script for its command-line client.
#[must_use]
pub fn script<D: Dialect>() -> String {
    let mut script = format!("{HISTORY};\n");
    for migration in D::MIGRATIONS {
        script.push('\n');
        script.push_str(&for_clients(migration.sql));
        script.push_str(&format!(
            "\ninsert into posthouse_schema (version) values ({});\n",
            migration.version
        ));
    }
    script
}

/// What stands between statements with a body, in files for databases whose clients take statements apart themselves.
const BODY: &str = "-- body\n";

/// The statements of a migration, for databases that take one at a time: separated by `;` at a line's end, but what
/// follows a line `-- body` is one statement up to the next such line.
#[cfg(any(feature = "mysql", test))]
pub(crate) fn statements(sql: &'static str) -> impl Iterator<Item = &'static str> {
    let parts = sql.split(BODY).enumerate();
    parts
        .flat_map(|(number, part)| match number % 2 == 0 {
            true => part.split(";\n").collect::<Vec<_>>(),
            false => vec![part],
        })
        .map(|statement| statement.trim().trim_end_matches(';'))
        .filter(|statement| {
            statement.lines().any(|line| !line.is_empty() && !line.starts_with("--"))
        })
}

/// The same for a client that must be told where a statement with a body ends.
fn for_clients(sql: &str) -> String {
    let mut script = String::with_capacity(sql.len());
    for (number, part) in sql.split(BODY).enumerate() {
        match number % 2 == 0 {
            true => script.push_str(part),
            false => {
                let body = part.trim_end().trim_end_matches(';');
                script.push_str(&format!("delimiter //\n{body}//\ndelimiter ;\n"));
            }
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQL: &str = "-- one\ncreate a;\n-- two\ncreate b (\n c);\n-- body\ncreate p begin x; y;\nend;\n-- body\ncreate d;\n";

    #[test]
    fn statements_are_separated_and_bodies_are_whole() {
        let found: Vec<&str> = statements(SQL).collect();

        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(found[2], "create p begin x; y;\nend");
    }

    #[test]
    fn a_client_is_told_where_a_body_ends() {
        assert!(
            for_clients(SQL).contains("delimiter //\ncreate p begin x; y;\nend//\ndelimiter ;\n")
        );
    }
}
