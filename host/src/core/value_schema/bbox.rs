//! Bounding boxes (OGC API - Processes 1.0, `bbox.yaml`): the one format hint that is checked.

use serde_json::{Map, Value};

use super::{Shown, all_of, facet};
use crate::core::{Violation, pointer::join};

// The coordinate reference systems of `bbox.yaml`, the default first.
const CRS84: &str = "http://www.opengis.net/def/crs/OGC/1.3/CRS84";
const CRS84H: &str = "http://www.opengis.net/def/crs/OGC/0/CRS84h";

/// A schema that says that its value is a bounding box.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hint {
    /// Whether it says itself which reference systems it takes.
    names_crs: bool,
}

/// The hint of a schema, if it has one: `format: ogc-bbox`, short or as URI, itself or in its `allOf`.
pub(super) fn hint(schema: &Map<String, Value>) -> Option<Hint> {
    let format = facet(schema, "format").is_some_and(|format| {
        let tail = format.strip_prefix("http://").or_else(|| format.strip_prefix("https://"));
        format == "ogc-bbox" || tail == Some("www.opengis.net/def/format/ogcapi-processes/0/ogc-bbox")
    });
    let reference = schema.get("$ref").and_then(Value::as_str).is_some_and(|target| target.ends_with("/bbox.yaml"));
    let names_crs =
        |schema: &Map<String, Value>| schema.get("properties").is_some_and(|members| members.get("crs").is_some());
    (format || reference).then(|| Hint { names_crs: names_crs(schema) || all_of(schema).any(names_crs) })
}

/// Checks a bounding box: 4 or 6 numbers, and one of the standard's reference systems unless the schema names its own.
pub(super) fn check(hint: Hint, value: &Value, pointer: &str, shown: Shown, out: &mut Vec<Violation>) {
    let at = |token: &str| if shown == Shown::Nothing { pointer.to_owned() } else { join(pointer, token) };
    let Some(members) = value.as_object() else {
        out.push(Violation::new(
            pointer,
            "must be a bounding box: an object with 'bbox' (4 or 6 numbers) and, if wanted, 'crs'",
        ));
        return;
    };
    match members.get("bbox").and_then(Value::as_array) {
        Some(corners) if !matches!(corners.len(), 4 | 6) => {
            out.push(Violation::new(at("bbox"), format!("must be 4 or 6 numbers, not {}", corners.len())));
        }
        Some(corners) if !corners.iter().all(Value::is_number) => {
            out.push(Violation::new(at("bbox"), "must be 4 or 6 numbers"));
        }
        Some(_) => {}
        None => out.push(Violation::new(at("bbox"), "is required: 4 or 6 numbers")),
    }
    match members.get("crs") {
        None => {}
        Some(_) if hint.names_crs => {}
        Some(crs) if crs.as_str().is_some_and(|crs| [CRS84, CRS84H].contains(&crs)) => {}
        Some(_) => out.push(Violation::new(at("crs"), format!("must be {CRS84} or {CRS84H}"))),
    }
}
