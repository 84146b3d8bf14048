//! The small HTTP listener for Prometheus and probes: `/metrics`, `/metrics/per-object`, `/livez`, `/readyz`.

use std::convert::Infallible;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use tokio::net::TcpListener;

use super::exposition::{self, Identity, ProcessNumbers};
use super::per_queue::per_queue;
use super::{MetricsSource, QUEUES_SHOWN_MAX};
use crate::alarms::Alarms;
use crate::http::answer::of_type;
use crate::http::{Answer, Bounds, Connections};

/// Scrapers and probes are few; more connections than this are a mistake or an attack.
const BOUNDS: Bounds = Bounds {
    connections_max: 64,
    idle_timeout: Duration::from_secs(5),
    buffer_bytes_max: 16 * 1024,
    headers_max: 64,
};
const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Everything that is read per scrape.
pub struct Observed<S> {
    /// The broker's numbers.
    pub source: S,
    /// Memory and disk.
    pub alarms: Arc<Alarms>,
    /// Who we are.
    pub identity: Identity,
    /// When the process started.
    pub started: Instant,
}

impl<S> std::fmt::Debug for Observed<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observed").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// The listener.
#[derive(Debug)]
pub struct Endpoint<S> {
    observed: Arc<Observed<S>>,
    connections: Connections,
}

impl<S: MetricsSource> Endpoint<S> {
    /// An endpoint that reads from `observed`.
    pub fn new(observed: Observed<S>) -> Self {
        Self { observed: Arc::new(observed), connections: Connections::new("metrics", BOUNDS) }
    }

    /// Serves a listener for ever; drop the future to stop accepting. May be called for several listeners.
    pub async fn serve(&self, listener: &TcpListener) -> Infallible {
        self.connections
            .serve(listener, |_, _| {
                let observed = Arc::clone(&self.observed);
                service_fn(move |request| {
                    let observed = Arc::clone(&observed);
                    async move { Ok::<_, Infallible>(answer(&request, observed).await) }
                })
            })
            .await
    }
}

async fn answer<S: MetricsSource>(
    request: &Request<Incoming>,
    observed: Arc<Observed<S>>,
) -> Answer {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return of_type(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET is answered here\n");
    }
    match request.uri().path() {
        "/livez" => probe(observed.source.is_alive()),
        "/readyz" => probe(observed.source.is_ready()),
        "/metrics" => scrape(move || overall(&observed)).await,
        "/metrics/per-object" => {
            scrape(move || {
                let (queues, total) = observed.source.queues(QUEUES_SHOWN_MAX);
                per_queue(queues, total)
            })
            .await
        }
        _ => of_type(
            StatusCode::NOT_FOUND,
            PLAIN,
            "there are /metrics, /metrics/per-object, /livez and /readyz\n",
        ),
    }
}

/// Collects on a thread that may block, as counting descriptors of a full process takes milliseconds.
async fn scrape(
    collect: impl FnOnce() -> Result<String, std::fmt::Error> + Send + 'static,
) -> Answer {
    match tokio::task::spawn_blocking(collect).await {
        Ok(Ok(text)) => of_type(StatusCode::OK, OPENMETRICS, text),
        Ok(Err(_)) | Err(_) => {
            of_type(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "metrics could not be collected\n")
        }
    }
}

fn overall<S: MetricsSource>(observed: &Observed<S>) -> Result<String, std::fmt::Error> {
    let process = ProcessNumbers {
        readings: observed.alarms.readings(),
        raised: observed.alarms.raised(),
        fds_open: fds_open(),
        fds_max: rustix::process::getrlimit(rustix::process::Resource::Nofile)
            .current
            .unwrap_or(u64::MAX),
        uptime_secs: observed.started.elapsed().as_secs(),
    };
    exposition::overall(&observed.identity, process, observed.source.snapshot())
}

fn fds_open() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

fn probe(good: bool) -> Answer {
    match good {
        true => of_type(StatusCode::OK, PLAIN, "ok\n"),
        false => of_type(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "not ready\n"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::super::{QueueSample, Snapshot};
    use super::*;
    use crate::config::{AlarmLevels, MemoryLevel};
    use crate::listen::bind;

    struct Quiet;

    impl MetricsSource for Quiet {
        fn snapshot(&self) -> Snapshot {
            Snapshot::default()
        }

        fn queues(&self, _max: usize) -> (Vec<QueueSample>, usize) {
            (vec![QueueSample { queue: "jobs".to_owned(), ..QueueSample::default() }], 1)
        }

        fn is_ready(&self) -> bool {
            false
        }
    }

    /// What a GET of `path` is answered with.
    async fn get(path: &str) -> String {
        let levels = AlarmLevels {
            memory_high: MemoryLevel::Fraction(1.0),
            disk_free_min: 0,
            interval: Duration::from_secs(1),
        };
        let identity = Identity {
            node: "n".to_owned(),
            cluster: "c".to_owned(),
            rabbitmq_version: "4.3.0".to_owned(),
            version: "0.0.0",
        };
        let alarms = Arc::new(Alarms::new(&levels, Path::new("/")).unwrap());
        let endpoint =
            Endpoint::new(Observed { source: Quiet, alarms, identity, started: Instant::now() });
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::select! {
            read = client.read_to_string(&mut answer) => drop(read.unwrap()),
            never = endpoint.serve(&listener) => match never {},
        }
        answer
    }

    #[tokio::test]
    async fn metrics_are_served_in_openmetrics_format() {
        let answer = get("/metrics").await;

        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("content-type: application/openmetrics-text"));
        assert!(answer.contains("\nrabbitmq_connections 0\n"));
        assert!(answer.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn queues_are_served_one_by_one() {
        assert!(get("/metrics/per-object").await.contains("queue=\"jobs\""));
    }

    #[tokio::test]
    async fn probes_tell_alive_from_ready() {
        assert!(get("/livez").await.starts_with("HTTP/1.1 200"));
        assert!(get("/readyz").await.starts_with("HTTP/1.1 503"));
        assert!(get("/other").await.starts_with("HTTP/1.1 404"));
    }
}
