//! Finds progress reports in a running container's log: lines with `VESPIARY_PROGRESS: 42 message`.
//!
//! Any prefix may stand before the marker. The number is an integer from 0 to 100, optionally with `%`. A line ends at a line feed or a
//! carriage return. With a nonce the line must have it, and it is not part of the message. Lines that are not like this are left out.

use std::convert::Infallible;

use memchr::memmem::Finder;

use super::lines::{Carry, LineEnd, MarkedLine, MarkerFinder, Place, Sight, part};

const MARKER: &[u8] = b"VESPIARY_PROGRESS";
/// The longest message, in characters.
const MESSAGE_CHARS: usize = 500;

/// What a container says of its progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// 0 to 100.
    pub percent: u8,
    /// At most 500 characters, none of them a control character; absent when there is nothing to say.
    pub message: Option<String>,
}

/// Reads the log of one container piece by piece, in any chunking. It keeps at most 4 KiB between two pieces.
#[derive(Debug)]
pub struct ProgressScanner {
    carry: Carry,
    finder: MarkerFinder,
    nonce: Option<(String, Finder<'static>)>,
    line_start: bool,
}

impl ProgressScanner {
    /// A scanner at the beginning of a log. With a nonce, which must not be empty, reports count only on lines that have it.
    #[must_use]
    pub fn new(nonce: Option<&str>) -> Self {
        Self {
            carry: Carry::default(),
            finder: MarkerFinder::new(MARKER, MARKER.len(), LineEnd::LfOrCr),
            nonce: nonce.map(|nonce| (nonce.to_owned(), Finder::new(nonce.as_bytes()).into_owned())),
            line_start: true,
        }
    }

    /// Reads the next bytes; answers the last report on a line that ended in them.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Progress> {
        let mut latest = None;
        let Self { carry, finder, nonce, line_start } = self;
        let fed: Result<(), Infallible> =
            carry.feed(bytes, |buffer| Ok(scan(buffer, false, finder, nonce.as_ref(), line_start, &mut latest)));
        fed.unwrap_or_else(|never| match never {});
        latest
    }

    /// The log ends here; answers the report on its last line, if that had no line end.
    #[must_use]
    pub fn finish(mut self) -> Option<Progress> {
        let kept = self.carry.take();
        let mut latest = None;
        scan(&kept, true, &self.finder, self.nonce.as_ref(), &mut self.line_start, &mut latest);
        latest
    }
}

fn scan(
    buffer: &[u8],
    last: bool,
    finder: &MarkerFinder,
    nonce: Option<&(String, Finder<'static>)>,
    line_start: &mut bool,
    latest: &mut Option<Progress>,
) -> usize {
    let mut from = Place { at: 0, line_start: *line_start };
    loop {
        match finder.look(buffer, from, last) {
            Sight::Unfinished(keep) => {
                *line_start = keep.line_start;
                return keep.at;
            }
            Sight::Line(line) => {
                if let Some(progress) = read(&line, nonce) {
                    *latest = Some(progress);
                }
                from = line.next;
            }
        }
    }
}

/// Reads a line with the marker.
fn read(line: &MarkedLine<'_>, nonce: Option<&(String, Finder<'static>)>) -> Option<Progress> {
    let mut text = String::from_utf8_lossy(part(line.rest, MARKER.len(), line.rest.len())).into_owned();
    if let Some((nonce, finder)) = nonce {
        finder.find(line.window)?;
        text = text.replace(nonce, "");
    }
    let text = text.trim_start().strip_prefix(':')?.trim_start();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    let percent = digits.parse().ok().filter(|percent| *percent <= 100)?;
    let rest = rest.strip_prefix('%').unwrap_or(rest);
    if !rest.is_empty() && !rest.starts_with(char::is_whitespace) {
        return None;
    }
    let visible: String = rest.chars().filter(|c| !c.is_control() || *c == '\t').collect();
    let message: String = visible.trim().chars().map(|c| if c == '\t' { ' ' } else { c }).take(MESSAGE_CHARS).collect();
    let message = message.trim_end();
    Some(Progress { percent, message: (!message.is_empty()).then(|| message.to_owned()) })
}

#[cfg(test)]
#[allow(clippy::string_slice, reason = "a test that slices wrongly fails")]
mod tests {
    use proptest::prelude::*;

    use super::super::lines::{BEFORE, REST};
    use super::*;

    fn one(text: &str) -> Option<(u8, Option<String>)> {
        let mut scanner = ProgressScanner::new(None);
        let pushed = scanner.push(text.as_bytes());
        scanner.finish().or(pushed).map(|progress| (progress.percent, progress.message))
    }

    #[test]
    fn reports_are_read() {
        assert_eq!(one("VESPIARY_PROGRESS: 42 half way\n"), Some((42, Some("half way".into()))));
        assert_eq!(one("[12:00] INFO - VESPIARY_PROGRESS :100%\r\n"), Some((100, None)));
        assert_eq!(one("\rVESPIARY_PROGRESS: 1% a\rVESPIARY_PROGRESS: 2% b\r"), Some((2, Some("b".into()))));
        assert_eq!(one("VESPIARY_PROGRESS: 0 \u{1b}[1mbold\u{0}\tx  "), Some((0, Some("[1mbold x".into()))));
        assert_eq!(one(&format!("VESPIARY_PROGRESS: 7 {}\n", "ä".repeat(9000))), Some((7, Some("ä".repeat(500)))));
    }

