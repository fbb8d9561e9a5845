//! The configuration's form: its JSON Schema, checked so that the part which has the right form can be looked at further.

use jsonschema::error::ValidationErrorKind;
use serde_json::{Map, Value, json};

/// Notes every place that has not the form which the schema asks for, and answers the document without those places.
pub(super) fn check(schema: &Value, mut document: Value, wrong: &mut Vec<String>) -> Value {
    let validator = match jsonschema::validator_for(schema) {
        Ok(validator) => validator,
        Err(fault) => {
            wrong.push(format!("the configuration cannot be checked: {fault}"));
            return json!({});
        }
    };
    let (mut unexpected_keys, mut dropped) = (Vec::new(), Vec::new());
    for error in validator.iter_errors(&document) {
        let pointer = error.instance_path().to_string();
        let place = match pointer.as_str() {
            "" => "the document".to_owned(),
            pointer => pointer.trim_start_matches('/').replace('/', "."),
        };
        if let ValidationErrorKind::AdditionalProperties { unexpected } = error.kind() {
            let known = known_keys(schema, &error.schema_path().to_string());
            for key in unexpected {
                let key = key.escape_debug();
                wrong.push(format!("{place}: '{key}' is not a key of it; its keys are {known}"));
            }
            unexpected_keys.extend(unexpected.iter().map(|key| (pointer.clone(), key.clone())));
        } else {
            // The value itself may be a secret: only its place is told.
            wrong.push(match words(schema, &error.schema_path().to_string()) {
                Some(words) => format!("{place}: must be one of {words}"),
                None => format!("{place}: {}", error.masked_with("the value")),
            });
            dropped.push(pointer);
        }
    }
    // Without these the rest is as good as before, and is looked at further.
    for (pointer, key) in &unexpected_keys {
        if let Some(Value::Object(members)) = document.pointer_mut(pointer) {
            members.shift_remove(key);
        }
    }
    for pointer in &dropped {
        drop_place(&mut document, pointer);
    }
    document
}

/// The keys beside the `additionalProperties` at this place of the schema.
fn known_keys(schema: &Value, path: &str) -> String {
    let object = path.rsplit_once('/').and_then(|(object, _)| schema.pointer(object));
    let keys = object.and_then(|object| object.get("properties")).and_then(Value::as_object);
    keys.into_iter().flat_map(Map::keys).map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// The words between which the schema lets choose, where the `oneOf` or `enum` at this place is such a choice.
fn words(schema: &Value, path: &str) -> Option<String> {
    if !path.ends_with("/oneOf") && !path.ends_with("/enum") {
        return None;
    }
    let word = |choice: &Value| choice.get("const").unwrap_or(choice).as_str().map(str::to_owned);
    let words: Option<Vec<String>> = schema.pointer(path)?.as_array()?.iter().map(word).collect();
    words.map(|words| words.join(", "))
}

/// Takes a place out of the document. Of an array everything goes, since the places of the others must not move, and an entry without a
/// key that it needs would look wrong once more; but an entry of `processes` needs no key: it is emptied, or left without that key.
fn drop_place(document: &mut Value, pointer: &str) {
    let ends = pointer.match_indices('/').map(|(end, _)| end).skip(1);
    let array = ends
        .filter_map(|end| pointer.get(..end))
        .find(|parent| *parent != "/processes" && document.pointer(parent).is_some_and(Value::is_array));
    let Some((parent, last)) = array.unwrap_or(pointer).rsplit_once('/') else {
        *document = json!({});
        return;
    };
    match document.pointer_mut(parent) {
        Some(Value::Object(members)) => {
            members.shift_remove(&last.replace("~1", "/").replace("~0", "~"));
        }
        Some(Value::Array(entries)) => {
            if let Some(entry) = last.parse::<usize>().ok().and_then(|place| entries.get_mut(place)) {
                *entry = json!({});
            }
        }
        _ => {}
    }
}
