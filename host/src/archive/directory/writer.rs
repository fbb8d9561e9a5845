//! One object that is being written: pieces are gathered, written while the next ones come, flushed early, renamed last.
//!
//! Invariant: until the rename the object is one file in the growing folder, which goes when the writer is dropped.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use rustix::fs::FlockOperation;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::super::{ArchiveError, ArchiveWriter};
use super::sink::Sink;
use super::{PIECE, blocking, unavailable};

/// After so many bytes the disk begins to write in the background, so that the last flush has little left to do.
const FLUSH_EVERY: u64 = 64 * 1024 * 1024;

/// The same for what goes past the page cache. It is there already, and each flush makes the writes wait for the file system's journal; but
/// some file systems take direct writes and buffer them all the same.
const FLUSH_DIRECT_EVERY: u64 = 1024 * 1024 * 1024;

/// From this size on a piece is not copied: pages that are new each time cost more than a call of its own.
const LARGE: usize = 128 * 1024;

/// A file in the growing folder. It is removed when this is dropped, unless it was renamed.
struct GrowingFile {
    path: PathBuf,
    renamed: bool,
}

impl Drop for GrowingFile {
    fn drop(&mut self) {
        if self.renamed {
            return;
        }
        let path = std::mem::take(&mut self.path);
        let remove = move || {
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a half-written object");
            }
        };
        // Freeing gigabytes takes a while.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// The writer of one object. At most four pieces are in memory: what is gathered, what waits for its turn, what is written, and its block.
pub(super) struct FileWriter {
    root: PathBuf,
    target: PathBuf,
    growing: GrowingFile,
    /// Away while a thread writes; gone for good when that failed.
    sink: Option<Sink>,
    /// Small pieces, copied together.
    gathered: BytesMut,
    /// What goes to the disk next, in one go: a thread for each piece would cost more than its write.
    waiting: Vec<Bytes>,
    waiting_size: usize,
    writing: Option<JoinHandle<io::Result<Sink>>>,
    flushing: Option<JoinHandle<io::Result<()>>>,
    unflushed: u64,
    /// Whether a step failed or was given up halfway: bytes may be missing, or a flush has failed and will not say so again.
    broken: bool,
    deadline: Duration,
    finish_deadline: Duration,
}

impl FileWriter {
    /// Begins an object. Blocks.
    pub(super) fn begin(
        root: &Path,
        folder: &Path,
        target: PathBuf,
        deadline: Duration,
        finish_deadline: Duration,
    ) -> io::Result<Self> {
        let (growing, file) = new_file(folder)?;
        Ok(Self {
            root: root.to_owned(),
            target,
            growing,
            sink: Some(Sink::new(file)),
            gathered: BytesMut::new(),
            waiting: Vec::new(),
            waiting_size: 0,
            writing: None,
            flushing: None,
            unflushed: 0,
            broken: false,
            deadline,
            finish_deadline,
        })
    }

    /// The file, after what is being written. A piece that was written in part cannot be written again: there is none after a failure.
    async fn settled(&mut self) -> Result<Sink, ArchiveError> {
        let failed = || unavailable(io::Error::other("an earlier piece of the object was not written"));
        if self.broken {
            return Err(failed());
        }
        if let Some(mut writing) = self.writing.take() {
            // On some file systems a flush keeps writes waiting until it is through.
            let is_flushing = self.flushing.as_ref().is_some_and(|flushing| !flushing.is_finished());
            let deadline = if is_flushing { self.finish_deadline } else { self.deadline };
            return join(&mut writing, deadline).await;
        }
        self.sink.take().ok_or_else(failed)
    }

    /// Puts what was gathered behind what waits.
    fn seal(&mut self) {
        let gathered = std::mem::take(&mut self.gathered).freeze();
        self.queue(gathered);
    }

    fn queue(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.waiting_size += piece.len();
            self.waiting.push(piece);
        }
    }

