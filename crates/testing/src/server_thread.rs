//! The server in a thread and a runtime of its own, so that it can end without the test's tasks noticing more than a lost
//! connection.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use broker::Broker;
use server::config::{Config, Sources};
use server::run::{Ground, run_on};
use store::embedded::OsVfs;
use tokio::sync::oneshot;

use crate::clock::TestClock;
use crate::disk::{CutDisk, Switch};

/// How long a server may take to start on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(60);

/// How long its tasks may take to end.
const END_WITHIN: Duration = Duration::from_secs(20);

/// A running server.
#[derive(Debug)]
pub(crate) struct ServerThread {
    pub(crate) address: SocketAddr,
    /// Where it speaks AMQP over TLS.
    pub(crate) tls: Option<SocketAddr>,
    /// Where the queue service is.
    pub(crate) queues: Option<SocketAddr>,
    pub(crate) broker: Arc<Broker>,
    switch: Switch,
    end: Option<oneshot::Sender<End>>,
    thread: Option<JoinHandle<()>>,
}

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// As on SIGTERM.
    Gently,
    /// As on SIGKILL: nobody is told anything.
    Suddenly,
}

#[derive(Debug)]
enum News {
    Broker(Arc<Broker>),
    Line(String),
    Failed(String),
}

impl ServerThread {
    /// Starts a server on a folder and waits until it is ready.
    ///
    /// # Panics
    ///
    /// If it does not become ready.
    pub(crate) fn start(
        folder: &Path,
        listen: SocketAddr,
        settings: &[String],
        clock: Arc<TestClock>,
    ) -> Self {
        let config = config(folder, listen, settings);
        std::fs::create_dir_all(&config.data_dir).expect("a data folder");
        let switch = Switch::default();
        let disk = OsVfs::new(&config.data_dir).expect("a data folder");
        let disk = CutDisk { folder: disk, switch: switch.clone() };
        let ground = Ground { clock, disk: Some(Arc::new(disk)) };
        let (end, ended) = oneshot::channel();
        let (news, heard) = mpsc::channel();
        let run = move || serve(ground, config, &news, ended);
        let thread = std::thread::Builder::new().name("posthouse".to_owned()).spawn(run);
        let thread = Some(thread.expect("a thread for the server"));
        let (mut broker, mut address, mut tls, mut queues) = (None, None, None, None);
        loop {
            match heard.recv_timeout(START_WITHIN).expect("the server to say something") {
                News::Failed(error) => panic!("the server does not start: {error}"),
                News::Broker(started) => broker = Some(started),
                News::Line(line) => {
                    if let Some(listens) = line.strip_prefix("listening amqp ") {
                        address = listens.parse().ok();
                    } else if let Some(listens) = line.strip_prefix("listening amqps ") {
                        tls = listens.parse().ok();
                    } else if let Some(listens) = line.strip_prefix("listening queues ") {
                        queues = listens.parse().ok();
                    } else if line == "ready" {
                        break;
                    }
                }
            }
        }
        Self {
            address: address.expect("an address in the server's words"),
            tls,
            queues,
            broker: broker.expect("a server that is ready has a broker"),
            switch,
            end: Some(end),
            thread,
        }
    }

    /// Ends the server and waits until nothing of it is left.
    pub(crate) fn end(mut self, how: End) {
        self.end_in_place(how);
    }

    fn end_in_place(&mut self, how: End) {
        if how == End::Suddenly {
            // Before anything else, so that not even what happens now is written.
            self.switch.cut();
        }
        if let Some(end) = self.end.take() {
            // Who has ended by itself does not listen.
            end.send(how).ok();
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the server's thread has panicked");
        }
    }
}

impl Drop for ServerThread {
    fn drop(&mut self) {
        self.end_in_place(End::Suddenly);
    }
}

fn config(folder: &Path, listen: SocketAddr, settings: &[String]) -> Config {
    let mut set = vec![
        format!("data_dir={}", folder.join("data").display()),
        format!("amqp.listen={listen}"),
        "metrics.listen=".to_owned(),
        "queues.listen=".to_owned(),
        "queues.websocket_listen=".to_owned(),
    ];
    set.extend(settings.iter().cloned());
    let sources = Sources { set, ..Sources::default() };
    match Config::load(&sources) {
        Ok(config) => config,
        Err(error) => panic!("the settings of the server are not good: {error}"),
    }
}

fn serve(ground: Ground, config: Config, news: &mpsc::Sender<News>, ended: oneshot::Receiver<End>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("posthouse")
        .enable_all()
        .build()
        .expect("a runtime for the server");
    runtime.block_on(async {
        // Who is gone does not need to hear it.
        let (say, hand) = (news.clone(), news.clone());
        let (gently, sent_home) = oneshot::channel();
        let shutdown = async { drop(sent_home.await) };
        let started = |broker: &Arc<Broker>| drop(hand.send(News::Broker(Arc::clone(broker))));
        let line = |line| drop(say.send(News::Line(line)));
        let running = run_on(ground, config, line, started, shutdown);
        tokio::pin!(running);
        let how = tokio::select! {
            outcome = &mut running => {
                let error = outcome.err().map(|error| format!("{error:#}"));
                drop(news.send(News::Failed(error.unwrap_or_default())));
                return;
            }
            how = ended => how.unwrap_or(End::Suddenly),
        };
        if how == End::Gently {
            gently.send(()).ok();
            if let Err(error) = running.await {
                panic!("the server did not end well: {error:#}");
            }
        }
    });
    runtime.shutdown_timeout(END_WITHIN);
}
