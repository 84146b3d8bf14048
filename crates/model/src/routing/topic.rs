//! The index of a topic exchange: a tree of pattern words.
//!
//! `*` stands for one word, `#` for any number of words, also none. A key is matched by advancing a *set* of nodes word
//! by word, never by trying ways one after the other: a pattern such as `#.#.#.#.x` has exponentially many ways to fit,
//! but only as many nodes as words (RabbitMQ: CVE-2026-67419). Work is bounded by words of the key (at most 256) times
//! nodes that can be reached.
//!
//! Words are interned: a node is found by (parent, word number) in one map, so a node costs tens of bytes, and each word
//! of a key is hashed as a string once.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::destination::{Destination, DestinationSet};
use super::visited::Visited;
use crate::slots::Slots;

/// Number of a word, of all words in the patterns of one exchange.
type Word = u32;
/// Number of a node.
type NodeId = u32;

/// The words that match more than themselves have numbers of their own.
const ONE_WORD: Word = u32::MAX;
const ANY_WORDS: Word = u32::MAX - 1;

/// The end of some pattern's prefix.
#[derive(Debug, Default)]
struct Node {
    /// Where patterns that end here lead.
    destinations: DestinationSet,
    /// How many nodes follow.
    children: u32,
    /// The node of `*` below, if any; also in `edges`, but asked for at every word.
    one_word: Option<NodeId>,
    /// The node of `#` below, if any.
    any_words: Option<NodeId>,
}

/// An interned word and how many edges use it.
#[derive(Debug)]
struct WordUse {
    number: Word,
    edges: u32,
}

/// Which destinations wait for which patterns.
#[derive(Debug)]
pub(crate) struct TopicTrie {
    nodes: Slots<Node>,
    edges: HashMap<(NodeId, Word), NodeId, RandomState>,
    words: HashMap<Box<str>, WordUse, RandomState>,
    word_numbers: Slots<()>,
    root: NodeId,
}

impl Default for TopicTrie {
    fn default() -> Self {
        let mut nodes = Slots::default();
        let root = nodes.insert(Node::default());
        Self {
            nodes,
            edges: HashMap::default(),
            words: HashMap::default(),
            word_numbers: Slots::default(),
            root,
        }
    }
}

/// The words of a key or pattern. The empty key has none; `.` has two that are empty.
fn words(key: &str) -> impl Iterator<Item = &str> {
    let words = (!key.is_empty()).then(|| key.split('.'));
    words.into_iter().flatten()
}

impl TopicTrie {
    /// Adds a destination to a pattern.
    pub(crate) fn insert(&mut self, pattern: &str, destination: Destination) {
        let mut at = self.root;
        for word in words(pattern) {
            at = self.child_or_new(at, word);
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.destinations.insert(destination);
        }
    }

    /// Removes a destination from a pattern, and every node that nothing needs any more.
    pub(crate) fn remove(&mut self, pattern: &str, destination: Destination) {
        let mut path: SmallVec<[(NodeId, &str); 16]> = SmallVec::new();
        let mut at = self.root;
        for word in words(pattern) {
            let Some(child) = self.child(at, word) else { return };
            path.push((at, word));
            at = child;
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.destinations.remove(destination);
        }
        while let Some((parent, word)) = path.pop() {
            let needed = self
                .nodes
                .get(at)
                .is_some_and(|node| node.children > 0 || !node.destinations.is_empty());
            if needed {
                return;
            }
            self.cut(parent, word);
            at = parent;
        }
    }

    /// Calls `visit` with the destinations of each pattern that the key matches; each pattern once, a destination as
    /// often as its patterns match. Returns the steps it took, for those who want to know the cost.
    pub(crate) fn matches(&self, key: &str, visit: impl FnMut(Destination)) -> usize {
        let mut walk = Walk::new(self, visit);
        walk.enter(self.root);
        for word in words(key) {
            walk.advance(word);
        }
        walk.finish()
    }

    fn word_number(&self, word: &str) -> Option<Word> {
        match word {
            "*" => Some(ONE_WORD),
            "#" => Some(ANY_WORDS),
            _ => self.words.get(word).map(|word| word.number),
        }
    }

    fn child(&self, parent: NodeId, word: &str) -> Option<NodeId> {
        let word = self.word_number(word)?;
        self.edges.get(&(parent, word)).copied()
    }

    fn child_or_new(&mut self, parent: NodeId, word: &str) -> NodeId {
        if let Some(child) = self.child(parent, word) {
            return child;
        }
        let number = self.use_word(word);
        let child = self.nodes.insert(Node::default());
        self.edges.insert((parent, number), child);
        if let Some(node) = self.nodes.get_mut(parent) {
            node.children += 1;
            match number {
                ONE_WORD => node.one_word = Some(child),
                ANY_WORDS => node.any_words = Some(child),
                _ => {}
            }
        }
        child
    }

