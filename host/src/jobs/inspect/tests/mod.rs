//! The checks and repairs over a real database and archive, with objects of a runner that is made up; on a real cluster in [`cluster`].

mod cluster;

use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;

use super::leave::{HeldState, leave};
use super::*;
use crate::archive::directory::DirectoryArchive;
use crate::archive::s3::{self, S3Archive};
use crate::core::job::StoredRequest;
use crate::core::request::OutputSelection;
use crate::core::{CaptureReceipt, Digest, FinalRecord, JobPlan, JobStatus, NewJob, Policy, ResponseMode, Timestamp};
use crate::jobs::read::{id_in_key, log_key, output_key};
use crate::jobs::{Jobs, Parts, capture};
use crate::processor::{ProcessorHost, Registry};
use crate::runner::inspection::{Inspection, MissingRight, ObjectKind, Stage};
use crate::runner::local::LocalRunner;
use crate::runner::{Runner, RunnerError};
use crate::store::sqlite::SqliteStore;

const NOW: Limits =
    Limits { deadline: Duration::from_secs(30), settle: Duration::ZERO, keep: Duration::ZERO, force: false };

/// Objects as they are told; what is let go is not held any more.
#[derive(Default)]
struct Told {
    objects: Mutex<Vec<FoundObject>>,
    missing: Vec<MissingRight>,
    scope: String,
    hangs: bool,
}

#[async_trait]
impl Inspector for Told {
    fn place(&self) -> String {
        "namespace 'told'".to_owned()
    }

    fn scope(&self) -> Option<&str> {
        Some(&self.scope)
    }

    async fn look(&self) -> Result<Inspection, RunnerError> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        Ok(Inspection { objects: self.objects.lock().unwrap().clone(), unseen: Vec::new() })
    }

    async fn missing_rights(&self) -> Result<Vec<MissingRight>, RunnerError> {
        Ok(self.missing.clone())
    }

    async fn let_go(&self, object: &FoundObject) -> Result<(), RunnerError> {
        let mut objects = self.objects.lock().unwrap();
        match object.kind {
            ObjectKind::Secret => objects.retain(|one| one.uid != object.uid),
            _ => objects.iter_mut().filter(|one| one.uid == object.uid).for_each(|one| one.held = false),
        }
        Ok(())
    }
}

fn object(kind: ObjectKind, job_id: JobId, stage: Stage) -> FoundObject {
    let name = format!("{}-{job_id}", kind.as_str().to_lowercase());
    let created = Timestamp::now() - Duration::from_secs(3600);
    FoundObject { job_id, kind, uid: format!("uid-{name}"), name, created, held: kind != ObjectKind::Secret, stage }
}

fn ended() -> Stage {
    Stage::Ended(Timestamp::now() - Duration::from_secs(600))
}

/// An accepted job's row, an hour old.
pub(super) fn row(runner: &str, plan: JobPlan) -> NewJob {
    NewJob {
        id: JobId::new(),
        process_id: "hello".parse().unwrap(),
        process_version: "1".to_owned(),
        processor_digest: Digest::of(b"hello"),
        caller: "ann".to_owned(),
        idempotency: None,
        request: StoredRequest {
            guarded: false,
            inputs: serde_json::json!({}),
            outputs: OutputSelection::default(),
            response: ResponseMode::Document,
            declared: serde_json::json!({}),
        },
        plan,
        nonce: None,
        relaunchable: true,
        runner: runner.to_owned(),
        created: Timestamp::now() - Duration::from_secs(3600),
    }
}

pub(super) struct Place {
    folder: tempfile::TempDir,
    pub(super) store: Arc<SqliteStore>,
    pub(super) archive: Arc<DirectoryArchive>,
}

