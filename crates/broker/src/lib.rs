//! Publish, route, lease, settle: the engine behind every door.
//!
//! No wire is known here, and no disk: doors translate into these verbs, the pool and catalog of `store` keep what
//! there is, and `model` decides.
//!
//! | file | concept |
//! |---|---|
//! | [`broker`](Broker) | the handle that every door holds |
//! | [`access`](Access) | a user inside a tenant: the only way to queues and exchanges; authorisation |
//! | `tenant` | exchanges, bindings and queues of a tenant, its policies and limits |
//! | `declare`, `bind` | queues; exchanges and bindings |
//! | `administer` | tenants, users, permissions, policies |
//! | `definitions` | what is declared, as the catalog keeps it |
//! | `publish`, `route_cache` | batches of messages into queues |
//! | `queue`, [`consumer`](Consumer), [`outbox`](Outbox) | who is next, how much it may get, and its mailbox |
//! | `consume` | consuming, fetching, leaving |
//! | `settle` | acknowledge, give back, refuse |
//! | `dead_letter` | what becomes of refused, expired, pushed out messages |
//! | `hop` | leases that end and messages that move, as one commit |
//! | `delay` | delayed exchanges |
//! | `quotas` | what tenants and users may have at most |
//! | `stall` | says once that something cannot go on |
//! | `sweeper` | what time has made ready |
//! | `stream` | queues that are read without taking |
//! | `reply` | direct replies |
//! | `service`, `queues` | a door's own access; a tenant's queues by name |
//! | `subscriptions`, `subscribe`, [`follow`] | who follows a queue; its definition; who delivers to it |
//! | `pools` | pools and flavors, and where a new queue comes to live |
//! | `post`, `browse`, `claim`, `remove`, `metadata` | the verbs of queue services |
//! | `tasks` | every task the broker runs |

mod access;
mod administer;
mod answer;
mod bind;
mod broker;
mod browse;
mod claim;
mod clock;
mod consume;
mod consumer;
mod counters;
mod dead_letter;
mod declare;
mod definitions;
mod delay;
mod error;
pub mod follow;
mod hop;
mod metadata;
mod outbox;
mod pools;
mod post;
mod publish;
mod queue;
mod queues;
mod quotas;
mod remove;
mod reply;
mod route_cache;
mod service;
mod settle;
mod stall;
mod stream;
mod subscribe;
mod subscriptions;
mod sweeper;
pub mod tasks;
mod tenant;
mod users;

pub use access::Access;
pub use bind::{BindingRequest, DeclareExchange};
pub use broker::Broker;
pub use browse::{BrowseFilter, Browsed, QueueFill, Seen};
pub use claim::{ClaimRequest, ClaimView, Claimed, Poison};
pub use clock::Clock;
pub use consume::Fetched;
pub use consumer::{ConsumeOptions, Consumer, Credit, PREFETCH_UNLIMITED};
pub use counters::{Counter, Counters};
pub use dead_letter::Reason;
pub use declare::{DeclareQueue, Declared, PARKING_QUEUE};
pub use definitions::PolicyKind;
pub use error::{BrokerError, Kind};
pub use hop::Hop;
pub use metadata::{METADATA_BYTES_MAX, Metadata};
pub use outbox::{OUTBOX_BYTES_MAX, Outbox, Outgoing, delivery_bytes};
pub use pools::{OpenPool, PoolDefinition, PutPool};
pub use post::{Post, Posted};
pub use publish::{Publish, Published, Publisher};
pub use queue::{ConnectionId, Queue};
pub use quotas::{Parking, Quotas};
pub use remove::{Popped, Removals};
pub use reply::{REPLY_TO, is_reply_token};
pub use service::TENANT_NAME_BYTES_MAX;
pub use settle::{Counted, Holder, Refused, SettleBatch};
pub use store::{Condition, Removal};
pub use subscribe::{
    Backlog, Confirmation, Output, Subscribe, Subscribed, SubscriptionChange, Updated,
};
pub use subscriptions::{SUBSCRIPTIONS_PER_QUEUE_MAX, Subscription};
pub use tenant::{Tenant, TenantDescription};
pub use users::{User, Users};
