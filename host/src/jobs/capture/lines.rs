//! Finds lines that hold a marker in a stream of bytes, in any chunking, without looking at other lines one by one.
//!
//! Of a line only a window is looked at: at most [`BEFORE`] bytes before the marker and [`REST`] bytes from its first one. That
//! bounds what is kept between two chunks to [`KEPT`] bytes and makes the answer depend on positions in the stream alone.

use memchr::memmem::Finder;
use memchr::{memchr, memchr2, memrchr, memrchr2};

/// How many bytes before a marker still count as its line's prefix.
pub(super) const BEFORE: usize = 1024;
/// How many bytes of a line count from the first byte of its marker.
pub(super) const REST: usize = 3072;
/// The most bytes that are kept between two chunks.
pub(super) const KEPT: usize = BEFORE + REST;

/// `bytes[from..to]`, and nothing where that is out of range.
pub(super) fn part(bytes: &[u8], from: usize, to: usize) -> &[u8] {
    bytes.get(from..to).unwrap_or_default()
}

/// The unfinished end of a stream.
#[derive(Debug, Default)]
pub(super) struct Carry {
    bytes: Vec<u8>,
}

impl Carry {
    /// Has `scan` look at what was kept together with `input`. It answers from which offset on it must see the bytes again, at
    /// most [`KEPT`] before the end. Only bytes beside the seam of two chunks are copied.
    pub(super) fn feed<E>(&mut self, input: &[u8], mut scan: impl FnMut(&[u8]) -> Result<usize, E>) -> Result<(), E> {
        let mut input = input;
        while !self.bytes.is_empty() {
            if input.is_empty() {
                return Ok(());
            }
            let old = self.bytes.len();
            let (seam, behind) = input.split_at_checked(2 * KEPT).unwrap_or((input, &[]));
            self.bytes.extend_from_slice(seam);
            let keep = scan(&self.bytes)?;
            match keep.checked_sub(old) {
                Some(seen) => {
                    self.bytes.clear();
                    input = input.get(seen..).unwrap_or_default();
                }
                None => {
                    self.bytes.drain(..keep);
                    input = behind;
                }
            }
        }
        if !input.is_empty() {
            let keep = scan(input)?;
            self.bytes.extend_from_slice(input.get(keep..).unwrap_or_default());
        }
        Ok(())
    }

    /// How many bytes are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Gives away what was kept.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

/// What ends a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineEnd {
    /// A line feed.
    Lf,
    /// A line feed or a carriage return, as terminals see it.
    LfOrCr,
}

impl LineEnd {
    fn first(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Lf => memchr(b'\n', bytes),
            Self::LfOrCr => memchr2(b'\n', b'\r', bytes),
        }
    }

    fn last(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Lf => memrchr(b'\n', bytes),
            Self::LfOrCr => memrchr2(b'\n', b'\r', bytes),
        }
    }
}

/// A place from which the search goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Offset in the buffer.
    pub(super) at: usize,
    /// Whether a line starts there.
    pub(super) line_start: bool,
}

/// What there is behind a place.
pub(super) enum Sight<'a> {
    /// No marker, or one whose line goes on in the next chunk: everything from here on must be seen again.
    Unfinished(Place),
    /// A line with a marker.
    Line(MarkedLine<'a>),
}

/// The window of a line around its first marker.
pub(super) struct MarkedLine<'a> {
    /// Offset of the marker in the buffer.
    pub(super) at: usize,
    /// Offset of the line's first byte, unless it is more than [`BEFORE`] bytes before the marker.
    pub(super) start: Option<usize>,
    /// The window: what is before the marker, and `rest`.
    pub(super) window: &'a [u8],
    /// The line from the marker on, without its line end.
    pub(super) rest: &'a [u8],
    /// Whether `rest` is not all of it.
    pub(super) cut: bool,
    /// Where the search goes on: the next line, or behind the window when the line was cut.
    pub(super) next: Place,
}

/// Searches one marker.
#[derive(Debug)]
pub(super) struct MarkerFinder {
    finder: Finder<'static>,
    line_end: LineEnd,
    /// Bytes of the longest marker that begins with the needle.
    longest: usize,
}

impl MarkerFinder {
    /// A finder of `needle`, the beginning of markers of at most `longest` bytes.
    pub(super) fn new(needle: &'static [u8], longest: usize, line_end: LineEnd) -> Self {
        Self { finder: Finder::new(needle), line_end, longest }
    }

    /// Looks at the buffer from a place on. `last` says that no byte follows it.
    pub(super) fn look<'a>(&self, buffer: &'a [u8], from: Place, last: bool) -> Sight<'a> {
        let length = buffer.len();
        let Some(found) = self.finder.find(part(buffer, from.at, length)) else {
            // Half a needle, and what may be the prefix of its line.
            return Sight::Unfinished(self.keep(buffer, from, BEFORE + self.finder.needle().len(), length));
        };
        let at = from.at + found;
        // One byte more on each side, to see a line end just outside of the window.
        let prefix = part(buffer, from.at.max(at.saturating_sub(BEFORE + 1)), at);
        let start = match self.line_end.last(prefix) {
            Some(end) => Some(at - prefix.len() + end + 1),
            None if from.line_start && at - from.at <= BEFORE => Some(from.at),
            None => None,
        };
        let window_at = start.unwrap_or_else(|| from.at.max(at.saturating_sub(BEFORE)));
        let available = part(buffer, at, length.min(at + REST + 1));
        let (rest_end, cut, next) = match self.line_end.first(available) {
            Some(end) => (at + end, false, Place { at: at + end + 1, line_start: true }),
            None if available.len() > REST => {
                // A marker across the cut is seen again.
                (at + REST, true, Place { at: at + REST + 1 - self.longest, line_start: false })
            }
            None if last => (length, false, Place { at: length, line_start: false }),
            None => return Sight::Unfinished(Place { at: window_at, line_start: start.is_some() }),
        };
        Sight::Line(MarkedLine {
            at,
            start,
            window: part(buffer, window_at, rest_end),
            rest: part(buffer, at, rest_end),
            cut,
            next,
        })
    }

    /// The last line's start, or `bound` bytes before the end when it is farther.
    fn keep(&self, buffer: &[u8], from: Place, bound: usize, length: usize) -> Place {
        let tail_at = from.at.max(length.saturating_sub(bound));
        match self.line_end.last(part(buffer, tail_at, length)) {
            Some(end) => Place { at: tail_at + end + 1, line_start: true },
            None => Place { at: tail_at, line_start: from.line_start && tail_at == from.at },
        }
    }
}
