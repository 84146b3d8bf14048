//! Mail: a message becomes a mail, and the operator's relay takes it.
//!
//! Connections are kept for the next mail, a few of them and not for ever. A relay that says 5yz to a mail has said its
//! last word; everything else is tried again. The same mail keeps its `Message-ID`, so that a double, which can only come
//! when the last answer is lost, can be told.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::attempt::{Attempt, Outcome};
use crate::mail::{Address, HeaderText, Mail};
use crate::output::Output;
use crate::output::connection::{Tls, connect};
use crate::output::smtp_client::{Client, SmtpError, open};
use crate::resolve::Resolver;

/// Connections that wait for the next mail.
const IDLE_CONNECTIONS_MAX: usize = 4;

/// How long they wait; relays hang up after minutes.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Mails over one connection; some relays refuse more.
const MAILS_PER_CONNECTION_MAX: u32 = 100;

/// How a relay's connection is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all: for relays on this machine.
    None,
    /// By STARTTLS, which must be offered; usually port 587.
    StartTls,
    /// From the first byte; usually port 465.
    Tls,
}

/// User and password of a relay.
#[derive(Clone)]
pub struct Credentials {
    /// User.
    pub user: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.user)
    }
}

/// The operator's relay.
#[derive(Debug, Clone)]
pub struct Relay {
    /// Name or address, also the name in its certificate.
    pub host: String,
    /// Port.
    pub port: u16,
    /// How the connection is secured.
    pub encryption: Encryption,
    /// Who logs in.
    pub credentials: Option<Credentials>,
    /// What this machine calls itself.
    pub hello: String,
    /// Time for each step of the conversation.
    pub step_timeout: Duration,
}

/// Who gets a mail.
#[derive(Debug, Clone)]
pub struct MailTarget {
    /// Sender.
    pub from: Address,
    /// Recipients.
    pub to: Vec<Address>,
    /// Subject.
    pub subject: HeaderText,
}

/// Sends mail.
pub struct Smtp {
    relay: Relay,
    resolver: Resolver,
    tls: Tls,
    /// Time for all of an attempt.
    timeout: Duration,
    idle: Mutex<Vec<Waiting>>,
}

struct Waiting {
    client: Client,
    mails: u32,
    since: Instant,
}

impl Smtp {
    /// An attempt takes at most `timeout`, all of its steps together.
    #[must_use]
    pub fn new(relay: Relay, resolver: Resolver, tls: Tls, timeout: Duration) -> Self {
        Self { relay, resolver, tls, timeout, idle: Mutex::default() }
    }

    /// Hangs up where no mail was sent for a while; to be called now and then.
    pub async fn drop_idle(&self) {
        let old: Vec<_> = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.extract_if(.., |waiting| waiting.since.elapsed() >= IDLE_MAX).collect()
        };
        for waiting in old {
            waiting.client.quit().await;
        }
    }

    async fn attempt(&self, target: &MailTarget, attempt: &Attempt) -> Result<usize, SmtpError> {
        let mail = Mail {
            from: target.from.clone(),
            to: target.to.clone(),
            subject: target.subject.clone(),
            id: attempt.id.clone(),
            date: attempt.timestamp,
            body: attempt.payload.to_vec(),
            content_type: "text/plain",
        };
        let encoded = mail.encoded();
        let (mut client, mails) = self.client().await?;
        match client.send(&target.from, &target.to, &encoded).await {
            Ok(refused) => {
                self.keep(client, mails + 1).await;
                Ok(refused)
            }
            Err(error) => {
                // It stands in the middle of something: the next mail must not continue it.
                client.quit().await;
                Err(error)
            }
        }
    }

    async fn client(&self) -> Result<(Client, u32), SmtpError> {
        loop {
            let waiting = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut waiting) = waiting else { break };
            if waiting.since.elapsed() < IDLE_MAX && waiting.client.is_alive().await {
                return Ok((waiting.client, waiting.mails));
            }
        }
        let found = self.resolver.lookup(&self.relay.host).await;
        let addresses: Vec<_> = found
            .map_err(|error| SmtpError::Io(std::io::Error::other(error)))?
            .into_iter()
            .map(|address| SocketAddr::new(address, self.relay.port))
            .collect();
        let (stream, _) = connect(&addresses).await?;
        Ok((open(stream, &self.relay, &self.tls).await?, 0))
    }

    async fn keep(&self, client: Client, mails: u32) {
        let too_many = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if mails < MAILS_PER_CONNECTION_MAX && idle.len() < IDLE_CONNECTIONS_MAX {
                idle.push(Waiting { client, mails, since: Instant::now() });
                return;
            }
            client
        };
        too_many.quit().await;
    }
}

impl Output for Smtp {
    type Target = MailTarget;

    async fn send(&self, target: &MailTarget, attempt: &Attempt) -> Outcome {
        match tokio::time::timeout(self.timeout, self.attempt(target, attempt)).await {
            Ok(Ok(_)) => Outcome::Delivered,
            Ok(Err(error)) if error.is_permanent() => Outcome::Hopeless(error.to_string()),
            Ok(Err(error @ SmtpError::Silence(_))) => Outcome::silence(error.to_string()),
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "mail not sent");
                Outcome::endpoint(error.to_string())
            }
            Err(_) => Outcome::silence(format!("mail not sent within {:?}", self.timeout)),
        }
    }
}

impl fmt::Debug for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smtp").field("relay", &self.relay).finish_non_exhaustive()
    }
}
