//! The end of a job: final record, outputs, release, removal.

use std::collections::BTreeSet;
use std::time::Duration;

use super::fixture::{archived, at, inline, receipt, record, to};
use super::lifecycle::accepted;
use crate::core::JobStatus::{Dismissed, Failed, Running, Successful};
use crate::core::{EndReason, FinalRecord, JobId};
use crate::store::JobStore;

pub(in crate::store) async fn a_final_record_is_written_once(store: &dyn JobStore) {
    let id = accepted(store).await;
    let first = store.finish(record(id, Successful, vec![inline("a", b"1")])).await.unwrap().unwrap();
    assert_eq!((first.status, first.started, first.finished), (Successful, Some(at(2_000)), Some(at(5_000))));
    assert_eq!(first.message.as_deref(), Some("ended: successful"));
    assert!(first.updated >= at(5_000));
    let detail = store.detail(id).await.unwrap().unwrap();
    assert_eq!((detail.reason, detail.exit_code), (Some(EndReason::Completed), Some(0)));
    assert_eq!(detail.receipt, Some(receipt(id)));
    let other = FinalRecord { receipt: None, ..record(id, Failed, vec![inline("b", b"2")]) };
    assert_eq!(store.finish(other).await.unwrap(), Some(first));
    let again = store.detail(id).await.unwrap().unwrap();
    assert_eq!((again.reason, again.receipt), (detail.reason, detail.receipt));
    assert_eq!(store.outputs(id).await.unwrap(), [inline("a", b"1")]);
}

pub(in crate::store) async fn a_dismissed_job_keeps_its_status(store: &dyn JobStore) {
    let id = accepted(store).await;
    store.transition(to(id, Running, 1_500)).await.unwrap();
    let (dismissed, _) = store.transition(to(id, Dismissed, 3_000)).await.unwrap().unwrap();
    let after = store.finish(record(id, Failed, Vec::new())).await.unwrap().unwrap();
    assert_eq!((after.status, after.finished, &after.message), (Dismissed, dismissed.finished, &dismissed.message));
    assert_eq!(after.started, Some(at(1_500)), "what was seen stays");
    let detail = store.detail(id).await.unwrap().unwrap();
    assert_eq!(detail.receipt, Some(receipt(id)));
    assert_eq!((detail.reason, detail.exit_code), (Some(EndReason::Cancelled), Some(137)));

    // A job that never had a run, and the capture of one that had none.
    let never = accepted(store).await;
    store.transition(to(never, Failed, 3_000)).await.unwrap();
    let bare = FinalRecord { exit: None, receipt: None, message: None, ..record(never, Failed, Vec::new()) };
    let after = store.finish(bare).await.unwrap().unwrap();
    assert_eq!((after.status, after.started, after.message.as_deref()), (Failed, None, Some("now failed")));
}

pub(in crate::store) async fn outputs_are_kept_byte_for_byte(store: &dyn JobStore) {
    let id = accepted(store).await;
    let outputs = vec![
        inline("z", b"\x00\xff'\"\n\x00"),
        archived("big", "results/1/big"),
        inline("empty", b""),
        inline("a", "Ä,1\r\n".as_bytes()),
    ];
    store.finish(record(id, Successful, outputs.clone())).await.unwrap();
    assert_eq!(store.outputs(id).await.unwrap(), outputs, "in the order in which they were stored");
    assert_eq!(store.outputs(JobId::new()).await.unwrap(), []);
}

