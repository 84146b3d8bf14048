//! The one table of what the queue service answers over HTTP.
//!
//! Dispatch, `405` and its `allow`, `OPTIONS`, `/openapi.json`, and the test of tenant isolation are made from it.

use std::borrow::Cow;

use hyper::header::HeaderValue;

use super::identity::Family;
use super::policy::Rule;
use super::query::decoded;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is what its route's summary says")]
pub enum Operation {
    Home,
    Ping,
    Health,
    QueueList,
    QueuePut,
    QueueGet,
    QueuePatch,
    QueueDelete,
    QueueStats,
    QueueShare,
    QueuePurge,
    MessagePost,
    MessageList,
    MessagesDelete,
    MessageGet,
    MessageDelete,
    ClaimCreate,
    ClaimGet,
    ClaimUpdate,
    ClaimDelete,
    SubscriptionList,
    SubscriptionCreate,
    SubscriptionGet,
    SubscriptionUpdate,
    SubscriptionDelete,
    SubscriptionConfirm,
    MessageSettle,
    PoolList,
    PoolPut,
    PoolGet,
    PoolPatch,
    PoolDelete,
    FlavorList,
    FlavorPut,
    FlavorGet,
    FlavorPatch,
    FlavorDelete,
}

/// The methods that routes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are HTTP's")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// As on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// When a route is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// In every version.
    Always,
    /// In version 2 only.
    Version2,
    /// In every version with `queues.admin_mode`.
    Admin,
    /// In every version with `queues.admin_mode` and `queues.pooling`.
    Pooling,
}

/// A parameter of the query.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// As in the query.
    pub name: &'static str,
    /// `integer`, `boolean` or `string`.
    pub kind: &'static str,
    /// One sentence.
    pub about: &'static str,
}

/// One method of one path.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// Below the version, with variables in braces.
    pub template: &'static str,
    /// What is done.
    pub operation: Operation,
    /// Who may; `None` is everybody who was let in.
    pub rule: Option<Rule>,
    /// When it is there.
    pub offered: Offered,
    /// Whether names in the path are queues' or topics'.
    pub family: Family,
    /// One sentence.
    pub summary: &'static str,
    /// What the query may have.
    pub query: &'static [Parameter],
    /// Name of the body's schema.
    pub body: Option<&'static str>,
    /// Statuses of success and the names of their schemas, empty for no body.
    pub answers: &'static [(u16, &'static str)],
}

const MARKER: Parameter = Parameter {
    name: "marker",
    kind: "string",
    about: "Where the page begins, from a link of the page before.",
};
const LIMIT: Parameter =
    Parameter { name: "limit", kind: "integer", about: "How many at most; 10 if not given." };
const DETAILED: Parameter =
    Parameter { name: "detailed", kind: "boolean", about: "Shows everything of each." };
const PAGE: &[Parameter] = &[MARKER, LIMIT];
const DEFINITIONS_PAGE: &[Parameter] = &[MARKER, LIMIT, DETAILED];
const QUEUES_PAGE: &[Parameter] = &[
    MARKER,
    LIMIT,
    DETAILED,
    Parameter {
        name: "name",
        kind: "string",
        about: "Only those whose names this expression is found in.",
    },
    Parameter { name: "with_count", kind: "boolean", about: "Counts all of the project." },
];
const IDS: Parameter =
    Parameter { name: "ids", kind: "string", about: "Ids of messages, with commas between them." };
const MESSAGES_PAGE: &[Parameter] = &[
    MARKER,
    LIMIT,
    Parameter { name: "echo", kind: "boolean", about: "Shows the client's own messages as well." },
    Parameter {
        name: "include_claimed",
        kind: "boolean",
        about: "Shows claimed messages as well.",
    },
    Parameter {
        name: "include_delayed",
        kind: "boolean",
        about: "Shows delayed messages as well.",
    },
    IDS,
];
const MESSAGES_DELETE: &[Parameter] = &[
    IDS,
    Parameter { name: "claim_ids", kind: "string", about: "Ids of the claims that hold them." },
    Parameter {
        name: "pop",
        kind: "integer",
        about: "How many are taken and deleted, instead of ids.",
    },
];
const MESSAGE_DELETE: &[Parameter] =
    &[Parameter { name: "claim_id", kind: "string", about: "The claim that holds the message." }];

