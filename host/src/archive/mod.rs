//! The archive: logs and large results as objects by key. [`directory`] keeps them as files, [`s3`] in a bucket.
//!
//! A key is `/`-separated segments of `[A-Za-z0-9._-]`, none of them `.` or `..`. An object appears whole or not at all, and storing
//! the same key again replaces it.

#[cfg(any(test, feature = "failpoints"))]
pub mod contract;
pub mod directory;
pub mod s3;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::core::Timestamp;

/// The largest piece of a body, in bytes.
const PIECE: usize = 1024 * 1024;

/// Why the archive did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// There is no object of this key.
    #[error("the archive has no object '{0}'")]
    NotFound(String),
    /// The range starts behind the end of the object.
    #[error("the range starts behind the end of the object, which has {size} bytes")]
    RangeNotSatisfiable {
        /// Bytes of the object.
        size: u64,
    },
    /// The archive cannot be reached, is full or read-only. It may work again.
    #[error("the archive is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The call took longer than its deadline.
    #[error("the archive did not answer within {0} s")]
    Timeout(u64),
}

/// Which bytes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// From the first to the last, both included; without a last one, to the end.
    From {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte.
        last: Option<u64>,
    },
    /// The last so many.
    Last(u64),
}

/// An object that is being read.
pub struct ArchiveObject {
    /// Bytes of the whole object.
    pub size: u64,
    /// Offset of the first byte in `body`.
    pub first: u64,
    /// How many bytes `body` yields.
    pub length: u64,
    /// The bytes, in pieces of at most 1 MiB.
    pub body: BoxStream<'static, Result<Bytes, ArchiveError>>,
}

/// An object as a list names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Its key.
    pub key: String,
    /// Its bytes.
    pub size: u64,
    /// When it was stored.
    pub modified: Timestamp,
}

/// The trait of both archives.
#[async_trait]
pub trait Archive: Send + Sync {
    /// Begins an object. Nothing is readable under the key before [`ArchiveWriter::finish`]; a writer that is dropped leaves nothing.
    async fn create(&self, key: &str, media_type: &str) -> Result<Box<dyn ArchiveWriter>, ArchiveError>;

    /// Reads an object or a range of it.
    async fn read(&self, key: &str, range: Option<ByteRange>) -> Result<ArchiveObject, ArchiveError>;

    /// Removes an object. One that is not there is fine.
    async fn remove(&self, key: &str) -> Result<(), ArchiveError>;

    /// The objects whose keys begin so, in no order; what changes meanwhile may be missing. Ends at the first error. An archive may keep
    /// things of others: what is not a key is left out.
    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ListedObject, ArchiveError>>;

    /// An address at which a client gets the object without this server, for some minutes, as a file of this name and media type; `None`
    /// where clients are not to be sent away.
    async fn address(&self, _key: &str, _filename: &str, _media_type: &str) -> Result<Option<String>, ArchiveError> {
        Ok(None)
    }

    /// Where the object is or will be, for people: `file:///…` or `s3://bucket/key`.
    fn uri(&self, key: &str) -> String;

    /// Whether an object could be stored now; for readiness.
    async fn ready(&self) -> Result<(), ArchiveError>;
}

/// An object that is being stored, in constant memory.
#[async_trait]
pub trait ArchiveWriter: Send {
    /// Appends bytes.
    async fn write(&mut self, bytes: Bytes) -> Result<(), ArchiveError>;

    /// Makes the object durable and readable.
    async fn finish(self: Box<Self>) -> Result<(), ArchiveError>;
}

/// Whether this is a key: `/`-separated segments of `[A-Za-z0-9._-]`, none of them `.` or `..`, none longer than a file name may be.
fn is_key(key: &str) -> bool {
    let segment = |text: &str| {
        !matches!(text, "" | "." | "..")
            && text.len() <= 255
            && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'))
    };
    key.len() <= 1024 && key.split('/').all(segment)
}

/// First byte and length of a range of an object of this size.
fn resolve(range: Option<ByteRange>, size: u64) -> Result<(u64, u64), ArchiveError> {
    let outside = || ArchiveError::RangeNotSatisfiable { size };
    match range {
        None => Ok((0, size)),
        Some(ByteRange::Last(0)) => Err(outside()),
        Some(ByteRange::Last(count)) => Ok((size.saturating_sub(count), count.min(size))),
        Some(ByteRange::From { first, last }) => {
            let end = last.map_or(size, |last| last.saturating_add(1).min(size));
            if first >= size || end <= first { Err(outside()) } else { Ok((first, end - first)) }
        }
    }
}
