//! The `cursor` parameter of a list's `next` link: where the next page starts, in a form that clients have no reason to read.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::problem::Problem;
use crate::core::{PageKey, ProcessId, Timestamp};

/// The name of the parameter.
pub(super) const NAME: &str = "cursor";

/// The longest cursor that is looked at.
const MAX_CHARS: usize = 200;

/// The cursor of a place in the job list.
pub(super) fn of_job(key: PageKey) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}:{}", key.created.as_millis(), key.id))
}

/// The place that a cursor names in the job list.
pub(super) fn job(text: &str) -> Result<PageKey, Problem> {
    let read = || {
        let text = decode(text)?;
        let (created, id) = text.split_once(':')?;
        Some(PageKey { created: Timestamp::from_millis(created.parse().ok()?), id: id.parse().ok()? })
    };
    read().ok_or_else(foreign)
}

/// The cursor of the page behind this process.
pub(super) fn of_process(id: &ProcessId) -> String {
    URL_SAFE_NO_PAD.encode(id.as_str())
}

/// The process that a cursor names: the page starts behind it, whether it still exists or not.
pub(super) fn process(text: &str) -> Result<ProcessId, Problem> {
    decode(text).and_then(|text| text.parse().ok()).ok_or_else(foreign)
}

fn decode(text: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok().filter(|_| text.len() <= MAX_CHARS)?;
    String::from_utf8(bytes).ok()
}

fn foreign() -> Problem {
    Problem::query(NAME, "is not one that a 'next' link of this list has")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::JobId;

    #[test]
    fn a_process_cursor_round_trips() {
        let id: ProcessId = "hello-world".parse().unwrap();
        assert_eq!(process(&of_process(&id)).unwrap(), id);
        assert!(process("").is_err() && process("####").is_err());
    }

    proptest! {
        #[test]
        fn a_job_cursor_round_trips(millis: i64) {
            let key = PageKey { created: Timestamp::from_millis(millis), id: JobId::new() };
            prop_assert_eq!(job(&of_job(key)).unwrap(), key);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            let _ = job(&text);
            let _ = process(&text);
            let _ = job(&URL_SAFE_NO_PAD.encode(&text));
        }
    }
}
