//! What operations come to, as the bodies of answers: without the paths and links of HTTP.

use std::sync::Arc;

use broker::PoolDefinition;
use model::ClaimId;
use posthouse_amqp::properties::Properties;
use store::Leased;

use super::attachment::{AckedBy, Attachment, Noted};

use crate::door::zaqar::iso_time;
use crate::door::zaqar::json::write;
use crate::door::zaqar::operation::{
    ClaimView, Detail, Edge, Flavor, MessageView, MessagesPage, NewClaim, Posted, QueuesPage,
    Stats, SubscriptionView, SubscriptionsPage, flavor_members, pool_members, write_body,
};

/// Room for a message beside its body.
const MESSAGE_BYTES: usize = 160;

/// `{"queues": […]}`, metadata as they are stored.
pub(super) fn queues(page: &QueuesPage) -> Vec<u8> {
    let mut out = b"{\"queues\":".to_vec();
    write::list(&mut out, &page.entries, |out, entry| {
        out.extend_from_slice(b"{\"name\":");
        write::string(out, &entry.name);
        if let Some(metadata) = &entry.metadata {
            out.extend_from_slice(b",\"metadata\":");
            out.extend_from_slice(&metadata.to_json());
        }
        out.push(b'}');
    });
    out.push(b'}');
    out
}

/// `{"messages": {"claimed", "free", "total", "oldest"?, "newest"?}}`.
pub(super) fn stats(stats: &Stats) -> Vec<u8> {
    let mut out = b"{\"messages\":{\"claimed\":".to_vec();
    write::integer(&mut out, stats.claimed);
    out.extend_from_slice(b",\"free\":");
    write::integer(&mut out, stats.free);
    out.extend_from_slice(b",\"total\":");
    write::integer(&mut out, stats.claimed + stats.free);
    for (name, end) in [("oldest", &stats.oldest), ("newest", &stats.newest)] {
        let Some(Edge { id, created, age }) = end else { continue };
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":{\"id\":\"");
        id.write(&mut out);
        out.extend_from_slice(b"\",\"age\":");
        write::integer(&mut out, *age);
        out.extend_from_slice(b",\"created\":\"");
        out.extend_from_slice(iso_time::format(*created).as_bytes());
        out.extend_from_slice(b"Z\"}");
    }
    out.extend_from_slice(b"}}");
    out
}

/// `{"message_ids": […]}`.
pub(super) fn posted(posted: Posted) -> Vec<u8> {
    let mut out = b"{\"message_ids\":".to_vec();
    write::list(&mut out, posted.ids(), |out, id| {
        out.push(b'"');
        id.write(out);
        out.push(b'"');
    });
    out.push(b'}');
    out
}

/// `{"messages": […]}`.
pub(super) fn messages(page: &MessagesPage) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity(page));
    out.push(b'{');
    list(&mut out, page);
    out.push(b'}');
    out
}

/// `{"messages": {…}}`: one object under the plural, as Zaqar has it.
pub(super) fn single(page: &MessagesPage) -> Option<Vec<u8>> {
    let view = views(page).next()?;
    let mut out = Vec::with_capacity(capacity(page));
    out.extend_from_slice(b"{\"messages\":");
    message(&mut out, view);
    out.push(b'}');
    Some(out)
}

/// Messages that were taken, with how often each had been claimed.
pub(super) fn popped(page: &MessagesPage) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity(page));
    out.extend_from_slice(b"{\"messages\":");
    write::list(&mut out, views(page), |out, view| {
        out.extend_from_slice(b"{\"claim_count\":");
        write::integer(out, view.seen.claim_count.into());
        out.push(b',');
        members(out, view);
        out.push(b'}');
    });
    out.push(b'}');
    out
}

/// `{"claim_id", "messages": […]}`.
pub(super) fn claimed(claim: &NewClaim) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity(&claim.page));
    out.extend_from_slice(b"{\"claim_id\":");
    claim_id(&mut out, claim.id);
    out.push(b',');
    list(&mut out, &claim.page);
    out.push(b'}');
    out
}

/// `{"age", "ttl", "messages": […]}`.
pub(super) fn claim(view: &ClaimView) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity(&view.page));
    out.extend_from_slice(b"{\"age\":");
    write::integer(&mut out, view.age);
    out.extend_from_slice(b",\"ttl\":");
    write::integer(&mut out, view.ttl);
    out.push(b',');
    list(&mut out, &view.page);
    out.push(b'}');
    out
}

/// `{"subscriptions": […]}`.
pub(super) fn subscriptions(page: &SubscriptionsPage) -> Vec<u8> {
    let mut out = b"{\"subscriptions\":".to_vec();
    write::list(&mut out, &page.subscriptions, |out, view| view.write(out));
    out.push(b'}');
    out
}

