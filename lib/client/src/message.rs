//! Types that are messages: where they go and how they are written stands next to the type.

use std::borrow::Cow;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::Format;

/// A value that is published.
///
/// ```
/// use posthouse_client::Message;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct OrderPlaced {
///     id: u64,
///     region: String,
/// }
///
/// impl Message for OrderPlaced {
///     const EXCHANGE: &'static str = "events";
///     const TOPIC: &'static str = "orders.placed";
///
///     fn routing_key(&self) -> std::borrow::Cow<'static, str> {
///         format!("orders.{}.placed", self.region).into()
///     }
/// }
/// ```
pub trait Message: Serialize {
    /// What happened, as the property `type` says it, and the routing key unless [`Message::routing_key`] says otherwise.
    const TOPIC: &'static str;
    /// Where it is published. Default: the default exchange, where the routing key is the name of a queue.
    const EXCHANGE: &'static str = "";
    /// Version of the body, in the header `version` if it is not 1.
    const VERSION: u16 = 1;
    /// How the body is written. Default: JSON.
    const FORMAT: Format = Format::Json;

    /// The routing key of this value.
    fn routing_key(&self) -> Cow<'static, str> {
        Cow::Borrowed(Self::TOPIC)
    }
}

/// A message that is answered.
pub trait Request: Message {
    /// The answer.
    type Reply: DeserializeOwned;
}
