//! One connection with one channel: what is sent is gathered, what comes is awaited one by one.

use std::io;
use std::time::{Duration, Instant};

use anyhow::Context;
use posthouse_amqp::encode::{encode_body, encode_content_header};
use posthouse_amqp::error::ReplyCode;
use posthouse_amqp::method::{BasicPublish, Method};
use posthouse_amqp::options::ClientOptions;
use posthouse_amqp::sasl::Credentials;
use posthouse_amqp::table::{Table, Value};
use posthouse_amqp::{Address, Connection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::happened::{Happened, translate};
use crate::transport::{self, Stream};

/// The one channel that every command uses.
const CHANNEL: u16 = 1;

/// Bytes read at once, and how much the input grows when a frame is larger.
const READ_BYTES: usize = 256 * 1024;

/// Bytes gathered before they are written without being asked for.
const WRITE_BYTES: usize = 512 * 1024;

/// How long a broken connection may take to say why.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection with an open channel.
pub(crate) struct Session {
    connection: Connection,
    stream: Box<dyn Stream>,
    /// What was read and not yet taken: from `taken` on.
    input: Vec<u8>,
    taken: usize,
    /// What is to be sent: from `written` on.
    out: Vec<u8>,
    written: usize,
}

impl Session {
    /// Connects, logs in, opens the virtual host and a channel.
    ///
    /// # Errors
    ///
    /// What kept it from that: the network, the login, the virtual host, or time.
    pub(crate) async fn connect(address: &Address) -> anyhow::Result<Self> {
        let limit = address.connection_timeout;
        tokio::time::timeout(limit, Self::open(address))
            .await
            .with_context(|| format!("{} did not answer within {limit:?}", address.place()))?
    }

    /// Appends a method; [`Session::flush`] or [`Session::next`] sends it.
    ///
    /// # Errors
    ///
    /// If a name has more than 255 bytes.
    pub(crate) fn send<'a>(&mut self, method: impl Into<Method<'a>>) -> anyhow::Result<()> {
        let method = method.into();
        method.encode(CHANNEL, &mut self.out).with_context(|| method.name().to_owned())
    }

    /// Appends a message; sends what has gathered once it is much.
    ///
    /// # Errors
    ///
    /// As [`Session::send`] and [`Session::flush`].
    pub(crate) async fn publish(
        &mut self,
        publish: BasicPublish<'_>,
        properties: &[u8],
        body: &[u8],
    ) -> anyhow::Result<()> {
        self.send(publish)?;
        encode_content_header(&mut self.out, CHANNEL, body.len() as u64, properties);
        encode_body(&mut self.out, CHANNEL, body, self.connection.frame_max());
        if self.out.len() >= WRITE_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends everything that has gathered.
    ///
    /// # Errors
    ///
    /// If the connection is lost.
    pub(crate) async fn flush(&mut self) -> anyhow::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        // Counted piece by piece, so that a future dropped in between sends nothing twice.
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest).await {
                Ok(written) => self.written += written,
                // The broker may have said why before it closed.
                Err(error) => {
                    self.out.clear();
                    self.hear_last_words().await?;
                    return Err(anyhow::Error::new(error).context("connection lost"));
                }
            }
        }
        self.out.clear();
        self.written = 0;
        self.stream.flush().await.context("connection lost")?;
        self.connection.sent(Instant::now());
        Ok(())
    }

    /// Sends what has gathered and waits for the next thing the broker says. Cancel-safe.
    ///
    /// # Errors
    ///
    /// If the broker ends channel or connection, in its words, or the connection is lost.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Happened> {
        loop {
            if let Some(happened) = self.take()? {
                return Ok(happened);
            }
            self.flush().await?;
            self.read().await?;
        }
    }

    /// What the broker has said already, without waiting.
    ///
    /// # Errors
    ///
    /// As [`Session::next`].
    pub(crate) fn take(&mut self) -> anyhow::Result<Option<Happened>> {
        loop {
            let mut input = self.input.get(self.taken..).unwrap_or_default();
            let before = input.len();
            let event = self.connection.handle_bytes(Instant::now(), &mut input, &mut self.out);
            self.taken += before - input.len();
            let Some(event) = event else { return Ok(None) };
            if let Some(happened) = translate(event)? {
                return Ok(Some(happened));
            }
        }
    }

    /// Sends a method and waits for its answer; to be used where nothing else is under way.
    ///
    /// # Errors
    ///
    /// As [`Session::send`] and [`Session::next`].
    pub(crate) async fn ask<'a>(
        &mut self,
        method: impl Into<Method<'a>>,
    ) -> anyhow::Result<Happened> {
        let method = method.into();
        self.send(method)?;
        loop {
            match self.next().await.with_context(|| method.name().to_owned())? {
                Happened::Blocked(_) | Happened::Unblocked => {}
                answer => return Ok(answer),
            }
        }
    }

    /// Closes the connection properly and hands everything that still comes to `last`.
    ///
    /// # Errors
    ///
    /// As [`Session::next`].
    pub(crate) async fn close(mut self, mut last: impl FnMut(Happened)) -> anyhow::Result<()> {
        // Everything sent before is handled before the close is: returns and confirms come first.
        self.connection.close(ReplyCode::Success, "bye", (0, 0), &mut self.out);
        loop {
            match self.next().await? {
                Happened::Closed => return Ok(()),
                happened => last(happened),
            }
        }
    }

    async fn open(address: &Address) -> anyhow::Result<Self> {
        let stream = transport::connect(&address.into(), "--uri").await?;
        let mut out = Vec::new();
        let connection = Connection::client(options(address), Instant::now(), &mut out);
        let mut session = Self { connection, stream, input: Vec::new(), taken: 0, out, written: 0 };
        let place = address.place();
        session
            .expect(&Happened::Opened)
            .await
            .with_context(|| format!("cannot log in to {place}"))?;
        session
            .connection
            .open_channel(CHANNEL, &mut session.out)
            .context("no channel can be opened")?;
        session.expect(&Happened::ChannelOpened).await.context("no channel was opened")?;
        Ok(session)
    }

    async fn expect(&mut self, wanted: &Happened) -> anyhow::Result<()> {
        loop {
            if self.next().await? == *wanted {
                return Ok(());
            }
        }
    }

    /// Waits for bytes, or for the clock.
    async fn read(&mut self) -> anyhow::Result<()> {
        self.input.drain(..self.taken);
        self.taken = 0;
        self.input.reserve(READ_BYTES);
        let due = self.connection.poll_timeout().map(tokio::time::Instant::from_std);
        let clock = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = self.stream.read_buf(&mut self.input) => heard(read),
            () = clock => {
                let event = self.connection.handle_timeout(Instant::now(), &mut self.out);
                event.map_or(Ok(None), translate).map(drop)
            }
        }
    }

    /// Reads what is there after the connection broke: the reason, if there is one, is the error.
    async fn hear_last_words(&mut self) -> anyhow::Result<()> {
        let listen = async {
            while self.read().await.is_ok() {
                while self.take()?.is_some() {}
            }
            Ok(())
        };
        tokio::time::timeout(LAST_WORDS_TIMEOUT, listen).await.unwrap_or(Ok(()))
    }
}

