//! A fake API server under a real client: lists in pages, watches that a test feeds and cuts, logs. Nothing depends on the order of calls.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;

use bytes::Bytes;
use futures::channel::mpsc;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use kube::client::Body;

use super::*;
use crate::runner::kubernetes::{Settings, names};

type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;
type Feed = mpsc::UnboundedSender<Result<Frame<Bytes>, std::io::Error>>;

/// One kind of object.
#[derive(Default)]
struct Kind {
    objects: BTreeMap<String, Value>,
    watches: Vec<Feed>,
    lists: usize,
    /// Versions from which watches were asked for.
    asked_from: Vec<String>,
}

#[derive(Default)]
struct State {
    version: u64,
    kinds: BTreeMap<&'static str, Kind>,
    /// Codes that the next calls get instead of an answer.
    failures: VecDeque<u16>,
    /// The same, for all calls.
    broken: Option<u16>,
    /// Whether calls are left without an answer.
    hangs: bool,
    logs: BTreeMap<String, LogScript>,
    calls: Vec<String>,
}

/// What the log of a container is.
#[derive(Default, Clone)]
pub(super) struct LogScript {
    /// Answers to one read after another; the last one goes on for ever.
    pub(super) reads: VecDeque<LogAnswer>,
    /// The first line with its time.
    pub(super) first: String,
}

