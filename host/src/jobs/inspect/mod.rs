//! `vespiary doctor`: what is left behind or cannot be reached, over database, archive and the runner's objects together.
//!
//! [`Subject::look`] finds and changes nothing; [`fix`] repairs what was found, each thing looked at again before it is touched.
//! Invariant: what is younger than [`Limits`] says is left alone, and so are the log of a job that has a row and whatever does not carry our
//! labels or is not stored under a job's id.

mod checks;
mod fix;
pub mod leave;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

pub use self::fix::fix;
use crate::archive::Archive;
use crate::core::JobId;
use crate::core::job::UnfinishedJob;
use crate::runner::inspection::{FoundObject, Inspector};
use crate::store::JobStore;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Jobs fail or wait because of it.
    Error,
    /// Something is left behind.
    Warning,
    /// Something to know; nothing is wrong.
    Note,
}

impl Severity {
    /// `error`, `warning` or `note`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is, in a few words that are the same for all of its kind: `job without a row`.
    pub what: &'static str,
    /// Where: an object's name, a job's id, a part.
    pub place: String,
    /// What it means, and what one can do.
    pub meaning: String,
    /// What `--fix` would do; absent when it would do nothing.
    pub fix: Option<String>,
    /// What `--fix` did, or why it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done: Option<Done>,
    #[serde(skip)]
    remedy: Remedy,
}

/// What became of a repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Done {
    /// Whether nothing is left of the finding.
    pub repaired: bool,
    /// In one sentence.
    pub text: String,
}

/// What a repair works on.
#[derive(Debug, Clone)]
enum Remedy {
    Nothing,
    /// The run of a job without a row, and how long the runner may take to see its end.
    Orphan(JobId, Duration),
    /// A run that ended and whose job has a row, and the same.
    Finish(JobId, Duration),
    /// A row without a run.
    Row(UnfinishedJob),
    /// A Secret without a Job.
    Secret(FoundObject),
    /// Keys of jobs without rows.
    Objects(Vec<String>),
}

impl Finding {
    fn new(severity: Severity, what: &'static str, place: impl Into<String>, meaning: impl Into<String>) -> Self {
        let (place, meaning) = (place.into(), meaning.into());
        Self { severity, what, place, meaning, fix: None, done: None, remedy: Remedy::Nothing }
    }

    fn fixed_by(mut self, remedy: Remedy, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self.remedy = remedy;
        self
    }

    /// Whether it is still something that is wrong.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.severity != Severity::Note && !self.done.as_ref().is_some_and(|done| done.repaired)
    }
}

/// A part that could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unopened {
    /// Where it should be; no password in it.
    pub place: String,
    /// Why not, with its causes.
    pub why: String,
}

/// How old what is looked at must be, and how long a look may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest of one check.
    pub deadline: Duration,
    /// A run that ended, and a row that changed, less than so long ago are a server's to look after.
    pub settle: Duration,
    /// Archived objects and Secrets younger than this stay.
    pub keep: Duration,
    /// Also removes archived objects when the database does not know most of them.
    pub force: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            settle: Duration::from_secs(60),
            keep: Duration::from_secs(24 * 60 * 60),
            force: false,
        }
    }
}

/// What is examined: the parts as far as they could be opened, for reading.
pub struct Subject {
    /// The database.
    pub store: Result<Arc<dyn JobStore>, Unopened>,
    /// Logs and large results.
    pub archive: Result<Arc<dyn Archive>, Unopened>,
    /// The runner's objects.
    pub inspector: Result<Arc<dyn Inspector>, Unopened>,
    /// Ages and deadlines.
    pub limits: Limits,
}

/// An error and its causes on one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Many errors repeat their cause.
        if !said.last().is_some_and(|last| last.contains(&text)) {
            said.push(text);
        }
        next = error.source();
    }
    said.join(": ")
}

/// What a call answers within the deadline, else why not.
async fn within<T, E>(deadline: Duration, call: impl Future<Output = Result<T, E>>) -> Result<T, String>
where
    E: std::error::Error + 'static,
{
    match tokio::time::timeout(deadline, call).await {
        Ok(outcome) => outcome.map_err(|error| chain(&error)),
        Err(_) => Err(format!("no answer within {} s", deadline.as_secs_f32())),
    }
}
