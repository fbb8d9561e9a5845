//! Which representation a request gets: JSON so far, asked for with `f` or `Accept` (RFC 9110, 12.5.1).

use axum::extract::FromRequestParts;
use http::header::{ACCEPT, HeaderMap};
use http::request::Parts;

use super::problem::{NOT_ACCEPTABLE, Problem};
use super::query::Query;

/// Proof that the request may be answered with JSON.
pub(super) struct AnswerJson;

impl<S: Sync> FromRequestParts<S> for AnswerJson {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // `f` overrides `Accept`.
        if let Some(query) = parts.uri.query().filter(|query| query.contains("f=") || query.contains('%'))
            && format(&Query::parse(query)?)?
        {
            return Ok(Self);
        }
        if accepts(&parts.headers, "application/json") {
            return Ok(Self);
        }
        Err(Problem::new(NOT_ACCEPTABLE, "this resource is available as application/json only"))
    }
}

/// Whether `f` asks for JSON; anything else that it may ask for is refused.
pub(super) fn format(query: &Query) -> Result<bool, Problem> {
    match query.one("f")? {
        None => Ok(false),
        Some("json") => Ok(true),
        Some(_) => Err(Problem::query("f", "must be 'json'")),
    }
}

/// Whether a media type is acceptable. No `Accept`, or one without any media range, accepts everything.
pub(super) fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let (kind, _) = media_type.split_once('/').unwrap_or((media_type, ""));
    let mut any = false;
    // The most specific range decides, whatever its place.
    let mut best = (0, true);
    for (range, weight) in ranges(headers) {
        any = true;
        let specific = match range.split_once('/') {
            Some(("*", "*")) => 1,
            Some((range_kind, "*")) if range_kind.eq_ignore_ascii_case(kind) => 2,
            _ if range.eq_ignore_ascii_case(media_type) => 3,
            _ => continue,
        };
        if specific > best.0 || (specific == best.0 && weight) {
            best = (specific, weight);
        }
    }
    !any || (best.0 > 0 && best.1)
}

/// Whether the client named `application/json` but not `application/problem+json`: it gets problems labelled as the former.
pub(super) fn wants_plain_json(headers: &HeaderMap) -> bool {
    if !headers.contains_key(ACCEPT) {
        return false;
    }
    let (mut plain, mut problem) = (false, false);
    for (range, weight) in ranges(headers) {
        plain |= weight && range.eq_ignore_ascii_case("application/json");
        problem |= weight && range.eq_ignore_ascii_case("application/problem+json");
    }
    plain && !problem
}

/// The media ranges of all `Accept` headers, without parameters, and whether each has a weight above 0.
fn ranges(headers: &HeaderMap) -> impl Iterator<Item = (&str, bool)> {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|item| {
            let mut parts = item.split(';').map(str::trim);
            let range = parts.next().filter(|range| range.contains('/'))?;
            let zero = parts.any(|parameter| {
                let weight = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q="));
                weight.is_some_and(|weight| weight.parse::<f32>().is_ok_and(|weight| weight <= 0.0))
            });
            Some((range, !zero))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (ACCEPT, http::HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_most_specific_range_decides() {
        for (accept, expected) in [
            (&[][..], true),
            (&["*/*"], true),
            (&["application/*"], true),
            (&["text/html, Application/JSON;q=0.1"], true),
            (&["text/html", "application/json"], true),
            (&["image/png"], false),
            (&["text/html, application/xml"], false),
            (&["application/json;q=0, */*"], false),
            (&["*/*;q=0.1, application/json; q=0"], false),
            (&["application/json, application/*;q=0"], true),
            (&["*/*;q=0"], false),
            (&["nonsense"], true),
            (&[""], true),
        ] {
            assert_eq!(accepts(&headers(accept), "application/json"), expected, "{accept:?}");
        }
    }

    #[test]
    fn problems_are_plain_json_on_request_only() {
        assert!(!wants_plain_json(&headers(&[])));
        assert!(!wants_plain_json(&headers(&["*/*"])));
        assert!(wants_plain_json(&headers(&["application/json"])));
        assert!(!wants_plain_json(&headers(&["application/json, application/problem+json"])));
        assert!(!wants_plain_json(&headers(&["application/problem+json"])));
    }
}
