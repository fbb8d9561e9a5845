//! Tests of the SQLite store.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row};
use tempfile::TempDir;

use super::*;
use crate::core::JobStatus::{self, Running, Successful};
use crate::store::contract::fixture::{at, inline, job, record, to};
use crate::store::contract::{contract, history};
use crate::store::list::{Dialect, Plan};

async fn open() -> (Arc<SqliteStore>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("jobs.sqlite"), &Settings::default()).await.unwrap();
    (store, folder)
}

contract!(open);

struct RecordedLongAgo(JobId);

#[async_trait]
impl Work for RecordedLongAgo {
    type Answer = u64;

    async fn apply(&self, connection: &mut SqliteConnection, _: &mut Vec<JobId>) -> Result<u64, StoreError> {
        let update = sqlx::query("update jobs set recorded = 1 where id = ? and recorded is not null");
        let done = update.bind(self.0.to_string()).execute(connection).await;
        Ok(done.map_err(classify)?.rows_affected())
    }
}

impl SqliteStore {
    /// Puts the time at which a job's record was written back to the beginning of 1970.
    pub(crate) async fn recorded_long_ago(&self, id: JobId) {
        assert_eq!(self.writer.submit(RecordedLongAgo(id)).await.unwrap(), 1, "it has a record");
    }
}

/// A statement of a test, on the writer's connection.
struct Raw(&'static str);

#[async_trait]
impl Work for Raw {
    type Answer = ();

    async fn apply(&self, connection: &mut SqliteConnection, _changed: &mut Vec<JobId>) -> Result<(), StoreError> {
        sqlx::query(self.0).fetch_all(connection).await.map_err(classify)?;
        Ok(())
    }
}

async fn rows(store: &SqliteStore, sql: &'static str) -> Vec<Vec<String>> {
    let found = sqlx::query(sql).fetch_all(&mut *store.reader().await.unwrap()).await.unwrap();
    let text =
        |row: &sqlx::sqlite::SqliteRow, index| row.get::<Option<String>, _>(index).unwrap_or_else(|| "-".to_owned());
    found.iter().map(|row| (0..row.len()).map(|index| text(row, index)).collect()).collect()
}

#[tokio::test]
async fn everything_is_there_after_it_was_opened_again() {
    let (store, folder) = open().await;
    let path = folder.path().join("jobs.sqlite");
    let new = job("hello", "ann", 1_000);
    store.insert(new.clone()).await.unwrap();
    drop(store);
    let store = SqliteStore::open(&path, &Settings::default()).await.unwrap();
    store.transition(to(new.id, Running, 2_000)).await.unwrap();
    store.shutdown().await;
    assert!(!folder.path().join("jobs.sqlite-wal").exists(), "the file alone is the database");
    let refused = store.insert(job("hello", "ann", 1_000)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    store.shutdown().await;
    let store = SqliteStore::open(&path, &Settings::default()).await.unwrap();
    assert_eq!(store.job(new.id).await.unwrap().unwrap().status, Running);
}

#[tokio::test]
async fn what_waits_is_written_before_it_closes() {
    let (store, folder) = open().await;
    let jobs: Vec<_> = (0..300).map(|_| job("hello", "ann", 1_000)).collect();
    let waiting: Vec<_> = jobs
        .iter()
        .cloned()
        .map(|job| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.insert(job).await })
        })
        .collect();
    tokio::task::yield_now().await;
    store.shutdown().await;
    let again = SqliteStore::open(&folder.path().join("jobs.sqlite"), &Settings::default()).await.unwrap();
    for (job, answer) in jobs.iter().zip(waiting) {
        let written = answer.await.unwrap().is_ok();
        assert_eq!(again.job(job.id).await.unwrap().is_some(), written, "answered is written, refused is not");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (store, folder) = open().await;
    store.insert(job("hello", "ann", 1)).await.unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
    }
}

#[cfg(unix)]
#[tokio::test]
async fn readers_map_nothing_unless_they_are_told_to() {
    for (mapped_mib, bytes) in [(Settings::default().mapped_mib, 0), (64, 64 << 20)] {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { mapped_mib, ..Settings::default() };
        let store = SqliteStore::open(&folder.path().join("jobs.sqlite"), &settings).await.unwrap();
        let mut reader = store.reader().await.unwrap();
        let mapped = sqlx::query_scalar::<_, i64>("pragma mmap_size").fetch_one(&mut *reader).await.unwrap();
        assert_eq!(mapped, bytes);
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_unavailable() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o500)).unwrap();
    // Root may write anywhere but in here.
    let is_root = rustix::process::geteuid().is_root();
    let path = if is_root { Path::new("/proc/jobs.sqlite").to_owned() } else { folder.path().join("jobs.sqlite") };
    for path in [path, folder.path().to_owned()] {
        let refused = SqliteStore::open(&path, &Settings::default()).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{:?}", refused.err());
    }
}

