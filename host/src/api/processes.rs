//! `/processes`: the list and the descriptions, written once a generation and base URL and then answered as they are.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::access::{Caller, require};
use super::links::{self, Base, Link, REL_EXECUTE, REL_PROCESSES};
use super::negotiate::AnswerJson;
use super::problem::{INTERNAL, NO_SUCH_PROCESS, Problem};
use super::query::{Path, Query};
use super::{ApiState, cursor, json_answer, ranges};
use crate::core::Role;
use crate::jobs::{Offered, OfferedProcess};

/// How many base URLs are kept written: clients choose the `Host`, so there must be an end to it.
const MAX_BASES: usize = 8;

/// What was written of the present generation.
pub(super) struct Cache(ArcSwap<Vec<Arc<Written>>>);

impl Default for Cache {
    fn default() -> Self {
        Self(ArcSwap::from_pointee(Vec::new()))
    }
}

/// The documents of one generation under one base URL, each written when it is first asked for.
struct Written {
    offered: Arc<Offered>,
    /// The host that the base is made from; empty for a fixed base.
    host: String,
    base: Base,
    /// The first page of the default size.
    list: OnceLock<Document>,
    /// In the order of `offered.processes`.
    descriptions: Vec<OnceLock<Document>>,
}

/// An answer that is ready.
#[derive(Clone)]
struct Document {
    bytes: Bytes,
    etag: HeaderValue,
}

impl Cache {
    fn get(&self, state: &ApiState, parts: &Parts) -> Result<Arc<Written>, Problem> {
        let offered = state.jobs().offered();
        let fixed = state.fixed_base();
        let host = if fixed.is_some() { "" } else { links::host(&parts.headers, &parts.uri, parts.version)? };
        let current = |held: &&Arc<Written>| held.offered.generation == offered.generation;
        let held = self.0.load();
        if let Some(found) = held.iter().filter(current).find(|held| held.host == host) {
            return Ok(Arc::clone(found));
        }
        let base = Base(fixed.map_or_else(|| format!("http://{host}"), str::to_owned));
        let descriptions = offered.processes.iter().map(|_| OnceLock::new()).collect();
        let written = Arc::new(Written { offered, host: host.to_owned(), base, list: OnceLock::new(), descriptions });
        // A lost race costs one more writing. A full cache forgets its oldest base.
        let mut next: Vec<_> =
            held.iter().filter(|held| held.offered.generation == written.offered.generation).cloned().collect();
        if next.len() >= MAX_BASES {
            next.remove(0);
        }
        next.push(Arc::clone(&written));
        self.0.store(Arc::new(next));
        Ok(written)
    }
}

/// `GET /processes` (`processList.yaml`).
pub(super) async fn list(
    State(state): State<ApiState>,
    Caller(caller): Caller,
    _: AnswerJson,
    request: Request,
) -> Result<Response, Problem> {
    require(&caller, &[Role::Read])?;
    let (parts, _) = request.into_parts();
    let written = state.offered().get(&state, &parts)?;
    if let Some(document) = written.list.get().filter(|_| parts.uri.query().is_none()) {
        return Ok(answer(document, &parts));
    }
    let query = parts.uri.query().map_or_else(|| Ok(Query::default()), Query::parse)?;
    query.only(&["limit", cursor::NAME])?;
    let limit = query.limit(state.settings().default_page_limit, state.settings().max_page_limit)?;
    let after = query.one(cursor::NAME)?.map(cursor::process).transpose()?;
    let processes = &written.offered.processes;
    let start = after.as_ref().map_or(0, |after| processes.partition_point(|process| process.description.id <= *after));
    let page = processes.iter().skip(start).take(limit as usize);
    let mut page_links = vec![Link::json("self", written.base.query("/processes", query.all()), "This document")];
    if let Some(last) = page.clone().next_back().filter(|_| processes.len() > start.saturating_add(limit as usize)) {
        let cursor = cursor::of_process(&last.description.id);
        let parameters = query.without(cursor::NAME).chain([(cursor::NAME, cursor.as_str())]);
        page_links.push(Link::json("next", written.base.query("/processes", parameters), "The next page"));
    }
    let summaries: Vec<Value> = page.map(|process| summary(process, &written.base)).collect();
    let document = Document::write(&json!({ "processes": summaries, "links": page_links }))?;
    if parts.uri.query().is_none() {
        let _ = written.list.set(document.clone());
    }
    Ok(answer(&document, &parts))
}