    #[test]
    fn what_is_no_report_is_left_out() {
        for text in [
            "VESPIARY_PROGRESS 42\n",
            "VESPIARY_PROGRESS: 101\n",
            "VESPIARY_PROGRESS: -1\n",
            "VESPIARY_PROGRESS: 4.5\n",
            "VESPIARY_PROGRESS: 5x\n",
            "VESPIARY_PROGRESS:\n",
            "VESPIARY_PROGRES: 5\n",
            "VESPIARY_PROGRESS: 1234567890123\n",
        ] {
            assert_eq!(one(text), None, "{text}");
        }
    }

    #[test]
    fn a_nonce_is_needed_and_stripped() {
        let mut scanner = ProgressScanner::new(Some("n0nce"));
        assert_eq!(scanner.push(b"VESPIARY_PROGRESS: 42 forged\n"), None);
        assert_eq!(scanner.push(b"n0nce\nVESPIARY_PROGRESS: 42 forged\n"), None);
        let expected = Some(Progress { percent: 43, message: Some("true".into()) });
        assert_eq!(scanner.push(b"VESPIARY_PROGRESS: 43 n0nce true\n"), expected);
        assert_eq!(scanner.push(b"n0nce VESPIARY_PROGRESS: 43 true\n"), expected);
        assert_eq!(scanner.push(b"VESPIARY_PROGRESS: n0nce 43% true\n"), expected);
    }

    /// The whole text at once, line by line.
    fn oracle(text: &[u8], nonce: Option<&str>) -> Vec<Progress> {
        let mut found = Vec::new();
        for line in text.split(|byte| *byte == b'\n' || *byte == b'\r') {
            let mut from = 0;
            while let Some(at) = line[from..].windows(MARKER.len()).position(|window| window == MARKER) {
                let at = from + at;
                let end = line.len().min(at + REST);
                let window = &line[from.max(at.saturating_sub(BEFORE))..end];
                let mut rest = String::from_utf8_lossy(&line[at + MARKER.len()..end]).into_owned();
                if let Some(nonce) = nonce {
                    if window.windows(nonce.len()).any(|window| window == nonce.as_bytes()) {
                        rest = rest.replace(nonce, "");
                    } else {
                        rest.clear();
                    }
                }
                let head: String = rest.chars().skip_while(|c| c.is_whitespace()).take(1).collect();
                if head == ":" {
                    let body = rest.trim_start()[1..].trim_start().to_owned();
                    let digits: String = body.chars().take_while(char::is_ascii_digit).collect();
                    let mut behind = body[digits.len()..].to_owned();
                    if behind.starts_with('%') {
                        behind.remove(0);
                    }
                    let blank = behind.chars().next().is_none_or(char::is_whitespace);
                    if let (Ok(percent @ 0..=100), true) = (digits.parse::<u32>(), blank) {
                        let clean: String = behind.replace(|c: char| c.is_control() && c != '\t', "");
                        let clean: String = clean.trim().replace('\t', " ").chars().take(500).collect();
                        let message = Some(clean.trim_end().to_owned()).filter(|message| !message.is_empty());
                        found.push(Progress { percent: percent as u8, message });
                    }
                }
                if line.len() - at <= REST {
                    break;
                }
                from = at + REST + 1 - MARKER.len();
            }
        }
        found
    }

    fn token() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            6 => Just(b"VESPIARY_PROGRESS: ".to_vec()),
            2 => Just(b"VESPIARY_PROG".to_vec()),
            4 => "[0-9]{1,3}%? ?".prop_map(String::into_bytes),
            3 => "[a-zä: ]{0,9}".prop_map(String::into_bytes),
            2 => Just(b"n0nce".to_vec()),
            4 => Just(b"\n".to_vec()),
            1 => Just(b"\r".to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..5),
            1 => prop_oneof![980..1060_usize, 3000..3100_usize].prop_map(|count| vec![b'x'; count]),
        ]
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_reports_of_the_whole(
            tokens in prop::collection::vec(token(), 0..30),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
            bytewise in any::<bool>(),
            with_nonce in any::<bool>(),
        ) {
            let text = tokens.concat();
            let nonce = with_nonce.then_some("n0nce");
            let mut scanner = ProgressScanner::new(nonce);
            let mut found = Vec::new();
            if bytewise {
                text.iter().for_each(|byte| found.extend(scanner.push(&[*byte])));
                found.extend(scanner.finish());
                prop_assert_eq!(found, oracle(&text, nonce));
            } else {
                let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
                at.extend([0, text.len()]);
                at.sort_unstable();
                at.windows(2).for_each(|pair| found.extend(scanner.push(&text[pair[0]..pair[1]])));
                found.extend(scanner.finish());
                prop_assert_eq!(found.pop(), oracle(&text, nonce).pop());
            }
        }
    }
}
