//! A wire between two processes that can be cut and stalled: what connects to it is connected to where it leads.
//!
//! Over TCP to the broker, over a socket in a folder to databases. Where it leads may change, as a broker that was killed
//! comes back at another port.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::Context;

/// Bytes that are passed on at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// What becomes of what is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is passed on.
    Open,
    /// It waits; connections stay.
    Stalled,
    /// Connections are gone, and new ones are not taken.
    Cut,
}

/// Where a wire leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Port(SocketAddr),
    Socket(PathBuf),
}

/// A wire; it stays until the rig ends.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    to: Option<Place>,
    open: HashMap<u64, [Socket; 2]>,
    next: u64,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Wire {
    /// A wire that listens at a port of the loopback.
    ///
    /// # Errors
    ///
    /// If there is no port.
    pub(crate) fn at_port() -> anyhow::Result<(Self, SocketAddr)> {
        let wire = Self::new(None);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::clone(&wire.shared);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                drop(socket.set_nodelay(true));
                connect(&shared, Socket::Tcp(socket));
            }
        });
        Ok((wire, address))
    }

    /// A wire that listens at a socket of this path and leads to another one.
    ///
    /// # Errors
    ///
    /// If the socket cannot be made.
    pub(crate) fn at_socket(path: &Path, to: PathBuf) -> anyhow::Result<Self> {
        let wire = Self::new(Some(Place::Socket(to)));
        let listener =
            UnixListener::bind(path).with_context(|| format!("a socket at {}", path.display()))?;
        let shared = Arc::clone(&wire.shared);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                connect(&shared, Socket::Unix(socket));
            }
        });
        Ok(wire)
    }

    fn new(to: Option<Place>) -> Self {
        let state = State { mode: Mode::Open, to, open: HashMap::new(), next: 0 };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }) }
    }

    /// Says where new connections lead to.
    pub(crate) fn lead_to(&self, place: Place) {
        lock(&self.shared).to = Some(place);
    }

    /// Changes what becomes of what is on it.
    pub(crate) fn set(&self, mode: Mode) {
        let mut state = lock(&self.shared);
        state.mode = mode;
        if mode == Mode::Cut {
            cut(&mut state);
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Drops every connection; new ones are welcome if they were before.
    pub(crate) fn drop_connections(&self) {
        cut(&mut lock(&self.shared));
        self.shared.changed.notify_all();
    }
}

fn cut(state: &mut State) {
    for socket in state.open.drain().flat_map(|(_, pair)| pair) {
        socket.close();
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connects what has come to where the wire leads; drops it if that is nowhere.
fn connect(shared: &Arc<Shared>, near: Socket) {
    let to = {
        let state = lock(shared);
        if state.mode == Mode::Cut {
            return;
        }
        state.to.clone()
    };
    let far = match to {
        Some(Place::Port(address)) => TcpStream::connect(address).map(Socket::Tcp),
        Some(Place::Socket(path)) => UnixStream::connect(path).map(Socket::Unix),
        None => return,
    };
    let Ok(far) = far else { return };
    let (Ok(near_too), Ok(far_too)) = (near.twin(), far.twin()) else { return };
    let (Ok(near_kept), Ok(far_kept)) = (near.twin(), far.twin()) else { return };
    let mut state = lock(shared);
    let id = state.next;
    state.next += 1;
    state.open.insert(id, [near_kept, far_kept]);
    drop(state);
    for (from, to) in [(near, far), (far_too, near_too)] {
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            pass_on(&shared, from, to);
            let pair = lock(&shared).open.remove(&id);
            pair.iter().flatten().for_each(Socket::close);
        });
    }
}

/// Passes on what comes, in one direction, until either end is gone.
fn pass_on(shared: &Shared, mut from: Socket, mut to: Socket) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => return,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let stalled = |state: &mut State| state.mode == Mode::Stalled;
        drop(shared.changed.wait_while(lock(shared), stalled));
        let Some(chunk) = chunk.get(..read) else { return };
        if to.write_all(chunk).is_err() {
            return;
        }
    }
}

impl Socket {
    fn twin(&self) -> std::io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
        }
    }

    /// An end that is gone already is as good.
    fn close(&self) {
        drop(match self {
            Self::Tcp(socket) => socket.shutdown(Shutdown::Both),
            Self::Unix(socket) => socket.shutdown(Shutdown::Both),
        });
    }

    fn read(&mut self, chunk: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(chunk),
            Self::Unix(socket) => socket.read(chunk),
        }
    }

    fn write_all(&mut self, chunk: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.write_all(chunk),
            Self::Unix(socket) => socket.write_all(chunk),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test says what went wrong")]
mod tests {
    use super::*;

    /// Answers with what it hears.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut socket in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut twin = socket.try_clone().unwrap();
                    drop(std::io::copy(&mut twin, &mut socket));
                });
            }
        });
        address
    }

    fn heard(socket: &mut TcpStream) -> Option<[u8; 2]> {
        let mut heard = [0; 2];
        socket.read_exact(&mut heard).ok().map(|()| heard)
    }

    #[test]
    fn a_wire_passes_on_holds_back_and_cuts() {
        let (wire, address) = Wire::at_port().unwrap();
        wire.lead_to(Place::Port(echo()));
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(b"ab").unwrap();
        assert_eq!(heard(&mut socket), Some(*b"ab"));

        wire.set(Mode::Stalled);
        socket.write_all(b"cd").unwrap();
        wire.set(Mode::Open);
        assert_eq!(heard(&mut socket), Some(*b"cd"));

        wire.set(Mode::Cut);
        assert_eq!(heard(&mut socket), None);
        let mut refused = TcpStream::connect(address).unwrap();
        assert_eq!(heard(&mut refused), None);

        wire.set(Mode::Open);
        let mut again = TcpStream::connect(address).unwrap();
        again.write_all(b"ef").unwrap();
        assert_eq!(heard(&mut again), Some(*b"ef"));
        wire.drop_connections();
        assert_eq!(heard(&mut again), None);
    }
}
