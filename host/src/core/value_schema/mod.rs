//! The schema of one input or output: an OpenAPI 3.0 schema as it was given, and the compiled form that values are checked with.
//!
//! The members of a top-level `oneOf` are alternatives (media types or types) of one value: a value is right when one of them, or
//! more, takes it. Nothing is ever fetched.

mod bbox;
mod dialect;
mod sentence;
#[cfg(test)]
mod tests;

use jsonschema::Validator;
use serde_json::{Map, Value};

use super::{Violation, media_type};
pub(crate) use dialect::from_base64;
use sentence::{fits_none, sentence};

/// How many violations one value is told at most.
const MOST: usize = 100;

/// Bytes in memory from which on not everything that is wrong with a value can be gathered.
const LARGE: usize = 8 * 1024 * 1024;

/// How much of a value a message may tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Short scalars and names of members.
    Values,
    /// Names of members only.
    Names,
    /// Neither, and no place inside the value: it is a secret or holds one.
    Nothing,
}

/// A schema that was checked and compiled.
#[derive(Debug)]
pub struct ValueSchema {
    document: Value,
    nullable: bool,
    secret: bool,
    holds_secret: bool,
    /// What stands beside the top-level `oneOf`.
    base: Option<Validator>,
    /// As `chooses` of an alternative.
    base_chooses: bool,
    alternatives: Vec<Alternative>,
}

/// One of the forms that a value may have.
#[derive(Debug)]
pub struct Alternative {
    /// `contentMediaType`, where it says one.
    pub media_type: Option<String>,
    /// `type`, where it says one.
    pub kind: Option<String>,
    /// Whether the value is bytes: base64 text in a request, the bytes themselves in an output.
    pub binary: bool,
    bbox: Option<bbox::Hint>,
    validator: Validator,
    /// Whether there is a choice inside, of which the validator tells all that is wrong with each of its members.
    chooses: bool,
}

impl ValueSchema {
    /// Checks and compiles a schema. `None` when violations were added to `out`, their pointers beginning with `pointer`.
    pub(crate) fn parse(document: &Value, pointer: &str, out: &mut Vec<Violation>) -> Option<Self> {
        let before = out.len();
        dialect::check(document, pointer, out);
        let schema = document.as_object().filter(|_| out.len() == before)?;
        let compile = |schema: &Value| {
            dialect::compile(schema)
                .map_err(|reason| Violation::new(pointer, format!("is not a valid schema: {reason}")))
        };
        let chosen = ["oneOf", "anyOf"].into_iter().find_map(|key| Some((key, schema.get(key)?.as_array()?)));
        let built = match chosen {
            None => Alternative::new(document, None, &compile).map(|only| (None, false, vec![only])),
            Some((key, members)) => {
                let mut beside = schema.clone();
                beside.shift_remove(key);
                let inherited = facet(schema, "contentMediaType");
                members
                    .iter()
                    .map(|member| Alternative::new(member, inherited, &compile))
                    .collect::<Result<Vec<_>, _>>()
                    .and_then(|alternatives| {
                        let beside = Value::Object(beside);
                        compile(&beside).map(|base| (Some(base), has_choice(&beside), alternatives))
                    })
            }
        };
        match built {
            Ok((base, base_chooses, alternatives)) => Some(Self {
                nullable: flag(schema, "nullable"),
                secret: is_secret(schema),
                holds_secret: holds_secret(document),
                document: document.clone(),
                base,
                base_chooses,
                alternatives,
            }),
            Err(violation) => {
                out.push(violation);
                None
            }
        }
    }

    /// The schema as it was given.
    #[must_use]
    pub const fn document(&self) -> &Value {
        &self.document
    }

    /// The alternatives, the default first; at least one.
    #[must_use]
    pub fn alternatives(&self) -> &[Alternative] {
        &self.alternatives
    }

    /// The default media type: the schema's own or that of the first alternative.
    #[must_use]
    pub fn media_type(&self) -> Option<&str> {
        self.alternatives.first().and_then(|first| first.media_type.as_deref())
    }

