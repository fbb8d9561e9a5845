//! The embedded runner: a plan's containers as processes of this machine, one after another, each run under a shim of its own that
//! outlives the server. For development and single machines: images are ignored, nothing is isolated.
//!
//! Invariant: everything about a run is in its folder, `<data>/runs/<job-id>`, so that a server that starts again knows what the one
//! before it knew. A run starts at most once.
//!
//! What of a plan counts: commands, arguments, variables, volumes, working directories, memory limits, deadline and retries.
//! Secrets are files `<data>/secrets/<name>/<key>`, config maps `<data>/config-maps/<name>/<key>`, claims folders
//! `<data>/volumes/<claim>`. A mount at `/data` appears as `data` below the working directory. Images, requests, other limits, and
//! whatever is about nodes, accounts and queues of a cluster have no meaning here.

mod inspection;
mod logs;
mod observe;
mod places;
mod run_dir;
mod scope;
pub mod shim;
mod spec;
mod tasks;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use self::observe::{Inner, Run, Slot, Stage, lock, unavailable};
use self::spec::Spec;
use super::{Launch, Runner, RunnerError, environment};
use crate::core::{JobId, LogEvent, Observation, RunState};
use crate::failpoint;

pub use self::inspection::LocalInspector;

/// Settings of the local runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Runs at once; further ones wait in the order of their jobs. Absent: four for each processor core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_running: Option<NonZeroU32>,
    /// Seconds that a run has between the request to stop (SIGTERM) and its end by force (SIGKILL).
    pub grace_seconds: u32,
    /// Files that a container may have open, unless the system allows fewer.
    pub open_files: u64,
    /// Milliseconds before a failed run is tried again for the first time; twice as many for each further time, 6 minutes at most.
    pub retry_delay_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_running: None, grace_seconds: 10, open_files: 65_536, retry_delay_ms: 5_000 }
    }
}

impl Settings {
    fn places(&self) -> usize {
        match self.max_running {
            Some(count) => usize::try_from(count.get()).unwrap_or(usize::MAX),
            None => std::thread::available_parallelism().map_or(1, usize::from).saturating_mul(4),
        }
    }
}

/// How long a server that starts reads the runs that are there. A run with a process that cannot be ended takes seconds of it.
const OPEN_DEADLINE: Duration = Duration::from_secs(120);

/// How a shim is started.
#[derive(Debug, Clone)]
struct ShimProgram {
    program: PathBuf,
    args: Vec<OsString>,
    /// All of its environment.
    env: Vec<(OsString, OsString)>,
}

impl ShimProgram {
    fn command(&self, run_dir: &Path) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.args).arg(run_dir).env_clear().envs(self.env.iter().map(|(name, value)| (name, value)));
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

/// The local runner. Its tasks and streams end when it is dropped; its runs go on.
pub struct LocalRunner {
    inner: Arc<Inner>,
    scope: String,
}

impl Drop for LocalRunner {
    fn drop(&mut self) {
        self.inner.stopping.cancel();
    }
}

impl LocalRunner {
    /// Opens the runner in a server's data folder and takes on the runs that are there. `shim_program shim <run-dir>` must call
    /// [`shim::main`]; it is started with an empty environment.
    pub async fn open(settings: Settings, data_dir: &Path, shim_program: PathBuf) -> Result<Self, RunnerError> {
        Self::open_with(
            settings,
            data_dir,
            ShimProgram { program: shim_program, args: vec!["shim".into()], env: Vec::new() },
            OPEN_DEADLINE,
        )
        .await
    }

