//! A wire that can be cut: forwards connections to a broker until it is told to drop them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// A listener in front of a broker.
pub(crate) struct Cutter {
    address: SocketAddr,
    cut: Arc<Notify>,
    hang: Arc<Notify>,
    refuses: Arc<AtomicBool>,
}

impl Cutter {
    /// In front of the broker of a URL `amqp://user:password@host:port`.
    pub(crate) async fn before(url: &str) -> Self {
        let broker: SocketAddr = url.rsplit('@').next().unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, refuses) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let hang = Arc::new(Notify::new());
        let (cuts, hangs, refused) = (Arc::clone(&cut), Arc::clone(&hang), Arc::clone(&refuses));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                if refused.load(Ordering::SeqCst) {
                    continue;
                }
                let (cut, hang) = (Arc::clone(&cuts), Arc::clone(&hangs));
                tokio::spawn(async move {
                    let (ended, hung) = (cut.notified(), hang.notified());
                    tokio::pin!(ended);
                    let mut server = TcpStream::connect(broker).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        () = &mut ended => {}
                        // Both sockets stay open.
                        () = hung => ended.await,
                    }
                });
            }
        });
        Self { address, cut, hang, refuses }
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@{}", self.address)
    }

    /// Drops every connection; new ones are welcome.
    pub(crate) fn cut(&self) {
        self.cut.notify_waiters();
    }

    /// Every connection stays and carries nothing any more, until it is dropped.
    pub(crate) fn hang(&self) {
        self.hang.notify_waiters();
    }

    /// Drops every connection, and new ones too until [`Cutter::mend`].
    pub(crate) fn part(&self) {
        self.refuses.store(true, Ordering::SeqCst);
        self.cut();
    }

    pub(crate) fn mend(&self) {
        self.refuses.store(false, Ordering::SeqCst);
    }
}
