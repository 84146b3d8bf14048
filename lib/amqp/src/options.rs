//! What each side brings to a connection.

use std::time::Duration;

use crate::{capabilities::Capabilities, table::Table};

/// The limits and the introduction of a server; shared by all its connections.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerOptions {
    /// Most channels open at once, 0 for no limit.
    pub channel_max: u16,
    /// Longest frame in bytes, its eight octets of overhead included; kept within
    /// [`FRAME_MIN_SIZE`](crate::frame::FRAME_MIN_SIZE) and [`FRAME_MAX_CEILING`](crate::frame::FRAME_MAX_CEILING).
    pub frame_max: u32,
    /// Heartbeat proposed in seconds, 0 for none. The client decides.
    pub heartbeat_secs: u16,
    /// Login mechanisms, separated by spaces, the preferred one first.
    pub mechanisms: String,
    /// Product, version, capabilities and so on, sent to every client.
    pub properties: Table,
    /// Largest body in bytes; never more than [`MESSAGE_BYTES_CEILING`].
    pub message_bytes_max: u64,
    /// How long a client may take from connecting to an open virtual host.
    pub handshake_deadline: Duration,
}

/// Largest body that can be allowed at all: 512 MiB, as in RabbitMQ.
pub const MESSAGE_BYTES_CEILING: u64 = 512 * 1024 * 1024;

impl Default for ServerOptions {
    /// What RabbitMQ proposes, with its capabilities as the only property.
    fn default() -> Self {
        Self {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat_secs: 60,
            mechanisms: "PLAIN AMQPLAIN".to_owned(),
            properties: Table::from_iter([("capabilities", Capabilities::SERVER.to_table())]),
            message_bytes_max: 16 * 1024 * 1024,
            handshake_deadline: Duration::from_secs(10),
        }
    }
}

/// The login, the wishes and the introduction of a client.
#[derive(Clone, PartialEq)]
pub struct ClientOptions {
    /// Login mechanism; the server must offer it.
    pub mechanism: String,
    /// Its initial response, see [`crate::sasl`].
    pub response: Vec<u8>,
    /// The virtual host to open.
    pub virtual_host: String,
    /// Product, version, capabilities and so on.
    pub properties: Table,
    /// Most channels, 0 to leave it to the server.
    pub channel_max: u16,
    /// Longest frame in bytes, 0 to leave it to the server.
    pub frame_max: u32,
    /// Heartbeat in seconds, 0 to leave it to the server.
    pub heartbeat_secs: u16,
    /// Largest body in bytes taken from the server; never more than [`MESSAGE_BYTES_CEILING`].
    pub message_bytes_max: u64,
    /// How long the server may take from connecting to an open virtual host.
    pub handshake_deadline: Duration,
}

impl Default for ClientOptions {
    /// User `guest` on virtual host `/`, with every capability, and the server's limits.
    fn default() -> Self {
        Self {
            mechanism: "PLAIN".to_owned(),
            response: b"\0guest\0guest".to_vec(),
            virtual_host: "/".to_owned(),
            properties: Table::from_iter([("capabilities", Capabilities::CLIENT.to_table())]),
            channel_max: 0,
            frame_max: 0,
            heartbeat_secs: 0,
            message_bytes_max: MESSAGE_BYTES_CEILING,
            handshake_deadline: Duration::from_secs(10),
        }
    }
}

/// Shows no login response.
impl std::fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientOptions")
            .field("mechanism", &self.mechanism)
            .field("virtual_host", &self.virtual_host)
            .field("channel_max", &self.channel_max)
            .field("frame_max", &self.frame_max)
            .field("heartbeat_secs", &self.heartbeat_secs)
            .finish_non_exhaustive()
    }
}
