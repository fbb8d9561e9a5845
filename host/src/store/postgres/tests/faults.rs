//! A server that is down, gone, restarted, busy, full of locks or read-only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::broadcast::error::TryRecvError;

use super::fixture::{Database, Line, open, settings, until};
use crate::core::JobStatus::{Dismissed, Running, Successful};
use crate::core::job::Inserted;
use crate::store::contract::fixture::{at, job, record, to};
use crate::store::postgres::{PostgresStore, Settings};
use crate::store::{JobStore, StoreError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_down_is_used_again() {
    let Some(database) = Database::create().await else { return };
    let proxy = database.proxy().await;
    let store = PostgresStore::open(&database.url_by(proxy.address), &settings()).await.unwrap();
    let other = database.open().await;
    let before = job("hello", "ann", 1_000);
    store.insert(before.clone()).await.unwrap();
    let mut changes = store.changes();
    proxy.set(Line::Cut);
    let refused = store.insert(job("hello", "ann", 1_000)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_) | StoreError::Unconfirmed(_))), "{refused:?}");
    assert!(matches!(store.ready().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.job(before.id).await, Err(StoreError::Unavailable(_))));
    // Nobody tells the store that is cut off.
    other.transition(to(before.id, Running, 2_000)).await.unwrap();
    proxy.set(Line::Open);
    store.ready().await.unwrap();
    assert_eq!(store.job(before.id).await.unwrap().unwrap().status, Running);
    assert_eq!(store.finish(record(before.id, Successful, vec![])).await.unwrap().unwrap().status, Successful);
    // Who waits for notices learns that some are missing.
    let mut is_lagging = false;
    until("a receiver sees that it lags", || {
        loop {
            match changes.try_recv() {
                Ok(_) => {}
                Err(TryRecvError::Lagged(_)) => is_lagging = true,
                Err(_) => break,
            }
        }
        std::future::ready(is_lagging)
    })
    .await;
    let new = job("hello", "ann", 1_000);
    other.insert(new.clone()).await.unwrap();
    until("notices come again", || std::future::ready(matches!(changes.try_recv(), Ok(id) if id == new.id))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_the_server_ended_are_replaced_unseen() {
    let Some((store, database)) = open().await else { return };
    let first = job("hello", "ann", 1_000);
    store.insert(first.clone()).await.unwrap();
    for _ in 0..5 {
        database
            .execute(
                "select pg_terminate_backend(pid) from pg_stat_activity \
                      where datname = current_database() and pid <> pg_backend_pid()",
            )
            .await;
        store.insert(job("hello", "ann", 1_000)).await.unwrap();
        assert!(store.job(first.id).await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_network_ends_at_the_deadline() {
    let Some(database) = Database::create().await else { return };
    let proxy = database.proxy().await;
    let settings = Settings { connections: 2, deadline_ms: 1_000, ..settings() };
    let store = PostgresStore::open(&database.url_by(proxy.address), &settings).await.unwrap();
    store.insert(job("hello", "ann", 1_000)).await.unwrap();
    proxy.set(Line::Silent);
    for _ in 0..4 {
        let began = Instant::now();
        assert!(matches!(store.insert(job("hello", "ann", 1)).await, Err(StoreError::Timeout(1))));
        assert!(began.elapsed() < Duration::from_secs(3));
    }
    proxy.set(Line::Open);
    // Connections that hung are not used again, and none was lost.
    for _ in 0..4 {
        store.insert(job("hello", "ann", 1_000)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_and_a_full_queue_are_told() {
    let Some(database) = Database::create().await else { return };
    let settings = Settings {
        connections: 4,
        queue: 3,
        acquire_timeout_ms: 200,
        statement_timeout_ms: 6_000,
        deadline_ms: 20_000,
        ..settings()
    };
    let store = PostgresStore::open(&database.url(), &settings).await.unwrap();
    let mut other = database.connect().await;
    sqlx::raw_sql("begin; lock table jobs in access exclusive mode").execute(&mut other).await.unwrap();
    // Four groups are under way, three jobs wait for the next one, no more find room.
    let mut stuck = Vec::new();
    for number in 1..=4 {
        let store = Arc::clone(&store);
        stuck.push(tokio::spawn(async move { store.insert(job("hello", "ann", 1)).await }));
        let locked = "select (count(*))::text from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        until("a group to wait for the lock", async || database.rows(locked).await == [[number.to_string()]]).await;
    }
    let many = futures::future::join_all((0..10).map(|_| store.insert(job("hello", "ann", 1)))).await;
    assert!(many.iter().all(|got| matches!(got, Err(StoreError::Overloaded))), "{many:?}");
    for stuck in futures::future::join_all(stuck).await {
        assert!(matches!(stuck, Ok(Err(StoreError::Timeout(6)))), "{stuck:?}");
    }
    sqlx::raw_sql("rollback").execute(&mut other).await.unwrap();
    store.insert(job("hello", "ann", 1)).await.unwrap();
    store.ready().await.unwrap();
    let kept = database.rows("select count(*)::text from jobs").await;
    assert_eq!(kept, [["1"]], "what was refused is not written behind its caller's back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_cannot_take_fails_alone() {
    let Some((store, database)) = open().await else { return };
    let jobs = (0..40).map(|number| job("hello", if number % 8 == 0 { "a\0b" } else { "ann" }, 1_000));
    let inserted = futures::future::join_all(jobs.map(|job| store.insert(job))).await;
    for (number, inserted) in inserted.iter().enumerate() {
        match number % 8 {
            0 => assert!(matches!(inserted, Err(StoreError::Statement(_))), "{number}: {inserted:?}"),
            _ => assert!(matches!(inserted, Ok(Inserted::New)), "{number}: {inserted:?}"),
        }
    }
    let kept = database.rows("select (select count(*) from jobs)::text, (select count(*) from job_events)::text").await;
    assert_eq!(kept, [["35", "35"]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_for_another_answers_the_job_as_that_left_it() {
    let Some((store, database)) = open().await else { return };
    let new = job("hello", "ann", 1_000);
    let id = new.id;
    store.insert(new).await.unwrap();
    let mut other = database.connect().await;
    let dismiss = format!("begin; update jobs set status = 'dismissed', finished = 2000 where id = '{id}'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(dismiss)).execute(&mut other).await.unwrap();
    let waiting = tokio::spawn(async move { store.wait(id, Some("waiting: quota".to_owned()), at(1_500)).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    sqlx::raw_sql("commit").execute(&mut other).await.unwrap();
    let answered = waiting.await.unwrap().unwrap().unwrap();
    assert_eq!((answered.status, answered.message), (Dismissed, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_unavailable_until_it_is_not() {
    let Some((store, database)) = open().await else { return };
    let read_only = |on: &str| {
        format!(
            "alter database \"{}\" set default_transaction_read_only = {on}",
            database.url().rsplit('/').next().unwrap()
        )
    };
    database.execute(&read_only("on")).await;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    database.execute(end).await;
    let refused = store.insert(job("hello", "ann", 1)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(matches!(store.ready().await, Err(StoreError::Unavailable(_))));
    database.execute(&format!("begin read write; {}; commit", read_only("off"))).await;
    store.insert(job("hello", "ann", 1)).await.unwrap();
    store.ready().await.unwrap();
}

#[tokio::test]
async fn a_wrong_address_password_or_database_is_told() {
    let Some(database) = Database::create().await else { return };
    let url = database.url();
    for wrong in [
        "postgres://user@127.0.0.1:1/nowhere".to_owned(),
        "no address".to_owned(),
        url.replace("/test_", "/none_"),
        url.replacen(':', ":wrong", 2).replacen(":wrong", ":", 1),
    ] {
        let refused = PostgresStore::open(&wrong, &settings()).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{wrong}: {:?}", refused.err());
    }
}

#[tokio::test]
async fn what_was_shut_down_refuses() {
    let Some((store, _database)) = open().await else { return };
    store.insert(job("hello", "ann", 1)).await.unwrap();
    store.shutdown().await;
    store.shutdown().await;
    let refused = store.insert(job("hello", "ann", 1)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
}
