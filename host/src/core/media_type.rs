//! Media types (RFC 9110, 8.3.1): which texts are one, and when two are the same.

/// Type and subtype in lower case, without parameters and blanks.
#[must_use]
pub fn essence(text: &str) -> String {
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether this is `type/subtype` with or without parameters, in printable ASCII.
#[must_use]
pub fn is_valid(text: &str) -> bool {
    let token = |part: &str| {
        !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c))
    };
    text.len() <= 255
        && text.bytes().all(|c| matches!(c, b' '..=b'~'))
        && essence(text).split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

/// Whether the content is JSON: `application/json` or a `+json` type.
#[must_use]
pub fn is_json(text: &str) -> bool {
    let essence = essence(text);
    essence == "application/json" || essence.ends_with("+json")
}

/// Whether the content is `text/…`.
#[must_use]
pub fn is_text(text: &str) -> bool {
    essence(text).starts_with("text/")
}

/// Whether both name the same type; parameters do not count.
#[must_use]
pub fn same(one: &str, other: &str) -> bool {
    essence(one) == essence(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_recognised() {
        for good in
            ["text/plain", "application/geo+json", " Text/CSV ; charset=utf-8", "application/tiff; application=geotiff"]
        {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "text", "/", "text/", "text/a/b", "text/pl ain", "text/plain\n", "te\u{e4}t/x"] {
            assert!(!is_valid(bad), "{bad:?}");
        }
        assert!(is_json("application/geo+json; x=1") && is_json("Application/JSON") && !is_json("text/json"));
        assert!(same("text/plain; charset=utf-8", "TEXT/plain") && is_text("text/csv"));
    }
}
