//! Takes a configuration apart key by key and notes everything that is wrong, with the place where it stands.

use serde_json::{Map, Value};

use crate::text;

const NO_QUANTITY: &str = "must be a quantity such as '500m', '1.5', '2Gi' or '1e3'";

/// What is wrong with the configuration so far.
#[derive(Debug, Default)]
pub(crate) struct Errors(Vec<String>);

impl Errors {
    /// Notes that this place is wrong.
    pub(crate) fn add(&mut self, place: &str, message: &str) {
        self.0.push(if place.is_empty() {
            format!("the configuration {message}")
        } else {
            format!("'{place}' {message}")
        });
    }

    /// One text with everything, if there is anything.
    pub(crate) fn check(self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0.join("; ")) }
    }
}

/// An object of the configuration. Members are taken out of it; what is left at the end is not known. A member that is `null` counts as absent.
#[derive(Debug)]
pub(crate) struct Section {
    path: String,
    members: Map<String, Value>,
}

impl Section {
    /// The whole configuration.
    pub(crate) fn root(config: Value, errors: &mut Errors) -> Self {
        Self::new(String::new(), config, errors)
    }

    /// The object at this place; empty, and noted, if it is none.
    fn new(path: String, value: Value, errors: &mut Errors) -> Self {
        match value {
            Value::Object(members) => Self { path, members },
            _ => {
                errors.add(&path, "must be a map");
                Self { path, members: Map::new() }
            }
        }
    }

    /// The place of one of its members.
    pub(crate) fn place(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Notes that a member is wrong.
    pub(crate) fn wrong(&self, key: &str, message: &str, errors: &mut Errors) {
        errors.add(&self.place(key), message);
    }

    /// Whether the member is there, `null` too.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.members.contains_key(key)
    }

    /// Drops a member, and says whether it was there.
    pub(crate) fn ignore(&mut self, key: &str) -> bool {
        self.members.shift_remove(key).is_some()
    }

    /// A member of any form.
    pub(crate) fn take(&mut self, key: &str) -> Option<Value> {
        self.members.shift_remove(key).filter(|value| !value.is_null())
    }

    /// A text that is not empty.
    pub(crate) fn text(&mut self, key: &str, errors: &mut Errors) -> Option<String> {
        match self.take(key)? {
            Value::String(text) if !text.trim().is_empty() => Some(text),
            Value::String(_) => self.none(key, "must not be empty", errors),
            _ => self.none(key, "must be text (a number or a truth value needs quotes)", errors),
        }
    }

    /// A text that must be there; empty if it is not, which is noted.
    pub(crate) fn required_text(&mut self, key: &str, errors: &mut Errors) -> String {
        if self.members.get(key).is_none_or(Value::is_null) {
            self.wrong(key, "is required", errors);
        }
        self.text(key, errors).unwrap_or_default()
    }

    /// The name of a container or volume that must be there.
    pub(crate) fn required_label(&mut self, key: &str, errors: &mut Errors) -> String {
        let name = self.required_text(key, errors);
        if !name.is_empty() && !text::is_dns_label(&name) {
            self.wrong(key, "must be at most 63 of a-z, 0-9 and '-', the first and the last not '-'", errors);
        }
        name
    }

    /// An absolute path that must be there.
    pub(crate) fn required_path(&mut self, key: &str, errors: &mut Errors) -> String {
        let path = self.required_text(key, errors);
        let is_plain = path.starts_with('/') && !path.contains(':') && !path.split('/').any(|step| step == "..");
        if !path.is_empty() && !is_plain {
            self.wrong(key, "must be an absolute path without '..' and ':'", errors);
        }
        path
    }

    /// A media type.
    pub(crate) fn media_type(&mut self, key: &str, errors: &mut Errors) -> Option<String> {
        let media_type = self.text(key, errors)?;
        if media_type.contains('/') && !media_type.chars().any(char::is_control) {
            return Some(media_type);
        }
        self.none(key, "must be a media type such as 'application/json'", errors)
    }

    /// A text, number or truth value as the text that Python makes of it.
    pub(crate) fn scalar(&mut self, key: &str, errors: &mut Errors) -> Option<String> {
        let value = self.take(key)?;
        match text::of_scalar(&value) {
            Some(text) => Some(text),
            None => self.none(key, "must be text, a number or a truth value", errors),
        }
    }

