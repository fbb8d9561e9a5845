//! The log that an earlier attempt to finalize a job stored, and that no record names yet.
//!
//! It is worth more than what the run gives now that its pod or node is going away: a part of the log must not replace it, and when
//! nothing else is left, the job is recorded from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};

use super::capture::{CaptureRules, Captured, CapturedValue, capture};
use super::{Error, Jobs};
use crate::archive::{Archive, ArchiveError, ArchiveWriter};
use crate::core::LogEvent;
use crate::runner::RunnerError;

/// How a line begins that tells of missing bytes in a stored log (see [`super::capture::framing`]).
const NOTE: &[u8] = b"==> missing: ";
/// How it ends.
const NOTE_END: &[u8] = b" <==";
/// No such line is longer, in bytes.
const LONGEST_NOTE: usize = 4 * 1024;

type Events = BoxStream<'static, Result<LogEvent, RunnerError>>;

/// Keeps a log that is stored already from being replaced by a part of it.
pub(super) struct Keeping {
    archive: Arc<dyn Archive>,
    key: String,
    /// Bytes of the log that is being captured are missing for good.
    is_part: Arc<AtomicBool>,
    has_kept: Arc<AtomicBool>,
}

impl Keeping {
    pub(super) fn new(archive: Arc<dyn Archive>, key: &str) -> Self {
        Self { archive, key: key.to_owned(), is_part: Arc::default(), has_kept: Arc::default() }
    }

    /// The same events, watched for what is missing.
    pub(super) fn watch(&self, events: Events) -> Events {
        let is_part = Arc::clone(&self.is_part);
        let watch = move |event: &LogEvent| {
            if matches!(event, LogEvent::Missing { .. }) {
                is_part.store(true, Ordering::Relaxed);
            }
        };
        events.inspect_ok(watch).boxed()
    }

    /// The same writer, whose object is dropped at its end if it is but a part and there is one already.
    pub(super) fn guard(&self, inner: Box<dyn ArchiveWriter>) -> Box<dyn ArchiveWriter> {
        let keeping = Self {
            archive: Arc::clone(&self.archive),
            key: self.key.clone(),
            is_part: Arc::clone(&self.is_part),
            has_kept: Arc::clone(&self.has_kept),
        };
        Box::new(Guarded { keeping, inner })
    }

    /// Whether the earlier log was kept.
    pub(super) fn has_kept(&self) -> bool {
        self.has_kept.load(Ordering::Relaxed)
    }
}

struct Guarded {
    keeping: Keeping,
    inner: Box<dyn ArchiveWriter>,
}

#[async_trait]
impl ArchiveWriter for Guarded {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ArchiveError> {
        self.inner.write(bytes).await
    }

