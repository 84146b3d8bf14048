//! What one connection remembers about where messages go.
//!
//! A publisher uses few addresses many times. What an address led to (permission, exchange, queues and what each of
//! them adds to a message) is kept until the tenant's revision moves, so that the usual message costs one comparison.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use model::Address;
use std::hash::BuildHasher;

use crate::queue::Queue;

/// Most addresses remembered per connection; the cache starts anew when it is full.
const ROUTES_MAX: usize = 1024;

/// Where the messages of one address go.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) address: Arc<Address>,
    pub(crate) kind: RouteKind,
}

/// What has to be decided per message.
#[derive(Debug)]
pub(crate) enum RouteKind {
    /// Nothing: the queues are known.
    Queues(Box<[RouteTarget]>),
    /// The headers take part: routed anew each time.
    PerMessage,
    /// Messages with a delay wait in this queue until they are routed; others are routed anew each time.
    Delayed(Arc<Queue>),
    /// Straight to the connection that waits for a reply.
    Reply,
}

/// A queue, and what it adds to each message.
#[derive(Debug, Clone)]
pub(crate) struct RouteTarget {
    pub(crate) queue: Arc<Queue>,
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) priority_max: u8,
    pub(crate) overflow: Option<Overflow>,
    /// Whether every message is durable there (quorum queues, streams).
    pub(crate) keeps_all: bool,
    /// Whether the way there leads through an exchange that honours `x-delay`.
    pub(crate) delayed: bool,
    /// Whether it is there because the queue before it is, as its follower.
    pub(crate) follows: bool,
}

/// The limits of a queue that has some.
#[derive(Debug, Clone)]
pub(crate) struct Overflow {
    pub(crate) length_max: u64,
    pub(crate) bytes_max: u64,
    pub(crate) mode: model::Overflow,
}

impl RouteTarget {
    pub(crate) fn new(queue: Arc<Queue>, delayed: bool) -> Self {
        let settings = queue.settings();
        let stream = queue.is_stream();
        let keeps_all = queue.definition.queue_type != model::QueueType::Classic;
        let limited = settings.max_length.is_some() || settings.max_length_bytes.is_some();
        let overflow = (limited && !stream).then(|| Overflow {
            length_max: settings.max_length.unwrap_or(u64::MAX),
            bytes_max: settings.max_length_bytes.unwrap_or(u64::MAX),
            mode: settings.overflow,
        });
        let ttl_ms = if stream { None } else { settings.message_ttl };
        let (priority_max, follows) = (settings.priority_max, queue.follows());
        Self { priority_max, ttl_ms, overflow, delayed, follows, keeps_all, queue }
    }

    /// A queue, and behind it the queues that follow it.
    pub(crate) fn with_followers(queue: Arc<Queue>, delayed: bool) -> impl Iterator<Item = Self> {
        let followers = queue.followers();
        let own = Self::new(queue, delayed);
        let count = followers.len();
        let follow = move |index| Some(Self::new(Arc::clone(followers.get(index)?), delayed));
        std::iter::once(own).chain((0..count).filter_map(follow))
    }
}

/// The cache of one connection.
#[derive(Debug, Default)]
pub(crate) struct RouteCache {
    revision: u64,
    last: Option<Arc<Route>>,
    routes: HashMap<u64, Arc<Route>, FixedState>,
}

impl RouteCache {
    /// Forgets everything if the tenant has changed since.
    pub(crate) fn validate(&mut self, revision: u64) {
        if self.revision != revision {
            *self = Self { revision, ..Self::default() };
        }
    }

    /// The route of an address, if it is remembered.
    pub(crate) fn find(&mut self, exchange: &str, routing_key: &str) -> Option<Arc<Route>> {
        if let Some(last) = &self.last
            && same(&last.address.routing_key, routing_key)
            && same(&last.address.exchange, exchange)
        {
            return Some(Arc::clone(last));
        }
        let route = self.routes.get(&key(exchange, routing_key))?;
        if &*route.address.routing_key != routing_key || &*route.address.exchange != exchange {
            return None;
        }
        self.last = Some(Arc::clone(route));
        self.last.clone()
    }

    /// Remembers a route.
    pub(crate) fn insert(&mut self, route: &Arc<Route>) {
        if self.routes.len() >= ROUTES_MAX {
            self.routes.clear();
        }
        let key = key(&route.address.exchange, &route.address.routing_key);
        self.routes.insert(key, Arc::clone(route));
        self.last = Some(Arc::clone(route));
    }
}

/// Whether two short names are equal, eight bytes at a time. The library's comparison is a call, which was a fifth of
/// the time spent on small messages.
#[inline]
fn same(left: &str, right: &str) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let (left, left_rest) = left.as_bytes().as_chunks::<8>();
    let (right, right_rest) = right.as_bytes().as_chunks::<8>();
    left.iter()
        .zip(right)
        .all(|(left, right)| u64::from_ne_bytes(*left) == u64::from_ne_bytes(*right))
        && left_rest.iter().zip(right_rest).all(|(left, right)| left == right)
}

/// A fixed seed is fine: a collision costs a second routing, never a wrong queue, and the map is small.
fn key(exchange: &str, routing_key: &str) -> u64 {
    FixedState::default().hash_one((exchange, routing_key))
}
