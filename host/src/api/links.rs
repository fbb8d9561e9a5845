//! Links and the URLs in them: always absolute, made from the configured base or the request's `Host`.

use std::borrow::Cow;
use std::fmt::Write as _;

use axum::extract::FromRequestParts;
use http::header::{HOST, HeaderMap};
use http::request::Parts;
use http::{Uri, Version};
use serde::Serialize;
use url::Url;

use super::ApiState;
use super::problem::{INVALID_REQUEST, Problem};

pub(super) const REL_CONFORMANCE: &str = "http://www.opengis.net/def/rel/ogc/1.0/conformance";
pub(super) const REL_PROCESSES: &str = "http://www.opengis.net/def/rel/ogc/1.0/processes";
pub(super) const REL_JOB_LIST: &str = "http://www.opengis.net/def/rel/ogc/1.0/job-list";
pub(super) const REL_EXECUTE: &str = "http://www.opengis.net/def/rel/ogc/1.0/execute";
pub(super) const REL_RESULTS: &str = "http://www.opengis.net/def/rel/ogc/1.0/results";
pub(super) const REL_EXCEPTIONS: &str = "http://www.opengis.net/def/rel/ogc/1.0/exceptions";
pub(super) const REL_LOG: &str = "http://www.opengis.net/def/rel/ogc/1.0/log";
pub(super) const JSON: &str = "application/json";

/// A link object (`link.yaml`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Link {
    pub(super) href: String,
    pub(super) rel: &'static str,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(super) media_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) title: Option<&'static str>,
}

impl Link {
    /// A link to a JSON resource.
    pub(super) fn json(rel: &'static str, href: String, title: &'static str) -> Self {
        Self { href, rel, media_type: Some(JSON), title: Some(title) }
    }
}

/// What every URL starts with, without a slash at its end.
#[derive(Debug, Clone)]
pub(super) struct Base(pub(super) String);

impl Base {
    pub(super) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }

    /// A path with a query made of these parameters.
    pub(super) fn query<'a>(&self, path: &str, parameters: impl Iterator<Item = (&'a str, &'a str)>) -> String {
        let mut encoded = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in parameters {
            encoded.append_pair(name, value);
        }
        let encoded = encoded.finish();
        if encoded.is_empty() { self.path(path) } else { format!("{}{path}?{encoded}", self.0) }
    }

    pub(super) fn process(&self, id: &str) -> String {
        format!("{}/processes/{id}", self.0)
    }

    pub(super) fn job(&self, id: impl std::fmt::Display) -> String {
        format!("{}/jobs/{id}", self.0)
    }

    pub(super) fn output(&self, id: impl std::fmt::Display, output: &str) -> String {
        format!("{}/jobs/{id}/results/{}", self.0, segment(output))
    }
}

/// A text as one segment of a path.
pub(super) fn segment(text: &str) -> Cow<'_, str> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'~');
    if text.bytes().all(plain) && !matches!(text, "." | "..") {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            // Writing into a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    Cow::Owned(encoded)
}

/// A configured base URL, checked, without a slash at its end.
pub(super) fn fixed_base(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("must begin with 'http://' or 'https://' and name a host".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err("must have no query, no fragment and no user".to_owned());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// The host that the client asked, from the request's `Host` or its absolute URI.
pub(super) fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri, version: Version) -> Result<&'a str, Problem> {
    let mut all = headers.get_all(HOST).iter();
    let sent = all.next().map(http::HeaderValue::to_str);
    if all.next().is_some() {
        return Err(Problem::new(INVALID_REQUEST, "the request has more than one Host header"));
    }
    let host = match (sent, uri.authority()) {
        (_, Some(authority)) => authority.as_str(),
        (Some(Ok(host)), None) => host,
        (None, None) if version < Version::HTTP_11 => "localhost",
        (None, None) => return Err(Problem::new(INVALID_REQUEST, "the request has no Host header")),
        (Some(Err(_)), None) => "",
    };
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    if host.is_empty() || host.len() > 255 || !host.bytes().all(plain) {
        return Err(Problem::new(INVALID_REQUEST, "the Host header is not a host and port"));
    }
    Ok(host)
}

impl FromRequestParts<ApiState> for Base {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        match state.fixed_base() {
            Some(base) => Ok(Self(base.to_owned())),
            None => Ok(Self(format!("http://{}", host(&parts.headers, &parts.uri, parts.version)?))),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_base_is_http_with_a_host() {
        assert_eq!(fixed_base("https://x.example/a/"), Ok("https://x.example/a".to_owned()));
        assert_eq!(fixed_base("http://127.0.0.1:80"), Ok("http://127.0.0.1".to_owned()));
        for wrong in ["", "x", "ftp://x", "http://", "https://u@x", "https://x?a", "https://x#a", "data:x"] {
            assert!(fixed_base(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_host_cannot_smuggle_anything() {
        let with = |value: &str| {
            let (parts, ()) = Request::builder().uri("/").header("host", value).body(()).unwrap().into_parts();
            host(&parts.headers, &parts.uri, parts.version).map(str::to_owned)
        };
        assert_eq!(with("[::1]:8080").unwrap(), "[::1]:8080");
        for wrong in ["", "a/b", "a b", "\"x", "a@b", "<x>", &"a".repeat(300)] {
            assert!(with(wrong).is_err(), "{wrong}");
        }
        let (parts, ()) = Request::builder().uri("/").body(()).unwrap().into_parts();
        assert!(host(&parts.headers, &parts.uri, parts.version).is_err());
    }

    #[test]
    fn ids_are_encoded_in_urls() {
        let base = Base("http://h".to_owned());
        assert_eq!(base.output("j", "a/b ä"), "http://h/jobs/j/results/a%2Fb%20%C3%A4");
        assert_eq!(base.output("j", ".."), "http://h/jobs/j/results/%2E%2E");
        assert_eq!(base.query("/jobs", [("a", "1&2"), ("b", "x y")].into_iter()), "http://h/jobs?a=1%262&b=x+y");
    }
}
