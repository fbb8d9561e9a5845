//! Finalizing while the database, another replica or the run itself gets in the way.

use bytes::Bytes;
use tokio::time::timeout;

use super::*;
use crate::archive::Archive as _;
use crate::jobs::Settings;
use crate::jobs::testing::{Bench, Log, SOON, well};
use crate::runner::Runner as _;
use crate::store::JobStore as _;

const LOG: &str = "before\nPYGEOAPI_K8S_MANAGER_RESULT_START\na,b\n";

async fn usual() -> Bench {
    Bench::open(Settings::default()).await
}

/// A claim ends soon, but not before a busy machine has done something in it.
async fn hasty() -> Bench {
    Bench::open(Settings { claim_seconds: 3, ..Settings::default() }).await
}

async fn put(bench: &Bench, key: &str, text: &'static str) {
    let mut writer = bench.archive.create(key, "text/plain").await.unwrap();
    writer.write(Bytes::from_static(text.as_bytes())).await.unwrap();
    writer.finish().await.unwrap();
}

async fn stored(bench: &Bench, key: &str) -> String {
    let pieces: Vec<Bytes> = bench.archive.read(key, None).await.unwrap().body.try_collect().await.unwrap();
    String::from_utf8(pieces.concat()).unwrap()
}

/// What was recorded: the detail, and the one output as text.
async fn recorded(bench: &Bench, id: JobId) -> (JobDetail, Option<String>) {
    let detail = bench.store.detail(id).await.unwrap().unwrap();
    let outputs = bench.store.outputs(id).await.unwrap();
    let text = outputs.first().map(|output| match &output.body {
        OutputBody::Inline(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        OutputBody::Archived { key } => key.clone(),
    });
    (detail, text)
}

#[tokio::test]
async fn work_goes_on_while_the_claim_is_renewed() {
    let bench = hasty().await;
    let id = bench.accepted().await.id;
    let until = bench.jobs.claim(id, "a").await.unwrap();
    assert!(until.is_some());
    // Four renewals take longer than one claim.
    let held = bench.jobs.holding(id, "a", until, bench.store.claimed(5)).await;
    assert_eq!(held, Some(()));
}

#[tokio::test]
async fn work_ends_when_the_claim_may_have_run_out() {
    let bench = hasty().await;
    let id = bench.accepted().await.id;
    let until = bench.jobs.claim(id, "a").await.unwrap();
    bench.store.goes_away();
    let held = timeout(SOON, bench.jobs.holding(id, "a", until, std::future::pending::<()>())).await.unwrap();
    assert_eq!(held, None);
    // What nobody else can do is not given up for that.
    assert_eq!(bench.jobs.holding(id, "a", None, bench.store.refused(8)).await, Some(()));
}

#[tokio::test]
async fn no_configuration_makes_a_claim_that_has_run_out_at_once() {
    let bench = Bench::open(Settings { claim_seconds: 0, ..Settings::default() }).await;
    let id = bench.ran(Log::Whole(LOG)).await;
    let (store, taken) = (bench.store.inner(), Arc::new(std::sync::Mutex::new(None)));
    let seen = Arc::clone(&taken);
    bench.runs.after_the_next_log(async move {
        *seen.lock().unwrap() = Some(store.claim(id, "other", Duration::from_secs(60)).await.unwrap());
    });
    assert_eq!(bench.jobs.finish(id, &well(), Pulse::default(), ()).await.unwrap(), Finished::Done);
    assert_eq!(*taken.lock().unwrap(), Some(false));
}

#[tokio::test]
async fn a_log_is_captured_once_though_the_database_goes_away() {
    let bench = hasty().await;
    let id = bench.ran(Log::Whole(LOG)).await;
    let store = Arc::clone(&bench.store);
    bench.runs.after_the_next_log(async move { store.goes_away() });
    let (exit, jobs) = (well(), Arc::clone(&bench.jobs));
    let finishing = tokio::spawn(async move { jobs.finish(id, &exit, Pulse::default(), ()).await });
    // The last one is later than the claim lasts.
    bench.store.refused(5).await;
    bench.runs.set(id, Log::Part(""));
    bench.store.comes_back();
    assert_eq!(finishing.await.unwrap().unwrap(), Finished::Done);
    let (detail, text) = recorded(&bench, id).await;
    assert_eq!((detail.job.status, text.as_deref()), (JobStatus::Successful, Some("a,b\n")));
    assert!(detail.receipt.unwrap().complete);
    assert_eq!(bench.runs.read(), 1);
}

#[tokio::test]
async fn a_part_of_a_log_does_not_replace_the_whole() {
    let bench = usual().await;
    let id = bench.ran(Log::Part("bef")).await;
    put(&bench, &log_key(id), LOG).await;
    assert_eq!(bench.jobs.finish(id, &well(), Pulse::default(), ()).await.unwrap(), Finished::Done);
    assert_eq!(stored(&bench, &log_key(id)).await, LOG);
    let (detail, text) = recorded(&bench, id).await;
    assert_eq!((detail.job.status, text.as_deref()), (JobStatus::Successful, Some("a,b\n")));
    let receipt = detail.receipt.unwrap();
    assert_eq!((receipt.complete, receipt.bytes, receipt.lines), (true, LOG.len() as u64, 3));
}

#[tokio::test]
async fn a_part_is_stored_where_there_is_nothing() {
    let bench = usual().await;
    let id = bench.ran(Log::Part("bef")).await;
    assert_eq!(bench.jobs.finish(id, &well(), Pulse::default(), ()).await.unwrap(), Finished::Done);
    assert_eq!(stored(&bench, &log_key(id)).await, "bef\n==> missing: the node is gone <==\n");
    let (detail, _) = recorded(&bench, id).await;
    assert_eq!(detail.job.status, JobStatus::Failed, "its result is missing");
    assert_eq!(detail.receipt.unwrap().missing.as_deref(), Some("the node is gone"));
}

#[tokio::test]
async fn a_run_that_is_gone_is_recorded_from_its_stored_log() {
    let bench = usual().await;
    let id = bench.accepted().await.id;
    put(&bench, &log_key(id), "==> missing: rotated away <==\nPYGEOAPI_K8S_MANAGER_RESULT_START\na,b\n").await;
    assert_eq!(bench.jobs.finish(id, &well(), Pulse::default(), ()).await.unwrap(), Finished::Done);
    let (detail, text) = recorded(&bench, id).await;
    assert_eq!((detail.job.status, text.as_deref()), (JobStatus::Successful, Some("a,b\n")));
    assert_eq!(detail.receipt.unwrap().missing.as_deref(), Some("rotated away"), "as it was captured");

    let nothing = bench.accepted().await.id;
    assert_eq!(bench.jobs.finish(nothing, &well(), Pulse::default(), ()).await.unwrap(), Finished::Done);
    let (detail, _) = recorded(&bench, nothing).await;
    assert_eq!((detail.job.status, detail.reason), (JobStatus::Failed, Some(EndReason::Lost)));
    assert!(detail.job.message.unwrap().ends_with("its log is lost"));

    let unseen = bench.accepted().await.id;
    put(&bench, &log_key(unseen), LOG).await;
    bench.jobs.fail_lost(unseen, "the run disappeared").await.unwrap();
    let message = recorded(&bench, unseen).await.0.job.message.unwrap();
    assert!(message.starts_with("the run disappeared; what was stored of its log is file:///"), "{message}");
}

#[tokio::test]
async fn outputs_of_the_replica_that_has_the_job_now_are_not_removed() {
    let bench = usual().await;
    let id = bench.ran(Log::Whole("no result\n")).await;
    let (store, owner) = (bench.store.inner(), bench.jobs.owner.clone());
    bench.runs.after_the_next_log(async move {
        store.unclaim(id, &owner).await.unwrap();
        assert!(store.claim(id, "other", Duration::from_secs(60)).await.unwrap());
    });
    put(&bench, &output_key(id, 0), "theirs").await;
    assert_eq!(bench.jobs.finish(id, &well(), Pulse::default(), ()).await.unwrap(), Finished::Claimed);
    assert_eq!(stored(&bench, &output_key(id, 0)).await, "theirs");
    assert!(!recorded(&bench, id).await.0.job.status.is_final(), "it is theirs to record");
}

#[tokio::test]
async fn outputs_of_an_earlier_attempt_are_removed() {
    let bench = usual().await;
    let id = bench.ran(Log::Whole("no result\n")).await;
    put(&bench, &output_key(id, 0), "left").await;
    assert_eq!(bench.jobs.finish(id, &well(), Pulse::default(), ()).await.unwrap(), Finished::Done);
    assert!(matches!(bench.archive.read(&output_key(id, 0), None).await, Err(ArchiveError::NotFound(_))));
}

/// A launch whose answer was late may take the claim for a moment, where no replica renews one.
#[tokio::test]
async fn a_run_whose_record_was_refused_is_not_let_go() {
    let bench = Bench::open(Settings { claim_seconds: 1, ..Settings::default() }).await;
    bench.store.is_left_alone();
    let id = bench.ran(Log::Slow(LOG, Duration::from_millis(700))).await;
    let jobs = Arc::clone(&bench.jobs);
    let finishing = tokio::spawn(async move { jobs.finish(id, &well(), Pulse::default(), ()).await });
    bench.store.claimed(1).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(
        bench.store.claim(id, "launch", Duration::from_secs(60)).await.unwrap(),
        "that of the finalizer has run out"
    );
    bench.store.unclaim(id, "launch").await.unwrap();
    assert_eq!(finishing.await.unwrap().unwrap(), Finished::Claimed);
    assert!(bench.runs.state(id).await.unwrap().is_some(), "its log can be read again");
    assert_eq!(bench.jobs.finish(id, &well(), Pulse::default(), ()).await.unwrap(), Finished::Done);
    let (detail, text) = recorded(&bench, id).await;
    assert_eq!((detail.job.status, text.as_deref()), (JobStatus::Successful, Some("a,b\n")));
}