    /// Removes the node below `parent`, which has neither destinations nor children.
    fn cut(&mut self, parent: NodeId, word: &str) {
        let Some(number) = self.word_number(word) else { return };
        let Some(child) = self.edges.remove(&(parent, number)) else { return };
        self.nodes.remove(child);
        if let Some(node) = self.nodes.get_mut(parent) {
            node.children -= 1;
            match number {
                ONE_WORD => node.one_word = None,
                ANY_WORDS => node.any_words = None,
                _ => {}
            }
        }
        self.release_word(word);
    }

    fn use_word(&mut self, word: &str) -> Word {
        if let Some(number @ (ONE_WORD | ANY_WORDS)) = self.word_number(word) {
            return number;
        }
        if let Some(known) = self.words.get_mut(word) {
            known.edges += 1;
            return known.number;
        }
        let number = self.word_numbers.insert(());
        self.words.insert(word.into(), WordUse { number, edges: 1 });
        number
    }

    fn release_word(&mut self, word: &str) {
        let Some(known) = self.words.get_mut(word) else { return };
        known.edges -= 1;
        if known.edges == 0 {
            self.word_numbers.remove(known.number);
            self.words.remove(word);
        }
    }
}

/// The set of nodes that the words so far lead to.
struct Walk<'t, V> {
    trie: &'t TopicTrie,
    visit: V,
    /// Nodes whose prefix takes exactly the words so far. Without repetitions: a node has one parent and one word.
    current: SmallVec<[NodeId; 16]>,
    /// Nodes of `#` with something below: they take any further word and stay.
    staying: SmallVec<[NodeId; 8]>,
    /// Nodes of `#` entered so far. Whatever enters one later would do no more than what already stays in it.
    entered: Visited,
    steps: usize,
}

impl<'t, V: FnMut(Destination)> Walk<'t, V> {
    fn new(trie: &'t TopicTrie, visit: V) -> Self {
        Self {
            trie,
            visit,
            current: SmallVec::new(),
            staying: SmallVec::new(),
            entered: Visited::default(),
            steps: 0,
        }
    }

    /// Adds a node that the words so far lead to, with what follows from it without a word.
    fn enter(&mut self, id: NodeId) {
        self.current.push(id);
        let mut next = self.trie.nodes.get(id).and_then(|node| node.any_words);
        while let Some(id) = next {
            self.steps += 1;
            let Some(node) = self.trie.nodes.get(id) else { return };
            if !self.entered.first(id) {
                return;
            }
            // A pattern that ends in `#` takes all the words that may come.
            node.destinations.for_each(&mut self.visit);
            if node.children > 0 {
                self.staying.push(id);
            }
            next = node.any_words;
        }
    }

    fn advance(&mut self, word: &str) {
        // A word `*` or `#` of a key is a word like any other; patterns cannot name it.
        let number = self.trie.words.get(word).map(|word| word.number);
        let before = std::mem::take(&mut self.current);
        let staying = self.staying.len();
        for id in before {
            self.advance_from(id, number);
        }
        for index in 0..staying {
            if let Some(id) = self.staying.get(index).copied() {
                self.advance_from(id, number);
            }
        }
    }

    fn advance_from(&mut self, id: NodeId, word: Option<Word>) {
        self.steps += 1;
        let Some(node) = self.trie.nodes.get(id) else { return };
        if let Some(child) = node.one_word {
            self.enter(child);
        }
        let named = word.and_then(|word| self.trie.edges.get(&(id, word)).copied());
        if let Some(child) = named {
            self.enter(child);
        }
    }

