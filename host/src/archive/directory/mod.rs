//! The embedded archive: objects as files below one folder.
//!
//! Invariant: a file under an object's name is whole and on disk. Objects grow in `<root>/.tmp` and get their name by a rename; what a
//! dead server left in there is removed at the next open. A key must not be the folder of another key.

mod list;
mod sink;
mod writer;

#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use self::writer::FileWriter;
use super::{Archive, ArchiveError, ArchiveObject, ArchiveWriter, ByteRange, ListedObject, PIECE, is_key, resolve};

/// The folder in which objects grow. No key may begin with it.
const GROWING: &str = ".tmp";

/// Settings of the directory archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Milliseconds after which a single file operation is given up.
    pub deadline_ms: u64,
    /// Milliseconds after which making an object durable is given up; a large one on a slow disk takes its time.
    pub finish_deadline_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { deadline_ms: 30_000, finish_deadline_ms: 600_000 }
    }
}

/// The archive in a folder of this machine.
#[derive(Debug, Clone)]
pub struct DirectoryArchive {
    root: Arc<Path>,
    deadline: Duration,
    finish_deadline: Duration,
}

impl DirectoryArchive {
    /// Opens the archive in `root` with default settings. The folder is made if it is not there.
    pub async fn open(root: impl Into<PathBuf>) -> Result<Self, ArchiveError> {
        Self::open_with(root, &Settings::default()).await
    }

    /// Opens the archive in `root`. The folder is made if it is not there; what dead servers left half written is removed.
    pub async fn open_with(root: impl Into<PathBuf>, settings: &Settings) -> Result<Self, ArchiveError> {
        let root = root.into();
        let deadline = Duration::from_millis(settings.deadline_ms);
        let root = blocking(deadline, move || {
            fs::create_dir_all(root.join(GROWING))?;
            // Absolute, so that URIs mean the same wherever they are read.
            let root = fs::canonicalize(root)?;
            remove_leftovers(&root.join(GROWING));
            Ok(root)
        })
        .await?;
        Ok(Self { root: root.into(), deadline, finish_deadline: Duration::from_millis(settings.finish_deadline_ms) })
    }

    /// The file of an object, if the key is one.
    fn path_of(&self, key: &str) -> Option<PathBuf> {
        path_below(&self.root, key)
    }
}

/// The file of a key below the root, if it is a key and not of the folder in which objects grow.
fn path_below(root: &Path, key: &str) -> Option<PathBuf> {
    (is_key(key) && key.split('/').next() != Some(GROWING)).then(|| root.join(key))
}

/// Removes what writers of servers that are gone left behind. A living writer holds a lock on its file.
fn remove_leftovers(growing: &Path) {
    let Ok(entries) = fs::read_dir(growing) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let dead = File::open(&path)
            .is_ok_and(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
        if dead && let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove a half-written object");
        }
    }
}

/// Runs file work off the async threads, for so long at most. Work that hangs goes on in its thread; its answer is dropped.
async fn blocking<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ArchiveError> {
    match tokio::time::timeout(deadline, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(Ok(value))) => Ok(value),
        Ok(Ok(Err(error))) => Err(unavailable(error)),
        Ok(Err(stopped)) => Err(ArchiveError::Unavailable(Box::new(stopped))),
        Err(_) => Err(ArchiveError::Timeout(deadline.as_secs())),
    }
}

fn unavailable(error: io::Error) -> ArchiveError {
    ArchiveError::Unavailable(Box::new(error))
}

/// The bytes of an open file, in pieces. A file that is shorter than it was is an error, not a short answer.
fn body(file: File, first: u64, length: u64, deadline: Duration) -> BoxStream<'static, Result<Bytes, ArchiveError>> {
    let file = Arc::new(file);
    Box::pin(async_stream::try_stream! {
        let (mut at, end) = (first, first.saturating_add(length));
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let file = Arc::clone(&file);
            let piece = blocking(deadline, move || {
                let mut piece = vec![0; wanted];
                file.read_exact_at(&mut piece, at)?;
                Ok(Bytes::from(piece))
            })
            .await?;
            at = at.saturating_add(piece.len() as u64);
            yield piece;
        }
    })
}

#[async_trait]
impl Archive for DirectoryArchive {
    async fn create(&self, key: &str, _media_type: &str) -> Result<Box<dyn ArchiveWriter>, ArchiveError> {
        let Some(path) = self.path_of(key) else {
            let message = format!("'{}' is not a key", key.chars().take(80).collect::<String>().escape_debug());
            return Err(unavailable(io::Error::new(io::ErrorKind::InvalidInput, message)));
        };
        let root = Arc::clone(&self.root);
        let (deadline, finish_deadline) = (self.deadline, self.finish_deadline);
        let writer =
            blocking(deadline, move || FileWriter::begin(&root, &root.join(GROWING), path, deadline, finish_deadline))
                .await?;
        Ok(Box::new(writer))
    }

    async fn read(&self, key: &str, range: Option<ByteRange>) -> Result<ArchiveObject, ArchiveError> {
        let absent = || ArchiveError::NotFound(key.chars().take(1024).collect());
        let path = self.path_of(key).ok_or_else(absent)?;
        let opened = blocking(self.deadline, move || match File::open(&path) {
            Ok(file) => {
                let metadata = file.metadata()?;
                Ok(metadata.is_file().then_some((file, metadata.len())))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        })
        .await?;
        let (file, size) = opened.ok_or_else(absent)?;
        let (first, length) = resolve(range, size)?;
        Ok(ArchiveObject { size, first, length, body: body(file, first, length, self.deadline) })
    }

    async fn remove(&self, key: &str) -> Result<(), ArchiveError> {
        let Some(path) = self.path_of(key) else { return Ok(()) };
        let root = Arc::clone(&self.root);
        blocking(self.deadline, move || {
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            // Empty folders go too. One that is not empty, or is being filled, stays: `rmdir` decides.
            let mut folder = path.parent();
            while let Some(empty) = folder.filter(|folder| *folder != &*root) {
                if fs::remove_dir(empty).is_err() {
                    break;
                }
                folder = empty.parent();
            }
            Ok(())
        })
        .await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ListedObject, ArchiveError>> {
        list::stream(Arc::clone(&self.root), prefix.to_owned(), self.deadline)
    }

    fn uri(&self, key: &str) -> String {
        let path = self.root.join(key);
        url::Url::from_file_path(&path).map_or_else(|()| format!("file://{}", path.display()), String::from)
    }

    async fn ready(&self) -> Result<(), ArchiveError> {
        let growing = self.root.join(GROWING);
        blocking(self.deadline, move || writer::try_to_write(&growing)).await
    }
}