#[tokio::test]
async fn a_schema_from_the_future_is_refused() {
    let (store, folder) = open().await;
    let newer = "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
                 values (9999, 'later', true, x'00', 0)";
    store.write(Raw(newer)).await.unwrap();
    store.shutdown().await;
    let refused = SqliteStore::open(&folder.path().join("jobs.sqlite"), &Settings::default()).await;
    assert!(matches!(refused, Err(StoreError::Migration(_))), "{:?}", refused.err());
}

#[tokio::test]
async fn a_full_disk_is_told_and_gotten_over() {
    let (store, _folder) = open().await;
    let before = job("hello", "ann", 1_000);
    store.insert(before.clone()).await.unwrap();
    store.write(Raw("pragma max_page_count = 1")).await.unwrap();
    let mut full = 0;
    for _ in 0..200 {
        match store.insert(job("hello", "ann", 1_000)).await {
            Ok(_) => assert_eq!(full, 0, "once full, it stays full"),
            Err(StoreError::Unavailable(_)) => full += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(full > 0);
    assert!(matches!(store.ready().await, Err(StoreError::Unavailable(_))));
    let large = store.finish(record(before.id, Successful, vec![inline("a", &[7; 300_000])])).await;
    assert!(matches!(large, Err(StoreError::Unavailable(_))), "{large:?}");
    let seen = store.job(before.id).await.unwrap().unwrap();
    assert_eq!(seen.status, JobStatus::Accepted, "nothing of the record was written");
    store.write(Raw("pragma max_page_count = 1000000")).await.unwrap();
    store.ready().await.unwrap();
    store.insert(job("hello", "ann", 1_000)).await.unwrap();
    let done = store.finish(record(before.id, Successful, vec![inline("a", &[7; 300_000])])).await.unwrap().unwrap();
    assert_eq!(done.status, Successful);
    assert_eq!(rows(&store, "pragma integrity_check").await, [["ok"]]);
}

#[tokio::test]
async fn one_bad_write_does_not_undo_its_group() {
    let (store, _folder) = open().await;
    let jobs: Vec<_> = (0..20).map(|_| job("hello", "ann", 1_000)).collect();
    // Queued together, before the writer's task has a chance to run.
    let good = futures::future::join_all(jobs.iter().map(|job| store.insert(job.clone())));
    let (bad, good) = tokio::join!(store.write(Raw("insert into jobs (id) values ('x')")), good);
    assert!(matches!(bad, Err(StoreError::Statement(_))), "{bad:?}");
    assert!(good.iter().all(Result::is_ok));
    for job in jobs {
        assert!(store.job(job.id).await.unwrap().is_some());
    }
    // The connection is as good as before even if a transaction was left open or closed behind the writer's back.
    for odd in ["commit", "rollback", "begin"] {
        assert!(store.write(Raw(odd)).await.is_err(), "{odd}");
        store.insert(job("hello", "ann", 1_000)).await.unwrap();
    }
}

#[tokio::test]
async fn a_locked_file_and_a_full_queue_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.sqlite");
    let settings = Settings { queue: 2, batch: 1, busy_timeout_ms: 1, deadline_ms: 60_000, ..Settings::default() };
    let store = SqliteStore::open(&path, &settings).await.unwrap();
    let mut other = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    sqlx::query("begin immediate").execute(&mut other).await.unwrap();
    let refused = store.insert(job("hello", "ann", 1)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(store.ready().await.is_err());
    let many = futures::future::join_all((0..10).map(|_| store.insert(job("hello", "ann", 1)))).await;
    assert!(many.iter().any(|answer| matches!(answer, Err(StoreError::Overloaded))), "{many:?}");
    other.close().await.unwrap();
    store.ready().await.unwrap();
    store.insert(job("hello", "ann", 1)).await.unwrap();
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.sqlite");
    let settings = Settings { busy_timeout_ms: 2_000, deadline_ms: 50, ..Settings::default() };
    let store = SqliteStore::open(&path, &settings).await.unwrap();
    let mut other = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    sqlx::query("begin immediate").execute(&mut other).await.unwrap();
    assert!(matches!(store.insert(job("hello", "ann", 1)).await, Err(StoreError::Timeout(1))));
    other.close().await.unwrap();
}

#[tokio::test]
async fn the_views_tell_the_history() {
    let (store, _folder) = open().await;
    let new = job("hello", "ann", 500);
    store.insert(new.clone()).await.unwrap();
    store.transition(to(new.id, Running, 1_767_323_045_678)).await.unwrap();
    store.finish(record(new.id, Successful, vec![inline("a", b"abc"), inline("b", b"de")])).await.unwrap();
    store.remove(new.id, at(9_001)).await.unwrap();
    let history = "select id, process, version, caller, status, created, started, finished, cast(queue_seconds as text), \
                   json_extract(inputs, '$.list[1]') || '', result_media_type, result_size || '', log_uri, log_size || '', \
                   exit_code || '', reason, message, removed from job_history";
    let (id, log) = (new.id.to_string(), format!("file:///archive/logs/{}", new.id));
    let want = [
        id.as_str(),
        "hello",
        "1.2.3",
        "ann",
        "successful",
        "1970-01-01T00:00:00.500Z",
        "2026-01-02T03:04:05.678Z",
        "1970-01-01T00:00:05.000Z",
        "1767323045.178",
        "2.5",
        "application/octet-stream",
        "5",
        log.as_str(),
        "4294967297",
        "0",
        "Completed",
        "ended: successful",
        "1970-01-01T00:00:09.001Z",
    ];
    assert_eq!(rows(&store, history).await, [want]);
    let steps = "select status, message, at from job_status_history order by at";
    let want = [
        ["accepted", "-", "1970-01-01T00:00:00.500Z"],
        ["successful", "ended: successful", "1970-01-01T00:00:05.000Z"],
        ["running", "now running", "2026-01-02T03:04:05.678Z"],
    ];
    assert_eq!(rows(&store, steps).await, want);

    history::processes_open_and_close(&*store).await;
    let offered = "select id || version, substr(offered_from, 19, 1), coalesce(substr(offered_until, 19, 1), '') \
                   from process_history order by offered_from, id";
    let want = [["a1", "1", "3"], ["b1", "1", "4"], ["a2", "3", "5"], ["a1", "5", "6"], ["b1", "5", "6"]];
    assert_eq!(rows(&store, offered).await, want);
}

/// Every shape of filter.
fn filters() -> Vec<JobFilter> {
    let mut all = Vec::new();
    for processes in [0, 1, 3, 40] {
        for statuses in [vec![], vec![Running], vec![Running, Successful]] {
            for caller in [None, Some("ann".to_owned())] {
                for min_duration_seconds in [None, Some(5)] {
                    let process_ids = (0..processes).map(|n| format!("p{n}").parse().unwrap()).collect();
                    let (statuses, caller) = (statuses.clone(), caller.clone());
                    all.push(JobFilter { process_ids, statuses, caller, min_duration_seconds, ..JobFilter::default() });
                }
            }
        }
    }
    all
}

#[tokio::test]
async fn no_list_reads_without_an_index_or_sorts() {
    let (store, _folder) = open().await;
    for filter in filters() {
        let plan = Plan::of(&filter, Dialect::Sqlite).unwrap().unwrap();
        let is_loose = filter.process_ids.len() == 40 && filter.statuses.len() != 1;
        for (sql, is_page) in [(plan.page_sql(10), true), (plan.boundary_sql(10), false)] {
            let found = sqlx::query(AssertSqlSafe(format!("explain query plan {sql}")))
                .fetch_all(&mut *store.reader().await.unwrap())
                .await
                .unwrap();
            let steps: Vec<String> = found.iter().map(|row| row.get("detail")).collect();
            let branches: Vec<_> = steps.iter().filter(|step| step.contains(" jobs ")).collect();
            assert!(!branches.is_empty(), "{steps:?}");
            for step in &steps {
                assert!(!step.contains("SCAN jobs") && !step.contains("TEMP B-TREE FOR ORDER BY"), "{step} in {sql}");
            }
            for step in branches {
                assert!(step.contains("(created,id)<(?,?)") && step.contains("(created,id)>(?,?)"), "{step}");
                assert!(step.contains("COVERING INDEX") || (is_loose && is_page), "{step} in {sql}");
            }
        }
    }
}

#[tokio::test]
async fn a_page_looks_at_a_bounded_stretch() {
    let (store, _folder) = open().await;
    let fill = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 12000) \
        insert into jobs (id, process_id, process_version, processor_digest, caller, status, created, started, finished, updated, \
            relaunchable, guarded, runner, response, requested_outputs, declared_outputs, inputs, plan) \
        select printf('%08x-0000-7000-8000-000000000000', i), 'p' || (i % 200), '1', '', 'ann', 'successful', i, i, \
            i + case i when 1 then 9000 else 10 end, i, 1, 0, 'local', 'raw', 'null', '{}', '{}', '{}' from n";
    store.write(Raw(fill)).await.unwrap();
    let long = JobFilter { min_duration_seconds: Some(9), ..JobFilter::default() };
    // More processes than branches, of which one exists: every 200th row.
    let loose = JobFilter {
        process_ids: (0..30).map(|n| format!("p{}", n * 200).parse().unwrap()).collect(),
        ..JobFilter::default()
    };
    for (filter, want, most) in [(long, 1, 7), (loose, 60, 40)] {
        let (mut pages, mut found, mut after) = (0, 0, None);
        loop {
            let page = store.list(&filter, after, 10).await.unwrap();
            pages += 1;
            found += page.jobs.len();
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, want);
        assert!(pages <= most && pages > 2, "{pages} pages");
    }
}
