//! Answers of operations as JSON, written straight into the bytes that are sent.

use bytes::Bytes;

use crate::config::Queues;
use crate::door::zaqar::identity::Family;
use crate::door::zaqar::iso_time;
use crate::door::zaqar::json::write;
use crate::door::zaqar::operation::{
    ClaimView, Edge, MessageView, MessagesPage, MessagesQuery, Posted, QueuesPage, QueuesQuery,
    Stats, SubscriptionView, SubscriptionsPage,
};
use crate::door::zaqar::query::encode;
use crate::door::zaqar::route::Version;
use crate::door::zaqar::signed_url::Signed;

/// Room for a message beside its body and its path: three ids, numbers, and names.
const MESSAGE_BYTES: usize = 176;

/// Messages, and where they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page<'a> {
    /// The path of the queue's messages, without a slash at the end.
    pub(super) path: &'a str,
    pub(super) page: &'a MessagesPage,
    /// With the checksums of bodies.
    pub(super) checksum: bool,
}

impl<'a> Page<'a> {
    fn views(&self) -> impl Iterator<Item = MessageView<'a>> {
        let MessagesPage { messages, queue, now, claimed, .. } = self.page;
        messages.iter().map(|seen| MessageView {
            seen,
            queue: *queue,
            now: *now,
            claimed: *claimed,
        })
    }

    fn capacity(&self) -> usize {
        let bodies: usize = self.page.messages.iter().map(|seen| seen.message.body_len()).sum();
        bodies + self.page.messages.len() * (MESSAGE_BYTES + self.path.len()) + MESSAGE_BYTES
    }

    fn list(&self, out: &mut Vec<u8>) {
        write::list(out, self.views(), |out, view| self.message(out, view));
    }

    fn message(&self, out: &mut Vec<u8>, view: MessageView<'_>) {
        out.extend_from_slice(b"{\"id\":\"");
        view.id().write(out);
        out.extend_from_slice(b"\",\"href\":\"");
        out.extend_from_slice(self.path.as_bytes());
        out.push(b'/');
        view.id().write(out);
        if let Some(claim) = view.claim() {
            out.extend_from_slice(b"?claim_id=");
            claim_id(out, claim);
        }
        out.extend_from_slice(b"\",\"ttl\":");
        write::integer(out, view.ttl());
        out.extend_from_slice(b",\"age\":");
        write::integer(out, view.age());
        out.extend_from_slice(b",\"body\":");
        let start = out.len();
        view.write_body(out);
        if self.checksum {
            let sum = super::checksum::of(out.get(start..).unwrap_or_default());
            out.extend_from_slice(b",\"checksum\":\"MD5:");
            out.extend_from_slice(sum.as_bytes());
            out.push(b'"');
        }
        out.push(b'}');
    }
}

fn claim_id(out: &mut Vec<u8>, claim: model::ClaimId) {
    let bits = claim.to_bits();
    let low = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or_default();
    write::hex(out, low(bits >> 64), 8);
    write::hex(out, low(bits), 16);
}

/// `[{"rel":"next","href":"PATH?…"}]`, the query written by `parameters`.
fn next_link(out: &mut Vec<u8>, path: &str, parameters: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"[{\"rel\":\"next\",\"href\":\"");
    out.extend_from_slice(path.as_bytes());
    out.push(b'?');
    parameters(out);
    out.extend_from_slice(b"\"}]");
}

fn flag(out: &mut Vec<u8>, name: &str, value: bool) {
    out.push(b'&');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(if value { b"=true" } else { b"=false" });
}

/// A page of messages with its link.
pub(super) fn messages(page: &Page<'_>, asked: &MessagesQuery<'_>, version: Version) -> Vec<u8> {
    let mut out = Vec::with_capacity(page.capacity());
    out.extend_from_slice(b"{\"messages\":");
    page.list(&mut out);
    out.extend_from_slice(b",\"links\":");
    match page.page.next {
        None => out.extend_from_slice(b"[]"),
        Some(next) => next_link(&mut out, page.path, |out| {
            out.extend_from_slice(b"marker=");
            write::integer(out, next.0);
            out.extend_from_slice(b"&limit=");
            write::integer(out, page.page.limit.into());
            flag(out, "echo", asked.not_from.is_none());
            flag(out, "include_claimed", asked.include_claimed);
            if version == Version::V2 {
                flag(out, "include_delayed", asked.include_delayed);
            }
        }),
    }
    out.push(b'}');
    out
}

