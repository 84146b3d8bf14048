//! Definitions files: what RabbitMQ exports, read unchanged; and the same written.
//!
//! Reading never loses anything silently: what is not understood, is not kept, or has no effect here goes into a
//! [`Report`] with its place in the file. Reading decides nothing about what exists already; that is for whoever applies
//! the [`Definitions`].

pub mod apply;
mod export;
mod fields;
mod import;
mod json_table;
mod report;

use posthouse_amqp::table::Table;

use crate::auth::PasswordHash;

pub use json_table::{json_of_table, table_of_json};
pub use report::{Note, Report};

/// Largest definitions file. A real one of 100 000 queues has about 20 MB.
pub const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Why a definitions file could not be read at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DefinitionsError {
    /// The file is not JSON; line and column are in the source. Correct it, or export it again.
    #[error("definitions are not JSON")]
    Syntax(#[source] serde_json::Error),
    /// The file is JSON, but not an object with lists in it.
    #[error("definitions must be a JSON object, as `rabbitmqctl export_definitions` writes it")]
    NotAnObject,
}

/// Everything a definitions file can define, in the order of the file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Definitions {
    /// Who may come in.
    pub users: Vec<User>,
    /// Virtual hosts.
    pub tenants: Vec<Tenant>,
    /// What users may do.
    pub permissions: Vec<Permission>,
    /// What routing keys users may publish and bind with.
    pub topic_permissions: Vec<TopicPermission>,
    /// Policies and operator policies.
    pub policies: Vec<Policy>,
    /// Exchanges; the predeclared ones are not in files.
    pub exchanges: Vec<Exchange>,
    /// Queues.
    pub queues: Vec<Queue>,
    /// Bindings.
    pub bindings: Vec<Binding>,
    /// Runtime parameters that are neither operator policies nor limits, such as shovels; kept to be exported again.
    pub parameters: Vec<Parameter>,
    /// Parameters of the whole cluster; kept to be exported again.
    pub global_parameters: Vec<GlobalParameter>,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// What a password is checked against.
    pub password: PasswordHash,
    /// `administrator`, `monitoring`, `policymaker`, `management`, `impersonator` and others.
    pub tags: Vec<String>,
    /// Bounds on what the user may hold.
    pub limits: UserLimits,
}

/// Bounds on what a user may hold; `None` is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UserLimits {
    /// RabbitMQ: `max-connections`.
    pub connections_max: Option<u64>,
    /// RabbitMQ: `max-channels`.
    pub channels_max: Option<u64>,
}

/// A virtual host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tenant {
    /// Name.
    pub name: String,
    /// For people.
    pub description: String,
    /// For people.
    pub tags: Vec<String>,
    /// Queue type of declarations without `x-queue-type`.
    pub default_queue_type: Option<String>,
    /// Bounds on what the virtual host may hold.
    pub limits: TenantLimits,
}

/// Bounds on what a virtual host may hold; `None` is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TenantLimits {
    /// RabbitMQ: `max-connections`.
    pub connections_max: Option<u64>,
    /// RabbitMQ: `max-queues`.
    pub queues_max: Option<u64>,
}

/// What a user may do in a virtual host: three regular expressions over names.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "RabbitMQ's fields under RabbitMQ's names, with tenant for vhost")]
pub struct Permission {
    pub user: String,
    pub tenant: String,
    pub configure: String,
    pub write: String,
    pub read: String,
}

/// What routing keys a user may use with a topic exchange: two regular expressions.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "RabbitMQ's fields under RabbitMQ's names, with tenant for vhost")]
pub struct TopicPermission {
    pub user: String,
    pub tenant: String,
    pub exchange: String,
    pub write: String,
    pub read: String,
}

/// A policy: arguments for all queues or exchanges whose name matches.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Whether it is an operator policy, which bounds what clients and policies say.
    pub operator: bool,
    /// Virtual host.
    pub tenant: String,
    /// Name.
    pub name: String,
    /// Regular expression over names.
    pub pattern: String,
    /// `queues`, `exchanges`, `all`, `classic_queues`, `quorum_queues` or `streams`.
    pub apply_to: String,
    /// The highest that matches wins.
    pub priority: i64,
    /// Keys and values, known or not.
    pub definition: Table,
}

/// An exchange.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "RabbitMQ's fields under RabbitMQ's names, with tenant for vhost")]
pub struct Exchange {
    pub tenant: String,
    pub name: String,
    pub exchange_type: String,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: Table,
}

/// A queue.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "RabbitMQ's fields under RabbitMQ's names, with tenant for vhost")]
pub struct Queue {
    pub tenant: String,
    pub name: String,
    pub durable: bool,
    pub auto_delete: bool,
    pub arguments: Table,
}

/// What a binding leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// A queue.
    Queue,
    /// Another exchange.
    Exchange,
}

/// A binding.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "RabbitMQ's fields under RabbitMQ's names, with tenant for vhost")]
pub struct Binding {
    pub tenant: String,
    pub source: String,
    pub destination: String,
    pub destination_type: Destination,
    pub routing_key: String,
    pub arguments: Table,
}

/// A runtime parameter.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "RabbitMQ's fields under RabbitMQ's names, with tenant for vhost")]
pub struct Parameter {
    pub component: String,
    pub tenant: String,
    pub name: String,
    pub value: serde_json::Value,
}

/// A parameter of the whole cluster.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "RabbitMQ's fields under RabbitMQ's names")]
pub struct GlobalParameter {
    pub name: String,
    pub value: serde_json::Value,
}

