//! JSON pointers (RFC 6901), with which violations say where they are.

/// The pointer to the member or element `token` of what `base` points to.
#[must_use]
pub fn join(base: &str, token: &str) -> String {
    let mut pointer = String::with_capacity(base.len() + token.len() + 1);
    pointer.push_str(base);
    pointer.push('/');
    for c in token.chars() {
        match c {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
    pointer
}

#[cfg(test)]
mod tests {
    use super::join;

    #[test]
    fn tokens_are_escaped() {
        assert_eq!(join("/inputs", "a/b~c"), "/inputs/a~1b~0c");
        let document = serde_json::json!({"inputs": {"a/b~c": 1}});
        assert_eq!(document.pointer(&join("/inputs", "a/b~c")), Some(&serde_json::json!(1)));
    }
}
