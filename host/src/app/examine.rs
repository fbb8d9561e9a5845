//! The parts for `vespiary doctor` and `vespiary uninstall`: opened for reading, beside servers that run; and, to repair, as a server
//! opens them.
//!
//! Invariant: opening to read makes no file, changes no schema and takes on no run.

use std::path::Path;
use std::sync::Arc;

use super::backends;
use super::data_dir::DataDir;
use crate::archive::Archive;
use crate::archive::directory::DirectoryArchive;
use crate::config::{Config, RunnerKind};
use crate::core::Policy;
use crate::jobs::inspect::{Finding, Limits, Subject, Unopened, chain, fix};
use crate::jobs::{Jobs, Parts};
use crate::processor::{ProcessorHost, Registry};
use crate::runner::inspection::Inspector;
use crate::runner::kubernetes::KubernetesInspector;
use crate::runner::local::LocalInspector;
use crate::store::JobStore;
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;

/// What of this configuration can be opened for reading.
pub async fn open(config: &Config, limits: Limits) -> Subject {
    Subject { store: store(config).await, archive: archive(config).await, inspector: inspector(config).await, limits }
}

fn unopened<E: std::error::Error + 'static>(place: impl Into<String>) -> impl FnOnce(E) -> Unopened {
    move |error| Unopened { place: place.into(), why: chain(&error) }
}

fn absent(path: &Path, what: &str) -> Unopened {
    Unopened {
        place: path.display().to_string(),
        why: format!("there is no such {what}: has a server been started with this configuration (--config, --data)?"),
    }
}

async fn store(config: &Config) -> Result<Arc<dyn JobStore>, Unopened> {
    if let Some(url) = &config.store.url {
        // A URL holds a password.
        let opened = PostgresStore::attach(url, &config.postgres).await;
        return Ok(opened.map_err(unopened("store.url"))?);
    }
    let file = config.database();
    if !file.is_file() {
        return Err(absent(&file, "database"));
    }
    let opened = SqliteStore::open_reading(&file, &config.store.sqlite).await;
    Ok(opened.map_err(unopened(file.display().to_string()))?)
}

async fn archive(config: &Config) -> Result<Arc<dyn Archive>, Unopened> {
    if !config.s3.bucket.is_empty() {
        let place = format!("s3://{}", config.s3.bucket);
        return Ok(Arc::new(crate::archive::s3::S3Archive::open(&config.s3).await.map_err(unopened(place))?));
    }
    let folder = config.data_dir.join("archive");
    if !folder.is_dir() {
        return Err(absent(&folder, "folder"));
    }
    let place = folder.display().to_string();
    Ok(Arc::new(DirectoryArchive::open(folder).await.map_err(unopened(place))?))
}

async fn inspector(config: &Config) -> Result<Arc<dyn Inspector>, Unopened> {
    match config.runner.kind {
        RunnerKind::Local => Ok(Arc::new(LocalInspector::new(&config.data_dir))),
        RunnerKind::Kubernetes => {
            let opened = KubernetesInspector::open(config.kubernetes.clone()).await;
            Ok(Arc::new(opened.map_err(unopened("the cluster"))?))
        }
    }
}

/// Repairs what `subject` found. A part in the data folder is repaired only while no server uses the folder; what others share is repaired
/// beside their servers, by claims.
///
/// # Errors
/// Why nothing was repaired.
pub async fn repair(config: &Config, subject: &Subject, findings: &mut [Finding]) -> Result<(), String> {
    let inspector = subject.inspector.as_ref().map_err(|_| "the runner cannot be reached".to_owned())?;
    let is_embedded =
        config.store.url.is_none() || config.s3.bucket.is_empty() || config.runner.kind == RunnerKind::Local;
    let said = |error: super::AppError| chain(&error);
    // Large results pass through it: where the server has room for them, so have we.
    let scratch = if config.data_dir.is_dir() { tempfile::tempdir_in(&config.data_dir) } else { tempfile::tempdir() };
    let scratch = scratch.map_err(|error| format!("no folder for temporary files: {error}"))?;
    // A folder that is not locked is not touched either: a stand-in takes what opening it would make.
    let data = if is_embedded { config.data_dir.clone() } else { scratch.path().join("data") };
    let data = DataDir::open(data).map_err(said)?;
    let store = backends::store(&config.store, &config.postgres, &config.database()).await.map_err(said)?;
    let archive = backends::archive(&config.s3, &data).await.map_err(said)?;
    let runner = backends::runner(config.runner.clone(), config.kubernetes.clone(), &data).await.map_err(said)?;
    // Nothing is executed: the host has no process.
    let host = ProcessorHost::new(&config.processor, scratch.path(), Arc::new(|_: &str| false));
    let jobs = Jobs::new(Parts {
        store: Arc::clone(&store),
        archive,
        runner,
        registry: Arc::new(Registry::new(host.map_err(|error| chain(&error))?)),
        policy: Policy::default(),
        spool_dir: scratch.path().to_owned(),
        settings: config.jobs.clone(),
        capture: config.capture.clone(),
    });
    fix(findings, &jobs, &**inspector, &subject.limits).await;
    drop(jobs);
    store.shutdown().await;
    drop(data);
    Ok(())
}
