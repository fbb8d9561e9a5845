//! The composition root: builds every part from the configuration, runs them, stops them in order.

mod backends;
mod data_dir;
pub mod examine;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::data_dir::DataDir;
use crate::api::{self, ApiState};
use crate::config::{Config, Plugins};
use crate::core::Policy;
use crate::finalizer::{Finalizer, Limits};
use crate::jobs::{Jobs, Parts, Sources};
use crate::processor::{ProcessorHost, Registry};
use crate::runner::Runner;
use crate::store::JobStore;

/// How long work that is under way at a stop may take.
const DRAIN: Duration = Duration::from_secs(20);

/// Why the server cannot start. The text says what to do; the causes follow.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The data folder cannot be used.
    #[error("cannot use the data folder {}: {what}", path.display())]
    DataDir {
        /// Which folder.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Another server has it.
    #[error("another server uses the data folder {}: stop it, or choose another folder with --data", .0.display())]
    InUse(PathBuf),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: choose another with --listen (port 0 takes a free one)")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A part could not be started.
    #[error("cannot start the {part}")]
    Part {
        /// Which one.
        part: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn part<E: std::error::Error + Send + Sync + 'static>(part: &'static str) -> impl FnOnce(E) -> AppError {
    move |source| AppError::Part { part, source: Box::new(source) }
}

/// A server that is built and bound, and not running yet.
pub struct App {
    address: SocketAddr,
    listener: TcpListener,
    state: ApiState,
    jobs: Arc<Jobs>,
    sources: Sources,
    finalizer: Finalizer,
    runner: Arc<dyn Runner>,
    store: Arc<dyn JobStore>,
    stop: CancellationToken,
    token: Option<String>,
    // Held to the end: it is what keeps a second server out.
    data: DataDir,
}

impl App {
    /// Builds every part. When it returns, the port is bound and the processes that the configuration and the folder name are offered.
    pub async fn build(config: Config) -> Result<Self, AppError> {
        let plugins_folder = config.plugins_folder();
        let database = config.database();
        let Config {
            data_dir,
            server,
            access,
            processes,
            plugins,
            processor,
            policy,
            jobs,
            capture,
            store,
            postgres,
            archive: _,
            s3,
            runner,
            kubernetes,
            telemetry: _,
        } = config;
        let Plugins { folder: _, poll_ms, shipped } = plugins;
        let stop = CancellationToken::new();

        let data = DataDir::open(data_dir)?;
        data.create(&plugins_folder)?;
        let is_shared = store.url.is_some();
        let (table, token) = data.token_table(&access, is_shared)?;
        let table = Arc::new(table);
        let verify = Arc::clone(&table);
        let policy =
            Policy::new(&policy).map_err(|wrong| AppError::Part { part: "policy", source: wrong.join("; ").into() })?;
        let store = backends::store(&store, &postgres, &database).await?;
        if is_shared && access.tokens.is_empty() {
            tracing::warn!(
                "no token is configured, and none is made, since the other servers of this database would not know it: set access.tokens, the same for all (VESPIARY_ACCESS_TOKENS; in the manifests the key 'tokens' of the Secret k8s-job-manager)"
            );
        }
        let archive = backends::archive(&s3, &data).await?;
        let runner = backends::runner(runner, kubernetes, &data).await?;
        let host = ProcessorHost::new(
            &processor,
            &data.folder("compiled")?,
            Arc::new(move |token: &str| verify.may_execute(token)),
        )
        .map_err(part("plugin host"))?;
        let registry = Arc::new(Registry::new(host));
        let limits = Limits {
            concurrency: usize::try_from(jobs.finish_concurrency).unwrap_or(1),
            longest_pause: Duration::from_secs(u64::from(jobs.retry_max_seconds.max(1))),
        };
        let jobs = Jobs::new(Parts {
            store: Arc::clone(&store),
            archive,
            runner: Arc::clone(&runner),
            registry,
            policy,
            spool_dir: data.folder("spool")?,
            settings: jobs,
            capture,
        });
        let poll = Duration::from_millis(u64::from(poll_ms.max(20)));
        let mut sources = Sources::new(processes, shipped_folders(shipped), Some(plugins_folder), poll);
        let desired = sources.changed().await;
        jobs.deploy(&desired).await.map_err(part("processes"))?;

        let listener = TcpListener::bind(&server.listen)
            .await
            .map_err(|source| AppError::Listen { address: server.listen.clone(), source })?;
        let address = listener.local_addr().map_err(part("listener"))?;
        let metrics = PrometheusBuilder::new().install_recorder().map_err(part("metrics"))?;
        let state = ApiState::new(Arc::clone(&jobs), table, server, metrics)
            .map_err(|wrong| AppError::Part { part: "server", source: wrong.join("; ").into() })?;
        let finalizer = Finalizer::new(Arc::clone(&jobs), limits, stop.clone());
        Ok(Self { address, listener, state, jobs, sources, finalizer, runner, store, stop, token, data })
    }

    /// The URL under which this machine reaches the server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Runs until `shutdown` ends, then lets requests and records that are under way finish.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) {
        let Self { address: _, listener, state, jobs, sources, finalizer, runner, store, stop, token: _, data } = self;
        let observing = tokio::spawn(finalizer.run(runner.observations(), DRAIN));
        let deploying = tokio::spawn(Arc::clone(&jobs).follow_sources(sources));
        let cut = api::serve(listener, api::router(state.clone()), state, shutdown).await;
        if cut > 0 {
            tracing::warn!("{cut} connections were cut at the end; what they waited for goes on");
        }
        deploying.abort();
        jobs.drain(DRAIN).await;
        stop.cancel();
        if observing.await.is_err() {
            tracing::error!("the finalizer did not end as it should; the next start repairs what it left");
        }
        drop(jobs);
        store.shutdown().await;
        drop(data);
    }

    /// Prints the URL, on a line of its own and first, and the token if one was made just now. Only then the token is kept: a start that
    /// failed before has shown nothing and kept nothing.
    pub fn announce(&self, out: &mut dyn std::io::Write) -> Result<(), AppError> {
        let mut text = format!("{}\n", self.url());
        if let Some(token) = &self.token {
            self.data.keep_token(token)?;
            let file = self.data.token_file();
            text.push_str(&format!("token {token}\n(shown once; its hash is in {})\n", file.display()));
        }
        if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // A pipe that nobody reads any more is no reason to stop.
            tracing::warn!(%error, "could not print the URL");
        }
        Ok(())
    }
}

/// Where the shipped processors may be: as configured, or beside the program.
pub fn shipped_folders(configured: Option<PathBuf>) -> Vec<PathBuf> {
    if let Some(folder) = configured {
        return vec![folder];
    }
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.parent().map(PathBuf::from).unwrap_or_default();
    vec![beside.join("plugins"), beside.join("../share/vespiary/plugins")]
}
