//! Some members of a JSON object as they stand in its text: memory for those alone, however many there are.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::apart::Text;

/// What an object has of these members.
pub(super) struct Members<'b> {
    /// In the order of the names. Of one that is there twice, the last.
    pub(super) values: Vec<Option<&'b RawValue>>,
    /// The first member of another name.
    pub(super) unknown: Option<String>,
}

/// Reads the members of these names.
pub(super) fn members<'b>(text: &'b [u8], names: &[&str]) -> serde_json::Result<Members<'b>> {
    let mut text = serde_json::Deserializer::from_slice(text);
    let found = Names(names).deserialize(&mut text)?;
    text.end()?;
    Ok(found)
}

struct Names<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for Names<'_> {
    type Value = Members<'de>;

    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<Members<'de>, D::Error> {
        text.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Names<'_> {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Members<'de>, A::Error> {
        let mut found = Members { values: vec![None; self.0.len()], unknown: None };
        while let Some(Text(name)) = members.next_key()? {
            let place = self.0.iter().position(|known| *known == name);
            match place.and_then(|place| found.values.get_mut(place)) {
                Some(value) if found.unknown.is_none() => *value = Some(members.next_value()?),
                _ => {
                    let IgnoredAny = members.next_value()?;
                    found.unknown.get_or_insert_with(|| name.into_owned());
                }
            }
        }
        Ok(found)
    }
}
