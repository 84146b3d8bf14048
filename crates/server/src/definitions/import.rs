//! Reading a definitions file of RabbitMQ 3.x or 4.x, or one of ours.

use posthouse_amqp::table::{Table, Value};
use serde_json::{Map, Value as Json};

use super::fields::Fields;
use super::report::Report;
use super::{
    Binding, Definitions, DefinitionsError, Destination, Exchange, GlobalParameter, Parameter,
    Permission, Policy, Queue, Tenant, TenantLimits, TopicPermission, User, UserLimits,
};
use crate::auth::PasswordHash;

/// What RabbitMQ hashes with when a file does not say: 3.6 and later.
const HASHING_DEFAULT: &str = "rabbit_password_hashing_sha256";

/// Parameters that are more than parameters.
const OPERATOR_POLICY: &str = "operator_policy";
const TENANT_LIMITS: &str = "vhost-limits";

/// Facts about the exporting server, which define nothing.
const HEADINGS: [&str; 8] = [
    "rabbit_version",
    "rabbitmq_version",
    "product_name",
    "product_version",
    "rabbitmq_definition_format",
    "original_cluster_name",
    "original_vhost_name",
    "explanation",
];

/// Policy keys that mean something to Posthouse.
const POLICY_KEYS: [&str; 24] = [
    "alternate-exchange",
    "consumer-disconnected-timeout",
    "consumer-timeout",
    "dead-letter-exchange",
    "dead-letter-routing-key",
    "dead-letter-strategy",
    "delayed-retry-max",
    "delayed-retry-min",
    "delayed-retry-type",
    "delivery-limit",
    "expires",
    "initial-cluster-size",
    "max-age",
    "max-in-memory-bytes",
    "max-in-memory-length",
    "max-length",
    "max-length-bytes",
    "message-ttl",
    "overflow",
    "queue-leader-locator",
    "queue-mode",
    "queue-version",
    "stream-filter-size-bytes",
    "stream-max-segment-size-bytes",
];

pub(super) fn parse(
    json: &[u8],
    default_tenant: &str,
) -> Result<(Definitions, Report), DefinitionsError> {
    let Json::Object(mut root) = serde_json::from_slice(json).map_err(DefinitionsError::Syntax)?
    else {
        return Err(DefinitionsError::NotAnObject);
    };
    let mut import = Import { default_tenant, report: Report::default(), limits: Vec::new() };
    let mut definitions = Definitions {
        users: import.each(&mut root, "users", user),
        tenants: import.each(&mut root, "vhosts", tenant),
        permissions: import.each(&mut root, "permissions", permission),
        topic_permissions: import.each(&mut root, "topic_permissions", topic_permission),
        policies: import
            .each(&mut root, "policies", |fields, tenant| policy(fields, tenant, false)),
        exchanges: import.each(&mut root, "exchanges", exchange),
        queues: import.each(&mut root, "queues", queue),
        bindings: import.each(&mut root, "bindings", binding),
        parameters: Vec::new(),
        global_parameters: import
            .each(&mut root, "global_parameters", |fields, _| global_parameter(fields)),
    };
    import.parameters(&mut root, &mut definitions);
    import.apply_limits(&mut definitions);
    let mut report = import.report;
    for (name, value) in root {
        if !HEADINGS.contains(&name.as_str())
            && !matches!(&value, Json::Array(items) if items.is_empty())
        {
            report.add(name, "is not understood and has no effect");
        }
    }
    Ok((definitions, report))
}

struct Import<'a> {
    default_tenant: &'a str,
    report: Report,
    /// Tenant, its limits, and where the file says so.
    limits: Vec<(String, TenantLimits, String)>,
}