const fn route(
    method: Method,
    template: &'static str,
    operation: Operation,
    rule: Option<Rule>,
    summary: &'static str,
) -> Route {
    let family = if is_topic(template) { Family::Topics } else { Family::Queues };
    let offered = if is_topic(template) { Version2 } else { Offered::Always };
    Route {
        method,
        template,
        operation,
        rule,
        offered,
        family,
        summary,
        query: &[],
        body: None,
        answers: &[(200, "object")],
    }
}

const fn is_topic(template: &str) -> bool {
    matches!(template.as_bytes(), [b'/', b't', b'o', b'p', ..])
}

impl Route {
    /// Whether its path is itself the right to use it: nobody has to show who they are.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.operation == Op::MessageSettle
    }

    const fn query(self, query: &'static [Parameter]) -> Self {
        Self { query, ..self }
    }

    const fn body(self, schema: &'static str) -> Self {
        Self { body: Some(schema), ..self }
    }

    const fn answers(self, answers: &'static [(u16, &'static str)]) -> Self {
        Self { answers, ..self }
    }

    const fn offered(self, offered: Offered) -> Self {
        Self { offered, ..self }
    }
}

use Method::{
    Delete as DELETE, Get as GET, Head as HEAD, Patch as PATCH, Post as POST, Put as PUT,
};
use Offered::{Admin, Pooling, Version2};
use Operation as Op;
use Rule as R;

