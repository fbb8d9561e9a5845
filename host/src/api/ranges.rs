//! Conditional and partial requests: `If-None-Match`, `If-Range` and `Range` (RFC 9110, 13 and 14).

use http::HeaderValue;
use http::header::{HeaderMap, IF_NONE_MATCH, IF_RANGE, RANGE};

use crate::jobs::ByteRange;

/// A strong entity tag of a hexadecimal digest.
pub(super) fn etag(hex: &str) -> HeaderValue {
    let short: String = hex.chars().filter(char::is_ascii_hexdigit).take(32).collect();
    HeaderValue::from_str(&format!("\"{short}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Whether the client has the representation of this tag already.
pub(super) fn is_known(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let mut sent = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    sent.any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == etag.as_bytes()
    })
}

/// The one range that is asked for. Several ranges, other units and nonsense are ignored, as the RFC allows: the answer is the
/// whole then. So it is when `If-Range` names another representation.
pub(super) fn asked(headers: &HeaderMap, etag: Option<&HeaderValue>) -> Option<ByteRange> {
    if headers.get(IF_RANGE).is_some_and(|known| Some(known) != etag) {
        return None;
    }
    let mut sent = headers.get_all(RANGE).iter();
    let range = sent.next().filter(|_| sent.next().is_none())?;
    parse(range.to_str().ok()?)
}

fn parse(text: &str) -> Option<ByteRange> {
    let (unit, range) = text.trim().split_once('=')?;
    let (first, last) = range.trim().split_once('-').filter(|_| unit.trim().eq_ignore_ascii_case("bytes"))?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (first.trim(), last.trim()) {
        ("", last) => number(last).map(ByteRange::Last),
        (first, "") => Some(ByteRange::From { first: number(first)?, last: None }),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(ByteRange::From { first, last: Some(last) })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_range_of_bytes_or_none() {
        for (text, expected) in [
            ("bytes=0-9", Some(ByteRange::From { first: 0, last: Some(9) })),
            ("Bytes = 5- ", Some(ByteRange::From { first: 5, last: None })),
            ("bytes=-7", Some(ByteRange::Last(7))),
            ("bytes=99999999999999999999-", Some(ByteRange::From { first: u64::MAX, last: None })),
            ("bytes=9-0", None),
            ("bytes=0-1,5-6", None),
            ("lines=0-1", None),
            ("bytes=-", None),
            ("bytes=+1-2", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn tags_are_compared_weakly_and_if_range_strictly() {
        let tag = etag("abc123");
        let with = |name, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            headers.insert(RANGE, HeaderValue::from_static("bytes=1-"));
            headers
        };
        for known in ["\"abc123\"", "W/\"abc123\"", "\"x\", \"abc123\"", "*"] {
            assert!(is_known(&with(IF_NONE_MATCH, known), &tag), "{known}");
        }
        assert!(!is_known(&with(IF_NONE_MATCH, "\"x\""), &tag) && !is_known(&HeaderMap::new(), &tag));
        assert!(asked(&with(IF_RANGE, "\"abc123\""), Some(&tag)).is_some());
        assert!(asked(&with(IF_RANGE, "\"x\""), Some(&tag)).is_none());
        assert!(asked(&with(IF_RANGE, "\"x\""), None).is_none());
    }

    proptest! {
        #[test]
        fn any_range_is_read_or_ignored(text in "[ -~]{0,40}") {
            let _ = parse(&text);
        }
    }
}
