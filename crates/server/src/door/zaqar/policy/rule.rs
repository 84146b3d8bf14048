//! The names of what can be asked of the queue service, as Zaqar's policy files have them.

macro_rules! rules {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $default:ident;)+) => {
        /// One thing that a caller may or may not do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Rule { $($(#[$doc])* #[doc = concat!("`", $name, "`")] $variant,)+ }

        impl Rule {
            /// Every rule, in the order of Zaqar's documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name in policy files, such as `queues:get_all`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Who may, when nobody said otherwise.
            #[must_use]
            pub const fn default_right(self) -> DefaultRight {
                match self { $(Self::$variant => DefaultRight::$default,)+ }
            }
        }
    };
}

/// Who may do something when no policy file says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultRight {
    /// Everybody who was let in.
    Everybody,
    /// Those who have the role `admin`.
    Admin,
}

rules! {
    QueuesGetAll = "queues:get_all", Everybody;
    QueuesCreate = "queues:create", Everybody;
    QueuesGet = "queues:get", Everybody;
    QueuesDelete = "queues:delete", Everybody;
    QueuesUpdate = "queues:update", Everybody;
    QueuesStats = "queues:stats", Everybody;
    QueuesShare = "queues:share", Everybody;
    QueuesPurge = "queues:purge", Everybody;
    MessagesGetAll = "messages:get_all", Everybody;
    MessagesCreate = "messages:create", Everybody;
    MessagesGet = "messages:get", Everybody;
    MessagesDelete = "messages:delete", Everybody;
    MessagesDeleteAll = "messages:delete_all", Everybody;
    ClaimsCreate = "claims:create", Everybody;
    ClaimsGet = "claims:get", Everybody;
    ClaimsUpdate = "claims:update", Everybody;
    ClaimsDelete = "claims:delete", Everybody;
    SubscriptionGetAll = "subscription:get_all", Everybody;
    SubscriptionCreate = "subscription:create", Everybody;
    SubscriptionGet = "subscription:get", Everybody;
    SubscriptionUpdate = "subscription:update", Everybody;
    SubscriptionDelete = "subscription:delete", Everybody;
    SubscriptionConfirm = "subscription:confirm", Everybody;
    TopicsGetAll = "topics:get_all", Everybody;
    TopicsCreate = "topics:create", Everybody;
    TopicsGet = "topics:get", Everybody;
    TopicsDelete = "topics:delete", Everybody;
    TopicsUpdate = "topics:update", Everybody;
    TopicsStats = "topics:stats", Everybody;
    TopicsPurge = "topics:purge", Everybody;
    PoolsGetAll = "pools:get_all", Admin;
    PoolsCreate = "pools:create", Admin;
    PoolsGet = "pools:get", Admin;
    PoolsUpdate = "pools:update", Admin;
    PoolsDelete = "pools:delete", Admin;
    FlavorsGetAll = "flavors:get_all", Everybody;
    FlavorsCreate = "flavors:create", Admin;
    FlavorsGet = "flavors:get", Everybody;
    FlavorsUpdate = "flavors:update", Admin;
    FlavorsDelete = "flavors:delete", Admin;
    PingGet = "ping:get", Everybody;
    HealthGet = "health:get", Admin;
}

impl Rule {
    /// The rule of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|rule| rule.name() == name)
    }

    /// Its place in [`Rule::ALL`].
    pub(super) fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_stands_at_its_own_index_and_is_found_by_its_name() {
        for (index, &rule) in Rule::ALL.iter().enumerate() {
            assert_eq!(rule.index(), index);
            assert_eq!(Rule::named(rule.name()), Some(rule));
        }
        assert_eq!(Rule::named("queues:nonsense"), None);
    }
}
