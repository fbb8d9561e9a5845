//! The schema and the views: the same as in SQLite.

use std::collections::BTreeSet;

use sqlx::{ConnectOptions, Row};

use super::fixture::open;
use crate::core::JobStatus::{Running, Successful};
use crate::store::JobStore;
use crate::store::contract::fixture::{at, inline, job, record, to};
use crate::store::contract::history;
use crate::store::sqlite::SqliteStore;

#[tokio::test]
async fn both_databases_have_the_same_tables_views_and_columns() {
    let Some((_store, database)) = open().await else { return };
    let here = "select table_name::text, column_name::text from information_schema.columns \
                where table_schema = current_schema() and table_name not like '\\_%'";
    let here: BTreeSet<Vec<String>> = database.rows(here).await.into_iter().collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.sqlite");
    SqliteStore::open(&path, &Default::default()).await.unwrap().shutdown().await;
    let mut sqlite = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    let there = "select m.name, c.name from sqlite_schema as m, pragma_table_xinfo(m.name) as c \
                 where m.type in ('table', 'view') and m.name not like '\\_%' escape '\\' and m.name not like 'sqlite%'";
    let there = sqlx::query(there).fetch_all(&mut sqlite).await.unwrap();
    let there: BTreeSet<Vec<String>> = there.iter().map(|row| vec![row.get(0), row.get(1)]).collect();
    assert!(there.len() > 80, "{}", there.len());
    assert_eq!(here, there);
    let order = |view: &str| {
        format!(
            "select string_agg(column_name, ' ' order by ordinal_position) \
                                      from information_schema.columns where table_name = '{view}'"
        )
    };
    for view in ["job_history", "job_status_history", "process_history"] {
        let want: String =
            sqlx::query("select group_concat(name, ' ') from (select name from pragma_table_xinfo(?1) order by cid)")
                .bind(view)
                .fetch_one(&mut sqlite)
                .await
                .unwrap()
                .get(0);
        assert_eq!(database.rows(&order(view)).await, [[want]]);
    }
}

#[tokio::test]
async fn the_views_tell_the_history() {
    let Some((store, database)) = open().await else { return };
    let new = job("hello", "ann", 500);
    store.insert(new.clone()).await.unwrap();
    store.transition(to(new.id, Running, 1_767_323_045_678)).await.unwrap();
    store.finish(record(new.id, Successful, vec![inline("a", b"abc"), inline("b", b"de")])).await.unwrap();
    store.remove(new.id, at(9_001)).await.unwrap();
    let found = "select id, process, version, caller, status, created, started, finished, queue_seconds::text, \
                 substring(inputs from '2[.]5'), result_media_type, result_size::text, log_uri, log_size::text, \
                 exit_code::text, reason, message, removed from job_history";
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
    assert_eq!(database.rows(found).await, [want]);
    let steps = "select status, message, at from job_status_history order by at";
    let want = [
        ["accepted", "-", "1970-01-01T00:00:00.500Z"],
        ["successful", "ended: successful", "1970-01-01T00:00:05.000Z"],
        ["running", "now running", "2026-01-02T03:04:05.678Z"],
    ];
    assert_eq!(database.rows(steps).await, want);

    history::processes_open_and_close(&*store).await;
    let offered = "select id || version, substr(offered_from, 19, 1), coalesce(substr(offered_until, 19, 1), '') \
                   from process_history order by offered_from, id";
    let want = [["a1", "1", "3"], ["b1", "1", "4"], ["a2", "3", "5"], ["a1", "5", "6"], ["b1", "5", "6"]];
    assert_eq!(database.rows(offered).await, want);
}
