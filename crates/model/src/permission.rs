//! What a user may do with queues and exchanges of one tenant.
//!
//! RabbitMQ's model: three patterns per user and tenant over the names of resources, and for topic exchanges, where
//! there are any, two more over routing keys. The default exchange has the name `amq.default` here; callers say so.

use std::{borrow::Cow, sync::OnceLock};

use crate::pattern::Pattern;
pub use crate::pattern::{COMPILED_BYTES_MAX, PATTERN_BYTES_MAX, PatternError};

/// What is done to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Declare or delete it.
    Configure,
    /// Publish to it, or bind something to it as destination.
    Write,
    /// Get, consume or purge it, or bind to it as source.
    Read,
}

impl Verb {
    /// As RabbitMQ's texts and definitions call it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// The three patterns of one user in one tenant.
///
/// Each is found anywhere in a name unless anchored; the empty pattern allows nothing but the empty name.
#[derive(Debug, Clone)]
pub struct Permissions {
    configure: Pattern,
    write: Pattern,
    read: Pattern,
}

impl Permissions {
    /// Compiles the patterns.
    ///
    /// # Errors
    ///
    /// [`PatternError`] of the first that is no pattern, longer than 1 KiB or larger than 256 KiB when compiled.
    pub fn new(configure: &str, write: &str, read: &str) -> Result<Self, PatternError> {
        Ok(Self {
            configure: Pattern::of_permission(configure)?,
            write: Pattern::of_permission(write)?,
            read: Pattern::of_permission(read)?,
        })
    }

    /// Whether `verb` may be done to the queue or exchange `name`.
    #[must_use]
    pub fn allows(&self, verb: Verb, name: &str) -> bool {
        let pattern = match verb {
            Verb::Configure => &self.configure,
            Verb::Write => &self.write,
            Verb::Read => &self.read,
        };
        pattern.matches(name)
    }

    /// The pattern of [`Verb::Configure`] as written.
    #[must_use]
    pub fn configure(&self) -> &str {
        self.configure.text()
    }

    /// The pattern of [`Verb::Write`] as written.
    #[must_use]
    pub fn write(&self) -> &str {
        self.write.text()
    }

    /// The pattern of [`Verb::Read`] as written.
    #[must_use]
    pub fn read(&self) -> &str {
        self.read.text()
    }
}

/// The patterns over routing keys of one user for one topic exchange of one tenant.
///
/// `{username}` and `{vhost}` in a pattern stand for the names of user and tenant, taken literally: `a.c` does not
/// match `abc`.
#[derive(Debug, Clone)]
pub struct TopicPermission {
    exchange: Box<str>,
    write: Template,
    read: Template,
}

impl TopicPermission {
    /// Compiles the patterns.
    ///
    /// # Errors
    ///
    /// As [`Permissions::new`].
    pub fn new(exchange: &str, write: &str, read: &str) -> Result<Self, PatternError> {
        let (write, read) = (Template::new(write)?, Template::new(read)?);
        Ok(Self { exchange: exchange.into(), write, read })
    }

    /// Whether this is about `exchange`.
    #[must_use]
    pub fn covers(&self, exchange: &str) -> bool {
        *self.exchange == *exchange
    }

    /// Whether a message of `routing_key` may be published ([`Verb::Write`]) or such a key be bound ([`Verb::Read`]).
    ///
    /// Nothing is configured by routing key, so [`Verb::Configure`] is never allowed here. A pattern that becomes too
    /// large by the names put into it allows nothing.
    #[must_use]
    pub fn allows(&self, verb: Verb, routing_key: &str, user: &str, tenant: &str) -> bool {
        match verb {
            Verb::Configure => false,
            Verb::Write => self.write.matches(routing_key, user, tenant),
            Verb::Read => self.read.matches(routing_key, user, tenant),
        }
    }

    /// The name of the exchange.
    #[must_use]
    pub fn exchange(&self) -> &str {
        &self.exchange
    }

    /// The pattern of [`Verb::Write`] as written.
    #[must_use]
    pub fn write(&self) -> &str {
        &self.write.text
    }

