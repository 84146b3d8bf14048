//! The queue service: Zaqar's options, by its names and with its values.

use std::net::SocketAddr;
use std::time::Duration;

use super::reader::Reader;

/// Longest time to live that an operator may allow: a hundred years keep every sum far from overflow.
const TTL_MAX: u32 = 100 * 365 * 86_400;

/// Largest page that an operator may allow: an answer is made whole in memory.
const PAGE_MAX: u64 = 1000;

/// Largest body that an operator may allow: it is read whole into memory.
const BODY_MAX: u64 = 16 * 1024 * 1024;

/// The queue service. Times are in seconds, as the API has them.
#[derive(Debug, Clone)]
#[expect(
    missing_docs,
    reason = "the limits are Zaqar's own, by its names; the default file says what each is"
)]
pub struct Queues {
    /// HTTP listeners; empty is off.
    pub listen: Vec<SocketAddr>,
    /// Further listeners, where WebSocket clients expect one of their own; they serve the same.
    pub websocket_listen: Vec<SocketAddr>,
    /// Pages that browsers may open WebSockets from, beside those of the service's own host; `*` is every page.
    pub websocket_origins: Vec<String>,
    /// After so much silence a WebSocket's peer is asked whether it is there.
    pub websocket_ping: Duration,
    /// Messages that may wait for a WebSocket's subscription without a durable name.
    pub websocket_backlog_messages_max: u64,
    /// Bytes of their bodies.
    pub websocket_backlog_bytes_max: u64,
    /// Over all HTTP listeners, WebSockets included.
    pub connections_max: usize,
    /// Between two requests, and for a request's head.
    pub idle_timeout: Duration,
    /// From a request's head to the end of its body.
    pub body_timeout: Duration,
    /// Tenants that may come into being with their first queue.
    pub projects_max: usize,
    /// Pools and flavors are offered to administrators.
    pub pooling: bool,
    /// Version 1.1 is offered.
    pub version_1_1: bool,
    pub enable_checksum: bool,
    pub default_message_ttl: u32,
    pub max_message_ttl: u32,
    pub default_message_delay: u32,
    pub max_message_delay: u32,
    pub default_claim_ttl: u32,
    pub default_claim_grace: u32,
    pub max_claim_ttl: u32,
    pub max_claim_grace: u32,
    pub default_subscription_ttl: u32,
    pub max_queues_per_page: u32,
    pub max_messages_per_page: u32,
    pub max_subscriptions_per_page: u32,
    pub max_pools_per_page: u32,
    pub max_flavors_per_page: u32,
    pub max_messages_per_claim_or_pop: u32,
    /// Bytes.
    pub max_queue_metadata: u32,
    /// Bytes.
    pub max_messages_post_size: u32,
    pub subscriber_types: Vec<String>,
    /// Who was subscribed is asked first, and told nothing before agreeing.
    pub require_confirmation: bool,
    /// A `Client-ID` must be a UUID; otherwise any text within the two lengths.
    pub client_id_uuid_strict: bool,
    /// Characters.
    pub min_length_client_id: usize,
    /// Characters.
    pub max_length_client_id: usize,
    pub message_delete_with_claim_id: bool,
}

pub(super) fn read(r: &mut Reader<'_>) -> Queues {
    let page = 1..=PAGE_MAX;
    let body = |r: &mut Reader<'_>, key| u32::try_from(r.bytes(key, 1..=BODY_MAX)).unwrap_or(0);
    Queues {
        listen: r.addresses("queues.listen"),
        websocket_listen: r.addresses("queues.websocket_listen"),
        websocket_origins: r.texts("queues.websocket_origins"),
        websocket_ping: r.duration(
            "queues.websocket_ping",
            Duration::from_millis(100)..=Duration::from_secs(3600),
        ),
        websocket_backlog_messages_max: r
            .number("queues.websocket_backlog_messages_max", 1..=100_000_000),
        websocket_backlog_bytes_max: r
            .bytes("queues.websocket_backlog_bytes_max", 1..=1024 * 1024 * 1024 * 1024),
        connections_max: r.number("queues.connections_max", 1..=10_000_000),
        idle_timeout: r
            .duration("queues.idle_timeout", Duration::from_secs(1)..=Duration::from_secs(3600)),
        body_timeout: r
            .duration("queues.body_timeout", Duration::from_millis(100)..=Duration::from_secs(600)),
        projects_max: r.number("queues.projects_max", 1..=10_000_000),
        pooling: r.switch("queues.pooling"),
        version_1_1: r.choice(
            "queues.enable_deprecated_api_versions",
            &[("", false), ("1.1", true)],
            false,
        ),
        enable_checksum: r.switch("queues.enable_checksum"),
        default_message_ttl: r.seconds("queues.default_message_ttl", 60..=TTL_MAX),
        max_message_ttl: r.seconds("queues.max_message_ttl", 60..=TTL_MAX),
        default_message_delay: r.seconds("queues.default_message_delay", 0..=TTL_MAX),
        max_message_delay: r.seconds("queues.max_message_delay", 0..=TTL_MAX),
        default_claim_ttl: r.seconds("queues.default_claim_ttl", 60..=TTL_MAX),
        default_claim_grace: r.seconds("queues.default_claim_grace", 60..=TTL_MAX),
        max_claim_ttl: r.seconds("queues.max_claim_ttl", 60..=TTL_MAX),
        max_claim_grace: r.seconds("queues.max_claim_grace", 60..=TTL_MAX),
        default_subscription_ttl: r.seconds("queues.default_subscription_ttl", 60..=TTL_MAX),
        max_queues_per_page: r.number("queues.max_queues_per_page", page.clone()),
        max_messages_per_page: r.number("queues.max_messages_per_page", page.clone()),
        max_subscriptions_per_page: r.number("queues.max_subscriptions_per_page", page.clone()),
        max_pools_per_page: r.number("queues.max_pools_per_page", page.clone()),
        max_flavors_per_page: r.number("queues.max_flavors_per_page", page.clone()),
        max_messages_per_claim_or_pop: r.number("queues.max_messages_per_claim_or_pop", page),
        max_queue_metadata: body(r, "queues.max_queue_metadata"),
        max_messages_post_size: body(r, "queues.max_messages_post_size"),
        subscriber_types: r.texts("queues.subscriber_types"),
        require_confirmation: read_require_confirmation(r),
        client_id_uuid_strict: r.choice(
            "queues.client_id_uuid_safe",
            &[("strict", true), ("off", false)],
            true,
        ),
        min_length_client_id: r.number("queues.min_length_client_id", 1..=144),
        max_length_client_id: r.number("queues.max_length_client_id", 1..=144),
        message_delete_with_claim_id: r.switch("queues.message_delete_with_claim_id"),
    }
}

/// Who is asked answers by a signed URL.
fn read_require_confirmation(r: &mut Reader<'_>) -> bool {
    let required = r.switch("queues.require_confirmation");
    if required && r.text("queues.signed_url.secret").is_empty() {
        r.refuse("queues.require_confirmation", "needs queues.signed_url.secret");
    }
    required
}

#[cfg(test)]
impl Default for Queues {
    /// The values of the default file.
    fn default() -> Self {
        super::Config::load(&super::Sources::default()).unwrap().queues
    }
}
