//! Reads a run's log events in batches: what is to be stored, and what the result reader is told.
//!
//! A batch is bounded in bytes and in pieces, so that neither a large log nor one in tiny pieces grows the memory.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::framing::Framer;
use super::reader::Step;
use super::{CaptureError, CaptureRules};
use crate::core::LogEvent;
use crate::runner::RunnerError;

/// A batch is full with so many bytes; the last piece may reach beyond.
const BATCH_BYTES: usize = 1024 * 1024;
/// A batch is full with so many pieces.
const BATCH_PIECES: usize = 4096;
/// Pieces smaller than this on average are copied together, for the archive's sake.
const SMALL_PIECE: usize = 16 * 1024;
/// Characters of all reasons why something is missing.
const MISSING_CHARS: usize = 2000;

/// A part of the log.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// What is stored.
    pub(super) stored: Vec<Bytes>,
    /// What the result reader is told.
    pub(super) steps: Vec<Step>,
    /// Bytes in `stored` and `steps`, those in both counted once.
    pub(super) size: usize,
    /// Bytes in `stored`.
    stored_size: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.size >= BATCH_BYTES || self.stored.len() >= BATCH_PIECES || self.steps.len() >= BATCH_PIECES
    }

    fn is_empty(&self) -> bool {
        self.stored.is_empty() && self.steps.is_empty()
    }

    fn store(&mut self, bytes: Option<Bytes>) {
        self.stored_size += bytes.as_ref().map_or(0, Bytes::len);
        self.stored.extend(bytes);
    }

    fn seal(mut self) -> Self {
        if self.stored.len() > 1 && self.stored_size / self.stored.len() < SMALL_PIECE {
            let mut together = BytesMut::with_capacity(self.stored_size);
            self.stored.iter().for_each(|piece| together.extend_from_slice(piece));
            self.stored = vec![together.freeze()];
        }
        self
    }
}

/// The log of one run.
pub(super) struct Source {
    events: Option<BoxStream<'static, Result<LogEvent, RunnerError>>>,
    framer: Framer,
    result_container: Option<String>,
    /// Whether there is one container.
    only: bool,
    /// Whether the bytes now are those of the result container.
    in_result: bool,
    /// Whether a container's bytes have begun.
    opened: bool,
    /// How many bytes of containers may still be stored.
    room: u64,
    /// Whether nothing more is stored.
    cut: bool,
    limit: u64,
    stall: Duration,
    missing: Vec<String>,
}

impl Source {
    pub(super) fn new(events: BoxStream<'static, Result<LogEvent, RunnerError>>, rules: &CaptureRules) -> Self {
        let limit = rules.max_log_bytes.unwrap_or(u64::MAX);
        Self {
            events: Some(events),
            framer: Framer::new(rules.containers),
            result_container: rules.result_container.clone(),
            only: rules.containers <= 1,
            in_result: rules.containers <= 1,
            opened: false,
            room: limit,
            cut: false,
            limit,
            stall: rules.stall,
            missing: Vec::new(),
        }
    }

    /// The next part of the log; `None` at its end. After an error nothing more can be read.
    pub(super) async fn next(&mut self) -> Result<Option<Batch>, CaptureError> {
        let mut batch = Batch::default();
        while let Some(events) = &mut self.events
            && !batch.is_full()
        {
            let event = tokio::time::timeout(self.stall, events.next())
                .await
                .map_err(|_| CaptureError::LogStalled { ms: self.stall.as_millis() })?;
            match event.transpose().map_err(CaptureError::Log)? {
                Some(event) => self.take(event, &mut batch),
                None => self.events = None,
            }
        }
        Ok((!batch.is_empty()).then(|| batch.seal()))
    }

    /// What is missing of the log that was read, in one sentence.
    pub(super) fn missing(self) -> Option<String> {
        (!self.missing.is_empty()).then(|| self.missing.join("; ").chars().take(MISSING_CHARS).collect())
    }

    fn take(&mut self, event: LogEvent, batch: &mut Batch) {
        let step = match &event {
            LogEvent::Container { name } => {
                self.opened = true;
                self.in_result = match &self.result_container {
                    Some(wanted) => **wanted == **name,
                    None => self.only,
                };
                self.in_result.then_some(Step::Open)
            }
            LogEvent::Bytes(bytes) => {
                batch.size += bytes.len();
                self.in_result.then(|| Step::Bytes(bytes.clone()))
            }
            LogEvent::Missing { reason } => {
                self.note(reason);
                // In front of the first container nobody knows whose bytes they were.
                (self.in_result || !self.opened).then(|| Step::Gap(reason.clone()))
            }
        };
        batch.steps.extend(step);
        if !self.cut {
            self.store(event, batch);
        }
    }

    /// Stores what an event adds to the log; cuts the log at the container's byte that has no room, and says so.
    fn store(&mut self, mut event: LogEvent, batch: &mut Batch) {
        if let LogEvent::Bytes(bytes) = &mut event {
            let room = usize::try_from(self.room).unwrap_or(usize::MAX);
            self.cut = bytes.len() > room;
            bytes.truncate(room);
            self.room -= bytes.len() as u64;
        }
        batch.store(self.framer.frame(event));
        if self.cut {
            let reason = format!("the log is longer than {} bytes, the most that is kept", self.limit);
            self.note(&reason);
            batch.store(Some(self.framer.missing(&reason)));
        }
    }

    fn note(&mut self, reason: &str) {
        if self.missing.len() < 20 && !self.missing.iter().any(|noted| noted == reason) {
            self.missing.push(reason.to_owned());
        }
    }
}