/// As over HTTP.
pub(super) fn subscription(view: &SubscriptionView) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    view.write(&mut out);
    out
}

/// `{"pools": […]}`.
pub(super) fn pools(page: &[Arc<PoolDefinition>], detail: Detail) -> Vec<u8> {
    let mut out = b"{\"pools\":".to_vec();
    write::list(&mut out, page, |out, it| out.extend_from_slice(&pool(it, detail)));
    out.push(b'}');
    out
}

/// `{"name", "weight", "uri", "flavor", "options"?}`.
pub(super) fn pool(pool: &PoolDefinition, detail: Detail) -> Vec<u8> {
    let mut out = b"{".to_vec();
    pool_members(&mut out, pool, detail);
    out.push(b'}');
    out
}

/// `{"flavors": […]}`.
pub(super) fn flavors(page: &[Flavor], detail: Detail) -> Vec<u8> {
    let mut out = b"{\"flavors\":".to_vec();
    write::list(&mut out, page, |out, it| out.extend_from_slice(&flavor(it, detail)));
    out.push(b'}');
    out
}

/// `{"name", "pool_list", "capabilities"?}`.
pub(super) fn flavor(flavor: &Flavor, detail: Detail) -> Vec<u8> {
    let mut out = b"{".to_vec();
    flavor_members(&mut out, flavor, detail);
    out.push(b'}');
    out
}

/// `{"ttl", "body", "Message_Type": "Notification", "queue_name"}`, and for clients that acknowledge themselves
/// `subscription_id` and `delivery`. `missed` says how many were dropped before it, if any were.
///
/// A message's own time to live is in its properties; one without has the default.
pub(super) fn notification(
    attachment: &Attachment,
    leased: &Leased,
    Noted { number, missed }: Noted,
    default_ttl_secs: u32,
) -> Vec<u8> {
    let message = &leased.message;
    let mut out = Vec::with_capacity(message.body_len() + MESSAGE_BYTES);
    let said = Properties::decode(message.properties()).ok();
    let expiration_ms: Option<u64> = said.and_then(|said| said.expiration?.parse().ok());
    let ttl_secs = expiration_ms.map_or(default_ttl_secs.into(), |ttl_ms| ttl_ms.div_ceil(1000));
    out.extend_from_slice(b"{\"ttl\":");
    write::integer(&mut out, ttl_secs);
    out.extend_from_slice(b",\"body\":");
    write_body(&mut out, message);
    out.extend_from_slice(b",\"Message_Type\":\"Notification\",\"queue_name\":");
    write::string(&mut out, &attachment.subscription.queue);
    if attachment.acked_by == AckedBy::Client {
        out.extend_from_slice(b",\"subscription_id\":");
        write::string(&mut out, &attachment.subscription.id.to_string());
        out.extend_from_slice(b",\"delivery\":");
        write::integer(&mut out, number);
    }
    if missed > 0 {
        out.extend_from_slice(b",\"missed\":");
        write::integer(&mut out, missed);
    }
    out.push(b'}');
    out
}

fn list(out: &mut Vec<u8>, page: &MessagesPage) {
    out.extend_from_slice(b"\"messages\":");
    write::list(out, views(page), message);
}

fn views(page: &MessagesPage) -> impl Iterator<Item = MessageView<'_>> {
    let MessagesPage { messages, queue, now, claimed, .. } = page;
    messages.iter().map(|seen| MessageView { seen, queue: *queue, now: *now, claimed: *claimed })
}

fn capacity(page: &MessagesPage) -> usize {
    let bodies: usize = page.messages.iter().map(|seen| seen.message.body_len()).sum();
    bodies + (page.messages.len() + 1) * MESSAGE_BYTES
}

fn message(out: &mut Vec<u8>, view: MessageView<'_>) {
    out.push(b'{');
    members(out, view);
    out.push(b'}');
}

fn members(out: &mut Vec<u8>, view: MessageView<'_>) {
    out.extend_from_slice(b"\"id\":\"");
    view.id().write(out);
    out.extend_from_slice(b"\",\"claim_id\":");
    match view.claim() {
        Some(claim) => claim_id(out, claim),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"ttl\":");
    write::integer(out, view.ttl());
    out.extend_from_slice(b",\"age\":");
    write::integer(out, view.age());
    out.extend_from_slice(b",\"body\":");
    view.write_body(out);
}

fn claim_id(out: &mut Vec<u8>, claim: ClaimId) {
    write::string(out, &claim.to_string());
}
