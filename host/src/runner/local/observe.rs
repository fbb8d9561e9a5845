//! The runs that a runner knows, and how their states follow the files of their folders.
//!
//! Invariant: what is shown of a run was read from its folder, under the run's slot; the files are the truth, and the datagrams, the
//! shims' ends and the clock only say when to look. A slot may be locked before the map or the places, never behind them.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::BoxStream;
use tokio::sync::{Notify, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use super::places::Places;
use super::run_dir::{self, Logs, RunDir};
use super::shim::processes;
use super::{Settings, ShimProgram};
use crate::core::{EndReason, ExitState, JobId, Observation, RunObservation, RunState, Timestamp};
use crate::runner::RunnerError;

/// How long one step of file work may take.
const DEADLINE: Duration = Duration::from_secs(30);

const _: () = assert!(processes::LEFTOVERS_PATIENCE.as_secs() * 2 <= DEADLINE.as_secs());

/// File work that is done at once; what is more waits its turn.
const FILE_WORKERS: usize = 16;

/// How often the whole list is told again.
const LIST_EVERY: Duration = Duration::from_secs(30);

/// The longest pause before a shim that could not begin is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Changes that an observer may be behind before it gets the whole list instead.
const CHANGES: usize = 4096;

/// Where a run is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its folder is not there yet.
    New,
    /// Its folder is there, and no shim.
    Waiting,
    /// A shim was started; it is our child and has not been waited for.
    Started,
    /// A shim that is not our child has it, or had it.
    Adopted,
    /// Nothing of it is left.
    Ended,
    /// Its folder is gone.
    Gone,
}

/// What is known of one run.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) stage: Stage,
    pub(super) shown: RunState,
    /// Shims that left without having begun, one after another.
    pub(super) misses: u32,
    /// The logs of a run that has ended, for those who still read when it is released; absent if they could not be counted.
    pub(super) logs: Option<Logs>,
}

/// One run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: JobId,
    pub(super) dir: RunDir,
    pub(super) slot: Mutex<Slot>,
}

