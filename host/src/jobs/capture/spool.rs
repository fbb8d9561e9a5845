//! Keeps a value while it is read out of a log: in memory up to 256 KiB, above that in a temporary file without a name.
//!
//! The file is gone with the last handle, whatever happens to the process. Size and SHA-256 are known when the value is whole.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use sha2::{Digest as _, Sha256};

/// Bytes that are kept in memory.
const IN_MEMORY: usize = 256 * 1024;
/// Bytes of one piece that is read back.
const PIECE: usize = 1024 * 1024;

/// Why a value could not be kept or read back.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// No temporary file could be made.
    #[error("cannot make a temporary file for the value in '{}'", folder.display())]
    Create {
        /// The folder.
        folder: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The temporary file took no more bytes.
    #[error("cannot write the value to a temporary file")]
    Write(#[source] io::Error),
    /// The temporary file gave no bytes.
    #[error("cannot read the value back from its temporary file")]
    Read(#[source] io::Error),
    /// The temporary file took or gave nothing for too long.
    #[error("the temporary file of the value took or gave nothing for {ms} ms")]
    Stalled {
        /// How long, in milliseconds.
        ms: u128,
    },
}

/// A value that is being written. All of it may block: once a value is [on disk](Spool::fits_memory) keep it off the async threads.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    limit: u64,
    /// The longest wait for one piece of a whole value.
    stall: Duration,
    size: u64,
    digest: Sha256,
    body: SpoolBody,
}

#[derive(Debug)]
enum SpoolBody {
    Memory(Vec<u8>),
    Disk(BufWriter<File>),
    /// The value is longer than its limit: what there was of it is gone.
    TooLarge,
}

impl Spool {
    /// An empty value of at most `limit` bytes, with its temporary file in this folder should it need one. Reading a piece of it back
    /// may take as long as `stall`.
    #[must_use]
    pub fn new(folder: &Path, limit: u64, stall: Duration) -> Self {
        let body = SpoolBody::Memory(Vec::new());
        Self { folder: folder.to_owned(), limit, stall, size: 0, digest: Sha256::new(), body }
    }

    /// Whether so many bytes more need no file.
    #[must_use]
    pub fn fits_memory(&self, more: usize) -> bool {
        match &self.body {
            SpoolBody::Memory(bytes) => bytes.len().saturating_add(more) <= IN_MEMORY,
            SpoolBody::Disk(_) => false,
            SpoolBody::TooLarge => true,
        }
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The temporary file cannot be made or written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        if matches!(self.body, SpoolBody::TooLarge) {
            return Ok(());
        }
        self.size = self.size.saturating_add(bytes.len() as u64);
        if self.size > self.limit {
            self.body = SpoolBody::TooLarge;
            return Ok(());
        }
        if !self.fits_memory(bytes.len()) {
            self.spill()?;
        }
        match &mut self.body {
            SpoolBody::Memory(memory) => memory.extend_from_slice(bytes),
            SpoolBody::Disk(file) => file.write_all(bytes).map_err(SpoolError::Write)?,
            SpoolBody::TooLarge => {}
        }
        self.digest.update(bytes);
        Ok(())
    }

    /// Moves the value from memory to a file.
    fn spill(&mut self) -> Result<(), SpoolError> {
        let SpoolBody::Memory(memory) = &self.body else { return Ok(()) };
        let file = tempfile::tempfile_in(&self.folder)
            .map_err(|source| SpoolError::Create { folder: self.folder.clone(), source })?;
        let mut file = BufWriter::with_capacity(IN_MEMORY, file);
        file.write_all(memory).map_err(SpoolError::Write)?;
        self.body = SpoolBody::Disk(file);
        Ok(())
    }

    /// The whole value; `None` when it is longer than its limit.
    ///
    /// # Errors
    /// The temporary file cannot be written.
    pub fn finish(self) -> Result<Option<SpooledValue>, SpoolError> {
        let body = match self.body {
            SpoolBody::Memory(bytes) => ValueBody::Memory(Bytes::from(bytes)),
            SpoolBody::Disk(file) => {
                let file = file.into_inner().map_err(|error| SpoolError::Write(error.into_error()))?;
                ValueBody::Disk { file: Arc::new(file), stall: self.stall }
            }
            SpoolBody::TooLarge => return Ok(None),
        };
        Ok(Some(SpooledValue { size: self.size, sha256: hex::encode(self.digest.finalize()), body }))
    }
}

/// A whole value. It can be read any number of times.
#[derive(Debug, Clone)]
pub struct SpooledValue {
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the bytes, in lower-case hexadecimal.
    pub sha256: String,
    body: ValueBody,
}

#[derive(Debug, Clone)]
enum ValueBody {
    Memory(Bytes),
    Disk { file: Arc<File>, stall: Duration },
}

impl SpooledValue {
    /// A value that is in memory already.
    #[cfg(test)]
    pub(crate) fn from_bytes(bytes: Bytes) -> Self {
        let sha256 = hex::encode(Sha256::digest(&bytes));
        Self { size: bytes.len() as u64, sha256, body: ValueBody::Memory(bytes) }
    }

    /// The value, if it has at most `limit` bytes.
    ///
    /// # Errors
    /// The temporary file cannot be read.
    pub async fn bytes(&self, limit: u64) -> Result<Option<Bytes>, SpoolError> {
        if self.size > limit {
            return Ok(None);
        }
        let Ok(length) = usize::try_from(self.size) else { return Ok(None) };
        match &self.body {
            ValueBody::Memory(bytes) => Ok(Some(bytes.clone())),
            ValueBody::Disk { file, stall } => read(Arc::clone(file), 0, length, *stall).await.map(Some),
        }
    }

    /// The value in pieces of at most 1 MiB.
    #[must_use]
    pub fn chunks(&self) -> BoxStream<'static, Result<Bytes, SpoolError>> {
        match &self.body {
            ValueBody::Memory(bytes) => {
                let piece = Some(bytes.clone()).filter(|bytes| !bytes.is_empty());
                stream::iter(piece.map(Ok)).boxed()
            }
            ValueBody::Disk { file, stall } => {
                let (size, stall) = (self.size, *stall);
                stream::try_unfold((Arc::clone(file), 0_u64), move |(file, at)| async move {
                    let left = size.saturating_sub(at);
                    if left == 0 {
                        return Ok(None);
                    }
                    let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
                    let piece = read(Arc::clone(&file), at, length, stall).await?;
                    Ok(Some((piece, (file, at + length as u64))))
                })
                .boxed()
            }
        }
    }
}

