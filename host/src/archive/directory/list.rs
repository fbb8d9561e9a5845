//! The objects of a folder, walked by a thread that waits for whoever takes them.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures::stream::BoxStream;
use tokio::sync::mpsc;

use super::{path_below, unavailable};
use crate::archive::{ArchiveError, ListedObject};
use crate::core::Timestamp;

/// Objects that are handed over at once.
const BATCH: usize = 256;

type Handed = Result<Vec<ListedObject>, io::Error>;

/// Keys that begin with `prefix`. Each batch must come within the deadline.
pub(super) fn stream(
    root: Arc<Path>,
    prefix: String,
    deadline: Duration,
) -> BoxStream<'static, Result<ListedObject, ArchiveError>> {
    Box::pin(async_stream::try_stream! {
        let (sender, mut batches) = mpsc::channel::<Handed>(2);
        drop(tokio::task::spawn_blocking(move || {
            let mut walk = Walk { root: &root, prefix: &prefix, batch: Vec::with_capacity(BATCH), sender };
            // An error is the last that is told; a receiver that is gone wants nothing more.
            match walk.folder(&mut String::new()) {
                Ok(true) => drop(walk.hand_over()),
                Ok(false) => {}
                Err(error) => drop(walk.sender.blocking_send(Err(error))),
            }
        }));
        loop {
            let next = tokio::time::timeout(deadline, batches.recv()).await;
            let Some(batch) = next.map_err(|_| ArchiveError::Timeout(deadline.as_secs()))? else { break };
            for object in batch.map_err(unavailable)? {
                yield object;
            }
        }
    })
}

struct Walk<'a> {
    root: &'a Path,
    prefix: &'a str,
    batch: Vec<ListedObject>,
    sender: mpsc::Sender<Handed>,
}

impl Walk<'_> {
    /// Everything below the folder of these segments (each with a `/` behind it). False when nobody listens any more.
    fn folder(&mut self, segments: &mut String) -> io::Result<bool> {
        let entries = match fs::read_dir(self.root.join(&*segments)) {
            Ok(entries) => entries,
            // Removed since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let length = segments.len();
            segments.push_str(name);
            let is_open = if path_below(self.root, segments).is_some() { self.entry(&entry, segments)? } else { true };
            segments.truncate(length);
            if !is_open {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn entry(&mut self, entry: &fs::DirEntry, key: &mut String) -> io::Result<bool> {
        if entry.file_type()?.is_dir() {
            key.push('/');
            let may_match = key.starts_with(self.prefix) || self.prefix.starts_with(key.as_str());
            return if may_match { self.folder(key) } else { Ok(true) };
        }
        if !key.starts_with(self.prefix) {
            return Ok(true);
        }
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        if !metadata.is_file() {
            return Ok(true);
        }
        let since = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let modified = Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        self.batch.push(ListedObject { key: key.clone(), size: metadata.len(), modified });
        Ok(self.batch.len() < BATCH || self.hand_over())
    }

    fn hand_over(&mut self) -> bool {
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
        self.sender.blocking_send(Ok(batch)).is_ok()
    }
}