/// Every route, without the version in front.
#[rustfmt::skip]
pub static ROUTES: &[Route] = &[
    route(GET, "/", Op::Home, None, "The home document: what there is, for programs.").answers(&[(200, "home")]),
    route(GET, "/ping", Op::Ping, Some(R::PingGet), "Whether the service is there.").answers(&[(204, "")]),
    route(HEAD, "/ping", Op::Ping, Some(R::PingGet), "Whether the service is there.").answers(&[(204, "")]),
    route(GET, "/health", Op::Health, Some(R::HealthGet), "A round trip of messages, measured.").answers(&[(200, "health")]).offered(Admin),

    route(GET, "/queues", Op::QueueList, Some(R::QueuesGetAll), "Lists queues by name.").query(QUEUES_PAGE).answers(&[(200, "queue_list")]),
    route(PUT, "/queues/{queue_name}", Op::QueuePut, Some(R::QueuesCreate), "Makes a queue; an existing one stays as it is.").body("metadata").answers(&[(201, ""), (204, "")]),
    route(GET, "/queues/{queue_name}", Op::QueueGet, Some(R::QueuesGet), "A queue's metadata; the defaults, if there is no such queue.").answers(&[(200, "metadata")]),
    route(PATCH, "/queues/{queue_name}", Op::QueuePatch, Some(R::QueuesUpdate), "Changes metadata by a JSON patch.").body("patch").answers(&[(200, "metadata")]).offered(Version2),
    route(DELETE, "/queues/{queue_name}", Op::QueueDelete, Some(R::QueuesDelete), "Deletes a queue with its messages.").answers(&[(204, "")]),
    route(GET, "/queues/{queue_name}/stats", Op::QueueStats, Some(R::QueuesStats), "How many messages there are.").answers(&[(200, "stats")]),
    route(POST, "/queues/{queue_name}/share", Op::QueueShare, Some(R::QueuesShare), "Makes a pre-signed URL.").body("share").answers(&[(200, "shared")]).offered(Version2),
    route(POST, "/queues/{queue_name}/purge", Op::QueuePurge, Some(R::QueuesPurge), "Removes messages, subscriptions or both.").body("purge").answers(&[(204, "")]).offered(Version2),

    route(POST, "/queues/{queue_name}/messages", Op::MessagePost, Some(R::MessagesCreate), "Posts messages, all or none.").body("messages").answers(&[(201, "posted")]),
    route(GET, "/queues/{queue_name}/messages", Op::MessageList, Some(R::MessagesGetAll), "Lists messages, oldest first, or shows those with these ids.").query(MESSAGES_PAGE).answers(&[(200, "message_list")]),
    route(DELETE, "/queues/{queue_name}/messages", Op::MessagesDelete, Some(R::MessagesDeleteAll), "Deletes messages by id, or takes the oldest.").query(MESSAGES_DELETE).answers(&[(204, ""), (200, "popped")]),
    route(GET, "/queues/{queue_name}/messages/{message_id}", Op::MessageGet, Some(R::MessagesGet), "One message.").answers(&[(200, "message")]),
    route(DELETE, "/queues/{queue_name}/messages/{message_id}", Op::MessageDelete, Some(R::MessagesDelete), "Deletes a message; a claimed one only with its claim.").query(MESSAGE_DELETE).answers(&[(204, "")]),

    route(POST, "/queues/{queue_name}/claims", Op::ClaimCreate, Some(R::ClaimsCreate), "Claims the oldest messages.").query(&[LIMIT]).body("claim").answers(&[(201, "claimed"), (204, "")]),
    route(GET, "/queues/{queue_name}/claims/{claim_id}", Op::ClaimGet, Some(R::ClaimsGet), "A claim with its messages.").answers(&[(200, "claim_view")]),
    route(PATCH, "/queues/{queue_name}/claims/{claim_id}", Op::ClaimUpdate, Some(R::ClaimsUpdate), "Restarts a claim's clock.").body("claim").answers(&[(204, "")]),
    route(DELETE, "/queues/{queue_name}/claims/{claim_id}", Op::ClaimDelete, Some(R::ClaimsDelete), "Releases a claim.").answers(&[(204, "")]),

    route(GET, "/queues/{queue_name}/subscriptions", Op::SubscriptionList, Some(R::SubscriptionGetAll), "Lists subscriptions.").query(PAGE).answers(&[(200, "subscription_list")]).offered(Version2),
    route(POST, "/queues/{queue_name}/subscriptions", Op::SubscriptionCreate, Some(R::SubscriptionCreate), "Subscribes somebody to a queue.").body("subscription").answers(&[(201, "subscribed")]).offered(Version2),
    route(GET, "/queues/{queue_name}/subscriptions/{subscription_id}", Op::SubscriptionGet, Some(R::SubscriptionGet), "One subscription.").answers(&[(200, "subscription_view")]).offered(Version2),
    route(PATCH, "/queues/{queue_name}/subscriptions/{subscription_id}", Op::SubscriptionUpdate, Some(R::SubscriptionUpdate), "Changes a subscription.").body("subscription_change").answers(&[(204, "")]).offered(Version2),
    route(DELETE, "/queues/{queue_name}/subscriptions/{subscription_id}", Op::SubscriptionDelete, Some(R::SubscriptionDelete), "Ends a subscription.").answers(&[(204, "")]).offered(Version2),
    route(PUT, "/queues/{queue_name}/subscriptions/{subscription_id}/confirm", Op::SubscriptionConfirm, Some(R::SubscriptionConfirm), "Confirms a subscription, or takes that back.").body("confirm").answers(&[(204, "")]).offered(Version2),

    route(POST, "/settle/{token}", Op::MessageSettle, None, "Settles a message that a webhook took with 202; the token is the right to.").answers(&[(204, "")]).offered(Version2),

    route(GET, "/topics", Op::QueueList, Some(R::TopicsGetAll), "Lists topics by name.").query(QUEUES_PAGE).answers(&[(200, "topic_list")]),
    route(PUT, "/topics/{topic_name}", Op::QueuePut, Some(R::TopicsCreate), "Makes a topic; an existing one stays as it is.").body("metadata").answers(&[(201, ""), (204, "")]),
    route(GET, "/topics/{topic_name}", Op::QueueGet, Some(R::TopicsGet), "A topic's metadata; the defaults, if there is no such topic.").answers(&[(200, "metadata")]),
    route(PATCH, "/topics/{topic_name}", Op::QueuePatch, Some(R::TopicsUpdate), "Changes metadata by a JSON patch.").body("patch").answers(&[(200, "metadata")]),
    route(DELETE, "/topics/{topic_name}", Op::QueueDelete, Some(R::TopicsDelete), "Deletes a topic with its messages.").answers(&[(204, "")]),
    route(GET, "/topics/{topic_name}/stats", Op::QueueStats, Some(R::TopicsStats), "How many messages there are.").answers(&[(200, "topic_stats")]),
    route(POST, "/topics/{topic_name}/purge", Op::QueuePurge, Some(R::TopicsPurge), "Removes messages, subscriptions or both.").body("purge").answers(&[(204, "")]),
    route(POST, "/topics/{topic_name}/messages", Op::MessagePost, Some(R::MessagesCreate), "Posts messages to all subscriptions, all or none.").body("messages").answers(&[(201, "posted")]),
    route(GET, "/topics/{topic_name}/messages", Op::MessageList, Some(R::MessagesGetAll), "Lists messages, oldest first, or shows those with these ids.").query(MESSAGES_PAGE).answers(&[(200, "message_list")]),
    route(DELETE, "/topics/{topic_name}/messages", Op::MessagesDelete, Some(R::MessagesDeleteAll), "Deletes messages by id, or takes the oldest.").query(MESSAGES_DELETE).answers(&[(204, ""), (200, "popped")]),
    route(GET, "/topics/{topic_name}/subscriptions", Op::SubscriptionList, Some(R::SubscriptionGetAll), "Lists subscriptions.").query(PAGE).answers(&[(200, "subscription_list")]),
    route(POST, "/topics/{topic_name}/subscriptions", Op::SubscriptionCreate, Some(R::SubscriptionCreate), "Subscribes somebody to a topic.").body("subscription").answers(&[(201, "subscribed")]),
    route(GET, "/topics/{topic_name}/subscriptions/{subscription_id}", Op::SubscriptionGet, Some(R::SubscriptionGet), "One subscription.").answers(&[(200, "subscription_view")]),
    route(PATCH, "/topics/{topic_name}/subscriptions/{subscription_id}", Op::SubscriptionUpdate, Some(R::SubscriptionUpdate), "Changes a subscription.").body("subscription_change").answers(&[(204, "")]),
    route(DELETE, "/topics/{topic_name}/subscriptions/{subscription_id}", Op::SubscriptionDelete, Some(R::SubscriptionDelete), "Ends a subscription.").answers(&[(204, "")]),
    route(PUT, "/topics/{topic_name}/subscriptions/{subscription_id}/confirm", Op::SubscriptionConfirm, Some(R::SubscriptionConfirm), "Confirms a subscription, or takes that back.").body("confirm").answers(&[(204, "")]),
    route(GET, "/topics/{topic_name}/messages/{message_id}", Op::MessageGet, Some(R::MessagesGet), "One message.").answers(&[(200, "message")]),
    route(DELETE, "/topics/{topic_name}/messages/{message_id}", Op::MessageDelete, Some(R::MessagesDelete), "Deletes a message.").query(MESSAGE_DELETE).answers(&[(204, "")]),

    route(GET, "/pools", Op::PoolList, Some(R::PoolsGetAll), "Lists pools by name.").query(DEFINITIONS_PAGE).answers(&[(200, "pool_list")]).offered(Pooling),
    route(PUT, "/pools/{pool_name}", Op::PoolPut, Some(R::PoolsCreate), "Makes a pool, or replaces it.").body("pool").answers(&[(201, "")]).offered(Pooling),
    route(GET, "/pools/{pool_name}", Op::PoolGet, Some(R::PoolsGet), "One pool.").query(&[DETAILED]).answers(&[(200, "pool_view")]).offered(Pooling),
    route(PATCH, "/pools/{pool_name}", Op::PoolPatch, Some(R::PoolsUpdate), "Changes a pool.").body("pool_change").answers(&[(200, "pool_view")]).offered(Pooling),
    route(DELETE, "/pools/{pool_name}", Op::PoolDelete, Some(R::PoolsDelete), "Forgets a pool.").answers(&[(204, "")]).offered(Pooling),
    route(GET, "/flavors", Op::FlavorList, Some(R::FlavorsGetAll), "Lists flavors by name.").query(DEFINITIONS_PAGE).answers(&[(200, "flavor_list")]).offered(Pooling),
    route(PUT, "/flavors/{flavor_name}", Op::FlavorPut, Some(R::FlavorsCreate), "Makes a flavor, or replaces it.").body("flavor").answers(&[(201, "")]).offered(Pooling),
    route(GET, "/flavors/{flavor_name}", Op::FlavorGet, Some(R::FlavorsGet), "One flavor.").query(&[DETAILED]).answers(&[(200, "flavor_view")]).offered(Pooling),
    route(PATCH, "/flavors/{flavor_name}", Op::FlavorPatch, Some(R::FlavorsUpdate), "Changes a flavor.").body("flavor_change").answers(&[(200, "flavor_view")]).offered(Pooling),
    route(DELETE, "/flavors/{flavor_name}", Op::FlavorDelete, Some(R::FlavorsDelete), "Forgets a flavor.").answers(&[(204, "")]).offered(Pooling),
];

