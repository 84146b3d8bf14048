//! The life of the process: open the store, listen, serve, drain, close.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::delivery::{Defaults, Settler};
use anyhow::Context as _;
use broker::{Broker, BrokerError, Clock, OpenPool, Quotas, TenantDescription, User, tasks};
use model::permission::Permissions;
use store::embedded::{Embedded, Options, Vfs};
use store::{Catalog, Pool, Pools};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::alarms::Alarms;
use crate::auth::verifier::Verifier;
use crate::auth::{Logins, hash_text};
use crate::clock::SystemClock;
use crate::config::{AuthMode, Config};
use crate::definitions::{Definitions, apply::apply};
use crate::delivery;
use crate::door::amqp::listener::Door;
use crate::door::inbox::listener::Door as InboxDoor;
use crate::door::zaqar::gate::Gate;
use crate::door::zaqar::http::listener::Door as QueuesDoor;
use crate::door::zaqar::operation::Operations;
use crate::figures::Figures;
use crate::http::Secured;
use crate::listen::bind;
use crate::metrics::exposition::Identity;
use crate::metrics::http::{Endpoint, Observed};
use crate::tls::Acceptor;

/// How long connections have to say goodbye when the server ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// How often the server looks whether its store has failed.
const STORE_CHECK: Duration = Duration::from_millis(100);

/// What a server stands on, beside its configuration.
#[derive(Debug)]
pub struct Ground {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where the log is; the configured folder if `None`.
    pub disk: Option<Arc<dyn Vfs>>,
}

impl Ground {
    /// The machine's clock and disk.
    #[must_use]
    pub fn machine() -> Self {
        Self { clock: Arc::new(SystemClock::start()), disk: None }
    }
}

/// Runs the server until `shutdown` is ready, then drains it.
///
/// `say` gets a line per listener (`listening amqp 127.0.0.1:5672`), then `ready`.
///
/// # Errors
///
/// If the data directory is in use or damaged beyond reading, an address cannot be bound, a definitions file cannot be
/// read, or the store fails while the server runs.
pub async fn run(
    config: Config,
    say: impl FnMut(String),
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    run_on(Ground::machine(), config, say, |_| {}, shutdown).await
}

/// As [`run`], on a clock and a disk of the caller's; `started` gets the broker before anything listens. For programs
/// that have a server inside, such as tests.
///
/// # Errors
///
/// As [`run`].
pub async fn run_on(
    ground: Ground,
    config: Config,
    mut say: impl FnMut(String),
    started_broker: impl FnOnce(&Arc<Broker>),
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    for remark in config.exposed_files() {
        tracing::warn!("{remark}");
    }
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("folder {} cannot be created", config.data_dir.display()))?;
    let store = match ground.disk {
        None => Embedded::open(&config.data_dir, store_options(&config)),
        Some(disk) => Embedded::open_with(disk, store_options(&config)),
    };
    let store = store
        .with_context(|| format!("cannot open the data directory {}", config.data_dir.display()))?;
    let store = Arc::new(store);
    let broker =
        open_broker(&store, ground.clock, &config).context("cannot load the definitions")?;
    started_broker(&broker);
    let verifier = Verifier::new(config.auth.password_cache, config.auth.password_checks_max)
        .context("cannot check passwords")?;
    first_start(&broker, &config, &verifier).await?;
    import_definitions(&broker, &config).await?;

    let alarms = Arc::new(
        Alarms::new(&config.alarms, &config.data_dir).context("cannot read memory and disk")?,
    );
    let logins = Logins::new(Arc::clone(&broker), verifier, config.auth.plain_without_tls);
    let logins = Arc::new(logins);
    let door = Door::new(Arc::clone(&broker), Arc::clone(&alarms), Arc::clone(&logins), &config);
    let inbox = open_inbox(&config, &broker, &alarms, logins)?;
    let defaults = delivery::defaults(&config.delivery, &config.data_dir)?;
    let gate = open_gate(&config)?;
    let runner = delivery::runner(&config.delivery, &broker, defaults.clone(), gate.as_ref())?;
    let settler = runner.settler();
    let figures = Figures::new(Arc::clone(&broker), Arc::clone(&store), door.clone());
    let figures = Arc::new(figures.with_delivery(runner.counters()).with_inbox(inbox.clone()));
    let mut serving = JoinSet::new();
    serving.spawn(runner.run());
    serving.spawn(tasks::sweep(Arc::clone(&broker)));
    serving.spawn(tasks::follow_hints(Arc::clone(&broker)));
    serving.spawn(Arc::clone(&alarms).keep_looking());
    let watching = door.clone();
    serving.spawn(async move { watching.keep_vigil().await });
    serving.spawn(follow_permissions(Arc::clone(&broker), door.clone()));
    let mut acceptors = Vec::new();
    listen_amqp(&config, &door, &mut serving, &mut acceptors, &mut say)?;
    let checked_by = gate.map(|gate| (gate, defaults, settler));
    let queues = listen_queues(&config, &broker, checked_by, &mut serving, &mut say)?;
    listen_inbox(&config, inbox.as_ref(), &mut serving, &mut acceptors, &mut say)?;
    serving.spawn(reload_on(hangups(), acceptors));
    listen_metrics(&config, &figures, &alarms, started, &mut serving, &mut say)?;
    figures.set_ready(true);
    say("ready".to_owned());
    tracing::info!(elapsed = ?started.elapsed(), "ready");

    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        error = store_failure(&broker) => Err(error),
    };
    figures.set_ready(false);
    serving.shutdown().await;
    if outcome.is_ok() {
        farewell(&door, queues.as_ref(), inbox.as_ref()).await;
    }
    drop((broker, door, queues, inbox, figures));
    // The last one closes the log: what is settled is written before the process ends.
    drop(store);
    outcome
}

