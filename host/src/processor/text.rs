//! Text of plugins on its way to people: never longer than it may be, one line, no control characters.

/// The text as one line of at most `max` bytes: control characters become blanks, and what does not fit is replaced by `…`.
pub(super) fn clean(text: &str, max: usize) -> String {
    let mut line = String::with_capacity(text.len().min(max));
    let blank = |c: char| c.is_control() || c.is_whitespace() || is_format(c);
    for c in text.trim_matches(blank).chars() {
        let c = if blank(c) { ' ' } else { c };
        if line.len() + c.len_utf8() + '…'.len_utf8() > max {
            line.push('…');
            break;
        }
        line.push(c);
    }
    line
}

/// Characters that reorder or hide what stands beside them.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The value of a `WWW-Authenticate` header: printable ASCII, at most 1 KiB; `Bearer` if nothing is left.
pub(super) fn challenge(text: &str) -> String {
    let value: String = text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(1024).collect();
    match value.trim() {
        "" => "Bearer".to_owned(),
        value => value.to_owned(),
    }
}

/// The id as one segment of a JSON pointer (RFC 6901).
pub(super) fn pointer_segment(id: &str) -> String {
    id.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cleaned() {
        assert_eq!(clean(" a\nb\u{1b}[31m\u{202e} ", 100), "a b [31m");
        assert_eq!(clean(&"ä".repeat(100), 10), "äää…");
        assert_eq!(challenge("Bearer realm=\"x\"\r\nSet-Cookie: a"), "Bearer realm=\"x\"Set-Cookie: a");
        assert_eq!(challenge("\u{7f}ü "), "Bearer");
        assert_eq!(pointer_segment("a/b~c"), "a~1b~0c");
    }

    proptest! {
        #[test]
        fn any_text(text in ".{0,300}", max in 8_usize..64) {
            let line = clean(&text, max);
            prop_assert!(line.len() <= max);
            prop_assert!(!line.chars().any(char::is_control));
            prop_assert!(http::HeaderValue::from_str(&challenge(&text)).is_ok());
        }
    }
}
