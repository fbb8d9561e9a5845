//! From acceptance to the end: insertion, idempotency, races of transitions, reports, claims, repair's pages, notification.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;

use super::fixture::{at, job, keyed, record, to};
use crate::core::JobStatus::{Accepted, Dismissed, Failed, Running, Successful};
use crate::core::job::{Inserted, Transition};
use crate::core::{EndReason, JobId, NewJob};
use crate::store::JobStore;

/// A claim that does not run out while it is looked at.
const LONG: Duration = Duration::from_secs(60);

pub(in crate::store) async fn everything_is_read_back(store: &dyn JobStore) {
    let new = NewJob { relaunchable: false, nonce: None, ..job("hello", "ann", 1_234) };
    assert_eq!(store.insert(new.clone()).await.unwrap(), Inserted::New);
    let detail = store.detail(new.id).await.unwrap().unwrap();
    assert_eq!(store.job(new.id).await.unwrap().unwrap(), detail.job);
    let seen = &detail.job;
    assert_eq!(
        (seen.id, &seen.process_id, seen.status, &seen.caller),
        (new.id, &new.process_id, Accepted, &new.caller)
    );
    assert_eq!((seen.created, seen.updated), (at(1_234), at(1_234)));
    assert_eq!(
        (seen.started, seen.finished, seen.removed, seen.progress, &seen.message),
        (None, None, None, None, &None)
    );
    assert_eq!((detail.process_version, detail.processor_digest), (new.process_version, new.processor_digest));
    assert_eq!((detail.request, detail.plan), (new.request, new.plan));
    assert_eq!((detail.nonce, detail.relaunchable), (None, false));
    assert_eq!((detail.reason, detail.exit_code, detail.receipt), (None, None, None));
    assert_eq!(store.outputs(new.id).await.unwrap(), []);
}

pub(in crate::store) async fn the_same_insert_again_is_new(store: &dyn JobStore) {
    let new = keyed("ann", "hello", "k", "sha");
    assert_eq!(store.insert(new.clone()).await.unwrap(), Inserted::New);
    store.transition(to(new.id, Running, 2_000)).await.unwrap();
    assert_eq!(store.insert(new.clone()).await.unwrap(), Inserted::New, "a repeated call");
    assert_eq!(store.job(new.id).await.unwrap().unwrap().status, Running);
}

pub(in crate::store) async fn one_job_for_one_key(store: &dyn JobStore) {
    let first = keyed("ann", "hello", "k", "sha");
    assert_eq!(store.insert(first.clone()).await.unwrap(), Inserted::New);
    let again = keyed("ann", "hello", "k", "sha");
    let Inserted::Existing(existing) = store.insert(again.clone()).await.unwrap() else { panic!("not existing") };
    assert_eq!(existing.id, first.id);
    assert_eq!(store.insert(keyed("ann", "hello", "k", "other")).await.unwrap(), Inserted::KeyReused);
    assert_eq!(store.job(again.id).await.unwrap(), None, "nothing was written");
}

pub(in crate::store) async fn a_key_is_a_callers_and_a_processs(store: &dyn JobStore) {
    for new in [keyed("ann", "hello", "k", "1"), keyed("bob", "hello", "k", "2"), keyed("ann", "echo", "k", "3")] {
        assert_eq!(store.insert(new).await.unwrap(), Inserted::New);
    }
    for _ in 0..2 {
        assert_eq!(store.insert(job("hello", "ann", 1)).await.unwrap(), Inserted::New, "no key, no rule");
    }
}

pub(in crate::store) async fn one_winner_for_one_key(store: &dyn JobStore) {
    let answers = join_all((0..50).map(|_| store.insert(keyed("ann", "hello", "k", "sha")))).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| **answer == Inserted::New).count(), 1);
    let ids: BTreeSet<_> = answers
        .iter()
        .filter_map(|answer| match answer {
            Inserted::Existing(job) => Some(job.id),
            _ => None,
        })
        .collect();
    assert_eq!(ids.len(), 1);
}

