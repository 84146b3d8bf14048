//! From the first byte to an open tenant: login, limits, virtual host.
//!
//! The one part of a connection that waits: for its peer, and for the check of a password.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use broker::{Access, BrokerError};
use posthouse_amqp::sasl::Credentials;
use posthouse_amqp::{Capabilities, Close, Connection, Event, ReplyCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::door::amqp::listener::Shared;
use crate::door::amqp::translate::refusal;

/// Bytes read at once: a login fits.
const READ_BYTES: usize = 4096;

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) tls: bool,
    /// The user that its verified certificate stands for.
    pub(crate) certificate: Option<String>,
}

/// A connection with a tenant, and what is left of the handshake's buffers.
#[derive(Debug)]
pub(crate) struct Opened<S> {
    pub(crate) stream: S,
    pub(crate) connection: Connection,
    pub(crate) access: Access,
    pub(crate) capabilities: Capabilities,
    /// Received after the open.
    pub(crate) input: Vec<u8>,
    /// Not written yet.
    pub(crate) output: Vec<u8>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the peer left")]
    Left(#[source] io::Error),
    #[error("{0}")]
    Protocol(String),
    #[error("login refused for user '{0}'")]
    Login(String),
    #[error("login refused: no certificate of the peer stands for a user")]
    NoCertificate,
}

/// What a login asks for.
#[derive(Debug)]
enum Login {
    Password { user: String, password: Vec<u8> },
    Certificate { user: String },
    NoCertificate,
    Malformed,
}

/// What the caller does after an event.
#[derive(Debug)]
enum Step {
    Check { login: Login, mechanism: String },
    Open(String),
    Failed(String),
    More,
}

struct Handshake<S> {
    stream: S,
    peer: Peer,
    shared: Arc<Shared>,
    connection: Connection,
    input: Vec<u8>,
    output: Vec<u8>,
    user: String,
}

/// Does the handshake.
pub(crate) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    peer: Peer,
    shared: Arc<Shared>,
) -> Result<Opened<S>, Refused> {
    let options = if peer.tls { &shared.options_tls } else { &shared.options };
    let connection = Connection::server(Arc::clone(options), Instant::now());
    let handshake = Handshake {
        stream,
        peer,
        connection,
        input: Vec::new(),
        output: Vec::new(),
        user: String::new(),
        shared: Arc::clone(&shared),
    };
    let limit = shared.options.handshake_deadline;
    match tokio::time::timeout(limit, handshake.run()).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Refused::Protocol(format!("handshake took longer than {limit:?}"))),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Handshake<S> {
    async fn run(mut self) -> Result<Opened<S>, Refused> {
        loop {
            let mut step = self.next_step();
            if matches!(step, Step::More) {
                self.flush().await?;
                self.receive().await?;
                step = self.next_step();
            }
            match step {
                Step::More => {}
                Step::Check { login, mechanism } => self.check(login, &mechanism).await?,
                Step::Open(tenant) => match self.shared.broker.enter(&self.user, &tenant) {
                    Ok(access) => return Ok(self.open(access)),
                    Err(error) => self.turn_away(&error, &tenant).await?,
                },
                Step::Failed(text) => {
                    self.flush().await?;
                    self.linger().await;
                    return Err(Refused::Protocol(text));
                }
            }
        }
    }

    /// Takes one event out of what was received.
    fn next_step(&mut self) -> Step {
        let mut rest = self.input.as_slice();
        let event = self.connection.handle_bytes(Instant::now(), &mut rest, &mut self.output);
        let step = match event {
            None => Step::More,
            Some(Event::Authenticate { mechanism, response, .. }) => Step::Check {
                login: login(mechanism, response, &self.peer),
                mechanism: mechanism.to_owned(),
            },
            Some(Event::Open { virtual_host }) => Step::Open(virtual_host.to_owned()),
            Some(Event::Failed(failure)) => Step::Failed(failure.text),
            Some(Event::Closed | Event::CloseRequested { .. }) => {
                Step::Failed("the peer closed".to_owned())
            }
            Some(_) => Step::More,
        };
        let taken = self.input.len() - rest.len();
        self.input.drain(..taken);
        step
    }

    async fn check(&mut self, login: Login, mechanism: &str) -> Result<(), Refused> {
        let outcome = match login {
            Login::Malformed => {
                self.connection.abort();
                return Err(Refused::Protocol(format!("malformed {mechanism} response")));
            }
            Login::NoCertificate => Err(Refused::NoCertificate),
            Login::Certificate { user } => match self.shared.broker.users.get(&user) {
                Some(_) => Ok(user),
                None => Err(Refused::Login(user)),
            },
            Login::Password { user, password } => {
                let (logins, peer) = (&self.shared.logins, self.peer.address.ip());
                let accepted = logins.may_send_passwords(peer, self.peer.tls)
                    && logins.is_right(&user, &password, peer).await;
                if accepted { Ok(user) } else { Err(Refused::Login(user)) }
            }
        };
        let counters = &self.shared.broker.counters;
        let refused = match outcome {
            Ok(user) => {
                counters.logins.add(1);
                self.user = user;
                self.connection.authenticated(&mut self.output);
                return Ok(());
            }
            Err(refused) => refused,
        };
        counters.logins_failed.add(1);
        let text = format!(
            "Login was refused using authentication mechanism {mechanism}. For details see the broker logfile."
        );
        let close = self.connection.refuse(&ReplyCode::AccessRefused.text(&text), &mut self.output);
        self.flush().await?;
        if close == Close::WithFrame {
            self.linger().await;
        }
        Err(refused)
    }

    fn open(mut self, access: Access) -> Opened<S> {
        self.connection.opened(&mut self.output);
        let capabilities = self.connection.peer_capabilities();
        Opened {
            stream: self.stream,
            connection: self.connection,
            access,
            capabilities,
            input: self.input,
            output: self.output,
        }
    }

    async fn turn_away(&mut self, error: &BrokerError, tenant: &str) -> Result<(), Refused> {
        let (code, text) = match error {
            BrokerError::LimitReached(text) => (ReplyCode::NotAllowed, text.clone()),
            _ => refusal(error, tenant),
        };
        let text = code.text(&text);
        self.connection.close(code, &text, (10, 40), &mut self.output);
        self.flush().await?;
        self.linger().await;
        Err(Refused::Protocol(text))
    }

    /// Waits until the peer has read the close and hung up: it would lose it to a reset otherwise.
    async fn linger(&mut self) {
        let mut rest = [0; 256];
        while !self.connection.is_finished()
            && self.stream.read(&mut rest).await.is_ok_and(|read| read > 0)
        {
            self.input.extend_from_slice(&rest);
            self.input.truncate(READ_BYTES);
            drop(self.next_step());
            self.input.clear();
        }
    }

    async fn receive(&mut self) -> Result<(), Refused> {
        let mut bytes = [0; READ_BYTES];
        match self.stream.read(&mut bytes).await {
            Ok(0) => Err(Refused::Left(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => {
                self.input.extend_from_slice(bytes.get(..read).unwrap_or_default());
                Ok(())
            }
            Err(error) => Err(Refused::Left(error)),
        }
    }

    async fn flush(&mut self) -> Result<(), Refused> {
        if self.output.is_empty() {
            return Ok(());
        }
        self.stream.write_all(&self.output).await.map_err(Refused::Left)?;
        self.stream.flush().await.map_err(Refused::Left)?;
        self.output.clear();
        self.connection.sent(Instant::now());
        Ok(())
    }
}

fn login(mechanism: &str, response: &[u8], peer: &Peer) -> Login {
    let parsed = match mechanism {
        "PLAIN" => Credentials::from_plain(response).ok(),
        "AMQPLAIN" => Credentials::from_amqplain(response).ok(),
        "EXTERNAL" => {
            return match &peer.certificate {
                Some(user) => Login::Certificate { user: user.clone() },
                None => Login::NoCertificate,
            };
        }
        _ => None,
    };
    match parsed {
        Some(credentials) => Login::Password {
            user: credentials.login.to_owned(),
            password: credentials.password.to_vec(),
        },
        None => Login::Malformed,
    }
}