impl Import<'_> {
    /// Reads every entry of a list; those that lack what they cannot be without are skipped with a note.
    fn each<T>(
        &mut self,
        root: &mut Map<String, Json>,
        name: &str,
        read: impl Fn(&mut Fields<'_>, &str) -> Option<T>,
    ) -> Vec<T> {
        let items = match root.remove(name) {
            None | Some(Json::Null) => return Vec::new(),
            Some(Json::Array(items)) => items,
            Some(_) => {
                self.report.add(name, "must be a list; it is skipped");
                return Vec::new();
            }
        };
        let mut entries = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{name}[{index}]");
            let Json::Object(map) = item else {
                self.report.add(path, "must be an object; it is skipped");
                continue;
            };
            let mut fields = Fields::new(path, map, &mut self.report);
            if let Some(entry) = read(&mut fields, self.default_tenant) {
                entries.push(entry);
                fields.finish();
            }
        }
        entries
    }

    /// Parameters hold operator policies and limits of virtual hosts, beside what plug-ins keep there.
    fn parameters(&mut self, root: &mut Map<String, Json>, definitions: &mut Definitions) {
        let all = self.each(root, "parameters", |fields, tenant| {
            let component = fields.required("component")?;
            let name = fields.required("name")?;
            let value = match component.as_str() {
                OPERATOR_POLICY | TENANT_LIMITS => Json::Object(fields.object("value")),
                _ => fields.any("value"),
            };
            Some((component, vhost(fields, tenant), name, value))
        });
        for (component, tenant, name, value) in all {
            let path = format!("parameters.{component}.{name}");
            match (component.as_str(), value) {
                (OPERATOR_POLICY, Json::Object(mut map)) => {
                    map.insert("name".to_owned(), name.into());
                    map.insert("vhost".to_owned(), tenant.clone().into());
                    let mut fields = Fields::new(path, map, &mut self.report);
                    definitions.policies.extend(policy(&mut fields, &tenant, true));
                    fields.finish();
                }
                (TENANT_LIMITS, Json::Object(map)) => {
                    let mut fields = Fields::new(path.clone(), map, &mut self.report);
                    let limits = tenant_limits(&mut fields);
                    fields.finish();
                    self.limits.push((tenant, limits, path));
                }
                (_, value) => {
                    self.report
                        .add(path, "is kept for export only: Posthouse runs nothing from it");
                    definitions.parameters.push(Parameter { component, tenant, name, value });
                }
            }
        }
    }

    fn apply_limits(&mut self, definitions: &mut Definitions) {
        for (name, limits, path) in std::mem::take(&mut self.limits) {
            match definitions.tenants.iter_mut().find(|tenant| tenant.name == name) {
                Some(tenant) => tenant.limits = limits,
                // An export of limits only: the virtual host is known elsewhere.
                None => {
                    self.report.add(
                        path,
                        format!("virtual host `{name}` is not in this file; it is created"),
                    );
                    definitions.tenants.push(Tenant { name, limits, ..Tenant::default() });
                }
            }
        }
    }
}

fn vhost(fields: &mut Fields<'_>, default_tenant: &str) -> String {
    fields.text("vhost").unwrap_or_else(|| default_tenant.to_owned())
}

fn user(fields: &mut Fields<'_>, _: &str) -> Option<User> {
    let name = fields.required("name")?;
    let password = user_password(fields);
    let tags = fields.tags("tags");
    let mut limits = fields.nested("limits");
    let bounds = UserLimits {
        connections_max: limits.bound("max-connections"),
        channels_max: limits.bound("max-channels"),
    };
    limits.finish();
    Some(User { name, password, tags, limits: bounds })
}

/// A hash, or a password in clear text as people write files by hand; an unusable one locks the user.
fn user_password(fields: &mut Fields<'_>) -> PasswordHash {
    let algorithm = fields.text("hashing_algorithm").unwrap_or_else(|| HASHING_DEFAULT.to_owned());
    let (name, hash) = match (fields.text("password_hash"), fields.text("password")) {
        (Some(hash), _) => ("password_hash", PasswordHash::from_definitions(&hash, &algorithm)),
        (None, Some(password)) => ("password", PasswordHash::of(password.as_bytes())),
        (None, None) => return PasswordHash::Locked,
    };
    hash.unwrap_or_else(|error| {
        fields.note(name, &format!("{error}; until then no password lets this user in"));
        PasswordHash::Locked
    })
}

fn tenant(fields: &mut Fields<'_>, _: &str) -> Option<Tenant> {
    let name = fields.required("name")?;
    // Since 3.8 the facts are in both places.
    let mut metadata = fields.nested("metadata");
    let inner =
        (metadata.text("description"), metadata.tags("tags"), metadata.text("default_queue_type"));
    metadata.finish();
    let description = fields.text("description").or(inner.0).unwrap_or_default();
    let mut tags = fields.tags("tags");
    if tags.is_empty() {
        tags = inner.1;
    }
    let default_queue_type = fields.text("default_queue_type").or(inner.2);
    if fields.switch("tracing", false) {
        fields.note("tracing", "is not switched on by definitions");
    }
    // Newer exports list limits here as well as in parameters.
    let mut limits = fields.nested("limits");
    let bounds = tenant_limits(&mut limits);
    limits.finish();
    Some(Tenant { name, description, tags, default_queue_type, limits: bounds })
}

fn tenant_limits(fields: &mut Fields<'_>) -> TenantLimits {
    TenantLimits {
        connections_max: fields.bound("max-connections"),
        queues_max: fields.bound("max-queues"),
    }
}

