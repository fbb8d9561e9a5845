//! The settings of the HTTP server, and what is wrong with them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::links;

/// Settings of the HTTP server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Address and port to listen on; port 0 takes a free one.
    pub listen: String,
    /// The URL under which clients reach the server, without a slash at its end. Absent: `http://` and the request's `Host`, which must be
    /// this machine (`localhost`, `127.0.0.1`, `[::1]`) while `listen` is.
    pub base_url: Option<String>,
    /// Title of the landing page.
    pub title: String,
    /// Description on the landing page.
    pub description: Option<String>,
    /// The largest request body.
    pub max_body_mib: u32,
    /// The bytes of request bodies and results documents that are held at once, the first 64 KiB of each not counted; at least the largest
    /// body and the largest document. What does not fit is refused with 503, a document after `request_timeout_seconds`.
    pub max_buffered_mib: u32,
    /// The most header fields of a request, 1 to 100.
    pub max_headers: u16,
    /// The most bytes of a request's header fields together, 1 to 64 KiB.
    pub max_header_kib: u16,
    /// How long a client may take to send the head of a request, and how long a connection may stay idle.
    pub header_timeout_seconds: u32,
    /// How long a request may take to be received, and then to be answered; a synchronous execution may wait beyond that.
    pub request_timeout_seconds: u32,
    /// How long a client may take nothing of an answer before its connection is closed.
    pub stall_timeout_seconds: u32,
    /// How long a synchronous execution waits for its job at most; after that the job goes on and the answer is 201.
    pub max_wait_seconds: u32,
    /// Requests that are answered at once; one more is refused with 503.
    pub max_concurrent_requests: u32,
    /// Open connections; one more waits in the operating system's queue.
    pub max_connections: u32,
    /// Logs that are followed at once, half of `max_connections` at most; one more is refused with 503.
    pub max_followers: u32,
    /// How long requests in flight may take to finish when the server stops.
    pub shutdown_seconds: u32,
    /// Origins whose pages may call the API (CORS): `https://example.org`, or `*` for all. Empty: none. What pages of other origins send is
    /// refused with 403 where it would change something.
    pub cors_origins: Vec<String>,
    /// Entries on a page of a list when the request names no `limit`.
    pub default_page_limit: u32,
    /// Entries on a page of a list at most; a larger `limit` is lowered to it.
    pub max_page_limit: u32,
    /// The bytes of values that a results document holds at most; a value beyond it is answered as a link.
    pub max_document_mib: u32,
    /// Whether the answer of a synchronous execution has a `Link` with the relation `monitor` to its job. The standard asks for
    /// it; its own test suite fails on it.
    pub sync_monitor_link: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            base_url: None,
            title: "Vespiary".to_owned(),
            description: None,
            max_body_mib: 16,
            max_buffered_mib: 128,
            max_headers: 64,
            max_header_kib: 32,
            header_timeout_seconds: 30,
            request_timeout_seconds: 30,
            stall_timeout_seconds: 60,
            max_wait_seconds: 60,
            max_concurrent_requests: 1024,
            max_connections: 2048,
            max_followers: 512,
            shutdown_seconds: 20,
            cors_origins: Vec::new(),
            default_page_limit: 10,
            max_page_limit: 10_000,
            max_document_mib: 64,
            sync_monitor_link: false,
        }
    }
}

impl Settings {
    /// All that is wrong, one sentence each; empty when nothing is.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        let positive = [
            ("max_body_mib", self.max_body_mib),
            ("header_timeout_seconds", self.header_timeout_seconds),
            ("request_timeout_seconds", self.request_timeout_seconds),
            ("stall_timeout_seconds", self.stall_timeout_seconds),
            ("max_concurrent_requests", self.max_concurrent_requests),
            ("max_connections", self.max_connections),
            ("default_page_limit", self.default_page_limit),
            ("max_page_limit", self.max_page_limit),
        ];
        for (name, value) in positive {
            if value == 0 {
                found.push(format!("{name} must be at least 1"));
            }
        }
        if self.max_body_mib > 1024 {
            found.push("max_body_mib must be at most 1024".to_owned());
        }
        if !(1..=100).contains(&self.max_headers) {
            found.push("max_headers must be from 1 to 100".to_owned());
        }
        if !(1..=64).contains(&self.max_header_kib) {
            found.push("max_header_kib must be from 1 to 64".to_owned());
        }
        if self.default_page_limit > self.max_page_limit {
            found.push("default_page_limit must not be larger than max_page_limit".to_owned());
        }
        if !self.listen.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
            found.push(format!("listen: '{}' is not ADDRESS:PORT", self.listen));
        }
        if let Some(Err(reason)) = self.base_url.as_deref().map(links::fixed_base) {
            found.push(format!("base_url {reason}"));
        }
        for origin in self.cors_origins.iter().filter(|origin| !is_origin(origin)) {
            found.push(format!("cors_origins: '{origin}' is not an origin like 'https://example.org', nor '*'"));
        }
        found
    }

    pub(super) fn max_body_bytes(&self) -> usize {
        (self.max_body_mib as usize).saturating_mul(1024 * 1024)
    }

    pub(super) fn max_buffered_bytes(&self) -> u64 {
        u64::from(self.max_buffered_mib).saturating_mul(1024 * 1024)
    }

    /// Followers hold their connections, and others must be able to connect.
    pub(super) fn max_followers(&self) -> usize {
        self.max_followers.min(self.max_connections.div_ceil(2)) as usize
    }

    pub(super) fn max_document_bytes(&self) -> u64 {
        u64::from(self.max_document_mib).saturating_mul(1024 * 1024)
    }

    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.request_timeout_seconds))
    }

    pub(super) fn max_wait(&self) -> Duration {
        Duration::from_secs(u64::from(self.max_wait_seconds))
    }
}

fn is_origin(text: &str) -> bool {
    text == "*" || url::Url::parse(text).is_ok_and(|url| url.origin().ascii_serialization() == text && url.has_host())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_violations_at_once() {
        assert_eq!(Settings::default().violations(), Vec::<String>::new());
        let wrong = Settings {
            base_url: Some("ftp://x".to_owned()),
            max_headers: 101,
            max_body_mib: 0,
            cors_origins: vec!["https://a.example".to_owned(), "https://a.example/".to_owned(), "x".to_owned()],
            default_page_limit: 20,
            max_page_limit: 10,
            ..Settings::default()
        };
        assert_eq!(wrong.violations().len(), 6, "{:?}", wrong.violations());
        let text = serde_json::to_string(&Settings::default()).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), Settings::default());
        assert!(serde_json::from_str::<Settings>(r#"{"basurl":"x"}"#).is_err());
    }
}
