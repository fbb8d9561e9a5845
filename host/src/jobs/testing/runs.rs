//! A runner whose runs have ended with the logs that a test gives them.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};

use super::well;
use crate::core::{JobId, LogEvent, Observation, RunState};
use crate::runner::{Launch, Runner, RunnerError};

/// What a run gives as its log.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Log {
    /// This, and all of it.
    Whole(&'static str),
    /// This; the rest is gone for good.
    Part(&'static str),
    /// This, with such a pause before each of its lines.
    Slow(&'static str, Duration),
    /// Nothing, and no end either.
    Hangs,
}

/// The runs. One without a log is not there.
#[derive(Default)]
pub(crate) struct Runs {
    logs: Mutex<HashMap<JobId, Log>>,
    /// Done once, when a log has been read to its end.
    then: Mutex<Option<BoxFuture<'static, ()>>>,
    read: AtomicUsize,
    /// How long a launch takes.
    pub(crate) launch_takes: Mutex<Duration>,
    pub(crate) launches_are_refused: AtomicBool,
    pub(crate) launched: Mutex<Vec<JobId>>,
    /// How many calls to stop a run fail before they work.
    pub(crate) cancels_that_fail: AtomicUsize,
    pub(crate) cancelled: Mutex<Vec<JobId>>,
}

impl Runs {
    pub(crate) fn set(&self, id: JobId, log: Log) {
        self.logs.lock().unwrap().insert(id, log);
    }

    pub(crate) fn delete(&self, id: JobId) {
        self.logs.lock().unwrap().remove(&id);
    }

    pub(crate) fn after_the_next_log(&self, work: impl Future<Output = ()> + Send + 'static) {
        *self.then.lock().unwrap() = Some(work.boxed());
    }

    /// How many logs were asked for.
    pub(crate) fn read(&self) -> usize {
        self.read.load(Ordering::Relaxed)
    }

    fn unavailable() -> RunnerError {
        RunnerError::Unavailable { message: "a test said so".to_owned(), source: "it did".into() }
    }
}

#[async_trait]
impl Runner for Runs {
    fn name(&self) -> &'static str {
        "local"
    }

    fn check(&self, _launch: &Launch) -> Result<(), RunnerError> {
        Ok(())
    }

    async fn launch(&self, launch: &Launch) -> Result<(), RunnerError> {
        let takes = *self.launch_takes.lock().unwrap();
        tokio::time::sleep(takes).await;
        self.launched.lock().unwrap().push(launch.job_id);
        match self.launches_are_refused.load(Ordering::Relaxed) {
            true => Err(RunnerError::Refused("a test said so".to_owned())),
            false => Ok(()),
        }
    }

    async fn cancel(&self, job_id: JobId) -> Result<(), RunnerError> {
        let fails = |left: usize| left.checked_sub(1);
        if self.cancels_that_fail.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fails).is_ok() {
            return Err(Self::unavailable());
        }
        self.cancelled.lock().unwrap().push(job_id);
        Ok(())
    }

    fn observations(&self) -> BoxStream<'static, Observation> {
        stream::pending().boxed()
    }

    async fn state(&self, job_id: JobId) -> Result<Option<RunState>, RunnerError> {
        Ok(self.logs.lock().unwrap().get(&job_id).map(|_| RunState::Ended(well())))
    }

    async fn logs(
        &self,
        job_id: JobId,
        _follow: bool,
    ) -> Result<BoxStream<'static, Result<LogEvent, RunnerError>>, RunnerError> {
        let log = self.logs.lock().unwrap().get(&job_id).copied();
        let Some(log) = log else { return Err(RunnerError::NoSuchRun(job_id)) };
        self.read.fetch_add(1, Ordering::Relaxed);
        let bytes = |text: &'static str| LogEvent::Bytes(Bytes::from_static(text.as_bytes()));
        let mut events = vec![LogEvent::Container { name: "main".into() }];
        match log {
            Log::Whole(text) => events.push(bytes(text)),
            Log::Part(text) => {
                events.extend([bytes(text), LogEvent::Missing { reason: "the node is gone".to_owned() }]);
            }
            Log::Slow(text, pause) => {
                let lines = stream::iter(text.split_inclusive('\n')).then(move |line| async move {
                    tokio::time::sleep(pause).await;
                    Ok(bytes(line))
                });
                return Ok(stream::iter(events.into_iter().map(Ok)).chain(lines).boxed());
            }
            Log::Hangs => return Ok(stream::pending().boxed()),
        }
        let then = self.then.lock().unwrap().take();
        let end = stream::once(async move {
            if let Some(then) = then {
                then.await;
            }
        });
        Ok(stream::iter(events.into_iter().map(Ok)).chain(end.filter_map(|()| async { None })).boxed())
    }

    async fn release(&self, job_id: JobId) -> Result<(), RunnerError> {
        self.delete(job_id);
        Ok(())
    }

    async fn ready(&self) -> Result<(), RunnerError> {
        Ok(())
    }
}
