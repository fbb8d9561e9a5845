//! The use cases, and the only place that combines the adapters: submit, read, dismiss, observe, finish, repair, deploy.
//!
//! The story of an execution is read in this folder: [`submit`] writes the row and launches the run, [`observe`] follows what the
//! runner sees, [`finish`] captures log and result and writes the final record, [`repair`] does again what a crash left undone.
//! Every step can be done twice.

mod access;
pub mod capture;
mod deploy;
mod dismiss;
mod earlier;
mod error;
mod finish;
pub mod inspect;
mod launching;
mod observe;
mod outputs;
mod read;
mod repair;
pub mod shape;
mod submit;
#[cfg(test)]
pub(crate) mod testing;
mod wait;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

pub use self::access::Asker;
pub use self::error::Error;
pub use self::finish::{Finished, Pulse};
use self::launching::Launching;
pub use self::observe::Followed;
use self::wait::Waiters;
use crate::archive::Archive;
pub use crate::archive::ByteRange;
use crate::core::job::StoredRequest;
use crate::core::{Digest, Job, JobId, JobPlan, OutputRecord, Policy, Principal, ProcessDescription, ProcessId, Role};
use crate::processor::Registry;
pub use crate::processor::{ProcessReport, Sources};
use crate::runner::Runner;
pub use crate::runner::RunnerError;
use crate::store::JobStore;

/// Executions that are written and launched at once; each holds its plan and inputs in memory.
const STARTING_AT_ONCE: usize = 1024;

/// How jobs are kept and finalized.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Names of inputs, at any depth, whose values are secrets beside those that the schemas mark. Exact names.
    pub secret_names: Vec<String>,
    /// Largest output, in KiB, that is kept in the database; larger ones go to the archive.
    pub inline_result_kib: u32,
    /// Largest output, in MiB, that is checked against its schema. A larger one is kept, and only its media type is checked.
    pub checked_result_mib: u32,
    /// Memory, in MiB, that checking a result may take, for one large result at a time. JSON of many small values takes seventy times its
    /// size. An output whose check would take more is kept; checked are its media type, and that it is JSON where that says so.
    pub check_memory_mib: u32,
    /// How many jobs are finalized at once. Half as many more that take long have places of their own, and half as many that are
    /// tried again.
    pub finish_concurrency: u32,
    /// Longest pause, in seconds, between two attempts to finalize a job.
    pub retry_max_seconds: u32,
    /// How long, in seconds, a replica may work on a job before another may take it over.
    pub claim_seconds: u32,
    /// Age, in seconds, at which a job without a run is looked after.
    pub repair_after_seconds: u32,
    /// Whether `VESPIARY_PROGRESS` markers are followed while a job runs.
    pub progress: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            secret_names: Vec::new(),
            inline_result_kib: 256,
            checked_result_mib: 64,
            check_memory_mib: 256,
            finish_concurrency: 8,
            retry_max_seconds: 60,
            claim_seconds: 10,
            repair_after_seconds: 10,
            progress: true,
        }
    }
}

/// Everything that the use cases work with.
pub struct Parts {
    /// The database.
    pub store: Arc<dyn JobStore>,
    /// Logs and large results.
    pub archive: Arc<dyn Archive>,
    /// What runs plans.
    pub runner: Arc<dyn Runner>,
    /// What is offered.
    pub registry: Arc<Registry>,
    /// What plans may ask for.
    pub policy: Policy,
    /// A folder for results that are too large for memory while they are taken from the log.
    pub spool_dir: PathBuf,
    /// How jobs are kept and finalized.
    pub settings: Settings,
    /// How logs and results are captured.
    pub capture: capture::Settings,
}

/// The use cases.
pub struct Jobs {
    store: Arc<dyn JobStore>,
    archive: Arc<dyn Archive>,
    runner: Arc<dyn Runner>,
    registry: Arc<Registry>,
    policy: Policy,
    spool_dir: PathBuf,
    settings: Settings,
    capture: capture::Settings,
    waiters: Waiters,
    offered: read::OfferedCache,
    /// Names this server in claims. New at every start, so that a claim of a dead process is nobody's.
    owner: String,
    /// Work that must not stop when a client goes away.
    tasks: TaskTracker,
    /// Bounds the executions that are being started.
    starting: Arc<Semaphore>,
    /// Jobs that this server is launching: repair leaves them alone.
    launching: Launching,
    /// Bounds the memory that parsed results take: one large result at a time.
    parsing: Arc<Semaphore>,
}

