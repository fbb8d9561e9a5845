//! The schema dialect of process descriptions: OpenAPI 3.0 with the closed list of keywords that OGC API - Processes 1.0 allows
//! (`schema.yaml`), translated to JSON Schema 2020-12 for the validator.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::{Map, Value, json};

use crate::core::{Violation, media_type, pointer::join};

/// Standard alphabet; padding may be left out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How often a pattern may try again on one value: the pattern is the processor's, the value the caller's.
const BACKTRACKS: usize = 50_000;

/// Formats of OpenAPI and JSON Schema that are asserted. Others are hints.
const ASSERTED: [&str; 12] = [
    "date",
    "date-time",
    "time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uri",
    "uri-reference",
    "uuid",
    "json-pointer",
];

/// What a keyword's value must be.
enum Shape {
    Text,
    MediaType,
    Flag,
    Number,
    Positive,
    Count,
    Names,
    Values,
    Type,
    Pattern,
    Schema,
    Schemas,
    SchemaMap,
    SchemaOrFlag,
    Anything,
}

fn shape(keyword: &str) -> Option<Shape> {
    Some(match keyword {
        "title" | "description" | "format" | "contentEncoding" => Shape::Text,
        "contentMediaType" => Shape::MediaType,
        "exclusiveMaximum" | "exclusiveMinimum" | "uniqueItems" | "nullable" | "readOnly" | "writeOnly"
        | "deprecated" => Shape::Flag,
        "maximum" | "minimum" => Shape::Number,
        "multipleOf" => Shape::Positive,
        "maxLength" | "minLength" | "maxItems" | "minItems" | "maxProperties" | "minProperties" => Shape::Count,
        "required" => Shape::Names,
        "enum" => Shape::Values,
        "type" => Shape::Type,
        "pattern" => Shape::Pattern,
        "not" | "items" => Shape::Schema,
        "allOf" | "oneOf" | "anyOf" => Shape::Schemas,
        "properties" => Shape::SchemaMap,
        "additionalProperties" => Shape::SchemaOrFlag,
        "default" | "example" | "contentSchema" => Shape::Anything,
        _ => return None,
    })
}

/// What to write instead of a keyword that later dialects have.
fn instead(keyword: &str) -> &'static str {
    match keyword {
        "const" => "; use 'enum' with one value",
        "examples" => "; use 'example'",
        "$ref" => "; write the schema in its place",
        "$schema" | "$id" | "$defs" | "definitions" => "; schemas are OpenAPI 3.0 and written in place",
        _ => "",
    }
}

/// Checks a top-level schema, which may also be `{"$ref": …}`: it is shown, not followed, and takes any value.
pub(super) fn check(schema: &Value, pointer: &str, out: &mut Vec<Violation>) {
    match schema.as_object() {
        Some(members) if members.contains_key("$ref") => {
            if members.len() > 1 {
                out.push(Violation::new(pointer, "a '$ref' stands alone"));
            } else if !members.values().all(Value::is_string) {
                out.push(Violation::new(join(pointer, "$ref"), "must be a text"));
            }
        }
        _ => check_inline(schema, pointer, out),
    }
}

fn check_inline(schema: &Value, pointer: &str, out: &mut Vec<Violation>) {
    let Some(members) = schema.as_object() else {
        out.push(Violation::new(pointer, "must be a schema object"));
        return;
    };
    for (keyword, value) in members {
        let at = join(pointer, keyword);
        match shape(keyword) {
            None => {
                out.push(Violation::new(at, format!("is not a keyword of OpenAPI 3.0 schemas{}", instead(keyword))));
            }
            Some(shape) => check_keyword(&shape, value, &at, out),
        }
    }
    for (exclusive, bound) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
        if super::flag(members, exclusive) && !members.contains_key(bound) {
            out.push(Violation::new(join(pointer, exclusive), format!("needs '{bound}' beside it")));
        }
    }
}

