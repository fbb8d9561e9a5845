//! What every database must do, as one suite: each function is one promise of [`JobStore`](super::JobStore) and runs on a
//! fresh, empty store. `contract!` stamps it for one backend.

pub(super) mod ending;
pub(super) mod fixture;
pub(super) mod history;
pub(super) mod lifecycle;
pub(super) mod listing;

/// Makes a test of each promise. `$open` is an async function that answers a store and what must outlive it; `$try` makes an option of
/// that: `None` where there is nothing to try it with.
macro_rules! contract {
    ($open:path) => {
        $crate::store::contract::contract!($open, Some);
    };
    ($open:path, $try:path) => {
        $crate::store::contract::contract!($open, $try;
            lifecycle: everything_is_read_back, the_same_insert_again_is_new, one_job_for_one_key, a_key_is_a_callers_and_a_processs,
                one_winner_for_one_key, a_late_event_cannot_revive, what_it_waited_for_is_over_when_it_runs, one_winner_of_many_transitions, reports_reach_open_jobs_only,
                claims_expire, unfinished_jobs_come_in_pages, changes_are_told_after_the_commit, many_writers_lose_nothing;
            ending: a_final_record_is_written_once, a_dismissed_job_keeps_its_status, outputs_are_kept_byte_for_byte,
                what_is_final_was_captured_or_not, a_record_needs_the_claim_that_it_names, removal_answers_the_keys_each_time, a_record_behind_a_removal_is_not_lost;
            history: processors_are_kept_by_digest, processes_open_and_close, an_unknown_job_is_none, it_is_ready;
            listing: any_filter_lists_what_it_must, many_processes_are_listed, pages_stand_still_while_rows_come,
                nothing_outside_is_listed;
        );
    };
    ($open:path, $try:path; $($module:ident: $($promise:ident),+;)+) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let Some((store, _guard)) = $try($open().await) else { return };
                $crate::store::contract::$module::$promise(&*store).await;
            }
        )+)+
    };
}
pub(super) use contract;