/// `GET /processes/{process}` (`process.yaml`).
pub(super) async fn one(
    State(state): State<ApiState>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    _: AnswerJson,
    request: Request,
) -> Result<Response, Problem> {
    require(&caller, &[Role::Read])?;
    let (parts, _) = request.into_parts();
    let written = state.offered().get(&state, &parts)?;
    let processes = &written.offered.processes;
    let found = processes.binary_search_by(|process| process.description.id.as_str().cmp(&id)).ok();
    let entry = found.and_then(|at| processes.get(at).zip(written.descriptions.get(at)));
    let Some((process, slot)) = entry else { return Err(no_such_process(&id)) };
    if let Some(document) = slot.get() {
        return Ok(answer(document, &parts));
    }
    let document = Document::write(&full(process, &written.base))?;
    let _ = slot.set(document.clone());
    Ok(answer(&document, &parts))
}

/// `GET /admin/processes`: what is configured, with the reasons for what is not offered.
pub(super) async fn reports(
    State(state): State<ApiState>,
    Caller(caller): Caller,
    _: AnswerJson,
) -> Result<Response, Problem> {
    require(&caller, &[Role::Deploy, Role::Admin])?;
    json_answer(StatusCode::OK, &json!({ "processes": &*state.jobs().reports(&caller)? }))
}

/// The answer for an id that no process has.
pub(super) fn no_such_process(id: &str) -> Problem {
    let shown: String = id.chars().take(80).collect();
    Problem::new(NO_SUCH_PROCESS, format!("there is no process '{shown}'"))
}

fn answer(document: &Document, parts: &Parts) -> Response {
    if ranges::is_known(&parts.headers, &document.etag) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response.headers_mut().insert(ETAG, document.etag.clone());
        return response;
    }
    let mut response = Response::new(Body::from(document.bytes.clone()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(links::JSON));
    headers.insert(ETAG, document.etag.clone());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

impl Document {
    fn write(value: &Value) -> Result<Self, Problem> {
        let broken = |error| Problem::new(INTERNAL, "the answer could not be written as JSON").caused_by(error);
        let bytes = Bytes::from(serde_json::to_vec(value).map_err(broken)?);
        let etag = ranges::etag(&crate::core::Digest::of(&bytes).hex());
        Ok(Self { bytes, etag })
    }
}

/// The summary, with a link to the description.
fn summary(process: &OfferedProcess, base: &Base) -> Value {
    let own = [Link::json("self", base.process(process.description.id.as_str()), "Process description")];
    with_links(process.description.summary(), &own)
}

/// The description, with our links before those that the processor gave it.
fn full(process: &OfferedProcess, base: &Base) -> Value {
    let id = process.description.id.as_str();
    let own = [
        Link::json("self", base.process(id), "This document"),
        Link {
            media_type: None,
            ..Link::json(REL_EXECUTE, format!("{}/execution", base.process(id)), "Execute it (POST)")
        },
        Link::json(REL_PROCESSES, base.path("/processes"), "All processes"),
    ];
    with_links(process.description.document(), &own)
}

fn with_links(mut document: Value, own: &[Link]) -> Value {
    if let Some(members) = document.as_object_mut() {
        let given = members.remove("links");
        let given = given.as_ref().and_then(Value::as_array).into_iter().flatten().cloned();
        let links: Vec<Value> = own.iter().map(|link| json!(link)).chain(given).collect();
        members.insert("links".to_owned(), Value::Array(links));
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_the_processor_come_behind_ours() {
        let own = [Link::json("self", "http://h/processes/a".into(), "t")];
        let document = with_links(json!({"id": "a", "links": [{"href": "http://x"}]}), &own);
        assert_eq!(document["links"][0]["href"], "http://h/processes/a");
        assert_eq!(document["links"][1], json!({"href": "http://x"}));
        assert_eq!(document["id"], "a");
    }

    #[test]
    fn equal_documents_have_equal_tags() {
        let (one, other) = (Document::write(&json!({"a": 1})).unwrap(), Document::write(&json!({"a": 2})).unwrap());
        assert_eq!(one.etag, Document::write(&json!({"a": 1})).unwrap().etag);
        assert_ne!(one.etag, other.etag);
    }
}