/// Whether a read brought bytes; its end is a failure, as a broker says goodbye before it closes.
fn heard(read: io::Result<usize>) -> anyhow::Result<()> {
    match read {
        Ok(0) => {
            anyhow::bail!("broker closed the connection without a word, as after a refused login")
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => heard(Ok(0)),
        Ok(_) => Ok(()),
        Err(error) => Err(anyhow::Error::new(error).context("connection lost")),
    }
}

fn options(address: &Address) -> ClientOptions {
    let credentials = Credentials { login: &address.user, password: address.password.as_bytes() };
    let mut properties: Table = ClientOptions::default().properties;
    for (name, value) in
        [("product", "posthouse"), ("version", env!("CARGO_PKG_VERSION")), ("platform", "Rust")]
    {
        properties.insert(name, Value::LongString(value.as_bytes().to_vec()));
    }
    let (mechanism, response) = match address.external {
        true => ("EXTERNAL", Vec::new()),
        false => ("PLAIN", credentials.to_plain()),
    };
    ClientOptions {
        mechanism: mechanism.to_owned(),
        response,
        virtual_host: address.virtual_host.clone(),
        properties,
        heartbeat_secs: address.heartbeat_secs,
        handshake_deadline: address.connection_timeout,
        ..ClientOptions::default()
    }
}