    /// Hands what waits to the disk, behind what is written now.
    async fn hand_over(&mut self) -> Result<(), ArchiveError> {
        let mut sink = self.settled().await?;
        // Until this is done: an error or a caller that gives up leaves it so.
        self.broken = true;
        self.unflushed = self.unflushed.saturating_add(self.waiting_size as u64);
        self.waiting_size = 0;
        let pieces = std::mem::take(&mut self.waiting);
        let every = if sink.is_direct() { FLUSH_DIRECT_EVERY } else { FLUSH_EVERY };
        let flush = if self.unflushed >= every { Some(sink.flusher()) } else { None };
        self.writing = Some(tokio::task::spawn_blocking(move || {
            pieces.iter().try_for_each(|piece| sink.write(piece))?;
            Ok(sink)
        }));
        if let Some(file) = flush {
            let file = file.map_err(unavailable)?;
            if let Some(mut flushing) = self.flushing.take() {
                join(&mut flushing, self.finish_deadline).await?;
            }
            self.unflushed = 0;
            self.flushing = Some(tokio::task::spawn_blocking(move || file.sync_data()));
        }
        self.broken = false;
        Ok(())
    }
}

async fn join<T>(task: &mut JoinHandle<io::Result<T>>, deadline: Duration) -> Result<T, ArchiveError> {
    match tokio::time::timeout(deadline, task).await {
        Ok(Ok(result)) => result.map_err(unavailable),
        Ok(Err(stopped)) => Err(ArchiveError::Unavailable(Box::new(stopped))),
        Err(_) => Err(ArchiveError::Timeout(deadline.as_secs())),
    }
}

