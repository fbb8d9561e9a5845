//! Finds media type and value of a result in the log of the result container: one pass, any chunking, bounded memory.
//!
//! Rules, beside those of `wit/v1` (`result-rules`):
//! - A line ends at its line feed. Markers may have any prefix on their line. The value begins behind the line feed of the line with the
//!   start marker; nothing of it is changed, a carriage return or NUL included.
//! - The value ends before the line with the end marker; the line feed before that line belongs to the value. What stands before an end
//!   marker on its line is a prefix (a time stamp, a logger's name) and not value, unless it is longer than 1 KiB: then it is the
//!   value's unfinished last line, and the value ends at the marker.
//! - The first start marker counts. Media type markers count before it only, so that a value cannot name its own type; behind the
//!   value nothing counts.
//! - The media type is what follows the colon up to a carriage return or the line's end, without blanks around it. A marker
//!   without a colon or with something that is not a media type is left out with a warning; the next good one counts.
//! - With a nonce a marker counts only on a line that has it, at most 1 KiB before the marker or 3 KiB behind its first byte. The media type
//!   is what stands before the nonce, or the first word where that is none.
//! - Of a line, 3 KiB count from its first marker on. A media type that is cut there is malformed. What is behind is looked at as if
//!   it was a line of its own.

use memchr::memmem::{self, Finder};
use memchr::{memchr, memchr2};

use super::lines::{Carry, LineEnd, MarkedLine, MarkerFinder, Place, Sight, part};
use super::media_type::is_media_type;

const NEEDLE: &[u8] = b"PYGEOAPI_K8S_MANAGER_RESULT_";
const MIMETYPE: &[u8] = b"PYGEOAPI_K8S_MANAGER_RESULT_MIMETYPE";
const START: &[u8] = b"PYGEOAPI_K8S_MANAGER_RESULT_START";
const END: &[u8] = b"PYGEOAPI_K8S_MANAGER_RESULT_END";

/// Something about the markers that the author of a container should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MarkerWarning {
    /// A media type marker without a colon behind it.
    #[error("a line with PYGEOAPI_K8S_MANAGER_RESULT_MIMETYPE has no colon behind it and was left out")]
    NoColon,
    /// What follows the colon is not a media type.
    #[error("what follows PYGEOAPI_K8S_MANAGER_RESULT_MIMETYPE is not a media type and was left out")]
    NotAMediaType,
    /// The line with a media type marker is too long.
    #[error("a line with PYGEOAPI_K8S_MANAGER_RESULT_MIMETYPE is longer than 3072 bytes behind it and was left out")]
    LineTooLong,
    /// A marker without the nonce.
    #[error("a result marker without the job's nonce was left out")]
    NonceMissing,
    /// The end marker follows more than 1 KiB of text on its line, which was taken as value.
    #[error("PYGEOAPI_K8S_MANAGER_RESULT_END is not on a line of its own; the value ends right before it")]
    EndInsideLine,
}

/// What a scanner found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Markers {
    /// The media type that a marker named.
    pub media_type: Option<String>,
    /// Whether there was a start marker, hence a value, empty perhaps.
    pub started: bool,
    /// Whether there was an end marker.
    pub ended: bool,
    /// Each kind of warning once, in order of appearance.
    pub warnings: Vec<MarkerWarning>,
}

/// Reads the log of one container piece by piece. It keeps at most 4 KiB between two pieces and gives the value on without a copy.
#[derive(Debug)]
pub struct MarkerScanner {
    carry: Carry,
    machine: Machine,
}

impl MarkerScanner {
    /// A scanner at the beginning of a log. With a nonce, which must not be empty, markers count only on lines that have it.
    #[must_use]
    pub fn new(nonce: Option<&str>) -> Self {
        Self {
            carry: Carry::default(),
            machine: Machine {
                finder: MarkerFinder::new(NEEDLE, MIMETYPE.len(), LineEnd::Lf),
                nonce: nonce.map(|nonce| Finder::new(nonce.as_bytes()).into_owned()),
                state: State::Header,
                line_start: true,
                found: Markers::default(),
            },
        }
    }

    /// Reads the next bytes and gives those of the value to `value`, in order. After an error of `value` the scanner is of no more use.
    ///
    /// # Errors
    /// Those of `value`.
    pub fn push<E>(&mut self, bytes: &[u8], value: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if self.machine.state == State::Done {
            return Ok(());
        }
        let Self { carry, machine } = self;
        carry.feed(bytes, |buffer| machine.scan(buffer, false, value))
    }

    /// Bytes of the log are missing here: no marker reaches across. Answers whether some of the value may be among them.
    pub fn gap(&mut self) -> bool {
        let kept = self.carry.take();
        self.machine.line_start = false;
        match self.machine.state {
            State::Header => memmem::find(&kept, START).is_some(),
            State::StartLine | State::Value => true,
            State::Done => false,
        }
    }

