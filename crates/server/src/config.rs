//! Configuration: what an operator may decide, passed down as small structs and never read again.
//!
//! Precedence: embedded default file < configuration file < environment < `--set`. Unknown options, values that are not
//! allowed and options that do not fit together are all reported at once, each with its place.

mod checks;
mod delivery;
mod error;
mod inbox;
mod queue_access;
mod queues;
mod reader;
mod settings;
pub mod units;

use std::fmt;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use delivery::{Delivery, Smtp};
pub use error::{ConfigError, Origin, Problem};
pub use inbox::Inbox;
pub use queue_access::{
    AuthMode, KeystoneAccess, PolicyChoice, QueueAccess, SignedUrls, TokenAccess,
};
pub use queues::Queues;
use reader::Reader;

use crate::auth::secret_file::check_mode;
pub use settings::{DEFAULT_FILE, Settings, Sources};

/// Everything an operator decided.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of messages and definitions.
    pub data_dir: PathBuf,
    /// The AMQP door.
    pub amqp: Amqp,
    /// The queue service.
    pub queues: Queues,
    /// The inbox.
    pub inbox: Inbox,
    /// Who may come in.
    pub auth: Auth,
    /// Who may use the queue service.
    pub queue_access: QueueAccess,
    /// How messages of subscriptions leave.
    pub delivery: Delivery,
    /// What tenants and users may hold.
    pub limits: Limits,
    /// When publishers are blocked.
    pub alarms: AlarmLevels,
    /// Where Prometheus and probes look; empty is off.
    pub metrics_listen: Vec<SocketAddr>,
    /// A RabbitMQ definitions export to import at start.
    pub definitions_file: Option<PathBuf>,
    /// What is logged, and how.
    pub log: Log,
    /// The embedded log's sizes.
    pub store: Store,
    /// How long the server stays awake for the next message while traffic is live; zero is off.
    pub busy_poll: Duration,
    /// Whether all processors of the machine are asked to stay awake, too.
    pub processors_awake: bool,
}

/// The AMQP door.
#[derive(Debug, Clone)]
pub struct Amqp {
    /// Clear-text listeners.
    pub listen: Vec<SocketAddr>,
    /// Product name told to clients.
    pub product: String,
    /// Version told to clients, `N.N.N`.
    pub version: String,
    /// Bytes, 4096 to 16 MiB.
    pub frame_max: u32,
    /// Most channels per connection, at least 1.
    pub channel_max: u16,
    /// Whole seconds; zero offers none.
    pub heartbeat: Duration,
    /// From accept to `connection.open`.
    pub handshake_timeout: Duration,
    /// Largest body, at most 512 MiB.
    pub message_bytes_max: u64,
    /// Over all AMQP listeners.
    pub connections_max: usize,
    /// The TLS listeners.
    pub tls: Tls,
}

/// The TLS listeners of a door.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Where; empty is off, and then nothing else here matters.
    pub listen: Vec<SocketAddr>,
    /// PEM file of the chain; there if `listen` is not empty.
    pub certificate: Option<PathBuf>,
    /// PEM file of the key; there if `listen` is not empty.
    pub key: Option<PathBuf>,
    /// PEM file of the authorities of clients; there unless `verify` is [`ClientVerify::None`].
    pub client_ca: Option<PathBuf>,
    /// What is asked of clients.
    pub verify: ClientVerify,
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
}

/// Whether clients show certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientVerify {
    /// None is asked for.
    None,
    /// One that is shown must be good.
    Optional,
    /// Refused without a good one.
    Required,
}

/// Who may come in.
#[derive(Debug, Clone)]
pub struct Auth {
    /// Create guest at a first start without users.
    pub guest: bool,
    /// Administrator to create at a first start without users.
    pub default_user: Option<DefaultUser>,
    /// Virtual host to create at a first start.
    pub default_vhost: String,
    /// Where passwords may cross a connection without TLS.
    pub plain_without_tls: PlainWithoutTls,
    /// How long a right password is remembered; zero is off; at most 60 s.
    pub password_cache: Duration,
    /// Most passwords hashed at the same time.
    pub password_checks_max: usize,
    /// What a client certificate's user is called.
    pub external_login: ExternalLogin,
}