/// Messages that were asked for by their ids.
pub(super) fn found_messages(page: &Page<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(page.capacity());
    out.extend_from_slice(b"{\"messages\":");
    page.list(&mut out);
    out.push(b'}');
    out
}

/// The messages of a new claim.
pub(super) fn claimed(page: &Page<'_>) -> Vec<u8> {
    found_messages(page)
}

/// The first message of a page, alone.
pub(super) fn single_message(page: &Page<'_>) -> Option<Vec<u8>> {
    let view = page.views().next()?;
    let mut out = Vec::with_capacity(page.capacity());
    page.message(&mut out, view);
    Some(out)
}

/// Messages that were taken: without a path, because there is nothing any more.
pub(super) fn popped(page: &MessagesPage) -> Vec<u8> {
    let page = Page { path: "", page, checksum: false };
    let mut out = Vec::with_capacity(page.capacity());
    out.extend_from_slice(b"{\"messages\":");
    write::list(&mut out, page.views(), |out, view| {
        out.extend_from_slice(b"{\"id\":\"");
        view.id().write(out);
        out.extend_from_slice(b"\",\"age\":");
        write::integer(out, view.age());
        out.extend_from_slice(b",\"ttl\":");
        write::integer(out, view.ttl());
        out.extend_from_slice(b",\"claim_count\":");
        write::integer(out, view.seen.claim_count.into());
        out.extend_from_slice(b",\"claim_id\":null,\"body\":");
        view.write_body(out);
        out.push(b'}');
    });
    out.push(b'}');
    out
}

/// The answer to a post, and the path where the messages are.
pub(super) fn posted(path: &str, posted: Posted) -> (Vec<u8>, Bytes) {
    let count = usize::try_from(posted.count).unwrap_or(0);
    let mut out = Vec::with_capacity(32 + count * (path.len() + 32));
    let mut location = Vec::with_capacity(path.len() + 8 + count * 25);
    out.extend_from_slice(b"{\"resources\":");
    write::list(&mut out, posted.ids(), |out, id| {
        out.push(b'"');
        out.extend_from_slice(path.as_bytes());
        out.push(b'/');
        id.write(out);
        out.push(b'"');
    });
    out.push(b'}');
    location.extend_from_slice(path.as_bytes());
    location.extend_from_slice(b"?ids=");
    for (index, id) in posted.ids().enumerate() {
        if index > 0 {
            location.push(b',');
        }
        id.write(&mut location);
    }
    (out, location.into())
}

/// A claim with its messages.
pub(super) fn claim_view(path: &str, view: &ClaimView, page: &Page<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(page.capacity());
    out.extend_from_slice(b"{\"age\":");
    write::integer(&mut out, view.age);
    out.extend_from_slice(b",\"ttl\":");
    write::integer(&mut out, view.ttl);
    out.extend_from_slice(b",\"href\":");
    write::string(&mut out, path);
    out.extend_from_slice(b",\"messages\":");
    page.list(&mut out);
    out.push(b'}');
    out
}

/// A page of queues or topics with its link.
pub(super) fn queues(
    path: &str,
    family: Family,
    as_stored: bool,
    asked: &QueuesQuery<'_>,
    page: &QueuesPage,
    limits: &Queues,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + page.entries.len() * 96);
    out.extend_from_slice(b"{\"");
    out.extend_from_slice(family.plural().as_bytes());
    out.extend_from_slice(b"\":");
    write::list(&mut out, &page.entries, |out, entry| {
        out.extend_from_slice(b"{\"name\":");
        write::string(out, &entry.name);
        out.extend_from_slice(b",\"href\":");
        write::string(out, &format!("{path}/{}", entry.name));
        if let Some(metadata) = &entry.metadata {
            out.extend_from_slice(b",\"metadata\":");
            let shown = if as_stored { metadata.to_json() } else { metadata.shown(family, limits) };
            out.extend_from_slice(&shown);
        }
        out.push(b'}');
    });
    out.extend_from_slice(b",\"links\":");
    match page.entries.last() {
        None => out.extend_from_slice(b"[]"),
        Some(last) => next_link(&mut out, path, |out| {
            out.extend_from_slice(b"marker=");
            encode(out, &last.name);
            out.extend_from_slice(b"&limit=");
            write::integer(out, page.limit.into());
            flag(out, "detailed", asked.detailed);
            if let Some(name) = asked.name {
                out.extend_from_slice(b"&name=");
                encode(out, name);
            }
            if asked.with_count {
                flag(out, "with_count", true);
            }
            for (name, value) in &asked.filters {
                out.push(b'&');
                encode(out, name);
                out.push(b'=');
                encode(out, value);
            }
        }),
    }
    if let Some(count) = page.count.filter(|count| *count > 0) {
        out.extend_from_slice(b",\"count\":");
        write::integer(&mut out, count);
    }
    out.push(b'}');
    out
}

