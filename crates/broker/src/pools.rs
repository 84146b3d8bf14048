//! Pools and flavors: where queues come to live.
//!
//! A pool is a place for messages with a weight; a flavor is a name for some pools. A new queue is put into one of the
//! pools of its flavor, or of those without one, by weight; pool number 0, which also keeps the definitions, takes what has
//! no other place. A queue stays where it is. Followers of a queue live with it, so posting stays one commit; what goes from
//! a queue of one pool to one of another names a dedup id, see [`store::pools`].
//!
//! A broker has pools if it was opened with [`Broker::open_pooled`]; otherwise all are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::publish_rules::dedup_id;
use model::{DedupId, QueueId, Sequence, Ticket};
use serde::{Deserialize, Serialize};
use store::pools::{pool_of, queue_in};
use store::{Change, Definition, DefinitionChange, Pool, Pools, StoreError};

use crate::broker::Broker;
use crate::definitions::{key, put};
use crate::error::{BrokerError, Kind};
use crate::queue::Queue;
use crate::route_cache::RouteTarget;

/// Longest name of a pool or flavor, and longest URI.
const NAME_BYTES_MAX: usize = 255;

/// Longest options.
const OPTIONS_BYTES_MAX: usize = 64 * 1024;

/// Most pools; numbers of deleted ones are not used again.
const POOLS_MAX: u16 = 1000;

/// Opens the pool at a URI. A pool whose kind there is no driver for is an error that says so.
pub type OpenPool = Box<dyn Fn(&str) -> Result<Arc<dyn Pool>, StoreError> + Send + Sync>;

/// A pool as an operator defined it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolDefinition {
    /// Its name.
    pub name: Box<str>,
    /// How often it is chosen, beside the others; never, if 0.
    pub weight: u32,
    /// Where it is.
    pub uri: Box<str>,
    /// The flavor that it belongs to.
    pub flavor: Option<Box<str>>,
    /// JSON text that the broker does not understand.
    pub options: Box<[u8]>,
    number: u16,
}

/// What an operator says about a pool.
#[derive(Debug, Clone, Copy)]
pub struct PutPool<'a> {
    /// As [`PoolDefinition::weight`].
    pub weight: u32,
    /// At most 255 bytes. Cannot change while queues live in the pool.
    pub uri: &'a str,
    /// Made if there is none of that name.
    pub flavor: Option<&'a str>,
    /// JSON text of at most 64 KiB.
    pub options: &'a [u8],
}

#[derive(Debug, Serialize, Deserialize)]
struct PoolValue {
    number: u16,
    weight: u32,
    uri: Box<str>,
    flavor: Option<Box<str>>,
    options: Box<str>,
}

/// The pools of a broker that has several.
pub(crate) struct Pooling {
    pools: Arc<Pools>,
    open: OpenPool,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    pools: BTreeMap<Box<str>, Arc<PoolDefinition>>,
    flavors: BTreeSet<Box<str>>,
    /// The highest number that was ever used.
    last: u16,
}

impl Debug for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pooling").field("known", &self.known).finish_non_exhaustive()
    }
}

impl Known {
    fn of_flavor<'a>(
        &'a self,
        flavor: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<PoolDefinition>> {
        self.pools.values().filter(move |pool| pool.flavor.as_deref() == flavor)
    }

    /// Sets the flavor of a pool; the definition that says so.
    fn set_flavor(&mut self, pool: &str, flavor: Option<&str>) -> Option<DefinitionChange> {
        let pool = self.pools.get_mut(pool)?;
        let mut changed = PoolDefinition::clone(pool);
        changed.flavor = flavor.map(Into::into);
        *pool = Arc::new(changed);
        Some(put_definition(pool))
    }
}

