//! Which texts are media types. Nothing else may end up in a `Content-Type` header.

/// The longest media type, parameters included.
const LONGEST: usize = 255;

/// Whether this is `type/subtype`, optionally with parameters, as RFC 9110 section 8.3.1 writes it with names as RFC 6838
/// section 4.2 restricts them: visible ASCII only, at most 255 bytes, no blanks around it.
#[must_use]
pub fn is_media_type(text: &str) -> bool {
    if text.len() > LONGEST {
        return false;
    }
    let (essence, parameters) = match text.split_once(';') {
        Some((essence, parameters)) => (essence.trim_end_matches(BLANKS), Some(parameters)),
        None => (text, None),
    };
    essence.split_once('/').is_some_and(|(kind, subtype)| is_name(kind) && is_name(subtype))
        && parameters.is_none_or(are_parameters)
}

const BLANKS: [char; 2] = [' ', '\t'];

fn is_name(text: &str) -> bool {
    text.len() <= 127
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// `name=token` or `name="text"`, separated by semicolons.
fn are_parameters(text: &str) -> bool {
    let mut rest = text;
    loop {
        let Some((name, value)) = rest.trim_matches(BLANKS).split_once('=') else { return false };
        let behind = match value.strip_prefix('"') {
            Some(quoted) => {
                let Some((inside, behind)) = quoted.split_once('"') else { return false };
                if !inside.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'\\') {
                    return false;
                }
                behind.trim_start_matches(BLANKS)
            }
            None => {
                let end = value.find(';').unwrap_or(value.len());
                let (token, behind) = value.split_at_checked(end).unwrap_or_default();
                if !is_token(token.trim_end_matches(BLANKS)) {
                    return false;
                }
                behind
            }
        };
        if !is_token(name) {
            return false;
        }
        match behind.strip_prefix(';') {
            Some(next) => rest = next,
            None => return behind.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::is_media_type;

    #[test]
    fn media_types_with_and_without_parameters_are_accepted() {
        for text in [
            "application/json",
            "text/plain; charset=utf-8",
            "text/plain;charset=\"utf 8; x\" ; a=b",
            "application/geo+json",
            "application/vnd.x-y.z+xml",
            "image/tiff; application=geotiff; profile=cloud-optimized",
        ] {
            assert!(is_media_type(text), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let long = format!("text/{}", "x".repeat(300));
        for text in [
            "",
            "json",
            "a/",
            "/b",
            "a/b/c",
            "*/*",
            "text/plain;",
            "text/plain; charset",
            "text/plain; a=\"b",
            "text/plain; a=\"b\"c",
            "text/pl ain",
            "text/plain\r\nx: y",
            "text/plain; a=b\nc",
            "text/html<script>",
            "téxt/plain",
            " text/plain",
            "text/plain ",
            "text/plain; =b",
            "text/plain; a=\"\\\"\"",
            &long,
        ] {
            assert!(!is_media_type(text), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_visible_ascii(text in "\\PC{0,20}|[a-z]{1,5}/[a-z]{1,5}(; ?[a-z]=\\PC{0,5})?") {
            if is_media_type(&text) {
                prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte) || byte == b'\t'));
                prop_assert!(http::HeaderValue::from_str(&text).is_ok());
            }
        }
    }
}
