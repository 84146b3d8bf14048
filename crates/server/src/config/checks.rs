//! What each option allows, and which options need each other.

use std::path::PathBuf;
use std::time::Duration;

use posthouse_amqp::frame::{FRAME_MAX_CEILING, FRAME_MIN_SIZE};
use posthouse_amqp::options::MESSAGE_BYTES_CEILING;

use super::reader::{self, Reader};
use super::settings::{Value, show};
use super::{
    AlarmLevels, Amqp, Auth, ClientVerify, Config, DefaultUser, ExternalLogin, Limits, Log,
    LogFormat, MemoryLevel, PlainWithoutTls, Secret, Store, Tls,
};
use super::{delivery, inbox, queue_access};

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

/// A remembered password must not outlive a revocation elsewhere for longer than this.
const PASSWORD_CACHE_MAX: Duration = Duration::from_secs(60);
const WEEK: Duration = Duration::from_secs(7 * 86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Reads every option; what is wrong stays in the reader.
pub(super) fn read(r: &mut Reader<'_>) -> Config {
    Config {
        data_dir: read_data_dir(r),
        amqp: read_amqp(r),
        queues: super::queues::read(r),
        inbox: inbox::read(r),
        auth: read_auth(r),
        queue_access: queue_access::read(r),
        delivery: delivery::read(r),
        limits: read_limits(r),
        alarms: read_alarms(r),
        metrics_listen: r.addresses("metrics.listen"),
        definitions_file: r.path("definitions.file"),
        log: read_log(r),
        store: read_store(r),
        busy_poll: Duration::from_micros(r.number("runtime.busy_poll_us", 0..=10_000)),
        processors_awake: r.switch("runtime.processors_awake"),
    }
}

fn read_data_dir(r: &mut Reader<'_>) -> PathBuf {
    let path = r.path("data_dir");
    if path.is_none() {
        r.refuse("data_dir", "must not be empty");
    }
    path.unwrap_or_default()
}

fn read_amqp(r: &mut Reader<'_>) -> Amqp {
    Amqp {
        listen: r.addresses("amqp.listen"),
        product: r.read("amqp.product", String::new(), |value| match value {
            Value::Text(text) if (1..=255).contains(&text.len()) => Ok(text.clone()),
            other => Err(format!("must be a string of 1 to 255 bytes, not {}", show(other))),
        }),
        version: r.read("amqp.version", String::new(), parse_version),
        frame_max: u32::try_from(
            r.bytes("amqp.frame_max", u64::from(FRAME_MIN_SIZE)..=u64::from(FRAME_MAX_CEILING)),
        )
        .unwrap_or(u32::MAX),
        channel_max: r.number("amqp.channel_max", 1..=u64::from(u16::MAX)),
        heartbeat: read_heartbeat(r),
        handshake_timeout: r.duration(
            "amqp.handshake_timeout",
            Duration::from_millis(100)..=Duration::from_secs(600),
        ),
        message_bytes_max: r.bytes("amqp.message_bytes_max", 1..=MESSAGE_BYTES_CEILING),
        connections_max: r.number("amqp.connections_max", 1..=10_000_000),
        tls: read_tls(r, "amqp.tls"),
    }
}

fn read_heartbeat(r: &mut Reader<'_>) -> Duration {
    let heartbeat = r.duration("amqp.heartbeat", Duration::ZERO..=Duration::from_secs(65_535));
    if heartbeat.subsec_nanos() != 0 {
        r.refuse("amqp.heartbeat", "must be whole seconds, as AMQP cannot say less");
    }
    heartbeat
}

fn parse_version(value: &Value) -> Result<String, String> {
    let plain = |text: &str| {
        let parts: Vec<_> = text.split('.').collect();
        parts.len() == 3
            && parts.iter().all(|part| part.parse::<u16>().is_ok() && !part.starts_with('+'))
    };
    match value {
        Value::Text(text) if plain(text) => Ok(text.clone()),
        other => {
            Err(format!("must be three numbers with dots, such as \"4.3.0\", not {}", show(other)))
        }
    }
}

/// The TLS listeners of the door whose options are in this table.
pub(super) fn read_tls(r: &mut Reader<'_>, table: &str) -> Tls {
    let verify = [
        ("none", ClientVerify::None),
        ("optional", ClientVerify::Optional),
        ("required", ClientVerify::Required),
    ];
    let option = |name: &str| format!("{table}.{name}");
    let tls = Tls {
        listen: r.addresses(&option("listen")),
        certificate: r.path(&option("certificate")),
        key: r.path(&option("key")),
        client_ca: r.path(&option("client_ca")),
        verify: r.choice(&option("verify"), &verify, ClientVerify::None),
        handshake_timeout: r.duration(
            &option("handshake_timeout"),
            Duration::from_millis(100)..=Duration::from_secs(60),
        ),
    };
    if !tls.listen.is_empty() && tls.certificate.is_none() {
        r.refuse(&option("certificate"), &format!("must be set where {table}.listen is"));
    }
    if !tls.listen.is_empty() && tls.key.is_none() {
        r.refuse(&option("key"), &format!("must be set where {table}.listen is"));
    }
    if tls.verify != ClientVerify::None && tls.client_ca.is_none() {
        let what = format!("must be set where {table}.verify is not \"none\"");
        r.refuse(&option("client_ca"), &what);
    }
    tls
}

fn read_auth(r: &mut Reader<'_>) -> Auth {
    let plain = [
        ("always", PlainWithoutTls::Always),
        ("loopback", PlainWithoutTls::Loopback),
        ("never", PlainWithoutTls::Never),
    ];
    let login = [
        ("distinguished_name", ExternalLogin::DistinguishedName),
        ("common_name", ExternalLogin::CommonName),
        ("san_dns", ExternalLogin::SanDns),
        ("san_email", ExternalLogin::SanEmail),
        ("san_uri", ExternalLogin::SanUri),
    ];
    Auth {
        guest: r.switch("auth.guest"),
        default_user: read_default_user(r),
        default_vhost: r.text("auth.default_vhost"),
        plain_without_tls: r.choice("auth.plain_without_tls", &plain, PlainWithoutTls::Never),
        password_cache: r.duration("auth.password_cache", Duration::ZERO..=PASSWORD_CACHE_MAX),
        password_checks_max: r.number("auth.password_checks_max", 1..=64),
        external_login: r.choice("auth.external_login", &login, ExternalLogin::DistinguishedName),
    }
}

fn read_default_user(r: &mut Reader<'_>) -> Option<DefaultUser> {
    let name = r.text("auth.default_user");
    let password = r.text("auth.default_pass");
    match (name.is_empty(), password.is_empty()) {
        (true, true) => None,
        (false, false) => Some(DefaultUser { name, password: Secret::new(password) }),
        (false, true) => {
            r.refuse(
                "auth.default_pass",
                "must be set where auth.default_user is; a blank password lets nobody in",
            );
            None
        }
        (true, false) => {
            r.refuse("auth.default_user", "must be set where auth.default_pass is");
            None
        }
    }
}

fn read_limits(r: &mut Reader<'_>) -> Limits {
    let timeout = r.duration("limits.consumer_timeout", Duration::ZERO..=YEAR);
    let parking_messages = r.number::<u64>("limits.parking_messages_max", 0..=u64::MAX);
    let parking_bytes = r.bytes("limits.parking_bytes_max", 0..=u64::MAX);
    let parking_ttl = r.duration("limits.parking_ttl", Duration::ZERO..=YEAR);
    Limits {
        queues_per_tenant_max: r.bound("limits.queues_per_tenant_max"),
        exchanges_per_tenant_max: r.bound("limits.exchanges_per_tenant_max"),
        bindings_per_tenant_max: r.bound("limits.bindings_per_tenant_max"),
        connections_per_tenant_max: r.bound("limits.connections_per_tenant_max"),
        connections_per_user_max: r.bound("limits.connections_per_user_max"),
        channels_per_user_max: r.bound("limits.channels_per_user_max"),
        consumers_per_channel_max: r.bound("limits.consumers_per_channel_max"),
        unacked_per_channel_max: r.bound("limits.unacked_per_channel_max"),
        parking_messages_max: Some(parking_messages).filter(|max| *max > 0),
        parking_bytes_max: Some(parking_bytes).filter(|max| *max > 0),
        parking_ttl: Some(parking_ttl).filter(|ttl| !ttl.is_zero()),
        consumer_timeout: Some(timeout).filter(|timeout| !timeout.is_zero()),
    }
}

fn read_alarms(r: &mut Reader<'_>) -> AlarmLevels {
    AlarmLevels {
        memory_high: r.read(
            "alarms.memory_high_watermark",
            MemoryLevel::Fraction(1.0),
            parse_memory_level,
        ),
        disk_free_min: r.bytes("alarms.disk_free_min", 0..=u64::MAX),
        interval: r
            .duration("alarms.interval", Duration::from_millis(10)..=Duration::from_secs(60)),
    }
}

fn parse_memory_level(value: &Value) -> Result<MemoryLevel, String> {
    let fraction = match value {
        Value::Fraction(number) => Some(*number),
        Value::Number(1) => Some(1.0),
        Value::Text(text) if text.contains('.') => text.trim().parse().ok(),
        Value::Text(_) | Value::Number(_) | Value::Switch(_) | Value::List(_) => None,
    };
    match fraction {
        Some(fraction) if fraction > 0.0 && fraction <= 1.0 => Ok(MemoryLevel::Fraction(fraction)),
        Some(fraction) => Err(format!(
            "must be above 0 and at most 1, or a size such as \"2GiB\", not {fraction}"
        )),
        None => reader::size(value).map(MemoryLevel::Bytes),
    }
}

fn read_log(r: &mut Reader<'_>) -> Log {
    Log {
        level: r.read("log.level", "info".to_owned(), |value| match value {
            Value::Text(text) => crate::telemetry::check_filter(text).map(|()| text.clone()),
            other => Err(format!("must be a string, not {}", show(other))),
        }),
        format: r.choice(
            "log.format",
            &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            LogFormat::Text,
        ),
    }
}

fn read_store(r: &mut Reader<'_>) -> Store {
    Store {
        segment_bytes: u32::try_from(r.bytes("store.segment_bytes", MIB..=GIB)).unwrap_or(u32::MAX),
        resident_bytes: r.bytes("store.resident_bytes", MIB..=1024 * GIB),
        resident_transient_bytes: r.bytes("store.resident_transient_bytes", MIB..=1024 * GIB),
        reserve_segments: r.number("store.reserve_segments", 1..=64),
        dedup_window: r.duration("store.dedup_window", Duration::from_secs(1)..=WEEK),
        dedup_ids_max: r.number("store.dedup_ids_max", 1..=100_000_000),
    }
}
