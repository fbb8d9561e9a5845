//! An HTTP client that checks on every answer what must hold for all of them.

use std::time::Duration;

use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};

use crate::until;

/// How long a job of a test may take.
const JOB_ENDS_WITHIN: Duration = Duration::from_secs(180);

/// One answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header as text, empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The same answer when it has this status.
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// The last part of the problem's `type`.
    #[must_use]
    pub fn problem(&self) -> String {
        let problem = self.json();
        let kind = problem["type"].as_str().unwrap_or_default();
        kind.rsplit(['/', ':']).next().unwrap_or_default().to_owned()
    }
}

/// A client of one server.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

impl Client {
    /// A client of the server with this URL, which sends this token.
    #[must_use]
    pub fn new(url: &str, token: Option<String>) -> Self {
        // Another test may have installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(120)).build().expect("a client");
        Self { http, url: url.to_owned(), token }
    }

    /// The server's URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same client with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// Sends a request and reads the whole answer. Every error must be a problem document.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        self.try_send(method, path, headers, body).await.unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    /// The same; an error when the server went away.
    pub async fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Result<Answer, reqwest::Error> {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.url) };
        let head = method == Method::HEAD;
        let mut request = self.http.request(method, url).body(body);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let answer = Answer { status, headers, body: response.bytes().await?.to_vec() };
        if status >= 400 && !head {
            let problem = answer.json();
            assert_eq!(problem["status"], json!(status), "{path}: {problem}");
            assert!(problem["type"].is_string() && problem["title"].is_string(), "{path}: {problem}");
        }
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        Ok(answer)
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], "").await
    }

    /// Executes with this body and these headers.
    pub async fn execute(&self, process: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.send(Method::POST, &format!("/processes/{process}/execution"), &all, body.to_string()).await
    }

    /// Executes asynchronously: the job's id.
    pub async fn submit(&self, process: &str, inputs: &Value) -> String {
        let answer =
            self.execute(process, &json!({ "inputs": inputs }), &[("prefer", "respond-async")]).await.expect(201);
        let id = answer.json()["jobID"].as_str().expect("a job id").to_owned();
        assert!(answer.header("location").ends_with(&format!("/jobs/{id}")), "{:?}", answer.headers);
        id
    }

    /// The job's status document.
    pub async fn job(&self, id: &str) -> Value {
        self.get(&format!("/jobs/{id}")).await.expect(200).json()
    }

    /// Waits until the job has this status.
    pub async fn reaches(&self, id: &str, status: &str) -> Value {
        until(&format!("job {id} to be {status}"), JOB_ENDS_WITHIN, || async {
            let job = self.job(id).await;
            (job["status"] == status).then_some(job)
        })
        .await
    }

    /// Waits until the job has ended: its status document.
    pub async fn ended(&self, id: &str) -> Value {
        until(&format!("job {id} to end"), JOB_ENDS_WITHIN, || async {
            let job = self.job(id).await;
            matches!(job["status"].as_str(), Some("successful" | "failed" | "dismissed")).then_some(job)
        })
        .await
    }

    /// Waits until a process is offered, or not any more.
    pub async fn offered(&self, process: &str, yes: bool) {
        until(&format!("{process} offered = {yes}"), Duration::from_secs(20), || async {
            let status = self.get(&format!("/processes/{process}")).await.status;
            ((status == 200) == yes).then_some(())
        })
        .await;
    }
}
