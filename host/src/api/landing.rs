//! `/` and `/conformance`: what there is, and which parts of the standard hold.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::access::Caller;
use super::links::{Base, Link, REL_CONFORMANCE, REL_JOB_LIST, REL_PROCESSES};
use super::negotiate::AnswerJson;
use super::problem::Problem;
use super::{ApiState, json_answer};

/// The conformance classes that hold.
const CLASSES: [&str; 7] = [
    "http://www.opengis.net/spec/ogcapi-common-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-common-1/1.0/conf/json",
    "http://www.opengis.net/spec/ogcapi-processes-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-processes-1/1.0/conf/ogc-process-description",
    "http://www.opengis.net/spec/ogcapi-processes-1/1.0/conf/json",
    "http://www.opengis.net/spec/ogcapi-processes-1/1.0/conf/job-list",
    "http://www.opengis.net/spec/ogcapi-processes-1/1.0/conf/dismiss",
];

/// `GET /` (`landingPage.yaml`).
pub(super) async fn landing(
    State(state): State<ApiState>,
    _: Caller,
    base: Base,
    _: AnswerJson,
) -> Result<Response, Problem> {
    let links = [
        Link::json("self", base.path("/"), "This document"),
        Link::json(REL_CONFORMANCE, base.path("/conformance"), "Conformance classes"),
        Link::json(REL_PROCESSES, base.path("/processes"), "Processes"),
        Link::json(REL_JOB_LIST, base.path("/jobs"), "Jobs"),
    ];
    let mut page = json!({ "title": state.settings().title, "links": links });
    if let (Some(page), Some(text)) = (page.as_object_mut(), &state.settings().description) {
        page.insert("description".to_owned(), Value::from(text.as_str()));
    }
    json_answer(StatusCode::OK, &page)
}

/// `GET /conformance` (`confClasses.yaml`).
pub(super) async fn conformance(_: Caller, _: AnswerJson) -> Result<Response, Problem> {
    json_answer(StatusCode::OK, &json!({ "conformsTo": CLASSES }))
}