    fn finish(mut self) -> usize {
        for id in std::mem::take(&mut self.current) {
            if let Some(node) = self.trie.nodes.get(id) {
                node.destinations.for_each(&mut self.visit);
            }
        }
        self.steps
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::id::QueueId;

    fn trie(patterns: &[impl AsRef<str>]) -> TopicTrie {
        let mut trie = TopicTrie::default();
        for (id, pattern) in (0..).zip(patterns) {
            trie.insert(pattern.as_ref(), Destination::Queue(QueueId(id)));
        }
        trie
    }

    fn found(trie: &TopicTrie, key: &str) -> Vec<u64> {
        let mut found = Vec::new();
        trie.matches(key, |destination| match destination {
            Destination::Queue(queue) => found.push(queue.0),
            Destination::Exchange(_) => unreachable!("only queues were added"),
        });
        found.sort_unstable();
        found
    }

    /// AMQP 0-9-1 §3.1.3.3, word for word and with no thought of cost.
    fn naive(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), None) => naive(rest, key),
            (None, Some(_)) | (Some(_), None) => false,
            (Some((&"#", rest)), Some((_, key_rest))) => {
                naive(rest, key) || naive(pattern, key_rest)
            }
            (Some((&"*", rest)), Some((_, key_rest))) => naive(rest, key_rest),
            (Some((word, rest)), Some((key_word, key_rest))) => {
                word == key_word && naive(rest, key_rest)
            }
        }
    }

    fn split(key: &str) -> Vec<&str> {
        words(key).collect()
    }

    #[test]
    fn a_star_takes_one_word_and_a_hash_any_number() {
        let trie = trie(&["a.*", "a.#", "#", "*.b", "a.#.c", "a.b", ""]);

        assert_eq!(found(&trie, "a.b"), [0, 1, 2, 3, 5]);
        assert_eq!(found(&trie, "a"), [1, 2]);
        assert_eq!(found(&trie, "a.x.y.c"), [1, 2, 4]);
        assert_eq!(found(&trie, "a.c"), [0, 1, 2, 4]);
        assert_eq!(found(&trie, ""), [2, 6]);
    }

    #[test]
    fn empty_words_are_words() {
        let trie = trie(&["*", "*.*", "a.", "."]);

        assert_eq!(found(&trie, "."), [1, 3]);
        assert_eq!(found(&trie, "a."), [1, 2]);
    }

    #[test]
    fn a_wildcard_in_a_key_is_an_ordinary_word() {
        let trie = trie(&["a", "*", "#.b"]);

        assert_eq!(found(&trie, "#"), [1]);
        assert_eq!(found(&trie, "*"), [1]);
    }

    #[test]
    fn nothing_is_left_of_removed_patterns() {
        let patterns = ["a.b.c", "a.*.c", "#", "#.#.a", "", "*"];
        let mut trie = trie(&patterns);

        for (id, pattern) in (0..).zip(patterns) {
            trie.remove(pattern, Destination::Queue(QueueId(id)));
            trie.remove("never.there", Destination::Queue(QueueId(id)));
        }

        assert_eq!((trie.nodes.len(), trie.edges.len(), trie.words.len()), (1, 0, 0));
    }

    #[test]
    fn consecutive_hashes_cost_no_more_than_words_times_nodes() {
        let hashes = ["#"; 127].join(".");
        let trie = trie(&[hashes.as_str(), &format!("{hashes}.x"), "#.a.#.a.#.a.#.a.#.a.#.b"]);
        let key = ["a"; 128].join(".");

        let mut matched = 0;
        let steps = trie.matches(&key, |_| matched += 1);

        assert_eq!(matched, 1);
        // Each word visits each node once, and each node is entered and left once besides.
        assert!(steps <= (128 + 3) * trie.nodes.len(), "{steps} steps, {} nodes", trie.nodes.len());
    }

    #[test]
    fn a_hundred_thousand_exact_patterns_cost_a_step_per_word() {
        let patterns: Vec<_> = (0..100_000).map(|i| format!("{}.{}.x", i % 1000, i)).collect();
        let trie = trie(&patterns);

        let mut matched = 0;
        let steps = trie.matches("7.50007.x", |_| matched += 1);

        assert_eq!((matched, steps), (1, 3));
    }

    #[test]
    fn many_trailing_hashes_are_entered_once_each() {
        let patterns: Vec<_> = (0..10_000).map(|i| format!("#.{i}.#")).collect();
        let trie = trie(&patterns);

        let key = ["77"; 100].join(".");
        let mut matched = 0;
        let steps = trie.matches(&key, |_| matched += 1);

        assert_eq!(matched, 1);
        assert!(steps < 1000, "{steps} steps");
    }

    fn pattern() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "", "*", "#", "#"]), 0..8)
            .prop_map(|words| words.join("."))
    }

    proptest! {
        #[test]
        fn the_trie_finds_what_the_definition_finds(
            patterns in prop::collection::vec(pattern(), 0..12),
            keys in prop::collection::vec("[ab.]{0,9}", 1..8),
            removed in prop::collection::vec(any::<bool>(), 12),
        ) {
            let mut trie = trie(&patterns);
            for (id, pattern) in (0..).zip(&patterns) {
                if removed[id] {
                    trie.remove(pattern, Destination::Queue(QueueId(id as u64)));
                }
            }

            for key in keys {
                let expected: BTreeSet<u64> = (0..)
                    .zip(&patterns)
                    .filter(|(id, _)| !removed[*id])
                    .filter(|(_, pattern)| naive(&split(pattern), &split(&key)))
                    .map(|(id, _)| id as u64)
                    .collect();
                prop_assert_eq!(found(&trie, &key), expected.into_iter().collect::<Vec<_>>());
            }
        }
    }
}
