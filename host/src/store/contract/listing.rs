//! The job list against a plain filter over all rows, whatever the filter and the page.

use std::collections::BTreeSet;
use std::time::Duration;

use super::fixture::{Dice, at, job, record, to};
use crate::core::JobStatus::{Accepted, Dismissed, Failed, Running, Successful};
use crate::core::{ExitState, FinalRecord, Job, JobFilter, JobId, JobStatus, Timestamp};
use crate::store::JobStore;

const PROCESSES: [&str; 4] = ["hello", "echo", "a.b_c", "z"];
const CALLERS: [&str; 3] = ["ann", "bob", "anonymous"];
/// Durations are multiples of this many seconds; those of running jobs lie half-way between, far from a boundary.
const STEP: i64 = 1_000;

/// Jobs in every state, created within a short time so that many share a millisecond.
async fn fill(store: &dyn JobStore, count: usize, dice: &mut Dice) -> Vec<Job> {
    let now = Timestamp::now().as_millis();
    let mut jobs = Vec::new();
    for _ in 0..count {
        let created = now - 10_000_000 + dice.below(60) as i64;
        let new = job(PROCESSES[dice.below(4)], CALLERS[dice.below(3)], created);
        let id = new.id;
        store.insert(new).await.unwrap();
        let status = JobStatus::ALL[dice.below(5)];
        let lasted = dice.below(5) as i64 * STEP * 1_000;
        if status == Running {
            let started = now - lasted - STEP * 500;
            store.transition(to(id, Running, started)).await.unwrap();
        } else if status.is_final() {
            if !dice.one_in(4) {
                store.transition(to(id, Running, created + 5)).await.unwrap();
            }
            let end = created + 5 + lasted;
            if status == Dismissed {
                store.transition(to(id, Dismissed, end)).await.unwrap();
            } else {
                let full = record(id, status, Vec::new());
                // Some ended before anyone saw them run: they have no start.
                let exit = full.exit.clone().map(|exit| ExitState { started: None, ..exit });
                store.finish(FinalRecord { exit, finished: at(end), ..full }).await.unwrap();
            }
            if dice.one_in(6) {
                store.remove(id, at(end + 1)).await.unwrap();
            }
        }
        jobs.push(store.job(id).await.unwrap().unwrap());
    }
    jobs
}

/// What the list must hold.
fn oracle(jobs: &[Job], filter: &JobFilter) -> Vec<JobId> {
    let now = Timestamp::now();
    let lasted = |job: &Job| match (job.status, job.started, job.finished) {
        (Running, Some(started), _) => Some(now.millis_since(started)),
        (_, Some(started), Some(finished)) => Some(finished.millis_since(started)),
        _ => None,
    };
    let mut found: Vec<_> = jobs
        .iter()
        .filter(|job| job.removed.is_none())
        .filter(|job| filter.process_ids.is_empty() || filter.process_ids.contains(&job.process_id))
        .filter(|job| filter.statuses.is_empty() || filter.statuses.contains(&job.status))
        .filter(|job| filter.created.as_ref().is_none_or(|range| range.contains(&job.created)))
        .filter(|job| filter.caller.as_ref().is_none_or(|caller| *caller == job.caller))
        .filter(|job| {
            let min = filter.min_duration_seconds.map(|seconds| seconds as i64 * 1_000);
            let max = filter.max_duration_seconds.map(|seconds| seconds as i64 * 1_000);
            if min.is_none() && max.is_none() {
                return true;
            }
            lasted(job).is_some_and(|millis| min.is_none_or(|min| millis >= min) && max.is_none_or(|max| millis <= max))
        })
        .map(|job| (job.created, job.id))
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, id)| id).collect()
}

fn any_filter(jobs: &[Job], dice: &mut Dice) -> JobFilter {
    let mut filter = JobFilter::default();
    if dice.one_in(2) {
        filter.process_ids = (0..=dice.below(3)).map(|_| PROCESSES[dice.below(4)].parse().unwrap()).collect();
    }
    if dice.one_in(2) {
        filter.statuses = (0..=dice.below(3)).map(|_| JobStatus::ALL[dice.below(5)]).collect();
    }
    if dice.one_in(3) {
        filter.caller = Some(CALLERS[dice.below(3)].to_owned());
    }
    if dice.one_in(3) {
        let (a, b) = (jobs[dice.below(jobs.len())].created, jobs[dice.below(jobs.len())].created);
        filter.created = Some(if dice.one_in(8) { b..=a } else { a.min(b)..=a.max(b) });
    }
    if dice.one_in(3) {
        filter.min_duration_seconds = Some(dice.below(5) as u64 * STEP as u64);
    }
    if dice.one_in(3) {
        filter.max_duration_seconds = Some(dice.below(5) as u64 * STEP as u64);
    }
    filter
}

