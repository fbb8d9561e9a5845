//! The HTTP interface: the resources of OGC API - Processes 1.0, the job's log and receipt, health and metrics.
//!
//! ```text
//! serve -> routes -> layer (edge) -> landing, processes, execution, jobs, results, logs, health -> crate::jobs
//! ```
//! A handler reads the request, calls one use case and writes one answer; every failure is a [`problem`] that the edge finishes.
//! Nothing here knows a store, an archive, a runner or a processor.

mod access;
mod cursor;
mod document;
mod execution;
mod health;
mod job_list;
mod jobs;
mod landing;
mod layer;
mod links;
mod logs;
mod memory;
mod multipart;
mod negotiate;
mod origin;
mod prefer;
mod problem;
mod processes;
mod query;
mod ranges;
mod results;
mod routes;
mod serve;
mod settings;
mod status_info;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use axum::body::Body;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::problem::{INTERNAL, Problem};
use crate::core::access::TokenTable;
use crate::jobs::Jobs;

pub use self::routes::router;
pub use self::serve::serve;
pub use self::settings::Settings;

/// Everything that handlers share. Cheap to clone.
#[derive(Clone)]
pub struct ApiState(Arc<Shared>);

struct Shared {
    jobs: Arc<Jobs>,
    tokens: Arc<TokenTable>,
    settings: Settings,
    fixed_base: Option<String>,
    metrics: PrometheusHandle,
    offered: processes::Cache,
    pages: origin::Pages,
    memory: memory::Memory,
    in_flight: AtomicUsize,
    /// Places for those who follow a log.
    followers: Arc<Semaphore>,
    /// Cancelled when the server begins to stop: what waits or follows ends then.
    stopping: CancellationToken,
    /// Work that goes on when its client has gone.
    detached: TaskTracker,
}

impl ApiState {
    /// Builds the state. All that is wrong with the settings is answered at once, one sentence each.
    pub fn new(
        jobs: Arc<Jobs>,
        tokens: Arc<TokenTable>,
        settings: Settings,
        metrics: PrometheusHandle,
    ) -> Result<Self, Vec<String>> {
        let violations = settings.violations();
        if !violations.is_empty() {
            return Err(violations);
        }
        health::describe_metrics();
        let fixed_base = settings.base_url.as_deref().and_then(|base| links::fixed_base(base).ok());
        Ok(Self(Arc::new(Shared {
            pages: origin::Pages::new(&settings),
            memory: memory::Memory::new(&settings),
            followers: Arc::new(Semaphore::new(settings.max_followers())),
            jobs,
            tokens,
            settings,
            fixed_base,
            metrics,
            offered: processes::Cache::default(),
            in_flight: AtomicUsize::new(0),
            stopping: CancellationToken::new(),
            detached: TaskTracker::new(),
        })))
    }

    fn jobs(&self) -> &Arc<Jobs> {
        &self.0.jobs
    }

    fn tokens(&self) -> &TokenTable {
        &self.0.tokens
    }

    fn settings(&self) -> &Settings {
        &self.0.settings
    }

    fn fixed_base(&self) -> Option<&str> {
        self.0.fixed_base.as_deref()
    }

    fn metrics(&self) -> &PrometheusHandle {
        &self.0.metrics
    }

    fn offered(&self) -> &processes::Cache {
        &self.0.offered
    }

    fn pages(&self) -> &origin::Pages {
        &self.0.pages
    }

    fn memory(&self) -> &memory::Memory {
        &self.0.memory
    }

    fn followers(&self) -> &Arc<Semaphore> {
        &self.0.followers
    }

    fn in_flight(&self) -> &AtomicUsize {
        &self.0.in_flight
    }

    fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    /// Runs work to its end even if the client goes away meanwhile: a request that is dropped is dropped at any `.await`.
    async fn detach<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, Problem> {
        self.0.detached.spawn(work).await.map_err(|error| {
            Problem::new(INTERNAL, "the server failed; the log has the cause under this request's id").caused_by(error)
        })
    }
}

/// An answer in JSON.
fn json_answer(status: StatusCode, value: &impl Serialize) -> Result<Response, Problem> {
    Ok(json_response(status, written(value)?))
}

/// JSON that is written already as an answer.
fn json_response(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(links::JSON));
    response
}

fn written(value: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value).map_err(unwritten)
}

fn unwritten(error: serde_json::Error) -> Problem {
    Problem::new(INTERNAL, "the answer could not be written as JSON").caused_by(error)
}