/// A path with its routes.
#[derive(Debug)]
pub(crate) struct Resource {
    version: Version,
    segments: Vec<Segment>,
    routes: Vec<&'static Route>,
    /// The methods, sorted, for `OPTIONS`.
    pub(crate) allow: HeaderValue,
    /// The same and `OPTIONS`, for 405.
    pub(crate) allow_instead: HeaderValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Word(&'static str),
    Variable,
}

/// The version in front of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// `/v1.1`
    V1,
    /// `/v2`
    V2,
}

impl Version {
    /// As in paths.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::V1 => "v1.1",
            Self::V2 => "v2",
        }
    }
}

/// Most segments of a path that any route has, with the version.
const SEGMENTS_MAX: usize = 6;

/// The variables of a path, decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Variables<'a> {
    /// Name of the queue, topic, pool or flavor.
    pub(crate) name: Option<Cow<'a, str>>,
    /// Id of a message, claim or subscription.
    pub(crate) id: Option<Cow<'a, str>>,
}

/// Finds the resource of a path.
#[derive(Debug)]
pub(crate) struct Router {
    resources: Vec<Resource>,
}

impl Router {
    /// A router for what is offered.
    pub(crate) fn new(version_1_1: bool, admin_mode: bool, pooling: bool) -> Self {
        let mut router = Self { resources: Vec::new() };
        let is_offered = |offered, version| match offered {
            Offered::Always => true,
            Version2 => version == Version::V2,
            Admin => admin_mode,
            Pooling => admin_mode && pooling,
        };
        router.add(Version::V2, |offered| is_offered(offered, Version::V2));
        if version_1_1 {
            router.add(Version::V1, |offered| is_offered(offered, Version::V1));
        }
        router
    }

