//! Bindings, and which queues a message goes to.
//!
//! | file | concept |
//! |---|---|
//! | [`binding`] | what a binding says, and why it is refused |
//! | [`topology`] | the exchanges, queues and bindings of one tenant, and what goes when something goes |
//! | [`route`] | from an exchange and a routing key to queues |
//! | `destination` | where a binding leads |
//! | `direct`, `topic`, `headers`, `consistent_hash` | how each kind of exchange chooses |
//! | `visited` | what a walk has been to |
//!
//! The bindings of an exchange are one range of a sorted set, which is also all that fanout, headers and hash exchanges
//! need to route; direct and topic exchanges have an index besides. A queue that only the default exchange knows costs
//! its entry in a map of names.

pub mod binding;
mod consistent_hash;
mod destination;
mod direct;
mod headers;
pub mod route;
mod topic;
pub mod topology;
mod visited;

pub use binding::{BindError, Binding, BindingEnd, BindingRequest};
pub use route::{QueueIds, RouteError, Routed};
pub use topology::{Removed, Topology};
