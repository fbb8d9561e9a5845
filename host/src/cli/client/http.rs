//! Speaking to a server: requests with a token and a deadline, problem documents as errors.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

use crate::cli::output::Failure;

/// How long a server may take to begin an answer. Logs and results may then take as long as they need.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);

/// Which server, as whom.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ServerArgs {
    /// URL of the server
    #[arg(long, env = "VESPIARY_URL", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    server: String,
    /// Token to show
    #[arg(long, env = "VESPIARY_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    token: Option<String>,
}

/// What a server said no to, or a server that said nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("cannot reach {url}: is the server running, and is --server right?")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{url} did not answer within {} s", ANSWER_WITHIN.as_secs())]
    Late { url: String },
    #[error("{status} {detail}{}", .violations.iter().map(|one| format!("\n  {one}")).collect::<String>())]
    Refused { status: u16, detail: String, violations: Vec<String> },
    #[error("the server's answer cannot be read")]
    Unreadable(#[source] reqwest::Error),
    #[error("the command line is wrong: {0}")]
    Usage(String),
}

/// A client of one server.
pub(crate) struct Client {
    http: reqwest::Client,
    server: String,
    token: Option<String>,
}

impl ServerArgs {
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        // Most often a variable that another command did not fill.
        if self.token.as_ref().is_some_and(|token| token.trim().is_empty()) {
            let why = "--token (or VESPIARY_TOKEN) is empty: set it, or unset it to ask without one";
            return Err(ClientError::Usage(why.to_owned()).into());
        }
        let http = reqwest::Client::builder().connect_timeout(Duration::from_secs(10)).build()?;
        Ok(Client { http, server: self.server.trim_end_matches('/').to_owned(), token: self.token.clone() })
    }
}

impl Client {
    /// A request to a path of the server, with the segments encoded.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> Result<RequestBuilder, ClientError> {
        let wrong = |why: String| ClientError::Usage(format!("--server {}: {why}", self.server));
        let mut url = url::Url::parse(&self.server).map_err(|error| wrong(error.to_string()))?;
        url.path_segments_mut().map_err(|()| wrong("not an http URL".to_owned()))?.pop_if_empty().extend(segments);
        let request = self.http.request(method, url);
        Ok(match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    /// Sends it. An answer that is not a success is an error with what the problem document says.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let sent = tokio::time::timeout(ANSWER_WITHIN, request.send()).await;
        let response = match sent {
            Err(_) => return Err(ClientError::Late { url: self.server.clone() }),
            Ok(Err(source)) => return Err(ClientError::Unreachable { url: self.server.clone(), source }),
            Ok(Ok(response)) => response,
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let problem: Value = response.json().await.unwrap_or_default();
        let text = |key: &str| problem.get(key).and_then(Value::as_str).map(str::to_owned);
        let detail = text("detail").or_else(|| text("title")).unwrap_or_else(|| "the server gave no reason".to_owned());
        let violations = problem.get("violations").and_then(Value::as_array).into_iter().flatten();
        let violations = violations
            .map(|one| {
                let part = |key: &str| one.get(key).and_then(Value::as_str).unwrap_or_default();
                format!("{}: {}", part("pointer"), part("message"))
            })
            .collect();
        Err(ClientError::Refused { status, detail, violations })
    }

    /// A GET that answers JSON.
    pub(crate) async fn get(&self, segments: &[&str], query: &[(&str, String)]) -> Result<Value, ClientError> {
        let request = self.request(Method::GET, segments)?.query(query).header("accept", "application/json");
        self.send(request).await?.json().await.map_err(ClientError::Unreadable)
    }
}

/// Runs a command's requests.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
