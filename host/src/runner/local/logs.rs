//! The log of a run as a stream, read from the files that the containers write.
//!
//! Invariant: constant memory, every byte once and in order. A file is at its end for good only if the run had ended, the next
//! container had begun or the attempt was given up before the read that found nothing more.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::observe::{Inner, Run, Stage, lock, unavailable};
use crate::core::{LogEvent, RunObservation};
use crate::runner::RunnerError;

/// The largest piece of a log.
const PIECE: usize = 256 * 1024;

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// The log from its beginning. `names` are the containers of the plan; `None` if the specification cannot be read.
pub(super) fn stream(
    inner: Arc<Inner>,
    run: Arc<Run>,
    names: Option<Vec<String>>,
    follow: bool,
) -> BoxStream<'static, Result<LogEvent, RunnerError>> {
    let Some(names) = names else {
        let reason = "the run's specification cannot be read, so its containers are not known".to_owned();
        return Box::pin(futures::stream::iter([Ok(LogEvent::Missing { reason })]));
    };
    let mut reader = Reader { changes: inner.changes.subscribe(), inner, run, names, attempt: 1 };
    Box::pin(async_stream::try_stream! {
        'attempts: loop {
            let mut index = 0;
            while let Some(name) = reader.names.get(index).cloned() {
                let mut file = loop {
                    match reader.open(index, follow).await? {
                        Opened::File(file) => break file,
                        Opened::NextAttempt => continue 'attempts,
                        Opened::Over => return,
                        Opened::Released => {
                            let reason = "the run was released while its log was read".to_owned();
                            yield LogEvent::Missing { reason };
                            return;
                        }
                        Opened::NotYet => reader.wait().await?,
                    }
                };
                yield LogEvent::Container { name: name.into() };
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
            // Behind the last container: either all is over, or it failed and another attempt may come.
            loop {
                match reader.open(index, follow).await? {
                    Opened::NextAttempt => continue 'attempts,
                    Opened::NotYet => reader.wait().await?,
                    Opened::Over | Opened::Released | Opened::File(_) => return,
                }
            }
        }
    })
}

/// What came of opening a container's log.
enum Opened {
    File(File),
    /// It may come.
    NotYet,
    /// The attempt was given up: its containers come again.
    NextAttempt,
    /// It will not come.
    Over,
    /// Nobody can tell any more.
    Released,
}

struct Reader {
    inner: Arc<Inner>,
    run: Arc<Run>,
    names: Vec<String>,
    changes: broadcast::Receiver<RunObservation>,
    attempt: u32,
}

impl Reader {
    fn is_over(run: &Run) -> bool {
        matches!(lock(&run.slot).stage, Stage::Ended | Stage::Gone)
    }

    /// Opens the log of a container of the current attempt.
    async fn open(&mut self, index: usize, follow: bool) -> Result<Opened, RunnerError> {
        let (run, name, first_attempt) = (Arc::clone(&self.run), self.names.get(index).cloned(), self.attempt);
        let (opened, attempt) = self
            .inner
            .blocking("to open a log", move || {
                let over = !follow || Self::is_over(&run);
                let file = match name.map(|name| File::open(run.dir.log(index, &name))) {
                    Some(Ok(file)) => Some(file),
                    None => None,
                    Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => None,
                    Some(Err(error)) => return Err(unavailable("to open a log", error)),
                };
                // After the file was opened: it may be the next attempt's.
                let mut attempt = first_attempt;
                while run.dir.log_of_attempt(attempt).exists() {
                    attempt += 1;
                }
                let opened = match file {
                    _ if attempt != first_attempt => Opened::NextAttempt,
                    Some(file) => Opened::File(file),
                    None if lock(&run.slot).stage == Stage::Gone => Opened::Released,
                    None if over => Opened::Over,
                    None => Opened::NotYet,
                };
                Ok((opened, attempt))
            })
            .await?;
        self.attempt = attempt;
        Ok(opened)
    }

    /// The next bytes of a file, and whether an empty answer is its end.
    async fn read(&self, mut file: File, index: usize, follow: bool) -> Result<(File, Bytes, bool), RunnerError> {
        let (run, next, attempt) = (Arc::clone(&self.run), self.names.get(index + 1).cloned(), self.attempt);
        self.inner
            .blocking("to read a log", move || {
                let last = !follow
                    || Self::is_over(&run)
                    || next.is_some_and(|next| run.dir.log(index + 1, &next).exists())
                    || run.dir.log_of_attempt(attempt).exists();
                let mut piece = vec![0; PIECE];
                let length = loop {
                    match file.read(&mut piece) {
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        length => break length.map_err(|error| unavailable("to read a log", error))?,
                    }
                };
                piece.truncate(length);
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