impl Pooling {
    pub(crate) fn new(pools: Arc<Pools>, open: OpenPool) -> Self {
        Self { pools, open, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, name: &str, value: &PoolValue) -> Result<(), BrokerError> {
        self.pools.add(value.number, (self.open)(&value.uri)?);
        let mut known = self.known();
        known.last = known.last.max(value.number);
        let definition = PoolDefinition {
            name: name.into(),
            weight: value.weight,
            uri: value.uri.clone(),
            flavor: value.flavor.clone(),
            options: value.options.as_bytes().into(),
            number: value.number,
        };
        known.pools.insert(name.into(), Arc::new(definition));
        Ok(())
    }
}

fn put_definition(pool: &PoolDefinition) -> DefinitionChange {
    let value = PoolValue {
        number: pool.number,
        weight: pool.weight,
        uri: pool.uri.clone(),
        flavor: pool.flavor.clone(),
        options: String::from_utf8_lossy(&pool.options).into(),
    };
    put(&["pool", &pool.name], &value)
}

fn put_flavor(name: &str) -> DefinitionChange {
    DefinitionChange::Put(Definition { key: key(&["flavor", name]), value: (*b"{}").into() })
}

fn check_name(what: &str, name: &str) -> Result<(), BrokerError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let len = name.len();
        return Err(BrokerError::Invalid(format!(
            "{what} must be 1 to {NAME_BYTES_MAX} bytes, not {len}"
        )));
    }
    Ok(())
}

impl Broker {
    fn pooling(&self) -> Result<&Pooling, BrokerError> {
        self.pooling.as_ref().ok_or_else(|| {
            BrokerError::Unsupported("this server keeps all queues in one pool".to_owned())
        })
    }

    /// Makes a pool, or changes it. It is opened before it is defined, and queues may live in it at once.
    ///
    /// # Errors
    ///
    /// [`BrokerError::Store`] if there is no driver for its URI or it cannot be opened, [`BrokerError::Inequivalent`] if
    /// another pool has the URI, [`BrokerError::InUse`] if the URI changes and queues live there,
    /// [`BrokerError::Invalid`] if something is too long, [`BrokerError::LimitReached`] if there were too many.
    pub fn put_pool(&self, name: &str, pool: &PutPool<'_>) -> Result<Ticket, BrokerError> {
        let pooling = self.pooling()?;
        check_name("a pool's name", name)?;
        check_name("a pool's uri", pool.uri)?;
        if pool.options.len() > OPTIONS_BYTES_MAX {
            let text = format!("options of a pool must be at most {OPTIONS_BYTES_MAX} bytes");
            return Err(BrokerError::Invalid(text));
        }
        let mut known = pooling.known();
        let other = known.pools.values().find(|it| *it.uri == *pool.uri && *it.name != *name);
        if let Some(other) = other {
            let text = format!("the database URI is in use by pool '{}'", other.name);
            return Err(BrokerError::Inequivalent(text));
        }
        let before = known.pools.get(name).cloned();
        let number = match &before {
            Some(before) if *before.uri == *pool.uri => before.number,
            Some(before) => {
                self.check_unused(before)?;
                self.open_as_next(pooling, &mut known, pool.uri)?
            }
            None => self.open_as_next(pooling, &mut known, pool.uri)?,
        };
        if let Some(before) = before.filter(|before| before.number != number) {
            pooling.pools.remove(before.number);
        }
        let definition = Arc::new(PoolDefinition {
            name: name.into(),
            weight: pool.weight,
            uri: pool.uri.into(),
            flavor: pool.flavor.map(Into::into),
            options: pool.options.into(),
            number,
        });
        let mut changes = vec![put_definition(&definition), last_number(known.last)];
        known.pools.insert(name.into(), definition);
        if let Some(flavor) = pool.flavor
            && known.flavors.insert(flavor.into())
        {
            changes.push(put_flavor(flavor));
        }
        self.define(changes)
    }

    fn open_as_next(
        &self,
        pooling: &Pooling,
        known: &mut Known,
        uri: &str,
    ) -> Result<u16, BrokerError> {
        if known.last >= POOLS_MAX {
            let text = format!("there were {POOLS_MAX} pools, which is the limit");
            return Err(BrokerError::LimitReached(text));
        }
        let pool = (pooling.open)(uri)?;
        known.last += 1;
        pooling.pools.add(known.last, pool);
        Ok(known.last)
    }

