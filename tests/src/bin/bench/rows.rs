//! A database with very many jobs, filled by SQL and kept for the next run.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};
use vespiary::store::sqlite::SqliteStore;

use crate::use_cases::DATABASE;
use crate::{Outcome, place, say};

/// Grows when the rows change: what was kept of another version is made anew.
const VERSION: u32 = 1;
/// Rows of one transaction.
const CHUNK: u64 = 50_000;
/// The first row's time: jobs come ten seconds apart, so that a million of them span four months.
pub(crate) const FIRST_MILLIS: i64 = 1_700_000_000_000;
/// Time from one row to the next.
pub(crate) const STEP_MILLIS: i64 = 10_000;

/// Row `?1` up to `?2`. Process `p-00` has half of all jobs, forty-nine others share the rest; nine of ten are successful, a few in
/// a hundred failed or dismissed, one in a thousand waits or runs. Jobs last up to ten minutes, one in a thousand an hour. Ids are
/// UUIDs of version 7, as the store's own.
const FILL: &str = "\
with recursive number(n) as (select ?1 union all select n + 1 from number where n + 1 < ?2), \
drawn(n, at, a, b, c) as (select n, ?3 + n * ?4 + (n * 7919) % ?4, (n * 2654435761) % 1000, (n * 40503 + 17) % 997, (n * 48271) % 65536 from number), \
job(n, at, b, c, status, process, caller) as (select n, at, b, c, \
    case when a < 1 then 'accepted' when a < 2 then 'running' when a < 72 then 'failed' when a < 100 then 'dismissed' else 'successful' end, \
    printf('p-%02d', case when b % 2 = 0 then 0 else 1 + (n / 2) % 49 end), \
    case when b % 5 = 0 then 'caller-' || (c % 20) else 'anonymous' end from drawn), \
ended(n, at, b, c, status, process, caller, begun, over) as (select *, \
    case when status = 'accepted' then null else at + 50 + c % 2000 end, \
    case when status in ('accepted', 'running') then null else at + 2050 + case when b = 5 then 3600000 else (c * 9) end end from job) \
insert into jobs (id, process_id, process_version, processor_digest, caller, status, message, created, started, finished, updated, \
    relaunchable, guarded, runner, response, requested_outputs, declared_outputs, inputs, plan) \
select printf('%08x-%04x-7%03x-8%03x-%012x', at >> 16, at & 65535, b, c & 4095, n), process, '1.0.0', ?5, caller, status, \
    case status when 'failed' then 'the container main ended with the exit code 1' end, at, begun, over, coalesce(over, begun, at), \
    1, 0, 'local', 'raw', 'null', ?6, ?7, ?8 from ended";

/// The folder of a database with so many jobs.
pub(crate) async fn folder(rows: u64) -> Outcome<PathBuf> {
    let folder = place::kept()?.join(format!("rows-{rows}"));
    let stamp = folder.join("version");
    let schema = schema();
    let wanted = format!("{VERSION} {rows} {schema}");
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(folder);
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let begun = Instant::now();
    fill(&folder.join(DATABASE), rows).await?;
    std::fs::write(&stamp, wanted)?;
    say(&format!("bench: filled {rows} rows in {} s", begun.elapsed().as_secs()));
    Ok(folder)
}

/// The digest of the schema that this program brings along.
fn schema() -> String {
    let folder = vespiary_tests::workspace::root().join("migrations/sqlite");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort_unstable();
    let texts: Vec<u8> = files.iter().filter_map(|file| std::fs::read(file).ok()).flatten().collect();
    vespiary::core::Digest::of(&texts).to_string()
}

async fn fill(file: &Path, rows: u64) -> Outcome<()> {
    // The store makes the schema.
    SqliteStore::open(file, &Default::default()).await?.shutdown().await;
    let options = SqliteConnectOptions::new()
        .filename(file)
        .synchronous(SqliteSynchronous::Off)
        .pragma("cache_size", "-262144")
        .pragma("temp_store", "memory");
    let mut connection = options.connect().await?;
    let mut next = 0;
    while next < rows {
        let end = rows.min(next + CHUNK);
        insert(&mut connection, next, end).await?;
        next = end;
    }
    sqlx::query("pragma wal_checkpoint(truncate)").execute(&mut connection).await?;
    Ok(connection.close().await?)
}

async fn insert(connection: &mut SqliteConnection, first: u64, end: u64) -> Outcome<()> {
    let declared = json!({ "hello": { "schema": { "type": "string", "contentMediaType": "text/plain" } } });
    let plan = json!({ "containers": [{ "name": "main", "image": "busybox:1.36", "command": ["printf", "Hello '%s'"], "args": ["x".repeat(200)] }] });
    sqlx::query(FILL)
        .bind(i64::try_from(first)?)
        .bind(i64::try_from(end)?)
        .bind(FIRST_MILLIS)
        .bind(STEP_MILLIS)
        .bind(format!("sha256:{}", "0".repeat(64)))
        .bind(declared.to_string())
        .bind(json!({ "name": "Ann", "message": "m".repeat(100) }).to_string())
        .bind(plan.to_string())
        .execute(connection)
        .await?;
    Ok(())
}