    async fn open_with(
        settings: Settings,
        data_dir: &Path,
        shim: ShimProgram,
        deadline: Duration,
    ) -> Result<Self, RunnerError> {
        const WHAT: &str = "to open the folder of the runs";
        let data_dir = data_dir.to_owned();
        let prepared = tokio::task::spawn_blocking(move || {
            let runs = data_dir.join("runs");
            run_dir::private_dir(&runs)?;
            // Absolute: shims work elsewhere.
            let runs = fs::canonicalize(runs)?;
            run_dir::discard_half_made(&runs)?;
            Ok::<_, std::io::Error>((runs, scope::of(&data_dir)?))
        });
        let (runs_dir, scope) =
            prepared.await.map_err(|stopped| unavailable(WHAT, stopped))?.map_err(|error| unavailable(WHAT, error))?;
        let inner = Arc::new(Inner::new(settings, shim, runs_dir));
        let reader = Arc::clone(&inner);
        let read = tokio::task::spawn_blocking(move || reader.reconcile());
        match tokio::time::timeout(deadline, read).await {
            Ok(read) => {
                read.map_err(|stopped| unavailable(WHAT, stopped))?.map_err(|error| unavailable(WHAT, error))?;
            }
            // One run that cannot be read now must not keep all others from going on.
            Err(_) => {
                tracing::warn!(?deadline, "not all runs could be read in time; the server starts without the rest");
            }
        }
        let data_dir = inner.runs_dir.parent().unwrap_or(&inner.runs_dir).to_owned();
        tasks::spawn(&inner, &data_dir);
        Ok(Self { inner, scope })
    }
}

/// Makes a run's folder and, if a place is free, starts its shim. Blocks. A failure leaves nothing.
fn launch_in_slot(inner: &Arc<Inner>, run: &Arc<Run>, slot: &mut Slot, launch: &Launch) -> Result<(), RunnerError> {
    if run.dir.exists() {
        // Made by another server on the same folder since the last list.
        inner.adopt(run, slot);
        return Ok(());
    }
    let text = launch.inputs.as_ref().map(|inputs| inputs.get().as_bytes());
    let large = text.filter(|_| environment::inputs_in_file(launch));
    let settings = &inner.settings;
    let spec = Spec {
        job_id: launch.job_id,
        process_id: launch.process_id.clone(),
        plan: Arc::clone(&launch.plan),
        inputs: if large.is_some() { None } else { launch.inputs.clone() },
        inputs_in_file: large.is_some(),
        nonce: launch.nonce.clone(),
        grace_seconds: settings.grace_seconds,
        open_files: settings.open_files,
        retry_delay_ms: settings.retry_delay_ms,
    };
    run.dir.create(&spec, large).map_err(|error| unavailable("to make the folder of a run", error))?;
    failpoint::hit("local-spec-written");
    slot.stage = Stage::Waiting;
    let has_place = lock(&inner.places).enter(run.id);
    if !has_place {
        let message = lock(&inner.places).why_wait();
        inner.show(run, slot, RunState::Waiting { message });
        inner.scheduler.notify_one();
        return Ok(());
    }
    let started = inner.start(run, slot);
    failpoint::hit("local-shim-spawned");
    started.map_err(|error| {
        // The caller forgets the run.
        if let Err(error) = run.dir.discard() {
            tracing::warn!(job_id = %run.id, %error, "cannot remove the folder of a run that could not be started");
        }
        inner.sweeper.notify_one();
        unavailable("to start the process that watches a run", error)
    })
}

