//! Every route on one screen.

use axum::Router;
use axum::handler::Handler as _;
use axum::routing::{MethodRouter, get, post};
use http::StatusCode;

use super::layer::{Care, Edge};
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
    router: Router<ApiState>,
}

impl Table {
    fn new(state: ApiState) -> Self {
        Self { state, router: Router::new() }
    }

    fn at(mut self, pattern: &'static str, care: Care, methods: MethodRouter<ApiState>) -> Self {
        let edge = Edge::new(&self.state, pattern, care);
        self.router = self.router.route(pattern, methods.layer(edge));
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
