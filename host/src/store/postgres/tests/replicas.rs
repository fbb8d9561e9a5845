//! Several replicas on one database.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use super::fixture::{Database, open, settings};
use crate::core::JobStatus::{Dismissed, Running, Successful};
use crate::core::NewJob;
use crate::core::job::{Idempotency, Inserted};
use crate::store::contract::fixture::{archived, at, inline, job, record, to};
use crate::store::postgres::PostgresStore;
use crate::store::{JobStore, StoreError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_start_together_and_migrate_once() {
    let Some(database) = Database::create().await else { return };
    let url = database.url();
    let settings = settings();
    let stores = join_all((0..8).map(|_| PostgresStore::open(&url, &settings))).await;
    for store in stores {
        store.unwrap().insert(job("hello", "ann", 1)).await.unwrap();
    }
    let applied = database.rows("select version::text, success::text from _sqlx_migrations").await;
    assert_eq!(applied, [["1", "true"]]);
}

#[tokio::test]
async fn a_schema_from_the_future_is_refused() {
    let Some((store, database)) = open().await else { return };
    store.shutdown().await;
    let newer = "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
                 values (9999, 'later', true, '', 0)";
    database.execute(newer).await;
    let refused = PostgresStore::open(&database.url(), &settings()).await;
    assert!(matches!(refused, Err(StoreError::Migration(_))), "{:?}", refused.err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_hears_what_the_others_commit() {
    let Some((store, database)) = open().await else { return };
    let other = database.open().await;
    let (mut here, mut there) = (store.changes(), other.changes());
    let jobs: Vec<_> = (0..500).map(|_| job("hello", "ann", 1_000)).collect();
    join_all(jobs.iter().map(|job| store.insert(job.clone()))).await;
    let want: BTreeSet<_> = jobs.iter().map(|job| job.id).collect();
    let mut heard = BTreeSet::new();
    while heard.len() < want.len() {
        heard.insert(timeout(Duration::from_secs(10), there.recv()).await.unwrap().unwrap());
    }
    assert_eq!(heard, want);
    // What the other one says comes behind all of its own that the server would send back: each was told once.
    let last = other.transition(to(jobs[0].id, Running, 2_000)).await.unwrap().unwrap().0.id;
    let mut told = Vec::new();
    while told.len() <= want.len() {
        told.push(timeout(Duration::from_secs(10), here.recv()).await.unwrap().unwrap());
    }
    assert_eq!(told.last(), Some(&last));
    assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), want);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_come_together_share_commits() {
    let Some((store, database)) = open().await else { return };
    let other = database.open().await;
    // Each key twice, and on two replicas: of those, one is new.
    let jobs = (0..400).map(|number| {
        let key = Idempotency { key: format!("key-{}", number / 2), request_sha256: "same".to_owned() };
        (if number % 2 == 0 { &store } else { &other }, NewJob { idempotency: Some(key), ..job("hello", "ann", 1_000) })
    });
    let inserted = join_all(jobs.map(|(store, job)| store.insert(job))).await;
    for pair in inserted.chunks(2) {
        let is_new = |one: &Result<Inserted, _>| matches!(one, Ok(Inserted::New));
        let is_known = |one: &Result<Inserted, _>| matches!(one, Ok(Inserted::Existing(_)));
        assert_eq!(
            (pair.iter().filter(|one| is_new(one)).count(), pair.iter().filter(|one| is_known(one)).count()),
            (1, 1)
        );
    }
    let kept = database.rows("select count(*)::text, (count(distinct xmin::text) <= 100)::text from jobs").await;
    assert_eq!(kept, [["200", "true"]], "rows, and whether they were committed together");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_them_wins() {
    let Some((store, database)) = open().await else { return };
    let other = database.open().await;
    for _ in 0..20 {
        let new = job("hello", "ann", 1_000);
        store.insert(new.clone()).await.unwrap();
        let stores = [&store, &other];
        let claims = join_all((0..10).map(|n| {
            let store = stores[n % 2];
            async move { store.claim(new.id, &format!("w{n}"), Duration::from_secs(60)).await.unwrap() }
        }))
        .await;
        assert_eq!(claims.iter().filter(|won| **won).count(), 1);
        let ends = join_all((0..10).map(|n| stores[n % 2].transition(to(new.id, Dismissed, 2_000)))).await;
        let changed: Vec<_> = ends.into_iter().map(|answer| answer.unwrap().unwrap()).collect();
        assert_eq!(changed.iter().filter(|(_, changed)| *changed).count(), 1);
        assert!(changed.iter().all(|(job, _)| job.status == Dismissed), "nobody answers the row from before");
        let records =
            join_all((0..10).map(|n| stores[n % 2].finish(record(new.id, Successful, vec![inline("a", b"1")])))).await;
        assert!(records.into_iter().all(|answer| answer.unwrap().unwrap().status == Dismissed));
        assert_eq!(store.outputs(new.id).await.unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_and_a_removal_at_once_lose_no_key() {
    let Some((store, database)) = open().await else { return };
    for round in 0..60 {
        let new = job("hello", "ann", 1_000);
        store.insert(new.clone()).await.unwrap();
        store.transition(to(new.id, Dismissed, 2_000)).await.unwrap();
        let key = format!("results/{round}");
        let record = store.finish(record(new.id, Successful, vec![archived("a", &key), inline("b", b"2")]));
        let (recorded, removed) = tokio::join!(record, store.remove(new.id, at(3_000)));
        recorded.unwrap();
        removed.unwrap();
        assert!(store.outputs(new.id).await.unwrap().is_empty(), "removed is removed");
        let keys = store.remove(new.id, at(4_000)).await.unwrap().unwrap();
        assert_eq!(keys, [key, format!("logs/{}", new.id)]);
    }
    assert_eq!(database.rows("select count(*)::text from job_outputs").await, [["0"]]);
}
