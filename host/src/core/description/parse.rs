//! From the text of a description to its checked form. Members that are `null` count as left out.

use serde_json::{Map, Value, json};

use super::{InputDescription, MAX_BYTES, MAX_ENTRIES, Modes, OutputDescription, ProcessDescription};
use crate::core::json::{MAX_DEPTH, is_too_deep};
use crate::core::value_schema::ValueSchema;
use crate::core::{ProcessId, Violation, pointer::join};

/// How many violations are told at most.
const MOST: usize = 100;

type Members = Map<String, Value>;

pub(super) fn parse(text: &str, id: Option<&ProcessId>) -> Result<ProcessDescription, Vec<Violation>> {
    if text.len() > MAX_BYTES {
        return Err(vec![Violation::new("", format!("is longer than {MAX_BYTES} bytes"))]);
    }
    let mut document: Members = match serde_json::from_str(text) {
        Ok(Value::Object(members)) => members,
        Ok(_) => return Err(vec![Violation::new("", "must be a JSON object")]),
        Err(error) => return Err(vec![Violation::new("", format!("is not JSON: {error}"))]),
    };
    if document.values().any(|member| is_too_deep(member, MAX_DEPTH - 1)) {
        return Err(vec![Violation::new("", format!("is nested more than {MAX_DEPTH} levels deep"))]);
    }
    document.retain(|_, member| !member.is_null());

    let mut out = Vec::new();
    let id = process_id(&document, id, &mut out);
    let version = version(&document, &mut out);
    describe("", &document, &mut out);
    let modes = modes(&document, &mut out);
    let links = links(&mut document, &mut out);
    let inputs = entries(&mut document, "inputs", &mut out, input);
    let outputs = entries(&mut document, "outputs", &mut out, output);
    let (Some(id), Some(version), Some(modes), true) = (id, version, modes, out.is_empty()) else {
        out.truncate(MOST);
        return Err(out);
    };

    document.insert("id".to_owned(), json!(id));
    document.insert("jobControlOptions".to_owned(), modes.job_control_options());
    document.insert("outputTransmission".to_owned(), json!(["value", "reference"]));
    document.insert("mutable".to_owned(), json!(false));
    let title = document.get("title").and_then(Value::as_str).map(str::to_owned);
    Ok(ProcessDescription { id, version, title, modes, inputs, outputs, links, document })
}

fn process_id(document: &Members, given: Option<&ProcessId>, out: &mut Vec<Violation>) -> Option<ProcessId> {
    if let Some(id) = given {
        return Some(id.clone());
    }
    match document.get("id").map(Value::as_str) {
        None => out.push(Violation::new("/id", "is required")),
        Some(None) => out.push(Violation::new("/id", "must be a text")),
        Some(Some(text)) => match text.parse() {
            Ok(id) => return Some(id),
            Err(error) => out.push(Violation::new("/id", error.to_string())),
        },
    }
    None
}

fn version(document: &Members, out: &mut Vec<Violation>) -> Option<String> {
    let message = match document.get("version").map(Value::as_str) {
        None => "is required",
        Some(None) => "must be a text, '1.0.0' say",
        Some(Some(text)) if text.trim().is_empty() || text.len() > 100 || text.chars().any(char::is_control) => {
            "must be 1 to 100 printable bytes"
        }
        Some(Some(text)) => return Some(text.to_owned()),
    };
    out.push(Violation::new("/version", message));
    None
}

fn modes(document: &Members, out: &mut Vec<Violation>) -> Option<Modes> {
    let at = "/jobControlOptions";
    let both = Modes { sync: true, asynchronous: true };
    let Some(options) = document.get("jobControlOptions") else { return Some(both) };
    let Some(options) = options.as_array() else {
        out.push(Violation::new(at, "must be a list of texts"));
        return None;
    };
    let mut modes = Modes { sync: false, asynchronous: false };
    let before = out.len();
    for (index, option) in options.iter().enumerate() {
        match option.as_str() {
            Some("sync-execute") => modes.sync = true,
            Some("async-execute") => modes.asynchronous = true,
            Some("dismiss") => {}
            _ => out.push(Violation::new(
                join(at, &index.to_string()),
                "must be one of 'sync-execute', 'async-execute', 'dismiss'",
            )),
        }
    }
    match modes {
        _ if out.len() > before => None,
        _ if options.is_empty() => Some(both),
        Modes { sync: false, asynchronous: false } => {
            out.push(Violation::new(at, "must have 'sync-execute' or 'async-execute', or be left out for both"));
            None
        }
        some => Some(some),
    }
}

/// Takes the links out of the document.
fn links(document: &mut Members, out: &mut Vec<Violation>) -> Vec<Value> {
    let links = match document.shift_remove("links") {
        None => return Vec::new(),
        Some(Value::Array(links)) => links,
        Some(_) => {
            out.push(Violation::new("/links", "must be a list of links"));
            return Vec::new();
        }
    };
    for (index, link) in links.iter().enumerate() {
        let at = join("/links", &index.to_string());
        if link.get("href").is_none_or(Value::is_null) {
            out.push(Violation::new(&at, "must be an object with 'href'"));
        }
        texts(&at, link, &["href", "rel", "type", "hreflang", "title"], out);
    }
    links
}