impl Definitions {
    /// Reads a definitions file. Entries without a virtual host, as exports of a single one have, go to
    /// `default_tenant`.
    ///
    /// Hashes passwords that are given in clear text, which takes about 20 ms each: not for a thread that serves
    /// connections.
    ///
    /// # Errors
    ///
    /// [`DefinitionsError`] if it is no definitions file at all; anything less goes into the report, and the rest is
    /// read.
    pub fn parse(json: &[u8], default_tenant: &str) -> Result<(Self, Report), DefinitionsError> {
        import::parse(json, default_tenant)
    }

    /// Writes a definitions file that RabbitMQ can read too, but for passwords hashed with Argon2id.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        export::to_json(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Written by `rabbitmqctl export_definitions` of RabbitMQ 3.10.8 (Debian), which leaves internal exchanges out.
    const EXPORTED: &[u8] = include_bytes!("../fixtures/definitions-rabbitmq-3.10.8.json");

    fn parse(json: &serde_json::Value) -> (Definitions, Vec<String>) {
        let (definitions, report) = Definitions::parse(json.to_string().as_bytes(), "/").unwrap();
        (definitions, report.notes().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_export_of_rabbitmq_is_read_completely() {
        let (read, report) = Definitions::parse(EXPORTED, "/").unwrap();

        let mirrored = "policies[0].definition.ha-mode: is of mirrored queues, which RabbitMQ 4 has not either; \
                        it is kept and has no effect";
        assert_eq!(report.notes().iter().map(ToString::to_string).collect::<Vec<_>>(), [mirrored]);
        let counts =
            (read.users.len(), read.tenants.len(), read.permissions.len(), read.bindings.len());
        assert_eq!(counts, (3, 2, 3, 3));
        let ann = read.users.iter().find(|user| user.name == "ann").unwrap();
        assert!(ann.password.verify(b"s3cret"));
        assert_eq!(ann.tags, ["administrator", "monitoring"]);
        let bob = read.users.iter().find(|user| user.name == "bob").unwrap();
        assert_eq!(bob.limits, UserLimits { connections_max: Some(5), channels_max: Some(10) });
        let shop = read.tenants.iter().find(|tenant| tenant.name == "shop").unwrap();
        assert_eq!(shop.limits, TenantLimits { connections_max: Some(100), queues_max: Some(50) });
        assert_eq!((shop.description.as_str(), shop.tags.len()), ("The shop", 2));
        let cap = read.policies.iter().find(|policy| policy.operator).unwrap();
        assert_eq!(
            cap.definition.get("max-length").and_then(|value| value.as_i64()),
            Some(100_000)
        );
        let billing = read.queues.iter().find(|queue| queue.name == "billing").unwrap();
        assert_eq!(
            billing.arguments.get("x-message-ttl").and_then(|value| value.as_i64()),
            Some(60_000)
        );
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let (read, _) = Definitions::parse(EXPORTED, "/").unwrap();

        let (again, _) = parse(&read.to_json());

        assert_eq!(again, read);
    }

    #[test]
    fn everything_that_is_not_understood_is_reported_with_its_place() {
        let (read, notes) = parse(&json!({
            "users": [{ "name": "old", "password_hash": "x", "hashing_algorithm": "rabbit_password_hashing_md5" }],
            "queues": [{ "vhost": "/" }, { "name": "q", "durable": "maybe", "colour": "red" }, 7],
            "parameters": [{ "component": "shovel", "vhost": "/", "name": "s", "value": { "src-uri": "amqp://" } }],
            "policies": [{ "name": "p", "pattern": "(", "definition": { "message-ttl": 1 } }],
            "bindings": { "not": "a list" },
            "plugins": [1],
        }));

        let places: Vec<_> = notes.iter().filter_map(|note| note.split(": ").next()).collect();
        let expected = [
            "users[0].password_hash",
            "policies[0].pattern",
            "queues[0].name",
            "queues[1].durable",
            "queues[1].colour",
            "queues[2]",
            "bindings",
            "parameters.shovel.s",
            "plugins",
        ];
        assert_eq!(places, expected, "{notes:#?}");
        assert_eq!(read.users[0].password, PasswordHash::Locked);
        assert_eq!(
            (read.queues.len(), read.queues[0].tenant.as_str(), read.parameters.len()),
            (1, "/", 1)
        );
    }

    #[test]
    fn tags_are_a_list_or_a_text_and_a_queues_type_may_stand_beside_its_arguments() {
        let (read, notes) = parse(&json!({
            "users": [
                { "name": "a", "password_hash": "", "tags": "administrator, monitoring" },
                { "name": "b", "password_hash": "", "tags": ["policymaker"] },
                { "name": "c", "password_hash": "", "tags": "" },
            ],
            "queues": [{ "name": "q", "type": "quorum" }],
            "bindings": [{ "source": "", "destination": "q", "routing_key": "q", "properties_key": "q" }],
        }));

        let tags: Vec<_> = read.users.iter().map(|user| user.tags.len()).collect();
        assert_eq!((tags, notes), (vec![2, 1, 0], Vec::new()));
        assert_eq!(
            read.queues[0].arguments.get("x-queue-type").and_then(|value| value.as_str()),
            Some("quorum")
        );
        assert!(read.bindings.is_empty(), "bindings of the default exchange come with the queues");
    }

    #[test]
    fn what_is_no_definitions_file_is_refused() {
        assert!(matches!(Definitions::parse(b"{", "/"), Err(DefinitionsError::Syntax(_))));
        assert!(matches!(Definitions::parse(b"[]", "/"), Err(DefinitionsError::NotAnObject)));
    }
}
