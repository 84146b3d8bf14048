//! What there is, for programs: the versions at `/`, the JSON home of each version, `/openapi.json`.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use serde_json::{Map, Value, json};

use super::answer::{self, Answer};
use super::openapi;
use crate::door::zaqar::route::Version;

/// Documents that never change while the server runs.
#[derive(Debug)]
pub(super) struct Documents {
    versions: Bytes,
    home: Bytes,
    old_home: Bytes,
    openapi: Bytes,
}

impl Documents {
    pub(super) fn new(version_1_1: bool, admin_mode: bool, pooling: bool) -> Self {
        let home = |version| Bytes::from(home(version, admin_mode, pooling).to_string());
        Self {
            versions: versions(version_1_1).to_string().into(),
            home: home(Version::V2),
            old_home: home(Version::V1),
            openapi: openapi::document().to_string().into(),
        }
    }

    /// Documents that are shown to everybody.
    pub(super) fn open(&self, path: &str) -> Option<Answer> {
        match path {
            "/" => Some(answer::json(StatusCode::MULTIPLE_CHOICES, self.versions.clone())),
            "/openapi.json" => Some(answer::json(StatusCode::OK, self.openapi.clone())),
            _ => None,
        }
    }

    /// The home document of version 2.
    pub(super) fn home_json(&self) -> Bytes {
        self.home.clone()
    }

    pub(super) fn home(&self, version: Version) -> Answer {
        let document = match version {
            Version::V1 => self.old_home.clone(),
            Version::V2 => self.home.clone(),
        };
        let mut answer = answer::json(StatusCode::OK, document);
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json-home"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=86400"));
        answer
    }
}

fn versions(version_1_1: bool) -> Value {
    let version = |id: &str, status: &str, updated: &str, media: &str| {
        json!({
            "id": id,
            "status": status,
            "updated": updated,
            "media-types": [{
                "base": "application/json",
                "type": format!("application/vnd.openstack.messaging-{media}+json"),
            }],
            "links": [{"href": format!("/v{id}/"), "rel": "self"}],
        })
    };
    let mut versions = vec![version("2", "CURRENT", "2014-9-24T04:06:47Z", "v2")];
    if version_1_1 {
        versions.insert(0, version("1.1", "DEPRECATED", "2016-7-29T02:22:47Z", "v1_1"));
    }
    json!({ "versions": versions })
}

