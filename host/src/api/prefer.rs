//! The `Prefer` header (RFC 7240) and what it means for an execution (OGC API - Processes 1.0, 7.11.2.3).

use std::time::Duration;

use http::header::HeaderMap;

use super::description::Modes;

/// What a client prefers. Preferences that are not known or make no sense are ignored, as the RFC asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Prefer {
    /// `respond-async`.
    pub(super) respond_async: bool,
    /// `wait=N`.
    pub(super) wait_seconds: Option<u64>,
}

/// How an execution is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// At once, with the job's status.
    Async,
    /// With the results if the job ends in this time, otherwise with its status.
    Wait(Duration),
}

impl Prefer {
    /// Reads all `Prefer` headers. The first of two equal preferences counts.
    pub(super) fn parse(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for value in headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok()) {
            for item in split_outside_quotes(value, ',') {
                let mut parts = split_outside_quotes(item, ';');
                let preference = parts.next().unwrap_or_default();
                let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
                let (name, value) = (name.trim(), value.trim().trim_matches('"').trim());
                if name.eq_ignore_ascii_case("respond-async") {
                    found.respond_async = true;
                } else if name.eq_ignore_ascii_case("wait") && found.wait_seconds.is_none() {
                    found.wait_seconds = seconds(value);
                }
            }
        }
        found
    }

    /// How to answer: the table of 7.11.2.3, with `wait` bounded by `max_wait`.
    pub(super) fn mode(self, modes: Modes, max_wait: Duration) -> Mode {
        let wait = self.wait_seconds.map(|seconds| Duration::from_secs(seconds).min(max_wait));
        match modes {
            Modes { sync: false, .. } => Mode::Async,
            Modes { asynchronous: true, .. } if self.respond_async => match wait {
                Some(wait) if !wait.is_zero() => Mode::Wait(wait),
                _ => Mode::Async,
            },
            _ => Mode::Wait(wait.unwrap_or(max_wait)),
        }
    }

    /// `Preference-Applied`: what of this was honoured. `async_answer` is whether the answer is the job's status.
    pub(super) fn applied(self, modes: Modes, mode: Mode, async_answer: bool) -> Option<String> {
        let mut applied = Vec::new();
        if self.respond_async && modes.asynchronous && async_answer {
            applied.push("respond-async".to_owned());
        }
        if let (Mode::Wait(wait), Some(_)) = (mode, self.wait_seconds) {
            applied.push(format!("wait={}", wait.as_secs()));
        }
        (!applied.is_empty()).then(|| applied.join(", "))
    }
}

/// A delta-seconds value; one that no counter can hold is as large as they get.
fn seconds(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// The pieces between separators that do not stand in a quoted string.
fn split_outside_quotes(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c: char| {
        let was_escaped = std::mem::take(&mut escaped);
        match c {
            '\\' if quoted && !was_escaped => escaped = true,
            '"' if !was_escaped => quoted = !quoted,
            _ => return c == separator && !quoted,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn parse(values: &[&str]) -> Prefer {
        Prefer::parse(
            &values
                .iter()
                .map(|value| (http::HeaderName::from_static("prefer"), HeaderValue::from_str(value).unwrap()))
                .collect(),
        )
    }

    fn prefer(respond_async: bool, wait_seconds: Option<u64>) -> Prefer {
        Prefer { respond_async, wait_seconds }
    }

    #[test]
    fn reads_every_form() {
        for (values, expected) in [
            (&[][..], prefer(false, None)),
            (&["respond-async "], prefer(true, None)),
            (&["Respond-Async, WAIT=10"], prefer(true, Some(10))),
            (&["wait=5", "respond-async"], prefer(true, Some(5))),
            (&["wait=\"7\"; x=\"a,respond-async\""], prefer(false, Some(7))),
            (&["wait=1, wait=2"], prefer(false, Some(1))),
            (&["wait=x, wait=-1, wait=, handling=lenient"], prefer(false, None)),
            (&["wait = 3 ;a"], prefer(false, Some(3))),
            (&["foo=\"a\\\",respond-async\", wait=99999999999999999999999"], prefer(false, Some(u64::MAX))),
            (&["return=minimal;respond-async"], prefer(false, None)),
        ] {
            assert_eq!(parse(values), expected, "{values:?}");
        }
    }

    #[test]
    fn the_table_of_the_standard() {
        let (both, sync, asynchronous) = (
            Modes { sync: true, asynchronous: true },
            Modes { sync: true, asynchronous: false },
            Modes { sync: false, asynchronous: true },
        );
        let max = Duration::from_secs(60);
        let wait = |seconds| Mode::Wait(Duration::from_secs(seconds));
        for (modes, sent, mode, applied) in [
            (both, prefer(false, None), wait(60), None),
            (both, prefer(true, None), Mode::Async, Some("respond-async")),
            (both, prefer(true, Some(10)), wait(10), Some("respond-async, wait=10")),
            (both, prefer(true, Some(0)), Mode::Async, Some("respond-async")),
            (both, prefer(false, Some(900)), wait(60), Some("wait=60")),
            (both, prefer(false, Some(0)), wait(0), Some("wait=0")),
            (sync, prefer(true, None), wait(60), None),
            (sync, prefer(true, Some(5)), wait(5), Some("wait=5")),
            (asynchronous, prefer(false, None), Mode::Async, None),
            (asynchronous, prefer(true, Some(5)), Mode::Async, Some("respond-async")),
        ] {
            assert_eq!(sent.mode(modes, max), mode, "{modes:?} {sent:?}");
            assert_eq!(sent.applied(modes, mode, true).as_deref(), applied, "{modes:?} {sent:?}");
        }
        assert_eq!(prefer(true, Some(10)).applied(both, wait(10), false).as_deref(), Some("wait=10"));
    }

    proptest! {
        #[test]
        fn any_header_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut headers = HeaderMap::new();
                headers.insert("prefer", value);
                let _ = Prefer::parse(&headers);
            }
        }
    }
}
