//! What SQLite's failures mean to the callers of the store. The result codes decide, never a text.

use sqlx::migrate::MigrateError;

use crate::store::StoreError;

/// Primary result codes after which the same statement may work again: busy, locked, out of memory, read-only, I/O error,
/// full, cannot open. (<https://sqlite.org/rescode.html>)
const PASSING: [i32; 7] = [5, 6, 7, 8, 10, 13, 14];

/// Sorts a failure of sqlx: a matter of the disk, or a fault of ours.
pub(super) fn classify(error: sqlx::Error) -> StoreError {
    if passes(&error) { StoreError::Unavailable(error) } else { StoreError::Statement(error) }
}

/// A migration that failed for the disk's sake is no fault of the schema.
pub(super) fn classify_migration(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) if passes(&cause) => {
            StoreError::Unavailable(cause)
        }
        other => StoreError::Migration(other),
    }
}

/// Whether another program holds the lock: nothing is wrong with the connection.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(5)
}

fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?.parse::<i32>().ok()?;
    // The low byte of an extended code.
    Some(code & 0xff)
}

fn passes(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(_) => primary_code(error).is_some_and(|code| PASSING.contains(&code)),
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        _ => false,
    }
}