/// Lets every door's connections end what they are at.
async fn farewell(door: &Door, queues: Option<&QueuesDoor>, inbox: Option<&InboxDoor>) {
    let queues = async {
        if let Some(queues) = queues {
            queues.stop(FAREWELL).await;
        }
    };
    let inbox = async {
        if let Some(inbox) = inbox {
            inbox.stop(FAREWELL).await;
        }
    };
    tokio::join!(door.stop(FAREWELL), queues, inbox);
}

/// The broker over the store, and with `queues.pooling` over the pools that are defined in it as well.
fn open_broker(
    store: &Arc<Embedded>,
    clock: Arc<dyn Clock>,
    config: &Config,
) -> Result<Arc<Broker>, BrokerError> {
    let (pool, catalog) =
        (Arc::clone(store) as Arc<dyn Pool>, Arc::clone(store) as Arc<dyn Catalog>);
    if !config.queues.pooling {
        return Broker::open(pool, catalog, clock, quotas(config));
    }
    let options = store_options(config);
    let open: OpenPool = Box::new(move |uri| Ok(store::open(uri, options.clone())?.pool));
    Broker::open_pooled(&Arc::new(Pools::new(pool, catalog)), open, clock, quotas(config))
}

fn store_options(config: &Config) -> Options {
    let chosen = &config.store;
    Options {
        segment_bytes: chosen.segment_bytes,
        reserve_segments: chosen.reserve_segments,
        resident_persistent_bytes: chosen.resident_bytes,
        resident_transient_bytes: chosen.resident_transient_bytes,
        dedup_window: chosen.dedup_window,
        dedup_ids_max: chosen.dedup_ids_max,
        ..Options::default()
    }
}

fn quotas(config: &Config) -> Quotas {
    Quotas {
        queues_per_tenant: config.limits.queues_per_tenant_max,
        exchanges_per_tenant: config.limits.exchanges_per_tenant_max,
        bindings_per_tenant: config.limits.bindings_per_tenant_max,
        connections_per_tenant: config.limits.connections_per_tenant_max,
        connections_per_user: config.limits.connections_per_user_max,
        channels_per_user: config.limits.channels_per_user_max,
        parking: broker::Parking {
            messages: config.limits.parking_messages_max,
            bytes: config.limits.parking_bytes_max,
            ttl_ms: config.limits.parking_ttl.and_then(|ttl| u64::try_from(ttl.as_millis()).ok()),
        },
    }
}

/// A store that failed a sync must not go on: what it wrote since is unknown, and a restart finds out.
async fn store_failure(broker: &Broker) -> anyhow::Error {
    let mut ticks = tokio::time::interval(STORE_CHECK);
    loop {
        ticks.tick().await;
        if broker.watch().failed() {
            return anyhow::anyhow!(
                "the store failed to make data durable; restart the server when the disk is well"
            );
        }
    }
}

/// Permissions hold from the next operation on; sessions that do nothing hear of it here.
async fn follow_permissions(broker: Arc<Broker>, door: Door) {
    let mut seen = broker.users.revision();
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    loop {
        ticks.tick().await;
        let revision = broker.users.revision();
        if revision != seen {
            seen = revision;
            door.permissions_changed();
        }
    }
}

