//! The logs of a run, straight from the API server: pods in order of creation, containers in the order of the plan.
//!
//! Invariant: constant memory, every byte once and in order. What cannot be had any more, since the pod is gone or the kubelet has rotated
//! it away, is told at its place.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use http_body_util::{BodyExt as _, Limited};
use k8s_openapi::api::core::v1::Pod;
use kube::Resource as _;
use kube::api::LogParams;
use kube::client::Body;
use kube::core::{Request, Status};
use tokio::time::{Instant, sleep, timeout};

use super::cluster::Cluster;
use super::failure::CallError;
use super::view::{Kept, LogContainer, LogSource, View};
use crate::core::{JobId, LogEvent, Timestamp};
use crate::runner::RunnerError;

const WHAT: &str = "read a log";

/// The largest piece of a log.
const PIECE: usize = 1024 * 1024;

/// How often the view is looked at for what it says of a log that is followed.
const LOOK: Duration = Duration::from_millis(100);

/// The longest wait for the next bytes of a log that nobody writes any more.
const STALL: Duration = Duration::from_secs(30);

/// How long the view may be behind the end of a container.
const BEHIND: Duration = Duration::from_secs(3);

/// How long it is tried to follow a log that cannot be read.
const FAILING: Duration = Duration::from_secs(60);

/// A log whose first line comes so long after the container's start may have lost its beginning, if it is larger than [`SMALL`].
const LATE: Duration = Duration::from_secs(10);
const SMALL: usize = 1024 * 1024;

/// As the trait has it. There must be such a run; the view may not know it yet.
pub(super) async fn logs(
    cluster: &Cluster,
    view: &Arc<View>,
    job_id: JobId,
    follow: bool,
) -> Result<BoxStream<'static, Result<LogEvent, RunnerError>>, RunnerError> {
    let reader = Reader { cluster: cluster.clone(), view: Arc::clone(view), job_id, follow };
    let known = async {
        while reader.view.log_sources(job_id).is_none() {
            sleep(LOOK).await;
        }
    };
    let deadline = Duration::from_millis(u64::from(cluster.settings.deadline_ms));
    timeout(deadline, known).await.map_err(|_| CallError::Deadline(deadline).into_unavailable(WHAT))?;
    Ok(Box::pin(reader.run()))
}

pub(super) struct Reader {
    pub(super) cluster: Cluster,
    pub(super) view: Arc<View>,
    pub(super) job_id: JobId,
    pub(super) follow: bool,
}

/// What is known of a log's first line.
#[derive(Debug, Clone, Copy)]
enum Beginning {
    NotAsked,
    /// There is no line.
    None,
    /// There is something, and it does not say when it was written.
    Unknown,
    At(jiff::Timestamp),
}

/// What comes next of a pod.
enum Next {
    Read(LogContainer),
    Skip,
    Wait,
    /// All containers were looked at.
    Done,
}

impl Reader {
    fn run(self) -> impl Stream<Item = Result<LogEvent, RunnerError>> + Send {
        async_stream::try_stream! {
            let mut done: HashSet<String> = HashSet::new();
            let mut lost_told = false;
            loop {
                let Some(sources) = self.view.log_sources(self.job_id) else {
                    // Who follows has read everything that was known. Who captures takes no part for the whole.
                    if done.is_empty() || !self.follow {
                        yield missing("the run was released before all of its log was read");
                    }
                    return;
                };
                if sources.pods_lost && !std::mem::replace(&mut lost_told, true) {
                    yield missing("a pod of the run is gone, and with it its log");
                }
                let Some(source) = sources.pods.into_iter().find(|source| !done.contains(&source.uid)) else {
                    if !self.follow || sources.over {
                        return;
                    }
                    sleep(LOOK).await;
                    continue;
                };
                let mut index = 0;
                loop {
                    match self.next(&source, index) {
                        Next::Read(container) => {
                            yield LogEvent::Container { name: Arc::clone(&container.name) };
                            let mut events = std::pin::pin!(self.read(&source, &container));
                            while let Some(event) = events.next().await {
                                yield event?;
                            }
                        }
                        Next::Skip => {}
                        Next::Wait => {
                            sleep(LOOK).await;
                            continue;
                        }
                        Next::Done => break,
                    }
                    index += 1;
                }
                done.insert(source.uid);
            }
        }
    }

