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

use super::print::{self, Printer};
use super::{Format, Printed, SqlError, statement};

/// Longest time to open the connection.
const CONNECT: Duration = Duration::from_secs(10);

/// No statement runs for longer than ten minutes or waits for a lock for longer than five seconds.
const SESSION: &str = "set statement_timeout = 600000; set lock_timeout = 5000; \
                       set idle_in_transaction_session_timeout = 600000; set default_transaction_read_only = on; \
                       set bytea_output = 'hex'; set timezone = 'UTC'";

/// Runs one reading statement on the server at this URL and prints at most `max_rows` rows of it (`None`: all). What reads is
/// what the URL's user may read.
///
/// # Errors
/// [`SqlError`]; rows that came before a failure are printed.
pub async fn query_url(
    url: &str,
    sql: &str,
    format: Format,
    max_rows: Option<u64>,
    out: &mut dyn Write,
) -> Result<Printed, SqlError> {
    let (_, sql) = statement::beginning(sql)?;
    let mut connection = match timeout(CONNECT, open(url)).await {
        Ok(outcome) => outcome.map_err(SqlError::Reach)?,
        Err(_) => return Err(SqlError::Reach(sqlx::Error::PoolTimedOut)),
    };
    // The connection is dropped: a statement of which only some rows were wanted is not read to its end.
    run(&mut connection, sql, format, max_rows, out).await
}

async fn open(url: &str) -> Result<PgConnection, sqlx::Error> {
    let options = url.parse::<PgConnectOptions>()?.application_name("vespiary sql").disable_statement_logging();
    let mut connection = options.connect().await?;
    sqlx::raw_sql(SESSION).execute(&mut connection).await?;
    Ok(connection)
}

async fn run(
    connection: &mut PgConnection,
    sql: &str,
    format: Format,
    max_rows: Option<u64>,
    out: &mut dyn Write,
) -> Result<Printed, SqlError> {
    let mut transaction = connection.begin_with("begin read only").await.map_err(SqlError::Reach)?;
    let text = || AssertSqlSafe(sql.to_owned()).into_sql_str();
    // Refuses a second statement, and names the columns even if no row comes.
    let prepared = (&mut *transaction).prepare(text()).await.map_err(SqlError::Statement)?;
    let names = prepared.columns().iter().map(|column| column.name().to_owned()).collect();
    let mut printer = Printer::new(format, names, out);
    let mut printed = Printed { rows: 0, truncated: false };
    // Unprepared, so that every type comes as text.
    let mut found = sqlx::raw_sql(text()).fetch(&mut *transaction);
    while let Some(row) = found.next().await {
        let row = row.map_err(SqlError::Statement)?;
        if max_rows.is_some_and(|max| printed.rows >= max) {
            printed.truncated = true;
            break;
        }
        let values = (0..row.len())
            .map(|index| row.try_get_raw(index).map(|raw| print::written(&raw)))
            .collect::<Result<Vec<_>, _>>();
        printer.row(values.map_err(SqlError::Statement)?).map_err(SqlError::Output)?;
        printed.rows += 1;
    }
    printer.end().map_err(SqlError::Output)?;
    Ok(printed)
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
        let printed = query_url(&database.url(), sql, format, max, &mut out).await?;
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
        let nobody = query_url("postgres://127.0.0.1:1/x", "select 1", Format::Csv, None, &mut Vec::new()).await;
        assert!(nobody.unwrap_err().to_string().starts_with("cannot reach the database: "));
    }
}
