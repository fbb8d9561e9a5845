//! What lies where a runner keeps its runs, read without opening the runner: for `vespiary doctor` and `vespiary uninstall`.
//!
//! Invariant: nothing changes by a look, no run is taken on, and what is not ours is not seen.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use super::RunnerError;
use crate::core::{JobId, Timestamp};

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// The folder of a local run.
    Run,
    /// A Kubernetes Job.
    Job,
    /// A pod.
    Pod,
    /// A Secret with inputs.
    Secret,
}

impl ObjectKind {
    /// For people: `Job`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "Run",
            Self::Job => "Job",
            Self::Pod => "Pod",
            Self::Secret => "Secret",
        }
    }
}

/// How far what an object stands for has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its launch was begun and not finished.
    Incomplete,
    /// It waits or runs.
    Alive,
    /// Nothing of it runs any more, since then.
    Ended(Timestamp),
    /// It was to end, and nobody has said since then that it did, for longer than that may take: a server gives it up.
    Lost(Timestamp),
}

/// Who named the place that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PlaceFrom {
    /// The configuration.
    Configuration,
    /// The service account of the pod that we run in.
    ServiceAccount,
    /// The current context of the kubeconfig: nobody has said that our runs are there.
    Kubeconfig,
}

impl PlaceFrom {
    /// For people: `of the kubeconfig's context`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "of the configuration",
            Self::ServiceAccount => "of the service account",
            Self::Kubeconfig => "of the kubeconfig's context",
        }
    }
}

/// One object of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundObject {
    /// Whose it is.
    pub job_id: JobId,
    /// What it is.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
    /// Tells it from an earlier or later one of that name.
    pub uid: String,
    /// When it was made.
    pub created: Timestamp,
    /// Whether it stays until we let it go.
    pub held: bool,
    /// How far it has come.
    pub stage: Stage,
}

/// A look at all objects.
#[derive(Debug, Clone, Default)]
pub struct Inspection {
    /// What is there.
    pub objects: Vec<FoundObject>,
    /// What could not be looked at and is not needed for running jobs, a sentence each.
    pub unseen: Vec<String>,
}

/// A right that the runner needs and does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingRight {
    /// For people: `patch pods`.
    pub right: String,
    /// What does not work without it.
    pub needed_to: &'static str,
}

/// The trait of both looks.
#[async_trait]
pub trait Inspector: Send + Sync {
    /// Where it looks, for people: `namespace 'jobs'`.
    fn place(&self) -> String;

    /// Who named it.
    fn place_from(&self) -> PlaceFrom {
        PlaceFrom::Configuration
    }

    /// How long a runner that has just been opened may wait before it gives up a run that is [`Stage::Lost`].
    fn gives_up_after(&self) -> Duration {
        Duration::ZERO
    }

    /// The same as [`super::Runner::scope`] of the runner whose objects these are; `None` where no runner was here yet.
    fn scope(&self) -> Option<&str>;

    /// All objects of ours. Secrets are read before Jobs, so that one without a Job really has none.
    async fn look(&self) -> Result<Inspection, RunnerError>;

    /// What this identity may not do and the runner must.
    async fn missing_rights(&self) -> Result<Vec<MissingRight>, RunnerError>;

    /// Lets this very object go: our finalizer off a Job or pod and nothing else, a Secret deleted. One that is not there is success. Of a
    /// local run nothing is changed: only its runner ends it.
    async fn let_go(&self, object: &FoundObject) -> Result<(), RunnerError>;
}
