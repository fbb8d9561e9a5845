//! The two readers of a log in one pass: the digest of everything that is stored, and the result in one container's section.
//!
//! Both work on whole batches and may block, so that each can run on a thread of its own beside the archive's write.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use memchr::memchr_iter;
use sha2::{Digest as _, Sha256};

use super::lines::KEPT;
use super::scanner::{MarkerScanner, MarkerWarning};
use super::spool::{Spool, SpoolError};
use super::{CaptureRules, CapturedValue};

/// Bytes, lines and SHA-256 of a stored log.
#[derive(Debug, Default)]
pub(super) struct LogDigest {
    bytes: u64,
    line_feeds: u64,
    inside_line: bool,
    sha256: Sha256,
}

impl LogDigest {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        self.inside_line = *last != b'\n';
        self.bytes += bytes.len() as u64;
        self.line_feeds += memchr_iter(b'\n', bytes).count() as u64;
        self.sha256.update(bytes);
    }

    /// Bytes, lines (a last one without a line feed included) and SHA-256 in hexadecimal.
    pub(super) fn finish(self) -> (u64, u64, String) {
        (self.bytes, self.line_feeds + u64::from(self.inside_line), hex::encode(self.sha256.finalize()))
    }
}

/// What the result reader is told, in the order of the log.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// The section of the result container begins.
    Open,
    /// Bytes of the result container.
    Bytes(Bytes),
    /// Bytes of the result container are missing here.
    Gap(String),
}

/// Reads media type and value out of the result container's section.
#[derive(Debug)]
pub(super) struct ResultReader {
    nonce: Option<String>,
    limit: u64,
    stall: Duration,
    folder: PathBuf,
    scanner: MarkerScanner,
    spool: Spool,
    /// Why the value is not whole.
    gap: Option<String>,
    /// Why bytes before the value are missing.
    lost: Option<String>,
    touched: bool,
}

impl ResultReader {
    pub(super) fn new(rules: &CaptureRules, folder: PathBuf) -> Self {
        Self {
            nonce: rules.nonce.clone(),
            limit: rules.max_value_bytes,
            stall: rules.stall,
            scanner: MarkerScanner::new(rules.nonce.as_deref()),
            spool: Spool::new(&folder, rules.max_value_bytes, rules.stall),
            folder,
            gap: None,
            lost: None,
            touched: false,
        }
    }

    /// Whether so many bytes more, or the end with none, need no file.
    pub(super) fn fits_memory(&self, more: usize) -> bool {
        self.spool.fits_memory(more.saturating_add(KEPT))
    }

    pub(super) fn apply(&mut self, step: &Step) -> Result<(), SpoolError> {
        match step {
            Step::Open => {
                // The same container again is a run that was tried again: what an earlier one printed is not the result.
                if self.touched {
                    self.scanner = MarkerScanner::new(self.nonce.as_deref());
                    self.spool = Spool::new(&self.folder, self.limit, self.stall);
                    self.gap = None;
                    self.lost = None;
                    self.touched = false;
                }
                Ok(())
            }
            Step::Gap(reason) => {
                self.touched = true;
                if self.gap.is_none() {
                    let place = if self.scanner.gap() { &mut self.gap } else { &mut self.lost };
                    *place = Some(reason.clone());
                }
                Ok(())
            }
            Step::Bytes(bytes) => {
                self.touched = true;
                if self.gap.is_some() {
                    return Ok(());
                }
                let spool = &mut self.spool;
                self.scanner.push(bytes, &mut |value| spool.write(value))
            }
        }
    }

    /// Media type, value and warnings.
    pub(super) fn finish(self) -> Result<(Option<String>, CapturedValue, Vec<MarkerWarning>), SpoolError> {
        let Self { scanner, mut spool, gap, lost, limit, .. } = self;
        let markers = scanner.finish(&mut |value| spool.write(value))?;
        let value = match gap {
            Some(reason) => CapturedValue::Incomplete { reason },
            None if !markers.started => match lost {
                Some(reason) => CapturedValue::Unseen { reason },
                None => CapturedValue::Absent,
            },
            None => match spool.finish()? {
                Some(value) => CapturedValue::Whole(value),
                None => CapturedValue::TooLarge { limit },
            },
        };
        Ok((markers.media_type, value, markers.warnings))
    }
}