/// A link relation: its name, its template, its variables, its methods.
type Relation =
    (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

const QUEUE: (&str, &str) = ("queue_name", "param/queue_name");
const MARKER: (&str, &str) = ("marker", "param/marker");
const DETAILED: (&str, &str) = ("detailed", "param/detailed");
const MESSAGE: (&str, &str) = ("message_id", "param/message_id");
const CLAIM: (&str, &str) = ("claim_id", "param/claim_id");
const SUBSCRIPTION: (&str, &str) = ("subscriptions_id", "param/subscriptions_id");
const SUBSCRIPTION_LIMIT: (&str, &str) = ("limit", "param/subscription_limit");

#[rustfmt::skip]
const RELATIONS: &[Relation] = &[
    ("rel/queues", "/queues{?marker,limit,detailed}", &[MARKER, ("limit", "param/queue_limit"), DETAILED], &["GET"]),
    ("rel/queue", "/queues/{queue_name}", &[QUEUE], &["GET", "PUT", "DELETE", "PATCH"]),
    ("rel/queue_stats", "/queues/{queue_name}/stats", &[QUEUE], &["GET"]),
    ("rel/queue_share", "/queues/{queue_name}/share", &[QUEUE], &["POST"]),
    ("rel/queue_purge", "/queues/{queue_name}/purge", &[QUEUE], &["POST"]),
    ("rel/messages", "/queues/{queue_name}/messages{?marker,limit,echo,include_claimed}", &[QUEUE, MARKER, ("limit", "param/messages_limit"), ("echo", "param/echo"), ("include_claimed", "param/include_claimed")], &["GET"]),
    ("rel/post_messages", "/queues/{queue_name}/messages", &[QUEUE], &["POST"]),
    ("rel/messages_delete", "/queues/{queue_name}/messages{?ids,pop}", &[QUEUE, ("ids", "param/ids"), ("pop", "param/pop")], &["DELETE"]),
    ("rel/message_delete", "/queues/{queue_name}/messages/{message_id}{?claim}", &[QUEUE, MESSAGE, ("claim", "param/claim_id")], &["DELETE"]),
    ("rel/message_get", "/queues/{queue_name}/messages/{message_id}", &[QUEUE, MESSAGE], &["GET"]),
    ("rel/claim", "/queues/{queue_name}/claims/{claim_id}", &[QUEUE, CLAIM], &["GET"]),
    ("rel/post_claim", "/queues/{queue_name}/claims{?limit}", &[QUEUE, ("limit", "param/claim_limit")], &["POST"]),
    ("rel/patch_claim", "/queues/{queue_name}/claims/{claim_id}", &[QUEUE, CLAIM], &["PATCH"]),
    ("rel/delete_claim", "/queues/{queue_name}/claims/{claim_id}", &[QUEUE, CLAIM], &["DELETE"]),
    ("rel/subscriptions_get", "/queues/{queue_name}/subscriptions{?marker,limit}", &[QUEUE, MARKER, SUBSCRIPTION_LIMIT], &["GET"]),
    ("rel/subscriptions_post", "/queues/{queue_name}/subscriptions", &[QUEUE, SUBSCRIPTION_LIMIT], &["POST"]),
    ("rel/subscription", "/queues/{queue_name}/subscriptions/{subscriptions_id}", &[QUEUE, SUBSCRIPTION], &["GET", "DELETE"]),
    ("rel/subscription_patch", "/queues/{queue_name}/subscriptions/{subscriptions_id}", &[QUEUE, SUBSCRIPTION], &["PATCH"]),
    ("rel/ping", "/ping", &[], &["GET"]),
];

/// What version 1.1 does not have.
const NEW: [&str; 7] = [
    "rel/queue_share",
    "rel/queue_purge",
    "rel/message_get",
    "rel/subscriptions_get",
    "rel/subscriptions_post",
    "rel/subscription",
    "rel/subscription_patch",
];

#[rustfmt::skip]
const ADMIN: &[Relation] = &[
    ("rel/pools", "/pools{?detailed,limit,marker}", &[DETAILED, ("limit", "param/pool_limit"), MARKER], &["GET"]),
    ("rel/flavors", "/flavors{?detailed,limit,marker}", &[DETAILED, ("limit", "param/flavor_limit"), MARKER], &["GET"]),
    ("rel/pool", "/pools/{pool_name}", &[("pool_name", "param/pool_name")], &["GET", "PUT", "PATCH", "DELETE"]),
    ("rel/flavor", "/flavors/{flavor_name}", &[("flavor_name", "param/flavor_name")], &["GET", "PUT", "PATCH", "DELETE"]),
];

fn home(version: Version, admin_mode: bool, pooling: bool) -> Value {
    let mut resources = Map::new();
    let old = version == Version::V1;
    for (name, template, variables, methods) in RELATIONS {
        if old && NEW.contains(name) {
            continue;
        }
        let methods = if old && *name == "rel/queue" { &["PUT", "DELETE"] } else { *methods };
        resources.insert((*name).to_owned(), resource(version, template, variables, methods));
    }
    if admin_mode && pooling {
        for (name, template, variables, methods) in ADMIN {
            resources.insert((*name).to_owned(), resource(version, template, variables, methods));
        }
    }
    if admin_mode {
        let health = json!({
            "href": format!("/{}/health", version.word()),
            "hints": hints(&["GET"]),
        });
        resources.insert("rel/health".to_owned(), health);
    }
    json!({ "resources": resources })
}

fn resource(
    version: Version,
    template: &str,
    variables: &[(&str, &str)],
    methods: &[&str],
) -> Value {
    let mut resource = json!({
        "href-template": format!("/{}{template}", version.word()),
        "hints": hints(methods),
    });
    if !variables.is_empty() {
        let variables: Map<_, _> =
            variables.iter().map(|(name, of)| ((*name).to_owned(), json!(of))).collect();
        if let Some(resource) = resource.as_object_mut() {
            resource.insert("href-vars".to_owned(), variables.into());
        }
    }
    resource
}

fn hints(methods: &[&str]) -> Value {
    let mut hints = json!({"allow": methods, "formats": {"application/json": {}}});
    // A resource that has other methods as well does not say what it accepts, as in Zaqar.
    if matches!(methods, ["POST"] | ["PATCH"])
        && let Some(hints) = hints.as_object_mut()
    {
        hints.insert("accept-post".to_owned(), json!(["application/json"]));
    }
    hints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::zaqar::route::ROUTES;

    #[test]
    fn every_relation_of_the_home_document_has_its_routes() {
        for (name, template, _, methods) in RELATIONS.iter().chain(ADMIN) {
            let path = template.split("{?").next().unwrap();
            let path = path.replace("subscriptions_id", "subscription_id");
            for method in *methods {
                let found = ROUTES
                    .iter()
                    .any(|route| route.template == path && route.method.as_str() == *method);
                assert!(found, "{name}: {method} {path}");
            }
        }
    }

    #[test]
    fn the_versions_are_told_with_the_old_one_first() {
        let ids = |old| {
            let versions = versions(old);
            let list = versions["versions"].as_array().unwrap().clone();
            list.iter()
                .map(|version| version["id"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(false), ["2"]);
        assert_eq!(ids(true), ["1.1", "2"]);
    }
}