/// Reads so many bytes, off the async threads.
async fn read(file: Arc<File>, at: u64, length: usize, stall: Duration) -> Result<Bytes, SpoolError> {
    let work = move || {
        let mut piece = vec![0; length];
        file.read_exact_at(&mut piece, at).map(|()| Bytes::from(piece))
    };
    tokio::time::timeout(stall, tokio::task::spawn_blocking(work))
        .await
        .map_err(|_| SpoolError::Stalled { ms: stall.as_millis() })?
        .map_err(|stopped| SpoolError::Read(io::Error::other(stopped)))?
        .map_err(SpoolError::Read)
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;

    use super::*;

    const STALL: Duration = Duration::from_secs(60);

    /// A runtime whose only thread for blocking work does none until the sender is dropped, as if the disk hung.
    fn hung() -> (tokio::runtime::Runtime, std::sync::mpsc::Sender<()>) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().max_blocking_threads(1).build().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        runtime.spawn_blocking(move || receiver.recv());
        (runtime, sender)
    }

    #[test]
    fn a_disk_that_hangs_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(folder.path(), u64::MAX, Duration::from_millis(20));
        spool.write(&vec![0; 2 * IN_MEMORY]).unwrap();
        let value = spool.finish().unwrap().unwrap();
        let (runtime, release) = hung();
        runtime.block_on(async {
            let error = value.bytes(u64::MAX).await.unwrap_err();
            assert!(matches!(error, SpoolError::Stalled { ms: 20 }), "{error}");
            let error = value.chunks().try_collect::<Vec<_>>().await.unwrap_err();
            assert!(matches!(error, SpoolError::Stalled { ms: 20 }), "{error}");
        });
        drop(release);
    }

    async fn round_trip(size: usize, step: usize) {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..size).map(|at| (at * 7 % 251) as u8).collect();
        let mut spool = Spool::new(folder.path(), u64::MAX, STALL);
        bytes.chunks(step).for_each(|piece| spool.write(piece).unwrap());
        assert_eq!(spool.fits_memory(0), size <= IN_MEMORY);
        let value = spool.finish().unwrap().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
        assert_eq!((value.size, value.sha256.as_str()), (size as u64, hex::encode(Sha256::digest(&bytes)).as_str()));
        assert_eq!(value.bytes(size as u64).await.unwrap().unwrap(), bytes);
        if size > 0 {
            assert!(value.bytes(size as u64 - 1).await.unwrap().is_none());
        }
        for _ in 0..2 {
            let pieces: Vec<Bytes> = value.chunks().try_collect().await.unwrap();
            assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() <= PIECE));
            assert_eq!(pieces.concat(), bytes);
        }
    }

    #[tokio::test]
    async fn values_come_back_byte_for_byte() {
        round_trip(0, 1).await;
        round_trip(1, 1).await;
        round_trip(IN_MEMORY, 1000).await;
        round_trip(IN_MEMORY + 1, 1000).await;
        round_trip(3 * PIECE + 5, 700_000).await;
    }

    #[test]
    fn a_value_over_its_limit_is_given_up_and_the_rest_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(folder.path(), 10, STALL);
        spool.write(b"0123456789").unwrap();
        spool.write(b"0").unwrap();
        spool.write(&vec![0; IN_MEMORY]).unwrap();
        assert!(spool.finish().unwrap().is_none());
    }

    #[test]
    fn a_missing_folder_is_told() {
        let mut spool = Spool::new(Path::new("/nonexistent/folder"), u64::MAX, STALL);
        spool.write(&vec![0; IN_MEMORY]).unwrap();
        let error = spool.write(b"x").unwrap_err();
        assert!(matches!(error, SpoolError::Create { .. }), "{error}");
    }
}
