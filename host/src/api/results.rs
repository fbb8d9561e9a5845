//! A job's results: one raw value, several in `multipart/related`, one JSON document, or links (OGC API - Processes 1.0, 7.11.4
//! and 7.13).
//!
//! `response` of the execute request decides the form, `f=json` asks for the document in its place. What a job printed never
//! becomes a page of this origin: every answer with a job's bytes is sandboxed.

use async_stream::try_stream;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use futures::StreamExt as _;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, HeaderMap, LINK, LOCATION,
};
use http::{HeaderValue, Method, StatusCode};
use uuid::Uuid;

use super::access::Asking;
use super::document;
use super::links::{Base, REL_RESULTS};
use super::multipart::{Frame, PartHead};
use super::problem::{NO_SUCH_OUTPUT, Problem, RESULT_NOT_AVAILABLE, chain};
use super::query::{Path, Query};
use super::{ApiState, json_response, negotiate, ranges, written};
use crate::core::job::StoredRequest;
use crate::core::request::TransmissionMode;
use crate::core::{JobId, OutputBody, OutputRecord, ResponseMode};
use crate::jobs::{ByteBody, Error, Results};

/// How the client wants the results beyond what the execute request says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wish {
    /// `f=json`: the document, whatever `response` was.
    pub(super) document: bool,
}

/// `GET /jobs/{job}/results`.
pub(super) async fn all(
    State(state): State<ApiState>,
    asking: Asking,
    Path(id): Path<String>,
    base: Base,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    query.only(&[])?;
    let wish = Wish { document: negotiate::format(&query)? };
    let results = state.jobs().results(asking.asker(), &id).await?;
    answer(&state, results, &base, &headers, wish).await
}

/// `GET /jobs/{job}/results/{output}`: one value. It is what references link to.
pub(super) async fn one(
    State(state): State<ApiState>,
    asking: Asking,
    Path((id, output)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let results = state.jobs().results(asking.asker(), &id).await?;
    let Some(found) = results.outputs.iter().find(|held| held.id == output) else {
        let shown: String = output.chars().take(80).collect();
        // One that was declared got no value, or was left out of the request.
        let kind = if declares(&results.request, &output) { RESULT_NOT_AVAILABLE } else { NO_SUCH_OUTPUT };
        return Err(Problem::new(kind, format!("job {} has no output '{shown}'", results.job.id)));
    };
    // The signature is for GET alone.
    if method == Method::GET && !ranges::is_known(&headers, &ranges::etag(&found.sha256)) {
        let name = format!("{}-{}", results.job.id, found.id);
        if let Some(address) = state.jobs().output_address(found, &name).await? {
            return elsewhere(&address);
        }
    }
    value(&state, results.job.id, found, &headers).await
}

/// Whether the process had this output when the job was accepted. One that declared none has one, called `result`.
fn declares(request: &StoredRequest, output: &str) -> bool {
    match request.declared.as_object().filter(|declared| !declared.is_empty()) {
        Some(declared) => declared.contains_key(output),
        None => output == "result",
    }
}

/// Sends the client to where the bytes are. The address is good for this moment and this client: nobody keeps the answer.
fn elsewhere(address: &str) -> Result<Response, Problem> {
    let location = HeaderValue::from_str(address)
        .map_err(|_| Problem::new(RESULT_NOT_AVAILABLE, "the archive's address cannot stand in a header".to_owned()))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(LOCATION, location);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The answer with a successful job's results.
pub(super) async fn answer(
    state: &ApiState,
    results: Results,
    base: &Base,
    headers: &HeaderMap,
    wish: Wish,
) -> Result<Response, Problem> {
    let Results { job, request, outputs } = results;
    let by_reference = |output: &OutputRecord| request.outputs.mode(&output.id) == TransmissionMode::Reference;
    if wish.document || request.response == ResponseMode::Document {
        let by_value = outputs.iter().filter(|output| !by_reference(output)).map(|output| output.size);
        let size = by_value.fold(0, u64::saturating_add).min(state.settings().max_document_bytes());
        let room = state.memory().room(size).await?;
        let document = document::write(state, job.id, &request, &outputs, base).await?;
        return Ok(sandboxed(json_response(StatusCode::OK, room.around(written(&document)?))));
    }
    if outputs.iter().all(by_reference) {
        return Ok(references(job.id, &outputs, base));
    }
    let asked = request.outputs.0.as_ref().map_or(outputs.len(), std::collections::BTreeMap::len);
    match outputs.as_slice() {
        [single] if asked <= 1 => value(state, job.id, single, headers).await,
        _ => {
            let parts = outputs.into_iter().map(|output| {
                let location = by_reference(&output).then(|| base.output(job.id, &output.id));
                (output, location)
            });
            Ok(several(state, job.id, parts.collect()))
        }
    }
}

/// 204 with a link an output; without outputs, just 204.
fn references(id: JobId, outputs: &[OutputRecord], base: &Base) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    for output in outputs {
        let media_type: String =
            output.media_type.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')).collect();
        let link = format!("<{}>; rel=\"{REL_RESULTS}\"; type=\"{media_type}\"", base.output(id, &output.id));
        if let Ok(link) = HeaderValue::from_str(&link) {
            response.headers_mut().append(LINK, link);
        }
    }
    response
}

/// One value as it is, whole or a range of it.
async fn value(state: &ApiState, id: JobId, output: &OutputRecord, headers: &HeaderMap) -> Result<Response, Problem> {
    let etag = ranges::etag(&output.sha256);
    if ranges::is_known(headers, &etag) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response.headers_mut().insert(ETAG, etag);
        return Ok(response);
    }
    let mut response = match (ranges::asked(headers, Some(&etag)), &output.body) {
        (None, OutputBody::Inline(bytes)) => Response::new(Body::from(bytes.clone())),
        (range, _) => bytes_answer(state.jobs().output_body(output, range).await?, range.is_some()),
    };
    let media_type = HeaderValue::from_str(&output.media_type).ok().filter(|value| !value.is_empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, media_type.unwrap_or(HeaderValue::from_static("application/octet-stream")));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(ETAG, etag);
    headers.insert(CONTENT_DISPOSITION, disposition(&format!("{id}-{}", output.id), &output.media_type));
    Ok(sandboxed(response))
}

