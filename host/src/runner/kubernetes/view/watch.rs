//! One watch: a paged list, then changes, and a list again after every gap.
//!
//! Written out, since what a watch hears beside objects counts here: bookmarks and orderly ends prove that the connection lives, and a list
//! has a deadline. Invariant: what is handed on is complete from [`Change::Began`] to the next, or a new list follows.

use std::marker::PhantomData;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::Request;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::facts::version;
use super::wire::{Page, Watched};

/// Objects a page.
const PAGE: u32 = 500;

/// The longest silence of an API server that sends bookmarks, which it does every minute.
const SILENCE: Duration = Duration::from_secs(80);

/// The first pause after a failure; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A watch that fails for so long makes the view stale.
const FAILING: Duration = Duration::from_secs(15);

/// What a watch hands on.
#[derive(Debug)]
pub(super) enum Change<T> {
    /// A list begins.
    Began,
    /// An object is there, as part of a list or changed since.
    Applied(T),
    Deleted(T),
    /// The list is whole, as of this version: what was not applied since it began is gone.
    Listed(u64),
    /// Everything up to this version was handed on.
    Reached(u64),
}

/// Why a watch does not go on.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("to list {0}")]
    List(&'static str, #[source] kube::Error),
    #[error("to watch {0}")]
    Watch(&'static str, #[source] kube::Error),
    #[error("to read what became of {0}")]
    Unreadable(&'static str, #[source] kube::Error),
    #[error("to ask for {0}")]
    Request(&'static str, #[source] kube::core::request::Error),
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    #[error("the list has no resource version")]
    NoVersion,
    #[error("the history is no longer there")]
    Gone,
}

/// How a watch is doing, for readiness.
#[derive(Debug)]
pub(super) struct Health {
    heart: Mutex<Heart>,
}

#[derive(Debug)]
struct Heart {
    listed: bool,
    heard: Instant,
    failing: Option<(Instant, String)>,
    /// When it last failed.
    failed: Option<Instant>,
}

impl Health {
    pub(super) fn new() -> Self {
        Self { heart: Mutex::new(Heart { listed: false, heard: Instant::now(), failing: None, failed: None }) }
    }

    fn heart(&self) -> MutexGuard<'_, Heart> {
        self.heart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) {
        let mut heart = self.heart();
        heart.heard = Instant::now();
        heart.failing = None;
    }

    fn failed(&self, why: String) {
        let mut heart = self.heart();
        let since = heart.failing.as_ref().map_or_else(Instant::now, |(since, _)| *since);
        heart.failing = Some((since, why));
        heart.failed = Some(Instant::now());
    }

    /// Whether this watch failed not longer ago than that.
    pub(super) fn has_failed_within(&self, span: Duration) -> bool {
        self.heart().failed.is_some_and(|failed| failed.elapsed() < span)
    }

    /// Why what this watch handed on cannot be relied on; `None` when it can.
    pub(super) fn stale(&self, silence: Duration) -> Option<String> {
        let heart = self.heart();
        match &heart.failing {
            Some((since, why)) if !heart.listed || since.elapsed() >= FAILING => return Some(why.clone()),
            _ => {}
        }
        if !heart.listed {
            return Some("not listed yet".to_owned());
        }
        let quiet = heart.heard.elapsed();
        (quiet >= silence).then(|| format!("nothing heard for {} s", quiet.as_secs()))
    }

    pub(super) fn is_listed(&self) -> bool {
        self.heart().listed
    }
}

/// What is watched.
pub(super) struct Watch<T> {
    pub(super) client: kube::Client,
    /// `jobs`, for messages.
    pub(super) what: &'static str,
    /// Path of the collection.
    pub(super) path: String,
    pub(super) labels: Option<String>,
    pub(super) fields: Option<String>,
    pub(super) seconds: u32,
    pub(super) deadline: Duration,
    pub(super) kind: PhantomData<fn() -> T>,
}

impl<T: Watched> Watch<T> {
    /// Watches until it is stopped.
    pub(super) async fn run(self, health: &Health, stop: &CancellationToken, mut hand_on: impl FnMut(Change<T>)) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.watch(health, &mut hand_on) => {}
        }
    }

    async fn watch(&self, health: &Health, hand_on: &mut impl FnMut(Change<T>)) {
        let mut from: Option<String> = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = Instant::now();
            let round = match from.take() {
                None => match self.list(health, hand_on).await {
                    Ok(version) => {
                        from = Some(version);
                        continue;
                    }
                    Err(trouble) => Err(trouble),
                },
                Some(mut reached) => {
                    let ended = self.follow(&mut reached, health, hand_on).await;
                    if matches!(ended, Ok(()) | Err(Trouble::Watch(_, _) | Trouble::Late(_))) {
                        from = Some(reached);
                    }
                    if begun.elapsed() >= LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                    ended
                }
            };
            match round {
                Ok(()) if begun.elapsed() >= LONGEST_PAUSE => continue,
                Ok(()) => {}
                Err(Trouble::Gone) => {
                    tracing::info!(what = self.what, "the watched history is gone; it is listed again");
                }
                Err(trouble) => {
                    let why = describe(&trouble);
                    tracing::warn!(what = self.what, error = why, ?pause, "a watch failed; it is begun again");
                    health.failed(why);
                }
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Lists everything; the version from which to watch.
    async fn list(&self, health: &Health, hand_on: &mut impl FnMut(Change<T>)) -> Result<String, Trouble> {
        hand_on(Change::Began);
        let mut params = ListParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        loop {
            let request =
                Request::new(self.path.as_str()).list(&params).map_err(|error| Trouble::Request(self.what, error))?;
            let page: Page<T> = timeout(self.deadline, self.client.request(request))
                .await
                .map_err(|_| Trouble::Late(self.deadline))?
                .map_err(|error| if is_gone(&error) { Trouble::Gone } else { Trouble::List(self.what, error) })?;
            health.heard();
            for item in page.items {
                hand_on(Change::Applied(item));
            }
            let next = page.metadata.continue_token.filter(|token| !token.is_empty());
            if next.is_none() {
                let reached =
                    page.metadata.resource_version.filter(|text| !text.is_empty()).ok_or(Trouble::NoVersion)?;
                health.heart().listed = true;
                hand_on(Change::Listed(version(Some(&reached))));
                return Ok(reached);
            }
            params.continue_token = next;
        }
    }

    /// Hands on changes from a version on. `Ok` when the server has ended the watch in an orderly way.
    async fn follow(
        &self,
        reached: &mut String,
        health: &Health,
        hand_on: &mut impl FnMut(Change<T>),
    ) -> Result<(), Trouble> {
        let params = WatchParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            timeout: Some(self.seconds),
            bookmarks: true,
            send_initial_events: false,
        };
        let request = Request::new(self.path.as_str())
            .watch(&params, reached)
            .map_err(|error| Trouble::Request(self.what, error))?;
        let failed = |error: kube::Error| match error {
            error if is_gone(&error) => Trouble::Gone,
            error if is_unreadable(&error) => Trouble::Unreadable(self.what, error),
            error => Trouble::Watch(self.what, error),
        };
        let events = timeout(self.deadline, self.client.request_events::<T>(request));
        let events = events.await.map_err(|_| Trouble::Late(self.deadline))?.map_err(failed)?;
        let mut events = pin!(events);
        health.heard();
        let whole = Duration::from_secs(u64::from(self.seconds).saturating_add(5));
        let mut silence = whole;
        loop {
            let next = timeout(silence, events.next()).await.map_err(|_| Trouble::Late(silence))?;
            let Some(event) = next else { return Ok(()) };
            let event = event.map_err(failed)?;
            health.heard();
            match event {
                WatchEvent::Added(item) | WatchEvent::Modified(item) => {
                    note(reached, item.meta().resource_version.as_deref())?;
                    hand_on(Change::Applied(item));
                }
                WatchEvent::Deleted(item) => {
                    note(reached, item.meta().resource_version.as_deref())?;
                    hand_on(Change::Deleted(item));
                }
                WatchEvent::Bookmark(mark) => {
                    note(reached, Some(&mark.metadata.resource_version))?;
                    silence = whole.min(SILENCE);
                }
                WatchEvent::Error(status) => return Err(failed(kube::Error::Api(status))),
            }
            hand_on(Change::Reached(version(Some(reached))));
        }
    }
}

fn note(reached: &mut String, version: Option<&str>) -> Result<(), Trouble> {
    let version = version.filter(|text| !text.is_empty()).ok_or(Trouble::NoVersion)?;
    version.clone_into(reached);
    Ok(())
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410)
}

/// Whether an event was lost that could not be read. The client may take it for a status, which then says nothing.
fn is_unreadable(error: &kube::Error) -> bool {
    match error {
        kube::Error::SerdeError(_) => true,
        kube::Error::Api(status) => status.code == 0,
        _ => false,
    }
}

/// An error with its causes, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// Replicas that lost one API server together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let part = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.subsec_micros());
    pause / 2 + (pause / 2) * (part % 1000) / 1000
}