/// Takes a lock; what a thread that panicked left in it is as good as any state in between.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a [`RunnerError::Unavailable`] of what was tried and what went wrong.
pub(super) fn unavailable(message: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> RunnerError {
    RunnerError::Unavailable { message: message.to_owned(), source: source.into() }
}

/// What the runner and its tasks share.
pub(super) struct Inner {
    pub(super) settings: Settings,
    pub(super) shim: ShimProgram,
    pub(super) runs_dir: PathBuf,
    pub(super) runs: Mutex<BTreeMap<JobId, Arc<Run>>>,
    pub(super) places: Mutex<Places>,
    pub(super) changes: broadcast::Sender<RunObservation>,
    /// A place became free or a run began to wait.
    pub(super) scheduler: Notify,
    /// A run is alive that nobody polls yet.
    pub(super) poller: Notify,
    /// There is trash to be removed.
    pub(super) sweeper: Notify,
    pub(super) stopping: CancellationToken,
    file_work: Semaphore,
}

impl Inner {
    pub(super) fn new(settings: Settings, shim: ShimProgram, runs_dir: PathBuf) -> Self {
        let places = Places::new(settings.places());
        Self {
            settings,
            shim,
            runs_dir,
            runs: Mutex::default(),
            places: Mutex::new(places),
            changes: broadcast::channel(CHANGES).0,
            scheduler: Notify::new(),
            poller: Notify::new(),
            sweeper: Notify::new(),
            stopping: CancellationToken::new(),
            file_work: Semaphore::new(FILE_WORKERS),
        }
    }

    /// Does file work off the async threads, with a deadline.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> Result<T, RunnerError> + Send + 'static,
    ) -> Result<T, RunnerError> {
        let done = tokio::time::timeout(DEADLINE, async {
            let permit = self.file_work.acquire().await.map_err(|closed| unavailable(what, closed))?;
            let done = tokio::task::spawn_blocking(work).await;
            drop(permit);
            done.map_err(|stopped| unavailable(what, stopped))?
        });
        done.await.unwrap_or_else(|late| Err(unavailable(what, late)))
    }

    pub(super) fn run(&self, job_id: JobId) -> Option<Arc<Run>> {
        lock(&self.runs).get(&job_id).map(Arc::clone)
    }

    /// The run of this id, made if it is not known.
    pub(super) fn run_or_new(&self, job_id: JobId) -> Arc<Run> {
        let new = || {
            let dir = RunDir::new(self.runs_dir.join(job_id.to_string()));
            let slot = Slot { stage: Stage::New, shown: RunState::Waiting { message: None }, misses: 0, logs: None };
            Arc::new(Run { id: job_id, dir, slot: Mutex::new(slot) })
        };
        Arc::clone(lock(&self.runs).entry(job_id).or_insert_with(new))
    }

    /// Takes a run away. Quick, however much is in its folder: that is removed by a task, without the slot.
    pub(super) fn discard(&self, run: &Run, slot: &mut Slot) -> io::Result<()> {
        run.dir.discard()?;
        self.forget(run, slot);
        self.sweeper.notify_one();
        Ok(())
    }

    /// Forgets a run whose folder is gone.
    pub(super) fn forget(&self, run: &Run, slot: &mut Slot) {
        slot.stage = Stage::Gone;
        lock(&self.places).leave(run.id);
        lock(&self.runs).remove(&run.id);
        self.scheduler.notify_one();
    }

    /// Shows a state to the observers, if it is another.
    pub(super) fn show(&self, run: &Run, slot: &mut Slot, state: RunState) {
        let same = match (&slot.shown, &state) {
            (RunState::Waiting { message: old }, RunState::Waiting { message: new }) => old == new,
            (RunState::Running { started: old, .. }, RunState::Running { started: new, .. }) => old == new,
            (RunState::Ended(old), RunState::Ended(new)) => old == new,
            _ => false,
        };
        if !same {
            slot.shown = state.clone();
            // Nobody may be listening.
            let _ = self.changes.send(RunObservation { job_id: run.id, state });
        }
    }

    fn ended(&self, run: &Run, slot: &mut Slot, exit: ExitState) {
        slot.stage = Stage::Ended;
        slot.logs = run.dir.count_logs().ok();
        lock(&self.places).leave(run.id);
        self.show(run, slot, RunState::Ended(exit));
        self.scheduler.notify_one();
    }

    /// Reads a run's folder again. Blocks.
    pub(super) fn refresh(&self, run: &Run) -> io::Result<()> {
        self.refresh_slot(run, &mut lock(&run.slot))
    }

    pub(super) fn refresh_slot(&self, run: &Run, slot: &mut Slot) -> io::Result<()> {
        if matches!(slot.stage, Stage::New | Stage::Ended | Stage::Gone) {
            return Ok(());
        }
        if let Some(exit) = run.dir.ended()? {
            self.ended(run, slot, exit);
            return Ok(());
        }
        let locked = match run.dir.is_locked() {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !run.dir.exists() => {
                self.forget(run, slot);
                return Ok(());
            }
            locked => locked?,
        };
        if locked {
            if slot.stage == Stage::Waiting {
                // The shim of an earlier server was faster than ours.
                slot.stage = Stage::Adopted;
            }
            lock(&self.places).occupy(run.id);
            self.poller.notify_one();
            let state = match run.dir.started()? {
                Some(record) => RunState::Running { started: record.started, message: None },
                None => RunState::Waiting { message: None },
            };
            self.show(run, slot, state);
            return Ok(());
        }
        // A child of ours that has not taken the lock yet will, or we learn of its end.
        if slot.stage == Stage::Adopted { self.settle(run, slot) } else { Ok(()) }
    }

    /// Decides what becomes of a run that no shim has.
    pub(super) fn settle(&self, run: &Run, slot: &mut Slot) -> io::Result<()> {
        let Some(_lock) = run.dir.try_lock()? else { return Ok(()) };
        // Again under the lock: the shim may have written its last word just now.
        if let Some(exit) = run.dir.ended()? {
            self.ended(run, slot, exit);
            return Ok(());
        }
        let (reason, started, message) = if let Some(record) = run.dir.started()? {
            if !processes::end_leftovers(run.id, run.dir.path()) {
                tracing::warn!(job_id = %run.id, "a process of a lost run does not die of SIGKILL; it is left alone");
            }
            (EndReason::Lost, Some(record.started), "the machine or the process that watched it was stopped")
        } else if run.dir.cancel_requested() {
            (EndReason::Cancelled, None, "cancelled before it started")
        } else {
            if run.dir.spec()?.is_none() {
                tracing::warn!(job_id = %run.id, "the folder of a run holds no specification and was not begun: removed");
                self.discard(run, slot)?;
            } else {
                self.miss(run, slot);
            }
            return Ok(());
        };
        let finished = Timestamp::now();
        let message = message.to_owned();
        let exit = ExitState { reason, container: None, exit_code: None, signal: None, message, started, finished };
        // Written down, so that it stays the same whoever asks and whenever.
        run.dir.write_ended(&exit)?;
        self.ended(run, slot, exit);
        Ok(())
    }

    /// A run whose shim left before it began, or that has none yet, waits for the next.
    fn miss(&self, run: &Run, slot: &mut Slot) {
        let again = slot.stage == Stage::Started;
        slot.stage = Stage::Waiting;
        slot.misses = if again { slot.misses.saturating_add(1) } else { 0 };
        let pause =
            if again { Duration::from_millis(500u64 << slot.misses.min(6)).min(LONGEST_PAUSE) } else { Duration::ZERO };
        lock(&self.places).wait_until(run.id, Instant::now() + pause);
        let message = if again {
            let why = run.dir.trouble().unwrap_or_else(|| "it left without a word".to_owned());
            tracing::warn!(job_id = %run.id, why, "a shim could not begin; it is started again");
            Some(format!("the process that watches the run could not begin: {why}; it is tried again"))
        } else {
            lock(&self.places).why_wait()
        };
        self.show(run, slot, RunState::Waiting { message });
        self.scheduler.notify_one();
    }

    /// Starts a shim for a run that has a place. Blocks.
    pub(super) fn start(self: &Arc<Self>, run: &Arc<Run>, slot: &mut Slot) -> io::Result<()> {
        let mut child = self.shim.command(run.dir.path()).spawn()?;
        slot.stage = Stage::Started;
        self.show(run, slot, RunState::Waiting { message: None });
        self.poller.notify_one();
        let (inner, run) = (Arc::clone(self), Arc::clone(run));
        tokio::runtime::Handle::current().spawn(async move {
            let left = tokio::select! {
                left = child.wait() => left,
                () = inner.stopping.cancelled() => return,
            };
            tracing::debug!(job_id = %run.id, ?left, "a shim left");
            inner.shim_left(run).await;
        });
        Ok(())
    }

    async fn shim_left(self: &Arc<Self>, run: Arc<Run>) {
        loop {
            let (inner, run, job_id) = (Arc::clone(self), Arc::clone(&run), run.id);
            let settled = self.blocking("to read how a run ended", move || {
                let mut slot = lock(&run.slot);
                let read = inner.refresh_slot(&run, &mut slot);
                let settled =
                    if read.is_ok() && slot.stage == Stage::Started { inner.settle(&run, &mut slot) } else { read };
                if slot.stage == Stage::Started {
                    // Another shim has the lock, or the disk would not have it: the poller goes on from here.
                    slot.stage = Stage::Adopted;
                }
                settled.map_err(|error| unavailable("to read how a run ended", error))
            });
            let Err(error) = settled.await else { return };
            tracing::warn!(%job_id, error = &error as &dyn std::error::Error, "cannot read how a run ended; it is tried again");
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = self.stopping.cancelled() => return,
            }
        }
    }

    /// Compares what is known with the folders that are there. Blocks.
    pub(super) fn reconcile(&self) -> io::Result<()> {
        // The known ones first: one that is launched in between is in the folder and not among these.
        let known: Vec<_> = lock(&self.runs).values().map(Arc::clone).collect();
        let there = run_dir::job_ids(&self.runs_dir)?;
        for run in known {
            let mut slot = lock(&run.slot);
            if !matches!(slot.stage, Stage::New | Stage::Gone) && !there.contains(&run.id) && !run.dir.exists() {
                self.forget(&run, &mut slot);
            }
        }
        for id in there {
            let run = self.run_or_new(id);
            let mut slot = lock(&run.slot);
            if slot.stage == Stage::New {
                self.adopt(&run, &mut slot);
            } else if let Err(error) = self.refresh_slot(&run, &mut slot) {
                tracing::warn!(job_id = %id, %error, "cannot read the folder of a run");
            }
        }
        Ok(())
    }

    /// Takes on a run whose folder was there already.
    pub(super) fn adopt(&self, run: &Run, slot: &mut Slot) {
        slot.stage = Stage::Adopted;
        if !run.dir.exists() {
            self.forget(run, slot);
        } else if let Err(error) = self.refresh_slot(run, slot) {
            lock(&self.places).occupy(run.id);
            self.poller.notify_one();
            tracing::warn!(job_id = %run.id, %error, "cannot read the folder of a run");
        }
    }

    /// All runs as they are now. Blocks.
    pub(super) fn list(&self) -> Vec<RunObservation> {
        if let Err(error) = self.reconcile() {
            tracing::warn!(%error, "cannot list the folders of the runs");
        }
        let runs: Vec<_> = lock(&self.runs).values().map(Arc::clone).collect();
        let shown = |run: Arc<Run>| {
            let slot = lock(&run.slot);
            let there = !matches!(slot.stage, Stage::New | Stage::Gone);
            there.then(|| RunObservation { job_id: run.id, state: slot.shown.clone() })
        };
        runs.into_iter().filter_map(shown).collect()
    }

    /// The stream of observations, until the runner is dropped.
    pub(super) fn observations(self: &Arc<Self>) -> BoxStream<'static, Observation> {
        let inner = Arc::clone(self);
        Box::pin(async_stream::stream! {
            loop {
                // Before the list is made: a change in between is then told twice, not never.
                let mut changes = inner.changes.subscribe();
                let lister = Arc::clone(&inner);
                match inner.blocking("to list the runs", move || Ok(lister.list())).await {
                    Ok(list) => yield Observation::List(list),
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "cannot list the runs; it is tried again");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                }
                let again = tokio::time::sleep(LIST_EVERY);
                tokio::pin!(again);
                loop {
                    let change = tokio::select! {
                        change = changes.recv() => change,
                        () = &mut again => break,
                        () = inner.stopping.cancelled() => return,
                    };
                    match change {
                        Ok(change) => yield Observation::Change(change),
                        Err(_) => break,
                    }
                }
            }
        })
    }
}
