//! The OpenAPI document, made from the table of routes.

use serde_json::{Map, Value, json};

use crate::door::zaqar::route::{Offered, Parameter, ROUTES, Route};

/// Everything that version 2 offers, as OpenAPI 3.1, with what needs `queues.admin_mode`.
#[must_use]
pub fn document() -> Value {
    let mut paths = Map::new();
    paths.insert(
        "/".to_owned(),
        json!({"get": open("versions", "The versions that there are.", "300", "versions")}),
    );
    paths.insert(
        "/openapi.json".to_owned(),
        json!({"get": open("openapi", "This document.", "200", "object")}),
    );
    for route in ROUTES {
        let path = paths.entry(format!("/v2{}", route.template)).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(route.method.as_str().to_lowercase(), operation(route));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Posthouse queue service",
            "version": "2",
            "summary": "OpenStack Zaqar's messaging API, version 2.",
            "license": {"name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"},
                "bearer": {"type": "http", "scheme": "bearer"},
                "signature": {"type": "apiKey", "in": "header", "name": "URL-Signature"},
            },
        },
        "security": [{}, {"token": []}, {"bearer": []}, {"signature": []}],
    })
}

fn open(id: &str, summary: &str, status: &str, schema: &str) -> Value {
    json!({
        "operationId": id,
        "summary": summary,
        "security": [{}],
        "responses": {status: answer(schema, "application/json")},
    })
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "parameters": parameters(route),
        "responses": answers(route),
    });
    if let (Some(operation), true) = (operation.as_object_mut(), route.is_open()) {
        let body = json!({
            "description": "The answer for whoever asked, of any type, where the subscription says `answers`.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        });
        operation.insert("requestBody".to_owned(), body);
        operation.insert("security".to_owned(), json!([{}]));
    }
    if let (Some(operation), Some(rule)) = (operation.as_object_mut(), route.rule) {
        operation.insert("x-policy-rule".to_owned(), json!(rule.name()));
        if matches!(route.offered, Offered::Admin | Offered::Pooling) {
            operation.insert("x-admin-mode".to_owned(), json!(true));
        }
        if let Some(schema) = route.body {
            let media = if schema == "patch" {
                crate::door::zaqar::patch::MEDIA_TYPE
            } else {
                "application/json"
            };
            let body = json!({
                "required": matches!(schema, "messages" | "patch" | "subscription" | "confirm" | "share"),
                "content": {media: {"schema": reference(schema)}},
            });
            operation.insert("requestBody".to_owned(), body);
        }
    }
    operation
}

/// `get_queues_queue_name_stats`.
fn operation_id(route: &Route) -> String {
    let words: Vec<_> =
        route.template.split(['/', '{', '}']).filter(|word| !word.is_empty()).collect();
    format!("{}_{}", route.method.as_str().to_lowercase(), words.join("_"))
}

fn parameters(route: &Route) -> Vec<Value> {
    let header = |name: &str, schema: Value, about: &str| json!({"name": name, "in": "header", "required": true, "description": about, "schema": schema});
    if route.is_open() {
        return settle_parameters();
    }
    let mut parameters = vec![
        header(
            "Client-ID",
            json!({"type": "string", "format": "uuid"}),
            "Names the client, to leave out its own messages.",
        ),
        header(
            "X-Project-Id",
            json!({"type": "string", "minLength": 1, "maxLength": 256, "pattern": r"^\S+$"}),
            "The project.",
        ),
    ];
    for variable in route.template.split('{').skip(1).filter_map(|part| part.split('}').next()) {
        let schema = if variable.ends_with("_name") {
            json!({"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"})
        } else {
            json!({"type": "string", "minLength": 1})
        };
        parameters
            .push(json!({"name": variable, "in": "path", "required": true, "schema": schema}));
    }
    let query = |parameter: &Parameter| {
        json!({
            "name": parameter.name,
            "in": "query",
            "description": parameter.about,
            "schema": {"type": parameter.kind},
        })
    };
    parameters.extend(route.query.iter().map(query));
    parameters
}

/// Nobody says who they are; the path says it all.
fn settle_parameters() -> Vec<Value> {
    vec![
        json!({"name": "token", "in": "path", "required": true, "schema": {"type": "string", "minLength": 1},
            "description": "From the request's `posthouse-ack-url`."}),
        json!({"name": "posthouse-settle", "in": "header", "schema": {"enum": ["ack", "retry", "dead", "drop"]},
            "description": "What becomes of the message; `ack` if not given."}),
        json!({"name": "retry-after", "in": "header", "schema": {"type": "string"},
            "description": "With `retry`: seconds, or a date."}),
    ]
}

/// What settling may be refused with.
fn settle_answers() -> Value {
    let refusal = answer("problem", "application/json");
    let mut answers = Map::new();
    for status in ["400", "404", "408", "410", "413", "503", "default"] {
        answers.insert(status.to_owned(), refusal.clone());
    }
    answers.insert("204".to_owned(), answer("", ""));
    answers.into()
}

fn answers(route: &Route) -> Value {
    if route.is_open() {
        return settle_answers();
    }
    let mut answers = Map::new();
    let home = route.template == "/";
    for (status, schema) in route.answers {
        let media = if home { "application/json-home" } else { "application/json" };
        answers.insert(status.to_string(), answer(schema, media));
    }
    let refusal = answer("problem", "application/json");
    answers.insert("default".to_owned(), refusal.clone());
    for status in ["400", "401", "403", "404"] {
        answers.insert(status.to_owned(), refusal.clone());
    }
    answers.insert("406".to_owned(), answer("", ""));
    if route.body == Some("patch") {
        answers.insert("409".to_owned(), refusal.clone());
        answers.insert("415".to_owned(), refusal);
    }
    answers.into()
}

fn answer(schema: &str, media: &str) -> Value {
    match schema {
        "" => json!({"description": "No body."}),
        "problem" => {
            json!({"description": "Refused.", "content": {media: {"schema": reference(schema)}}})
        }
        _ => json!({"description": "Done.", "content": {media: {"schema": reference(schema)}}}),
    }
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn object(required: &[&str], properties: &Value) -> Value {
    json!({"type": "object", "required": required, "properties": properties})
}

fn list_of(name: &str, item: &Value) -> Value {
    object(
        &[name, "links"],
        &json!({name: {"type": "array", "items": item}, "links": {"type": "array", "items": reference("link")}}),
    )
}

fn schemas() -> Value {
    let mut schemas = requests();
    schemas.extend(replies());
    schemas.into()
}

type Schemas = Map<String, Value>;

fn put(schemas: &mut Schemas, name: &str, schema: Value) {
    schemas.insert(name.to_owned(), schema);
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn requests() -> Schemas {
    let mut schemas = Map::new();
    let ttl = |least: u32| json!({"type": "integer", "minimum": least});
    put(
        &mut schemas,
        "metadata",
        json!({"type": "object", "description": "Attributes; those that begin with _ may be reserved."}),
    );
    put(
        &mut schemas,
        "patch",
        json!({"type": "array", "items": object(&["op", "path"], &json!({
            "op": {"enum": ["add", "replace", "remove"]},
            "path": {"type": "string", "pattern": "^/metadata/[^/]+$"},
            "value": {},
        }))}),
    );
    put(
        &mut schemas,
        "share",
        object(
            &[],
            &json!({
                "paths": {"type": "array", "items": {"enum": ["messages", "subscriptions", "claims"]}},
                "methods": {"type": "array", "items": {"type": "string"}},
                "expires": {"type": "string"},
            }),
        ),
    );
    put(
        &mut schemas,
        "purge",
        object(
            &["resource_types"],
            &json!({
                "resource_types": {"type": "array", "items": {"enum": ["messages", "subscriptions"]}},
            }),
        ),
    );
    put(
        &mut schemas,
        "messages",
        object(
            &["messages"],
            &json!({
                "messages": {"type": "array", "minItems": 1, "items": object(&["body"], &json!({
                    "ttl": ttl(60), "delay": ttl(0), "body": {},
                }))},
            }),
        ),
    );
    put(&mut schemas, "claim", object(&[], &json!({"ttl": ttl(60), "grace": ttl(60)})));
    put(
        &mut schemas,
        "subscription",
        object(
            &["subscriber"],
            &json!({
                "subscriber": {"type": "string"}, "ttl": ttl(60), "options": {"type": "object"},
            }),
        ),
    );
    put(
        &mut schemas,
        "subscription_change",
        object(
            &[],
            &json!({
                "subscriber": {"type": "string"}, "ttl": ttl(60), "options": {"type": "object"},
            }),
        ),
    );
    put(
        &mut schemas,
        "confirm",
        object(&["confirmed"], &json!({"confirmed": {"type": "boolean"}})),
    );
    put(&mut schemas, "pool", object(&["weight", "uri"], &pool_members()));
    put(&mut schemas, "pool_change", object(&[], &pool_members()));
    let pools = json!({"pool_list": {"type": "array", "items": {"type": "string"}}});
    put(&mut schemas, "flavor", object(&["pool_list"], &pools));
    put(&mut schemas, "flavor_change", object(&["pool_list"], &pools));
    schemas
}

fn pool_members() -> Value {
    json!({
        "weight": {"type": "integer", "minimum": 0, "maximum": u32::MAX},
        "uri": {"type": "string", "maxLength": 255},
        "flavor": {"type": ["string", "null"], "maxLength": 255},
        "options": {"type": "object"},
    })
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn replies() -> Schemas {
    let mut schemas = Map::new();
    let text = json!({"type": "string"});
    let whole = json!({"type": "integer", "minimum": 0});
    let of = |name: &str| reference(name);
    put(&mut schemas, "object", json!({"type": "object"}));
    put(
        &mut schemas,
        "problem",
        json!({"type": "object", "properties": {
            "title": text, "description": text, "error": {"type": "object"},
        }}),
    );
    put(
        &mut schemas,
        "link",
        object(&["rel", "href"], &json!({"rel": {"const": "next"}, "href": text})),
    );
    put(
        &mut schemas,
        "versions",
        object(&["versions"], &json!({"versions": {"type": "array", "items": {"type": "object"}}})),
    );
    put(&mut schemas, "home", object(&["resources"], &json!({"resources": {"type": "object"}})));
    put(
        &mut schemas,
        "health",
        object(
            &["storage_reachable", "operation_status"],
            &json!({
                "storage_reachable": {"type": "boolean"}, "operation_status": {"type": "object"}, "message_volume": {"type": "object"},
                "catalog_reachable": {"type": "boolean"},
            }),
        ),
    );
    let queue =
        object(&["name", "href"], &json!({"name": text, "href": text, "metadata": of("metadata")}));
    put(&mut schemas, "queue_list", list_of("queues", &queue));
    put(&mut schemas, "topic_list", list_of("topics", &queue));
    let edge =
        object(&["age", "created", "href"], &json!({"age": whole, "created": text, "href": text}));
    put(
        &mut schemas,
        "stats",
        object(
            &["messages"],
            &json!({"messages": object(&["claimed", "free", "total"], &json!({
                "claimed": whole, "free": whole, "total": whole, "oldest": edge, "newest": edge,
            }))}),
        ),
    );
    put(
        &mut schemas,
        "topic_stats",
        object(
            &["messages"],
            &json!({"messages": object(&["total"], &json!({
                "total": whole, "oldest": edge, "newest": edge,
            }))}),
        ),
    );
    let texts = json!({"type": "array", "items": text});
    put(
        &mut schemas,
        "shared",
        object(
            &["paths", "methods", "project", "expires", "signature"],
            &json!({
                "paths": texts, "methods": texts, "project": text, "expires": text, "signature": text,
            }),
        ),
    );
    put(&mut schemas, "posted", object(&["resources"], &json!({"resources": texts})));
    put(
        &mut schemas,
        "message",
        object(
            &["id", "href", "ttl", "age", "body"],
            &json!({
                "id": text, "href": text, "ttl": whole, "age": whole, "body": {}, "checksum": text,
            }),
        ),
    );
    let messages = json!({"type": "array", "items": of("message")});
    put(
        &mut schemas,
        "message_list",
        object(
            &["messages"],
            &json!({
                "messages": messages, "links": {"type": "array", "items": of("link")},
            }),
        ),
    );
    put(
        &mut schemas,
        "popped",
        object(
            &["messages"],
            &json!({"messages": {"type": "array", "items": object(&["id", "age", "ttl", "body"], &json!({
                "id": text, "age": whole, "ttl": whole, "body": {}, "claim_count": whole, "claim_id": {"type": "null"},
            }))}}),
        ),
    );
    put(&mut schemas, "claimed", object(&["messages"], &json!({"messages": messages})));
    put(
        &mut schemas,
        "claim_view",
        object(
            &["age", "ttl", "messages", "href"],
            &json!({
                "age": whole, "ttl": whole, "messages": messages, "href": text,
            }),
        ),
    );
    let subscription = object(
        &["id", "source", "subscriber", "ttl", "age", "options", "confirmed"],
        &json!({
            "id": text, "source": text, "subscriber": text, "ttl": whole, "age": whole,
            "options": {"type": "object"}, "confirmed": {"type": "boolean"},
        }),
    );
    put(&mut schemas, "subscription_list", list_of("subscriptions", &of("subscription_view")));
    put(&mut schemas, "subscription_view", subscription);
    put(
        &mut schemas,
        "subscribed",
        object(&["subscription_id"], &json!({"subscription_id": text})),
    );
    let mut pool = pool_members();
    if let Some(pool) = pool.as_object_mut() {
        pool.extend(["name", "href"].map(|member| (member.to_owned(), text.clone())));
    }
    put(&mut schemas, "pool_view", object(&["name", "href", "weight", "uri", "flavor"], &pool));
    put(&mut schemas, "pool_list", list_of("pools", &of("pool_view")));
    put(
        &mut schemas,
        "flavor_view",
        object(
            &["name", "href", "pool_list"],
            &json!({
                "name": text, "href": text, "pool_list": texts, "capabilities": texts,
            }),
        ),
    );
    put(&mut schemas, "flavor_list", list_of("flavors", &of("flavor_view")));
    schemas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_that_is_spoken_of_is_there() {
        let document = document();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let text = document.to_string();

        for name in
            text.split("#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap())
        {
            assert!(schemas.contains_key(name), "{name}");
        }
    }

    #[test]
    fn operation_ids_are_unique() {
        let mut ids: Vec<_> = ROUTES.iter().map(operation_id).collect();
        ids.sort();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