    fn add(&mut self, version: Version, offered: impl Fn(Offered) -> bool) {
        let mut templates: Vec<&str> = Vec::new();
        for route in ROUTES.iter().filter(|route| offered(route.offered)) {
            if !templates.contains(&route.template) {
                templates.push(route.template);
            }
        }
        for template in templates {
            let here = |route: &&Route| route.template == template && offered(route.offered);
            self.resources.push(Resource::new(
                version,
                template,
                ROUTES.iter().filter(here).collect(),
            ));
        }
    }

    /// The resource of a path, and the values of its variables.
    pub(crate) fn find<'a>(&self, path: &'a str) -> Option<(&Resource, Variables<'a>)> {
        let mut segments = [""; SEGMENTS_MAX];
        let mut count = 0;
        for segment in path.strip_prefix('/')?.split('/') {
            *segments.get_mut(count)? = segment;
            count += 1;
        }
        let (version, rest) = segments.get(..count)?.split_first()?;
        let found = self.resources.iter().find(|resource| resource.matches(version, rest))?;
        let mut variables = found
            .segments
            .iter()
            .zip(rest)
            .filter(|(segment, _)| **segment == Segment::Variable)
            .map(|(_, value)| decoded(value));
        Some((found, Variables { name: variables.next(), id: variables.next() }))
    }
}

