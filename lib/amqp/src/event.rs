//! What a connection tells its owner: one event per method, message or change of state.

use std::borrow::Cow;

use crate::{error::Failure, method::Method, raw_table::RawTable};

/// Something that happened. Borrows from the received bytes only, never from the connection.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Server: the client wants to log in. Answer with
    /// [`authenticated`](crate::Connection::authenticated), [`challenge`](crate::Connection::challenge) or
    /// [`refuse`](crate::Connection::refuse); until then no further bytes are taken.
    Authenticate {
        /// One of the offered mechanisms.
        mechanism: &'a str,
        /// Its initial response.
        response: &'a [u8],
        /// The locale asked for; not checked.
        locale: &'a str,
        /// Who the client is. Its capabilities are in [`crate::Connection::peer_capabilities`].
        client_properties: RawTable<'a>,
    },
    /// Server: the answer to a challenge. Answer as to [`Event::Authenticate`].
    SecureResponse(&'a [u8]),
    /// Server: limits are agreed and the client names a virtual host. Answer with
    /// [`opened`](crate::Connection::opened) or [`close`](crate::Connection::close); until then no further bytes are
    /// taken.
    Open {
        /// The virtual host as sent.
        virtual_host: &'a str,
    },
    /// Client: the server has introduced itself; the login is already written.
    Started {
        /// Product, version, capabilities.
        server_properties: RawTable<'a>,
    },
    /// Client: the login mechanism asks; answer with [`respond`](crate::Connection::respond).
    Challenge(&'a [u8]),
    /// Client: the virtual host is open, channels may be opened.
    Opened,
    /// The channel is open. Server: `open-ok` is already written.
    ChannelOpened(u16),
    /// The channel is gone and its number free: the peer closed it (`close-ok` is already written) or answered
    /// [`close_channel`](crate::Connection::close_channel).
    ChannelClosed(u16),
    /// Client: the server closed the channel; `close-ok` is already written, the number is free.
    ChannelCloseRequested {
        /// The channel.
        channel: u16,
        /// The reply code as sent.
        code: u16,
        /// The reply text as sent.
        text: &'a str,
        /// Class and method that failed, 0 if none.
        class_method: (u16, u16),
    },
    /// This side closed the channel because of what the peer sent; `channel.close` is already written.
    /// [`Event::ChannelClosed`] follows when the peer answers.
    ChannelFailed {
        /// The channel.
        channel: u16,
        /// Why.
        failure: Failure,
    },
    /// A method for the owner. Channel 0: `connection.update-secret` (server), `connection.blocked`, `.unblocked` and
    /// `.update-secret-ok` (client).
    Method {
        /// The channel, 0 for the connection.
        channel: u16,
        /// The method; never one that carries content or that the connection answers itself.
        method: Method<'a>,
    },
    /// Server: a message was published.
    Publish {
        /// The channel.
        channel: u16,
        /// Where to.
        publish: Publish<'a>,
        /// The message.
        content: Content<'a>,
    },
    /// Client: a message met no queue.
    Return {
        /// The channel.
        channel: u16,
        /// Why, and where it should have gone.
        returned: Returned<'a>,
        /// The message.
        content: Content<'a>,
    },
    /// Client: a message for a consumer.
    Deliver {
        /// The channel.
        channel: u16,
        /// For whom.
        delivery: Delivery<'a>,
        /// The message.
        content: Content<'a>,
    },
    /// Client: the message asked for.
    GetOk {
        /// The channel.
        channel: u16,
        /// Its delivery.
        got: Got<'a>,
        /// The message.
        content: Content<'a>,
    },
    /// The peer closes the connection. `close-ok` is already written; a server waits for the client to close the
    /// socket (until [`Event::Closed`] comes from the clock), a client closes it.
    CloseRequested {
        /// The reply code as sent.
        code: u16,
        /// The reply text as sent.
        text: &'a str,
        /// Class and method that failed, 0 if none.
        class_method: (u16, u16),
    },
    /// Close the socket: the peer answered our close, or did not in time.
    Closed,
    /// The peer broke the protocol, or fell silent. What the failure's `close` says remains to be done; with
    /// [`Close::WithFrame`](crate::error::Close) keep reading until [`Event::Closed`].
    Failed(Failure),
}

/// Where a message was published to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Name of the exchange, empty for the default exchange.
    pub exchange: Cow<'a, str>,
    /// Routing key.
    pub routing_key: Cow<'a, str>,
    /// Whether to return it if it meets no queue.
    pub mandatory: bool,
    /// Not implemented by RabbitMQ: 540.
    pub immediate: bool,
}

/// For whom a message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// The consumer.
    pub consumer_tag: Cow<'a, str>,
    /// What to acknowledge, per channel.
    pub delivery_tag: u64,
    /// Whether somebody may have seen it before.
    pub redelivered: bool,
    /// The exchange it was published to.
    pub exchange: Cow<'a, str>,
    /// The routing key it was published with.
    pub routing_key: Cow<'a, str>,
}

/// Why a message comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returned<'a> {
    /// 312 for no route.
    pub reply_code: u16,
    /// The reason in words.
    pub reply_text: Cow<'a, str>,
    /// The exchange it was published to.
    pub exchange: Cow<'a, str>,
    /// The routing key it was published with.
    pub routing_key: Cow<'a, str>,
}

/// The answer to `basic.get`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got<'a> {
    /// What to acknowledge, per channel.
    pub delivery_tag: u64,
    /// Whether somebody may have seen it before.
    pub redelivered: bool,
    /// The exchange it was published to.
    pub exchange: Cow<'a, str>,
    /// The routing key it was published with.
    pub routing_key: Cow<'a, str>,
    /// How many messages are left in the queue.
    pub message_count: u32,
}

/// A message: borrowed if its frames arrived in one piece, owned if they had to be put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content<'a> {
    /// Encoded properties: flags and values, not checked yet. See [`crate::properties`].
    pub properties: Cow<'a, [u8]>,
    /// The body, exactly as long as announced.
    pub body: Cow<'a, [u8]>,
}
