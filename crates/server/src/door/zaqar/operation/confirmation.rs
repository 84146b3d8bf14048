//! What subscribers are told beside messages: that they should confirm, and that they are not told any more.

use broker::Subscription;
use model::Timestamp;
use posthouse_amqp::properties::Properties;

use super::place::family_of;
use crate::door::zaqar::json::write;
use crate::door::zaqar::signed_url::{SignError, Signer};

/// How long the signature of a question is good, in milliseconds: a day.
const LIFETIME_MS: u64 = 86_400_000;

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Somebody has subscribed you: confirm.
    Subscribe,
    /// You are not told any more.
    Unsubscribe,
}

/// The properties of such a message.
pub(super) fn properties() -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    let known = Properties {
        content_type: Some("application/json"),
        delivery_mode: Some(2),
        ..Properties::default()
    };
    match known.encode(&mut out) {
        Ok(()) => out,
        // Two short constants always fit; no properties would do as well.
        Err(_) => vec![0, 0],
    }
}

/// The message, with a signature by which the subscriber may answer without any other right.
///
/// # Errors
///
/// [`SignError`], such as without a secret.
pub(super) fn text(
    signer: &Signer,
    subscription: &Subscription,
    kind: Kind,
    now: Timestamp,
) -> Result<Vec<u8>, SignError> {
    let (family, name) = family_of(&subscription.queue);
    let path = format!("/v2/{}/{name}/subscriptions/{}/confirm", family.plural(), subscription.id);
    let signed = signer.sign(
        &[path],
        &["PUT".to_owned()],
        &subscription.tenant,
        now.after_ms(LIFETIME_MS),
        now,
    )?;
    let (type_name, sentence) = match kind {
        Kind::Subscribe => {
            ("SubscriptionConfirmation", "You have chosen to subscribe to the queue: ")
        }
        Kind::Unsubscribe => {
            ("UnsubscribeConfirmation", "You have unsubscribed successfully to the queue: ")
        }
    };
    let sentence = format!("{sentence}{name}");
    let members = [
        ("Message_Type", type_name),
        ("Message", &sentence),
        ("URL-Signature", &signed.signature),
        ("URL-Methods", "PUT"),
        ("URL-Paths", signed.paths.first().map_or("", String::as_str)),
        ("X-Project-ID", &subscription.tenant),
        ("URL-Expires", &signed.expires),
        ("queue_name", name),
    ];
    let mut out = Vec::with_capacity(512);
    out.push(b'{');
    for (member, value) in members {
        write::string(&mut out, member);
        out.push(b':');
        write::string(&mut out, value);
        out.push(b',');
    }
    out.extend_from_slice(
        b"\"SubscribeBody\":{\"confirmed\":true},\"UnsubscribeBody\":{\"confirmed\":false}}",
    );
    Ok(out)
}