impl Jobs {
    /// The use cases over these parts. Runs in a tokio runtime: it starts the task that wakes waiters.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let tasks = TaskTracker::new();
        let waiters = Waiters::start(parts.store.changes());
        Arc::new(Self {
            store: parts.store,
            archive: parts.archive,
            runner: parts.runner,
            registry: parts.registry,
            policy: parts.policy,
            spool_dir: parts.spool_dir,
            settings: parts.settings,
            capture: parts.capture,
            waiters,
            offered: read::OfferedCache::default(),
            owner: uuid::Uuid::now_v7().to_string(),
            tasks,
            starting: Arc::new(Semaphore::new(STARTING_AT_ONCE)),
            launching: Launching::default(),
            parsing: Arc::new(Semaphore::new(1)),
        })
    }

    /// How many jobs this server writes and launches at this moment, each for the first time.
    #[must_use]
    pub fn launches(&self) -> usize {
        self.launching.count()
    }

    /// Waits until no write or launch is under way, at most so long. Call it when no new request can come.
    pub async fn drain(&self, at_most: Duration) {
        self.tasks.close();
        if tokio::time::timeout(at_most, self.tasks.wait()).await.is_err() {
            tracing::warn!("left {} unfinished tasks behind; the next start repairs them", self.tasks.len());
        }
    }
}

/// A request to execute a process, before anything of it was believed.
#[derive(Debug)]
pub struct Submission<'a> {
    /// Who asks.
    pub principal: &'a Principal,
    /// The process's id as it stood in the URL.
    pub process_id: &'a str,
    /// The body as it was sent.
    pub body: &'a [u8],
    /// All request headers with text values, names in lower case; the process gets those that its entry lets through.
    pub headers: &'a [(String, String)],
    /// `Idempotency-Key`, where one was sent.
    pub idempotency_key: Option<&'a str>,
}

/// What an execution would do.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DryRun {
    /// The process.
    pub process_id: ProcessId,
    /// The processor that shaped the plan.
    pub processor_digest: Digest,
    /// Who the processor takes the caller for.
    pub caller: String,
    /// The plan, with secrets masked; without the role `deploy` the values of its literal variables and of its patch as well.
    pub plan: JobPlan,
}

/// A process as the API shows it.
#[derive(Debug, Clone)]
pub struct OfferedProcess {
    /// Its description.
    pub description: Arc<ProcessDescription>,
    /// The processor behind it.
    pub digest: Digest,
}

/// The processes that are offered at one moment, sorted by id.
#[derive(Debug, Default)]
pub struct Offered {
    /// Grows with every change; equal generations have equal processes.
    pub generation: u64,
    /// The processes.
    pub processes: Vec<OfferedProcess>,
}

/// A finished job's results.
#[derive(Debug)]
pub struct Results {
    /// The job, successful.
    pub job: Job,
    /// What was asked.
    pub request: StoredRequest,
    /// Those outputs that were asked for and have a value.
    pub outputs: Vec<OutputRecord>,
}

/// Bytes on their way to a client.
pub struct ByteBody {
    /// Bytes of the whole, where that is known: a log still grows while its job runs.
    pub size: Option<u64>,
    /// Offset of the first byte in `body`.
    pub first: u64,
    /// How many bytes `body` yields, where that is known.
    pub length: Option<u64>,
    /// The bytes.
    pub body: BoxStream<'static, Result<Bytes, Error>>,
}

/// Turns a principal away that lacks a role: 401 for one that showed no credential, 403 for one that did.
fn require(principal: &Principal, role: Role) -> Result<(), Error> {
    if principal.has(role) {
        return Ok(());
    }
    if principal.authenticated {
        return Err(Error::Forbidden(format!("'{}' does not have the role '{}'", principal.subject, role.as_str())));
    }
    Err(Error::Unauthenticated { challenge: "Bearer realm=\"vespiary\"".to_owned() })
}

/// Reads a job's id as it stood in a URL. What is not an id cannot be one of a job.
fn parse_id(text: &str) -> Result<JobId, Error> {
    text.parse().map_err(|_| Error::NoSuchJob(text.chars().take(64).collect()))
}
