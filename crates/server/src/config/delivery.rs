//! How messages of subscriptions leave, as an operator decides it.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use delivery::output::smtp::Encryption;
use delivery::{Address, Ports, Range};

use super::Secret;
use super::reader::Reader;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Longest public URL of the queue service: it goes into a header.
const SETTLE_URL_BYTES_MAX: usize = 1024;

/// How messages of subscriptions leave.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Ranges that may be called although they are not public.
    pub allow: Vec<Range>,
    /// Ranges that may not be called although they are.
    pub refuse: Vec<Range>,
    /// Ports that may be called.
    pub ports: Vec<Ports>,
    /// Name servers; empty: those of the system.
    pub name_servers: Vec<SocketAddr>,
    /// For one attempt to call a webhook, all of it; at most a minute.
    pub timeout: Duration,
    /// PEM file of authorities; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// Attempts that run at once.
    pub attempts_max: usize,
    /// Of them, of one subscription.
    pub attempts_per_subscription_max: u32,
    /// Bytes of their messages.
    pub bytes_max: usize,
    /// Bytes of an answer that somebody waits for.
    pub answer_bytes_max: usize,
    /// Public URL of the queue service, where messages are settled later; `None` if they cannot be.
    pub settle_url: Option<Box<str>>,
    /// Messages that wait to be settled later.
    pub unsettled_max: usize,
    /// Of them, of one subscription.
    pub unsettled_per_subscription_max: usize,
    /// Bytes of them.
    pub unsettled_bytes_max: usize,
    /// `whsec_…`, the newest first, separated by commas or lines; empty: one is made and kept beside the messages.
    pub signing_secret: Secret,
    /// Hosts that tokens of Keystone trusts may be sent to.
    pub trust_hosts: Vec<String>,
    /// The mail relay; `None` if there is none.
    pub smtp: Option<Smtp>,
}

/// The mail relay.
#[derive(Debug, Clone)]
pub struct Smtp {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// How the connection is secured.
    pub encryption: Encryption,
    /// Who logs in; empty: nobody.
    pub user: String,
    /// With this.
    pub password: Secret,
    /// Sender where a subscription names none.
    pub from: Address,
    /// What this machine calls itself.
    pub hello: String,
    /// For each step of the conversation.
    pub timeout: Duration,
}

pub(super) fn read(r: &mut Reader<'_>) -> Delivery {
    let second = Duration::from_secs(1);
    let delivery = Delivery {
        allow: parsed(r, "delivery.allow"),
        refuse: parsed(r, "delivery.refuse"),
        ports: parsed(r, "delivery.ports"),
        name_servers: r.addresses("delivery.name_servers"),
        timeout: r.duration("delivery.timeout", second / 10..=second * 60),
        ca: r.path("delivery.ca"),
        attempts_max: r.number("delivery.attempts_max", 1..=100_000),
        attempts_per_subscription_max: r.number("delivery.attempts_per_subscription_max", 1..=1000),
        bytes_max: usize::try_from(r.bytes("delivery.bytes_max", MIB..=MIB * 1024 * 1024))
            .unwrap_or(usize::MAX),
        answer_bytes_max: usize::try_from(r.bytes("delivery.answer_bytes_max", KIB..=MIB))
            .unwrap_or(usize::MAX),
        settle_url: settle_url(r),
        unsettled_max: r.number("delivery.unsettled_max", 1..=1_000_000),
        unsettled_per_subscription_max: r
            .number("delivery.unsettled_per_subscription_max", 1..=1_000_000),
        unsettled_bytes_max: usize::try_from(
            r.bytes("delivery.unsettled_bytes_max", MIB..=MIB * 1024 * 1024),
        )
        .unwrap_or(usize::MAX),
        signing_secret: Secret::new(r.text("delivery.signing_secret")),
        trust_hosts: r.texts("delivery.trust_hosts"),
        smtp: read_smtp(r),
    };
    for secret in delivery::sign::secrets(delivery.signing_secret.reveal()) {
        if let Err(error) = secret {
            r.refuse("delivery.signing_secret", &format!("cannot be used: {error}"));
        }
    }
    delivery
}

/// A URL that a path can be put behind, without the slash at its end.
fn settle_url(r: &mut Reader<'_>) -> Option<Box<str>> {
    let text = r.text("delivery.settle_url");
    if text.is_empty() {
        return None;
    }
    let is_good = hyper::Uri::try_from(&text).is_ok_and(|url| {
        matches!(url.scheme_str(), Some("http" | "https"))
            && url.authority().is_some_and(|it| !it.as_str().contains('@'))
            && url.query().is_none()
    });
    if !is_good || text.contains('#') || text.len() > SETTLE_URL_BYTES_MAX {
        r.refuse(
            "delivery.settle_url",
            "must be an http or https URL of at most 1024 bytes, without user, query and fragment",
        );
        return None;
    }
    Some(text.trim_end_matches('/').into())
}

fn read_smtp(r: &mut Reader<'_>) -> Option<Smtp> {
    let encryptions =
        [("starttls", Encryption::StartTls), ("tls", Encryption::Tls), ("none", Encryption::None)];
    let (host, from) = (r.text("delivery.smtp.host"), r.text("delivery.smtp.from"));
    let port = r.number("delivery.smtp.port", 1..=65_535);
    let encryption = r.choice("delivery.smtp.encryption", &encryptions, Encryption::StartTls);
    let (user, password) = (r.text("delivery.smtp.user"), r.text("delivery.smtp.password"));
    let hello = r.text("delivery.smtp.hello");
    let second = Duration::from_secs(1);
    let timeout = r.duration("delivery.smtp.timeout", second / 10..=second * 600);
    if host.is_empty() {
        return None;
    }
    let is_name = |text: &str| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        !text.is_empty() && text.len() <= 255 && text.bytes().all(good)
    };
    if !is_name(&hello) {
        r.refuse("delivery.smtp.hello", "must be the name of this machine");
    }
    if user.is_empty() != password.is_empty() {
        r.refuse(
            "delivery.smtp.user",
            "must be set where delivery.smtp.password is, and only there",
        );
    }
    match Address::parse(&from) {
        Ok(from) => {
            let password = Secret::new(password);
            Some(Smtp { host, port, encryption, user, password, from, hello, timeout })
        }
        Err(error) => {
            let what = format!("must be set where delivery.smtp.host is: {error}");
            r.refuse("delivery.smtp.from", &what);
            None
        }
    }
}

/// A list of things that know themselves how they are read.
fn parsed<T: FromStr<Err = E>, E: Display>(r: &mut Reader<'_>, key: &str) -> Vec<T> {
    let mut list = Vec::new();
    for text in r.texts(key) {
        match text.parse::<T>() {
            Ok(one) => list.push(one),
            Err(error) => r.refuse(key, &error.to_string()),
        }
    }
    list
}
