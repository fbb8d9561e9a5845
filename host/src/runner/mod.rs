//! The runner: executes plans. [`local`] runs them as processes of this machine, [`kubernetes`] as Jobs of a cluster.
//!
//! A run is named by its job's id alone, so that every call can be repeated and a server that starts again finds its runs.

#[cfg(any(test, feature = "failpoints"))]
pub mod contract;
mod environment;
pub mod inspection;
pub mod kubernetes;
pub mod local;
mod signal;

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde_json::value::RawValue;

use crate::core::{JobId, JobPlan, LogEvent, Observation, ProcessId, RunState, Timestamp};

/// Why the runner did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// It never will: the plan cannot be run here. The text tells the caller why.
    #[error("{0}")]
    Refused(String),
    /// It never will: more would have to travel with the run than can.
    #[error("{what} has {bytes} bytes; at most {limit} are possible here")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        bytes: usize,
        /// How large it may be.
        limit: usize,
    },
    /// It may work later.
    #[error("the runner is not available: {message}")]
    Unavailable {
        /// What was tried.
        message: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The runner has no run of this job.
    #[error("there is no run of job {0}")]
    NoSuchRun(JobId),
}

/// Everything that a run is made from.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Whose run.
    pub job_id: JobId,
    /// The process, for `PYGEOAPI_PROCESS_ID`.
    pub process_id: ProcessId,
    /// The plan, with nothing masked.
    pub plan: Arc<JobPlan>,
    /// The inputs as a JSON object, without consumed ones; absent when the request had none.
    pub inputs: Option<Arc<RawValue>>,
    /// `VESPIARY_RESULT_NONCE` for the containers of a plan that asks for one.
    pub nonce: Option<String>,
    /// When the job was accepted.
    pub created: Timestamp,
    /// What of plan and inputs everybody may see; absent when nothing of them is secret.
    pub masked: Option<Masked>,
}

/// Plan and inputs as they may be seen by those who may not see their secrets.
#[derive(Debug, Clone)]
pub struct Masked {
    /// The plan, with every occurrence of a secret replaced; of the same shape as the one that runs.
    pub plan: Arc<JobPlan>,
    /// The inputs as a JSON object, with every secret replaced.
    pub inputs: Arc<RawValue>,
}

impl Launch {
    /// Whether the inputs hold secrets.
    #[must_use]
    pub fn has_secret_inputs(&self) -> bool {
        match (&self.inputs, &self.masked) {
            (Some(inputs), Some(masked)) => inputs.get() != masked.inputs.get(),
            _ => false,
        }
    }
}

/// The trait of both runners.
#[async_trait]
pub trait Runner: Send + Sync {
    /// `local` or `kubernetes`.
    fn name(&self) -> &'static str;

    /// Whose runs these are: runners of one scope see the same runs, and only they may take a run that they do not see for lost. At
    /// most 200 characters, the same after a restart.
    fn scope(&self) -> &str {
        self.name()
    }

    /// Whether this can be launched here at all; a refusal says what is missing. Nothing is done and nobody is asked.
    fn check(&self, launch: &Launch) -> Result<(), RunnerError>;

    /// Starts a run. A run of this job that is already there is success, unless somebody else has let it go: then nobody will see its end,
    /// and the launch is refused.
    async fn launch(&self, launch: &Launch) -> Result<(), RunnerError>;

    /// Stops a run, if there is one that has not ended; its end is observed as any other's. Repeating it is fine.
    async fn cancel(&self, job_id: JobId) -> Result<(), RunnerError>;

    /// The level-triggered stream of observations. It never ends; trouble is retried inside and followed by a list.
    fn observations(&self) -> BoxStream<'static, Observation>;

    /// The state of one run now; `None` when there is none.
    async fn state(&self, job_id: JobId) -> Result<Option<RunState>, RunnerError>;

    /// The log from its beginning, containers in the order of the plan; of a run that was tried again, all attempts one after another.
    /// With `follow` it ends when the run does; without, at what is there now. Of a run that has ended both give the same bytes. A run
    /// that is released at this moment is [`RunnerError::NoSuchRun`].
    async fn logs(
        &self,
        job_id: JobId,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<LogEvent, RunnerError>>, RunnerError>;

    /// Lets everything of a run go. Its log is captured by now. A run that is not there is success.
    async fn release(&self, job_id: JobId) -> Result<(), RunnerError>;

    /// Whether runs can be started and seen now; for readiness.
    async fn ready(&self) -> Result<(), RunnerError>;
}
