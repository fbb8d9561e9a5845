//! The name rules of Kubernetes and of environment variables.

pub(super) const LABEL: &str =
    "must be a DNS label: at most 63 lower-case letters, digits and '-', the first and last not '-'";
pub(super) const OBJECT: &str = "must be the name of an object: at most 253 lower-case letters, digits, '-' and '.', the first and last a letter or digit";
pub(super) const LABEL_VALUE: &str =
    "must have a value of at most 63 letters, digits, '-', '_' and '.', the first and last a letter or digit";

fn is_lower(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn edges(text: &str, is_edge: impl Fn(u8) -> bool) -> bool {
    [text.bytes().next(), text.bytes().next_back()].into_iter().all(|c| c.is_some_and(&is_edge))
}

/// A DNS label (RFC 1123).
pub(super) fn is_label(text: &str) -> bool {
    text.len() <= 63 && edges(text, is_lower) && text.bytes().all(|c| is_lower(c) || c == b'-')
}

/// A DNS subdomain (RFC 1123): what most objects are called.
pub(super) fn is_object(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| edges(label, is_lower) && label.bytes().all(|c| is_lower(c) || c == b'-'))
}

fn is_name_part(text: &str) -> bool {
    text.len() <= 63
        && edges(text, |c| c.is_ascii_alphanumeric())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
}

/// The key of a label or annotation, or the name of a resource: a name with or without `prefix/`.
pub(super) fn is_qualified(text: &str) -> bool {
    match text.split_once('/') {
        None => is_name_part(text),
        Some((prefix, name)) => is_object(prefix) && is_name_part(name),
    }
}

/// The value of a label; it may be empty.
pub(super) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_name_part(text)
}

/// A key of a secret or config map.
pub(super) fn is_key(text: &str) -> bool {
    !text.is_empty() && text.len() <= 253 && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
}

/// The name of an environment variable.
pub(super) fn is_variable(text: &str) -> bool {
    text.bytes().next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_')
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

/// A label or annotation of the host itself.
pub(super) fn is_ours(text: &str) -> bool {
    text.starts_with("pygeoapi.io/") || text.starts_with("vespiary")
}