    fn check_unused(&self, pool: &PoolDefinition) -> Result<(), BrokerError> {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        if queues.keys().any(|id| pool_of(*id) == pool.number) {
            return Err(BrokerError::InUse { kind: Kind::Pool, name: pool.name.clone() });
        }
        Ok(())
    }

    pub(crate) fn pool_number(&self, name: &str) -> Result<u16, BrokerError> {
        let pool = self.pool(name).ok_or_else(|| BrokerError::not_found(Kind::Pool, name))?;
        Ok(pool.number)
    }

    /// Messages of all tenants in a pool: ready and delayed ones, and those that somebody holds.
    pub fn pool_volume(&self, pool: &PoolDefinition) -> (u64, u64) {
        let queues = self.all_queues();
        let inside = queues.iter().filter(|queue| pool_of(queue.id) == pool.number);
        inside.filter_map(|queue| self.stats(queue).ok()).fold((0, 0), |(free, held), stats| {
            (free + stats.ready + stats.delayed, held + stats.leased)
        })
    }

    /// A pool by name.
    pub fn pool(&self, name: &str) -> Option<Arc<PoolDefinition>> {
        self.pooling.as_ref()?.known().pools.get(name).cloned()
    }

    /// At most `count_max` pools with names after `after`, sorted by name.
    pub fn pools_page(&self, after: &str, count_max: usize) -> Vec<Arc<PoolDefinition>> {
        let Some(pooling) = &self.pooling else { return Vec::new() };
        let known = pooling.known();
        let after = known.pools.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        after.take(count_max).map(|it| Arc::clone(it.1)).collect()
    }

    /// Forgets a pool, not what is on its disk. Fine if there is none.
    ///
    /// # Errors
    ///
    /// [`BrokerError::InUse`] if a flavor has no other, or queues live in it.
    pub fn delete_pool(&self, name: &str) -> Result<Ticket, BrokerError> {
        let pooling = self.pooling()?;
        let mut known = pooling.known();
        let Some(pool) = known.pools.get(name).cloned() else { return Ok(Ticket::NONE) };
        if let Some(flavor) = pool.flavor.as_ref().filter(|it| known.flavors.contains(*it))
            && known.of_flavor(Some(flavor)).count() == 1
        {
            return Err(BrokerError::InUse { kind: Kind::Flavor, name: flavor.clone() });
        }
        self.check_unused(&pool)?;
        known.pools.remove(name);
        pooling.pools.remove(pool.number);
        self.define(vec![DefinitionChange::Remove(key(&["pool", name]))])
    }

    /// Makes a flavor of these pools, or changes of which it is.
    ///
    /// # Errors
    ///
    /// [`BrokerError::NotFound`] if one of them does not exist.
    pub fn put_flavor(&self, name: &str, pools: &[&str]) -> Result<Ticket, BrokerError> {
        let pooling = self.pooling()?;
        check_name("a flavor's name", name)?;
        let mut known = pooling.known();
        if let Some(missing) = pools.iter().find(|pool| !known.pools.contains_key(**pool)) {
            return Err(BrokerError::not_found(Kind::Pool, missing));
        }
        let freed: Vec<Box<str>> = known
            .of_flavor(Some(name))
            .filter(|pool| !pools.contains(&&*pool.name))
            .map(|pool| pool.name.clone())
            .collect();
        let mut changes = vec![put_flavor(name)];
        changes.extend(freed.iter().filter_map(|pool| known.set_flavor(pool, None)));
        changes.extend(pools.iter().filter_map(|pool| known.set_flavor(pool, Some(name))));
        known.flavors.insert(name.into());
        self.define(changes)
    }

    /// The pools of a flavor, sorted; `None` if there is no such flavor.
    pub fn flavor(&self, name: &str) -> Option<Vec<Box<str>>> {
        let known = self.pooling.as_ref()?.known();
        known.flavors.get(name)?;
        Some(known.of_flavor(Some(name)).map(|pool| pool.name.clone()).collect())
    }

