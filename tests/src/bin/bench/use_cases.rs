//! The real use cases behind the real API, over a runner that does nothing: what is measured is the product and not `fork`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use metrics_exporter_prometheus::PrometheusBuilder;
use vespiary::api::{self, ApiState};
use vespiary::archive::directory::DirectoryArchive;
use vespiary::core::access::TokenTable;
use vespiary::core::{JobId, LogEvent, Observation, Policy, RunState};
use vespiary::jobs::{Jobs, Parts, Sources};
use vespiary::processor::{ProcessEntry, ProcessorHost, Registry};
use vespiary::runner::{Launch, Runner, RunnerError};
use vespiary::store::sqlite::SqliteStore;
use vespiary_tests::workspace;

use crate::{Outcome, child, place};

/// The database in a folder.
pub(crate) const DATABASE: &str = "vespiary.db";

/// Takes every run and starts none.
struct Idle;

#[async_trait]
impl Runner for Idle {
    fn name(&self) -> &'static str {
        "idle"
    }

    fn check(&self, _: &Launch) -> Result<(), RunnerError> {
        Ok(())
    }

    async fn launch(&self, _: &Launch) -> Result<(), RunnerError> {
        Ok(())
    }

    async fn cancel(&self, _: JobId) -> Result<(), RunnerError> {
        Ok(())
    }

    fn observations(&self) -> BoxStream<'static, Observation> {
        Box::pin(stream::pending())
    }

    async fn state(&self, _: JobId) -> Result<Option<RunState>, RunnerError> {
        Ok(None)
    }

    async fn logs(&self, _: JobId, _: bool) -> Result<BoxStream<'static, Result<LogEvent, RunnerError>>, RunnerError> {
        Ok(Box::pin(stream::empty()))
    }

    async fn release(&self, _: JobId) -> Result<(), RunnerError> {
        Ok(())
    }

    async fn ready(&self) -> Result<(), RunnerError> {
        Ok(())
    }
}

/// Everything over one folder.
pub(crate) struct UseCases {
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) registry: Arc<Registry>,
}

impl UseCases {
    /// Opens the folder's database and offers `hello-world`.
    pub(crate) async fn open(folder: &Path) -> Outcome<Self> {
        let store = SqliteStore::open(&folder.join(DATABASE), &Default::default()).await?;
        let archive = DirectoryArchive::open(folder.join("archive")).await?;
        let host = ProcessorHost::new(&Default::default(), &place::compiled()?, Arc::new(|_: &str| false))?;
        let registry = Arc::new(Registry::new(host));
        let jobs = Jobs::new(Parts {
            store: Arc::clone(&store) as _,
            archive: Arc::new(archive),
            runner: Arc::new(Idle),
            registry: Arc::clone(&registry),
            policy: Policy::default(),
            spool_dir: folder.join("spool"),
            settings: Default::default(),
            capture: Default::default(),
        });
        let hello = workspace::processor("hello-world").to_string_lossy().into_owned();
        let entry = ProcessEntry { processor: Some(hello), ..Default::default() };
        let mut sources = Sources::new(vec![entry], Vec::new(), None, Duration::from_millis(20));
        jobs.deploy(&sources.changed().await).await?;
        Ok(Self { jobs, store, registry })
    }
}

/// Serves the API over a folder.
pub(crate) async fn serve(folder: &Path) -> Outcome<()> {
    let UseCases { jobs, .. } = UseCases::open(folder).await?;
    let tokens = TokenTable::new(&Default::default()).map_err(|wrong| wrong.join("; "))?;
    let metrics = PrometheusBuilder::new().install_recorder()?;
    let state = ApiState::new(jobs, Arc::new(tokens), Default::default(), metrics).map_err(|wrong| wrong.join("; "))?;
    api::serve(child::listen().await?, api::router(state.clone()), state, std::future::pending()).await;
    Ok(())
}
