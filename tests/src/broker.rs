//! The broker under test: a program of the test's own, or a foreign one to compare with.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Connection, Login, Program};

/// Something that speaks AMQP 0-9-1 on the loopback.
#[derive(Debug)]
pub enum Broker {
    /// The program, started for one test.
    Own(Box<Program>),
    /// The broker that `POSTHOUSE_TEST_BROKER=amqp://guest:guest@host:port/` names.
    Foreign(SocketAddr),
}

impl Broker {
    /// The foreign broker if there is one, else a program of the test's own.
    #[must_use]
    pub fn start() -> Self {
        foreign().map_or_else(|| Self::Own(Box::new(Program::start())), Self::Foreign)
    }

    /// A program of the test's own; `None`, said on standard error, if a foreign broker is under test.
    ///
    /// `what` says what the foreign broker cannot do.
    #[must_use]
    pub fn start_own(what: &str) -> Option<Program> {
        Self::start_own_with(what, &[])
    }

    /// Like [`Self::start_own`], with settings as for [`Program::start_with`].
    #[must_use]
    pub fn start_own_with(what: &str, settings: &[&str]) -> Option<Program> {
        if foreign().is_some() {
            eprintln!("skipped: another broker is under test, which {what}");
            return None;
        }
        Some(Program::start_with(settings))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Own(program) => program.address,
            Self::Foreign(address) => *address,
        }
    }

    /// A connection as guest.
    #[must_use]
    pub fn connect(&self) -> Connection {
        Connection::open(self.address(), &Login::default()).expect("guest is let in")
    }
}

/// A name that no other test and no other run uses.
#[must_use]
pub fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{}-{count}", std::process::id())
}

/// The address of the foreign broker, if one is under test.
///
/// # Panics
///
/// If the variable is no `amqp://` URL with a port.
#[must_use]
pub fn foreign() -> Option<SocketAddr> {
    let url = std::env::var("POSTHOUSE_TEST_BROKER").ok()?;
    let authority = url.strip_prefix("amqp://").expect("an amqp:// URL").trim_end_matches('/');
    let host = authority.rsplit('@').next().unwrap_or(authority);
    host.to_socket_addrs().expect("host:port").next()
}