/// All pages of a list.
async fn read_all(store: &dyn JobStore, filter: &JobFilter, limit: u32) -> Vec<Job> {
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.list(filter, after, limit).await.unwrap();
        assert!(page.jobs.len() <= limit as usize);
        seen.extend(page.jobs);
        assert!(page.next.is_none() || page.next != after, "the list goes on");
        after = page.next;
        if after.is_none() {
            return seen;
        }
    }
}

pub(in crate::store) async fn any_filter_lists_what_it_must(store: &dyn JobStore) {
    let mut dice = Dice(0x5eed_0001);
    let jobs = fill(store, 300, &mut dice).await;
    let mut matched = 0;
    for round in 0..150 {
        let filter = any_filter(&jobs, &mut dice);
        let limit = [1, 3, 10, 50, 299, 1_000][dice.below(6)];
        let seen = read_all(store, &filter, limit).await;
        let ids: Vec<_> = seen.iter().map(|job| job.id).collect();
        assert_eq!(ids, oracle(&jobs, &filter), "round {round}: {filter:?} by {limit}");
        assert!(seen.iter().all(|job| jobs.contains(job)), "rows as they were read one by one");
        matched += ids.len();
    }
    assert!(matched > 1_000, "the filters match something: {matched}");
}

pub(in crate::store) async fn many_processes_are_listed(store: &dyn JobStore) {
    let mut jobs = Vec::new();
    for n in 0..60 {
        let new = job(&format!("p{n}"), CALLERS[n % 3], 1_000 + (n % 7) as i64);
        let id = new.id;
        store.insert(new).await.unwrap();
        if n % 2 == 0 {
            store.transition(to(id, Running, 2_000)).await.unwrap();
        }
        jobs.push(store.job(id).await.unwrap().unwrap());
    }
    for (count, caller) in [(15, None), (50, None), (50, Some("ann")), (20, Some("bob"))] {
        let mut filter = JobFilter { caller: caller.map(str::to_owned), ..JobFilter::default() };
        filter.process_ids = (0..count).map(|n| format!("p{n}").parse().unwrap()).collect();
        for statuses in [vec![], vec![Running, Running], vec![Accepted, Failed]] {
            filter.statuses = statuses;
            let ids: Vec<_> = read_all(store, &filter, 9).await.iter().map(|job| job.id).collect();
            assert_eq!(ids, oracle(&jobs, &filter), "{filter:?}");
        }
    }
}

pub(in crate::store) async fn pages_stand_still_while_rows_come(store: &dyn JobStore) {
    let mut dice = Dice(0x5eed_0002);
    let jobs = fill(store, 120, &mut dice).await;
    for filter in [
        JobFilter::default(),
        JobFilter { caller: Some("ann".to_owned()), ..JobFilter::default() },
        JobFilter { min_duration_seconds: Some(0), ..JobFilter::default() },
    ] {
        let want = oracle(&jobs, &filter);
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = store.list(&filter, after, 7).await.unwrap();
            seen.extend(page.jobs.iter().map(|job| job.id));
            after = page.next;
            if after.is_none() {
                break;
            }
            let newer = job(PROCESSES[dice.below(4)], "ann", Timestamp::now().as_millis());
            store.insert(newer).await.unwrap();
        }
        let known: BTreeSet<_> = want.iter().copied().collect();
        seen.retain(|id| known.contains(id));
        assert_eq!(seen, want, "each once, in order: {filter:?}");
    }
}

pub(in crate::store) async fn nothing_outside_is_listed(store: &dyn JobStore) {
    let empty = store.list(&JobFilter::default(), None, 10).await.unwrap();
    assert!(empty.jobs.is_empty() && empty.next.is_none());
    let mut dice = Dice(0x5eed_0003);
    fill(store, 20, &mut dice).await;
    let later = Timestamp::now() + Duration::from_secs(60);
    for filter in [
        JobFilter { process_ids: vec!["unknown".parse().unwrap()], ..JobFilter::default() },
        JobFilter { caller: Some("' or 1 = 1 --".to_owned()), ..JobFilter::default() },
        JobFilter { created: Some(later..=at(i64::MAX)), ..JobFilter::default() },
        JobFilter { statuses: vec![Accepted], min_duration_seconds: Some(0), ..JobFilter::default() },
        JobFilter { statuses: vec![Successful], min_duration_seconds: Some(u64::MAX), ..JobFilter::default() },
        JobFilter { min_duration_seconds: Some(9), max_duration_seconds: Some(8), ..JobFilter::default() },
    ] {
        let page = store.list(&filter, None, 10).await.unwrap();
        assert!(page.jobs.is_empty() && page.next.is_none(), "{filter:?}: {page:?}");
    }
}
