//! Pools and flavors: where new queues come to live.

use std::sync::Arc;

use broker::{BrokerError, Kind, PoolDefinition, PutPool};

use super::{Done, Operations};
use crate::door::zaqar::json::write;
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::request::{Bound, PoolChange, limit_of};

/// What is said of a flavor that cannot be made. Such an answer tells its path as well, over HTTP.
pub(crate) const UNABLE_TO_CREATE: &str = "Unable to create";

/// What every pool is good for. Zaqar's MongoDB store has the same.
const CAPABILITIES: [&str; 5] = ["FIFO", "CLAIMS", "DURABILITY", "AOD", "HIGH_THROUGHPUT"];

/// A flavor and its pools.
#[derive(Debug)]
pub(crate) struct Flavor {
    pub(crate) name: Box<str>,
    pub(crate) pools: Vec<Box<str>>,
}

/// How much of a definition is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Without options and capabilities.
    Brief,
    /// All.
    Full,
}

impl Detail {
    /// What the parameter `detailed` means.
    pub(crate) fn of(detailed: bool) -> Self {
        if detailed { Self::Full } else { Self::Brief }
    }
}

/// Writes the members of a pool, without braces.
pub(crate) fn pool_members(out: &mut Vec<u8>, pool: &PoolDefinition, detail: Detail) {
    out.extend_from_slice(b"\"name\":");
    write::string(out, &pool.name);
    out.extend_from_slice(b",\"weight\":");
    write::integer(out, pool.weight.into());
    out.extend_from_slice(b",\"uri\":");
    write::string(out, &pool.uri);
    out.extend_from_slice(b",\"flavor\":");
    match &pool.flavor {
        Some(flavor) => write::string(out, flavor),
        None => out.extend_from_slice(b"null"),
    }
    if detail == Detail::Full {
        out.extend_from_slice(b",\"options\":");
        out.extend_from_slice(if pool.options.is_empty() { b"{}" } else { &pool.options });
    }
}

/// Writes the members of a flavor, without braces.
pub(crate) fn flavor_members(out: &mut Vec<u8>, flavor: &Flavor, detail: Detail) {
    out.extend_from_slice(b"\"name\":");
    write::string(out, &flavor.name);
    out.extend_from_slice(b",\"pool_list\":");
    write::list(out, &flavor.pools, |out, pool| write::string(out, pool));
    if detail == Detail::Full {
        out.extend_from_slice(b",\"capabilities\":");
        write::list(out, CAPABILITIES, write::string);
    }
}

impl Operations {
    /// A page of pools, by name, and what was understood as limit.
    ///
    /// # Errors
    ///
    /// 400 for a limit out of range.
    pub(crate) fn pools(
        &self,
        marker: Option<&str>,
        limit: Option<i64>,
    ) -> Result<(Vec<Arc<PoolDefinition>>, u32), Problem> {
        let limit = limit_of(limit, self.limits.max_pools_per_page, Bound::Definitions)?;
        Ok((self.broker.pools_page(marker.unwrap_or_default(), limit as usize), limit))
    }

    /// A pool.
    ///
    /// # Errors
    ///
    /// 404.
    pub(crate) fn pool(&self, name: &str) -> Result<Arc<PoolDefinition>, Problem> {
        let missing = || Problem::not_found(format!("Pool {name} does not exist"));
        self.broker.pool(name).ok_or_else(missing)
    }

    /// Makes a pool, or replaces it.
    ///
    /// # Errors
    ///
    /// 400 for a URI that cannot be used, 409 for another pool's, 403, 503.
    pub(crate) fn put_pool(&self, name: &str, pool: &PoolChange) -> Result<Done<()>, Problem> {
        let uri = pool.uri.as_deref().unwrap_or_default();
        let put = PutPool {
            weight: pool.weight.unwrap_or(0),
            uri,
            flavor: pool.flavor.as_ref().and_then(Option::as_deref),
            options: pool.options.as_deref().unwrap_or("{}").as_bytes(),
        };
        // A log of its own may have to be read first: the thread's other work goes to others meanwhile.
        match tokio::task::block_in_place(|| self.broker.put_pool(name, &put)) {
            Ok(ticket) => Ok(Done { answer: (), ticket }),
            Err(BrokerError::Inequivalent(_)) => {
                Err(Problem::conflict("The database URI is in use by another pool."))
            }
            Err(BrokerError::InUse { .. }) => Err(Problem::new(
                403,
                "Unable to update",
                format!("Queues live in pool {name}; its uri cannot change."),
            )),
            Err(BrokerError::Store(error)) => {
                tracing::warn!(%error, pool = name, "a pool cannot be opened");
                Err(Problem::body(format!("cannot connect to {uri}")))
            }
            Err(error) => Err(Problem::from_broker(&error, "Pool could not be created.")),
        }
    }

