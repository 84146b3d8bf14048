//! Plan, apply, diff.

use posthouse_client::prelude::*;
use posthouse_client::{Difference, TopologyError};

use crate::broker::{client, on_both};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_says_what_is_missing_and_applying_makes_it_so() {
    on_both(|url, prefix| async move {
        let client = client(&url).await;
        let (events, orders) = (format!("{prefix}.events"), format!("{prefix}.orders"));
        let topology = Topology::new()
            .exchange(Exchange::topic(&events))
            .queue(Queue::new(&orders))
            .bind(&orders, &events, "orders.#");

        let before = client.plan(&topology).await.unwrap();
        let looked_only = client.plan(&topology).await.unwrap();
        client.apply(&topology).await.unwrap();
        let after = client.plan(&topology).await.unwrap();

        assert_eq!(before.missing().count(), 2);
        assert_eq!(before, looked_only, "a plan changes nothing");
        assert!(after.is_clean(), "{after}");
        assert_eq!(after.parts().last().unwrap().difference, Difference::Unknown);
        assert!(before.to_string().contains(&format!("+ queue `{orders}`")), "{before}");
        client.publish_to(events, "orders.placed", "x").await.unwrap();
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_otherwise_is_a_difference_and_is_left_alone() {
    on_both(|url, prefix| async move {
        let client = client(&url).await;
        let name = format!("{prefix}.contested");
        client.apply(&Topology::new().queue(Queue::new(&name))).await.unwrap();
        client.publish_to("", name.clone(), "kept").await.unwrap();
        let other = Topology::new().queue(Queue::new(&name).max_length(3));

        let plan = client.plan(&other).await.unwrap();
        let refused = client.apply(&other).await.unwrap_err();

        let differs: Vec<_> = plan.diff().collect();
        assert_eq!(differs.len(), 1, "{plan}");
        assert!(matches!(&differs[0].difference, Difference::Differs(text) if text.contains("x-max-length")));
        assert!(matches!(refused, TopologyError::Refused(_)));
        assert_eq!(client.queue_length(&name).await.unwrap().messages, 1);
        client.close().await;
    })
    .await;
}