    /// A list of texts; one text is a list of one.
    pub(crate) fn texts(&mut self, key: &str, errors: &mut Errors) -> Vec<String> {
        let values = match self.take(key) {
            Some(Value::Array(values)) => values,
            Some(value) => vec![value],
            None => return Vec::new(),
        };
        let texts: Option<Vec<_>> = values.iter().map(text::of_scalar).collect();
        texts.or_else(|| self.none(key, "must be text or a list of texts", errors)).unwrap_or_default()
    }

    /// A truth value.
    pub(crate) fn flag(&mut self, key: &str, errors: &mut Errors) -> Option<bool> {
        match self.take(key)? {
            Value::Bool(flag) => Some(flag),
            _ => self.none(key, "must be true or false", errors),
        }
    }

    /// A whole number from 0 to 4294967295.
    pub(crate) fn count(&mut self, key: &str, errors: &mut Errors) -> Option<u32> {
        let count = self.take(key)?.as_u64().and_then(|count| u32::try_from(count).ok());
        count.or_else(|| self.none(key, "must be a whole number from 0 to 4294967295", errors))
    }

    /// A map of names to texts.
    pub(crate) fn pairs(&mut self, key: &str, errors: &mut Errors) -> Vec<(String, String)> {
        let Some(section) = self.section(key, errors) else { return Vec::new() };
        let place = section.path;
        let members = section.members.into_iter();
        let pairs = members.filter_map(|(name, value)| match text::of_scalar(&value) {
            Some(text) if !value.is_boolean() => Some((name, text)),
            _ => {
                errors.add(&format!("{place}.{name}"), "must be text or a number");
                None
            }
        });
        pairs.collect()
    }

    /// An amount of a resource.
    pub(crate) fn quantity(&mut self, key: &str, errors: &mut Errors) -> Option<String> {
        let quantity = self.scalar(key, errors)?;
        if text::is_quantity(&quantity) { Some(quantity) } else { self.none(key, NO_QUANTITY, errors) }
    }

    /// A map of the names of resources to amounts.
    pub(crate) fn quantities(&mut self, key: &str, errors: &mut Errors) -> Vec<(String, String)> {
        let (place, mut quantities) = (self.place(key), self.pairs(key, errors));
        quantities.retain(|(name, quantity)| {
            let right = text::is_quantity(quantity);
            if !right {
                errors.add(&format!("{place}.{name}"), NO_QUANTITY);
            }
            right
        });
        quantities
    }

    /// An object inside this one.
    pub(crate) fn section(&mut self, key: &str, errors: &mut Errors) -> Option<Self> {
        let value = self.take(key)?;
        Some(Self::new(self.place(key), value, errors))
    }

    /// A list of objects inside this one.
    pub(crate) fn sections(&mut self, key: &str, errors: &mut Errors) -> Vec<Self> {
        match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(values)) => {
                let place = self.place(key);
                let numbered = values.into_iter().enumerate();
                numbered.map(|(number, value)| Self::new(format!("{place}[{number}]"), value, errors)).collect()
            }
            Some(_) => self.none(key, "must be a list", errors).unwrap_or_default(),
        }
    }

    /// A map of ids to objects inside this one.
    pub(crate) fn map(&mut self, key: &str, errors: &mut Errors) -> Vec<(String, Self)> {
        let Some(section) = self.section(key, errors) else { return Vec::new() };
        let path = section.path;
        let members = section.members.into_iter();
        members.map(|(id, value)| (id.clone(), Self::new(format!("{path}.{id}"), value, errors))).collect()
    }

    /// All members that are left, those that are `null` dropped.
    pub(crate) fn rest(self) -> Map<String, Value> {
        self.members.into_iter().filter(|(_, value)| !value.is_null()).collect()
    }

    /// Notes every member that was not taken.
    pub(crate) fn end(self, errors: &mut Errors) {
        for key in self.members.keys() {
            self.wrong(key, "is not a known key here", errors);
        }
    }

    fn none<T>(&self, key: &str, message: &str, errors: &mut Errors) -> Option<T> {
        self.wrong(key, message, errors);
        None
    }
}