fn check_keyword(shape: &Shape, value: &Value, at: &str, out: &mut Vec<Violation>) {
    let distinct = |list: &[Value]| {
        list.iter().enumerate().all(|(index, one)| !list.iter().skip(index + 1).any(|other| other == one))
    };
    let wrong = match shape {
        Shape::Text => (!value.is_string()).then_some("must be a text"),
        // It becomes the `Content-Type` of what has none of its own.
        Shape::MediaType => {
            (!value.as_str().is_some_and(media_type::is_valid)).then_some("must be a media type, 'application/json' say")
        }
        Shape::Flag => (!value.is_boolean()).then_some("must be true or false"),
        Shape::Number => (!value.is_number()).then_some("must be a number"),
        Shape::Positive => (!value.as_f64().is_some_and(|n| n > 0.0)).then_some("must be a number greater than 0"),
        Shape::Count => value.as_u64().is_none().then_some("must be an integer, 0 or more"),
        Shape::Names => (!value
            .as_array()
            .is_some_and(|names| !names.is_empty() && names.iter().all(Value::is_string) && distinct(names)))
        .then_some("must be a list of different names, not empty"),
        Shape::Values => {
            value.as_array().is_none_or(Vec::is_empty).then_some("must be a list of values, not empty")
        }
        Shape::Type => (!matches!(value.as_str(), Some("array" | "boolean" | "integer" | "number" | "object" | "string")))
            .then_some("must be one of array, boolean, integer, number, object, string; 'oneOf' is for several, 'nullable' for null"),
        Shape::Pattern => value.as_str().is_none_or(|pattern| options().build(&json!({"pattern": pattern})).is_err())
            .then_some("must be a regular expression"),
        Shape::Schema => {
            check_inline(value, at, out);
            None
        }
        Shape::Schemas => match value.as_array().filter(|members| !members.is_empty()) {
            Some(members) => {
                for (index, member) in members.iter().enumerate() {
                    check_inline(member, &join(at, &index.to_string()), out);
                }
                None
            }
            None => Some("must be a list of schemas, not empty"),
        },
        Shape::SchemaMap => match value.as_object() {
            Some(members) => {
                for (name, member) in members {
                    check_inline(member, &join(at, name), out);
                }
                None
            }
            None => Some("must be an object of schemas by name"),
        },
        Shape::SchemaOrFlag => {
            if !value.is_boolean() {
                check_inline(value, at, out);
            }
            None
        }
        Shape::Anything => None,
    };
    out.extend(wrong.map(|message| Violation::new(at, message)));
}

/// Whether the value is bytes, given as base64 text.
pub(super) fn is_binary(schema: &Map<String, Value>) -> bool {
    let text = |key: &str| schema.get(key).and_then(Value::as_str);
    matches!(text("format"), Some("byte" | "binary")) || matches!(text("contentEncoding"), Some("base64" | "binary"))
}

/// The bytes of a base64 text.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

fn options() -> jsonschema::ValidationOptions<'static> {
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .offline()
        .should_validate_formats(true)
        .with_format("byte", |text: &str| from_base64(text).is_some())
        .with_pattern_options(PatternOptions::fancy_regex().backtrack_limit(BACKTRACKS))
}

/// Compiles a schema that was checked. The error says what is wrong with it.
pub(super) fn compile(schema: &Value) -> Result<Validator, String> {
    options().build(&translate(schema)).map_err(|error| error.masked().to_string())
}

/// The JSON Schema 2020-12 that means the same.
fn translate(schema: &Value) -> Value {
    let Some(members) = schema.as_object() else { return schema.clone() };
    let nullable = super::flag(members, "nullable");
    let mut target = Map::new();
    for (keyword, value) in members {
        let (name, value) = match keyword.as_str() {
            "multipleOf" | "maxLength" | "minLength" | "pattern" | "maxItems" | "minItems" | "uniqueItems"
            | "maxProperties" | "minProperties" | "required" => (keyword.as_str(), value.clone()),
            "minimum" if super::flag(members, "exclusiveMinimum") => ("exclusiveMinimum", value.clone()),
            "maximum" if super::flag(members, "exclusiveMaximum") => ("exclusiveMaximum", value.clone()),
            "minimum" | "maximum" => (keyword.as_str(), value.clone()),
            "type" if nullable => ("type", json!([value, "null"])),
            "type" => ("type", value.clone()),
            "enum" => {
                let null = if nullable { Some(Value::Null) } else { None };
                ("enum", value.as_array().into_iter().flatten().cloned().chain(null).collect())
            }
            "allOf" | "oneOf" | "anyOf" => {
                (keyword.as_str(), value.as_array().into_iter().flatten().map(translate).collect())
            }
            "not" | "items" | "additionalProperties" => (keyword.as_str(), translate(value)),
            "properties" => {
                let translated =
                    value.as_object().into_iter().flatten().map(|(name, schema)| (name.clone(), translate(schema)));
                ("properties", Value::Object(translated.collect()))
            }
            "format" if value.as_str().is_some_and(|format| ASSERTED.contains(&format)) => ("format", value.clone()),
            _ => continue,
        };
        target.insert(name.to_owned(), value);
    }
    if is_binary(members) {
        target.insert("format".to_owned(), json!("byte"));
    }
    if members.get("format").and_then(Value::as_str) == Some("int32") {
        let bounds = json!({"minimum": i32::MIN, "maximum": i32::MAX});
        target = Map::from_iter([("allOf".to_owned(), json!([bounds, target]))]);
    }
    if nullable && !members.contains_key("type") && !target.is_empty() {
        target = Map::from_iter([("anyOf".to_owned(), json!([{"type": "null"}, target]))]);
    }
    Value::Object(target)
}