    /// The pod as the view has it now, and whether the run has ended.
    fn now(&self, uid: &str) -> Option<(LogSource, bool)> {
        let sources = self.view.log_sources(self.job_id)?;
        let over = sources.over;
        Some((sources.pods.into_iter().find(|source| source.uid == uid)?, over))
    }

    fn next(&self, source: &LogSource, index: usize) -> Next {
        let Some((now, over)) = self.now(&source.uid) else {
            // The pod is gone since: what is missing is told by reading what was known of it.
            return match source.containers.get(index) {
                Some(container) if container.has_run => Next::Read(container.clone()),
                Some(_) => Next::Skip,
                None => Next::Done,
            };
        };
        match now.containers.into_iter().nth(index) {
            None => Next::Done,
            Some(container) if container.has_run => Next::Read(container),
            Some(container) if self.follow && !over && !now.over && !container.ended => Next::Wait,
            Some(_) => Next::Skip,
        }
    }

    /// Whether a container has ended, or nothing is known of it any more.
    fn has_ended(&self, uid: &str, name: &str) -> bool {
        let Some((source, over)) = self.now(uid) else { return true };
        let container = source.containers.iter().find(|container| &*container.name == name);
        over || source.over || container.is_none_or(|container| container.ended)
    }

    /// The log of one container, without its heading.
    fn read<'a>(
        &'a self,
        source: &'a LogSource,
        container: &'a LogContainer,
    ) -> impl Stream<Item = Result<LogEvent, RunnerError>> + Send + 'a {
        async_stream::try_stream! {
            let mut follow = self.follow && !self.has_ended(&source.uid, &container.name);
            let is_over = self.now(&source.uid).is_none_or(|(_, over)| over);
            let permits = match (follow, is_over) {
                (true, _) => &self.view.followers,
                (false, true) => &self.view.readers,
                (false, false) => &self.view.visitors,
            };
            // What is captured waits as long as it takes; who only looks is told.
            let patience = if is_over { Duration::MAX } else { STALL };
            let _permit = timeout(patience, permits.acquire())
                .await
                .map_err(|_| unavailable("too many logs are read".into()))?
                .map_err(|closed| unavailable(closed.into()))?;
            let mut passed = 0_u64;
            let mut orderly = true;
            let mut failing: Option<Instant> = None;
            loop {
                let log = Log { reader: self, source, container, follow };
                let kept = self.view.first_line(&source.uid, &container.name);
                let opened = match (follow && passed == 0 && kept.is_none()) || !log.may_have_been_rotated() {
                    true => log.open().await.map(|body| (body, Beginning::NotAsked)),
                    false => futures::future::try_join(log.open(), log.first_line()).await,
                };
                let (body, first) = match opened {
                    Ok(opened) => opened,
                    Err(error) => {
                        if let Some(reason) = log.is_lost(&error) {
                            yield missing(&reason);
                            return;
                        }
                        let since = *failing.get_or_insert_with(Instant::now);
                        if !self.follow || since.elapsed() >= FAILING {
                            Err(error.into_unavailable(WHAT))?;
                        }
                        sleep(LOOK * 5).await;
                        follow = !self.has_ended(&source.uid, &container.name);
                        continue;
                    }
                };
                let mut skip = passed;
                let mut held_back: Option<Vec<Bytes>> = None;
                let rotated = match (kept, first) {
                    (Some(kept), Beginning::At(first)) if kept.first < first => {
                        Some(format!("the kubelet has rotated away what was written before {first}"))
                    }
                    // It had a line, and has none any more.
                    (Some(_), Beginning::None) => Some("the kubelet has rotated away all that was written".to_owned()),
                    _ => None,
                };
                if let Some(reason) = rotated {
                    if passed > 0 && !follow && orderly {
                        return; // what was rotated away had been read
                    }
                    yield missing(&reason);
                    (skip, passed) = (0, 0);
                    if let Beginning::At(first) = first {
                        self.view.first_line_is(&source.uid, &container.name, first);
                    }
                } else if let Beginning::At(first) = first
                    && passed == 0
                    && kept.is_none_or(|kept| !kept.early)
                    && log.begins_late(first)
                {
                    held_back = Some(Vec::new());
                }
                let mut body = std::pin::pin!(body);
                let mut begun = false;
                orderly = loop {
                    let bytes = match log.next(&mut body).await {
                        Some(Ok(bytes)) => bytes,
                        Some(Err(error)) if self.follow && failing.is_none_or(|since| since.elapsed() < FAILING) => {
                            failing.get_or_insert_with(Instant::now);
                            tracing::debug!(job.id = %self.job_id, %error, "a log that is followed broke off; it is taken up again");
                            break false;
                        }
                        Some(Err(error)) => Err(unavailable(error))?,
                        None => break true,
                    };
                    if !begun && passed == 0 && let Some(reason) = log.is_excuse(&bytes) {
                        yield missing(&reason);
                        return;
                    }
                    if !begun && follow && kept.is_none() {
                        // Who looks for the beginnings of all logs asks again.
                        let _ = log.remember().await;
                    }
                    begun = true;
                    let Some(mut bytes) = behind(&mut skip, bytes) else { continue };
                    passed = passed.saturating_add(bytes.len() as u64);
                    failing = None;
                    if let Some(held) = &mut held_back {
                        held.push(bytes);
                        if held.iter().map(Bytes::len).sum::<usize>() <= SMALL {
                            continue;
                        }
                        yield missing("the log begins long after its container did: the kubelet may have rotated away its beginning");
                        for bytes in held_back.take().into_iter().flatten() {
                            yield LogEvent::Bytes(bytes);
                        }
                        continue;
                    }
                    while bytes.len() > PIECE {
                        yield LogEvent::Bytes(bytes.split_to(PIECE));
                    }
                    yield LogEvent::Bytes(bytes);
                };
                for bytes in held_back.into_iter().flatten() {
                    yield LogEvent::Bytes(bytes);
                }
                if !orderly {
                    sleep(LOOK).await;
                    follow = !self.has_ended(&source.uid, &container.name);
                    continue;
                }
                if !follow {
                    return;
                }
                // The stream ended: with its container, or only the connection. Once more from the start, behind what was passed on.
                let until = Instant::now() + BEHIND;
                while !self.has_ended(&source.uid, &container.name) && Instant::now() < until {
                    sleep(LOOK).await;
                }
                follow = !self.has_ended(&source.uid, &container.name);
            }
        }
    }
}

