//! Which web pages may use the API. A browser sends what any page tells it to, from the inside of its user's network; to have executed a
//! process the page need not be able to read the answer. Programs send neither `Origin` nor `Sec-Fetch-Site`, and are not concerned.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::extract::Request;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, LINK, LOCATION, ORIGIN, RANGE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowOrigin, CorsLayer};
use url::Url;

use super::layer::REQUEST_ID;
use super::links::host;
use super::problem::{FORBIDDEN, Problem};
use super::settings::Settings;

/// The pages that may change something.
#[derive(Debug)]
pub(super) struct Pages {
    /// The origins that the configuration names, and that of the base URL.
    named: Vec<String>,
    /// Pages of all origins.
    all: bool,
    /// Without a base URL the server's own origin is the one that it was asked as.
    asked: bool,
    /// Only this machine reaches the server, so that it is never asked as anything but this machine. A page whose own name was made to
    /// lead here (DNS rebinding) asks as that name.
    local: bool,
}

impl Pages {
    pub(super) fn new(settings: &Settings) -> Self {
        let base = settings.base_url.as_deref().and_then(|base| Url::parse(base).ok());
        let own = base.iter().map(|base| base.origin().ascii_serialization());
        Self {
            named: settings.cors_origins.iter().cloned().chain(own).collect(),
            all: settings.cors_origins.iter().any(|origin| origin == "*"),
            asked: base.is_none(),
            local: base.is_none() && is_this_machine(&settings.listen),
        }
    }

    /// Refuses what a page of somebody else's makes a browser send.
    pub(super) fn check(&self, request: &Request) -> Result<(), Problem> {
        if self.local {
            let host = host(request.headers(), request.uri(), request.version())?;
            if !is_this_machine(host) {
                return Err(Problem::new(
                    FORBIDDEN,
                    format!(
                        "this server listens to its own machine only and does not answer as '{host}': reach it as localhost or 127.0.0.1, or set server.base_url"
                    ),
                ));
            }
        }
        if self.all || request.method().is_safe() {
            return Ok(());
        }
        let mut origins = request.headers().get_all(ORIGIN).iter();
        let refused = if request.headers().contains_key(ORIGIN) {
            origins.find(|origin| !self.is_allowed(origin, request)).map(shown)
        } else {
            // A browser that does not say which page it is says at least where it is.
            let site = request.headers().get("sec-fetch-site");
            let foreign = site.is_some_and(|site| site == "cross-site" || site == "same-site");
            foreign.then(|| "another origin".to_owned())
        };
        match refused {
            None => Ok(()),
            Some(origin) => Err(Problem::new(
                FORBIDDEN,
                format!("a page of {origin} may not do this: an operator can allow its origin in server.cors_origins"),
            )),
        }
    }

    fn is_allowed(&self, origin: &HeaderValue, request: &Request) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        if self.named.iter().any(|named| named == origin) {
            return true;
        }
        // A proxy may have taken TLS off: the scheme is not compared.
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        let asked = host(request.headers(), request.uri(), request.version());
        self.asked && authority.zip(asked.ok()).is_some_and(|(own, asked)| own.eq_ignore_ascii_case(asked))
    }
}

fn shown(origin: &HeaderValue) -> String {
    let text: String = String::from_utf8_lossy(origin.as_bytes()).chars().take(100).collect();
    format!("'{}'", text.escape_debug())
}

