//! A look at the folders of local runs, without taking them on.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

use super::observe::unavailable;
use super::run_dir::{self, RunDir};
use super::scope;
use crate::core::{JobId, Timestamp};
use crate::runner::RunnerError;
use crate::runner::inspection::{FoundObject, Inspection, Inspector, MissingRight, ObjectKind, Stage};

/// How long a look may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// The runs in a data folder.
pub struct LocalInspector {
    runs: PathBuf,
    scope: Option<String>,
}

impl LocalInspector {
    /// The runs of the server that has this data folder. Blocks for a moment; nothing is made.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { runs: data_dir.join("runs"), scope: scope::known(data_dir) }
    }
}

/// The run of this job; `None` when it has gone meanwhile. Blocks.
fn read(runs: &Path, job_id: JobId) -> io::Result<Option<FoundObject>> {
    let name = job_id.to_string();
    let dir = RunDir::new(runs.join(&name));
    let ended = dir.ended()?;
    let made = match std::fs::metadata(dir.path()).and_then(|found| found.modified()) {
        Ok(made) => made,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let millis = made.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let stage = ended.map_or(Stage::Alive, |exit| Stage::Ended(exit.finished));
    Ok(Some(FoundObject {
        job_id,
        kind: ObjectKind::Run,
        uid: name.clone(),
        name,
        created: Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX)),
        held: true,
        stage,
    }))
}

#[async_trait]
impl Inspector for LocalInspector {
    fn place(&self) -> String {
        format!("folder {}", self.runs.display())
    }

    fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }

    async fn look(&self) -> Result<Inspection, RunnerError> {
        const WHAT: &str = "to read the folder of the runs";
        let runs = self.runs.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let ids = match run_dir::job_ids(&runs) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                other => other?,
            };
            ids.into_iter().filter_map(|id| read(&runs, id).transpose()).collect::<io::Result<Vec<_>>>()
        });
        let read = tokio::time::timeout(DEADLINE, reading).await.map_err(|late| unavailable(WHAT, late))?;
        let objects = read.map_err(|stopped| unavailable(WHAT, stopped))?.map_err(|error| unavailable(WHAT, error))?;
        Ok(Inspection { objects, unseen: Vec::new() })
    }

    async fn missing_rights(&self) -> Result<Vec<MissingRight>, RunnerError> {
        Ok(Vec::new())
    }

    async fn let_go(&self, _object: &FoundObject) -> Result<(), RunnerError> {
        Ok(())
    }
}
