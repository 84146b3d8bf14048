//! The AMQP door: 0-9-1 with RabbitMQ's extensions.
//!
//! | file | what it does |
//! |---|---|
//! | [`listener`] | accepts connections and starts their tasks; stops them at the end |
//! | `handshake` | from the first byte to an open tenant |
//! | `session` | the life of an open connection: read, commit, deliver, write |
//! | `channel` | what one channel holds and owes |
//! | `dispatch` | which handler a method has, how refusals leave |
//! | `publishing` | `basic.publish`, confirms, transactions |
//! | `consuming` | consumers, deliveries, settling |
//! | `declaring` | exchanges, queues, bindings |
//! | `output` | what waits to be written, and what holds it |
//! | `names` | names and headers that the server gives |
//! | `translate` | the broker's refusals as reply codes |

mod channel;
mod consuming;
mod declaring;
mod dispatch;
mod handshake;
pub mod listener;
mod names;
mod output;
mod publishing;
mod session;
mod translate;
