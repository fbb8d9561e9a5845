//! `vespiary sql`: one reading statement on the SQLite file or the PostgreSQL database, printed as it comes, while the server runs.
//!
//! Invariant: nothing is written. An SQLite file is opened read-only, the connection refuses writes, and only a single statement that
//! begins with a reading word is taken, so that neither `attach` nor `pragma` is reached;
//! a PostgreSQL session reads in a read-only transaction. Memory does not grow with the rows, and no transaction outlives the deadline.

mod postgres;
mod print;
mod rows;
mod statement;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Column, ConnectOptions, Connection, Executor, Row, Statement};

pub use self::postgres::query_url;
use self::rows::Rows;

/// Steps of SQLite's machine between two looks at the clock: some tenths of a millisecond.
const STEPS: i32 = 10_000;

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Columns aligned for a terminal; control characters are escaped, an absent value is `NULL`.
    #[default]
    Table,
    /// RFC 4180 with a header line; an absent value is an empty field.
    Csv,
    /// An array of objects; a repeated column name gets a number.
    Json,
}

/// Why nothing, or not everything, was printed.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// There is no such file.
    #[error("there is no database '{}'", .0.display())]
    NoFile(PathBuf),
    /// The file cannot be opened as a database.
    #[error("cannot open the database '{}': {}", .path.display(), message(.source))]
    Open {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The database server cannot be reached, or refuses.
    #[error("cannot reach the database: {}", message(.0))]
    Reach(#[source] sqlx::Error),
    /// The text has no statement.
    #[error("there is no statement")]
    Empty,
    /// The text has more than one statement.
    #[error("one statement at a time: there is more behind ';' on line {line}")]
    Several {
        /// Line of the `;`, from 1.
        line: usize,
    },
    /// The statement is not one that reads.
    #[error("only reading is possible: a statement begins with select, with, values or explain, not with '{0}'")]
    NotReading(String),
    /// The statement is wrong.
    #[error("the database refuses the statement: {}", message(.0))]
    Statement(#[source] sqlx::Error),
    /// It took too long.
    #[error("the statement was ended after {} s (--deadline)", .0.as_secs_f64())]
    Deadline(Duration),
    /// The thread that reads.
    #[error("cannot read in a thread of its own")]
    Thread(#[source] std::io::Error),
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[source] std::io::Error),
}

/// The database's own words, without the frame that sqlx puts around them.
fn message(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(cause) => cause.message().to_owned(),
        other => other.to_string(),
    }
}

/// How much is printed, and how long that may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Rows; `None`: all.
    pub max_rows: Option<u64>,
    /// From opening the database to the last row.
    pub deadline: Duration,
}

/// What was printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Printed {
    /// Rows.
    pub rows: u64,
    /// Whether there were more than `max_rows`.
    pub truncated: bool,
}

/// Runs one reading statement and prints its rows, within these bounds.
///
/// # Errors
/// [`SqlError`]; rows that came before a failure are printed.
pub async fn query(
    path: &Path,
    sql: &str,
    format: Format,
    bounds: Bounds,
    out: &mut dyn Write,
) -> Result<Printed, SqlError> {
    let (path, sql) = (path.to_owned(), statement::reading(sql)?.to_owned());
    let read = async move |rows: &mut Rows| {
        let began = Instant::now();
        let mut connection = open(&path).await?;
        // What computes and gives no row ends, too.
        let in_time = move || began.elapsed() < bounds.deadline;
        connection.lock_handle().await.map_err(SqlError::Statement)?.set_progress_handler(STEPS, in_time);
        let outcome = run(&mut connection, &sql, rows).await;
        // Nothing was written: there is nothing to lose in closing.
        drop(connection.close().await);
        outcome.map_err(|error| if in_time() { error } else { SqlError::Deadline(bounds.deadline) })
    };
    rows::print(format, bounds, out, read).await
}

async fn open(path: &Path) -> Result<SqliteConnection, SqlError> {
    if !tokio::fs::try_exists(path).await.unwrap_or(true) {
        return Err(SqlError::NoFile(path.to_owned()));
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .busy_timeout(Duration::from_secs(5))
        .pragma("query_only", "on")
        .pragma("trusted_schema", "off")
        .pragma("temp_store", "file")
        .row_buffer_size(64)
        .disable_statement_logging();
    let failed = |source| SqlError::Open { path: path.to_owned(), source };
    let mut connection = options.connect().await.map_err(failed)?;
    // SQLite looks at the file only now; this tells a wrong file from a wrong statement.
    sqlx::query("select count(*) from sqlite_schema").fetch_one(&mut connection).await.map_err(failed)?;
    Ok(connection)
}

async fn run(connection: &mut SqliteConnection, sql: &str, rows: &mut Rows) -> Result<(), SqlError> {
    let prepared = (&mut *connection).prepare(sqlx::SqlSafeStr::into_sql_str(AssertSqlSafe(sql.to_owned()))).await;
    let prepared = prepared.map_err(SqlError::Statement)?;
    let names = prepared.columns().iter().map(|column| column.name().to_owned()).collect();
    if !rows.columns(names).await {
        return Ok(());
    }
    let mut found = prepared.query().fetch(connection);
    while let Some(row) = found.next().await {
        let row = row.map_err(SqlError::Statement)?;
        let values =
            (0..row.len()).map(|index| row.try_get_raw(index).map(print::value)).collect::<Result<Vec<_>, _>>();
        if !rows.row(values.map_err(SqlError::Statement)?).await {
            break;
        }
    }
    Ok(())
}
