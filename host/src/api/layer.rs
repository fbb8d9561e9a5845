//! The edge: the one layer around every handler. It gives the request an id, sheds load, refuses what other people's pages send, bounds
//! time and header size, catches panics, counts, and turns every failure into a problem document with the headers that all answers have.

use std::any::Any;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use metrics::{Counter, Histogram};
use tower::{Layer, Service, ServiceExt as _};
use tower_http::cors::CorsLayer;
use uuid::Uuid;

use super::ApiState;
use super::negotiate;
use super::origin::cors;
use super::problem::{self, HEADERS_TOO_LARGE, INTERNAL, OVERLOADED, Occurrence, Problem, UNAVAILABLE, URI_TOO_LONG};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest path and query.
const MAX_URI_BYTES: usize = 16 * 1024;

/// What kind of route the edge stands before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Care {
    /// Bounded in time, and refused when too many requests are answered.
    Usual,
    /// May wait for a job beyond the usual time.
    Waits,
    /// Answered under any load: who asks wants to know how the server is.
    Probe,
}

/// The layer of one route.
#[derive(Clone)]
pub(super) struct Edge(Arc<Route>);

struct Route {
    state: ApiState,
    /// The route's pattern, for the metrics.
    pattern: &'static str,
    timeout: Duration,
    sheds: bool,
    cors: Option<CorsLayer>,
    /// The meters of the most frequent answer, looked up once.
    hot: OnceLock<(Counter, Histogram)>,
}

impl Edge {
    pub(super) fn new(state: &ApiState, pattern: &'static str, care: Care) -> Self {
        let settings = state.settings();
        // A body is received in one such span and answered in the next.
        let usual = settings.request_timeout().saturating_mul(2);
        let timeout = if care == Care::Waits { usual.saturating_add(settings.max_wait()) } else { usual };
        Self(Arc::new(Route {
            state: state.clone(),
            pattern,
            timeout,
            sheds: care != Care::Probe,
            cors: cors(&settings.cors_origins),
            hot: OnceLock::new(),
        }))
    }
}

impl<S> Layer<S> for Edge {
    type Service = EdgeService<S>;

    fn layer(&self, inner: S) -> EdgeService<S> {
        EdgeService { inner, edge: self.clone() }
    }
}

/// A route's handler behind its edge.
#[derive(Clone)]
pub(super) struct EdgeService<S> {
    inner: S,
    edge: Edge,
}

impl<S> Service<Request> for EdgeService<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Readiness of the handler is awaited in `call`, on the clone that is called.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let (inner, edge) = (self.inner.clone(), Arc::clone(&self.edge.0));
        Box::pin(async move { Ok(edge.answer(inner, request).await) })
    }
}

impl Route {
    async fn answer<S>(&self, inner: S, request: Request) -> Response
    where
        S: Service<Request, Response = Response, Error = Infallible> + Clone + Send,
        S::Future: Send,
    {
        let begun = Instant::now();
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let plain_json = negotiate::wants_plain_json(request.headers());
        let request_id = request_id(request.headers().get(REQUEST_ID));
        let mut response = match &self.cors {
            None => self.run(inner, request).await,
            // Around what is refused here too: a page must be able to read why.
            Some(cors) => {
                let run = move |request| {
                    let inner = inner.clone();
                    async move { Ok::<_, Infallible>(self.run(inner, request).await) }
                };
                match cors.layer(tower::service_fn(run)).oneshot(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            }
        };
        if response.status().is_client_error() || response.status().is_server_error() {
            let id = request_id.to_str().unwrap_or_default();
            let at = Occurrence { request_id: id, method: &method, path: uri.path(), plain_json };
            response = problem::finish(response, &at);
        }
        self.count(&method, response.status(), begun.elapsed());
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, request_id);
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        response
    }

