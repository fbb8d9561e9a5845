//! Bounds of JSON documents that come from outside.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
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

/// The most memory, in bytes, that parsing this text to a [`Value`] takes, without parsing it to one: `[1,1,…]` takes seventy times its
/// size, one long text no more than it has.
///
/// # Errors
/// The text is not JSON.
pub fn tree_size(text: &str) -> serde_json::Result<usize> {
    serde_json::from_str(text).map(|TreeSize(bytes)| bytes)
}

/// A member of an object: its hash, its name and its value, as `indexmap` keeps them.
const MEMBER: usize = size_of::<(usize, String, Value)>();

/// The memory of what one value holds beside itself.
struct TreeSize(usize);

/// What the allocator takes for so many bytes.
fn allocated(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { bytes.saturating_add(24) & !15 }
}

/// The places that a growing list has for so many elements.
fn places(count: usize) -> usize {
    if count == 0 { 0 } else { count.max(4).next_power_of_two() }
}

impl<'de> Deserialize<'de> for TreeSize {
    fn deserialize<D: Deserializer<'de>>(text: D) -> Result<Self, D::Error> {
        text.deserialize_any(Sizes)
    }
}

struct Sizes;

impl<'de> Visitor<'de> for Sizes {
    type Value = TreeSize;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<TreeSize, E> {
        Ok(TreeSize(0))
    }

    fn visit_bool<E>(self, _: bool) -> Result<TreeSize, E> {
        Ok(TreeSize(0))
    }

    fn visit_i64<E>(self, _: i64) -> Result<TreeSize, E> {
        Ok(TreeSize(0))
    }

    fn visit_u64<E>(self, _: u64) -> Result<TreeSize, E> {
        Ok(TreeSize(0))
    }

    fn visit_f64<E>(self, _: f64) -> Result<TreeSize, E> {
        Ok(TreeSize(0))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<TreeSize, E> {
        Ok(TreeSize(allocated(text.len())))
    }

    fn visit_str<E>(self, text: &str) -> Result<TreeSize, E> {
        // One with escapes is put together elsewhere first.
        Ok(TreeSize(allocated(text.len()).saturating_mul(2)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<TreeSize, A::Error> {
        let (mut inner, mut count) = (0_usize, 0_usize);
        while let Some(TreeSize(element)) = elements.next_element()? {
            inner = inner.saturating_add(element);
            count += 1;
        }
        let own = allocated(places(count).saturating_mul(size_of::<Value>()));
        Ok(TreeSize(inner.saturating_add(own)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<TreeSize, A::Error> {
        let (mut inner, mut count) = (0_usize, 0_usize);
        while let Some(TreeSize(name)) = members.next_key()? {
            let TreeSize(value) = members.next_value()?;
            inner = inner.saturating_add(name).saturating_add(value);
            count += 1;
        }
        // An eighth of the hash table stays empty.
        let table = places(count.saturating_add(count / 7));
        let hashes = if count == 0 { 0 } else { table.saturating_mul(size_of::<usize>() + 1).saturating_add(16) };
        let own = allocated(table.saturating_mul(MEMBER)).saturating_add(allocated(hashes));
        Ok(TreeSize(inner.saturating_add(own)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn levels_are_counted() {
        let value = serde_json::json!([[{"a": 1}]]);
        assert!(!is_too_deep(&value, 3) && is_too_deep(&value, 2));
        assert!(!is_too_deep(&serde_json::json!(1), 0) && is_too_deep(&serde_json::json!([]), 0));
    }

    #[test]
    fn small_values_are_what_makes_a_tree_large() {
        let size = |text: &str| tree_size(text).unwrap();
        assert_eq!((size("1"), size("null"), size("[]"), size("{}"), size("\"\"")), (0, 0, 0, 0, 0));
        let long = format!("\"{}\"", "x".repeat(1_000_000));
        assert!(size(&long) < 1_000_100);
        let many = format!("[{}1]", "1,".repeat(999_999));
        assert!(size(&many) >= 1_000_000 * size_of::<Value>());
        let objects = format!("[{}{{}}]", "{\"a\":1},".repeat(100_000));
        assert!(size(&objects) > 30 * objects.len(), "{}", size(&objects));
        for wrong in ["", "[1,", "{\"a\"}", "1 2", "\"\\q\""] {
            assert!(tree_size(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn it_takes_what_the_parser_takes(text in "[\\[\\]{}:,0-9a\"e.\\\\ -]{0,12}") {
            prop_assert_eq!(tree_size(&text).is_ok(), serde_json::from_str::<Value>(&text).is_ok());
        }
    }
}
