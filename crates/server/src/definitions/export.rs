//! Writing definitions as RabbitMQ does.

use serde_json::{Value as Json, json};

use super::json_table::json_of_table;
use super::{
    Binding, Definitions, Destination, Exchange, Parameter, Permission, Policy, Queue, Tenant,
    TopicPermission, User,
};

pub(super) fn to_json(definitions: &Definitions) -> Json {
    let (operator, plain): (Vec<_>, Vec<_>) =
        definitions.policies.iter().partition(|policy| policy.operator);
    let limits = definitions.tenants.iter().filter_map(tenant_limits);
    let parameters = definitions.parameters.iter().map(parameter);
    json!({
        "product_name": "Posthouse",
        "product_version": env!("CARGO_PKG_VERSION"),
        "users": list(&definitions.users, user),
        "vhosts": list(&definitions.tenants, tenant),
        "permissions": list(&definitions.permissions, permission),
        "topic_permissions": list(&definitions.topic_permissions, topic_permission),
        "parameters": operator.into_iter().map(operator_policy).chain(limits).chain(parameters).collect::<Vec<_>>(),
        "global_parameters": list(&definitions.global_parameters, |p| json!({ "name": p.name, "value": p.value })),
        "policies": plain.into_iter().map(policy).collect::<Vec<_>>(),
        "queues": list(&definitions.queues, queue),
        "exchanges": list(&definitions.exchanges, exchange),
        "bindings": list(&definitions.bindings, binding),
    })
}

fn list<T>(entries: &[T], write: impl Fn(&T) -> Json) -> Json {
    entries.iter().map(write).collect()
}

fn user(user: &User) -> Json {
    let (password_hash, hashing_algorithm) = user.password.to_definitions();
    let bounds = [
        ("max-connections", user.limits.connections_max),
        ("max-channels", user.limits.channels_max),
    ];
    json!({
        "name": user.name,
        "password_hash": password_hash,
        "hashing_algorithm": hashing_algorithm,
        "tags": user.tags,
        "limits": bounds_set(bounds),
    })
}

/// Bounds that are set, by RabbitMQ's names.
fn bounds_set<const N: usize>(bounds: [(&str, Option<u64>); N]) -> Json {
    let set =
        bounds.into_iter().filter_map(|(name, bound)| Some((name.to_owned(), Json::from(bound?))));
    Json::Object(set.collect())
}

fn tenant(tenant: &Tenant) -> Json {
    let mut json =
        json!({ "name": tenant.name, "description": tenant.description, "tags": tenant.tags });
    if let (Some(queue_type), Json::Object(map)) = (&tenant.default_queue_type, &mut json) {
        map.insert("default_queue_type".to_owned(), queue_type.as_str().into());
    }
    json
}

fn tenant_limits(tenant: &Tenant) -> Option<Json> {
    let bounds = [
        ("max-connections", tenant.limits.connections_max),
        ("max-queues", tenant.limits.queues_max),
    ];
    let value = bounds_set(bounds);
    let is_set = value.as_object().is_some_and(|map| !map.is_empty());
    is_set.then(|| json!({ "component": "vhost-limits", "vhost": tenant.name, "name": "limits", "value": value }))
}

fn permission(permission: &Permission) -> Json {
    json!({
        "user": permission.user,
        "vhost": permission.tenant,
        "configure": permission.configure,
        "write": permission.write,
        "read": permission.read,
    })
}

fn topic_permission(permission: &TopicPermission) -> Json {
    json!({
        "user": permission.user,
        "vhost": permission.tenant,
        "exchange": permission.exchange,
        "write": permission.write,
        "read": permission.read,
    })
}

fn policy(policy: &Policy) -> Json {
    json!({
        "vhost": policy.tenant,
        "name": policy.name,
        "pattern": policy.pattern,
        "apply-to": policy.apply_to,
        "priority": policy.priority,
        "definition": json_of_table(&policy.definition),
    })
}

fn operator_policy(policy: &Policy) -> Json {
    json!({
        "component": "operator_policy",
        "vhost": policy.tenant,
        "name": policy.name,
        "value": {
            "pattern": policy.pattern,
            "apply-to": policy.apply_to,
            "priority": policy.priority,
            "definition": json_of_table(&policy.definition),
        },
    })
}

fn parameter(parameter: &Parameter) -> Json {
    json!({
        "component": parameter.component,
        "vhost": parameter.tenant,
        "name": parameter.name,
        "value": parameter.value,
    })
}

fn queue(queue: &Queue) -> Json {
    json!({
        "vhost": queue.tenant,
        "name": queue.name,
        "durable": queue.durable,
        "auto_delete": queue.auto_delete,
        "arguments": json_of_table(&queue.arguments),
    })
}

fn exchange(exchange: &Exchange) -> Json {
    json!({
        "vhost": exchange.tenant,
        "name": exchange.name,
        "type": exchange.exchange_type,
        "durable": exchange.durable,
        "auto_delete": exchange.auto_delete,
        "internal": exchange.internal,
        "arguments": json_of_table(&exchange.arguments),
    })
}

fn binding(binding: &Binding) -> Json {
    let destination_type = match binding.destination_type {
        Destination::Queue => "queue",
        Destination::Exchange => "exchange",
    };
    json!({
        "vhost": binding.tenant,
        "source": binding.source,
        "destination": binding.destination,
        "destination_type": destination_type,
        "routing_key": binding.routing_key,
        "arguments": json_of_table(&binding.arguments),
    })
}