impl Place {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("test.db"), &Default::default()).await.unwrap();
        let archive = DirectoryArchive::open(folder.path().join("archive")).await.unwrap();
        Self { folder, store, archive: Arc::new(archive) }
    }

    pub(super) fn subject(&self, inspector: Arc<dyn Inspector>, limits: Limits) -> Subject {
        let (store, archive) = (Arc::clone(&self.store) as Arc<dyn JobStore>, Arc::clone(&self.archive));
        Subject { store: Ok(store), archive: Ok(archive), inspector: Ok(inspector), limits }
    }

    pub(super) fn jobs(&self, runner: Arc<dyn Runner>) -> Arc<Jobs> {
        let compiled = self.folder.path().join("compiled");
        std::fs::create_dir_all(&compiled).unwrap();
        let host = ProcessorHost::new(&Default::default(), &compiled, Arc::new(|_: &str| false)).unwrap();
        Jobs::new(Parts {
            store: Arc::clone(&self.store) as Arc<dyn JobStore>,
            archive: Arc::clone(&self.archive) as Arc<dyn Archive>,
            runner,
            registry: Arc::new(Registry::new(host)),
            policy: Policy::default(),
            spool_dir: self.folder.path().to_owned(),
            settings: Default::default(),
            capture: capture::Settings::default(),
        })
    }

    async fn local(&self) -> Arc<LocalRunner> {
        Arc::new(LocalRunner::open(Default::default(), self.folder.path(), "/bin/false".into()).await.unwrap())
    }

    async fn put(&self, key: &str) {
        let mut writer = self.archive.create(key, "text/plain").await.unwrap();
        writer.write(Bytes::from_static(b"log")).await.unwrap();
        writer.finish().await.unwrap();
    }

    pub(super) async fn keys(&self) -> Vec<String> {
        use futures::TryStreamExt as _;
        let mut keys: Vec<_> = self.archive.list("").map_ok(|object| object.key).try_collect().await.unwrap();
        keys.sort();
        keys
    }

    async fn recorded(&self, id: JobId) {
        let key = log_key(id);
        let receipt = CaptureReceipt {
            uri: self.archive.uri(&key),
            key,
            bytes: 0,
            lines: 0,
            sha256: String::new(),
            complete: true,
            missing: None,
            captured: Timestamp::now(),
        };
        let record = FinalRecord {
            owner: None,
            job_id: id,
            status: JobStatus::Failed,
            message: None,
            finished: Timestamp::now(),
            exit: None,
            receipt: Some(receipt),
            outputs: Vec::new(),
        };
        self.store.finish(record).await.unwrap();
    }
}

pub(super) fn of<'f>(found: &'f [Finding], what: &str) -> Vec<&'f Finding> {
    found.iter().filter(|one| one.what == what).collect()
}