pub(in crate::store) async fn a_late_event_cannot_revive(store: &dyn JobStore) {
    let id = accepted(store).await;
    let (running, changed) = store.transition(to(id, Running, 2_000)).await.unwrap().unwrap();
    assert!(changed);
    assert_eq!((running.status, running.started, running.updated), (Running, Some(at(2_000)), at(2_000)));
    assert_eq!(running.message.as_deref(), Some("now running"));
    let (_, changed) = store.transition(to(id, Running, 2_500)).await.unwrap().unwrap();
    assert!(!changed, "once");
    let (dismissed, changed) = store.transition(to(id, Dismissed, 3_000)).await.unwrap().unwrap();
    assert!(changed);
    assert_eq!((dismissed.status, dismissed.finished), (Dismissed, Some(at(3_000))));
    for late in [Accepted, Running, Failed, Dismissed, Successful] {
        let (after, changed) = store.transition(to(id, late, 4_000)).await.unwrap().unwrap();
        assert!(!changed, "{late}");
        assert_eq!(after, dismissed);
    }
    assert_eq!(store.detail(id).await.unwrap().unwrap().reason, Some(EndReason::Cancelled));
}

pub(in crate::store) async fn what_it_waited_for_is_over_when_it_runs(store: &dyn JobStore) {
    let id = accepted(store).await;
    for (message, when) in [(Some("waiting: no node has room"), 1_200), (None, 1_300), (Some("waiting: quota"), 1_500)]
    {
        for when in [when, 1_900] {
            let answered = store.wait(id, message.map(str::to_owned), at(when)).await.unwrap().unwrap();
            assert_eq!(answered, store.job(id).await.unwrap().unwrap());
        }
        let seen = store.job(id).await.unwrap().unwrap();
        assert_eq!((seen.message.as_deref(), seen.updated), (message, at(when)), "told once");
    }
    let (running, _) = store.transition(Transition { message: None, ..to(id, Running, 2_000) }).await.unwrap().unwrap();
    assert_eq!(running.message, None);
    let late = store.wait(id, Some("waiting: the runner is not available".to_owned()), at(2_200)).await.unwrap();
    assert_eq!((late.as_ref(), store.job(id).await.unwrap()), (Some(&running), late.clone()), "said too late");
    assert_eq!(store.wait(JobId::new(), None, at(2_200)).await.unwrap(), None);
    store.report(id, None, Some("half of it".to_owned()), at(2_500)).await.unwrap();
    let (failed, _) = store.transition(Transition { message: None, ..to(id, Failed, 3_000) }).await.unwrap().unwrap();
    assert_eq!(failed.message.as_deref(), Some("half of it"), "what it did last is kept");
}

pub(in crate::store) async fn one_winner_of_many_transitions(store: &dyn JobStore) {
    for round in 0..10 {
        let id = accepted(store).await;
        let race = (0..30).map(|n| store.transition(to(id, [Dismissed, Failed, Running][(n + round) % 3], 2_000)));
        let won: Vec<_> =
            join_all(race).await.into_iter().map(|answer| answer.unwrap().unwrap()).filter(|(_, c)| *c).collect();
        assert_eq!(won.iter().filter(|(job, _)| job.status.is_final()).count(), 1);
        assert!(won.iter().filter(|(job, _)| job.status == Running).count() <= 1);
        let last = store.job(id).await.unwrap().unwrap();
        assert_eq!(&last, &won.last().filter(|(job, _)| job.status.is_final()).unwrap_or(&won[0]).0);
    }
}

pub(in crate::store) async fn reports_reach_open_jobs_only(store: &dyn JobStore) {
    let id = accepted(store).await;
    store.report(id, Some(30), Some("a\u{0}b".to_owned()), at(2_000)).await.unwrap();
    let seen = store.job(id).await.unwrap().unwrap();
    assert_eq!((seen.progress, seen.message.as_deref(), seen.updated), (Some(30), Some("a\u{fffd}b"), at(2_000)));
    store.report(id, Some(40), None, at(3_000)).await.unwrap();
    store.report(id, None, None, at(9_000)).await.unwrap();
    let seen = store.job(id).await.unwrap().unwrap();
    assert_eq!((seen.progress, seen.message.as_deref(), seen.updated), (Some(40), Some("a\u{fffd}b"), at(3_000)));
    store.report(id, None, Some(String::new()), at(3_500)).await.unwrap();
    let seen = store.job(id).await.unwrap().unwrap();
    assert_eq!((seen.progress, seen.message, seen.updated), (Some(40), None, at(3_500)), "nothing is said any more");
    let (ended, _) = store.transition(to(id, Failed, 4_000)).await.unwrap().unwrap();
    store.report(id, Some(50), Some("late".to_owned()), at(5_000)).await.unwrap();
    assert_eq!(store.job(id).await.unwrap().unwrap(), ended);
}