/// Several values, one part each.
fn several(state: &ApiState, id: JobId, parts: Vec<(OutputRecord, Option<String>)>) -> Response {
    let heads: Vec<PartHead> = parts
        .iter()
        .map(|(output, location)| PartHead {
            content_id: output.id.clone(),
            media_type: output.media_type.clone(),
            location: location.clone(),
            size: if location.is_some() { 0 } else { output.size },
        })
        .collect();
    let frame = Frame::new(format!("vespiary-{}", Uuid::now_v7().simple()), &heads);
    let (content_type, length) = (frame.content_type(), frame.length());
    let jobs = std::sync::Arc::clone(state.jobs());
    let stream = try_stream! {
        for (head, (output, location)) in frame.heads.into_iter().zip(parts) {
            yield head;
            match (location, output.body.clone()) {
                (Some(_), _) => {}
                (None, OutputBody::Inline(bytes)) => yield bytes,
                (None, OutputBody::Archived { .. }) => {
                    let mut body = jobs.output_body(&output, None).await?.body;
                    while let Some(bytes) = body.next().await {
                        yield bytes?;
                    }
                }
            }
        }
        yield frame.end;
    };
    let mut response = Response::new(Body::from_stream(logged(stream)));
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&content_type) {
        headers.insert(CONTENT_TYPE, value);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CONTENT_DISPOSITION, disposition(&id.to_string(), "multipart/related"));
    sandboxed(response)
}

