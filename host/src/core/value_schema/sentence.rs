//! What is wrong with a value, in the plain words of its schema.

use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use jsonschema::{JsonType, ValidationError};
use serde_json::Value;

use super::Shown;

/// Characters of a value or list that a message quotes at most.
const QUOTED: usize = 80;

/// One sentence for one error: what must be, and what is.
pub(super) fn sentence(error: &ValidationError<'_>, shown: Shown) -> String {
    let must = match error.kind() {
        Kind::Type { kind } => return format!("must be {}, not {}", types(kind), kind_of(error.instance())),
        Kind::Enum { options } => match options.as_array().map(Vec::as_slice) {
            Some([one]) => format!("must be {}", clip(&one.to_string())),
            Some(several) => format!("must be one of {}", list(several.iter().map(ToString::to_string))),
            None => "must be one of the schema's values".to_owned(),
        },
        Kind::Constant { expected_value } => format!("must be {}", clip(&expected_value.to_string())),
        Kind::Minimum { limit } => format!("must be at least {limit}"),
        Kind::Maximum { limit } => format!("must be at most {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("must be greater than {limit}"),
        Kind::ExclusiveMaximum { limit } => format!("must be less than {limit}"),
        Kind::MultipleOf { multiple_of } => format!("must be a multiple of {multiple_of}"),
        Kind::MinLength { limit } => format!("must have at least {}", count(*limit, "character")),
        Kind::MaxLength { limit } => format!("must have at most {}", count(*limit, "character")),
        Kind::Pattern { pattern } => format!("must match the pattern {}", clip(pattern)),
        Kind::Format { format } if format == "byte" => return "must be base64 text (RFC 4648)".to_owned(),
        Kind::Format { format } => format!("must be of the format '{}'", clip(format)),
        Kind::BacktrackLimitExceeded { .. } | Kind::RegexEngineFailure { .. } => {
            return "could not be matched against the pattern of its schema".to_owned();
        }
        Kind::MinItems { limit } => return format!("must have at least {}", count(*limit, "item")),
        Kind::MaxItems { limit } => return format!("must have at most {}", count(*limit, "item")),
        Kind::MinProperties { limit } => return format!("must have at least {}", count(*limit, "member")),
        Kind::MaxProperties { limit } => return format!("must have at most {}", count(*limit, "member")),
        Kind::UniqueItems => return "must not have the same item twice".to_owned(),
        Kind::Required { property } => return format!("must have the member {}", clip(&property.to_string())),
        Kind::AdditionalProperties { unexpected } if shown != Shown::Nothing => {
            return format!(
                "must not have the members {}",
                list(unexpected.iter().map(|name| format!("'{}'", name.escape_debug())))
            );
        }
        Kind::AdditionalProperties { .. } => return "has members that the schema does not have".to_owned(),
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
            format!("fits none of the {} alternatives of its schema", context.len())
        }
        Kind::OneOfMultipleValid { .. } => "fits more than one of the alternatives of its schema".to_owned(),
        Kind::Not { .. } => "is excluded by its schema".to_owned(),
        // The only `false` of this dialect.
        Kind::FalseSchema => return "must not have other members than those of its schema".to_owned(),
        other => format!("is against '{}' of its schema", other.keyword()),
    };
    with_value(must, error.instance(), shown)
}

/// The message for a value that fits no alternative, given the alternatives' types.
pub(super) fn fits_none<'a>(kinds: impl Iterator<Item = Option<&'a str>>, value: &Value, shown: Shown) -> String {
    let mut names: Vec<&str> = Vec::new();
    for kind in kinds {
        match kind {
            Some(kind) if !names.contains(&with_article(kind)) => names.push(with_article(kind)),
            Some(_) => {}
            None => return with_value("fits none of the alternatives of its schema".to_owned(), value, shown),
        }
    }
    format!("must be {}, not {}", names.join(" or "), kind_of(value))
}

fn with_value(must: String, value: &Value, shown: Shown) -> String {
    match value {
        Value::String(text) if shown == Shown::Values => {
            // Clipped before it is escaped: it may be the whole body.
            let start = text.chars().take(QUOTED + 1).collect::<String>();
            format!("{must}; it is {}", clip(&Value::String(start).to_string()))
        }
        Value::Number(_) | Value::Bool(_) if shown == Shown::Values => format!("{must}; it is {value}"),
        _ => must,
    }
}

/// The first characters of a text; it is escaped already or shown as it is in the schema.
pub(super) fn clip(text: &str) -> String {
    if text.chars().count() <= QUOTED {
        text.to_owned()
    } else {
        text.chars().take(QUOTED - 1).chain(['…']).collect()
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for item in items {
        if !text.is_empty() {
            text.push_str(", ");
        }
        if text.len() > 4 * QUOTED {
            text.push('…');
            break;
        }
        text.push_str(&clip(&item));
    }
    text
}

fn count(limit: u64, what: &str) -> String {
    if limit == 1 { format!("1 {what}") } else { format!("{limit} {what}s") }
}

fn types(kind: &TypeKind) -> String {
    let name = |kind: JsonType| with_article(kind.as_str());
    match kind {
        TypeKind::Single(one) => name(*one).to_owned(),
        TypeKind::Multiple(several) => several.iter().map(name).collect::<Vec<_>>().join(" or "),
    }
}

fn with_article(kind: &str) -> &'static str {
    match kind {
        "string" => "a string",
        "integer" => "an integer",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "an array",
        "object" => "an object",
        _ => "null",
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
