//! Bounds of JSON documents that come from outside.

use serde_json::Value;

/// Levels of objects and arrays in a document. Below the parser's own bound, so that what is wrapped and stored can be read again.
pub const MAX_DEPTH: usize = 64;

/// Whether a value has more than `levels` levels of objects and arrays.
#[must_use]
pub fn is_too_deep(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(_) | Value::Object(_) if levels == 0 => true,
        Value::Array(elements) => elements.iter().any(|element| is_too_deep(element, levels - 1)),
        Value::Object(members) => members.values().any(|member| is_too_deep(member, levels - 1)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_counted() {
        let value = serde_json::json!([[{"a": 1}]]);
        assert!(!is_too_deep(&value, 3) && is_too_deep(&value, 2));
        assert!(!is_too_deep(&serde_json::json!(1), 0) && is_too_deep(&serde_json::json!([]), 0));
    }
}
