//! The runner on a cluster: every run is a Kubernetes Job, watched by its pods, held by our finalizer until its log is captured.
//!
//! | part | its job |
//! |---|---|
//! | [`connect`] | the client, by service account or `KUBECONFIG` |
//! | [`object`] | plan to Job and Secret; pure |
//! | [`launch`], [`cancel`], [`release`] | the calls that change the cluster; each can be repeated |
//! | [`view`] | what the cluster says of all runs, kept up to date by watches; reads are free |
//! | [`logs`], [`beginnings`] | the containers' logs, straight from the API; and what tells that a part was rotated away |
//! | [`failure`] | which refusals are for ever |
//! | [`inspection`], [`rights`] | what `vespiary doctor` looks at |
//!
//! Invariant: names and labels are made of the job's id and the prefix alone, so that any replica can go on with any run. Nothing without
//! our labels is touched, and of the finalizers only our own.
//!
//! Rights that this needs in its namespace: [`RIGHTS`].

mod beginnings;
mod cancel;
mod cluster;
mod connect;
mod failure;
mod inspection;
mod launch;
#[cfg(test)]
mod launch_tests;
mod logs;
mod names;
mod object;
mod release;
mod rights;
#[cfg(test)]
mod rights_tests;
#[cfg(test)]
mod run_tests;
mod settings;
mod view;

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use k8s_openapi::api::batch::v1::Job;
use kube::api::ListParams;
use tokio_util::sync::CancellationToken;

use self::cluster::Cluster;
use self::rights::LettingGo;
use self::view::View;
use super::{Launch, Runner, RunnerError};
use crate::core::{JobId, LogEvent, Observation, RunState};

pub use self::connect::OpenError;
pub use self::inspection::KubernetesInspector;
pub use self::rights::{RIGHTS, Right};
pub use self::settings::{PodSecurity, Settings};

/// The Kubernetes runner. Its watches end when it is dropped; its runs go on.
pub struct KubernetesRunner {
    cluster: Cluster,
    view: Arc<View>,
    letting_go: Arc<LettingGo>,
    stop: CancellationToken,
    scope: String,
}

impl Drop for KubernetesRunner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Whose runs these are: those of one instance in one namespace.
fn scope(cluster: &Cluster) -> String {
    format!("kubernetes/{}/{}", cluster.namespace, cluster.names.instance())
}

impl KubernetesRunner {
    /// Finds the cluster and begins to watch it. The cluster need not answer yet: [`Runner::ready`] tells when it does.
    pub async fn open(settings: Settings) -> Result<Self, OpenError> {
        Ok(Self::start(connect::connect(settings).await?))
    }

    fn start(cluster: Cluster) -> Self {
        let stop = CancellationToken::new();
        let view = View::start(cluster.clone(), stop.clone());
        tokio::spawn(beginnings::remember(cluster.clone(), Arc::clone(&view), stop.clone()));
        let letting_go = Arc::new(LettingGo::new(cluster.clone()));
        let (follower, stopped) = (Arc::clone(&letting_go), stop.clone());
        tokio::spawn(async move { stopped.run_until_cancelled(follower.follow()).await });
        let scope = scope(&cluster);
        Self { cluster, view, letting_go, stop, scope }
    }

    /// Where the Jobs are.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.cluster.namespace
    }

    /// Asks the API server whether anything of a run is there that waits for us. The view may be a moment old, and "there is none" has
    /// consequences.
    async fn exists(&self, id: JobId) -> Result<bool, RunnerError> {
        const WHAT: &str = "look for a run";
        let name = self.cluster.names.job(id);
        let job = self.cluster.metadata::<Job>(&name).await.map_err(|error| error.into_unavailable(WHAT))?;
        if job.is_some_and(|job| names::is_ours(&job, &self.cluster.names, id) && names::is_held(&job)) {
            return Ok(true);
        }
        let selector = format!("{},{}={id}", self.cluster.names.selector(), names::JOB_ID);
        let (pods, wanted) = (self.cluster.pods(), ListParams::default().labels(&selector).limit(100));
        let found = self.cluster.call(|| pods.list_metadata(&wanted)).await;
        let found = found.map_err(|error| error.into_unavailable(WHAT))?;
        Ok(found.items.iter().any(|pod| names::is_held(&pod.metadata)))
    }
}

#[async_trait]
impl Runner for KubernetesRunner {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn scope(&self) -> &str {
        &self.scope
    }

    fn check(&self, launch: &Launch) -> Result<(), RunnerError> {
        object::build(&self.cluster.names, &self.cluster.settings, launch).map(drop)
    }

    async fn launch(&self, launch: &Launch) -> Result<(), RunnerError> {
        self.letting_go.before_launch().await?;
        launch::launch(&self.cluster, &self.view, launch).await
    }

    async fn cancel(&self, job_id: JobId) -> Result<(), RunnerError> {
        cancel::cancel(&self.cluster, &self.view, job_id).await
    }

    fn observations(&self) -> BoxStream<'static, Observation> {
        self.view.observations()
    }

    async fn state(&self, job_id: JobId) -> Result<Option<RunState>, RunnerError> {
        match self.view.state(job_id) {
            Some(state) => Ok(Some(state)),
            None => Ok(self.exists(job_id).await?.then_some(RunState::Waiting { message: None })),
        }
    }

    async fn logs(
        &self,
        job_id: JobId,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<LogEvent, RunnerError>>, RunnerError> {
        if self.view.state(job_id).is_none() && !self.exists(job_id).await? {
            return Err(RunnerError::NoSuchRun(job_id));
        }
        logs::logs(&self.cluster, &self.view, job_id, follow).await
    }

    async fn release(&self, job_id: JobId) -> Result<(), RunnerError> {
        release::release(&self.cluster, &self.view, job_id).await
    }

    async fn ready(&self) -> Result<(), RunnerError> {
        self.view.ready().and_then(|()| self.letting_go.ready())
    }
}