    async fn finish(self: Box<Self>) -> Result<(), ArchiveError> {
        let Self { keeping, inner } = *self;
        if keeping.is_part.load(Ordering::Relaxed) {
            // What was stored first is the most that there was: a run's log only shrinks.
            match keeping.archive.read(&keeping.key, None).await {
                Ok(_) => {
                    keeping.has_kept.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                Err(ArchiveError::NotFound(_)) => {}
                Err(other) => return Err(other),
            }
        }
        inner.finish().await
    }
}

/// A log that is read without being stored.
struct Nowhere;

#[async_trait]
impl ArchiveWriter for Nowhere {
    async fn write(&mut self, _bytes: Bytes) -> Result<(), ArchiveError> {
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), ArchiveError> {
        Ok(())
    }
}

impl Jobs {
    /// What a capture of the log would have answered that is stored under this key; `None` when there is none.
    pub(super) async fn stored_log(&self, key: &str, rules: &CaptureRules) -> Result<Option<Captured>, Error> {
        let object = match self.archive.read(key, None).await {
            Ok(object) => object,
            Err(ArchiveError::NotFound(_)) => return Ok(None),
            Err(other) => return Err(other.into()),
        };
        tracing::info!(key, "an earlier attempt stored this log, and the run has no more of it");
        // As it was stored: its headings are bytes of it, and what it was cut to is kept.
        let as_stored = CaptureRules { containers: 1, max_log_bytes: None, ..rules.clone() };
        let events = events(object.body);
        let mut captured = capture(events, Box::new(Nowhere), &as_stored, &self.spool_dir).await?;
        if rules.containers > 1 {
            // Any of the containers may have printed a heading: which one a marker is of is not certain.
            let reason = "the run is gone, and a result is not taken from the stored log of several containers";
            captured.value = CapturedValue::Unseen { reason: reason.to_owned() };
            captured.media_type = None;
            captured.warnings.clear();
        }
        Ok(Some(captured))
    }
}

/// A stored log as the events of one container.
fn events(body: BoxStream<'static, Result<Bytes, ArchiveError>>) -> Events {
    let pieces = body.map_err(|cause| RunnerError::Unavailable {
        message: "the stored log could not be read".to_owned(),
        source: Box::new(cause),
    });
    let end = stream::once(async { Ok(Bytes::new()) });
    let mut notes = Notes::default();
    // An empty piece stands for the end; none of the archive's is.
    let pieces = pieces.try_filter(|piece| std::future::ready(!piece.is_empty())).chain(end);
    pieces.map_ok(move |piece| stream::iter(notes.take(piece).into_iter().map(Ok))).try_flatten().boxed()
}

/// Finds the lines that tell of missing bytes.
#[derive(Default)]
struct Notes {
    /// The beginning of a line that may become one.
    held: Bytes,
    inside_line: bool,
}

impl Notes {
    /// The events that a piece completes; an empty one is the end.
    fn take(&mut self, piece: Bytes) -> Vec<LogEvent> {
        let is_end = piece.is_empty();
        let mut rest = if self.held.is_empty() {
            piece
        } else {
            BytesMut::from_iter(std::mem::take(&mut self.held).into_iter().chain(piece)).freeze()
        };
        let mut found = Vec::new();
        let mut plain = BytesMut::new();
        while !rest.is_empty() {
            let end_of_line = memchr::memchr(b'\n', &rest);
            let may_be_note = !self.inside_line && (rest.starts_with(NOTE) || NOTE.starts_with(&rest));
            if end_of_line.is_none() && may_be_note && !is_end && rest.len() <= LONGEST_NOTE {
                self.held = rest;
                break;
            }
            let line = rest.split_to(end_of_line.map_or(rest.len(), |at| at + 1));
            let note = line.strip_suffix(b"\n").and_then(|line| line.strip_prefix(NOTE)?.strip_suffix(NOTE_END));
            match note {
                Some(reason) if may_be_note => {
                    found.extend((!plain.is_empty()).then(|| LogEvent::Bytes(plain.split().freeze())));
                    found.push(LogEvent::Missing { reason: String::from_utf8_lossy(reason).into_owned() });
                }
                _ => plain.extend_from_slice(&line),
            }
            self.inside_line = end_of_line.is_none();
        }
        found.extend((!plain.is_empty()).then(|| LogEvent::Bytes(plain.freeze())));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str, size: usize) -> Vec<LogEvent> {
        let mut notes = Notes::default();
        let mut events = Vec::new();
        let pieces = text.as_bytes().chunks(size).map(Bytes::copy_from_slice).chain([Bytes::new()]);
        for event in pieces.flat_map(|piece| notes.take(piece)) {
            match (event, events.last_mut()) {
                (LogEvent::Bytes(more), Some(LogEvent::Bytes(held))) => {
                    *held = [held.as_ref(), more.as_ref()].concat().into();
                }
                (event, _) => events.push(event),
            }
        }
        events
    }

    #[test]
    fn a_stored_log_is_the_events_that_it_was_made_of() {
        let bytes = |text: &'static str| LogEvent::Bytes(Bytes::from_static(text.as_bytes()));
        let missing = |reason: &str| LogEvent::Missing { reason: reason.to_owned() };
        let log = "==> missing: rotated away <==\na\n x==> missing: b <==\n==> missing: c\n==> missing: é <==\n==> mis";
        let want = [
            missing("rotated away"),
            bytes("a\n x==> missing: b <==\n==> missing: c\n"),
            missing("é"),
            bytes("==> mis"),
        ];
        for size in 1..log.len() + 1 {
            assert_eq!(taken(log, size), want, "in pieces of {size}");
        }
        let long = format!("==> missing: {}", "x".repeat(3 * LONGEST_NOTE));
        assert_eq!(taken(&long, 1_000), [LogEvent::Bytes(long.clone().into())]);
        assert_eq!(taken("", 1), []);
    }
}