    async fn run<S>(&self, inner: S, request: Request) -> Response
    where
        S: Service<Request, Response = Response, Error = Infallible> + Send,
        S::Future: Send,
    {
        let flight = Flight::begin(&self.state);
        if self.sheds && flight.number > self.state.settings().max_concurrent_requests as usize {
            return Problem::new(OVERLOADED, "the server answers as many requests as it can").into_response();
        }
        if let Err(problem) = self.bound(&request).and_then(|()| self.state.pages().check(&request)) {
            return problem.into_response();
        }
        let handled = AssertUnwindSafe(tokio::time::timeout(self.timeout, inner.oneshot(request))).catch_unwind();
        match handled.await {
            Ok(Ok(Ok(response))) => response,
            Ok(Ok(Err(never))) => match never {},
            Ok(Err(_)) => {
                let seconds = self.timeout.as_secs();
                Problem::new(UNAVAILABLE, format!("the request was not answered within {seconds} s")).into_response()
            }
            Err(panic) => Problem::new(INTERNAL, "the server failed; the log has the cause under this request's id")
                .caused_by(format!("panic: {}", words(&*panic)))
                .into_response(),
        }
    }

    /// Refuses heads that are larger than allowed.
    fn bound(&self, request: &Request) -> Result<(), Problem> {
        let settings = self.state.settings();
        if request.uri().path_and_query().is_some_and(|path| path.as_str().len() > MAX_URI_BYTES) {
            return Err(Problem::new(URI_TOO_LONG, format!("path and query have more than {MAX_URI_BYTES} bytes")));
        }
        let (number, limit) = (request.headers().len(), usize::from(settings.max_headers));
        if number > limit {
            return Err(Problem::new(
                HEADERS_TOO_LARGE,
                format!("the request has {number} header fields; at most {limit} are allowed"),
            ));
        }
        let bytes: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let limit = usize::from(settings.max_header_kib) * 1024;
        if bytes > limit {
            return Err(Problem::new(
                HEADERS_TOO_LARGE,
                format!("the header fields have {bytes} bytes; at most {limit} are allowed"),
            ));
        }
        Ok(())
    }

    fn count(&self, method: &Method, status: StatusCode, took: Duration) {
        let meters = |method: &'static str| {
            let labels = [
                ("route", self.pattern.to_owned()),
                ("method", method.to_owned()),
                ("status", status.as_str().to_owned()),
            ];
            (
                metrics::counter!("vespiary_http_requests_total", &labels),
                metrics::histogram!("vespiary_http_request_seconds", "route" => self.pattern, "method" => method),
            )
        };
        let looked_up;
        let (counter, histogram) = if method == Method::GET && status == StatusCode::OK {
            self.hot.get_or_init(|| meters("GET"))
        } else {
            looked_up = meters(method_label(method));
            &looked_up
        };
        counter.increment(1);
        histogram.record(took.as_secs_f64());
    }
}

/// A request that is being answered.
struct Flight<'a> {
    state: &'a ApiState,
    /// How many there are, with this one.
    number: usize,
}

impl<'a> Flight<'a> {
    fn begin(state: &'a ApiState) -> Self {
        let number = state.in_flight().fetch_add(1, Ordering::Relaxed) + 1;
        Self { state, number }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.state.in_flight().fetch_sub(1, Ordering::Relaxed);
    }
}

/// The client's request id if it is harmless in logs and headers, otherwise a new one.
fn request_id(sent: Option<&HeaderValue>) -> HeaderValue {
    let harmless = |value: &&HeaderValue| {
        let allowed = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
        (1..=64).contains(&value.len()) && value.as_bytes().iter().all(allowed)
    };
    sent.filter(harmless).cloned().unwrap_or_else(|| {
        let mut buffer = Uuid::encode_buffer();
        let text = Uuid::now_v7().hyphenated().encode_lower(&mut buffer);
        HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

/// A method as a label; what clients invent is one label, so that they cannot fill the registry.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_ids_are_taken_over() {
        let of = |text: &str| request_id(Some(&HeaderValue::from_str(text).unwrap())).to_str().unwrap().to_owned();
        assert_eq!(of("a-1.B_2"), "a-1.B_2");
        for other in ["", "a b", "<x>", &"x".repeat(65), "a\"b"] {
            assert_eq!(of(other).len(), 36, "{other}");
        }
        assert_ne!(request_id(None), request_id(None));
    }
}