/// Makes the first tenant and user if there are none.
async fn first_start(
    broker: &Arc<Broker>,
    config: &Config,
    verifier: &Verifier,
) -> anyhow::Result<()> {
    if broker.tenant_names().is_empty() {
        broker.put_tenant(&config.auth.default_vhost, TenantDescription::default())?;
    }
    if !broker.users.is_empty() || config.definitions_file.is_some() {
        return Ok(());
    }
    let (name, password) = match &config.auth.default_user {
        Some(user) => (user.name.as_str(), user.password.reveal()),
        None if config.auth.guest => ("guest", "guest"),
        None => return Ok(()),
    };
    let hash = verifier.hash(password.as_bytes()).await?;
    let mut user =
        User { name: name.into(), tags: vec!["administrator".into()], ..User::default() };
    user.password_hash = Some(hash_text(&hash).into());
    let everything = Permissions::new(".*", ".*", ".*")?;
    user.permissions.insert(config.auth.default_vhost.as_str().into(), Arc::new(everything));
    let ticket = broker.put_user(user)?;
    broker.watch().until_durable(ticket).await?;
    tracing::info!(user = name, "first user made");
    Ok(())
}

/// Imports a RabbitMQ definitions export, and reports what was not understood.
async fn import_definitions(broker: &Arc<Broker>, config: &Config) -> anyhow::Result<()> {
    let Some(file) = &config.definitions_file else { return Ok(()) };
    let json = std::fs::read(file)
        .with_context(|| format!("definitions file {} cannot be read", file.display()))?;
    let (definitions, mut report) = Definitions::parse(&json, &config.auth.default_vhost)
        .with_context(|| format!("definitions file {} cannot be used", file.display()))?;
    let ticket = apply(broker, &definitions, &mut report, broker.now());
    broker.watch().until_durable(ticket).await?;
    for note in report.notes() {
        tracing::warn!(path = note.path, reason = note.reason, "not imported");
    }
    if report.omitted() > 0 {
        tracing::warn!(count = report.omitted(), "further definitions not imported");
    }
    let (users, queues) = (definitions.users.len(), definitions.queues.len());
    tracing::info!(
        users,
        queues,
        not_imported = report.notes().len() + report.omitted(),
        "definitions imported"
    );
    Ok(())
}

fn listen_amqp(
    config: &Config,
    door: &Door,
    serving: &mut JoinSet<()>,
    acceptors: &mut Vec<Arc<Acceptor>>,
    say: &mut impl FnMut(String),
) -> anyhow::Result<()> {
    for address in &config.amqp.listen {
        let listener = listen("amqp", *address, say)?;
        let door = door.clone();
        serving.spawn(async move { door.serve(&listener).await });
    }
    if config.amqp.tls.listen.is_empty() {
        return Ok(());
    }
    let acceptor = Arc::new(Acceptor::load(&config.amqp.tls).context("cannot use TLS")?);
    acceptors.push(Arc::clone(&acceptor));
    for address in &config.amqp.tls.listen {
        let listener = listen("amqps", *address, say)?;
        let (door, acceptor) = (door.clone(), Arc::clone(&acceptor));
        serving.spawn(async move { door.serve_tls(&listener, acceptor).await });
    }
    Ok(())
}

/// Who may use the queue service, if it listens anywhere.
fn open_gate(config: &Config) -> anyhow::Result<Option<Arc<Gate>>> {
    if config.queues.listen.is_empty() {
        return Ok(None);
    }
    let gate = Gate::open(&config.queue_access).context("cannot guard the queue service")?;
    Ok(Some(Arc::new(gate)))
}

fn listen_queues(
    config: &Config,
    broker: &Arc<Broker>,
    checked_by: Option<(Arc<Gate>, Defaults, Settler)>,
    serving: &mut JoinSet<()>,
    say: &mut impl FnMut(String),
) -> anyhow::Result<Option<QueuesDoor>> {
    let queues = &config.queues;
    let Some((gate, defaults, settler)) = checked_by else { return Ok(None) };
    let named = |name: &'static str, addresses: &[SocketAddr]| -> Vec<_> {
        addresses.iter().map(|address| (name, *address)).collect()
    };
    let addresses = [named("queues", &queues.listen), named("websocket", &queues.websocket_listen)];
    let addresses = addresses.concat();
    let access = &config.queue_access;
    let operations = Arc::new(Operations::new(
        Arc::clone(broker),
        config.queues.clone(),
        Arc::clone(&gate),
        defaults,
        settler,
    ));
    let door = QueuesDoor::new(operations, gate, access.admin_mode);
    for (name, address) in addresses {
        if access.mode == AuthMode::None
            && !access.unauthenticated_anywhere
            && !address.ip().is_loopback()
        {
            anyhow::bail!(
                "queues: {address} faces a network and queues.auth is \"none\"; choose \"keystone\" or \
                 \"token\", or set queues.unauthenticated_anywhere if that is meant"
            );
        }
        let listener = listen(name, address, say)?;
        let door = door.clone();
        serving.spawn(async move { match door.serve(&listener).await {} });
    }
    Ok(Some(door))
}