#[async_trait]
impl Runner for LocalRunner {
    fn name(&self) -> &'static str {
        "local"
    }

    fn scope(&self) -> &str {
        &self.scope
    }

    fn check(&self, launch: &Launch) -> Result<(), RunnerError> {
        spec::check(&launch.plan).and_then(|()| environment::check_inputs(launch)).map_err(RunnerError::Refused)
    }

    async fn launch(&self, launch: &Launch) -> Result<(), RunnerError> {
        self.check(launch)?;
        let (inner, launch) = (Arc::clone(&self.inner), launch.clone());
        self.inner
            .blocking("to launch a run", move || {
                loop {
                    let run = inner.run_or_new(launch.job_id);
                    let mut slot = lock(&run.slot);
                    match slot.stage {
                        // Whoever held the slot failed and took the run back.
                        Stage::Gone => {}
                        Stage::New => {
                            let launched = launch_in_slot(&inner, &run, &mut slot, &launch);
                            if launched.is_err() {
                                inner.forget(&run, &mut slot);
                            }
                            return launched;
                        }
                        Stage::Waiting | Stage::Started | Stage::Adopted | Stage::Ended => return Ok(()),
                    }
                }
            })
            .await
    }

    async fn cancel(&self, job_id: JobId) -> Result<(), RunnerError> {
        let Some(run) = self.inner.run(job_id) else { return Ok(()) };
        let inner = Arc::clone(&self.inner);
        self.inner
            .blocking("to cancel a run", move || {
                const WHAT: &str = "to leave the wish to cancel a run";
                let mut slot = lock(&run.slot);
                if matches!(slot.stage, Stage::New | Stage::Ended | Stage::Gone) {
                    return Ok(());
                }
                // The shim is told even if the wish cannot be written: while both live that is enough.
                let written = run.dir.request_cancel();
                let read = inner.refresh_slot(&run, &mut slot);
                let settled = if slot.stage == Stage::Waiting { inner.settle(&run, &mut slot) } else { Ok(()) };
                if slot.stage != Stage::Ended {
                    run.dir.wake_shim();
                }
                written.and(read).and(settled).map_err(|error| unavailable(WHAT, error))
            })
            .await
    }

    fn observations(&self) -> BoxStream<'static, Observation> {
        self.inner.observations()
    }

    async fn state(&self, job_id: JobId) -> Result<Option<RunState>, RunnerError> {
        let Some(run) = self.inner.run(job_id) else { return Ok(None) };
        let inner = Arc::clone(&self.inner);
        self.inner
            .blocking("to read the state of a run", move || {
                let mut slot = lock(&run.slot);
                let read = inner.refresh_slot(&run, &mut slot);
                read.map_err(|error| unavailable("to read the folder of a run", error))?;
                Ok((!matches!(slot.stage, Stage::New | Stage::Gone)).then(|| slot.shown.clone()))
            })
            .await
    }

    async fn logs(
        &self,
        job_id: JobId,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<LogEvent, RunnerError>>, RunnerError> {
        let run = self.inner.run(job_id).ok_or(RunnerError::NoSuchRun(job_id))?;
        let reader = Arc::clone(&run);
        let names = self
            .inner
            .blocking("to read which containers a run has", move || {
                let spec = reader.dir.spec().map_err(|error| unavailable("to read the folder of a run", error))?;
                // Afterwards: a specification that was not found may have been released.
                let there = reader.dir.exists() && !matches!(lock(&reader.slot).stage, Stage::New | Stage::Gone);
                Ok(there.then(|| {
                    spec.map(|spec| spec.plan.all_containers().map(|container| container.name.clone()).collect())
                }))
            })
            .await?
            .ok_or(RunnerError::NoSuchRun(job_id))?;
        logs::stream(Arc::clone(&self.inner), run, names, follow).await
    }

    async fn release(&self, job_id: JobId) -> Result<(), RunnerError> {
        let Some(run) = self.inner.run(job_id) else { return Ok(()) };
        let inner = Arc::clone(&self.inner);
        self.inner
            .blocking("to release a run", move || {
                let mut slot = lock(&run.slot);
                inner
                    .refresh_slot(&run, &mut slot)
                    .map_err(|error| unavailable("to read the folder of a run", error))?;
                match slot.stage {
                    Stage::New | Stage::Gone => Ok(()),
                    Stage::Ended => {
                        let gone = inner.discard(&run, &mut slot);
                        gone.map_err(|error| unavailable("to remove the folder of a run", error))
                    }
                    _ => Err(RunnerError::Refused(format!("the run of job {job_id} has not ended"))),
                }
            })
            .await
    }

    async fn ready(&self) -> Result<(), RunnerError> {
        let inner = Arc::clone(&self.inner);
        self.inner
            .blocking("to see whether runs can be started", move || {
                let file = inner.runs_dir.join(format!("{}{}", run_dir::NEW, uuid::Uuid::now_v7()));
                let written = File::create_new(&file).and_then(|mut file| file.write_all(&[b'.'; 4096]));
                let removed = fs::remove_file(&file);
                written.and(removed).map_err(|error| unavailable("to write into the folder of the runs", error))?;
                let program = fs::metadata(&inner.shim.program);
                program.map(drop).map_err(|error| unavailable("to find the program that watches runs", error))
            })
            .await
    }
}
