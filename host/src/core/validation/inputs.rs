//! One input of a request: how many values, which form each has, and the value itself (OGC API - Processes 1.0, 7.11.2.3).

use serde_json::{Map, Value};
use url::Url;

use super::{names, shown};
use crate::core::description::InputDescription;
use crate::core::secrets::is_named;
use crate::core::value_schema::{Shown, from_base64};
use crate::core::{Violation, media_type, pointer::join};

/// Checks what was given for an input, or that nothing was.
pub(super) fn check(input: &InputDescription, given: Option<&Value>, secret: &[&str], out: &mut Vec<Violation>) {
    let at = join("/inputs", &input.id);
    let Some(given) = given else {
        if input.min_occurs > 0 {
            out.push(Violation::new(at, "is required"));
        }
        return;
    };
    let holds_secret = input.schema.holds_secret() || is_named(&input.id, given, secret);
    let shown = if holds_secret { Shown::Nothing } else { Shown::Values };
    let check = Check { input, shown };
    match given {
        Value::Array(values) if check.is_list(values) => {
            check.count(values.len(), &at, out);
            for (index, value) in values.iter().enumerate() {
                check.instance(value, &join(&at, &index.to_string()), out);
                if out.len() > super::MOST {
                    return;
                }
            }
        }
        one => {
            check.count(1, &at, out);
            check.instance(one, &at, out);
        }
    }
}

struct Check<'a> {
    input: &'a InputDescription,
    shown: Shown,
}

impl Check<'_> {
    /// Whether an array is a list of values rather than one value that is an array. An input of several arrays is given as an array of
    /// arrays; a single one of them is taken too.
    fn is_list(&self, values: &[Value]) -> bool {
        self.input.max_occurs != Some(1)
            && (!self.input.schema.is_array() || values.iter().all(|value| value.is_array() || value.is_object()))
    }

    fn count(&self, count: usize, at: &str, out: &mut Vec<Violation>) {
        let (least, most) = (self.input.min_occurs, self.input.max_occurs);
        let plural = |count: u32| if count == 1 { "1 value".to_owned() } else { format!("{count} values") };
        if u32::try_from(count).unwrap_or(u32::MAX) < least {
            out.push(Violation::new(at, format!("must have at least {}, not {count}", plural(least))));
        }
        if let Some(most) = most.filter(|most| u32::try_from(count).unwrap_or(u32::MAX) > *most) {
            out.push(Violation::new(at, format!("must have at most {}, not {count}", plural(most))));
        }
    }

    /// One value: a link if it has `href`, qualified if it has `value`, otherwise bare.
    fn instance(&self, value: &Value, at: &str, out: &mut Vec<Violation>) {
        match value.as_object() {
            Some(members) if members.contains_key("href") => self.link(members, at, out),
            Some(members) => match members.get("value") {
                Some(inner) => self.qualified(members, inner, at, out),
                None => self.input.schema.check(value, None, at, self.shown, out),
            },
            None => self.input.schema.check(value, None, at, self.shown, out),
        }
    }

    fn link(&self, members: &Map<String, Value>, at: &str, out: &mut Vec<Violation>) {
        let fetched = |url: &Url| matches!(url.scheme(), "http" | "https" | "s3") && url.has_host();
        if !members
            .get("href")
            .and_then(Value::as_str)
            .and_then(|href| Url::parse(href).ok())
            .is_some_and(|url| fetched(&url))
        {
            out.push(Violation::new(join(at, "href"), "must be an absolute http, https or s3 URL"));
        }
        for name in ["rel", "hreflang", "title"] {
            if members.get(name).is_some_and(|text| !text.is_string()) {
                out.push(Violation::new(join(at, name), "must be a text"));
            }
        }
        let (format, format_at) = self.format(members, at, out);
        let nested = || Some((format?.get("mediaType")?, join(&format_at, "mediaType")));
        if let Some((kind, at)) = members.get("type").map(|kind| (kind, join(at, "type"))).or_else(nested) {
            self.media_type(kind, &at, out);
        }
    }

    fn qualified(&self, members: &Map<String, Value>, inner: &Value, at: &str, out: &mut Vec<Violation>) {
        let before = out.len();
        let known = ["value", "mediaType", "encoding", "schema", "format"];
        if members.keys().any(|key| !known.contains(&key.as_str())) {
            let rule = "must have nothing but 'mediaType', 'encoding' and 'schema' beside 'value'; an object is given as {\"value\": {…}}";
            out.push(Violation::new(at, rule));
        }
        // The format stands beside the value, or in `format` as some clients send it.
        let (format, format_at) = self.format(members, at, out);
        let beside = |name: &str| match members.get(name) {
            Some(value) => Some((value, join(at, name))),
            None => format.and_then(|format| format.get(name)).map(|value| (value, join(&format_at, name))),
        };
        let media_type = beside("mediaType");
        if let Some((kind, at)) = &media_type {
            self.media_type(kind, at, out);
        }
        let is_base64 = match beside("encoding") {
            None => false,
            Some((encoding, at)) => match encoding.as_str().map(str::to_ascii_lowercase).as_deref() {
                Some("base64") => true,
                Some("binary" | "utf-8" | "utf8" | "7bit" | "8bit") => false,
                _ => {
                    out.push(Violation::new(at, "must be 'base64', 'binary' or 'utf-8'"));
                    false
                }
            },
        };
        if out.len() > before {
            return;
        }
        let media_type = media_type.and_then(|(kind, _)| kind.as_str());
        let at = join(at, "value");
        let schema = &self.input.schema;
        match inner {
            // Bytes are checked by their schema; a text that came in base64 is checked as the text that it is.
            Value::String(text) if is_base64 && !schema.fitting(media_type).any(|alternative| alternative.binary) => {
                match from_base64(text).map(String::from_utf8) {
                    Some(Ok(decoded)) => schema.check(&Value::String(decoded), media_type, &at, self.shown, out),
                    Some(Err(_)) => out.push(Violation::new(at, "must be UTF-8 text in base64")),
                    None => out.push(Violation::new(at, "must be base64 text (RFC 4648)")),
                }
            }
            inner => schema.check(inner, media_type, &at, self.shown, out),
        }
    }

    /// The nested `format` of a value and where it is.
    fn format<'v>(
        &self,
        members: &'v Map<String, Value>,
        at: &str,
        out: &mut Vec<Violation>,
    ) -> (Option<&'v Map<String, Value>>, String) {
        let at = join(at, "format");
        let format = members.get("format");
        if format.is_some_and(|format| !format.is_object()) {
            out.push(Violation::new(&at, "must be an object with 'mediaType'"));
        }
        (format.and_then(Value::as_object), at)
    }

    fn media_type(&self, kind: &Value, at: &str, out: &mut Vec<Violation>) {
        let schema = &self.input.schema;
        match kind.as_str() {
            Some(kind) if !media_type::is_valid(kind) => {
                out.push(Violation::new(at, "must be a media type, 'application/json' say"));
            }
            Some(kind) if !schema.offers(kind) => {
                let taken = names(schema.media_types());
                out.push(Violation::new(at, format!("'{}' is not taken; the input takes {taken}", shown(kind))));
            }
            Some(_) => {}
            None => out.push(Violation::new(at, "must be a text")),
        }
    }
}