    /// All media types that it names.
    pub fn media_types(&self) -> impl Iterator<Item = &str> {
        self.alternatives.iter().filter_map(|alternative| alternative.media_type.as_deref())
    }

    /// Whether a value of this media type can be right. A schema that names none takes all.
    #[must_use]
    pub fn offers(&self, media_type: &str) -> bool {
        self.fitting(Some(media_type)).next().is_some()
    }

    /// Whether the value is a secret as a whole (`format: password` or `writeOnly: true`).
    #[must_use]
    pub const fn is_secret(&self) -> bool {
        self.secret
    }

    /// Whether the value is a secret or has one inside.
    #[must_use]
    pub const fn holds_secret(&self) -> bool {
        self.holds_secret
    }

    /// Whether one value is an array.
    #[must_use]
    pub fn is_array(&self) -> bool {
        self.alternatives.iter().any(|alternative| alternative.kind.as_deref() == Some("array"))
    }

    /// The alternatives for a media type; all for none.
    pub(crate) fn fitting(&self, media_type: Option<&str>) -> impl Iterator<Item = &Alternative> {
        let any_named = self.media_types().next().is_some();
        self.alternatives.iter().filter(move |alternative| match media_type {
            Some(asked) if any_named => alternative.accepts(asked),
            _ => true,
        })
    }

    /// Whether this is null and may be.
    pub(crate) fn takes_null(&self, value: &Value) -> bool {
        self.nullable && value.is_null()
    }

    /// Checks a value against what stands beside the alternatives.
    pub(crate) fn check_base(&self, value: &Value, pointer: &str, shown: Shown, out: &mut Vec<Violation>) {
        if let Some(base) = self.base.as_ref().filter(|_| !self.takes_null(value)) {
            collect(base, value, pointer, shown, out);
        }
    }

    /// The first thing that is wrong with a value beside the alternatives. Names of members may be told.
    pub(crate) fn first_of_base(&self, value: &Value, pointer: &str, size: usize) -> Option<Violation> {
        let base = self.base.as_ref().filter(|_| !self.takes_null(value))?;
        first(base, self.base_chooses, value, pointer, size)
    }

    /// Checks a value as it stands in a request or a JSON output. A `media_type` picks the alternatives.
    pub(crate) fn check(
        &self,
        value: &Value,
        media_type: Option<&str>,
        pointer: &str,
        shown: Shown,
        out: &mut Vec<Violation>,
    ) {
        if self.takes_null(value) {
            return;
        }
        self.check_base(value, pointer, shown, out);
        let mut tried = Vec::new();
        for alternative in self.fitting(media_type) {
            let found = alternative.violations(value, pointer, shown);
            if found.is_empty() {
                return;
            }
            tried.push((alternative, found));
        }
        // The alternative that the value was meant for tells most.
        let meant = tried.iter().position(|(alternative, _)| alternative.is_kind_of(value));
        let only = if tried.len() == 1 { Some(0) } else { meant };
        match only.map(|index| tried.swap_remove(index)) {
            Some((_, found)) => out.extend(found),
            None => out.push(Violation::new(
                pointer,
                fits_none(tried.iter().map(|(alternative, _)| alternative.kind.as_deref()), value, shown),
            )),
        }
    }
}

impl Alternative {
    fn new(
        schema: &Value,
        inherited: Option<&str>,
        compile: &impl Fn(&Value) -> Result<Validator, Violation>,
    ) -> Result<Self, Violation> {
        let empty = Map::new();
        let members = schema.as_object().unwrap_or(&empty);
        Ok(Self {
            media_type: facet(members, "contentMediaType").or(inherited).map(str::to_owned),
            kind: facet(members, "type").map(str::to_owned),
            binary: dialect::is_binary(members) || all_of(members).any(dialect::is_binary),
            bbox: bbox::hint(members),
            validator: compile(schema)?,
            chooses: has_choice(schema),
        })
    }