/// The members of `inputs` or `outputs`, each read by `read`. Leaves an object in the document in any case.
fn entries<T>(
    document: &mut Members,
    key: &str,
    out: &mut Vec<Violation>,
    read: impl Fn(&str, &Members, &str, &mut Vec<Violation>) -> Option<T>,
) -> Vec<T> {
    let at = join("", key);
    let mut read_entries = Vec::new();
    match document.entry(key).or_insert_with(|| json!({})) {
        Value::Object(entries) if entries.len() > MAX_ENTRIES => {
            out.push(Violation::new(at, format!("has {} members; {MAX_ENTRIES} are allowed", entries.len())));
        }
        Value::Object(entries) => {
            for (id, entry) in entries {
                let at = join(&at, id);
                if id.trim().is_empty() || id.len() > 128 || id.chars().any(char::is_control) {
                    out.push(Violation::new(&at, "has an id that is not 1 to 128 printable bytes"));
                }
                if let Some(members) = entry.as_object_mut() {
                    members.retain(|_, member| !member.is_null());
                    describe(&at, members, out);
                    read_entries.extend(read(id, members, &at, out));
                } else {
                    out.push(Violation::new(at, "must be an object with 'schema'"));
                }
            }
        }
        Value::Array(_) => out.push(Violation::new(at, "must be an object by id, not a list")),
        _ => out.push(Violation::new(at, "must be an object by id")),
    }
    read_entries
}

fn input(id: &str, members: &Members, at: &str, out: &mut Vec<Violation>) -> Option<InputDescription> {
    let schema = schema(members, at, out);
    let before = out.len();
    let count = |value: &Value| value.as_u64().and_then(|count| u32::try_from(count).ok());
    let min_occurs = members.get("minOccurs").map_or(Some(1), count);
    let max_occurs = match members.get("maxOccurs") {
        None => Some(Some(1)),
        Some(Value::String(text)) if text == "unbounded" => Some(None),
        Some(value) => count(value).filter(|count| *count > 0).map(Some),
    };
    if min_occurs.is_none() {
        out.push(Violation::new(join(at, "minOccurs"), "must be an integer, 0 or more"));
    }
    if max_occurs.is_none() {
        out.push(Violation::new(join(at, "maxOccurs"), "must be an integer, 1 or more, or 'unbounded'"));
    }
    let (schema, min_occurs, max_occurs) = (schema?, min_occurs?, max_occurs?);
    if let Some(most) = max_occurs.filter(|most| *most < min_occurs) {
        out.push(Violation::new(join(at, "maxOccurs"), format!("is {most}, less than minOccurs {min_occurs}")));
    }
    let is_secret = schema.is_secret();
    (out.len() == before).then(|| InputDescription { id: id.to_owned(), schema, min_occurs, max_occurs, is_secret })
}

fn output(id: &str, members: &Members, at: &str, out: &mut Vec<Violation>) -> Option<OutputDescription> {
    Some(OutputDescription { id: id.to_owned(), schema: schema(members, at, out)? })
}

fn schema(members: &Members, at: &str, out: &mut Vec<Violation>) -> Option<ValueSchema> {
    let Some(schema) = members.get("schema") else {
        out.push(Violation::new(at, "must have a 'schema'"));
        return None;
    };
    ValueSchema::parse(schema, &join(at, "schema"), out)
}

/// `descriptionType.yaml`: what processes, inputs and outputs have in common.
fn describe(at: &str, members: &Members, out: &mut Vec<Violation>) {
    for key in ["title", "description"] {
        if members.get(key).is_some_and(|text| !text.is_string()) {
            out.push(Violation::new(join(at, key), "must be a text"));
        }
    }
    let is_texts = |list: &Value| list.as_array().is_some_and(|words| words.iter().all(Value::is_string));
    if members.get("keywords").is_some_and(|keywords| !is_texts(keywords)) {
        out.push(Violation::new(join(at, "keywords"), "must be a list of texts"));
    }
    if let Some(metadata) = members.get("metadata") {
        let at = join(at, "metadata");
        match metadata.as_array() {
            Some(entries) => {
                for (index, entry) in entries.iter().enumerate() {
                    texts(&join(&at, &index.to_string()), entry, &["title", "role", "href"], out);
                }
            }
            None => out.push(Violation::new(at, "must be a list of objects with 'title', 'role' and 'href'")),
        }
    }
    if let Some(additional) = members.get("additionalParameters") {
        let at = join(at, "additionalParameters");
        texts(&at, additional, &["title", "role", "href"], out);
        let parameters = additional.get("parameters");
        let is_parameter = |one: &Value| {
            one.get("name").is_some_and(Value::is_string) && one.get("value").is_some_and(Value::is_array)
        };
        if parameters.is_some_and(|list| !list.as_array().is_some_and(|list| list.iter().all(is_parameter))) {
            out.push(Violation::new(
                join(&at, "parameters"),
                "must be a list of objects with 'name' (a text) and 'value' (a list)",
            ));
        }
    }
}

/// Whether `entry` is an object whose members of these names are texts.
fn texts(at: &str, entry: &Value, names: &[&str], out: &mut Vec<Violation>) {
    match entry.as_object() {
        None => out.push(Violation::new(at, "must be an object")),
        Some(members) => {
            let wrong = names.iter().filter(|name| members.get(**name).is_some_and(|text| !text.is_string()));
            out.extend(wrong.map(|name| Violation::new(join(at, name), "must be a text")));
        }
    }
}