    /// The pattern of [`Verb::Read`] as written.
    #[must_use]
    pub fn read(&self) -> &str {
        &self.read.text
    }
}

const USER: &str = "{username}";
const TENANT: &str = "{vhost}";

/// A pattern that may have variables.
#[derive(Debug, Clone)]
struct Template {
    text: Box<str>,
    /// Compiled for whoever asked first: the user and tenant that own the permission, so for all who ever ask.
    filled: OnceLock<Filled>,
}

#[derive(Debug, Clone)]
struct Filled {
    user: Box<str>,
    tenant: Box<str>,
    pattern: Option<Pattern>,
}

impl Template {
    fn new(text: &str) -> Result<Self, PatternError> {
        let template = Self { text: text.into(), filled: OnceLock::new() };
        Pattern::of_permission(&template.fill("u", "v"))?;
        Ok(template)
    }

    fn matches(&self, name: &str, user: &str, tenant: &str) -> bool {
        let filled = self.filled.get_or_init(|| Filled {
            user: user.into(),
            tenant: tenant.into(),
            pattern: self.compile(user, tenant),
        });
        let same = *filled.user == *user && *filled.tenant == *tenant;
        let pattern = if same || !self.has_variables() {
            filled.pattern.as_ref().map(Cow::Borrowed)
        } else {
            self.compile(user, tenant).map(Cow::Owned)
        };
        pattern.is_some_and(|pattern| pattern.matches(name))
    }

    fn compile(&self, user: &str, tenant: &str) -> Option<Pattern> {
        Pattern::of_permission(&self.fill(user, tenant)).ok()
    }

    fn has_variables(&self) -> bool {
        self.text.contains(USER) || self.text.contains(TENANT)
    }

    /// In one pass, so that a user who is called `{vhost}` stays that.
    fn fill(&self, user: &str, tenant: &str) -> String {
        let users = self.text.split(USER).map(|part| {
            let tenants: Vec<&str> = part.split(TENANT).collect();
            tenants.join(&regex::escape(tenant))
        });
        users.collect::<Vec<_>>().join(&regex::escape(user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verb_has_its_own_pattern() {
        let permissions = Permissions::new("^own-", "^(own-|amq\\.default$)", ".*").unwrap();

        assert!(permissions.allows(Verb::Configure, "own-queue"));
        assert!(!permissions.allows(Verb::Configure, "other"));
        assert!(permissions.allows(Verb::Write, "amq.default"));
        assert!(permissions.allows(Verb::Read, "other"));
        assert_eq!(permissions.configure(), "^own-");
        assert_eq!(permissions.read(), ".*");
    }

    #[test]
    fn the_empty_pattern_allows_the_empty_name_only() {
        let permissions = Permissions::new("", "", "").unwrap();

        assert!(permissions.allows(Verb::Write, ""));
        assert!(!permissions.allows(Verb::Write, "q"));
        assert_eq!(permissions.write(), "");
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        assert!(Permissions::new("(", "", "").is_err());
        assert!(TopicPermission::new("x", "", "[").is_err());
    }

    #[test]
    fn names_in_topic_patterns_are_taken_literally() {
        let topic = TopicPermission::new("amq.topic", "^{username}\\.{vhost}\\.", ".*").unwrap();

        assert!(topic.covers("amq.topic") && !topic.covers("amq.topic2"));
        assert!(topic.allows(Verb::Write, "a.c.(/).1", "a.c", "(/)"));
        assert!(!topic.allows(Verb::Write, "abc.(/).1", "a.c", "(/)"));
        assert!(topic.allows(Verb::Read, "anything", "a.c", "(/)"));
        assert!(!topic.allows(Verb::Configure, "anything", "a.c", "(/)"));
    }

    #[test]
    fn a_user_called_like_a_variable_stays_a_name() {
        let topic = TopicPermission::new("x", "^{username}$", "^$").unwrap();

        assert!(topic.allows(Verb::Write, "{vhost}", "{vhost}", "t"));
        assert!(!topic.allows(Verb::Write, "t", "{vhost}", "t"));
    }

    #[test]
    fn a_pattern_filled_for_one_user_is_not_used_for_another() {
        let topic = TopicPermission::new("x", "^{username}$", "").unwrap();

        assert!(topic.allows(Verb::Write, "anna", "anna", "t"));
        assert!(topic.allows(Verb::Write, "bert", "bert", "t"));
        assert!(!topic.allows(Verb::Write, "anna", "bert", "t"));
    }
}