fn permission(fields: &mut Fields<'_>, default_tenant: &str) -> Option<Permission> {
    Some(Permission {
        user: fields.required("user")?,
        tenant: vhost(fields, default_tenant),
        configure: fields.required("configure")?,
        write: fields.required("write")?,
        read: fields.required("read")?,
    })
}

fn topic_permission(fields: &mut Fields<'_>, default_tenant: &str) -> Option<TopicPermission> {
    Some(TopicPermission {
        user: fields.required("user")?,
        tenant: vhost(fields, default_tenant),
        exchange: fields.required("exchange")?,
        write: fields.required("write")?,
        read: fields.required("read")?,
    })
}

fn policy(fields: &mut Fields<'_>, default_tenant: &str, operator: bool) -> Option<Policy> {
    let policy = Policy {
        operator,
        tenant: vhost(fields, default_tenant),
        name: fields.required("name")?,
        pattern: fields.required("pattern")?,
        apply_to: fields.text("apply-to").unwrap_or_else(|| "all".to_owned()),
        priority: fields.whole_number("priority").unwrap_or(0),
        definition: fields.table("definition"),
    };
    if let Err(error) = regex::Regex::new(&policy.pattern) {
        fields.note(
            "pattern",
            &format!("is not a regular expression that is supported ({error}); it matches nothing"),
        );
    }
    note_unknown_keys(fields, &policy.definition);
    Some(policy)
}

fn note_unknown_keys(fields: &mut Fields<'_>, definition: &Table) {
    for (key, _) in definition.iter().filter(|(key, _)| !POLICY_KEYS.contains(key)) {
        let reason = match key {
            mirrored if mirrored.starts_with("ha-") => {
                "is of mirrored queues, which RabbitMQ 4 has not either"
            }
            _ => "is not understood",
        };
        fields
            .note(&format!("definition.{key}"), &format!("{reason}; it is kept and has no effect"));
    }
}

fn exchange(fields: &mut Fields<'_>, default_tenant: &str) -> Option<Exchange> {
    // A policy in force is shown in some exports; policies are in a list of their own.
    fields.ignore(&["policy", "user_who_performed_action"]);
    Some(Exchange {
        tenant: vhost(fields, default_tenant),
        name: fields.required("name")?,
        exchange_type: fields.required("type")?,
        durable: fields.switch("durable", true),
        auto_delete: fields.switch("auto_delete", false),
        internal: fields.switch("internal", false),
        arguments: fields.table("arguments"),
    })
}

fn queue(fields: &mut Fields<'_>, default_tenant: &str) -> Option<Queue> {
    fields.ignore(&["policy", "user_who_performed_action"]);
    let mut queue = Queue {
        tenant: vhost(fields, default_tenant),
        name: fields.required("name")?,
        durable: fields.switch("durable", true),
        auto_delete: fields.switch("auto_delete", false),
        arguments: fields.table("arguments"),
    };
    // Since 3.13 the type stands beside the arguments too; the argument is what a redeclaration is compared with.
    if let Some(queue_type) = fields.text("type")
        && queue.arguments.get("x-queue-type").is_none()
        && queue_type != "classic"
    {
        queue.arguments.insert("x-queue-type", Value::LongString(queue_type.into_bytes()));
    }
    Some(queue)
}

fn binding(fields: &mut Fields<'_>, default_tenant: &str) -> Option<Binding> {
    fields.ignore(&["properties_key"]);
    let binding = Binding {
        tenant: vhost(fields, default_tenant),
        source: fields.required("source")?,
        destination: fields.required("destination")?,
        destination_type: destination_type(fields)?,
        routing_key: fields.text("routing_key").unwrap_or_default(),
        arguments: fields.table("arguments"),
    };
    // The default exchange's bindings come with the queues; some exports list them.
    if binding.source.is_empty() { None } else { Some(binding) }
}

fn destination_type(fields: &mut Fields<'_>) -> Option<Destination> {
    match fields.text("destination_type").as_deref() {
        None | Some("queue" | "q") => Some(Destination::Queue),
        Some("exchange" | "e") => Some(Destination::Exchange),
        Some(other) => {
            fields.note(
                "destination_type",
                &format!("`{other}` is neither queue nor exchange; this entry is skipped"),
            );
            None
        }
    }
}

fn global_parameter(fields: &mut Fields<'_>) -> Option<GlobalParameter> {
    let name = fields.required("name")?;
    Some(GlobalParameter { value: fields.any("value"), name })
}
