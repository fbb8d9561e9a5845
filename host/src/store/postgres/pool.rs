//! Connections that calls borrow.
//!
//! Invariant: a connection goes back only after a call that ended in order. One that was left in the middle of a statement (a
//! failure, a deadline) is closed, so that nobody waits for what another call began.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::Settings;
use super::failure::classify;
use crate::store::StoreError;

/// A connection that rested for longer is asked whether it still lives.
const TRUSTED: Duration = Duration::from_secs(1);
/// How long that may take.
const PING: Duration = Duration::from_secs(1);

/// A bounded set of connections, made when they are needed.
pub(super) struct Pool {
    door: Door,
    permits: Semaphore,
    waiting: AtomicUsize,
    queue: usize,
    acquire_timeout: Duration,
    idle_timeout: Duration,
    idle: Mutex<Vec<(PgConnection, Instant)>>,
}

/// How a connection is opened.
#[derive(Clone)]
pub(super) struct Door {
    options: PgConnectOptions,
    setup: String,
    connect_timeout: Duration,
}

impl Door {
    pub(super) fn new(url: &str, settings: &Settings) -> Result<Self, StoreError> {
        let options = url.parse::<PgConnectOptions>().map_err(classify)?;
        let options =
            if options.get_application_name().is_some() { options } else { options.application_name("vespiary") };
        // `set` and not the connection's start: poolers in between refuse parameters there. A server whose commits do not wait
        // for its disk would break the promise of this store.
        let setup = format!(
            "set statement_timeout = {}; set lock_timeout = {}; set idle_in_transaction_session_timeout = {}; \
             set default_transaction_isolation = 'read committed'; set client_min_messages = 'warning'; \
             select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'",
            settings.statement_timeout_ms.min(MAX_TIMEOUT_MS),
            settings.statement_timeout_ms.min(MAX_TIMEOUT_MS),
            settings.deadline_ms.min(MAX_TIMEOUT_MS),
        );
        let options = options.statement_cache_capacity(64).disable_statement_logging();
        Ok(Self { options, setup, connect_timeout: Duration::from_millis(settings.connect_timeout_ms.max(1)) })
    }

    pub(super) async fn connect(&self) -> Result<PgConnection, StoreError> {
        let connecting = async {
            let mut connection = self.options.connect().await?;
            sqlx::raw_sql(AssertSqlSafe(self.setup.clone())).execute(&mut connection).await?;
            Ok(connection)
        };
        match timeout(self.connect_timeout, connecting).await {
            Ok(outcome) => outcome.map_err(classify),
            Err(_) => Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)),
        }
    }

    pub(super) fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }
}

/// PostgreSQL's timeouts are 32 bits.
const MAX_TIMEOUT_MS: u64 = 2_147_483_647;

/// A borrowed connection. Dropped, it is closed; [`Lease::give_back`] keeps it.
pub(super) struct Lease<'p> {
    pool: &'p Pool,
    pub(super) connection: PgConnection,
    // Behind the connection: a place is free only when the connection is gone.
    _permit: SemaphorePermit<'p>,
}

impl Lease<'_> {
    /// Whether the server answers. A transaction that was left is undone by then, and its locks are gone.
    pub(super) async fn is_alive(&mut self) -> bool {
        matches!(timeout(PING, self.connection.ping()).await, Ok(Ok(())))
    }

    pub(super) fn give_back(self) {
        if !self.pool.permits.is_closed() {
            self.pool.lock().push((self.connection, Instant::now()));
        }
    }
}

struct Queued<'p>(&'p AtomicUsize);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    pub(super) fn new(door: Door, settings: &Settings) -> Self {
        let connections = usize::try_from(settings.connections.clamp(1, 10_000)).unwrap_or(1);
        Self {
            door,
            permits: Semaphore::new(connections),
            waiting: AtomicUsize::new(0),
            queue: settings.queue,
            acquire_timeout: Duration::from_millis(settings.acquire_timeout_ms),
            idle_timeout: Duration::from_millis(settings.idle_timeout_ms),
            idle: Mutex::new(Vec::new()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(PgConnection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Borrows a connection that lives.
    pub(super) async fn lease(&self) -> Result<Lease<'_>, StoreError> {
        let permit = self.permit().await?;
        loop {
            let rested = self.lock().pop();
            let Some((mut connection, since)) = rested else { break };
            let is_sound = since.elapsed() < TRUSTED || matches!(timeout(PING, connection.ping()).await, Ok(Ok(())));
            if is_sound {
                return Ok(Lease { pool: self, connection, _permit: permit });
            }
            // The others rested longer: they died with it, or are as cheap to make anew.
            self.forget();
        }
        Ok(Lease { pool: self, connection: self.door.connect().await?, _permit: permit })
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        if let Ok(permit) = self.permits.try_acquire() {
            return Ok(permit);
        }
        let ahead = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _queued = Queued(&self.waiting);
        if ahead >= self.queue {
            return Err(StoreError::Overloaded);
        }
        match timeout(self.acquire_timeout, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(StoreError::Unavailable(sqlx::Error::PoolClosed)),
            Err(_) => Err(StoreError::Overloaded),
        }
    }

    /// Closes the connections that rest: the server is another one, or gone.
    pub(super) fn forget(&self) {
        let gone = std::mem::take(&mut *self.lock());
        drop(gone);
    }

    /// Closes the connections that rested for too long.
    pub(super) fn prune(&self) {
        let mut idle = self.lock();
        let old = idle.iter().take_while(|(_, since)| since.elapsed() > self.idle_timeout).count();
        let gone: Vec<_> = idle.drain(..old).collect();
        drop(idle);
        drop(gone);
    }

    /// Refuses new calls and says goodbye to the server.
    pub(super) async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *self.lock());
        for (connection, _) in idle {
            // The server finds out by itself, too.
            drop(timeout(PING, connection.close()).await);
        }
    }
}