    /// The log ends here: gives the last bytes of the value and what was found.
    ///
    /// # Errors
    /// Those of `value`.
    pub fn finish<E>(mut self, value: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<Markers, E> {
        let kept = self.carry.take();
        self.machine.scan(&kept, true, value)?;
        Ok(self.machine.found)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the start marker.
    Header,
    /// Behind a start marker whose line has not ended.
    StartLine,
    /// In the value.
    Value,
    /// Behind the value.
    Done,
}

#[derive(Debug)]
struct Machine {
    finder: MarkerFinder,
    nonce: Option<Finder<'static>>,
    state: State,
    /// Whether a line starts at the first byte of the next buffer.
    line_start: bool,
    found: Markers,
}

impl Machine {
    /// Reads a buffer and answers from which offset on it must be seen again.
    fn scan<E>(
        &mut self,
        buffer: &[u8],
        last: bool,
        value: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<usize, E> {
        let length = buffer.len();
        let mut give = |from: usize, to: usize| if from < to { value(part(buffer, from, to)) } else { Ok(()) };
        let mut from = Place { at: 0, line_start: self.line_start };
        while self.state != State::Done {
            if self.state == State::StartLine {
                let Some(end) = memchr(b'\n', part(buffer, from.at, length)) else { return Ok(length) };
                from = Place { at: from.at + end + 1, line_start: true };
                self.state = State::Value;
            }
            let in_value = self.state == State::Value;
            match self.finder.look(buffer, from, last) {
                Sight::Unfinished(keep) => {
                    let keep = if last { Place { at: length, line_start: false } } else { keep };
                    if in_value {
                        give(from.at, keep.at)?;
                    }
                    self.line_start = keep.line_start;
                    return Ok(keep.at);
                }
                Sight::Line(line) if in_value => match self.end_of_value(&line) {
                    Some(end) => {
                        give(from.at, end)?;
                        self.state = State::Done;
                    }
                    None => {
                        give(from.at, line.next.at)?;
                        from = line.next;
                    }
                },
                Sight::Line(line) => {
                    self.read_header(&line);
                    from = line.next;
                }
            }
        }
        Ok(length)
    }

    /// Takes what a marked line before the value says.
    fn read_header(&mut self, line: &MarkedLine<'_>) {
        let media_type = memmem::find(line.rest, MIMETYPE);
        let start = memmem::find(line.rest, START);
        if media_type.is_none() && start.is_none() {
            return;
        }
        if !self.has_nonce(line) {
            return self.warn(MarkerWarning::NonceMissing);
        }
        if let Some(at) = media_type
            && self.found.media_type.is_none()
        {
            let text = part(line.rest, at + MIMETYPE.len(), line.rest.len());
            match read_media_type(text, line.cut, self.nonce.as_ref()) {
                Ok(text) => self.found.media_type = Some(text),
                Err(warning) => self.warn(warning),
            }
        }
        if start.is_some() {
            self.found.started = true;
            self.state = if line.next.line_start { State::Value } else { State::StartLine };
        }
    }

    /// Where the value ends, if this line has the end marker.
    fn end_of_value(&mut self, line: &MarkedLine<'_>) -> Option<usize> {
        let end = line.at + memmem::find(line.rest, END)?;
        if !self.has_nonce(line) {
            self.warn(MarkerWarning::NonceMissing);
            return None;
        }
        self.found.ended = true;
        let start = line.start.filter(|start| end - start <= super::lines::BEFORE);
        if start.is_none() {
            self.warn(MarkerWarning::EndInsideLine);
        }
        Some(start.unwrap_or(end))
    }

    fn has_nonce(&self, line: &MarkedLine<'_>) -> bool {
        self.nonce.as_ref().is_none_or(|nonce| nonce.find(line.window).is_some())
    }

    fn warn(&mut self, warning: MarkerWarning) {
        if !self.found.warnings.contains(&warning) {
            self.found.warnings.push(warning);
        }
    }
}

/// Reads what follows the media type marker on its line.
fn read_media_type(text: &[u8], cut: bool, nonce: Option<&Finder<'_>>) -> Result<String, MarkerWarning> {
    let text = match memchr2(b'\r', b'\n', text) {
        Some(end) => part(text, 0, end),
        None if cut => return Err(MarkerWarning::LineTooLong),
        None => text,
    };
    let text = text.trim_ascii_start().strip_prefix(b":").ok_or(MarkerWarning::NoColon)?;
    let word = || text.split(u8::is_ascii_whitespace).find(|word| !word.is_empty()).unwrap_or_default();
    let readings = match nonce {
        None => [text, &[]],
        Some(nonce) => [nonce.find(text).map_or(text, |end| part(text, 0, end)), word()],
    };
    readings
        .into_iter()
        .filter_map(|reading| std::str::from_utf8(reading.trim_ascii()).ok())
        .find(|reading| is_media_type(reading))
        .map(str::to_owned)
        .ok_or(MarkerWarning::NotAMediaType)
}

#[cfg(test)]
mod tests;