/// Administrator to create at a first start without users.
#[derive(Debug, Clone)]
pub struct DefaultUser {
    /// Name, not empty.
    pub name: String,
    /// Password, not empty.
    pub password: Secret,
}

/// Where passwords may cross a connection without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainWithoutTls {
    /// Everywhere.
    Always,
    /// Between two programs on this machine.
    Loopback,
    /// Nowhere.
    Never,
}

/// What a client certificate's user is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExternalLogin {
    /// The subject's whole name in RFC 2253's form.
    DistinguishedName,
    /// The subject's last common name.
    CommonName,
    /// The first alternative name that is a DNS name.
    SanDns,
    /// The first alternative name that is a mail address.
    SanEmail,
    /// The first alternative name that is a URI.
    SanUri,
}

/// What tenants and users may hold; [`usize::MAX`] is no bound.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Queues in a tenant.
    pub queues_per_tenant_max: usize,
    /// Exchanges in a tenant.
    pub exchanges_per_tenant_max: usize,
    /// Bindings in a tenant.
    pub bindings_per_tenant_max: usize,
    /// Connections to a tenant.
    pub connections_per_tenant_max: usize,
    /// Connections of a user.
    pub connections_per_user_max: usize,
    /// Channels of a user over all connections.
    pub channels_per_user_max: usize,
    /// Consumers on a channel.
    pub consumers_per_channel_max: usize,
    /// Deliveries of a channel that wait for their acknowledgement.
    pub unacked_per_channel_max: usize,
    /// Messages in a parking queue.
    pub parking_messages_max: Option<u64>,
    /// Bytes of their bodies.
    pub parking_bytes_max: Option<u64>,
    /// How long they are kept.
    pub parking_ttl: Option<Duration>,
    /// How long a consumer may hold a message, where neither queue nor policy says otherwise; `None` is for ever.
    pub consumer_timeout: Option<Duration>,
}

/// When publishers are blocked.
#[derive(Debug, Clone)]
pub struct AlarmLevels {
    /// Resident memory above this.
    pub memory_high: MemoryLevel,
    /// Bytes free on the disk of `data_dir` below this.
    pub disk_free_min: u64,
    /// How often both are looked at.
    pub interval: Duration,
}

/// A level of resident memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MemoryLevel {
    /// Of the memory of machine or cgroup, whichever is less; above 0, at most 1.
    Fraction(f64),
    /// In bytes.
    Bytes(u64),
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct Log {
    /// Level or directives of `tracing_subscriber::EnvFilter`.
    pub level: String,
    /// The form of lines.
    pub format: LogFormat,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The embedded log.
#[derive(Debug, Clone)]
pub struct Store {
    /// Bytes at which a segment is closed; at most 1 GiB.
    pub segment_bytes: u32,
    /// Bytes of persistent messages kept in memory.
    pub resident_bytes: u64,
    /// Bytes of transient messages kept in memory.
    pub resident_transient_bytes: u64,
    /// Segments made ahead, for settles when the disk is full; at least 1.
    pub reserve_segments: usize,
    /// How long a dedup id is remembered.
    pub dedup_window: Duration,
    /// How many dedup ids are remembered.
    pub dedup_ids_max: usize,
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself; do not print or keep it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Config {
    /// Brings all layers together and checks every option.
    ///
    /// # Errors
    ///
    /// Every [`ConfigError`]; values that are not allowed are reported all at once.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        Self::from_settings(Settings::collect(sources)?)
    }

    /// Checks every option.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Problems`] with unknown options, values that are not allowed and options that do not fit together.
    pub fn from_settings(mut settings: Settings) -> Result<Self, ConfigError> {
        let problems = settings.take_problems();
        let mut reader = Reader::new(&settings, problems);
        let config = checks::read(&mut reader);
        let problems = reader.into_problems();
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Problems(problems)) }
    }
}

