//! Secrets in what is kept: inputs that the schema or the configuration calls secret are replaced before anything is stored, and
//! their values wherever a plan repeats them.

mod plan;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use super::description::InputDescription;
use super::value_schema::is_secret;
use super::{JobPlan, ProcessDescription};

/// What stands in the place of a secret.
pub const MASK: &str = "***";

/// Inputs without their secrets.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskedInputs {
    /// The inputs; each secret is [`MASK`], whatever type it had.
    pub inputs: Map<String, Value>,
    /// The texts and numbers in the secrets, for [`mask_plan`]: no text twice, the longest first, empty ones left out.
    pub values: Vec<String>,
}

/// Masks the inputs that the description marks as secret, as a whole or in members of their schema, and every member, at any depth, whose
/// name is exactly one of `extra_names`.
#[must_use]
pub fn mask_inputs(process: &ProcessDescription, inputs: &Map<String, Value>, extra_names: &[String]) -> MaskedInputs {
    let mut masking = Masking { names: extra_names, values: Vec::new() };
    let masked = inputs
        .iter()
        .map(|(id, value)| {
            let masked = match process.input(id) {
                _ if masking.is_named(id) => masking.mask_input(value),
                Some(input) if input.is_secret => masking.mask_input(value),
                Some(input) => masking.input(input, value),
                None => masking.walk(value, &[]),
            };
            (id.clone(), masked)
        })
        .collect();
    let mut values = masking.values;
    values.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    values.dedup();
    MaskedInputs { inputs: masked, values }
}

/// Replaces every occurrence of these values in any text of the plan, also where they stand escaped inside JSON text. The flag says
/// whether there was any: such a plan is for showing, not for running.
#[must_use]
pub fn mask_plan(plan: &JobPlan, values: &[String]) -> (JobPlan, bool) {
    plan::mask(plan, values)
}

/// Masks what an operator may have written into a plan as plain text: the values of literal variables and of the pod's patch, whatever they
/// are. They are not compared with the inputs: whoever sends those would learn from the answer which of his guesses are right.
pub fn mask_literals(plan: &mut JobPlan) {
    plan::mask_literals(plan);
}

/// Whether an input, or a member of its value at any depth, has one of these names.
pub(super) fn is_named(id: &str, value: &Value, names: &[&str]) -> bool {
    fn inside(value: &Value, names: &[&str]) -> bool {
        match value {
            Value::Object(members) => members.iter().any(|(name, member)| is_named(name, member, names)),
            Value::Array(elements) => elements.iter().any(|element| inside(element, names)),
            _ => false,
        }
    }
    names.contains(&id) || inside(value, names)
}

struct Masking<'a> {
    names: &'a [String],
    values: Vec<String>,
}

impl Masking<'_> {
    fn is_named(&self, name: &str) -> bool {
        self.names.iter().any(|secret| secret == name)
    }

    /// Takes the scalars of a secret and answers what stands in its place.
    fn mask(&mut self, secret: &Value) -> Value {
        self.take(secret);
        Value::String(MASK.to_owned())
    }

    /// As [`Self::mask`], for a whole input: the format beside a qualified value or link is no secret.
    fn mask_input(&mut self, secret: &Value) -> Value {
        match secret {
            Value::Array(values) => {
                for value in values {
                    self.mask_input(value);
                }
            }
            one => self.take(one.get("href").or_else(|| one.get("value")).unwrap_or(one)),
        }
        Value::String(MASK.to_owned())
    }

    fn take(&mut self, secret: &Value) {
        match secret {
            Value::String(text) => {
                // A processor may well trim what it was given.
                for text in [text.as_str(), text.trim()] {
                    if !text.is_empty() {
                        self.values.push(text.to_owned());
                    }
                }
            }
            Value::Number(number) => self.values.push(number.to_string()),
            Value::Array(elements) => elements.iter().for_each(|element| self.take(element)),
            Value::Object(members) => members.values().for_each(|member| self.take(member)),
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// A whole input: one value, or a list of them.
    fn input(&mut self, input: &InputDescription, given: &Value) -> Value {
        let schema = input.schema.document();
        match given {
            Value::Array(values) if input.max_occurs != Some(1) => {
                let members = children(&flatten(&[schema]), |schema| schema.get("items"));
                let schemas: Vec<&Value> = members.into_iter().chain([schema]).collect();
                values.iter().map(|value| self.instance(value, &schemas)).collect()
            }
            one => self.instance(one, &[schema]),
        }
    }

    /// One value, bare or qualified.
    fn instance(&mut self, value: &Value, schemas: &[&Value]) -> Value {
        match value {
            Value::Object(members) if members.contains_key("value") => {
                let mut masked = self.walk(value, schemas);
                if let (Some(inner), Some(place)) = (members.get("value"), masked.get_mut("value"))
                    && place.as_str() != Some(MASK)
                {
                    *place = self.walk(inner, schemas);
                }
                masked
            }
            bare => self.walk(bare, schemas),
        }
    }

    /// A value and the schemas that speak of it.
    fn walk(&mut self, value: &Value, schemas: &[&Value]) -> Value {
        let schemas = flatten(schemas);
        if schemas.iter().any(|schema| is_secret(schema)) {
            return self.mask(value);
        }
        match value {
            Value::Object(members) => members
                .iter()
                .map(|(name, member)| {
                    let masked = if self.is_named(name) {
                        self.mask(member)
                    } else {
                        let inside = children(&schemas, |schema| {
                            schema
                                .get("properties")
                                .and_then(|known| known.get(name))
                                .or_else(|| schema.get("additionalProperties"))
                        });
                        self.walk(member, &inside)
                    };
                    (name.clone(), masked)
                })
                .collect(),
            Value::Array(elements) => {
                let inside = children(&schemas, |schema| schema.get("items"));
                elements.iter().map(|element| self.walk(element, &inside)).collect()
            }
            scalar => scalar.clone(),
        }
    }
}

/// These schemas and the members of their `allOf`, `oneOf` and `anyOf`: each of them may speak of the value.
fn flatten<'a>(schemas: &[&'a Value]) -> Vec<&'a Map<String, Value>> {
    let mut flat: Vec<&Map<String, Value>> = schemas.iter().filter_map(|schema| schema.as_object()).collect();
    let mut next = 0;
    while let Some(schema) = flat.get(next).copied() {
        for key in ["allOf", "oneOf", "anyOf"] {
            flat.extend(schema.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object));
        }
        next += 1;
    }
    flat
}

fn children<'a>(
    schemas: &[&'a Map<String, Value>],
    child: impl Fn(&'a Map<String, Value>) -> Option<&'a Value>,
) -> Vec<&'a Value> {
    schemas.iter().filter_map(|schema| child(schema)).collect()
}
