//! Which implementation of store, archive and runner the configuration asks for, opened.

use std::path::Path;
use std::sync::Arc;

use super::data_dir::DataDir;
use super::{AppError, part};
use crate::archive::Archive;
use crate::archive::directory::DirectoryArchive;
use crate::archive::s3::{self, S3Archive};
use crate::config::{Runner as RunnerSection, RunnerKind, Store as StoreSection};
use crate::runner::kubernetes::KubernetesRunner;
use crate::runner::local::LocalRunner;
use crate::runner::{Runner, kubernetes};
use crate::store::JobStore;
use crate::store::postgres::{self, PostgresStore};
use crate::store::sqlite::SqliteStore;

/// The server at `store.url`, or the file.
pub(super) async fn store(
    section: &StoreSection,
    server: &postgres::Settings,
    file: &Path,
) -> Result<Arc<dyn JobStore>, AppError> {
    match &section.url {
        Some(url) => Ok(PostgresStore::open(url, server).await.map_err(part("database"))?),
        None => Ok(SqliteStore::open(file, &section.sqlite).await.map_err(part("database"))?),
    }
}

/// The bucket, where there is one, or a folder.
pub(super) async fn archive(bucket: &s3::Settings, data: &DataDir) -> Result<Arc<dyn Archive>, AppError> {
    if bucket.bucket.is_empty() {
        return Ok(Arc::new(DirectoryArchive::open(data.folder("archive")?).await.map_err(part("archive"))?));
    }
    Ok(Arc::new(S3Archive::open(bucket).await.map_err(part("archive"))?))
}

/// The runner of this kind.
pub(super) async fn runner(
    section: RunnerSection,
    cluster: kubernetes::Settings,
    data: &DataDir,
) -> Result<Arc<dyn Runner>, AppError> {
    match section.kind {
        RunnerKind::Local => {
            let program = std::env::current_exe().map_err(part("local runner"))?;
            let runner = LocalRunner::open(section.local, data.path(), program).await;
            Ok(Arc::new(runner.map_err(part("local runner"))?))
        }
        RunnerKind::Kubernetes => {
            Ok(Arc::new(KubernetesRunner::open(cluster).await.map_err(part("Kubernetes runner"))?))
        }
    }
}
