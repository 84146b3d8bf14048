//! From names to addresses, by a resolver of our own: it never blocks a thread, and answers are judged before they are used.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use crate::guard::{Destination, Forbidden, Guard};

/// Answers remembered, over all names.
const CACHE_ENTRIES_MAX: u64 = 8192;

/// Looks names up.
#[derive(Clone)]
pub struct Resolver {
    inner: TokioResolver,
}

/// Why there are no addresses that may be called.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name server did not say.
    #[error("the name cannot be resolved")]
    Unknown(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It did, and the answer may not be called.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
}

/// The resolver cannot be made: the system's configuration is unreadable.
#[derive(Debug, thiserror::Error)]
#[error("the system's name servers cannot be read")]
pub struct ResolverError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl Resolver {
    /// Asks the given name servers, or, if there are none, those of the system.
    ///
    /// # Errors
    ///
    /// [`ResolverError`] if the system's configuration cannot be read.
    pub fn new(servers: &[SocketAddr]) -> Result<Self, ResolverError> {
        let wrong = |error| ResolverError(Box::new(error));
        let provider = TokioRuntimeProvider::default();
        let mut builder = if servers.is_empty() {
            TokioResolver::builder(provider).map_err(wrong)?
        } else {
            let servers = servers.iter().map(|address| at(*address)).collect();
            let config = ResolverConfig::from_name_servers(servers);
            TokioResolver::builder_with_config(config, provider)
        };
        set(builder.options_mut());
        Ok(Self { inner: builder.build().map_err(wrong)? })
    }

    /// The addresses of a destination, each of them judged.
    ///
    /// # Errors
    ///
    /// [`ResolveError`] if there is none, or any of them may not be called.
    pub async fn addresses(
        &self,
        destination: &Destination,
        guard: &Guard,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        let addresses: Vec<IpAddr> = match destination.literal() {
            Some(address) => vec![address],
            None => self.lookup(&destination.host()).await?,
        };
        guard.judge(&addresses)?;
        Ok(addresses.into_iter().map(|address| destination.at(address)).collect())
    }

    /// The addresses of a name that an operator configured; nobody judges them.
    ///
    /// # Errors
    ///
    /// [`ResolveError::Unknown`] if there are none.
    pub async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        // A dot at the end: names of tenants are not completed with domains of the operator.
        let name = if name.ends_with('.') { name.to_owned() } else { format!("{name}.") };
        let found = self.inner.lookup_ip(name).await;
        let found = found.map_err(|error| ResolveError::Unknown(Box::new(error)))?;
        Ok(found.iter().collect())
    }
}

fn at(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let connections = connections.map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}

fn set(options: &mut ResolverOpts) {
    // All addresses of both families: what is not asked for cannot be judged.
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = CACHE_ENTRIES_MAX;
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}