pub(in crate::store) async fn what_is_final_was_captured_or_not(store: &dyn JobStore) {
    let open = accepted(store).await;
    let dismissed = accepted(store).await;
    store.transition(to(dismissed, Dismissed, 2_000)).await.unwrap();
    let bare = accepted(store).await;
    store.finish(FinalRecord { receipt: None, ..record(bare, Failed, Vec::new()) }).await.unwrap();
    let done = accepted(store).await;
    store.finish(record(done, Successful, Vec::new())).await.unwrap();
    let unknown = JobId::new();
    let asked = [open, dismissed, bare, done, unknown];
    let found: BTreeSet<_> = store.strays(&asked, at(0)).await.unwrap().into_iter().collect();
    assert_eq!(found, BTreeSet::from([dismissed, bare]), "the record of the other is not as old");
    let found: BTreeSet<_> = store.strays(&asked, at(i64::MAX)).await.unwrap().into_iter().collect();
    assert_eq!(found, BTreeSet::from([dismissed, bare, done]));
    assert_eq!(store.finalized(&asked).await.unwrap(), [done], "with a record");
    assert_eq!(store.strays(&[], at(i64::MAX)).await.unwrap(), []);
    let known: BTreeSet<_> = store.known(&asked).await.unwrap().into_iter().collect();
    let rows: BTreeSet<_> = asked.iter().copied().filter(|id| *id != unknown).collect();
    assert_eq!(known, rows);
    assert_eq!(store.known(&[]).await.unwrap(), []);
}

pub(in crate::store) async fn a_record_needs_the_claim_that_it_names(store: &dyn JobStore) {
    let id = accepted(store).await;
    let by = |owner: &str, status| FinalRecord { owner: Some(owner.to_owned()), ..record(id, status, Vec::new()) };
    assert!(store.claim(id, "a", Duration::ZERO).await.unwrap());
    assert!(store.claim(id, "b", Duration::from_secs(60)).await.unwrap(), "the claim of a has run out");
    store.finish(by("a", Failed)).await.unwrap();
    let detail = store.detail(id).await.unwrap().unwrap();
    assert!(!detail.job.status.is_final() && detail.receipt.is_none(), "a came too late");
    store.finish(by("b", Successful)).await.unwrap();
    assert_eq!(store.job(id).await.unwrap().unwrap().status, Successful);
}

pub(in crate::store) async fn removal_answers_the_keys_each_time(store: &dyn JobStore) {
    let id = accepted(store).await;
    assert_eq!(store.remove(id, at(2_000)).await.unwrap(), None, "it has not ended");
    let outputs = vec![inline("a", b"1"), archived("b", "results/b"), archived("c", "results/c")];
    store.finish(record(id, Successful, outputs)).await.unwrap();
    let want = vec!["results/b".to_owned(), "results/c".to_owned(), format!("logs/{id}")];
    assert_eq!(store.remove(id, at(7_000)).await.unwrap().as_ref(), Some(&want));
    assert_eq!(store.outputs(id).await.unwrap(), []);
    let removed = store.job(id).await.unwrap().unwrap();
    assert_eq!((removed.status, removed.removed), (Successful, Some(at(7_000))));
    // The server died before it deleted the objects: asked again, they are still known.
    assert_eq!(store.remove(id, at(8_000)).await.unwrap(), Some(want));
    assert_eq!(store.job(id).await.unwrap().unwrap(), removed);
}

pub(in crate::store) async fn a_record_behind_a_removal_is_not_lost(store: &dyn JobStore) {
    let id = accepted(store).await;
    store.transition(to(id, Dismissed, 2_000)).await.unwrap();
    assert_eq!(store.remove(id, at(3_000)).await.unwrap(), Some(Vec::new()));
    let outputs = vec![inline("a", b"1"), archived("b", "results/b")];
    let after = store.finish(record(id, Successful, outputs)).await.unwrap().unwrap();
    assert_eq!((after.status, after.removed), (Dismissed, Some(at(3_000))));
    assert_eq!(store.outputs(id).await.unwrap(), [], "removed is removed");
    assert_eq!(store.finalized(&[id]).await.unwrap(), [id], "its run can go");
    assert_eq!(store.remove(id, at(4_000)).await.unwrap(), Some(vec!["results/b".to_owned(), format!("logs/{id}")]));
}