impl Resource {
    fn new(version: Version, template: &'static str, routes: Vec<&'static Route>) -> Self {
        let segments = template.trim_start_matches('/').split('/').map(|segment| {
            if segment.starts_with('{') { Segment::Variable } else { Segment::Word(segment) }
        });
        let mut methods: Vec<_> = routes.iter().map(|route| route.method.as_str()).collect();
        methods.sort_unstable();
        let allow = methods.join(", ");
        let header = |text: String| {
            HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
        };
        Self {
            version,
            segments: segments.collect(),
            routes,
            allow_instead: header(format!("{allow}, OPTIONS")),
            allow: header(allow),
        }
    }

    fn matches(&self, version: &str, rest: &[&str]) -> bool {
        self.segments.len() == rest.len()
            && self.version.word() == version
            && self.segments.iter().zip(rest).all(|(segment, value)| match segment {
                Segment::Word(word) => word == value,
                // An empty name is a bad name, and said to be one; an empty id is no route, as in Zaqar.
                Segment::Variable => !value.is_empty() || rest.get(1) == Some(&""),
            })
    }

    /// The version that the path names.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// What names in this path are names of.
    pub(crate) fn family(&self) -> Option<Family> {
        let first = self.routes.first()?;
        let named =
            first.template.contains("{queue_name}") || first.template.contains("{topic_name}");
        named.then_some(first.family)
    }

    /// Whether its path is itself the right to use it.
    pub(crate) fn is_open(&self) -> bool {
        self.routes.iter().all(|route| route.is_open())
    }

    /// The route of a method.
    pub(crate) fn route(&self, method: &hyper::Method) -> Option<&'static Route> {
        self.routes.iter().find(|route| route.method.as_str() == method.as_str()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(
        router: &Router,
        path: &str,
    ) -> Option<(&'static str, Option<String>, Option<String>)> {
        let (resource, variables) = router.find(path)?;
        let owned = |value: Option<Cow<'_, str>>| value.map(Cow::into_owned);
        Some((resource.routes[0].template, owned(variables.name), owned(variables.id)))
    }

    #[test]
    fn paths_are_matched_segment_by_segment() {
        let router = Router::new(false, false, false);

        let some = |text: &str| Some(text.to_owned());
        assert_eq!(found(&router, "/v2/"), Some(("/", None, None)));
        assert_eq!(
            found(&router, "/v2/queues/a%20b/messages/1"),
            Some(("/queues/{queue_name}/messages/{message_id}", some("a b"), some("1")))
        );
        for path in [
            "/",
            "/v2",
            "/v2/queues/x/messages/",
            "/v2/queues/x/",
            "/v2/queues/x/messages/1/2",
            "/v3/queues",
            "/v1.1/queues",
            "/v2/health",
            "",
            "x",
        ] {
            assert_eq!(found(&router, path), None, "{path}");
        }
    }

    #[test]
    fn version_1_1_has_what_it_had() {
        let router = Router::new(true, true, true);

        let (queue, _) = router.find("/v1.1/queues/q").unwrap();
        assert_eq!(queue.allow, "DELETE, GET, PUT");
        assert!(router.find("/v1.1/queues/q/share").is_none());
        assert!(router.find("/v1.1/topics").is_none());
        assert!(router.find("/v1.1/health").is_some());
        assert!(router.find("/v1.1/pools/p").is_some());
        assert!(Router::new(true, true, false).find("/v2/pools").is_none());
    }

    #[test]
    fn methods_of_a_path_are_sorted() {
        let router = Router::new(false, false, false);

        let (queue, _) = router.find("/v2/queues/q").unwrap();

        assert_eq!(queue.allow_instead, "DELETE, GET, PATCH, PUT, OPTIONS");
        assert!(queue.route(&hyper::Method::HEAD).is_none());
        assert_eq!(queue.route(&hyper::Method::PATCH).unwrap().operation, Operation::QueuePatch);
    }

    #[test]
    fn no_two_routes_are_the_same() {
        for (index, route) in ROUTES.iter().enumerate() {
            let same =
                |other: &&Route| other.template == route.template && other.method == route.method;
            assert_eq!(
                ROUTES.iter().filter(same).count(),
                1,
                "{} {}",
                route.method.as_str(),
                route.template
            );
            assert!(!route.summary.is_empty() && route.template.starts_with('/'), "{index}");
        }
    }
}
