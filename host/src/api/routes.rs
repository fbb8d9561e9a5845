//! Every route on one screen.

use axum::Router;
use axum::handler::Handler as _;
use axum::routing::{MethodRouter, get, post};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, LINK, LOCATION, RANGE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::layer::{Care, Edge, REQUEST_ID};
use super::problem::Problem;
use super::{ApiState, execution, health, jobs, landing, logs, processes, results};

/// The whole API. `GET` routes answer `HEAD` too.
pub fn router(state: ApiState) -> Router {
    use Care::{Probe, Usual, Waits};
    Table::new(state)
        .at("/", Usual, get(landing::landing))
        .at("/conformance", Usual, get(landing::conformance))
        .at("/processes", Usual, get(processes::list))
        .at("/processes/{process}", Usual, get(processes::one))
        .at("/processes/{process}/execution", Waits, post(execution::execute))
        .at("/jobs", Usual, get(jobs::list))
        .at("/jobs/{job}", Usual, get(jobs::one).delete(jobs::dismiss))
        .at("/jobs/{job}/results", Usual, get(results::all))
        .at("/jobs/{job}/results/{output}", Usual, get(results::one))
        .at("/jobs/{job}/logs", Usual, get(logs::log))
        .at("/jobs/{job}/receipt", Usual, get(jobs::receipt))
        .at("/admin/processes", Usual, get(processes::reports))
        .at("/healthz", Probe, get(health::alive))
        .at("/readyz", Probe, get(health::ready))
        .at("/metrics", Probe, get(health::metrics))
        .finish()
}

/// A router that puts the edge before each route.
struct Table {
    state: ApiState,
    cors: Option<CorsLayer>,
    router: Router<ApiState>,
}

impl Table {
    fn new(state: ApiState) -> Self {
        let cors = cors(&state.settings().cors_origins);
        Self { state, cors, router: Router::new() }
    }

    fn guard(&self, pattern: &'static str, care: Care, methods: MethodRouter<ApiState>) -> MethodRouter<ApiState> {
        let methods = match &self.cors {
            Some(cors) => methods.layer(cors.clone()),
            None => methods,
        };
        methods.layer(Edge::new(&self.state, pattern, care))
    }

    fn at(mut self, pattern: &'static str, care: Care, methods: MethodRouter<ApiState>) -> Self {
        let guarded = self.guard(pattern, care, methods);
        self.router = self.router.route(pattern, guarded);
        self
    }

    fn finish(self) -> Router {
        let nothing = Edge::new(&self.state, "none", Care::Usual);
        self.router.fallback(nothing_here.layer(nothing)).with_state(self.state)
    }
}

async fn nothing_here() -> Problem {
    Problem::of_status(StatusCode::NOT_FOUND)
}

/// Lets pages of these origins call the API.
fn cors(origins: &[String]) -> Option<CorsLayer> {
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