#[async_trait]
impl ArchiveWriter for FileWriter {
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), ArchiveError> {
        while !bytes.is_empty() {
            if bytes.len() >= LARGE {
                self.seal();
                let piece = bytes.split_to(bytes.len().min(PIECE));
                self.queue(piece);
            } else {
                if self.gathered.capacity() == 0 {
                    self.gathered.reserve(PIECE);
                }
                let room = PIECE.saturating_sub(self.gathered.len());
                self.gathered.extend_from_slice(&bytes.split_to(room.min(bytes.len())));
                if self.gathered.len() >= PIECE {
                    self.seal();
                }
            }
            if self.waiting_size >= PIECE {
                self.hand_over().await?;
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), ArchiveError> {
        self.seal();
        if !self.waiting.is_empty() {
            self.hand_over().await?;
        }
        let sink = self.settled().await?;
        if let Some(mut flushing) = self.flushing.take() {
            join(&mut flushing, self.finish_deadline).await?;
        }
        let Self { root, target, growing, finish_deadline, .. } = *self;
        blocking(finish_deadline, move || {
            sink.finish()?;
            publish(&root, &target, growing)
        })
        .await
    }
}

/// Gives a finished file its name and makes the name durable.
fn publish(root: &Path, target: &Path, mut growing: GrowingFile) -> io::Result<()> {
    let folder = target.parent().unwrap_or(root);
    let mut tries = 0;
    loop {
        fs::create_dir_all(folder)?;
        match fs::rename(&growing.path, target) {
            Ok(()) => break,
            // A removal may take the folder away in between.
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < 10 => tries += 1,
            Err(error) => return Err(error),
        }
    }
    growing.renamed = true;
    // Every folder up to the root: each may be new.
    for folder in target.ancestors().skip(1) {
        File::open(folder)?.sync_all()?;
        if folder == root {
            break;
        }
    }
    Ok(())
}

/// A new file in the growing folder, locked for as long as it is open.
fn new_file(folder: &Path) -> io::Result<(GrowingFile, File)> {
    let path = folder.join(Uuid::now_v7().to_string());
    let file = File::create_new(&path)?;
    let growing = GrowingFile { path, renamed: false };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok((growing, file))
}

/// Writes a file and removes it again.
pub(super) fn try_to_write(folder: &Path) -> io::Result<()> {
    let (_growing, mut file) = new_file(folder)?;
    file.write_all(&[b'.'; 4096])
}

#[cfg(test)]
mod tests {
    use super::super::GROWING;
    use super::*;

    const MIB: usize = 1024 * 1024;
    const DEADLINE: Duration = Duration::from_secs(60);

    fn begin(root: &Path) -> FileWriter {
        fs::create_dir(root.join(GROWING)).unwrap();
        FileWriter::begin(root, &root.join(GROWING), root.join("object"), DEADLINE, DEADLINE).unwrap()
    }

    /// Writes so many MiB.
    async fn write(writer: &mut FileWriter, mib: usize) -> Result<(), ArchiveError> {
        for _ in 0..mib {
            writer.write(Bytes::from(vec![7; MIB])).await?;
        }
        Ok(())
    }

    /// Nothing became of it.
    async fn is_given_up(writer: FileWriter, root: &Path) {
        assert!(matches!(Box::new(writer).finish().await, Err(ArchiveError::Unavailable(_))));
        assert!(!root.join("object").exists());
    }

    #[tokio::test]
    async fn a_flush_that_failed_is_not_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let mut writer = begin(root.path());
        write(&mut writer, 1).await.unwrap();
        // The disk has told of it once, and does not tell again.
        writer.flushing = Some(tokio::task::spawn_blocking(|| Err(io::Error::other("the disk lost a page"))));
        writer.unflushed = FLUSH_EVERY;
        assert!(write(&mut writer, 1).await.is_err());
        assert!(write(&mut writer, 1).await.is_err());
        is_given_up(writer, root.path()).await;
    }

    #[tokio::test]
    async fn a_write_that_was_given_up_halfway_is_not_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let mut writer = begin(root.path());
        write(&mut writer, 1).await.unwrap();
        let (release, hold) = std::sync::mpsc::channel::<()>();
        writer.flushing = Some(tokio::task::spawn_blocking(move || {
            let _ = hold.recv();
            Ok(())
        }));
        writer.unflushed = FLUSH_EVERY;
        let sink = writer.settled().await.unwrap();
        writer.sink = Some(sink);
        {
            let mut given_up = Box::pin(write(&mut writer, 1));
            assert!(futures::poll!(&mut given_up).is_pending(), "it waits for the flush");
        }
        drop(release);
        is_given_up(writer, root.path()).await;
    }

    #[tokio::test]
    async fn a_write_behind_a_long_flush_has_the_time_of_the_flush() {
        let root = tempfile::tempdir().unwrap();
        let mut writer = begin(root.path());
        let sink = writer.settled().await.unwrap();
        writer.deadline = Duration::from_millis(20);
        let (release, hold) = std::sync::mpsc::channel::<()>();
        writer.flushing = Some(tokio::task::spawn_blocking(move || {
            let _ = hold.recv();
            Ok(())
        }));
        writer.writing = Some(tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(200));
            Ok(sink)
        }));
        writer.sink = Some(writer.settled().await.unwrap());
        drop(release);
        write(&mut writer, 1).await.unwrap();
        Box::new(writer).finish().await.unwrap();
        assert_eq!(fs::metadata(root.path().join("object")).unwrap().len(), MIB as u64);
    }

    #[tokio::test]
    async fn a_disk_that_is_full_in_the_middle_of_a_large_object_is_told() {
        let root = tempfile::tempdir().unwrap();
        let mut writer = begin(root.path());
        write(&mut writer, 20).await.unwrap();
        let sink = writer.settled().await.unwrap();
        // Every write to it fails as on a full disk.
        writer.sink = Some(sink.with_file(File::options().write(true).open("/dev/full").unwrap()));
        let failed = async {
            write(&mut writer, 20).await?;
            Box::new(writer).finish().await
        };
        let error = failed.await.unwrap_err();
        let ArchiveError::Unavailable(cause) = error else { panic!("{error}") };
        let cause = cause.downcast_ref::<io::Error>().unwrap();
        assert_eq!(cause.kind(), io::ErrorKind::StorageFull, "{cause}");
        assert!(!root.path().join("object").exists());
    }
}
