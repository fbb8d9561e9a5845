//! Turns a run's log events into the bytes of its log: the same bytes for the stored log and for the live answer.
//!
//! - One container: its bytes as they are.
//! - Several: a line `==> container NAME <==` before each one's bytes.
//! - Where bytes are missing for good: a line `==> missing: REASON <==`, so that nobody takes the log for whole.
//!
//! A line of ours always starts on a line of its own: a line feed is put before it when what precedes has none at its end.

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;

use crate::core::LogEvent;
use crate::runner::RunnerError;

/// Characters of a reason that are shown.
const REASON_CHARS: usize = 500;

/// The state of one log's framing.
#[derive(Debug)]
pub struct Framer {
    headings: bool,
    /// Whether the last byte given was not a line feed.
    inside_line: bool,
}

impl Framer {
    /// The framing of a run of so many containers, init containers included (`plan.all_containers().count()`).
    #[must_use]
    pub fn new(containers: usize) -> Self {
        Self { headings: containers > 1, inside_line: false }
    }

    /// The bytes that an event adds to the log, if any.
    pub fn frame(&mut self, event: LogEvent) -> Option<Bytes> {
        match event {
            LogEvent::Bytes(bytes) => {
                let last = *bytes.last()?;
                self.inside_line = last != b'\n';
                Some(bytes)
            }
            LogEvent::Container { name } => self.headings.then(|| self.line(&format!("container {name}"))),
            LogEvent::Missing { reason } => Some(self.missing(&reason)),
        }
    }

    /// The line that says that bytes are missing.
    pub fn missing(&mut self, reason: &str) -> Bytes {
        let shown: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_CHARS).collect();
        self.line(&format!("missing: {}", shown.trim()))
    }

    fn line(&mut self, text: &str) -> Bytes {
        let before = if std::mem::take(&mut self.inside_line) { "\n" } else { "" };
        Bytes::from(format!("{before}==> {text} <==\n"))
    }
}

/// The log of a run of so many containers as bytes, for the live answer.
#[must_use]
pub fn framed(
    events: BoxStream<'static, Result<LogEvent, RunnerError>>,
    containers: usize,
) -> BoxStream<'static, Result<Bytes, RunnerError>> {
    let mut framer = Framer::new(containers);
    let frame = move |event| {
        std::future::ready(match event {
            Ok(event) => framer.frame(event).map(Ok),
            Err(error) => Some(Err(error)),
        })
    };
    events.filter_map(frame).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str) -> LogEvent {
        LogEvent::Container { name: name.into() }
    }

    fn bytes(text: &str) -> LogEvent {
        LogEvent::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn all(containers: usize, events: Vec<LogEvent>) -> String {
        let mut framer = Framer::new(containers);
        let frames: Vec<u8> = events.into_iter().filter_map(|event| framer.frame(event)).flatten().collect();
        String::from_utf8(frames).unwrap()
    }

    #[test]
    fn one_container_is_given_as_it_is() {
        assert_eq!(all(1, vec![container("main"), bytes("a"), bytes(""), bytes("b")]), "ab");
        assert_eq!(all(1, vec![container("main")]), "");
    }

    #[test]
    fn several_containers_get_headings_on_lines_of_their_own() {
        let events = vec![container("init"), bytes("a\n"), container("main"), bytes("b"), bytes(""), container("side")];
        assert_eq!(all(3, events), "==> container init <==\na\n==> container main <==\nb\n==> container side <==\n");
    }

    #[test]
    fn missing_bytes_are_told() {
        let missing = LogEvent::Missing { reason: "rotated\naway".into() };
        assert_eq!(all(1, vec![bytes("a"), missing.clone(), bytes("b")]), "a\n==> missing: rotated away <==\nb");
        assert_eq!(all(2, vec![missing]), "==> missing: rotated away <==\n");
    }

    #[tokio::test]
    async fn the_live_answer_has_the_same_bytes_and_passes_errors_on() {
        let events =
            vec![Ok(container("a")), Ok(bytes("x")), Ok(container("b")), Err(RunnerError::Refused("no".into()))];
        let frames: Vec<_> = framed(futures::stream::iter(events).boxed(), 2).collect().await;
        let texts: Vec<_> = frames.into_iter().map(|frame| frame.map_err(|error| error.to_string())).collect();
        let expected = ["==> container a <==\n", "x", "\n==> container b <==\n"].map(|text| Ok(Bytes::from(text)));
        assert_eq!(texts[..3], expected);
        assert_eq!(texts[3], Err("no".to_owned()));
    }
}
