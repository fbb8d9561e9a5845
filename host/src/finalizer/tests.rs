//! The driver over real use cases, with runs of which the test says what they give.

use std::sync::atomic::Ordering;

use super::*;
use crate::core::{JobStatus, Timestamp};
use crate::jobs::Settings;
use crate::jobs::testing::{Bench, Log, SOON, well};

const LOG: &str = "one\ntwo\nthree\nPYGEOAPI_K8S_MANAGER_RESULT_START\ndone";

/// So long may an attempt have a quick place; a busy machine needs more for a small log than one would think.
const PATIENCE: Duration = Duration::from_secs(1);

fn finalizer(bench: &Bench, concurrency: usize) -> Finalizer {
    let limits = Limits { concurrency, longest_pause: Duration::from_millis(50) };
    let mut finalizer = Finalizer::new(Arc::clone(&bench.jobs), limits, CancellationToken::new());
    finalizer.places = Arc::new(Places::patient(concurrency, PATIENCE));
    finalizer
}

fn ended(id: JobId) -> RunObservation {
    RunObservation { job_id: id, state: RunState::Ended(well()) }
}

#[tokio::test]
async fn runs_that_hang_do_not_keep_others_waiting() {
    let bench = Bench::open(Settings::default()).await;
    let mut finalizer = finalizer(&bench, 2);
    for _ in 0..6 {
        finalizer.observed(ended(bench.ran(Log::Hangs).await));
    }
    // Neither the small one nor the one that takes longer than a quick place is for.
    for log in [Log::Whole(LOG), Log::Slow(LOG, PATIENCE / 3)] {
        let job = bench.accepted().await;
        bench.runs.set(job.id, log);
        finalizer.observed(ended(job.id));
        let job = bench.jobs.wait(job, SOON).await.unwrap();
        assert_eq!(job.status, JobStatus::Successful);
    }
}

#[tokio::test]
async fn an_incomplete_run_is_looked_after_once_at_a_time() {
    let bench = Bench::open(Settings::default()).await;
    let mut finalizer = finalizer(&bench, 2);
    let id = bench.accepted().await.id;
    let incomplete = || RunObservation { job_id: id, state: RunState::Incomplete };
    bench.store.goes_away();
    for _ in 0..5 {
        finalizer.observed(incomplete());
    }
    assert_eq!(finalizer.tasks.len(), 1);
    // When it is done, the next list is heeded again: its job has ended meanwhile.
    bench.store.refused(2).await;
    bench.store.comes_back();
    finalizer.tasks.close();
    tokio::time::timeout(SOON, finalizer.tasks.wait()).await.unwrap();
    bench.fail(id).await;
    finalizer.observed(incomplete());
    tokio::time::timeout(SOON, finalizer.tasks.wait()).await.unwrap();
    assert_eq!(*bench.runs.cancelled.lock().unwrap(), [id]);
}

#[tokio::test]
async fn a_run_that_starts_soon_costs_no_write_for_its_wait() {
    let bench = Bench::open(Settings { progress: false, ..Settings::default() }).await;
    let mut finalizer = finalizer(&bench, 2);
    let (quick, slow) = (bench.accepted().await.id, bench.accepted().await.id);
    let waits =
        |job_id, why: &str| RunObservation { job_id, state: RunState::Waiting { message: Some(why.to_owned()) } };
    finalizer.observed(waits(quick, "waiting: its image is pulled"));
    finalizer.observed(waits(slow, "waiting: its image is pulled"));
    finalizer.observed(waits(slow, "waiting: no node has room"));
    assert_eq!(finalizer.tasks.len(), 0);
    let started = RunState::Running { started: Timestamp::now(), message: None };
    finalizer.observed(RunObservation { job_id: quick, state: started });
    for id in [quick, slow] {
        assert_eq!(finalizer.waits.next().await, id);
        finalizer.waits_yet(id);
    }
    finalizer.tasks.close();
    tokio::time::timeout(SOON, finalizer.tasks.wait()).await.unwrap();
    assert_eq!(bench.stands(quick).await, (JobStatus::Running, None));
    assert_eq!(bench.stands(slow).await, (JobStatus::Accepted, Some("waiting: no node has room".to_owned())));
}

#[tokio::test]
async fn a_run_that_cannot_be_stopped_does_not_keep_others_running() {
    let bench = Bench::open(Settings::default()).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = bench.accepted().await.id;
        bench.fail(id).await;
        ids.push(id);
    }
    bench.runs.cancels_that_fail.store(1, Ordering::Relaxed);
    bench.jobs.stop_strays(&ids).await.unwrap();
    assert_eq!(bench.runs.cancelled.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn what_takes_long_gives_its_quick_place_back() {
    let places = Places::patient(1, Duration::from_millis(10));
    let endless = || {
        places.run(Attempt::First, |place, _| async move {
            let _place = place;
            std::future::pending::<()>().await;
        })
    };
    let first = endless();
    tokio::pin!(first);
    // The first one goes on in the only other place, so that the second one has to come again.
    tokio::select! {
        biased;
        _ = &mut first => panic!("it does not end"),
        second = endless() => assert_eq!(second, Some(Err(Attempt::Again))),
    }
    assert_eq!(places.run(Attempt::First, |_place, _| async { 1 }).await, Some(Ok(1)));
    // One that needs no place any more is not held up for the lack of one.
    let slow = |place, _| async move {
        drop(place);
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    tokio::select! {
        biased;
        _ = &mut first => panic!("it does not end"),
        done = places.run(Attempt::First, slow) => assert_eq!(done, Some(Ok(()))),
    }
}

#[tokio::test]
async fn what_has_failed_has_places_of_its_own() {
    let places = Places::patient(1, SOON);
    let failed = places.run(Attempt::Again, |place, _| async move {
        let _place = place;
        std::future::pending::<()>().await;
    });
    tokio::select! {
        biased;
        _ = failed => panic!("it does not end"),
        done = places.run(Attempt::First, |_place, _| async { 1 }) => assert_eq!(done, Some(Ok(1))),
    }
}
