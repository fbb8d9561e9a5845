//! Patterns in which `*` stands for any characters, none and `/` too.

/// Whether the pattern matches the whole text. Linear in text times stars; no recursion.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    let Some(mut rest) = rest.strip_suffix(last) else { return false };
    // The leftmost place for each part leaves the most for those that follow.
    for part in parts {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None if part.is_empty() => {}
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::matches;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "registry.example/a/b:1@sha256:0"),
            ("a*", "a"),
            ("*/team/*", "registry.example/team/tool:1"),
            ("a*b*c", "a-b-b-c"),
            ("a**c", "abc"),
            ("exact", "exact"),
            ("", ""),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("a", "ab"), ("a*a", "a"), ("*b", "abc"), ("a*b*c", "acb"), ("", "a"), ("A", "a"), ("ab*bc", "abc")]
        {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_plain_definition(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
            fn plain(pattern: &[u8], text: &[u8]) -> bool {
                match pattern {
                    [] => text.is_empty(),
                    [b'*', rest @ ..] => (0..=text.len()).any(|from| plain(rest, &text[from..])),
                    [one, rest @ ..] => text.first() == Some(one) && plain(rest, &text[1..]),
                }
            }
            prop_assert_eq!(matches(&pattern, &text), plain(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
