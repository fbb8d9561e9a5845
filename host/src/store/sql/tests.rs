//! Tests of reading SQL for people.

use std::path::Path;

use super::*;
use crate::store::JobStore;
use crate::store::contract::fixture;
use crate::store::sqlite::{Settings, SqliteStore};

async fn ask(path: &Path, sql: &str, format: Format, max_rows: Option<u64>) -> Result<(String, Printed), SqlError> {
    let mut out = Vec::new();
    let bounds = Bounds { max_rows, deadline: Duration::from_secs(60) };
    let printed = query(path, sql, format, bounds, &mut out).await?;
    Ok((String::from_utf8(out).unwrap(), printed))
}

#[tokio::test]
async fn reads_while_the_store_writes_and_after_it_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.sqlite");
    let store = SqliteStore::open(&path, &Settings::default()).await.unwrap();
    let job = fixture::job("hello", "ann", 1_767_323_045_678);
    store.insert(job.clone()).await.unwrap();
    let sql = "select id, process, status, created, started, queue_seconds from job_history";
    let want = format!(
        "id,process,status,created,started,queue_seconds\r\n{},hello,accepted,2026-01-02T03:04:05.678Z,,\r\n",
        job.id
    );
    assert_eq!(ask(&path, sql, Format::Csv, None).await.unwrap().0, want);
    store.insert(fixture::job("hello", "ann", 5)).await.unwrap();
    assert_eq!(ask(&path, sql, Format::Csv, None).await.unwrap().1.rows, 2);
    store.shutdown().await;
    assert_eq!(ask(&path, sql, Format::Csv, Some(1)).await.unwrap().1, Printed { rows: 1, truncated: true });
}

#[tokio::test]
async fn prints_every_kind_of_value() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sqlite");
    SqliteStore::open(&path, &Settings::default()).await.unwrap().shutdown().await;
    let sql = "select 1 as n, 2.0 as r, 'a,\"b\"' || char(10, 27) as t, x'00ff' as b, null as z, 'ä' as n";
    let (table, _) = ask(&path, sql, Format::Table, None).await.unwrap();
    assert_eq!(
        table,
        "n  r    t              b     z     n\n-  ---  -------------  ----  ----  -\n1  2.0  a,\"b\"\\n\\u{1b}  00ff  NULL  ä\n"
    );
    let (csv, _) = ask(&path, sql, Format::Csv, None).await.unwrap();
    assert_eq!(csv, "n,r,t,b,z,n\r\n1,2.0,\"a,\"\"b\"\"\n\u{1b}\",00ff,,ä\r\n");
    let (json, _) = ask(&path, sql, Format::Json, None).await.unwrap();
    let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
    let want = serde_json::json!([{"n": 1, "r": 2.0, "t": "a,\"b\"\n\u{1b}", "b": "00ff", "z": null, "n_2": "ä"}]);
    assert_eq!(rows, want);
    let none = "select id from jobs";
    assert_eq!(ask(&path, none, Format::Json, None).await.unwrap().0, "[]\n");
    assert_eq!(ask(&path, none, Format::Csv, None).await.unwrap().0, "id\r\n");
    assert_eq!(ask(&path, none, Format::Table, None).await.unwrap().0, "id\n--\n");
}

#[tokio::test]
async fn a_long_table_is_printed_in_full() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sqlite");
    SqliteStore::open(&path, &Settings::default()).await.unwrap().shutdown().await;
    let sql = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 1500) select i from n";
    let (table, printed) = ask(&path, sql, Format::Table, None).await.unwrap();
    assert_eq!((table.lines().count(), printed.rows), (1_502, 1_500));
    assert_eq!(table.lines().last(), Some("1500"));
}

#[tokio::test]
async fn nothing_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sqlite");
    let store = SqliteStore::open(&path, &Settings::default()).await.unwrap();
    store.insert(fixture::job("hello", "ann", 5)).await.unwrap();
    for sql in [
        "with x as (select 1) delete from jobs",
        "with x as (select 1) insert into write_probe select 1, 2 from x",
        "explain query plan select 1; delete from jobs",
        "pragma journal_mode = delete",
        "attach 'other.sqlite' as other",
        "vacuum into 'copy.sqlite'",
        "select load_extension('x')",
        "select * from pragma_journal_mode('delete')",
    ] {
        assert!(ask(&path, sql, Format::Csv, None).await.is_err(), "{sql}");
    }
    assert_eq!(ask(&path, "select count(*) from jobs", Format::Csv, None).await.unwrap().0, "count(*)\r\n1\r\n");
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name.to_string_lossy().starts_with("x.sqlite")), "{names:?}");
}

#[tokio::test]
async fn a_failure_quotes_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sqlite");
    let missing = ask(&path, "select 1", Format::Csv, None).await.unwrap_err();
    assert!(missing.to_string().starts_with("there is no database"), "{missing}");
    std::fs::write(&path, "this is no database, only some text that is long enough to be looked at ".repeat(20))
        .unwrap();
    let foreign = ask(&path, "select 1", Format::Csv, None).await.unwrap_err();
    assert!(foreign.to_string().contains("file is not a database"), "{foreign}");
    std::fs::remove_file(&path).unwrap();
    SqliteStore::open(&path, &Settings::default()).await.unwrap().shutdown().await;
    let wrong = ask(&path, "select\n nowhere from job_history", Format::Csv, None).await.unwrap_err();
    assert_eq!(wrong.to_string(), "the database refuses the statement: no such column: nowhere");
    let syntax = ask(&path, "select from where", Format::Csv, None).await.unwrap_err();
    assert!(syntax.to_string().contains("syntax error"), "{syntax}");
}

/// An output that takes nothing until it is let, as that of a pager.
struct Pager(std::sync::mpsc::Receiver<()>);

impl Write for Pager {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_output_that_takes_nothing_does_not_keep_the_log_of_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sqlite");
    let store = SqliteStore::open(&path, &Settings::default()).await.unwrap();
    let asked = path.clone();
    let (release, hold) = std::sync::mpsc::channel();
    let asking = std::thread::spawn(move || {
        let sql = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000) \
                   select i, (select count(*) from jobs) from n";
        let bounds = Bounds { max_rows: None, deadline: Duration::from_secs(1) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(query(&asked, sql, Format::Csv, bounds, &mut Pager(hold)))
    });
    let options = SqliteConnectOptions::new().filename(&path).busy_timeout(Duration::from_millis(1));
    let mut connection = options.connect().await.unwrap();
    // Each write is one that the log has to keep while somebody reads what was there before.
    let began = Instant::now();
    let mut seen_held = false;
    loop {
        store.insert(fixture::job("hello", "ann", 5)).await.unwrap();
        let row = sqlx::query("pragma wal_checkpoint(truncate)").fetch_one(&mut connection).await.unwrap();
        let is_held = row.get::<i64, _>(0) == 1;
        seen_held |= is_held;
        if seen_held && !is_held {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "held: {seen_held}");
    }
    drop(release);
    assert!(matches!(asking.join().unwrap(), Err(SqlError::Deadline(_))));
}

#[tokio::test]
async fn a_statement_that_only_computes_ends_at_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sqlite");
    SqliteStore::open(&path, &Settings::default()).await.unwrap().shutdown().await;
    let sql = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n";
    let bounds = Bounds { max_rows: None, deadline: Duration::from_millis(50) };
    let ended = query(&path, sql, Format::Csv, bounds, &mut Vec::new()).await.unwrap_err();
    assert!(matches!(ended, SqlError::Deadline(_)), "{ended}");
}
