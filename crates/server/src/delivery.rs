//! Delivery to subscribers, put together from what the operator decided.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::delivery::output::connection::Tls;
use ::delivery::output::smtp::{Credentials, Relay, Smtp};
use ::delivery::output::webhook::{TokenError, TokenFuture, TokenSource, Webhook};
use ::delivery::sign::{self, Secret};
use ::delivery::{Addresses, Defaults, Guard, Limits, Opener, Outputs, Resolver, Runner};
use anyhow::Context as _;
use broker::Broker;
use model::Message;
use posthouse_amqp::properties::Properties;

use crate::auth::keystone::{Keystone, TrustId};
use crate::auth::secret_file;
use crate::config;
use crate::door::zaqar::gate::Gate;
use crate::door::zaqar::operation::TOPIC_PREFIX;
use crate::door::zaqar::sealing;

/// File with the signing secret that was made at the first start.
const SECRET_FILE: &str = "webhook-secret";

/// Largest file of signing secrets, in bytes.
const SECRET_FILE_BYTES_MAX: u64 = 4096;

/// Time for all of a mail's steps together.
const MAIL_TIMEOUT: Duration = Duration::from_secs(300);

/// What subscriptions are checked against, by doors and by the runner alike.
///
/// # Errors
///
/// If the signing secret cannot be read or made.
pub fn defaults(config: &config::Delivery, data_dir: &Path) -> anyhow::Result<Defaults> {
    let addresses = Addresses { allow: config.allow.clone(), refuse: config.refuse.clone() };
    Ok(Defaults {
        guard: Arc::new(Guard { addresses, ports: config.ports.clone() }),
        mail_from: config.smtp.as_ref().map(|smtp| smtp.from.clone()),
        secrets: secrets(config.signing_secret.reveal(), data_dir)?,
        settle_url: config.settle_url.clone(),
        shown_name: |name| name.strip_prefix(TOPIC_PREFIX).unwrap_or(name),
    })
}

/// The runner. The gate of the queue service gives tokens to `trust+` subscribers and opens messages that are kept
/// encrypted.
///
/// # Errors
///
/// If the operator's authorities cannot be read.
pub fn runner(
    config: &config::Delivery,
    broker: &Arc<Broker>,
    defaults: Defaults,
    gate: Option<&Arc<Gate>>,
) -> anyhow::Result<Runner> {
    let resolver = resolver(config)?;
    let tls = Tls::new(config.ca.as_deref(), Some(b"http/1.1")).context("delivery.ca")?;
    let guard = Arc::clone(&defaults.guard);
    let mut webhook = Webhook::new(guard, resolver.clone(), tls, config.timeout);
    if let Some(keystone) = gate.and_then(|gate| gate.keystone()) {
        let tokens = Arc::new(Trusts(Arc::clone(keystone)));
        webhook = webhook.with_tokens(tokens, config.trust_hosts.clone());
    }
    let smtp = match &config.smtp {
        Some(smtp) => {
            let tls = Tls::new(config.ca.as_deref(), None).context("delivery.ca")?;
            Some(Smtp::new(relay(smtp), resolver, tls, MAIL_TIMEOUT))
        }
        None => None,
    };
    let limits = Limits {
        attempts_max: config.attempts_max,
        bytes_max: config.bytes_max,
        per_subscription_max: config.attempts_per_subscription_max,
        answer_bytes_max: config.answer_bytes_max,
        unsettled_max: config.unsettled_max,
        unsettled_per_subscription_max: config.unsettled_per_subscription_max,
        unsettled_bytes_max: config.unsettled_bytes_max,
    };
    let opener = gate.map(|gate| Arc::new(Sealed(Arc::clone(gate))) as Arc<dyn Opener>);
    Ok(Runner::new(Arc::clone(broker), Outputs { webhook, smtp }, defaults, opener, limits))
}

/// A machine without name servers can still deliver to addresses, and everything else works anyway.
fn resolver(config: &config::Delivery) -> anyhow::Result<Resolver> {
    Resolver::new(&config.name_servers).or_else(|error| {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "webhooks and relays with names cannot be called; set delivery.name_servers"
        );
        Ok(Resolver::new(&[(std::net::Ipv4Addr::LOCALHOST, 53).into()])?)
    })
}

fn relay(smtp: &config::Smtp) -> Relay {
    let credentials = (!smtp.user.is_empty()).then(|| Credentials {
        user: smtp.user.clone(),
        password: smtp.password.reveal().to_owned(),
    });
    Relay {
        host: smtp.host.clone(),
        port: smtp.port,
        encryption: smtp.encryption,
        credentials,
        hello: smtp.hello.clone(),
        step_timeout: smtp.timeout,
    }
}

/// The configured secrets, else the one of the data directory, which is made if it is not there.
fn secrets(configured: &str, data_dir: &Path) -> anyhow::Result<Vec<Secret>> {
    let read = |text: &str| sign::secrets(text).collect::<Result<Vec<_>, _>>();
    let configured = read(configured).context("delivery.signing_secret")?;
    if !configured.is_empty() {
        return Ok(configured);
    }
    let path = data_dir.join(SECRET_FILE);
    if !path.exists() {
        let secret = Secret::random().context("no randomness for a signing secret")?;
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = made.with_context(|| format!("{} cannot be made", path.display()))?;
        file.write_all(format!("{}\n", secret.reveal()).as_bytes())
            .and_then(|()| file.sync_all())
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    let text = secret_file::read(&path, SECRET_FILE_BYTES_MAX)?;
    let found = read(&text).with_context(|| format!("{} cannot be used", path.display()))?;
    anyhow::ensure!(
        !found.is_empty(),
        "{} has no secret; remove it to have one made",
        path.display()
    );
    Ok(found)
}

/// Tokens of trusts, from Keystone.
#[derive(Debug)]
struct Trusts(Arc<Keystone>);

impl TokenSource for Trusts {
    fn token<'a>(&'a self, trust_id: &'a str) -> TokenFuture<'a> {
        Box::pin(async move {
            let wrong = |text: &str| TokenError(text.to_owned());
            let trust = TrustId::new(trust_id).ok_or_else(|| wrong("it is not a trust's name"))?;
            match self.0.trust_token(&trust).await {
                Ok(token) => Ok((*token).to_owned()),
                Err(error) => Err(TokenError(error.to_string())),
            }
        })
    }
}

/// Messages that are kept encrypted, opened with the keys of the queue service.
struct Sealed(Arc<Gate>);

impl Opener for Sealed {
    fn open(&self, tenant: &str, _: &str, message: &Message) -> Result<Option<Vec<u8>>, String> {
        let properties = Properties::decode(message.properties()).unwrap_or_default();
        if properties.content_type != Some(sealing::CONTENT_TYPE) {
            return Ok(None);
        }
        let keys = self.0.key_ring().ok_or("queues.encryption.keys is empty")?;
        keys.open(tenant, message.body()).map(Some).map_err(|error| error.to_string())
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_only_for_us() {
        let directory = tempfile::tempdir().unwrap();

        let first = secrets("", directory.path()).unwrap();
        let second = secrets("", directory.path()).unwrap();

        assert_eq!(first, second);
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(directory.path().join(SECRET_FILE)).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        let configured = secrets(&format!("{}\n", second[0].reveal()), Path::new("/nowhere"));
        assert_eq!(configured.unwrap(), second);
    }
}
