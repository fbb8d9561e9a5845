//! A proxy in front of the API server that notes every call; on request all of them are made in another identity.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The most that a request may carry: more than the API server takes.
const LARGEST_BODY: usize = 8 << 20;

/// One call, in the words of a Role.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// `batch/jobs`, `/pods/log`: the group, a slash, the resource with its subresource.
    pub resource: String,
    /// `get`, `list`, `watch`, `create`, …
    pub verb: String,
    /// The status of the answer; 0 when there was none.
    pub status: u16,
}

/// A running proxy; it ends when dropped.
pub struct ApiProxy {
    address: SocketAddr,
    calls: Arc<Mutex<Vec<Call>>>,
    stop: CancellationToken,
}

#[derive(Clone)]
struct Upstream {
    client: kube::Client,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl ApiProxy {
    /// A proxy for the cluster that `KUBECONFIG` names; its calls are made by `identity`, or else by whom `KUBECONFIG` names.
    #[must_use]
    pub fn start(identity: Option<&str>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (calls, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
        let (kept, ended, identity) = (Arc::clone(&calls), stop.clone(), identity.map(str::to_owned));
        let (tell, told) = std::sync::mpsc::channel();
        // Of its own: a test whose runtime has one thread waits for a server that waits for this.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let mut config = kube::Config::infer().await.expect("KUBECONFIG names a cluster");
                config.auth_info.impersonate = identity;
                let client = kube::Client::try_from(config).expect("a client");
                let router = Router::new().fallback(pass_on).with_state(Upstream { client, calls: kept });
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                tell.send(listener.local_addr().expect("an address")).expect("it is waited for");
                tokio::select! {
                    served = axum::serve(listener, router).into_future() => served.expect("it serves"),
                    () = ended.cancelled() => {}
                }
            });
        });
        Self { address: told.recv().expect("the proxy listens"), calls, stop }
    }

    /// Writes a kubeconfig that leads here: its path.
    #[must_use]
    pub fn kubeconfig(&self, folder: &Path) -> PathBuf {
        let path = folder.join(format!("kubeconfig-{}", self.address.port()));
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{name: proxy, cluster: {{server: \"http://{}\"}}}}]\n\
             users: [{{name: nobody, user: {{}}}}]\ncontexts: [{{name: proxy, context: {{cluster: proxy, user: nobody}}}}]\n\
             current-context: proxy\n",
            self.address
        );
        std::fs::write(&path, text).expect("a kubeconfig");
        path
    }

    /// The calls that were answered so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn pass_on(State(upstream): State<Upstream>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let call = called(&head.method, &head.uri);
    let answer = async {
        let body = to_bytes(body, LARGEST_BODY).await.map_err(|error| error.to_string())?.to_vec();
        let mut passed = axum::http::Request::builder().method(head.method).uri(head.uri);
        for name in [ACCEPT, CONTENT_TYPE] {
            if let Some(value) = head.headers.get(&name) {
                passed = passed.header(name, value);
            }
        }
        let passed = passed.body(kube::client::Body::from(body)).map_err(|error| error.to_string())?;
        upstream.client.send(passed).await.map_err(|error| error.to_string())
    };
    let answer = answer.await;
    let status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
    upstream.calls.lock().unwrap_or_else(PoisonError::into_inner).push(Call { status, ..call });
    match answer {
        Ok(answer) => {
            let (head, body) = answer.into_parts();
            let mut passed = Response::new(Body::new(body));
            *passed.status_mut() = head.status;
            if let Some(kind) = head.headers.get(CONTENT_TYPE) {
                passed.headers_mut().insert(CONTENT_TYPE, kind.clone());
            }
            passed
        }
        Err(error) => {
            let mut failed = Response::new(Body::from(error));
            *failed.status_mut() = StatusCode::BAD_GATEWAY;
            failed
        }
    }
}

/// What is called, as the API server's authorizer sees it.
fn called(method: &Method, uri: &Uri) -> Call {
    let path: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
    let (group, rest) = match path.as_slice() {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        _ => ("", path.as_slice()),
    };
    let rest = match rest {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    let (resource, named) = match rest {
        [resource] => ((*resource).to_owned(), false),
        [resource, _] => ((*resource).to_owned(), true),
        [resource, _, subresource, ..] => (format!("{resource}/{subresource}"), true),
        [] => (String::new(), false),
    };
    let watches = uri.query().is_some_and(|query| query.split('&').any(|one| one == "watch=true" || one == "watch=1"));
    let verb = match (method.as_str(), named) {
        ("GET" | "HEAD", true) => "get",
        ("GET" | "HEAD", false) if watches => "watch",
        ("GET" | "HEAD", false) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        (other, _) => other,
    };
    Call { resource: format!("{group}/{resource}"), verb: verb.to_owned(), status: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_the_names_that_roles_have() {
        for (method, target, resource, verb) in [
            (Method::POST, "/apis/batch/v1/namespaces/n/jobs?fieldValidation=Strict", "batch/jobs", "create"),
            (Method::GET, "/api/v1/namespaces/n/pods?watch=true&labelSelector=a", "/pods", "watch"),
            (Method::GET, "/api/v1/namespaces/n/pods?limit=500", "/pods", "list"),
            (Method::GET, "/api/v1/namespaces/n/pods/p/log?container=c", "/pods/log", "get"),
            (Method::DELETE, "/api/v1/namespaces/n/pods/p", "/pods", "delete"),
            (Method::DELETE, "/api/v1/namespaces/n/pods", "/pods", "deletecollection"),
            (Method::GET, "/api/v1/namespaces/n", "/namespaces", "get"),
        ] {
            let call = called(&method, &target.parse().unwrap());
            assert_eq!((call.resource.as_str(), call.verb.as_str()), (resource, verb), "{method} {target}");
        }
    }
}
