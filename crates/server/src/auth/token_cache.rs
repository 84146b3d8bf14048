//! What is known of tokens, for a short while and within bounds: who they are, or that they are nobody's.
//!
//! Tokens are kept as SHA-256 only. Good and bad ones have rooms of their own, so that a flood of bad ones forgets no good
//! one; and a peer that shows too many bad ones is not asked about for a while.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;

/// Bad tokens of one peer within the time that they are remembered, after which its unknown tokens are not looked at.
pub const BAD_PER_PEER_MAX: u32 = 256;
/// Peers that are counted; when full, all counts begin again.
const PEERS_MAX: usize = 65_536;

/// A token as it is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenId([u8; 32]);

impl TokenId {
    /// The id of a token that is used for `purpose`; ids of different purposes have nothing in common.
    #[must_use]
    pub fn of(purpose: &str, token: &str) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&purpose.len().to_le_bytes());
        context.update(purpose.as_bytes());
        context.update(token.as_bytes());
        let mut id = [0; 32];
        id.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        Self(id)
    }
}

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known<T> {
    /// It is good, and says this.
    Good(T),
    /// It is not good.
    Bad,
}

/// How long and how many.
#[derive(Debug, Clone, Copy)]
pub struct CacheLimits {
    /// For good ones.
    pub good: Duration,
    /// For bad ones.
    pub bad: Duration,
    /// Entries in each room.
    pub entries_max: usize,
}

/// Remembers tokens.
#[derive(Debug)]
pub struct TokenCache<T> {
    limits: CacheLimits,
    rooms: Mutex<Rooms<T>>,
}

#[derive(Debug)]
struct Rooms<T> {
    good: HashMap<TokenId, (T, Instant)>,
    bad: HashMap<TokenId, Instant>,
    peers: HashMap<IpAddr, (u32, Instant)>,
}

impl<T: Clone> TokenCache<T> {
    /// An empty one.
    #[must_use]
    pub fn new(limits: CacheLimits) -> Self {
        let rooms = Rooms { good: HashMap::new(), bad: HashMap::new(), peers: HashMap::new() };
        Self { limits, rooms: Mutex::new(rooms) }
    }

    /// What is known of a token.
    #[must_use]
    pub fn known(&self, id: &TokenId, now: Instant) -> Option<Known<T>> {
        let rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((value, _)) = rooms.good.get(id).filter(|(_, until)| now < *until) {
            return Some(Known::Good(value.clone()));
        }
        rooms.bad.get(id).filter(|until| now < **until).map(|_| Known::Bad)
    }

    /// Whether this peer has shown so many bad tokens that its unknown ones are not looked at now.
    #[must_use]
    pub fn is_suspicious(&self, peer: IpAddr, now: Instant) -> bool {
        let rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        rooms
            .peers
            .get(&peer)
            .is_some_and(|(count, until)| now < *until && *count >= BAD_PER_PEER_MAX)
    }

    /// Remembers a good token, at most for `lifetime`, which is what is left of its own.
    pub fn put_good(&self, id: TokenId, value: T, lifetime: Duration, now: Instant) {
        let until = now + self.limits.good.min(lifetime);
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.bad.remove(&id);
        make_room(&mut rooms.good, self.limits.entries_max, |(_, until)| now < *until);
        rooms.good.insert(id, (value, until));
    }

    /// Remembers a bad token and who showed it.
    pub fn put_bad(&self, id: TokenId, peer: IpAddr, now: Instant) {
        let until = now + self.limits.bad;
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.good.remove(&id);
        make_room(&mut rooms.bad, self.limits.entries_max, |until| now < *until);
        rooms.bad.insert(id, until);
        make_room(&mut rooms.peers, PEERS_MAX, |(_, until)| now < *until);
        let count = rooms.peers.entry(peer).or_insert((0, until));
        if now >= count.1 {
            *count = (0, until);
        }
        count.0 = count.0.saturating_add(1);
    }

    /// Forgets everything; after anything changed that may make good tokens bad.
    pub fn forget_all(&self) {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.good.clear();
        rooms.bad.clear();
    }

    /// How many good and bad ones are remembered, for metrics and tests.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        (rooms.good.len(), rooms.bad.len())
    }
}

/// Drops what is over when the map is full, and everything if that is not enough: forgetting costs a question, no more.
fn make_room<K, V>(map: &mut HashMap<K, V>, max: usize, current: impl Fn(&V) -> bool) {
    if map.len() >= max {
        map.retain(|_, value| current(value));
    }
    if map.len() >= max {
        map.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const SECOND: Duration = Duration::from_secs(1);

    fn cache() -> TokenCache<&'static str> {
        TokenCache::new(CacheLimits { good: SECOND * 10, bad: SECOND * 5, entries_max: 4 })
    }

    fn id(token: &str) -> TokenId {
        TokenId::of("user", token)
    }

    #[test]
    fn a_token_is_known_for_its_time_and_not_beyond_its_own_end() {
        let (cache, now) = (cache(), Instant::now());
        cache.put_good(id("long"), "ann", SECOND * 100, now);
        cache.put_good(id("short"), "bob", SECOND * 2, now);
        cache.put_bad(id("bad"), PEER, now);

        assert_eq!(cache.known(&id("long"), now + SECOND * 9), Some(Known::Good("ann")));
        assert_eq!(cache.known(&id("long"), now + SECOND * 10), None);
        assert_eq!(cache.known(&id("short"), now + SECOND * 2), None);
        assert_eq!(cache.known(&id("bad"), now + SECOND * 4), Some(Known::Bad));
        assert_eq!(cache.known(&id("bad"), now + SECOND * 5), None);
        assert_eq!(cache.known(&TokenId::of("service", "long"), now), None);
    }

    #[test]
    fn a_flood_of_bad_tokens_is_bounded_and_forgets_no_good_one() {
        let (cache, now) = (cache(), Instant::now());
        cache.put_good(id("good"), "ann", SECOND * 100, now);

        for number in 0..1000 {
            cache.put_bad(id(&number.to_string()), PEER, now);
        }

        assert_eq!(cache.known(&id("good"), now), Some(Known::Good("ann")));
        assert!(cache.counts().1 <= 4);
        assert!(cache.is_suspicious(PEER, now));
        assert!(!cache.is_suspicious(PEER, now + SECOND * 5));
        assert!(!cache.is_suspicious("10.0.0.1".parse().unwrap(), now));
    }

    #[test]
    fn the_last_word_about_a_token_counts() {
        let (cache, now) = (cache(), Instant::now());
        cache.put_good(id("t"), "ann", SECOND * 100, now);
        cache.put_bad(id("t"), PEER, now);

        assert_eq!(cache.known(&id("t"), now), Some(Known::Bad));
        cache.forget_all();
        assert_eq!(cache.known(&id("t"), now), None);
    }
}