/// Whether a host, with or without a port, is this machine by its own name or an address of its own.
fn is_this_machine(host: &str) -> bool {
    if let Some(bracketed) = host.strip_prefix('[') {
        let address = bracketed.split_once(']').and_then(|(address, _)| address.parse::<Ipv6Addr>().ok());
        return address.is_some_and(|address| address.to_canonical().is_loopback());
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost") || name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

/// Lets pages of these origins call the API, and read the answers.
pub(super) fn cors(origins: &[String]) -> Option<CorsLayer> {
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        let origins: Vec<_> = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
        if origins.is_empty() {
            return None;
        }
        AllowOrigin::list(origins)
    };
    let named = |names: &[&'static str]| names.iter().map(|name| HeaderName::from_static(name)).collect::<Vec<_>>();
    let mut sent = vec![ACCEPT, AUTHORIZATION, CONTENT_TYPE, RANGE, REQUEST_ID];
    sent.extend(named(&["prefer", "idempotency-key", "if-none-match"]));
    let mut shown = vec![LOCATION, LINK, ETAG, RETRY_AFTER, REQUEST_ID];
    shown.extend(named(&["preference-applied", "content-range", "content-disposition"]));
    let methods = [Method::GET, Method::HEAD, Method::POST, Method::DELETE];
    Some(CorsLayer::new().allow_origin(allowed).allow_methods(methods).allow_headers(sent).expose_headers(shown))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn sent(settings: &Settings, method: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().method(method).uri("/jobs/x");
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "127.0.0.1:8080");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Pages::new(settings).check(&request.body(Body::empty()).unwrap()).is_ok()
    }

    #[test]
    fn other_people_s_pages_change_nothing() {
        let default = Settings::default();
        let evil = ("origin", "https://evil.example");
        for method in ["POST", "DELETE", "PUT", "PATCH", "BREW"] {
            assert!(sent(&default, method, &[]), "programs send no Origin");
            assert!(sent(&default, method, &[("origin", "http://127.0.0.1:8080")]), "the server's own");
            assert!(sent(&default, method, &[("sec-fetch-site", "same-origin")]));
            assert!(sent(&default, method, &[("sec-fetch-site", "none")]));
            assert!(!sent(&default, method, &[evil]));
            assert!(!sent(&default, method, &[("origin", "http://127.0.0.1:8080"), evil]));
            for other in ["null", "", "http://127.0.0.1", "http://127.0.0.1:3000", "127.0.0.1:8080", "\u{e4}"] {
                assert!(!sent(&default, method, &[("origin", other)]), "{other}");
            }
            for site in ["cross-site", "same-site"] {
                assert!(!sent(&default, method, &[("sec-fetch-site", site)]), "{site}");
            }
        }
        // Reading is what CORS is for.
        assert!(sent(&default, "GET", &[evil]) && sent(&default, "OPTIONS", &[evil]));

        let named = Settings { cors_origins: vec!["https://evil.example".into()], ..Settings::default() };
        assert!(sent(&named, "POST", &[evil, ("sec-fetch-site", "cross-site")]));
        assert!(!sent(&named, "POST", &[("origin", "https://other.example")]));
        let all = Settings { cors_origins: vec!["*".into()], ..Settings::default() };
        assert!(sent(&all, "POST", &[("origin", "null")]));

        let based = Settings { base_url: Some("https://jobs.example/v/".into()), ..Settings::default() };
        assert!(sent(&based, "POST", &[("origin", "https://jobs.example")]));
        assert!(!sent(&based, "POST", &[("origin", "http://jobs.example")]));
        assert!(!sent(&based, "POST", &[("host", "evil.example"), ("origin", "http://evil.example")]));
    }

    #[test]
    fn a_name_that_leads_here_is_not_this_machine() {
        let default = Settings::default();
        let names =
            ["localhost", "LocalHost:8080", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::1]:8080", "[::ffff:127.0.0.1]:1"];
        for name in names {
            assert!(sent(&default, "GET", &[("host", name)]) && sent(&default, "POST", &[("host", name)]), "{name}");
        }
        let others = [
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "0.0.0.0:8080",
            "[::2]",
            "[::1",
        ];
        let based = Settings { base_url: Some("http://jobs.example".into()), ..Settings::default() };
        for name in others {
            for method in ["GET", "POST", "DELETE"] {
                assert!(!sent(&default, method, &[("host", name)]), "{name}");
                assert!(sent(&based, method, &[("host", name)]), "a proxy sends what it likes: {name}");
                for listen in ["0.0.0.0:8080", "[::]:8080", "10.0.0.1:8080"] {
                    let open = Settings { listen: listen.into(), ..Settings::default() };
                    assert!(sent(&open, method, &[("host", name)]), "{name} at {listen}");
                }
            }
        }
        let six = Settings { listen: "[::1]:8080".into(), ..Settings::default() };
        assert!(!sent(&six, "GET", &[("host", "evil.example")]));
    }
}
