//! The driver behind [`crate::jobs`]: turns what the runner observes into use cases, with a back-off for each job.
//!
//! One job's trouble never delays another's: every job has a task of its own while something is done for it, [`places`] bounds how
//! many are finalized at once, apart for those that are in trouble or take long, and the stream of observations is never waited on by
//! any of them.

mod places;
mod progress;
mod waits;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::places::{Attempt, Places};
use self::waits::Waits;
use crate::core::{ExitState, JobId, Observation, RunObservation, RunState};
use crate::jobs::{Finished, Jobs};

/// First pause between two attempts for one job; doubled up to the configured longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Longest pause while another replica has the claim: with the spread at most 2.5 s, so that a dead one's job is taken over soon.
const LONGEST_TURN: Duration = Duration::from_secs(2);

/// The message of a job that goes on after it waited.
const RUNNING: &str = "running";

/// Jobs whose progress is followed at once. Fewer than the logs that a runner lets follow, so that clients find a place, too.
const FOLLOWED_AT_ONCE: usize = 192;

/// Observations that are written down at once.
const NOTES_AT_ONCE: usize = 32;

/// How finalizing is spread.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many jobs are finalized at once, besides those that take long or are tried again.
    pub concurrency: usize,
    /// Longest pause between two attempts for one job.
    pub longest_pause: Duration,
}

/// What was last seen of a run, so that the same again costs nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Waiting(Option<String>),
    Running(Option<String>),
    Ended,
}

/// The driver.
pub struct Finalizer {
    jobs: Arc<Jobs>,
    limits: Limits,
    places: Arc<Places>,
    /// Bounds the small writes of what was observed: many runs that change at once must not fill the database's queue before requests.
    notes: Arc<Semaphore>,
    followed: Arc<Semaphore>,
    /// One look for jobs without a run at a time.
    repairing: Arc<Semaphore>,
    seen: HashMap<JobId, Seen>,
    waits: Waits,
    /// Incomplete runs that are being looked after: each list shows them again.
    incomplete: Arc<Mutex<HashSet<JobId>>>,
    /// Jobs that were finalized since the last list. One that is listed yet has left something behind, and is let go again.
    finished: Arc<Mutex<Vec<JobId>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    first_list: bool,
}

impl Finalizer {
    /// A driver of these use cases that ends when `stop` is cancelled.
    #[must_use]
    pub fn new(jobs: Arc<Jobs>, limits: Limits, stop: CancellationToken) -> Self {
        let places = Arc::new(Places::new(limits.concurrency));
        let repairing = Arc::new(Semaphore::new(1));
        Self {
            jobs,
            limits,
            places,
            notes: Arc::new(Semaphore::new(NOTES_AT_ONCE)),
            followed: Arc::new(Semaphore::new(FOLLOWED_AT_ONCE)),
            repairing,
            seen: HashMap::new(),
            waits: Waits::default(),
            incomplete: Arc::default(),
            finished: Arc::default(),
            tasks: TaskTracker::new(),
            stop,
            first_list: true,
        }
    }