    /// Changes a pool.
    ///
    /// # Errors
    ///
    /// 404, and as [`Operations::put_pool`].
    pub(crate) fn patch_pool(&self, name: &str, change: PoolChange) -> Result<Done<()>, Problem> {
        let before = self.pool(name)?;
        let options = String::from_utf8_lossy(&before.options).into_owned();
        self.put_pool(
            name,
            &PoolChange {
                weight: change.weight.or(Some(before.weight)),
                uri: change.uri.or_else(|| Some(before.uri.as_ref().to_owned())),
                flavor: change.flavor.or_else(|| Some(before.flavor.as_deref().map(str::to_owned))),
                options: change.options.or(Some(options)),
            },
        )
    }

    /// Forgets a pool; fine if there is none.
    ///
    /// # Errors
    ///
    /// 403 if it is the only one of a flavor or queues live in it, 503.
    pub(crate) fn delete_pool(&self, name: &str) -> Result<Done<()>, Problem> {
        match self.broker.delete_pool(name) {
            Ok(ticket) => Ok(Done { answer: (), ticket }),
            Err(BrokerError::InUse { kind: Kind::Flavor, name }) => Err(Problem::new(
                403,
                "Unable to delete",
                format!("This pool is used by flavors {name}; It cannot be deleted."),
            )),
            Err(BrokerError::InUse { .. }) => Err(Problem::new(
                403,
                "Unable to delete",
                format!("Queues live in pool {name}; it cannot be deleted."),
            )),
            Err(error) => Err(Problem::from_broker(&error, "Pool could not be deleted.")),
        }
    }

    /// A page of flavors, by name, and what was understood as limit.
    ///
    /// # Errors
    ///
    /// 400 for a limit out of range.
    pub(crate) fn flavors(
        &self,
        marker: Option<&str>,
        limit: Option<i64>,
    ) -> Result<(Vec<Flavor>, u32), Problem> {
        let limit = limit_of(limit, self.limits.max_flavors_per_page, Bound::Definitions)?;
        let names = self.broker.flavors_page(marker.unwrap_or_default(), limit as usize);
        Ok((names.iter().filter_map(|name| self.flavor(name).ok()).collect(), limit))
    }

    /// A flavor.
    ///
    /// # Errors
    ///
    /// 404.
    pub(crate) fn flavor(&self, name: &str) -> Result<Flavor, Problem> {
        let pools = self.broker.flavor(name);
        let missing = || Problem::not_found(format!("Flavor {name} does not exist"));
        pools.map(|pools| Flavor { name: name.into(), pools }).ok_or_else(missing)
    }

    /// Makes a flavor of these pools, or replaces it.
    ///
    /// # Errors
    ///
    /// 400 for no pools, or one that there is not, 503.
    pub(crate) fn put_flavor(&self, name: &str, pools: &[String]) -> Result<Done<()>, Problem> {
        let refused = |pool: &str| {
            let text =
                format!("Flavor {name} could not be created, error:Pool {pool} does not exist");
            Problem::new(400, UNABLE_TO_CREATE, text)
        };
        self.set_flavor(name, pools, refused)
    }

    /// Changes the pools of a flavor.
    ///
    /// # Errors
    ///
    /// 404, and as [`Operations::put_flavor`].
    pub(crate) fn patch_flavor(&self, name: &str, pools: &[String]) -> Result<Done<()>, Problem> {
        if !pools.is_empty() {
            self.flavor(name)?;
        }
        let refused = |pool: &str| {
            let text = format!("Flavor {name} cant be updated, error:Pool {pool} does not exist");
            Problem::new(400, "updatefail", text)
        };
        self.set_flavor(name, pools, refused)
    }

    fn set_flavor(
        &self,
        name: &str,
        pools: &[String],
        refused: impl FnOnce(&str) -> Problem,
    ) -> Result<Done<()>, Problem> {
        if pools.is_empty() {
            return Err(Problem::new(400, UNABLE_TO_CREATE, "Bad Request"));
        }
        let pools: Vec<_> = pools.iter().map(String::as_str).collect();
        match self.broker.put_flavor(name, &pools) {
            Ok(ticket) => Ok(Done { answer: (), ticket }),
            Err(BrokerError::NotFound { kind: Kind::Pool, name }) => Err(refused(&name)),
            Err(error) => Err(Problem::from_broker(&error, "Flavor could not be stored.")),
        }
    }

    /// Forgets a flavor; fine if there is none.
    ///
    /// # Errors
    ///
    /// 503.
    pub(crate) fn delete_flavor(&self, name: &str) -> Result<Done<()>, Problem> {
        let deleted = self.broker.delete_flavor(name);
        let ticket = deleted
            .map_err(|error| Problem::from_broker(&error, "Flavor could not be deleted."))?;
        Ok(Done { answer: (), ticket })
    }
}
