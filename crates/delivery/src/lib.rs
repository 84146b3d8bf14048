//! Messages that leave: lease, send, settle.
//!
//! Whatever sends messages to somebody who does not fetch them is here: who may be called, when a failure is repeated,
//! what a message becomes on the way out. A queue's subscriptions use it today; notifications for people will.
//!
//! | file | concept |
//! |---|---|
//! | [`runner`](Runner) | leases, has sent, settles |
//! | `plan` | how one subscription is delivered to |
//! | `letter` | a message on its way out |
//! | [`subscriber`](Subscriber) | who is sent to: what a URI means |
//! | [`options`](Options) | what a subscription says about delivery |
//! | [`filter`](Filter) | which messages are sent |
//! | [`notification`] | what a message becomes |
//! | [`request`](OwnRequest) | or the message as a request of its own, and what its answer says |
//! | [`answer`](Answer) | what a subscriber answers to whoever asked |
//! | [`attempt`](Attempt) | one attempt, and its outcome |
//! | [`settle`](Settler) | settling a message later, by its name |
//! | [`retry`](RetryPolicy) | when a failed one is repeated |
//! | [`limit`](Endpoint) | how many run at once, and whom to leave alone |
//! | [`output`] | what carries it: webhooks, mail |
//! | [`guard`](Guard), [`address`](Addresses) | what may be called |
//! | [`resolve`](Resolver) | from names to addresses |
//! | [`sign`] | signatures of webhooks |
//! | [`mail`](Mail) | a mail that nothing breaks out of |

mod address;
mod answer;
mod attempt;
mod counters;
mod filter;
mod guard;
mod letter;
mod limit;
mod mail;
pub mod notification;
mod options;
pub mod output;
mod plan;
mod request;
mod resolve;
mod retry;
mod runner;
mod settle;
pub mod sign;
mod subscriber;

pub use address::{Addresses, Range, RangeError};
pub use answer::Answer;
pub use attempt::{Attempt, Blame, Failure, Outcome};
pub use counters::{Counters, Figure};
pub use filter::{FILTER_BYTES_MAX, Filter, FilterError, Subject, Unanswered};
pub use guard::{ADDRESSES_MAX, Destination, Forbidden, Guard, Ports, PortsError, URL_BYTES_MAX};
pub use letter::Opener;
pub use limit::{Endpoint, Place, Places, Standing, Verdict};
pub use mail::{Address, HeaderText, Mail, MailError};
pub use options::{AsRequest, Form, Headers, Options, OptionsError};
pub use plan::{Defaults, Undeliverable, as_it_is};
pub use request::{OwnRequest, PathTemplate, Terms};
pub use resolve::{ResolveError, Resolver, ResolverError};
pub use retry::{Backoff, RETRY_AFTER_MAX, RetryPolicy, RetryPolicyError};
pub use runner::{Limits, Outputs, Runner};
pub use settle::{Decision, SETTLE_PATH, SettleError, Settler, Unsettled};
pub use subscriber::{RECIPIENTS_MAX, SUBSCRIBER_BYTES_MAX, Subscriber, SubscriberError};