/// How full a queue or topic is; `base` is its path with a slash at the end.
pub(super) fn stats(base: &str, family: Family, stats: &Stats) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"{\"messages\":{");
    if family == Family::Queues {
        out.extend_from_slice(b"\"claimed\":");
        write::integer(&mut out, stats.claimed);
        out.extend_from_slice(b",\"free\":");
        write::integer(&mut out, stats.free);
        out.push(b',');
    }
    out.extend_from_slice(b"\"total\":");
    write::integer(&mut out, stats.claimed + stats.free);
    for (name, edge) in [("oldest", &stats.oldest), ("newest", &stats.newest)] {
        let Some(Edge { id, created, age }) = edge else { continue };
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":{\"age\":");
        write::integer(&mut out, *age);
        out.extend_from_slice(b",\"created\":\"");
        out.extend_from_slice(iso_time::format(*created).as_bytes());
        out.extend_from_slice(b"Z\",\"href\":\"");
        out.extend_from_slice(base.as_bytes());
        out.extend_from_slice(b"messages/");
        id.write(&mut out);
        out.extend_from_slice(b"\"}");
    }
    out.extend_from_slice(b"}}");
    out
}

/// A page of subscriptions with its link.
pub(super) fn subscriptions(path: &str, page: &SubscriptionsPage) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + page.subscriptions.len() * 256);
    out.extend_from_slice(b"{\"subscriptions\":");
    write::list(&mut out, &page.subscriptions, |out, view| view.write(out));
    out.extend_from_slice(b",\"links\":");
    match page.subscriptions.last() {
        None => out.extend_from_slice(b"[]"),
        Some(last) => next_link(&mut out, path, |out| {
            out.extend_from_slice(format!("marker={}&limit=", last.subscription.id).as_bytes());
            write::integer(out, page.limit.into());
        }),
    }
    out.push(b'}');
    out
}

/// A page of definitions, written by `list`, with its link.
pub(super) fn definitions(
    word: &str,
    path: &str,
    last: Option<&str>,
    limit: u32,
    detailed: bool,
    list: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(format!("{{\"{word}\":").as_bytes());
    list(&mut out);
    out.extend_from_slice(b",\"links\":");
    match last {
        None => out.extend_from_slice(b"[]"),
        Some(last) => next_link(&mut out, path, |out| {
            out.extend_from_slice(b"marker=");
            encode(out, last);
            out.extend_from_slice(b"&limit=");
            write::integer(out, limit.into());
            flag(out, "detailed", detailed);
        }),
    }
    out.push(b'}');
    out
}

/// One subscription.
pub(super) fn one_subscription(view: &SubscriptionView) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    view.write(&mut out);
    out
}

/// What a signature says.
pub(super) fn signed(signed: &Signed) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let texts = |out: &mut Vec<u8>, texts: &[String]| {
        write::list(out, texts, |out, text| write::string(out, text));
    };
    out.extend_from_slice(b"{\"project\":");
    write::string(&mut out, &signed.project);
    out.extend_from_slice(b",\"paths\":");
    texts(&mut out, &signed.paths);
    out.extend_from_slice(b",\"methods\":");
    texts(&mut out, &signed.methods);
    out.extend_from_slice(b",\"expires\":");
    write::string(&mut out, &signed.expires);
    out.extend_from_slice(b",\"signature\":");
    write::string(&mut out, &signed.signature);
    out.push(b'}');
    out
}