pub(in crate::store) async fn claims_expire(store: &dyn JobStore) {
    let id = accepted(store).await;
    assert!(store.claim(id, "a", LONG).await.unwrap());
    assert!(!store.claim(id, "b", LONG).await.unwrap());
    assert!(store.claim(id, "a", Duration::ZERO).await.unwrap(), "its owner again, and it ends at once");
    assert!(store.claim(id, "b", LONG).await.unwrap(), "expired");
    store.unclaim(id, "a").await.unwrap();
    assert!(!store.claim(id, "a", LONG).await.unwrap(), "a gave up what it no longer had");
    store.unclaim(id, "b").await.unwrap();
    let race = join_all((0..20).map(|n| async move { store.claim(id, &format!("w{n}"), LONG).await })).await;
    assert_eq!(race.into_iter().filter(|won| *won.as_ref().unwrap()).count(), 1);
    assert!(!store.claim(JobId::new(), "a", LONG).await.unwrap(), "unknown");
}

pub(in crate::store) async fn unfinished_jobs_come_in_pages(store: &dyn JobStore) {
    let mut want = Vec::new();
    for n in 0..25 {
        let id = accepted(store).await;
        match n % 5 {
            0 => drop(store.finish(record(id, Successful, Vec::new())).await.unwrap()),
            1 => drop(store.transition(to(id, Dismissed, 2_000)).await.unwrap()),
            2 => want.push((id, store.transition(to(id, Running, 2_000)).await.unwrap().unwrap().0.status)),
            3 => store.report(id, Some(1), None, at(10_000)).await.unwrap(),
            _ => want.push((id, Accepted)),
        }
    }
    want.sort_unstable_by_key(|(id, _)| *id);
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.unfinished(at(10_000), after, 4).await.unwrap();
        assert!(page.len() <= 4);
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(page.iter().map(|job| (job.id, job.status)));
    }
    assert_eq!(seen, want);
    let all = store.unfinished(at(10_001), None, 100).await.unwrap();
    assert!(all.iter().all(|job| job.runner == "local"));
    assert_eq!(all.len(), want.len() + 5, "updated at 10,000 is before 10,001");
    assert!(all.iter().all(|job| job.created == at(1_000)));
}

pub(in crate::store) async fn changes_are_told_after_the_commit(store: &dyn JobStore) {
    let mut changes = store.changes();
    let id = accepted(store).await;
    store.transition(to(id, Running, 2_000)).await.unwrap();
    store.transition(to(id, Running, 2_000)).await.unwrap();
    store.report(id, Some(5), None, at(3_000)).await.unwrap();
    store.finish(record(id, Successful, Vec::new())).await.unwrap();
    store.finish(record(id, Successful, Vec::new())).await.unwrap();
    store.remove(id, at(9_000)).await.unwrap();
    let mut told = 0;
    while let Ok(changed) = changes.try_recv() {
        assert_eq!(changed, id);
        told += 1;
    }
    assert_eq!(told, 5, "inserted, running, reported, finished, removed");
}

pub(in crate::store) async fn many_writers_lose_nothing(store: &dyn JobStore) {
    let lives = (0..200_usize).map(|n| async move {
        let new = job(["a", "b", "c"][n % 3], "ann", 1_000);
        let id = new.id;
        store.insert(new).await.unwrap();
        store.transition(to(id, Running, 2_000)).await.unwrap();
        if n % 10 == 0 {
            store.transition(to(id, Dismissed, 3_000)).await.unwrap();
        }
        let status = if n % 7 == 0 { Failed } else { Successful };
        store.finish(record(id, status, Vec::new())).await.unwrap();
        (id, if n % 10 == 0 { Dismissed } else { status })
    });
    let lived = join_all(lives).await;
    for (id, status) in &lived {
        assert_eq!(store.job(*id).await.unwrap().unwrap().status, *status);
    }
    let ids: Vec<_> = lived.iter().map(|(id, _)| *id).collect();
    assert_eq!(store.finalized(&ids).await.unwrap().len(), 200);
    assert_eq!(store.unfinished(at(i64::MAX), None, 1_000).await.unwrap(), []);
}

/// A job that was accepted at 1,000.
pub(super) async fn accepted(store: &dyn JobStore) -> JobId {
    let new = job("hello", "ann", 1_000);
    let id = new.id;
    assert_eq!(store.insert(new).await.unwrap(), Inserted::New);
    id
}