    /// Follows the observations until it is stopped, then waits for what is under way, at most `drain`.
    pub async fn run(mut self, mut observations: BoxStream<'static, Observation>, drain: Duration) {
        let stop = self.stop.clone();
        loop {
            let observation = tokio::select! {
                () = stop.cancelled() => break,
                id = self.waits.next() => {
                    self.waits_yet(id);
                    continue;
                }
                next = observations.next() => next,
            };
            match observation {
                Some(Observation::List(runs)) => self.listed(runs),
                Some(Observation::Change(run)) => self.observed(run),
                None => {
                    tracing::error!("the runner's observations ended; nothing is finalized any more");
                    break;
                }
            }
        }
        self.tasks.close();
        if tokio::time::timeout(drain, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                "stopped while {} jobs were being looked after; the next start goes on with them",
                self.tasks.len()
            );
        }
    }

    /// A list is the whole truth: what is not in it is gone, and rows that are not in it are repaired.
    fn listed(&mut self, runs: Vec<RunObservation>) {
        // A run whose launch was not finished is launched again like one that is not there.
        let launched = runs.iter().filter(|run| !matches!(run.state, RunState::Incomplete));
        let present: HashSet<JobId> = launched.map(|run| run.job_id).collect();
        self.seen.retain(|id, _| present.contains(id));
        for id in std::mem::take(&mut *self.finished.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.seen.remove(&id);
        }
        let live: Vec<JobId> =
            runs.iter().filter(|run| !matches!(run.state, RunState::Ended(_))).map(|run| run.job_id).collect();
        for run in runs {
            // The list is the truth: a run that is there again after its end is another one.
            if self.seen.get(&run.job_id) == Some(&Seen::Ended) && !matches!(run.state, RunState::Ended(_)) {
                self.seen.remove(&run.job_id);
            }
            self.observed(run);
        }
        let Ok(turn) = Arc::clone(&self.repairing).try_acquire_owned() else { return };
        let age = if self.first_list { self.jobs.first_repair_age() } else { self.jobs.repair_age() };
        // What was left behind just before this start is old enough only later, and the next list may be far.
        let is_again = self.first_list && !age.is_zero();
        self.first_list = false;
        let (jobs, stop) = (Arc::clone(&self.jobs), self.stop.clone());
        self.spawn(async move {
            if let Err(cause) = jobs.stop_strays(&live).await {
                tracing::warn!(
                    error = &cause as &dyn std::error::Error,
                    "could not look for runs of jobs that have ended; tried again later"
                );
            }
            repair(&jobs, &present, age).await;
            if is_again && stop.run_until_cancelled(tokio::time::sleep(age)).await.is_some() {
                repair(&jobs, &present, age).await;
            }
            drop(turn);
        });
    }

    fn observed(&mut self, run: RunObservation) {
        let id = run.job_id;
        let now = match &run.state {
            RunState::Incomplete => {
                // Not remembered once it is done: should its job have ended meanwhile, it is stopped, as often as it takes.
                if !self.incomplete.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
                    return;
                }
                let jobs = Arc::clone(&self.jobs);
                let pauses = Pauses::new(self.limits.longest_pause);
                let (notes, incomplete) = (Arc::clone(&self.notes), Arc::clone(&self.incomplete));
                self.spawn(async move {
                    retry(&notes, pauses, id, || jobs.run_is_incomplete(id)).await;
                    incomplete.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                });
                return;
            }
            RunState::Waiting { message } => Seen::Waiting(message.clone()),
            RunState::Running { message, .. } => Seen::Running(message.clone()),
            RunState::Ended(_) => Seen::Ended,
        };
        if self.seen.get(&id) == Some(&now) {
            return;
        }
        if self.seen.get(&id) == Some(&Seen::Ended) {
            return; // an older observation that came late
        }
        let before = self.seen.insert(id, now);
        let jobs = Arc::clone(&self.jobs);
        let pauses = Pauses::new(self.limits.longest_pause);
        let notes = Arc::clone(&self.notes);
        match run.state {
            RunState::Incomplete => {}
            RunState::Waiting { .. } => self.waits.keep(id),
            RunState::Running { started, message } => {
                let is_new = !matches!(before, Some(Seen::Running(_)));
                let follows = is_new && self.jobs.follows_progress();
                // It waited for something in between and goes on.
                let message = message.or_else(|| (!is_new).then(|| RUNNING.to_owned()));
                let places = Arc::clone(&self.followed);
                self.spawn(async move {
                    retry(&notes, pauses, id, || jobs.run_started(id, started, message.clone())).await;
                    if follows {
                        progress::follow(&jobs, &places, id).await;
                    }
                });
            }
            RunState::Ended(exit) => {
                let places = Arc::clone(&self.places);
                let finished = Arc::clone(&self.finished);
                self.spawn(async move {
                    if finish(&jobs, &places, pauses, id, &exit).await == Some(Finished::Done) {
                        finished.lock().unwrap_or_else(PoisonError::into_inner).push(id);
                    }
                });
            }
        }
    }

    /// A run that was kept back: if it waits yet, its job says what for.
    fn waits_yet(&self, id: JobId) {
        let Some(Seen::Waiting(message)) = self.seen.get(&id).cloned() else { return };
        let jobs = Arc::clone(&self.jobs);
        let (notes, pauses) = (Arc::clone(&self.notes), Pauses::new(self.limits.longest_pause));
        self.spawn(async move {
            retry(&notes, pauses, id, || jobs.run_waits(id, message.clone())).await;
        });
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                // Work that has begun may end; work that only waits is dropped and found again at the next start.
                () = async { stop.cancelled().await; tokio::time::sleep(Duration::from_secs(5)).await } => {}
                () = work => {}
            }
        });
    }
}

/// Looks for jobs that have no run among these.
async fn repair(jobs: &Jobs, present: &HashSet<JobId>, age: Duration) {
    if let Err(cause) = jobs.repair(present, age).await {
        tracing::warn!(
            error = &cause as &dyn std::error::Error,
            "could not look for jobs without a run; tried again later"
        );
    }
}

/// Finalizes one job, as often as it takes. `None` when it is given up at a stop.
async fn finish(jobs: &Jobs, places: &Places, mut pauses: Pauses, id: JobId, exit: &ExitState) -> Option<Finished> {
    let mut turns = Pauses::new(pauses.longest.min(LONGEST_TURN));
    let mut attempt = Attempt::First;
    loop {
        match places.run(attempt, |place, pulse| jobs.finish(id, exit, pulse, place)).await? {
            Ok(Ok(outcome @ (Finished::Done | Finished::Foreign))) => return Some(outcome),
            Ok(Ok(Finished::Claimed)) => {
                tracing::debug!(job.id = %id, "another replica finalizes this job");
                turns.wait().await;
            }
            Ok(Err(cause)) => {
                tracing::warn!(job.id = %id, error = &cause as &dyn std::error::Error, "could not finalize; tried again");
                attempt = Attempt::Again;
                pauses.wait().await;
            }
            Err(next) => {
                tracing::debug!(job.id = %id, ?next, "this job takes long to finalize; it waits for a place for that");
                attempt = next;
            }
        }
    }
}

/// Does a small step for one job, as often as it takes.
async fn retry<F, W>(notes: &Semaphore, mut pauses: Pauses, id: JobId, mut step: F)
where
    F: FnMut() -> W,
    W: Future<Output = Result<(), crate::jobs::Error>>,
{
    loop {
        let outcome = {
            let Ok(_permit) = notes.acquire().await else { return };
            step().await
        };
        let Err(cause) = outcome else { return };
        tracing::warn!(job.id = %id, error = &cause as &dyn std::error::Error, "could not note what was observed; tried again");
        pauses.wait().await;
    }
}

/// Growing pauses with a spread, so that many jobs in trouble do not knock all at once.
struct Pauses {
    next: Duration,
    longest: Duration,
}

impl Pauses {
    fn new(longest: Duration) -> Self {
        Self { next: FIRST_PAUSE.min(longest), longest }
    }

    async fn wait(&mut self) {
        // The random bits of a fresh id are as good a spread as any.
        let spread = uuid::Uuid::new_v4().as_bytes().first().copied().map_or(0, u32::from);
        tokio::time::sleep(self.next.mul_f64(0.75 + f64::from(spread) / 512.0)).await;
        self.next = (self.next * 2).min(self.longest);
    }
}

#[cfg(test)]
mod tests;
