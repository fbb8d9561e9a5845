//! The use cases over real parts in a folder of their own, for unit tests of what drives them.

mod runs;
mod shared;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::Runtime;

pub(crate) use self::runs::{Log, Runs};
pub(crate) use self::shared::SharedStore;
use super::{Jobs, Parts, Settings, capture};
use crate::archive::directory::DirectoryArchive;
use crate::core::job::{StoredRequest, Transition};
use crate::core::{Digest, EndReason, ExitState, Job, JobId, JobPlan, JobStatus, NewJob, Policy, Timestamp};
use crate::processor::{ProcessorHost, Registry};
use crate::runner::local::LocalRunner;
use crate::store::JobStore as _;
use crate::store::sqlite::SqliteStore;

/// The parts' tasks outlive each test's own runtime.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// Use cases that offer no process and have no job.
pub(crate) fn jobs() -> Arc<Jobs> {
    let build = || RUNTIME.get_or_init(|| Runtime::new().unwrap()).block_on(build());
    std::thread::spawn(build).join().unwrap()
}

async fn build() -> Arc<Jobs> {
    let folder = tempfile::tempdir().unwrap().keep();
    let store = SqliteStore::open(&folder.join("test.db"), &Default::default()).await.unwrap();
    let archive = DirectoryArchive::open(folder.join("archive")).await.unwrap();
    let runner = LocalRunner::open(Default::default(), &folder, "/bin/false".into()).await.unwrap();
    std::fs::create_dir(folder.join("compiled")).unwrap();
    let host = ProcessorHost::new(&Default::default(), &folder.join("compiled"), Arc::new(|_: &str| false)).unwrap();
    Jobs::new(Parts {
        store,
        archive: Arc::new(archive),
        runner: Arc::new(runner),
        registry: Arc::new(Registry::new(host)),
        policy: Policy::default(),
        spool_dir: folder,
        settings: Settings::default(),
        capture: capture::Settings::default(),
    })
}

/// Use cases on a database that can be away, a folder, and runs of which the test says what they give.
pub(crate) struct Bench {
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) store: Arc<SharedStore>,
    pub(crate) archive: Arc<DirectoryArchive>,
    pub(crate) runs: Arc<Runs>,
    _folder: tempfile::TempDir,
}

/// Longer than anything here takes.
pub(crate) const SOON: Duration = Duration::from_secs(30);

impl Bench {
    pub(crate) async fn open(settings: Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SharedStore::over(
            SqliteStore::open(&folder.path().join("test.db"), &Default::default()).await.unwrap(),
        ));
        let archive = Arc::new(DirectoryArchive::open(folder.path().join("archive")).await.unwrap());
        let runs = Arc::new(Runs::default());
        for name in ["compiled", "spool"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let compiled = folder.path().join("compiled");
        let host = ProcessorHost::new(&Default::default(), &compiled, Arc::new(|_: &str| false)).unwrap();
        let jobs = Jobs::new(Parts {
            store: Arc::clone(&store) as _,
            archive: Arc::clone(&archive) as _,
            runner: Arc::clone(&runs) as _,
            registry: Arc::new(Registry::new(host)),
            policy: Policy::default(),
            spool_dir: folder.path().join("spool"),
            settings,
            capture: capture::Settings::default(),
        });
        Self { jobs, store, archive, runs, _folder: folder }
    }

    /// An accepted job of one container, whose process declares one text.
    pub(crate) async fn accepted(&self) -> Job {
        let new = new_job();
        let id = new.id;
        self.store.insert(new).await.unwrap();
        self.store.job(id).await.unwrap().unwrap()
    }

    /// The same, whose run has this log.
    pub(crate) async fn ran(&self, log: Log) -> JobId {
        let id = self.accepted().await.id;
        self.runs.set(id, log);
        id
    }

    /// A job's status and message.
    pub(crate) async fn stands(&self, id: JobId) -> (JobStatus, Option<String>) {
        let job = self.store.job(id).await.unwrap().unwrap();
        (job.status, job.message)
    }

    /// Ends a job without a run, whether the database is away or not.
    pub(crate) async fn fail(&self, id: JobId) {
        let (status, at) = (JobStatus::Failed, Timestamp::now());
        let change = Transition { job_id: id, status, message: None, reason: None, at };
        self.store.inner().transition(change).await.unwrap();
    }
}

/// A job of one container, whose process declares one text.
pub(crate) fn new_job() -> NewJob {
    let plan = serde_json::json!({ "containers": [{ "name": "main", "image": "busybox:1.36" }] });
    NewJob {
        id: JobId::new(),
        process_id: "count".parse().unwrap(),
        process_version: "1.0.0".to_owned(),
        processor_digest: Digest::of(b"count"),
        caller: "ann".to_owned(),
        idempotency: None,
        request: request(),
        plan: serde_json::from_value::<JobPlan>(plan).unwrap(),
        nonce: None,
        relaunchable: true,
        runner: "local".to_owned(),
        created: Timestamp::now(),
    }
}

/// What a client asked for that had nothing to say.
pub(crate) fn request() -> StoredRequest {
    StoredRequest {
        guarded: false,
        inputs: serde_json::json!({}),
        outputs: Default::default(),
        response: Default::default(),
        declared: serde_json::json!({ "text": { "schema": { "type": "string", "contentMediaType": "text/plain" } } }),
    }
}

/// The end of a run that went well.
pub(crate) fn well() -> ExitState {
    ExitState {
        reason: EndReason::Completed,
        container: Some("main".to_owned()),
        exit_code: Some(0),
        signal: None,
        message: String::new(),
        started: Some(Timestamp::now()),
        finished: Timestamp::now(),
    }
}