fn told(objects: Vec<FoundObject>) -> Arc<Told> {
    Arc::new(Told { objects: Mutex::new(objects), scope: "here".to_owned(), ..Told::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_order_is_not_found() {
    let place = Place::new().await;
    let (running, done) = (row("here", JobPlan::default()), row("here", JobPlan::default()));
    let (running_id, done_id) = (running.id, done.id);
    for new in [running, done] {
        place.store.insert(new).await.unwrap();
    }
    place.recorded(done_id).await;
    place.put(&log_key(done_id)).await;
    place.put("logs/of-others.txt").await;
    let mut gone = object(ObjectKind::Job, done_id, ended());
    gone.held = false; // until its time to live is over
    let objects = vec![
        object(ObjectKind::Job, running_id, Stage::Alive),
        object(ObjectKind::Pod, running_id, Stage::Alive),
        object(ObjectKind::Secret, running_id, Stage::Alive),
        gone,
    ];
    let found = place.subject(told(objects), NOW).look().await;
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_leftover_is_found_and_young_ones_are_not() {
    let place = Place::new().await;
    let (lost, alive, late, waiting, elsewhere) = (
        JobId::new(),
        JobId::new(),
        row("here", JobPlan::default()),
        row("here", JobPlan::default()),
        row("there", JobPlan::default()),
    );
    let (late_id, waiting_id) = (late.id, waiting.id);
    for new in [late, waiting, elsewhere] {
        place.store.insert(new).await.unwrap();
    }
    let objects = vec![
        object(ObjectKind::Pod, lost, ended()),
        object(ObjectKind::Job, alive, Stage::Alive),
        object(ObjectKind::Pod, alive, ended()),
        object(ObjectKind::Job, late_id, ended()),
        object(ObjectKind::Pod, late_id, ended()),
        object(ObjectKind::Job, waiting_id, Stage::Incomplete),
        object(ObjectKind::Secret, lost, Stage::Alive),
    ];
    let missing = MissingRight { right: "patch pods".to_owned(), needed_to: "let pods go" };
    let told = Told { objects: Mutex::new(objects), missing: vec![missing], scope: "here".to_owned(), hangs: false };
    let told = Arc::new(told);
    let found = place.subject(Arc::clone(&told) as _, NOW).look().await;
    for (what, where_is, has_fix) in [
        ("missing right", "patch pods".to_owned(), false),
        ("pod without a row", format!("Pod pod-{lost}"), true),
        ("job without a row", format!("Job job-{alive}, Pod pod-{alive}"), false),
        ("run not let go", format!("Job job-{late_id}"), true),
        ("row without a run", waiting_id.to_string(), true),
        ("secret without a job", format!("Secret secret-{lost}"), true),
        ("jobs of another runner", "there".to_owned(), false),
    ] {
        let ones = of(&found, what);
        let [one] = *ones else { panic!("{what}: {found:#?}") };
        assert!(one.place.contains(&where_is) && one.fix.is_some() == has_fix, "{one:#?}");
        assert_eq!(one.is_open(), one.severity != Severity::Note);
    }
    assert_eq!(found.len(), 7, "{found:#?}");
    assert_eq!(found.first().map(|one| one.severity), Some(Severity::Error), "the worst first");

    // What is young is a server's, or stays for a day.
    let young = Limits { settle: Duration::from_secs(7200), ..Limits::default() };
    let found = place.subject(told, young).look().await;
    let fixable: Vec<_> = found.iter().filter(|one| one.fix.is_some()).collect();
    assert!(fixable.is_empty(), "{fixable:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_unknown_jobs_go_and_those_of_known_ones_stay() {
    let place = Place::new().await;
    let (known, other) = (row("here", JobPlan::default()), row("here", JobPlan::default()));
    let (known_id, other_id, lost) = (known.id, other.id, JobId::new());
    for new in [known, other] {
        place.store.insert(new).await.unwrap();
    }
    for id in [known_id, other_id] {
        place.recorded(id).await;
        place.put(&log_key(id)).await;
    }
    for key in [log_key(lost), output_key(lost, 0), "logs/of-others.txt".to_owned()] {
        place.put(&key).await;
    }
    let found = place.subject(told(Vec::new()), Limits::default()).look().await;
    assert!(found.is_empty(), "younger than a day: {found:#?}");

    let mut found = place.subject(told(Vec::new()), NOW).look().await;
    assert!(matches!(&found[..], [one] if one.what == "objects without a job" && one.fix.is_some()), "{found:#?}");
    let jobs = place.jobs(place.local().await);
    fix(&mut found, &jobs, &*told(Vec::new()), &NOW).await;
    assert!(found.iter().all(|one| !one.is_open()), "{found:#?}");
    let mut kept = vec![log_key(known_id), log_key(other_id), "logs/of-others.txt".to_owned()];
    kept.sort();
    assert_eq!(place.keys().await, kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_database_deletes_nothing_without_force() {
    let place = Place::new().await;
    for _ in 0..3 {
        place.put(&log_key(JobId::new())).await;
    }
    let found = place.subject(told(Vec::new()), NOW).look().await;
    assert!(matches!(&found[..], [one] if one.fix.is_none() && one.meaning.contains("right database")), "{found:#?}");
    let found = place.subject(told(Vec::new()), Limits { force: true, ..NOW }).look().await;
    assert!(matches!(&found[..], [one] if one.fix.is_some()), "{found:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_runs_and_lost_secrets_are_repaired() {
    let place = Place::new().await;
    let runner = place.local().await;
    // A plan without containers can be launched nowhere: the row ends with the reason.
    let (unlaunchable, masked) = (row(runner.scope(), JobPlan::default()), row(runner.scope(), JobPlan::default()));
    let masked = NewJob { relaunchable: false, ..masked };
    let ids = [unlaunchable.id, masked.id];
    for new in [unlaunchable, masked] {
        place.store.insert(new).await.unwrap();
    }
    let secret = object(ObjectKind::Secret, JobId::new(), Stage::Alive);
    let inspector =
        Arc::new(Told { objects: Mutex::new(vec![secret]), scope: runner.scope().to_owned(), ..Told::default() });
    let subject = place.subject(Arc::clone(&inspector) as _, NOW);
    let mut found = subject.look().await;
    assert_eq!((of(&found, "row without a run").len(), found.len()), (2, 3), "{found:#?}");
    let jobs = place.jobs(Arc::clone(&runner) as _);
    fix(&mut found, &jobs, &*inspector, &NOW).await;
    assert!(found.iter().all(|one| !one.is_open()), "{found:#?}");
    for id in ids {
        assert_eq!(place.store.job(id).await.unwrap().unwrap().status, JobStatus::Failed);
    }
    let found = subject.look().await;
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_a_finding() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let place = Place::new().await;
    let nowhere = s3::Settings {
        bucket: "logs".to_owned(),
        endpoint: Some("http://127.0.0.1:1".to_owned()),
        access_key: Some("key".to_owned()),
        secret_key: Some("secret-word".to_owned()),
        ..s3::Settings::default()
    };
    let limits = Limits { deadline: Duration::from_millis(800), ..NOW };
    let hangs = Arc::new(Told { hangs: true, ..Told::default() });
    let mut subject = place.subject(hangs, limits);
    subject.archive = Ok(Arc::new(S3Archive::open(&nowhere).await.unwrap()));
    subject.store = Err(Unopened { place: "store.url".to_owned(), why: "connection refused".to_owned() });
    let found = subject.look().await;
    for (what, says) in [
        ("archive not reachable", "'http://127.0.0.1:1' cannot be reached"),
        ("database not reachable", "connection refused"),
        ("runner not reachable", "no answer within 0.8 s"),
    ] {
        let [one] = *of(&found, what) else { panic!("{what}: {found:#?}") };
        assert!(one.severity == Severity::Error && one.meaning.contains(says), "{one:#?}");
    }
    assert_eq!(found.len(), 3);
    assert!(!format!("{found:?}").contains("secret-word"));
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_lists_refuses_and_lets_go() {
    let place = Place::new().await;
    let done = row("here", JobPlan::default());
    let (done_id, alive) = (done.id, JobId::new());
    place.store.insert(done).await.unwrap();
    place.recorded(done_id).await;
    let objects = vec![
        object(ObjectKind::Pod, done_id, ended()),
        object(ObjectKind::Pod, alive, Stage::Alive),
        object(ObjectKind::Job, alive, Stage::Alive),
        object(ObjectKind::Secret, alive, Stage::Alive),
    ];
    let told = told(objects.clone());
    let subject = place.subject(Arc::clone(&told) as _, NOW);
    let listed = leave(&subject, false, false).await.unwrap();
    let states: Vec<_> = listed.held.iter().map(|one| one.state).collect();
    assert_eq!(states, [HeldState::Recorded, HeldState::Unfinished, HeldState::Unfinished]);
    assert!(!listed.is_free() && listed.refused.is_none());

    let refused = leave(&subject, true, false).await.unwrap();
    assert!(refused.refused.is_some_and(|why| why.contains("1 jobs")) && *told.objects.lock().unwrap() == objects);

    let left = leave(&subject, true, true).await.unwrap();
    assert!(left.is_free() && left.held.len() == 3, "{left:?}");
    assert_eq!(left.unfinished, [format!("job-{alive}")], "it may make a pod that is held again");
    let kinds: Vec<_> = told.objects.lock().unwrap().iter().map(|one| (one.kind, one.held)).collect();
    assert!(kinds.iter().all(|(_, held)| !held) && kinds.len() == 4, "nothing is deleted: {kinds:?}");
    let again = leave(&subject, true, false).await.unwrap();
    assert!(again.held.is_empty() && again.unfinished.len() == 1, "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_does_not_come_to_its_end_is_found_and_given_up() {
    let place = Place::new().await;
    let runner = place.local().await;
    let (known, orphan, retried) = (row("here", JobPlan::default()), JobId::new(), JobId::new());
    let id = known.id;
    place.store.insert(known).await.unwrap();
    let lost = Stage::Lost(Timestamp::now() - Duration::from_secs(600));
    let second = FoundObject { uid: "second".to_owned(), ..object(ObjectKind::Pod, retried, Stage::Alive) };
    let objects = vec![
        // The Job waits for its pod.
        object(ObjectKind::Job, id, Stage::Alive),
        object(ObjectKind::Pod, id, lost),
        object(ObjectKind::Pod, orphan, lost),
        // Another pod took its place.
        object(ObjectKind::Job, retried, Stage::Alive),
        object(ObjectKind::Pod, retried, lost),
        second,
    ];
    let told = told(objects);
    let mut found = place.subject(Arc::clone(&told) as _, NOW).look().await;
    for (what, id, has_fix) in
        [("run not let go", id, true), ("pod without a row", orphan, true), ("job without a row", retried, false)]
    {
        let [one] = *of(&found, what) else { panic!("{what}: {found:#?}") };
        assert!(one.place.contains(&id.to_string()) && one.fix.is_some() == has_fix, "{one:#?}");
        assert_eq!(one.meaning.contains("its node does not say"), has_fix, "{one:#?}");
    }
    // The runner of this test has none of them: they are gone.
    fix(&mut found, &place.jobs(runner as _), &*told, &NOW).await;
    assert!(found.iter().all(|one| one.is_open() == one.fix.is_none()), "{found:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_database_nothing_counts_as_recorded() {
    let place = Place::new().await;
    let mut subject = place.subject(told(vec![object(ObjectKind::Pod, JobId::new(), ended())]), NOW);
    subject.store = Err(Unopened { place: "store.url".to_owned(), why: "connection refused".to_owned() });
    let refused = leave(&subject, true, false).await.unwrap().refused.unwrap();
    assert!(refused.contains("could not be asked") && refused.contains("connection refused"), "{refused}");
    assert!(leave(&subject, true, true).await.unwrap().is_free());
}

proptest! {
    #[test]
    fn only_keys_of_jobs_have_an_id(key in "(logs/|results/)?([0-9a-f./-]{0,60}|[0-9a-fA]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})(/[0-9x]{0,3}){0,2}(\\.log)?") {
        if let Some(id) = id_in_key(&key) {
            let (place, below) = (key.rsplit('/').next().unwrap_or_default().parse::<usize>(), format!("results/{id}/"));
            let is_result = place.is_ok() && key.starts_with(&below);
            prop_assert!(key == log_key(id) || is_result);
        }
    }
}

#[test]
fn keys_are_found_again() {
    let id = JobId::new();
    assert_eq!((id_in_key(&log_key(id)), id_in_key(&output_key(id, 12))), (Some(id), Some(id)));
    assert_eq!(id_in_key(&format!("logs/{id}.log/x")), None);
    assert_eq!(id_in_key(&format!("results/{id}/x")), None);
}
