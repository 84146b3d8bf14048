//! The socket of one connection: messages in, messages out, both bounded.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::envelope::Codec;
use super::msgpack;

/// Bytes read at once, held by every connection as long as it lives. Requests are mostly smaller, and thousands of
/// subscribers send nothing at all.
const READ_BYTES: usize = 4096;

/// Bytes of answers gathered before they are written without being asked for.
const WRITE_BYTES: usize = 64 * 1024;

/// How long a peer may take to read the last words.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);

/// Bytes thrown away of a message that is too large.
const DRAIN_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of a reason for the end that a control frame has room for.
const REASON_BYTES_MAX: usize = 123;

/// What a peer sent.
#[derive(Debug)]
pub(super) enum Received {
    /// A request.
    Request(Codec, Bytes),
    /// The answer to a ping of ours.
    Pong(Bytes),
    /// Nothing that has to be answered.
    Nothing,
    /// The peer says goodbye, or has gone.
    End,
    /// The peer broke a rule: the code and words to close with.
    Fault(u16, String),
}

/// A WebSocket that knows our codecs and limits.
pub(super) struct Frames<S> {
    inner: WebSocketStream<S>,
    /// How long the peer may take nothing of what is written.
    patience: Duration,
    unflushed: bool,
}

/// The peer has gone or takes nothing; there is nobody to tell.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("the peer did not take what was written within {0:?}")]
    Slow(Duration),
    #[error(transparent)]
    Socket(Box<Error>),
    #[error("an answer was no text")]
    Answer,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    /// The server's side of a connection whose handshake is done.
    pub(super) async fn new(stream: S, message_bytes_max: usize, patience: Duration) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(WRITE_BYTES)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max))
            .accept_unmasked_frames(false);
        let inner = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
        Self { inner, patience, unflushed: false }
    }

    /// What comes next.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Received> {
        Pin::new(&mut self.inner).poll_next(context).map(|next| match next {
            Some(Ok(message)) => received(message),
            Some(Err(error)) => fault(&error),
            None => Received::End,
        })
    }

    /// Gathers an answer or a notification, given as JSON.
    ///
    /// # Errors
    ///
    /// Every [`Lost`]; the connection is of no use then.
    pub(super) async fn feed(&mut self, codec: Codec, json: Vec<u8>) -> Result<(), Lost> {
        let json = String::from_utf8(json).map_err(|_| Lost::Answer)?;
        let message = match codec {
            Codec::Json => Message::Text(json.into()),
            Codec::MessagePack => Message::Binary(msgpack::from_json(&json).into()),
        };
        self.put(message).await
    }

    /// Gathers a ping; its answer carries the same bytes, at most 125.
    ///
    /// # Errors
    ///
    /// As [`Frames::feed`].
    pub(super) async fn ping(&mut self, bytes: Bytes) -> Result<(), Lost> {
        self.put(Message::Ping(bytes)).await
    }

    async fn put(&mut self, message: Message) -> Result<(), Lost> {
        self.unflushed = true;
        in_time(self.patience, self.inner.feed(message)).await
    }

    /// Writes all that was gathered.
    ///
    /// # Errors
    ///
    /// As [`Frames::feed`].
    pub(super) async fn flush(&mut self) -> Result<(), Lost> {
        if !std::mem::take(&mut self.unflushed) {
            return Ok(());
        }
        in_time(self.patience, self.inner.flush()).await
    }

    /// Answers the goodbye of a peer, if that is what ended the connection.
    pub(super) async fn answer_close(&mut self) {
        drop(timeout(FAREWELL, self.inner.flush()).await);
    }

    /// Says goodbye and waits a little for the peer to say it too.
    pub(super) async fn close(&mut self, code: u16, reason: &str) {
        let farewell = async {
            if self.say_goodbye(code, reason).await {
                while !matches!(
                    poll_fn(|context| self.poll_next(context)).await,
                    Received::End | Received::Fault(..)
                ) {}
            }
        };
        // Who does not answer is left alone.
        drop(timeout(FAREWELL, farewell).await);
    }

    /// Says goodbye to a peer whose messages cannot be read any more, and throws away what it is sending, so that it reads
    /// the reason and not a reset.
    pub(super) async fn close_unread(&mut self, code: u16, reason: &str) {
        let farewell = async {
            if !self.say_goodbye(code, reason).await {
                return;
            }
            let stream = self.inner.get_mut();
            if stream.shutdown().await.is_err() {
                return;
            }
            let mut drained = 0;
            let mut buffer = vec![0; READ_BYTES];
            while drained < DRAIN_BYTES_MAX {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(read) => drained += read,
                }
            }
        };
        drop(timeout(FAREWELL, farewell).await);
    }

    async fn say_goodbye(&mut self, code: u16, reason: &str) -> bool {
        let end = reason.floor_char_boundary(REASON_BYTES_MAX);
        let reason = reason.get(..end).unwrap_or_default().into();
        let frame = CloseFrame { code: CloseCode::from(code), reason };
        self.inner.close(Some(frame)).await.is_ok()
    }
}

async fn in_time(
    patience: Duration,
    writing: impl Future<Output = Result<(), Error>>,
) -> Result<(), Lost> {
    match timeout(patience, writing).await {
        Ok(done) => done.map_err(|error| Lost::Socket(Box::new(error))),
        Err(_) => Err(Lost::Slow(patience)),
    }
}

fn received(message: Message) -> Received {
    match message {
        Message::Text(text) => Received::Request(Codec::Json, text.into()),
        Message::Binary(bytes) => Received::Request(Codec::MessagePack, bytes),
        Message::Pong(bytes) => Received::Pong(bytes),
        // Its answer goes out with the next write or read.
        Message::Ping(_) | Message::Frame(_) => Received::Nothing,
        Message::Close(_) => Received::End,
    }
}

/// Codes are those of RFC 6455 §7.4.1.
fn fault(error: &Error) -> Received {
    match error {
        Error::Capacity(_) => Received::Fault(1009, "message too large".to_owned()),
        Error::Utf8(_) => Received::Fault(1007, "text must be UTF-8".to_owned()),
        Error::Protocol(error) => Received::Fault(1002, error.to_string()),
        _ => Received::End,
    }
}