/// The inbox, if it is to be anywhere.
fn open_inbox(
    config: &Config,
    broker: &Arc<Broker>,
    alarms: &Arc<Alarms>,
    logins: Arc<Logins>,
) -> anyhow::Result<Option<InboxDoor>> {
    let options = &config.inbox;
    if !options.is_open() {
        return Ok(None);
    }
    let (broker, alarms) = (Arc::clone(broker), Arc::clone(alarms));
    let jwts = options.jwt.then_some(&config.queue_access.token);
    let door = InboxDoor::open(broker, alarms, logins, options, jwts, &config.auth.default_vhost);
    Ok(Some(door.context("cannot open the inbox")?))
}

fn listen_inbox(
    config: &Config,
    door: Option<&InboxDoor>,
    serving: &mut JoinSet<()>,
    acceptors: &mut Vec<Arc<Acceptor>>,
    say: &mut impl FnMut(String),
) -> anyhow::Result<()> {
    let Some(door) = door else { return Ok(()) };
    let options = &config.inbox;
    for address in &options.listen {
        let listener = listen("inbox", *address, say)?;
        let door = door.clone();
        serving.spawn(async move { match door.serve(&listener).await {} });
    }
    if options.tls.listen.is_empty() {
        return Ok(());
    }
    let acceptor = Acceptor::load(&options.tls).context("cannot use TLS for the inbox")?;
    let acceptor = Arc::new(acceptor);
    acceptors.push(Arc::clone(&acceptor));
    let secured = Secured { acceptor, external_login: config.auth.external_login };
    for address in &options.tls.listen {
        let listener = listen("inbox+tls", *address, say)?;
        let (door, secured) = (door.clone(), secured.clone());
        serving.spawn(async move { match door.serve_tls(&listener, &secured).await {} });
    }
    Ok(())
}

fn listen_metrics(
    config: &Config,
    figures: &Arc<Figures>,
    alarms: &Arc<Alarms>,
    started: Instant,
    serving: &mut JoinSet<()>,
    say: &mut impl FnMut(String),
) -> anyhow::Result<()> {
    if config.metrics_listen.is_empty() {
        return Ok(());
    }
    let observed = Observed {
        source: Arc::clone(figures),
        alarms: Arc::clone(alarms),
        identity: identity(config),
        started,
    };
    let endpoint = Arc::new(Endpoint::new(observed));
    for address in &config.metrics_listen {
        let listener = listen("metrics", *address, say)?;
        let endpoint = Arc::clone(&endpoint);
        serving.spawn(async move { match endpoint.serve(&listener).await {} });
    }
    Ok(())
}

fn listen(
    name: &str,
    address: SocketAddr,
    say: &mut impl FnMut(String),
) -> anyhow::Result<TcpListener> {
    let listener =
        bind(address).with_context(|| format!("cannot listen for {name} on {address}"))?;
    let bound =
        listener.local_addr().with_context(|| format!("cannot listen for {name} on {address}"))?;
    say(format!("listening {name} {bound}"));
    Ok(listener)
}

/// SIGHUPs from now on; asked for before the server is ready, as one that nobody hears ends the process.
fn hangups() -> Option<Signal> {
    signal(SignalKind::hangup())
        .inspect_err(|error| {
            tracing::warn!(%error, "SIGHUP cannot be heard; certificates are read at start only");
        })
        .ok()
}

/// Reads certificates again whenever the process is told to by SIGHUP; for ever. Without certificates there is nothing to
/// read, but the signal must not end the server, as it would by default.
async fn reload_on(hangups: Option<Signal>, acceptors: Vec<Arc<Acceptor>>) {
    let Some(mut hangups) = hangups else { return };
    while hangups.recv().await.is_some() {
        if acceptors.is_empty() {
            tracing::info!("SIGHUP: there are no certificates to read again");
        }
        for acceptor in &acceptors {
            match acceptor.reload() {
                Ok(()) => tracing::info!("certificates were read again"),
                Err(error) => {
                    let error = anyhow::Error::new(error);
                    tracing::error!("certificates stay as they were: {error:#}");
                }
            }
        }
    }
}

/// The node's name as RabbitMQ would have it; its dashboards group by it.
fn identity(config: &Config) -> Identity {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Identity {
        node: format!("posthouse@{host}"),
        cluster: format!("posthouse@{host}"),
        rabbitmq_version: config.amqp.version.clone(),
        version: env!("CARGO_PKG_VERSION"),
    }
}
