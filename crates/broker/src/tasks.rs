//! Every task that the broker runs.
//!
//! | task | what it does | wakes |
//! |---|---|---|
//! | sweeper | expires, ends delays, claims and subscriptions, drops idle queues | at the next deadline |
//! | hints | dispatches queues in which the pool made something ready, and wakes the sweeper earlier | when the pool says so |
//!
//! Both run until their future is dropped; the caller spawns and stops them. Connections are tasks of their doors.

use std::future::poll_fn;
use std::sync::Arc;

use crate::broker::Broker;

/// Runs the sweeper until dropped.
pub async fn sweep(broker: Arc<Broker>) {
    crate::sweeper::run(broker).await;
}

/// Follows the pool's hints until dropped.
pub async fn follow_hints(broker: Arc<Broker>) {
    loop {
        let queues = poll_fn(|context| {
            if broker.watch().poll_due(context).is_ready() {
                broker.sweeper.set(broker.now());
            }
            broker.watch().poll_ready(context)
        })
        .await;
        let now = broker.now();
        for queue in queues {
            broker.became_ready(queue, now);
        }
    }
}
