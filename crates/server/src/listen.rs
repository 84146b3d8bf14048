//! Listening sockets: binding, accepting, and what happens when there are too many.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

/// Connections that the kernel may hold before they are accepted: a reconnect storm of every client at once.
const BACKLOG: u32 = 4096;

/// Pause after the process or the machine has run out of descriptors or buffers. Trying again at once would only burn
/// the processor that the open connections need to finish and close.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Binds an address, over a socket of ours that lingers from before a restart; port 0 takes a free port.
///
/// # Errors
///
/// What the system says: the address is in use, is not this machine's, or needs privileges.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// How many connections may be open over all listeners of a door.
#[derive(Debug, Clone)]
pub struct Slots {
    free: Arc<Semaphore>,
    max: usize,
}

/// The place of one open connection; given back on drop.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    /// As many slots as `max`, at most [`Semaphore::MAX_PERMITS`].
    #[must_use]
    pub fn new(max: usize) -> Self {
        let max = max.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(max)), max }
    }

    /// Connections that are open now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.max.saturating_sub(self.free.available_permits())
    }

    /// How many there are in all.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    fn take(&self) -> Option<Slot> {
        Arc::clone(&self.free).try_acquire_owned().ok().map(|permit| Slot { _permit: permit })
    }
}

/// Accepts connections for ever and hands each with its slot to `each`, which must not block; drop the future to stop.
///
/// A connection without a slot is closed at once. When descriptors run out, accepting pauses instead of spinning. Every
/// stream has `TCP_NODELAY`, as the doors write whole batches themselves.
pub async fn accept_each(
    listener: &TcpListener,
    slots: &Slots,
    mut each: impl FnMut(TcpStream, SocketAddr, Slot),
) -> Infallible {
    let mut refused = 0_u64;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_exhausted(&error) => {
                warn!(%error, pause = ?EXHAUSTED_PAUSE, "cannot accept connections for now");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
                continue;
            }
            // The peer has gone before it was accepted.
            Err(error) => {
                debug!(%error, "connection ended before it was accepted");
                continue;
            }
        };
        let Some(slot) = slots.take() else {
            refused += 1;
            // One line per doubling: a storm of refused clients must not become a storm of lines.
            if refused.is_power_of_two() {
                warn!(%peer, max = slots.max(), refused, "connection refused because all slots are taken");
            }
            continue;
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "connection ended before it was used");
            continue;
        }
        each(stream, peer, slot);
    }
}

/// Whether more descriptors or buffers are needed than there are.
fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error
        .raw_os_error()
        .is_some_and(|code| exhausted.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::sync::mpsc;

    use super::*;

    fn loopback() -> TcpListener {
        bind("127.0.0.1:0".parse().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn an_address_can_be_bound_again_while_old_connections_linger() {
        let listener = loopback();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        drop((server.unwrap(), listener));

        assert_eq!(bind(address).unwrap().local_addr().unwrap(), address);
        drop(client);
    }

    #[tokio::test]
    async fn a_connection_without_a_slot_is_closed_and_the_slot_comes_back() {
        let listener = loopback();
        let address = listener.local_addr().unwrap();
        let slots = Slots::new(1);
        let (sender, mut accepted) = mpsc::unbounded_channel();
        let watched = slots.clone();
        let accepting = tokio::spawn(async move {
            accept_each(&listener, &slots, |stream, _, slot| drop(sender.send((stream, slot))))
                .await
        });
        let _first = TcpStream::connect(address).await.unwrap();
        let held = accepted.recv().await.unwrap();
        assert_eq!(watched.used(), 1);

        let mut second = TcpStream::connect(address).await.unwrap();
        assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0);

        drop(held);
        let _third = TcpStream::connect(address).await.unwrap();
        assert!(accepted.recv().await.unwrap().0.nodelay().unwrap());
        accepting.abort();
    }

    #[test]
    fn running_out_of_descriptors_is_told_from_a_peer_that_went_away() {
        assert!(is_exhausted(&rustix::io::Errno::MFILE.into()));
        assert!(!is_exhausted(&rustix::io::Errno::CONNABORTED.into()));
    }
}