#[derive(Clone)]
pub(super) enum LogAnswer {
    Whole(&'static str),
    /// These bytes, then the connection breaks.
    Broken(&'static str),
    Refused(u16, &'static str),
    /// In one piece, as the kubelet sends what is no log.
    Excuse(&'static str),
}

#[derive(Clone, Default)]
pub(super) struct Fake {
    state: Arc<Mutex<State>>,
}

fn whole(code: u16, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never: Infallible| match never {});
    Response::builder().status(code).body(body.boxed_unsync()).unwrap()
}

fn failure(code: u16, message: &str) -> Answer {
    whole(
        code,
        &json!({ "kind": "Status", "status": "Failure", "code": code, "message": message,
        "reason": if code == 404 { "NotFound" } else { "Other" } }),
    )
}

fn stream() -> (Feed, Answer) {
    let (feed, pieces) = mpsc::unbounded();
    (feed, Response::new(StreamBody::new(pieces).boxed_unsync()))
}

fn line(kind: &str, object: &Value) -> Frame<Bytes> {
    Frame::data(Bytes::from(format!("{}\n", json!({ "type": kind, "object": object }))))
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn cluster(&self, watch_seconds: u32) -> Cluster {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move {
                if fake.state().hangs {
                    std::future::pending::<()>().await;
                }
                Ok::<_, Infallible>(fake.answer(&request))
            }
        });
        let settings = Settings { watch_seconds, deadline_ms: 1000, ..Settings::default() };
        Cluster {
            client: kube::Client::new(service, "here"),
            namespace: "here".to_owned(),
            names: names::Names::new(&settings.job_name_prefix),
            settings: Arc::new(settings),
        }
    }

    fn answer(&self, request: &Request<Body>) -> Answer {
        let path = request.uri().path().to_owned();
        let query: BTreeMap<String, String> =
            url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect();
        if path.ends_with("/selfsubjectaccessreviews") {
            return whole(201, &json!({ "spec": {}, "status": { "allowed": true } }));
        }
        let mut state = self.state();
        state.calls.push(format!("{} {path}", request.method()));
        let broken = state.broken;
        if let Some(code) = broken.or_else(|| state.failures.pop_front()) {
            return failure(code, "made up");
        }
        if path.ends_with("/log") {
            return Self::log(&mut state, &query);
        }
        if request.method() == http::Method::DELETE {
            return whole(200, &json!({ "kind": "Status", "status": "Success" }));
        }
        let kind = match path.rsplit('/').next() {
            Some("jobs") => "jobs",
            Some("pods") => "pods",
            Some("events") => "events",
            _ => return failure(404, "no such path"),
        };
        let version = state.version.to_string();
        let kind = state.kinds.entry(kind).or_default();
        if query.contains_key("watch") {
            assert_eq!(query["allowWatchBookmarks"], "true");
            kind.asked_from.push(query["resourceVersion"].clone());
            let (feed, answer) = stream();
            kind.watches.push(feed);
            return answer;
        }
        // Pages of one, whatever was asked for.
        assert_eq!(query["limit"], "500");
        kind.lists += 1;
        let from: usize = query.get("continue").map_or(0, |token| token.parse().unwrap());
        let items: Vec<_> = kind.objects.values().skip(from).take(1).cloned().collect();
        let token = if from + 1 < kind.objects.len() { (from + 1).to_string() } else { String::new() };
        whole(
            200,
            &json!({ "kind": "List", "metadata": { "resourceVersion": version, "continue": token }, "items": items }),
        )
    }

    fn log(state: &mut State, query: &BTreeMap<String, String>) -> Answer {
        let Some(script) = state.logs.get_mut(&query["container"]) else { return failure(404, "pod not found") };
        if query.contains_key("timestamps") {
            let body = Full::new(Bytes::from(script.first.clone())).map_err(|never: Infallible| match never {});
            return Response::new(body.boxed_unsync());
        }
        let answer = match script.reads.len() {
            0 => return failure(404, "pod not found"),
            1 => script.reads[0].clone(),
            _ => script.reads.pop_front().unwrap(),
        };
        let (feed, response) = stream();
        let (text, breaks) = match answer {
            LogAnswer::Excuse(text) => {
                feed.unbounded_send(Ok(Frame::data(Bytes::from(text)))).unwrap();
                return response;
            }
            LogAnswer::Refused(code, message) => return failure(code, message),
            LogAnswer::Whole(text) => (text, false),
            LogAnswer::Broken(text) => (text, true),
        };
        for byte in text.bytes() {
            feed.unbounded_send(Ok(Frame::data(Bytes::copy_from_slice(&[byte])))).unwrap();
        }
        if breaks {
            feed.unbounded_send(Err(std::io::Error::other("cut"))).unwrap();
        }
        response
    }

    pub(super) fn set_log(&self, container: &str, script: LogScript) {
        self.state().logs.insert(container.to_owned(), script);
    }

    /// Puts an object there, and tells the watches.
    pub(super) fn put(&self, kind: &'static str, mut object: Value) {
        let mut state = self.state();
        state.version = state.version.max(1000) + 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let uid = object["metadata"]["uid"].as_str().unwrap().to_owned();
        let kind = state.kinds.entry(kind).or_default();
        let known = kind.objects.insert(uid, object.clone()).is_some();
        kind.watches
            .retain(|feed| feed.unbounded_send(Ok(line(if known { "MODIFIED" } else { "ADDED" }, &object))).is_ok());
    }

    /// Takes an object away; `told`: whether the watches hear of it.
    pub(super) fn take(&self, kind: &'static str, uid: &str, told: bool) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version.to_string();
        let kind = state.kinds.entry(kind).or_default();
        let mut object = kind.objects.remove(uid).unwrap();
        object["metadata"]["resourceVersion"] = json!(version);
        if told {
            kind.watches.retain(|feed| feed.unbounded_send(Ok(line("DELETED", &object))).is_ok());
        }
    }

    /// Sends something to the watches of a kind.
    pub(super) fn send(&self, kind: &'static str, event: &str, object: &Value) {
        let mut state = self.state();
        state
            .kinds
            .entry(kind)
            .or_default()
            .watches
            .retain(|feed| feed.unbounded_send(Ok(line(event, object))).is_ok());
    }

    /// Ends all watches, in an orderly way or not.
    pub(super) fn cut(&self, orderly: bool) {
        for kind in self.state().kinds.values_mut() {
            for feed in kind.watches.drain(..) {
                if !orderly {
                    let _ = feed.unbounded_send(Err(std::io::Error::other("cut")));
                }
            }
        }
    }

    pub(super) fn fail(&self, codes: &[u16]) {
        self.state().failures.extend(codes);
    }

    pub(super) fn break_down(&self, code: Option<u16>) {
        self.state().broken = code;
    }

    pub(super) fn hang(&self, hangs: bool) {
        self.state().hangs = hangs;
    }

    pub(super) fn lists(&self, kind: &'static str) -> usize {
        self.state().kinds.get(kind).map_or(0, |kind| kind.lists)
    }

    pub(super) fn asked_from(&self, kind: &'static str) -> Vec<String> {
        self.state().kinds.get(kind).map(|kind| kind.asked_from.clone()).unwrap_or_default()
    }

    pub(super) fn watches(&self, kind: &'static str) -> usize {
        self.state().kinds.get(kind).map_or(0, |kind| kind.watches.iter().filter(|feed| !feed.is_closed()).count())
    }

    pub(super) fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }
}
