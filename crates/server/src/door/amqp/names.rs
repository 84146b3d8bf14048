//! Names that the server gives, and headers that it adds.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use broker::Queue;
use posthouse_amqp::rewrite::Rewrite;
use posthouse_amqp::{Table, Value};
use store::Leased;

/// A queue declared without a name.
pub(crate) fn queue() -> String {
    format!("amq.gen-{}", random())
}

/// A consumer without a tag.
pub(crate) fn consumer_tag() -> String {
    format!("amq.ctag-{}", random())
}

/// A requester's address: nobody can guess it.
pub(crate) fn reply_token() -> String {
    format!("{}.{}", broker::REPLY_TO, random())
}

/// 22 characters that carry 122 random bits.
fn random() -> String {
    URL_SAFE_NO_PAD.encode(uuid::Uuid::new_v4().as_bytes())
}

/// The properties of a delivery that tells where in a stream it lies, or how often it was delivered before.
pub(crate) fn with_delivery_headers(queue: &Queue, leased: &Leased) -> Vec<u8> {
    let original = leased.message.properties();
    let rewritten = Rewrite::of(original).ok().and_then(|mut rewrite| {
        let mut headers = match rewrite.headers() {
            Some(raw) => raw.decode().ok()?,
            None => Table::default(),
        };
        if queue.is_stream() {
            headers.insert("x-stream-offset", long(leased.sequence.0));
        } else {
            headers.insert("x-delivery-count", long(u64::from(leased.delivery_count)));
        }
        rewrite.set_headers(&headers).ok()?;
        let mut encoded = Vec::new();
        rewrite.encode(&mut encoded);
        Some(encoded)
    });
    // Headers that cannot be taken apart pass through as they came.
    rewritten.unwrap_or_else(|| original.to_vec())
}

fn long(value: u64) -> Value {
    Value::I64(i64::try_from(value).unwrap_or(i64::MAX))
}