    /// Whether content of this media type can be this alternative.
    fn accepts(&self, asked: &str) -> bool {
        match (&self.media_type, self.kind.as_deref()) {
            (Some(named), _) => media_type::same(named, asked),
            (None, Some("string")) => media_type::is_text(asked),
            (None, Some(_)) => media_type::is_json(asked),
            (None, None) => true,
        }
    }

    /// Whether the value is of this alternative's type.
    fn is_kind_of(&self, value: &Value) -> bool {
        match self.kind.as_deref() {
            Some("integer" | "number") => value.is_number(),
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("array") => value.is_array(),
            Some("object") => value.is_object(),
            _ => false,
        }
    }

    /// What is wrong with a value.
    pub(crate) fn violations(&self, value: &Value, pointer: &str, shown: Shown) -> Vec<Violation> {
        let mut out = Vec::new();
        if let Some(hint) = self.bbox {
            bbox::check(hint, value, pointer, shown, &mut out);
        }
        if out.is_empty() {
            collect(&self.validator, value, pointer, shown, &mut out);
        }
        out
    }

    /// The first thing that is wrong with a value of which so many bytes are in memory. Names of members may be told.
    pub(crate) fn first_violation(&self, value: &Value, pointer: &str, size: usize) -> Option<Violation> {
        if let Some(hint) = self.bbox {
            let mut out = Vec::new();
            bbox::check(hint, value, pointer, Shown::Names, &mut out);
            if let Some(found) = out.into_iter().next() {
                return Some(found);
            }
        }
        first(&self.validator, self.chooses, value, pointer, size)
    }
}

/// The first error, without gathering the others: of a large value they take more memory than the value.
fn first(validator: &Validator, chooses: bool, value: &Value, pointer: &str, size: usize) -> Option<Violation> {
    if chooses && size > LARGE {
        let message = "is not what its schema says; it is too large to tell where";
        return (!validator.is_valid(value)).then(|| Violation::new(pointer, message));
    }
    let error = validator.validate(value).err()?;
    Some(Violation::new(format!("{pointer}{}", error.instance_path().as_str()), sentence(&error, Shown::Names)))
}

fn collect(validator: &Validator, value: &Value, pointer: &str, shown: Shown, out: &mut Vec<Violation>) {
    for error in validator.iter_errors(value).take(MOST) {
        let place = if shown == Shown::Nothing { "" } else { error.instance_path().as_str() };
        let violation = Violation::new(format!("{pointer}{place}"), sentence(&error, shown));
        if !out.contains(&violation) {
            out.push(violation);
        }
    }
}

fn flag(schema: &Map<String, Value>, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn all_of(schema: &Map<String, Value>) -> impl Iterator<Item = &Map<String, Value>> {
    schema.get("allOf").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
}

/// A text member of the schema, or of the first member of its `allOf` that has it.
fn facet<'a>(schema: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    let own = |schema: &'a Map<String, Value>| schema.get(key).and_then(Value::as_str);
    own(schema).or_else(|| all_of(schema).find_map(own))
}

/// Whether this schema itself marks its value as a secret.
pub(crate) fn is_secret(schema: &Map<String, Value>) -> bool {
    let marked = |schema: &Map<String, Value>| {
        flag(schema, "writeOnly") || schema.get("format").and_then(Value::as_str) == Some("password")
    };
    marked(schema)
        || ["allOf", "oneOf", "anyOf"]
            .into_iter()
            .filter_map(|key| schema.get(key)?.as_array())
            .flatten()
            .filter_map(Value::as_object)
            .any(is_secret)
}

/// Whether this schema or one inside it lets choose. A member of an object of such a name counts, too: it does no harm.
fn has_choice(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => {
            // One that is nullable becomes a choice between null and the rest.
            ["oneOf", "anyOf", "nullable"].iter().any(|key| members.contains_key(*key))
                || members.values().any(has_choice)
        }
        Value::Array(elements) => elements.iter().any(has_choice),
        _ => false,
    }
}

/// Whether this schema or one inside it marks its value as a secret.
fn holds_secret(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => is_secret(members) || members.values().any(holds_secret),
        Value::Array(elements) => elements.iter().any(holds_secret),
        _ => false,
    }
}
