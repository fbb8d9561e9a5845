//! One reading statement on a PostgreSQL server.
//!
//! Invariant: the statement runs alone in a read-only transaction: it is prepared before it is run, and PostgreSQL prepares one
//! statement at a time.

use std::io::Write;
use std::time::Duration;

use futures::StreamExt;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Column, ConnectOptions, Connection, Executor, Row, SqlSafeStr, Statement};
use tokio::time::timeout;

use super::rows::{self, Rows};
use super::{Bounds, Format, Printed, SqlError, print, statement};

/// Longest time to open the connection.
const CONNECT: Duration = Duration::from_secs(10);

/// No statement waits for a lock for longer than five seconds.
const SESSION: &str = "set lock_timeout = 5000; set default_transaction_read_only = on; \
                       set bytea_output = 'hex'; set timezone = 'UTC'";

/// Runs one reading statement on the server at this URL and prints its rows, within these bounds. What it may read is what the URL's user
/// may read, and the functions that it may call are those of that user.
///
/// # Errors
/// [`SqlError`]; rows that came before a failure are printed.
pub async fn query_url(
    url: &str,
    sql: &str,
    format: Format,
    bounds: Bounds,
    out: &mut dyn Write,
) -> Result<Printed, SqlError> {
    let (_, sql) = statement::beginning(sql)?;
    let (url, sql) = (url.to_owned(), sql.to_owned());
    let read = async move |rows: &mut Rows| {
        let mut connection = match timeout(CONNECT, open(&url, bounds.deadline)).await {
            Ok(outcome) => outcome.map_err(SqlError::Reach)?,
            Err(_) => return Err(SqlError::Reach(sqlx::Error::PoolTimedOut)),
        };
        // The connection is dropped: a statement of which only some rows were wanted is not read to its end.
        run(&mut connection, &sql, rows).await
    };
    rows::print(format, bounds, out, read).await
}

async fn open(url: &str, deadline: Duration) -> Result<PgConnection, sqlx::Error> {
    let options = url.parse::<PgConnectOptions>()?.application_name("vespiary sql").disable_statement_logging();
    let mut connection = options.connect().await?;
    // A second after our own deadline: the server ends what it computes for somebody who is gone.
    let longest = deadline.as_millis().saturating_add(1_000).min(i32::MAX.unsigned_abs().into());
    let session =
        format!("{SESSION}; set statement_timeout = {longest}; set idle_in_transaction_session_timeout = {longest}");
    sqlx::raw_sql(AssertSqlSafe(session)).execute(&mut connection).await?;
    Ok(connection)
}

