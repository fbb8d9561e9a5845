//! Replicas that see the same runs, as those of a cluster do: use cases and finalizers on one database, one archive and one runner.
//! Every one looks after every run; each run is to be launched, captured, recorded and released once.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use vespiary::archive::Archive;
use vespiary::archive::directory::DirectoryArchive;
use vespiary::core::job::StoredRequest;
use vespiary::core::{Digest, EndReason, JobId, JobPlan, JobStatus, NewJob, Policy, Timestamp};
use vespiary::finalizer::{Finalizer, Limits};
use vespiary::jobs::{Jobs, Parts, Settings};
use vespiary::processor::{ProcessorHost, Registry};
use vespiary::runner::Runner;
use vespiary::runner::local::LocalRunner;
use vespiary::store::JobStore;
use vespiary::store::postgres::PostgresStore;
use vespiary_tests::{Cluster, until, workspace};

/// What all of them share.
struct Shared {
    folder: tempfile::TempDir,
    cluster: Arc<Cluster>,
    archive: Arc<DirectoryArchive>,
    runner: Arc<LocalRunner>,
    /// Asks and prepares; it is no replica.
    store: Arc<PostgresStore>,
}

/// One server's part, stopped when dropped.
struct Replica {
    stop: CancellationToken,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn open(cluster: &Cluster) -> Arc<PostgresStore> {
    let settings = vespiary::store::postgres::Settings { connections: 6, ..Default::default() };
    PostgresStore::open(&cluster.url(), &settings).await.unwrap()
}

impl Shared {
    async fn open() -> Option<Self> {
        let cluster = Cluster::if_any()?;
        let folder = tempfile::tempdir().unwrap();
        let archive = Arc::new(DirectoryArchive::open(folder.path().join("archive")).await.unwrap());
        let runner = LocalRunner::open(Default::default(), folder.path(), workspace::program()).await.unwrap();
        let store = open(&cluster).await;
        Some(Self { folder, cluster, archive, runner: Arc::new(runner), store })
    }

    async fn replica(&self, repair_after_seconds: u32) -> Replica {
        let place = self.folder.path().join(JobId::new().to_string());
        for folder in ["spool", "compiled"] {
            std::fs::create_dir_all(place.join(folder)).unwrap();
        }
        let host = ProcessorHost::new(&Default::default(), &place.join("compiled"), Arc::new(|_: &str| false)).unwrap();
        let jobs = Jobs::new(Parts {
            store: open(&self.cluster).await,
            archive: Arc::clone(&self.archive) as _,
            runner: Arc::clone(&self.runner) as _,
            registry: Arc::new(Registry::new(host)),
            policy: Policy::default(),
            spool_dir: place.join("spool"),
            settings: Settings { repair_after_seconds, ..Settings::default() },
            capture: Default::default(),
        });
        let stop = CancellationToken::new();
        let limits = Limits { concurrency: 8, longest_pause: Duration::from_secs(60) };
        let finalizer = Finalizer::new(jobs, limits, stop.clone());
        tokio::spawn(finalizer.run(self.runner.observations(), Duration::from_secs(1)));
        Replica { stop }
    }

    /// A row as a server leaves it that died, or is at work, before its launch.
    fn row(&self, age: Duration, script: &str) -> NewJob {
        let plan =
            json!({ "containers": [{ "name": "main", "image": "busybox:1.36", "command": ["sh", "-c", script] }] });
        NewJob {
            id: JobId::new(),
            process_id: "count".parse().unwrap(),
            process_version: "1.0.0".to_owned(),
            processor_digest: Digest::of(b"count"),
            caller: "ann".to_owned(),
            idempotency: None,
            request: StoredRequest {
                guarded: false,
                inputs: json!({}),
                outputs: Default::default(),
                response: Default::default(),
                declared: json!({ "text": { "schema": { "type": "string", "contentMediaType": "text/plain" } } }),
            },
            plan: serde_json::from_value::<JobPlan>(plan).unwrap(),
            nonce: None,
            relaunchable: true,
            runner: self.runner.scope().to_owned(),
            created: Timestamp::now() - age,
        }
    }

