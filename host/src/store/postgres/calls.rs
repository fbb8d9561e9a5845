//! One call, from the wait for a connection to the answer: deadline, repetition, what becomes of the connection.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use tokio::time::{Instant, sleep, timeout};

use super::failure::{Verdict, is_answer, verdict};
use super::pool::Pool;
use crate::failpoint;
use crate::store::StoreError;

/// Attempts of a call that loses against others each time.
const CONFLICTS: u32 = 6;

/// What a call does on a connection. It is in no transaction when it begins and leaves none open when it succeeds.
#[async_trait]
pub(super) trait Call: Send + Sync {
    /// What it answers.
    type Answer: Send;

    /// Whether it writes.
    const WRITES: bool = false;

    /// Whether it may be done again although it may have been done already, because its answer stays the same.
    const REPEATABLE: bool = true;

    /// Does it.
    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Answer, StoreError>;
}

/// An answer, and whether it is that of a repetition: what the call changed may have been changed by the attempt before.
pub(super) struct Done<T> {
    pub(super) answer: T,
    pub(super) is_repeated: bool,
}

/// Runs calls.
pub(super) struct Calls {
    pub(super) pool: Pool,
    deadline: Duration,
    statement_timeout: Duration,
    began: Instant,
    /// Milliseconds after `began` of the last write; 0: none, or one failed since.
    written: AtomicU64,
}

impl Calls {
    pub(super) fn new(pool: Pool, deadline: Duration, statement_timeout: Duration) -> Self {
        Self { pool, deadline, statement_timeout, began: Instant::now(), written: AtomicU64::new(0) }
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Whether a write succeeded within this span and none failed since.
    pub(super) fn wrote_within(&self, span: Duration) -> bool {
        let written = self.written.load(Ordering::Relaxed);
        written != 0 && self.began.elapsed().saturating_sub(Duration::from_millis(written)) <= span
    }

    fn note(&self, is_written: bool) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        self.written.store(if is_written { millis } else { 0 }, Ordering::Relaxed);
    }

    /// Does a call within the deadline.
    pub(super) async fn run<C: Call>(&self, call: &C) -> Result<Done<C::Answer>, StoreError> {
        let outcome = match timeout(self.deadline, self.attempts(call)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(timed_out(self.deadline)),
        };
        if C::WRITES {
            match &outcome {
                Ok(_) => self.note(true),
                Err(StoreError::Unavailable(_) | StoreError::Timeout(_) | StoreError::Unconfirmed(_)) => {
                    self.note(false);
                }
                Err(_) => {}
            }
        }
        outcome
    }

    /// Does a call whose answer is all that matters.
    pub(super) async fn answer<C: Call>(&self, call: &C) -> Result<C::Answer, StoreError> {
        Ok(self.run(call).await?.answer)
    }

    async fn attempts<C: Call>(&self, call: &C) -> Result<Done<C::Answer>, StoreError> {
        let mut conflicts = 0;
        let mut is_repeated = false;
        // Whether an attempt broke off without a word of the server: it may have taken place.
        let mut is_open = false;
        loop {
            let mut lease = match self.pool.lease().await {
                Ok(lease) => lease,
                Err(error) => return Err(unconfirmed::<C>(error, is_open)),
            };
            if C::WRITES {
                failpoint::hit("store-before-commit");
            }
            let error = match call.run(&mut lease.connection).await {
                Ok(answer) => {
                    if C::WRITES {
                        failpoint::hit("store-after-commit");
                    }
                    lease.give_back();
                    return Ok(Done { answer, is_repeated });
                }
                Err(error) => error,
            };
            let verdict = verdict(&error);
            is_open |= verdict == Verdict::Lost && !is_answer(&error);
            if verdict != Verdict::Lost && lease.is_alive().await {
                lease.give_back();
            } else {
                drop(lease);
            }
            match verdict {
                Verdict::Sound => return Err(error),
                Verdict::Cancelled => return Err(timed_out(self.statement_timeout)),
                Verdict::Conflict => {
                    conflicts += 1;
                    if conflicts >= CONFLICTS {
                        return Err(error);
                    }
                    sleep(Duration::from_millis(1 << conflicts)).await;
                }
                Verdict::Lost => {
                    self.pool.forget();
                    if is_repeated || !C::REPEATABLE {
                        return Err(unconfirmed::<C>(error, is_open));
                    }
                    is_repeated = true;
                }
            }
        }
    }
}

/// What a write answers that was sent, and whose connection broke before the answer.
fn unconfirmed<C: Call>(error: StoreError, is_open: bool) -> StoreError {
    match error {
        StoreError::Unavailable(cause) if C::WRITES && is_open => StoreError::Unconfirmed(cause),
        other => other,
    }
}

/// What a call answers that took longer than this.
pub(super) fn timed_out(span: Duration) -> StoreError {
    StoreError::Timeout(span.as_millis().div_ceil(1_000).try_into().unwrap_or(u64::MAX))
}
