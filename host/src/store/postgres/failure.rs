//! What PostgreSQL's failures mean to the callers of the store. The SQLSTATE decides, never a text.
//! (<https://www.postgresql.org/docs/current/errcodes-appendix.html>)

use sqlx::migrate::MigrateError;

use crate::store::StoreError;

/// Classes and codes after which the same statement may work again: connection, authorization (a password that is changed),
/// no such database yet, rolled back, insufficient resources, intervention (shutdown, cancelled), read-only (a standby), lock not available,
/// idle in a transaction, system error.
const PASSING: [&str; 10] = ["08", "28", "3D", "40", "53", "57", "25006", "25P03", "55P03", "58"];

/// Sorts a failure of sqlx: a matter of the server, or a fault of ours.
pub(super) fn classify(error: sqlx::Error) -> StoreError {
    if passes(&error) { StoreError::Unavailable(error) } else { StoreError::Statement(error) }
}

/// A migration that failed for the server's sake is no fault of the schema.
pub(super) fn classify_migration(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) if passes(&cause) => {
            StoreError::Unavailable(cause)
        }
        other => StoreError::Migration(other),
    }
}

/// What a failure says about the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The transaction lost against another one and was undone: at once again.
    Conflict,
    /// The statement took too long and was undone.
    Cancelled,
    /// The server or the way to it: this connection is of no use any more.
    Lost,
    /// The connection is as good as before.
    Sound,
}

/// Judges a failed call.
pub(super) fn verdict(error: &StoreError) -> Verdict {
    let StoreError::Unavailable(cause) = error else { return Verdict::Sound };
    match code(cause).as_deref() {
        Some("40001" | "40P01") => Verdict::Conflict,
        Some("57014") => Verdict::Cancelled,
        _ => Verdict::Lost,
    }
}

/// Whether the server itself said so: then the statement was undone.
pub(super) fn is_answer(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(sqlx::Error::Database(_)))
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(std::borrow::Cow::into_owned)
}

fn passes(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(_) => {
            code(error).is_some_and(|code| PASSING.iter().any(|passing| code.starts_with(passing)))
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::Configuration(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        _ => false,
    }
}
