//! What every store must do: a behaviour per sentence of the contract.
//!
//! Each function takes a fresh, empty store and panics if it does otherwise. `conformance_tests!` makes a test of each.

mod claims;
mod delivery;
mod publish;
mod queues;
mod streams;
mod time;

pub use claims::*;
pub use delivery::*;
pub use publish::*;
pub use queues::*;
pub use streams::*;
pub use time::*;

/// Makes a test of every behaviour. `$with` is a function that calls its argument with a fresh store.
#[macro_export]
macro_rules! conformance_tests {
    ($with:path) => {
        $crate::conformance_tests! { $with:
            a_message_comes_out_as_it_went_in
            messages_come_in_the_order_they_went_in
            a_commit_over_several_queues_fills_all
            an_enqueue_into_a_queue_that_is_gone_is_skipped
            a_duplicate_within_the_window_is_skipped_and_reported
            a_duplicate_after_the_window_is_stored
            an_id_of_a_message_that_no_queue_took_is_not_remembered
            changes_of_a_commit_take_effect_in_order
            a_ticket_becomes_durable
            a_large_message_comes_out_as_it_went_in
            many_messages_come_in_order
            a_message_is_never_in_two_leases
            a_released_message_returns_to_its_place
            a_counted_release_counts
            an_acknowledged_message_is_gone
            settling_what_is_not_leased_changes_nothing
            a_taken_message_is_gone_at_once
            a_lease_stops_at_the_count
            a_lease_stops_after_the_bytes
            higher_priorities_come_first
            a_priority_above_the_highest_counts_as_the_highest
            a_range_settles_only_what_is_leased
            leasing_from_nowhere_is_not_found
            a_queue_id_cannot_be_used_twice
            a_deleted_queue_is_forgotten
            a_purge_leaves_leased_messages
            counters_tell_what_is_there
            queues_are_listed_with_their_kinds
            browsing_shows_all_and_takes_nothing
            definitions_are_kept_by_key
            a_stream_is_read_by_sequence
            a_stream_is_not_leased
            a_trimmed_stream_begins_later
            a_stream_is_searched_by_time
            a_stream_read_stops_after_the_bytes
            a_delayed_message_waits
            a_release_may_delay
            an_expired_message_is_reported_by_a_lease
            an_expired_head_becomes_due
            only_heads_expire
            a_deadline_that_comes_to_the_head_is_hinted
            due_reports_no_more_than_asked
            due_tells_when_to_ask_again
            a_claim_holds_its_messages_until_its_time
            a_claim_can_be_extended
            a_settled_claim_does_not_end_again
            a_claim_ends_when_it_is_told_to
            a_claimed_message_does_not_expire_before_its_claim
            a_claim_shows_what_it_holds
            what_is_claimed_is_read_with_its_holder
            a_message_taken_durably_is_gone
            a_message_is_removed_if_nobody_holds_it
            a_message_is_removed_by_its_holder_only
            a_message_can_be_removed_whoever_holds_it
            an_expired_message_is_not_removed
            a_read_shows_what_was_asked_for
            the_newest_message_is_found
            a_receipt_tells_the_last_sequence
            a_deleted_queue_takes_its_claims_with_it
        }
    };
    ($with:path: $($behaviour:ident)*) => {
        $(
            #[test]
            fn $behaviour() {
                $with($crate::conformance::$behaviour);
            }
        )*
    };
}