impl Config {
    /// What is wrong with the modes of files that hold secrets and are read all the same, because container platforms
    /// mount them with modes of their own: the key of TLS, and definitions with password hashes.
    #[must_use]
    pub fn exposed_files(&self) -> Vec<String> {
        let files = [
            ("amqp.tls.key", self.amqp.tls.key.as_deref()),
            ("inbox.tls.key", self.inbox.tls.key.as_deref()),
            ("definitions.file", self.definitions_file.as_deref()),
        ];
        let remark = |(option, path): (&str, Option<&Path>)| {
            // Whoever reads it will say if it is not there.
            let mode = path?.metadata().ok()?.mode();
            let error = check_mode(path?, mode).err()?;
            Some(format!("{option}: {error}"))
        };
        files.into_iter().filter_map(remark).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(set: &[&str]) -> Result<Config, String> {
        let set = set.iter().map(|&pair| pair.to_owned()).collect();
        Config::load(&Sources { set, ..Sources::default() }).map_err(|error| error.to_string())
    }

    #[test]
    fn the_default_file_is_good_and_listens_on_loopback_only() {
        let config = load(&[]).unwrap();

        assert_eq!(config.amqp.listen, ["127.0.0.1:5672".parse().unwrap()]);
        assert_eq!((config.amqp.frame_max, config.amqp.channel_max), (131_072, 2047));
        assert_eq!(config.amqp.heartbeat, Duration::from_secs(60));
        assert_eq!(config.limits.connections_per_tenant_max, usize::MAX);
        assert_eq!(config.alarms.memory_high, MemoryLevel::Fraction(0.6));
        assert!(config.auth.default_user.is_none());
        assert!(config.amqp.tls.listen.is_empty());
    }

    #[test]
    fn every_option_names_its_environment_variable() {
        for (key, _, _) in Settings::collect(&Sources::default()).unwrap().effective() {
            let name = format!("POSTHOUSE__{}", key.to_uppercase().replace('.', "__"));
            assert!(DEFAULT_FILE.contains(&name), "{key} does not say {name}");
        }
    }

    #[test]
    fn the_page_about_configuration_has_every_option() {
        let page = include_str!("../../../docs/configuration.md");
        for (key, _, _) in Settings::collect(&Sources::default()).unwrap().effective() {
            assert!(
                page.contains(&format!("`{key}`")),
                "docs/configuration.md does not have `{key}`"
            );
        }
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let refused = load(&[
            "amqp.frame_max=100",
            "amqp.version=4.3",
            "amqp.heartbeat=500ms",
            "log.level=nonsense=loud",
            "alarms.memory_high_watermark=1.5",
            "amqp.tls.listen=127.0.0.1:0",
        ])
        .unwrap_err();

        let keys: Vec<_> = refused.lines().filter_map(|line| line.split('`').nth(1)).collect();
        let expected = [
            "amqp.version",
            "amqp.frame_max",
            "amqp.heartbeat",
            "amqp.tls.certificate",
            "amqp.tls.key",
            "alarms.memory_high_watermark",
            "log.level",
        ];
        assert_eq!(keys, expected, "{refused}");
    }

    #[test]
    fn a_default_user_without_a_password_is_refused() {
        let refused = load(&["auth.default_user=root"]).unwrap_err();

        assert!(refused.contains("auth.default_pass"), "{refused}");
    }

    #[test]
    fn a_password_is_not_in_the_debug_form() {
        let config = load(&["auth.default_user=root", "auth.default_pass=canary-7"]).unwrap();

        assert!(!format!("{config:?}").contains("canary-7"));
    }

    #[test]
    fn the_memory_level_is_a_fraction_or_a_size() {
        let level = |text: &str| load(&[text]).map(|config| config.alarms.memory_high);

        assert_eq!(level("alarms.memory_high_watermark=0.4"), Ok(MemoryLevel::Fraction(0.4)));
        assert_eq!(level("alarms.memory_high_watermark=2GiB"), Ok(MemoryLevel::Bytes(2 << 30)));
    }
}