/// Bytes as an answer: 206 for a range whose place is known, otherwise 200.
pub(super) fn bytes_answer(body: ByteBody, ranged: bool) -> Response {
    let ByteBody { size, first, length, body } = body;
    let mut response = Response::new(Body::from_stream(logged(body)));
    if let Some(length) = length {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if let Some(last) = length.and_then(|length| first.checked_add(length)?.checked_sub(1)).filter(|_| ranged) {
        let whole = size.map_or_else(|| "*".to_owned(), |size| size.to_string());
        if let Ok(range) = HeaderValue::from_str(&format!("bytes {first}-{last}/{whole}")) {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            response.headers_mut().insert(CONTENT_RANGE, range);
        }
    }
    response
}

/// A stream whose failure is logged where it happens: its answer has begun and cannot become a problem document.
fn logged<B>(stream: impl futures::Stream<Item = Result<B, Error>>) -> impl futures::Stream<Item = Result<B, Error>> {
    stream.inspect(|item| {
        if let Err(error) = item {
            tracing::error!(cause = chain(error), "an answer was cut off: its bytes could not be read to the end");
        }
    })
}

/// Keeps what a job printed from running as a page of this origin.
pub(super) fn sandboxed(mut response: Response) -> Response {
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    response
}

/// `inline` for what browsers show without running it, `attachment` for the rest; with a file name of harmless characters.
pub(super) fn disposition(name: &str, media_type: &str) -> HeaderValue {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let shown = matches!(
        essence.as_str(),
        "application/json" | "text/plain" | "text/csv" | "image/png" | "image/jpeg" | "image/webp"
    );
    let extension = match essence.as_str() {
        "application/json" => ".json",
        "text/plain" => ".txt",
        "text/csv" => ".csv",
        "text/html" => ".html",
        "image/png" => ".png",
        "image/jpeg" => ".jpg",
        "application/geo+json" => ".geojson",
        "application/zip" => ".zip",
        "image/tiff" => ".tif",
        _ => "",
    };
    let harmless = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    let name: String = name.chars().take(120).map(harmless).collect();
    let kind = if shown { "inline" } else { "attachment" };
    HeaderValue::from_str(&format!("{kind}; filename=\"{name}{extension}\""))
        .unwrap_or(HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn body(size: Option<u64>, first: u64, length: Option<u64>) -> ByteBody {
        ByteBody { size, first, length, body: futures::stream::iter([Ok(Bytes::from_static(b"abc"))]).boxed() }
    }

    #[test]
    fn a_range_is_partial_only_where_its_place_is_known() {
        let of = |body, ranged| {
            let response = bytes_answer(body, ranged);
            let range = response.headers().get(CONTENT_RANGE).map(|value| value.to_str().unwrap().to_owned());
            (response.status().as_u16(), range)
        };
        assert_eq!(of(body(Some(9), 2, Some(3)), true), (206, Some("bytes 2-4/9".to_owned())));
        assert_eq!(of(body(None, 2, Some(3)), true), (206, Some("bytes 2-4/*".to_owned())));
        assert_eq!(of(body(Some(3), 0, Some(3)), false), (200, None));
        assert_eq!(of(body(None, 0, None), false), (200, None));
    }

    #[test]
    fn html_is_a_download_and_names_are_harmless() {
        assert_eq!(disposition("a\"b/c", "text/html"), "attachment; filename=\"a_b_c.html\"");
        assert_eq!(disposition("a", "Text/Plain; charset=x"), "inline; filename=\"a.txt\"");
        assert_eq!(disposition("ä", "image/svg+xml"), "attachment; filename=\"_\"");
    }

    fn output(id: &str) -> OutputRecord {
        let bytes = Bytes::from(format!("{id},1\n"));
        let sha256 = crate::core::Digest::of(&bytes).hex();
        OutputRecord {
            id: id.into(),
            media_type: "text/csv".into(),
            size: bytes.len() as u64,
            sha256,
            body: OutputBody::Inline(bytes),
        }
    }

    /// The answer for these outputs of a request: status, media type, links, body.
    async fn answered(request: serde_json::Value, outputs: &[&str], document: bool) -> (u16, String, usize, String) {
        let state = crate::api::tests::state(crate::api::Settings::default());
        let results = Results {
            job: crate::api::status_info::sample(crate::core::JobStatus::Successful),
            request: serde_json::from_value(request).unwrap(),
            outputs: outputs.iter().map(|id| output(id)).collect(),
        };
        let base = Base("http://h".to_owned());
        let response = answer(&state, results, &base, &HeaderMap::new(), Wish { document }).await.unwrap();
        let (head, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        if let Some(length) = head.headers.get(CONTENT_LENGTH) {
            assert_eq!(length.to_str().unwrap(), body.len().to_string());
        }
        assert!(head.status == 204 || head.headers.contains_key(CONTENT_SECURITY_POLICY));
        let media_type = head.headers.get(CONTENT_TYPE).map_or("", |value| value.to_str().unwrap());
        let links = head.headers.get_all(LINK).iter().count();
        (head.status.as_u16(), media_type.to_owned(), links, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_table_of_the_standard() {
        use serde_json::json;
        let ask = |response: &str, outputs: serde_json::Value| json!({"inputs": {}, "outputs": outputs, "response": response});
        let by = |mode: &str| json!({"transmissionMode": mode});
        let one = answered(ask("raw", json!({"a": {}})), &["a"], false).await;
        assert_eq!(one, (200, "text/csv".to_owned(), 0, "a,1\n".to_owned()));
        assert_eq!(answered(ask("raw", json!(null)), &["a"], false).await, one);
        assert_eq!(answered(ask("raw", json!(null)), &[], false).await.0, 204);

        let many = answered(ask("raw", json!(null)), &["a", "b"], false).await;
        assert!(many.1.starts_with("multipart/related; boundary=\"vespiary-"), "{many:?}");
        assert!(many.3.contains("Content-ID: b\r\nContent-Length: 4\r\n\r\nb,1\n\r\n--vespiary-"), "{many:?}");
        let single_part = answered(ask("raw", json!({"a": {}, "b": {}})), &["a"], false).await;
        assert!(single_part.1.starts_with("multipart/related"), "several were asked for: {single_part:?}");

        let links = answered(ask("raw", json!({"a": by("reference"), "b": by("reference")})), &["a", "b"], false).await;
        assert_eq!(links, (204, String::new(), 2, String::new()));
        let mixed = answered(ask("raw", json!({"a": by("value"), "b": by("reference")})), &["a", "b"], false).await;
        assert!(mixed.3.contains("\r\nContent-Location: http://h/jobs/"), "{mixed:?}");
        assert!(!mixed.3.contains("b,1"), "{mixed:?}");

        let document =
            answered(ask("document", json!({"a": by("value"), "b": by("reference")})), &["a", "b"], false).await;
        let read: serde_json::Value = serde_json::from_str(&document.3).unwrap();
        assert_eq!((document.0, document.1.as_str()), (200, "application/json"));
        assert_eq!(read["a"], json!({"value": "a,1\n", "mediaType": "text/csv"}));
        assert!(read["b"]["href"].as_str().unwrap().ends_with("/results/b"));
        assert_eq!(answered(ask("raw", json!({"a": {}})), &["a"], true).await.1, "application/json");
    }

    #[test]
    fn what_was_declared_is_known_whatever_was_asked_for() {
        let request = |declared: serde_json::Value, outputs: serde_json::Value| -> StoredRequest {
            let request =
                serde_json::json!({"inputs": {}, "response": "raw", "declared": declared, "outputs": outputs});
            serde_json::from_value(request).unwrap()
        };
        let some = serde_json::json!({"a": {}, "b": {}});
        for outputs in [serde_json::Value::Null, serde_json::json!({"a": {}})] {
            let with = request(some.clone(), outputs.clone());
            assert!(
                declares(&with, "a") && declares(&with, "b") && !declares(&with, "c") && !declares(&with, "result")
            );
            for none in [serde_json::json!({}), serde_json::Value::Null] {
                let without = request(none, outputs.clone());
                assert!(declares(&without, "result") && !declares(&without, "a"));
            }
        }
    }

    #[tokio::test]
    async fn a_known_value_is_not_sent_again() {
        let state = crate::api::tests::state(crate::api::Settings::default());
        let (id, output) = (JobId::new(), output("a"));
        let first = value(&state, id, &output, &HeaderMap::new()).await.unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(http::header::IF_NONE_MATCH, first.headers()[ETAG].clone());
        assert_eq!(value(&state, id, &output, &headers).await.unwrap().status(), 304);
    }

    #[test]
    fn references_are_links() {
        let id = JobId::new();
        let response = references(id, &[output("a"), output("b c")], &Base("http://h".to_owned()));
        let links: Vec<_> = response.headers().get_all(LINK).iter().map(|link| link.to_str().unwrap()).collect();
        assert_eq!(response.status(), 204);
        assert_eq!(links.len(), 2);
        assert_eq!(links[1], format!("<http://h/jobs/{id}/results/b%20c>; rel=\"{REL_RESULTS}\"; type=\"text/csv\""));
    }
}
