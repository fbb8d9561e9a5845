//! Query parameters: decoded strictly, so that what is not UTF-8 is refused and not guessed.

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::problem::{INVALID_QUERY, INVALID_REQUEST, Problem};

/// The most parameters of a query.
const MAX_PARAMETERS: usize = 200;

/// The parameters of a query in the order they were sent.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes `application/x-www-form-urlencoded`.
    pub(super) fn parse(query: &str) -> Result<Self, Problem> {
        let mut parameters = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decode(name), decode(value)) else {
                return Err(Problem::new(INVALID_QUERY, "the query is not percent-encoded UTF-8"));
            };
            parameters.push((name, value));
        }
        if parameters.len() > MAX_PARAMETERS {
            return Err(Problem::new(INVALID_QUERY, format!("the query has more than {MAX_PARAMETERS} parameters")));
        }
        Ok(Self(parameters))
    }

    /// Refuses parameters that the resource does not have: a misspelt filter would look like none. `f` is known everywhere.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Problem> {
        let Some((name, _)) = self.0.iter().find(|(name, _)| name != "f" && !known.contains(&name.as_str())) else {
            return Ok(());
        };
        let shown: String = name.chars().take(80).collect();
        let known = if known.is_empty() { "f".to_owned() } else { format!("{}, f", known.join(", ")) };
        Err(Problem::query(&shown, &format!("is not a parameter of this resource; its parameters are {known}")))
    }

    /// The value of a parameter that may be sent once.
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.0.iter().filter(|(held, _)| held == name).map(|(_, value)| value.as_str());
        let first = values.next();
        if values.next().is_some() {
            return Err(Problem::query(name, "may be sent once only"));
        }
        Ok(first)
    }

    /// The values of a parameter that may be sent several times, with commas between values.
    pub(super) fn list(&self, name: &str) -> Result<Vec<&str>, Problem> {
        let sent = self.0.iter().filter(|(held, _)| held == name);
        let values: Vec<&str> = sent.flat_map(|(_, value)| value.split(',')).map(str::trim).collect();
        if values.iter().any(|value| value.is_empty()) {
            return Err(Problem::query(name, "has an empty value"));
        }
        Ok(values)
    }

    /// `true` or `false`; absent is false.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.one(name)? {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Problem::query(name, "must be 'true' or 'false'")),
        }
    }

    /// A whole number; one that no counter can hold is as large as they get.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        if text.is_empty() || !text.bytes().all(|c| c.is_ascii_digit()) {
            return Err(Problem::query(name, "must be a whole number, 0 or larger"));
        }
        Ok(Some(text.parse().unwrap_or(u64::MAX)))
    }

    /// `limit`: at least 1, absent the default, too large the maximum (OGC API - Processes 1.0, 7.9.2).
    pub(super) fn limit(&self, default: u32, maximum: u32) -> Result<u32, Problem> {
        match self.number("limit")? {
            None => Ok(default),
            Some(0) => Err(Problem::query("limit", "must be at least 1")),
            Some(limit) => Ok(u32::try_from(limit).unwrap_or(maximum).min(maximum)),
        }
    }

    /// All parameters but this one.
    pub(super) fn without<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.iter().filter(move |(held, _)| held != name).map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// All parameters.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Percent-decodes; `None` for what is not UTF-8 or not an escape.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (char::from(rest.next()?).to_digit(16)?, char::from(rest.next()?).to_digit(16)?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.uri.query().map_or_else(|| Ok(Self::default()), Self::parse)
    }
}

/// The parameters of the path.
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(ids)) => Ok(Self(ids)),
            Err(_) => Err(Problem::new(INVALID_REQUEST, "the path is not percent-encoded UTF-8")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_strictly() {
        let query = Query::parse("a=1+2&b=%C3%A4&b=x,y&c&&limit=3&t=true").unwrap();
        assert_eq!(query.one("a").unwrap(), Some("1 2"));
        assert_eq!(query.list("b").unwrap(), ["ä", "x", "y"]);
        assert_eq!(query.one("c").unwrap(), Some(""));
        assert!(query.one("b").is_err() && query.list("c").is_err());
        assert!(query.flag("t").unwrap() && !query.flag("u").unwrap() && query.flag("a").is_err());
        assert_eq!(query.without("b").map(|(name, _)| name).collect::<Vec<_>>(), ["a", "c", "limit", "t"]);
        for wrong in ["a=%", "a=%4", "a=%zz", "%ff=1", "a=%C3"] {
            assert_eq!(Query::parse(wrong).unwrap_err().kind(), INVALID_QUERY, "{wrong}");
        }
        assert!(Query::parse(&"a&".repeat(201)).is_err());
    }

    #[test]
    fn a_parameter_that_is_not_known_is_refused() {
        let only = |text: &str| Query::parse(text).unwrap().only(&["limit", "status"]);
        assert!(only("").is_ok() && only("limit=x&status&status=y&f=json").is_ok());
        for wrong in ["stauts=failed", "Status=failed", "limit=1&x", "=1", "%00=1"] {
            assert_eq!(only(wrong).unwrap_err().kind(), INVALID_QUERY, "{wrong}");
        }
        assert!(Query::parse("f=json").unwrap().only(&[]).is_ok());
    }

    #[test]
    fn a_limit_is_clamped_not_refused() {
        let limit = |text: &str| Query::parse(text).unwrap().limit(10, 10_000).ok();
        assert_eq!(limit(""), Some(10));
        assert_eq!(limit("limit=1"), Some(1));
        assert_eq!(limit("limit=10001"), Some(10_000));
        assert_eq!(limit("limit=99999999999999999999999"), Some(10_000));
        for wrong in ["limit=0", "limit=-1", "limit=x", "limit=", "limit=1.5", "limit=1&limit=1", "limit=%2B1"] {
            assert_eq!(limit(wrong), None, "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_query_is_read_or_refused(text in "[ -~]{0,60}") {
            let _ = Query::parse(&text);
        }
    }
}
