//! The log of a run as a stream, read from the files that the containers write.
//!
//! Invariant: constant memory, every byte once and in order, all attempts of a run one after another. A file is at its end for good
//! only if the run had ended, the next container had begun or the attempt was given up before the read that found nothing more. What
//! cannot be read since the run was released is told, unless it is known that there was nothing.

use std::fs::File;
use std::io::{self, Read as _, Take};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::observe::{Inner, Run, Stage, lock, unavailable};
use super::run_dir::RunDir;
use crate::core::{LogEvent, RunObservation};
use crate::runner::RunnerError;

/// The largest piece of a log.
const PIECE: usize = 256 * 1024;

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// The log from its beginning. `names` are the containers of the plan; `None` if the specification cannot be read.
///
/// # Errors
/// [`RunnerError::NoSuchRun`] when the run was released just now: its log is elsewhere.
pub(super) async fn stream(
    inner: Arc<Inner>,
    run: Arc<Run>,
    names: Option<Vec<String>>,
    follow: bool,
) -> Result<BoxStream<'static, Result<LogEvent, RunnerError>>, RunnerError> {
    let Some(names) = names else {
        let reason = "the run's specification cannot be read, so its containers are not known".to_owned();
        return Ok(Box::pin(futures::stream::iter([Ok(LogEvent::Missing { reason })])));
    };
    let mut reader = Reader { changes: inner.changes.subscribe(), inner, run, names, attempt: 1 };
    let first = reader.open(0, follow).await?;
    if matches!(first, Opened::Released { .. }) {
        return Err(RunnerError::NoSuchRun(reader.run.id));
    }
    let mut first = Some(first);
    Ok(Box::pin(async_stream::try_stream! {
        loop {
            let mut index = 0;
            loop {
                let opened = match first.take() {
                    Some(opened) => opened,
                    None => reader.open(index, follow).await?,
                };
                let mut file = match opened {
                    Opened::File(file) => file,
                    Opened::NotYet => {
                        reader.wait().await?;
                        continue;
                    }
                    Opened::NextAttempt => break,
                    Opened::Over | Opened::Released { whole: true } => return,
                    Opened::Released { whole: false } => {
                        let reason = "the run was released while its log was read".to_owned();
                        yield LogEvent::Missing { reason };
                        return;
                    }
                };
                if let Some(name) = reader.names.get(index) {
                    yield LogEvent::Container { name: name.as_str().into() };
                }
                loop {
                    let (same, bytes, last) = reader.read(file, index, follow).await?;
                    file = same;
                    if !bytes.is_empty() {
                        yield LogEvent::Bytes(bytes);
                    } else if last {
                        break;
                    } else {
                        reader.wait().await?;
                    }
                }
                index += 1;
            }
            reader.attempt += 1;
        }
    }))
}

/// What came of opening a container's log.
enum Opened {
    File(Take<File>),
    /// It may come.
    NotYet,
    /// The attempt was given up before it: its containers come again.
    NextAttempt,
    /// It will not come.
    Over,
    /// The folder is gone.
    Released {
        /// Whether it is known that there was no such file.
        whole: bool,
    },
}

/// A file, if it is there.
fn open(path: &Path) -> Result<Option<File>, RunnerError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unavailable("to open a log", error)),
    }
}

struct Reader {
    inner: Arc<Inner>,
    run: Arc<Run>,
    names: Vec<String>,
    changes: broadcast::Receiver<RunObservation>,
    /// The one that is read.
    attempt: u32,
}

impl Reader {
    fn is_over(run: &Run) -> bool {
        matches!(lock(&run.slot).stage, Stage::Ended | Stage::Gone)
    }

    /// Opens the log of a container of the attempt; behind the last container there is none. Without `follow` it ends where it ends now.
    async fn open(&self, index: usize, follow: bool) -> Result<Opened, RunnerError> {
        let (run, name, attempt) = (Arc::clone(&self.run), self.names.get(index).cloned(), self.attempt);
        self.inner
            .blocking("to open a log", move || {
                let over = !follow || Self::is_over(&run);
                let open = |folder: &Path| match &name {
                    Some(name) => open(&RunDir::log(folder, index, name)),
                    None => Ok(None),
                };
                let aside = run.dir.logs_of_attempt(attempt);
                let mut given_up = aside.is_dir();
                let mut file = None;
                if !given_up {
                    file = open(&run.dir.logs())?;
                    // What was opened may be the next attempt's.
                    given_up = aside.is_dir();
                }
                if given_up {
                    file = open(&aside)?;
                }
                Ok(match file {
                    Some(file) => {
                        let length = if follow { Ok(u64::MAX) } else { file.metadata().map(|found| found.len()) };
                        Opened::File(file.take(length.map_err(|error| unavailable("to open a log", error))?))
                    }
                    // After the look for the file: as long as the folder is there, it was not released at that look.
                    None if !run.dir.exists() => {
                        let logs = lock(&run.slot).logs;
                        Opened::Released {
                            whole: logs.is_some_and(|logs| logs.attempts == attempt && logs.containers <= index),
                        }
                    }
                    None if given_up => Opened::NextAttempt,
                    None if over => Opened::Over,
                    None => Opened::NotYet,
                })
            })
            .await
    }

    /// The next bytes of a file, and whether an empty answer is its end.
    async fn read(
        &self,
        mut file: Take<File>,
        index: usize,
        follow: bool,
    ) -> Result<(Take<File>, Bytes, bool), RunnerError> {
        let (run, next, attempt) = (Arc::clone(&self.run), self.names.get(index + 1).cloned(), self.attempt);
        self.inner
            .blocking("to read a log", move || {
                let last = !follow
                    || Self::is_over(&run)
                    || next.is_some_and(|next| RunDir::log(&run.dir.logs(), index + 1, &next).exists())
                    || run.dir.logs_of_attempt(attempt).exists();
                // Not zeroed first: a log that is followed is looked at often and in vain.
                let mut piece = Vec::with_capacity(PIECE);
                let most = file.by_ref().take(PIECE as u64).read_to_end(&mut piece);
                let length = most.map_err(|error| unavailable("to read a log", error))?;
                if length < PIECE / 4 {
                    // A reader may keep pieces; short ones shall be short in memory too.
                    piece.shrink_to_fit();
                }
                Ok((file, Bytes::from(piece), last))
            })
            .await
    }

    /// Waits a moment, or until something changed about the run.
    async fn wait(&mut self) -> Result<(), RunnerError> {
        let id = self.run.id;
        let changed = async {
            loop {
                match self.changes.recv().await {
                    Ok(change) if change.job_id != id => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => return,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            () = changed => Ok(()),
            () = tokio::time::sleep(LOOK) => Ok(()),
            () = self.inner.stopping.cancelled() => {
                Err(unavailable("to follow a log", io::Error::other("the runner is being stopped")))
            }
        }
    }
}
