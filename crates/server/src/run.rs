//! Starting everything in order, and stopping it in reverse.

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::alarms::Alarms;
use crate::config::Config;
use crate::listen::{Slots, accept_each, bind};
use crate::metrics::exposition::Identity;
use crate::metrics::{Endpoint, MetricsSource, Observed, QueueSample, Snapshot};
use crate::tls::Acceptor;

/// Runs the server until `shutdown` is over, then stops it.
///
/// `on_line` is given what scripts wait for: `listening <door> <address>` per listener, then `ready`.
///
/// # Errors
///
/// What kept the server from starting: an address in use, a folder that cannot be written, a certificate that cannot be
/// read. Nothing is left running.
pub async fn run(
    config: Config,
    mut on_line: impl FnMut(String),
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("folder {} cannot be created", config.data_dir.display()))?;
    let alarms = Arc::new(
        Alarms::new(&config.alarms, &config.data_dir).context("memory or disk cannot be read")?,
    );
    let acceptor = match config.amqp.tls.listen.is_empty() {
        true => None,
        false => Some(Arc::new(Acceptor::load(&config.amqp.tls).context("amqp.tls")?)),
    };
    let amqp = bind_all("amqp.listen", &config.amqp.listen)?;
    let amqps = bind_all("amqp.tls.listen", &config.amqp.tls.listen)?;
    let metrics = bind_all("metrics.listen", &config.metrics_listen)?;

    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&alarms).keep_looking());
    let endpoint = Arc::new(Endpoint::new(Observed {
        source: NothingYet,
        alarms: Arc::clone(&alarms),
        identity: identity(&config),
        started: Instant::now(),
    }));
    let slots = Slots::new(config.amqp.connections_max);
    for (door, listeners) in [("amqp", amqp), ("amqps", amqps)] {
        for listener in listeners {
            on_line(listening(door, &listener)?);
            let slots = slots.clone();
            // The broker is not wired yet: a connection ends as soon as it is there.
            tasks.spawn(async move { match accept_each(&listener, &slots, |_, _, _| ()).await {} });
        }
    }
    for listener in metrics {
        on_line(listening("metrics", &listener)?);
        let endpoint = Arc::clone(&endpoint);
        tasks.spawn(async move { match endpoint.serve(&listener).await {} });
    }
    if let Some(acceptor) = acceptor {
        tasks.spawn(reload_on_hangup(acceptor));
    }
    on_line("ready".to_owned());
    shutdown.await;
    tracing::info!("stopping");
    tasks.shutdown().await;
    Ok(())
}

/// Reads certificates again whenever the process is told to by SIGHUP; for ever.
async fn reload_on_hangup(acceptor: Arc<Acceptor>) {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => {
            tracing::warn!(%error, "SIGHUP cannot be heard; certificates are read at start only");
            return;
        }
    };
    while hangups.recv().await.is_some() {
        match acceptor.reload() {
            Ok(()) => tracing::info!("certificates were read again"),
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::error!("certificates stay as they were: {error:#}");
            }
        }
    }
}

fn bind_all(option: &str, addresses: &[SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
    let bind = |address: &SocketAddr| {
        bind(*address).with_context(|| {
            format!("{option}: cannot listen on {address}; is another server running there?")
        })
    };
    addresses.iter().map(bind).collect()
}

fn listening(door: &str, listener: &TcpListener) -> anyhow::Result<String> {
    let address = listener.local_addr().context("address of a listener cannot be read")?;
    Ok(format!("listening {door} {address}"))
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

/// The numbers while no broker is wired.
struct NothingYet;

impl MetricsSource for NothingYet {
    fn snapshot(&self) -> Snapshot {
        Snapshot::default()
    }

    fn queues(&self, _max: usize) -> (Vec<QueueSample>, usize) {
        (Vec::new(), 0)
    }

    fn is_ready(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::config::Sources;

    #[tokio::test]
    async fn every_listener_is_announced_before_ready_and_closed_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let set = vec![
            format!("data_dir={}", folder.path().join("data").display()),
            "amqp.listen=127.0.0.1:0".to_owned(),
            "metrics.listen=127.0.0.1:0".to_owned(),
        ];
        let config = Config::load(&Sources { set, ..Sources::default() }).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (lines, mut printed) = mpsc::unbounded_channel();
        let server = tokio::spawn(run(config, move |line| drop(lines.send(line)), async {
            drop(stopped.await);
        }));

        let announced = [
            printed.recv().await.unwrap(),
            printed.recv().await.unwrap(),
            printed.recv().await.unwrap(),
        ];
        let address = announced[0].strip_prefix("listening amqp ").unwrap().to_owned();
        assert!(announced[1].starts_with("listening metrics 127.0.0.1:"));
        assert_eq!(announced[2], "ready");
        TcpStream::connect(&address).await.unwrap();

        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
        assert!(TcpStream::connect(&address).await.is_err());
    }
}