    async fn reaches(&self, id: JobId, status: JobStatus) {
        until(&format!("{id} to be {status}"), Duration::from_secs(60), || async {
            (self.store.job(id).await.unwrap().unwrap().status == status).then_some(())
        })
        .await;
    }
}

async fn bytes(archive: &dyn Archive, key: &str) -> Vec<u8> {
    let pieces: Vec<bytes::Bytes> = archive.read(key, None).await.unwrap().body.try_collect().await.unwrap();
    pieces.concat()
}

fn lines(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_do_everything_once() {
    let Some(shared) = Shared::open().await else { return };
    let ran = shared.folder.path().join("ran");
    let script = format!(
        "echo x >> {}; yes before | head -n 20000; echo PYGEOAPI_K8S_MANAGER_RESULT_START; printf done",
        ran.display()
    );
    let rows: Vec<NewJob> = (0..30).map(|_| shared.row(Duration::from_secs(30), &script)).collect();
    for row in &rows {
        shared.store.insert(row.clone()).await.unwrap();
    }
    // All of them find all rows without a run at the same time.
    let replicas = [shared.replica(1).await, shared.replica(1).await, shared.replica(1).await];
    for row in &rows {
        shared.reaches(row.id, JobStatus::Successful).await;
        let detail = shared.store.detail(row.id).await.unwrap().unwrap();
        let receipt = detail.receipt.unwrap();
        assert!(receipt.complete, "{receipt:?}");
        let outputs = shared.store.outputs(row.id).await.unwrap();
        assert_eq!(outputs.len(), 1);
    }
    until("all runs to be released", Duration::from_secs(30), || async {
        let left = std::fs::read_dir(shared.folder.path().join("runs")).unwrap().count();
        (left == 0).then_some(())
    })
    .await;
    // The late ones, too, have done what they do: the log is still the one that the receipt is of.
    for row in &rows {
        let receipt = shared.store.detail(row.id).await.unwrap().unwrap().receipt.unwrap();
        let log = bytes(&*shared.archive, &receipt.key).await;
        assert_eq!((log.len() as u64, hex(&Sha256::digest(&log))), (receipt.bytes, receipt.sha256));
    }
    assert_eq!(lines(&ran).len(), rows.len(), "each ran once");
    drop(replicas);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_work_of_a_dead_replica_is_taken_over_within_fifteen_seconds() {
    let Some(shared) = Shared::open().await else { return };
    let go = shared.folder.path().join("go");
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.1; done; echo PYGEOAPI_K8S_MANAGER_RESULT_START; printf done",
        go.display()
    );
    let row = shared.row(Duration::from_secs(30), &script);
    shared.store.insert(row.clone()).await.unwrap();
    let _replicas = [shared.replica(1).await, shared.replica(1).await];
    shared.reaches(row.id, JobStatus::Running).await;
    // A third one claims it as the run ends, and is never heard of again.
    let span = Duration::from_secs(u64::from(Settings::default().claim_seconds));
    assert!(shared.store.claim(row.id, "dead", span).await.unwrap());
    let begun = Instant::now();
    std::fs::write(&go, "").unwrap();
    shared.reaches(row.id, JobStatus::Successful).await;
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(8), "the claim was respected: {took:?}");
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_another_replica_still_tries_is_left_to_it() {
    let Some(shared) = Shared::open().await else { return };
    // Its secrets are in the memory of the one that tries, who says so by its claim; it is old enough to be given up.
    let row = NewJob { relaunchable: false, ..shared.row(Duration::from_secs(120), "true") };
    shared.store.insert(row.clone()).await.unwrap();
    assert!(shared.store.claim(row.id, "other/launch", Duration::from_secs(4)).await.unwrap());
    let begun = Instant::now();
    let _replica = shared.replica(5).await;
    shared.reaches(row.id, JobStatus::Failed).await;
    assert!(begun.elapsed() > Duration::from_secs(4), "not while it is claimed: {:?}", begun.elapsed());
    let detail = shared.store.detail(row.id).await.unwrap().unwrap();
    assert_eq!(detail.reason, Some(EndReason::StartError));
    assert!(detail.job.message.unwrap().contains("secret inputs are not kept"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_young_row_may_be_another_replica_s_launch() {
    let Some(shared) = Shared::open().await else { return };
    let row = shared.row(Duration::ZERO, "echo PYGEOAPI_K8S_MANAGER_RESULT_START; printf done");
    shared.store.insert(row.clone()).await.unwrap();
    let _replica = shared.replica(4).await;
    shared.reaches(row.id, JobStatus::Successful).await;
    let job = shared.store.job(row.id).await.unwrap().unwrap();
    let waited = job.started.unwrap().millis_since(row.created);
    assert!((4_000..15_000).contains(&waited), "launched by the replica that found it after {waited} ms");
}