async fn run(connection: &mut PgConnection, sql: &str, rows: &mut Rows) -> Result<(), SqlError> {
    let mut transaction = connection.begin_with("begin read only").await.map_err(SqlError::Reach)?;
    let text = || AssertSqlSafe(sql.to_owned()).into_sql_str();
    // Refuses a second statement, and names the columns even if no row comes.
    let prepared = (&mut *transaction).prepare(text()).await.map_err(SqlError::Statement)?;
    let names = prepared.columns().iter().map(|column| column.name().to_owned()).collect();
    if !rows.columns(names).await {
        return Ok(());
    }
    // Unprepared, so that every type comes as text.
    let mut found = sqlx::raw_sql(text()).fetch(&mut *transaction);
    while let Some(row) = found.next().await {
        let row = row.map_err(SqlError::Statement)?;
        let values = (0..row.len())
            .map(|index| row.try_get_raw(index).map(|raw| print::written(&raw)))
            .collect::<Result<Vec<_>, _>>();
        if !rows.row(values.map_err(SqlError::Statement)?).await {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::JobStore;
    use crate::store::contract::fixture;
    use crate::store::postgres::tests::fixture::Database;

    async fn ask(
        database: &Database,
        sql: &str,
        format: Format,
        max: Option<u64>,
    ) -> Result<(String, Printed), SqlError> {
        let mut out = Vec::new();
        let bounds = Bounds { max_rows: max, deadline: Duration::from_secs(60) };
        let printed = query_url(&database.url(), sql, format, bounds, &mut out).await?;
        Ok((String::from_utf8(out).unwrap(), printed))
    }

    #[tokio::test]
    async fn prints_as_for_sqlite() {
        let Some(database) = Database::create().await else { return };
        let store = database.open().await;
        let job = fixture::job("hello", "ann", 1_767_323_045_678);
        store.insert(job.clone()).await.unwrap();
        let sql = " -- why\n select id, process, status, created, started, queue_seconds from job_history ;";
        let want = format!(
            "id,process,status,created,started,queue_seconds\r\n{},hello,accepted,2026-01-02T03:04:05.678Z,,\r\n",
            job.id
        );
        assert_eq!(ask(&database, sql, Format::Csv, None).await.unwrap().0, want);
        let many = ask(&database, "select * from generate_series(1, 1000000)", Format::Csv, Some(1)).await.unwrap();
        assert_eq!(many.1, Printed { rows: 1, truncated: true });
        let sql = "select 1 as n, 2.0::double precision as r, 'a,\"b\"' || chr(10) as t, '\\x00ff'::bytea as b, null as z, \
                   'ä' as n, true as y, sum(3::bigint) as s, now() is null as f, array[1, 2] as a, $$;$$ as q";
        let (json, _) = ask(&database, sql, Format::Json, None).await.unwrap();
        let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
        let want = serde_json::json!([{
            "n": 1, "r": 2.0, "t": "a,\"b\"\n", "b": "00ff", "z": null, "n_2": "ä", "y": true, "s": 3, "f": false,
            "a": "{1,2}", "q": ";",
        }]);
        assert_eq!(rows, want);
        assert_eq!(ask(&database, "select id from jobs where false", Format::Csv, None).await.unwrap().0, "id\r\n");
    }

    #[tokio::test]
    async fn nothing_can_be_written() {
        let Some(database) = Database::create().await else { return };
        let store = database.open().await;
        store.insert(fixture::job("hello", "ann", 5)).await.unwrap();
        for sql in [
            "delete from jobs",
            "with x as (delete from jobs returning 1) select * from x",
            "select 1; delete from jobs",
            "select 1; commit; delete from jobs",
            "explain analyze delete from jobs",
            "select set_config('transaction_read_only', 'off', false)",
            "select * into other from jobs",
            "select * from jobs for update",
        ] {
            assert!(ask(&database, sql, Format::Csv, None).await.is_err(), "{sql}");
        }
        assert_eq!(ask(&database, "select count(*) from jobs", Format::Csv, None).await.unwrap().0, "count\r\n1\r\n");
    }

    #[tokio::test]
    async fn a_failure_quotes_the_database() {
        let Some(database) = Database::create().await else { return };
        let wrong = ask(&database, "select nowhere", Format::Csv, None).await.unwrap_err();
        assert_eq!(wrong.to_string(), "the database refuses the statement: column \"nowhere\" does not exist");
        let bounds = Bounds { max_rows: None, deadline: Duration::from_secs(60) };
        let nobody = query_url("postgres://127.0.0.1:1/x", "select 1", Format::Csv, bounds, &mut Vec::new()).await;
        assert!(nobody.unwrap_err().to_string().starts_with("cannot reach the database: "));
    }
    /// As `migrations/README.md` has it.
    #[tokio::test]
    async fn who_may_read_the_views_reads_those_alone() {
        let Some(database) = Database::create().await else { return };
        let store = database.open().await;
        store.insert(fixture::job("hello", "ann", 5)).await.unwrap();
        // Roles belong to the whole server.
        let role = format!("analyst_{}", crate::core::JobId::new());
        let recipe = format!(
            "create role \"{role}\" login password 'only-for-a-test'; \
             grant select on job_history, job_status_history, process_history to \"{role}\""
        );
        database.execute(&recipe).await;
        let mut url: url::Url = database.url().parse().unwrap();
        url.set_username(&role).unwrap();
        url.set_password(Some("only-for-a-test")).unwrap();
        let bounds = Bounds { max_rows: None, deadline: Duration::from_secs(60) };
        let mut answers = Vec::new();
        for sql in [
            "select process from job_history",
            "select count(*) from job_status_history",
            "select id from process_history",
            "select inputs from jobs",
            "select pg_terminate_backend(pid) from pg_stat_activity where usename <> current_user and datname = current_database()",
            "select pg_read_file('/etc/passwd')",
        ] {
            let mut out = Vec::new();
            let printed = query_url(url.as_str(), sql, Format::Csv, bounds, &mut out).await;
            answers.push(printed.map(|_| String::from_utf8(out).unwrap()).map_err(|error| error.to_string()));
        }
        database.execute(&format!("drop owned by \"{role}\"; drop role \"{role}\"")).await;
        let (views, rest) = answers.split_at(3);
        assert_eq!(views[0].as_deref(), Ok("process\r\nhello\r\n"));
        assert!(views.iter().all(Result::is_ok), "{views:?}");
        assert!(rest.iter().all(Result::is_err), "{rest:?}");
    }
}