/// One log, read once.
pub(super) struct Log<'a> {
    pub(super) reader: &'a Reader,
    pub(super) source: &'a LogSource,
    pub(super) container: &'a LogContainer,
    pub(super) follow: bool,
}

impl Log<'_> {
    async fn request(&self, params: &LogParams) -> Result<Body, CallError> {
        let cluster = &self.reader.cluster;
        let path = Pod::url_path(&(), Some(&cluster.namespace));
        let request = Request::new(path).logs(&self.source.name, params).map_err(kube::Error::BuildRequest)?;
        let answer = cluster.client.send(request.map(Body::from)).await?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let code = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), 64 * 1024).collect().await;
        let text = body.map(|body| body.to_bytes()).unwrap_or_default();
        let status = serde_json::from_slice::<Status>(&text).unwrap_or_else(|_| {
            Status::failure(&String::from_utf8_lossy(&text).chars().take(500).collect::<String>(), "").with_code(code)
        });
        Err(kube::Error::Api(status.boxed()).into())
    }

    fn params(&self) -> LogParams {
        LogParams { container: Some(self.container.name.to_string()), ..LogParams::default() }
    }

    /// Opens the log. The API server may not answer before there is something in it.
    async fn open(&self) -> Result<Body, CallError> {
        let params = LogParams { follow: self.follow, ..self.params() };
        if !self.follow {
            // A node that was given up gets a last chance; it must not keep others waiting.
            let given_up = self.reader.now(&self.source.uid).is_some_and(|(source, _)| source.given_up);
            let patience = if given_up { BEHIND } else { STALL };
            return timeout(patience, self.request(&params)).await.unwrap_or(Err(CallError::Deadline(patience)));
        }
        tokio::select! {
            opened = self.request(&params) => opened,
            () = self.silent() => Err(CallError::Deadline(BEHIND)),
        }
    }

    /// The time of the first line that is kept.
    async fn first_line(&self) -> Result<Beginning, CallError> {
        let params = LogParams { timestamps: true, limit_bytes: Some(64), ..self.params() };
        let read = async {
            let body = Limited::new(self.request(&params).await?, 4096).collect().await;
            Ok(body.map_err(|broken| kube::Error::ReadEvents(std::io::Error::other(broken)))?.to_bytes())
        };
        let text = timeout(STALL, read).await.unwrap_or(Err(CallError::Deadline(STALL)))?;
        if text.is_empty() {
            return Ok(Beginning::None);
        }
        let time = text.split(|byte| *byte == b' ').next().and_then(|time| std::str::from_utf8(time).ok());
        Ok(time.and_then(|time| time.parse().ok()).map_or(Beginning::Unknown, Beginning::At))
    }

    /// Notes where the log begins, for those who read it later. An error: nobody has told whether it has begun.
    pub(super) async fn remember(&self) -> Result<(), CallError> {
        if let Beginning::At(first) = self.first_line().await? {
            let early = self.container.started.is_some_and(|started| Timestamp::now() <= started + LATE);
            self.reader.view.remember_first_line(&self.source.uid, &self.container.name, Kept { first, early });
        }
        Ok(())
    }

    /// Whether the time of the first line tells anything. The kubelet looks every ten seconds for what it should rotate.
    fn may_have_been_rotated(&self) -> bool {
        let short = match (self.container.started, self.container.finished) {
            (Some(started), Some(finished)) => finished < started + LATE,
            _ => false,
        };
        !short || self.reader.view.first_line(&self.source.uid, &self.container.name).is_some()
    }

    fn begins_late(&self, first: jiff::Timestamp) -> bool {
        let first = Timestamp::from_millis(first.as_millisecond());
        self.container.started.is_some_and(|started| first > started + LATE)
    }

    /// The next bytes.
    async fn next(&self, body: &mut Body) -> Option<Result<Bytes, BoxError>> {
        let next = async {
            loop {
                let frame = match body.frame().await? {
                    Ok(frame) => frame,
                    Err(error) => return Some(Err(BoxError::from(error))),
                };
                if let Some(bytes) = frame.into_data().ok().filter(|bytes| !bytes.is_empty()) {
                    return Some(Ok(bytes));
                }
            }
        };
        if self.follow {
            tokio::select! {
                next = next => next,
                () = self.silent() => Some(Err("nothing comes, although its container has ended".into())),
            }
        } else {
            timeout(STALL, next).await.unwrap_or_else(|late| Some(Err(late.into())))
        }
    }

    /// Returns when the container has ended for some time.
    async fn silent(&self) {
        while !self.reader.has_ended(&self.source.uid, &self.container.name) {
            sleep(LOOK).await;
        }
        sleep(BEHIND).await;
    }

    /// Whether this log cannot be had any more, and why.
    fn is_lost(&self, error: &CallError) -> Option<String> {
        let (pod, name) = (&self.source.name, &self.container.name);
        let now = self.reader.now(&self.source.uid);
        let ended = now.as_ref().is_none_or(|_| self.reader.has_ended(&self.source.uid, name));
        if error.is_not_found() {
            return Some(format!("pod '{pod}' is gone, and with it the log of container '{name}'"));
        }
        if ended && error.is_bad_request() {
            return Some(format!("the log of container '{name}' is gone: {error}"));
        }
        let given_up = now.is_none_or(|(source, _)| source.given_up);
        given_up.then(|| format!("the node of pod '{pod}' does not answer, so the log of container '{name}' is lost"))
    }

    /// Whether these first bytes are not the log but the kubelet's excuse for not having it, which it sends in its place.
    fn is_excuse(&self, bytes: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= 1024)?.trim_end();
        let no_container = self.container.id.as_ref().is_some_and(|id| {
            text.strip_prefix("unable to retrieve container logs for ").is_some_and(|rest| rest == id)
        });
        let no_file = text.starts_with("failed to try resolving symlinks in path \"/var/log/pods/")
            && text.contains(&self.source.uid);
        (no_container || no_file)
            .then(|| format!("the log of container '{}' was removed from its node", self.container.name))
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn unavailable(source: BoxError) -> RunnerError {
    RunnerError::Unavailable { message: format!("could not {WHAT}"), source }
}

fn missing(reason: &str) -> LogEvent {
    LogEvent::Missing { reason: reason.to_owned() }
}

/// What of the bytes is behind those to skip.
fn behind(skip: &mut u64, mut bytes: Bytes) -> Option<Bytes> {
    let cut = usize::try_from(*skip).unwrap_or(usize::MAX).min(bytes.len());
    *skip = skip.saturating_sub(cut as u64);
    bytes = bytes.split_off(cut);
    (!bytes.is_empty()).then_some(bytes)
}
