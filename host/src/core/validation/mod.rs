//! Whether a request, and what a container answers, is what the process description says. Everything wrong is told at once,
//! before a processor is asked; a secret's value is never quoted.

mod inputs;
mod outputs;
#[cfg(test)]
mod tests;

use serde_json::Value;

use super::{ExecuteRequest, ProcessDescription, Violation, pointer::join};

pub use outputs::{Checked, check_media_type, check_output};

/// How many violations are told at most.
const MOST: usize = 100;

/// Everything in a request that is against the description, at most 100 violations: unknown, missing, too few or too many, wrong in type or
/// range. Pointers are into the request's body. References (`{"href": …}`) are checked in their form and handed to the container as they are.
/// `secret` are names of inputs, at any depth, that are secret though their schemas do not say so.
#[must_use]
pub fn check_request(process: &ProcessDescription, request: &ExecuteRequest, secret: &[&str]) -> Vec<Violation> {
    let mut out = Vec::new();
    for id in request.inputs.keys().filter(|id| process.input(id).is_none()) {
        let known = names(process.inputs.iter().map(|input| input.id.as_str()));
        out.push(Violation::new(
            join("/inputs", id),
            format!("is not an input of this process; its inputs are {known}"),
        ));
    }
    for input in &process.inputs {
        inputs::check(input, request.inputs.get(&input.id), secret, &mut out);
    }
    for (id, wish) in request.outputs.0.iter().flatten() {
        let at = join("/outputs", id);
        match process.output(id) {
            None if is_result_of_undeclared(process, id) => {}
            None => out.push(Violation::new(at, unknown_output(process))),
            Some(output) => {
                if let Some(asked) = wish.media_type.as_deref().filter(|asked| !output.schema.offers(asked)) {
                    let offered = names(output.schema.media_types());
                    let at = join(&join(&at, "format"), "mediaType");
                    out.push(Violation::new(
                        at,
                        format!("'{}' is not offered; the output is given as {offered}", shown(asked)),
                    ));
                }
            }
        }
    }
    out.truncate(MOST);
    out
}

/// The value itself: `value` of a qualified value (`{"value": …, "mediaType": …}`), anything else as it is.
#[must_use]
pub fn inner_value(value: &Value) -> &Value {
    match value.as_object() {
        Some(members) if !members.contains_key("href") => members.get("value").unwrap_or(value),
        _ => value,
    }
}

/// A process that declares no outputs has one, called `result`.
fn is_result_of_undeclared(process: &ProcessDescription, id: &str) -> bool {
    process.outputs.is_empty() && id == "result"
}

fn unknown_output(process: &ProcessDescription) -> String {
    let known = names(process.outputs.iter().map(|output| output.id.as_str()));
    format!("is not an output of this process; its outputs are {known}")
}

/// The first twenty names, for a message.
fn names<'a>(all: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for (index, name) in all.enumerate() {
        match index {
            0 => {}
            20 => {
                text.push_str(", …");
                break;
            }
            _ => text.push_str(", "),
        }
        text.push_str(name);
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

/// At most 80 characters of a text that came from outside.
fn shown(text: &str) -> String {
    text.chars().take(80).collect::<String>().escape_debug().to_string()
}
