//! The process description out of `metadata`.

use serde_json::{Map, Value, json};
use vespiary_processor::{TOKEN_INPUT, token_input};

use crate::section::{Errors, Section};
use crate::text;

/// The description, and the media type of the result as the outputs say it: none without outputs or without a `contentMediaType`, the
/// `contentMediaType` of one, JSON for several.
pub(crate) fn read(definition: &mut Section, check_auth: bool, errors: &mut Errors) -> (Value, Option<String>) {
    let Some(mut metadata) = definition.section("metadata", errors) else {
        errors.add("metadata", "is required: the id, version, inputs and outputs of the process");
        return (Value::Null, None);
    };
    let mut members = Map::new();
    members.insert("id".to_owned(), json!(metadata.required_text("id", errors)));
    let version = metadata.scalar("version", errors);
    if version.is_none() {
        metadata.wrong("version", "is required", errors);
    }
    members.insert("version".to_owned(), json!(version));
    localize(&mut metadata, &mut members, errors);
    members.insert("jobControlOptions".to_owned(), json!(job_control(&mut metadata, errors)));
    let links: Vec<_> = metadata.sections("links", errors).into_iter().map(|link| localized(link, errors)).collect();
    if !links.is_empty() {
        members.insert("links".to_owned(), json!(links));
    }
    let inputs = inputs(&mut metadata, check_auth, errors);
    let outputs: Map<_, _> =
        metadata.map("outputs", errors).into_iter().map(|output| parameter(output, errors)).collect();
    let media_type = media_type(&outputs);
    // The original shows all other members as they are, `example` for one.
    members.extend(metadata.rest());
    members.insert("inputs".to_owned(), Value::Object(inputs));
    members.insert("outputs".to_owned(), Value::Object(outputs));
    (Value::Object(members), media_type)
}

fn media_type(outputs: &Map<String, Value>) -> Option<String> {
    let mut all = outputs.values();
    match (all.next(), all.next()) {
        (None, _) => None,
        (Some(only), None) => only.pointer("/schema/contentMediaType").and_then(Value::as_str).map(str::to_owned),
        _ => Some("application/json".to_owned()),
    }
}

fn job_control(metadata: &mut Section, errors: &mut Errors) -> Vec<String> {
    if !metadata.has("jobControlOptions") {
        // All of it: who wants to wait may, and the server bounds how long.
        return ["sync-execute", "async-execute", "dismiss"].map(str::to_owned).to_vec();
    }
    let options = metadata.texts("jobControlOptions", errors);
    let known = |option: &String| ["sync-execute", "async-execute", "dismiss"].contains(&option.as_str());
    if options.is_empty() || !options.iter().all(known) {
        metadata.wrong("jobControlOptions", "must name some of sync-execute, async-execute and dismiss", errors);
    }
    options
}

fn inputs(metadata: &mut Section, check_auth: bool, errors: &mut Errors) -> Map<String, Value> {
    let mut inputs: Map<_, _> =
        metadata.map("inputs", errors).into_iter().map(|input| parameter(input, errors)).collect();
    if !check_auth {
        return inputs;
    }
    // Definitions of the original list the token among the inputs: title and place are theirs, but it is a secret, and optional since a
    // caller can send it as a header.
    let mut token = Value::from(token_input());
    if let (Value::Object(token), Some(Value::Object(written))) = (&mut token, inputs.get(TOKEN_INPUT)) {
        let own = written.iter().filter(|(key, _)| !["schema", "minOccurs", "maxOccurs"].contains(&key.as_str()));
        token.extend(own.map(|(key, value)| (key.clone(), value.clone())));
    }
    inputs.insert(TOKEN_INPUT.to_owned(), token);
    inputs
}

/// An input or output: it needs a schema, which the host checks; titles are localized, all else stays as it is.
fn parameter((id, mut parameter): (String, Section), errors: &mut Errors) -> (String, Value) {
    match parameter.take("schema") {
        Some(schema @ Value::Object(_)) => {
            let Value::Object(mut members) = localized(parameter, errors) else { return (id, Value::Null) };
            members.insert("schema".to_owned(), schema);
            (id, Value::Object(members))
        }
        _ => {
            parameter.wrong("schema", "is required, a map", errors);
            (id, Value::Null)
        }
    }
}

fn localized(mut section: Section, errors: &mut Errors) -> Value {
    let mut members = Map::new();
    localize(&mut section, &mut members, errors);
    members.extend(section.rest());
    Value::Object(members)
}

/// Takes `title`, `description` and `keywords`, each plain or in a map by language.
fn localize(section: &mut Section, members: &mut Map<String, Value>, errors: &mut Errors) {
    for key in ["title", "description"] {
        let Some(value) = section.take(key) else { continue };
        match text::of_scalar(in_english(&value)) {
            Some(text) => drop(members.insert(key.to_owned(), json!(text))),
            None => section.wrong(key, "must be text, or a map of languages to texts", errors),
        }
    }
    let Some(value) = section.take("keywords") else { return };
    let words: Option<Vec<_>> = match in_english(&value) {
        Value::Array(words) => words.iter().map(text::of_scalar).collect(),
        word => text::of_scalar(word).map(|word| vec![word]),
    };
    match words {
        Some(words) => drop(members.insert("keywords".to_owned(), json!(words))),
        None => section.wrong("keywords", "must be a list of texts, or a map of languages to such lists", errors),
    }
}

/// Of a map by language the English value, or else the first; any other value is itself.
fn in_english(value: &Value) -> &Value {
    let Value::Object(languages) = value else { return value };
    let regional = || languages.iter().find(|(language, _)| language.starts_with("en-")).map(|(_, value)| value);
    languages.get("en").or_else(regional).or_else(|| languages.values().next()).unwrap_or(&Value::Null)
}