    /// At most `count_max` flavors with names after `after`, sorted.
    pub fn flavors_page(&self, after: &str, count_max: usize) -> Vec<Box<str>> {
        let Some(pooling) = &self.pooling else { return Vec::new() };
        let known = pooling.known();
        let after = known.flavors.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        after.take(count_max).cloned().collect()
    }

    /// Forgets a flavor; its pools are free. Fine if there is none.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn delete_flavor(&self, name: &str) -> Result<Ticket, BrokerError> {
        let pooling = self.pooling()?;
        let mut known = pooling.known();
        if !known.flavors.remove(name) {
            return Ok(Ticket::NONE);
        }
        let freed: Vec<Box<str>> =
            known.of_flavor(Some(name)).map(|pool| pool.name.clone()).collect();
        let mut changes = vec![DefinitionChange::Remove(key(&["flavor", name]))];
        changes.extend(freed.iter().filter_map(|pool| known.set_flavor(pool, None)));
        self.define(changes)
    }

    /// The pool for a new queue.
    ///
    /// # Errors
    ///
    /// [`BrokerError::NotFound`] if there is no such flavor, or none of its pools may be chosen.
    pub(crate) fn place(&self, flavor: Option<&str>) -> Result<u16, BrokerError> {
        let missing = |name: &str| BrokerError::not_found(Kind::Flavor, name);
        let Some(pooling) = &self.pooling else {
            return flavor.map_or(Ok(0), |flavor| Err(missing(flavor)));
        };
        let known = pooling.known();
        let sum: u64 = known.of_flavor(flavor).map(|pool| u64::from(pool.weight)).sum();
        match (sum, flavor) {
            (0, None) => return Ok(0),
            (0, Some(flavor)) => return Err(missing(flavor)),
            _ => {}
        }
        let mut chosen = self.unforeseeable() % sum;
        for pool in known.of_flavor(flavor) {
            match chosen.checked_sub(u64::from(pool.weight)) {
                Some(rest) => chosen = rest,
                None => return Ok(pool.number),
            }
        }
        Ok(0)
    }

    /// Loads a definition of a pool or flavor, or the number of the last pool.
    pub(crate) fn load_pools(&self, names: &[&str], value: &[u8]) -> Result<(), BrokerError> {
        let invalid = |error: serde_json::Error| BrokerError::Invalid(error.to_string());
        let pooling = self.pooling()?;
        match names {
            ["pool", name] => {
                let value: PoolValue = serde_json::from_slice(value).map_err(invalid)?;
                pooling.load(name, &value)
            }
            ["flavor", name] => {
                pooling.known().flavors.insert((*name).into());
                Ok(())
            }
            _ => {
                let last: u16 = serde_json::from_slice(value).map_err(invalid)?;
                let mut known = pooling.known();
                known.last = known.last.max(last);
                Ok(())
            }
        }
    }
}

fn last_number(last: u16) -> DefinitionChange {
    put(&["pool-numbers"], &last)
}

/// The identity of a queue of this count that lives with another.
pub(crate) fn beside(queue: QueueId, count: u64) -> QueueId {
    queue_in(pool_of(queue), count)
}

/// Has a copy that goes into another pool than the message came from be made once only.
pub(crate) fn once(queue: &Queue, sequence: Sequence, to: &[RouteTarget], copy: Change) -> Change {
    let home = pool_of(queue.id);
    match copy {
        Change::Enqueue { message, targets, dedup: None }
            if to.iter().any(|target| pool_of(target.queue.id) != home) =>
        {
            Change::Enqueue { message, targets, dedup: Some(hop_id(queue, sequence)) }
        }
        copy => copy,
    }
}

/// A message leaves its place once.
fn hop_id(queue: &Queue, sequence: Sequence) -> DedupId {
    dedup_id(&queue.tenant, &format!("\0hop {}", queue.id.0), &sequence.0.to_string())
}
