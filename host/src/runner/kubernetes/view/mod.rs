//! What the cluster says of all runs, kept up to date by watches of Jobs, pods and warnings, so that every read is free.
//!
//! | part | its job |
//! |---|---|
//! | [`watch`] | one watch: a list, changes, a list again after every gap |
//! | [`wire`], [`facts`] | what is read of an object, and what is kept |
//! | [`fold`], [`message`] | from facts to a run's state and its sentence; pure |
//! | [`entries`] | all runs, and what changed |
//! | [`sources`] | where a run's logs are |
//!
//! Invariant: a run is in the view as long as our finalizer is on anything of it. A view that may be stale tells no list, since a list is
//! taken for the whole truth.

mod entries;
mod facts;
mod fold;
mod message;
mod sources;
mod watch;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Resource as _;
use tokio::sync::{Semaphore, broadcast, watch as flag};
use tokio_util::sync::CancellationToken;

use self::entries::{About, Entries};
use self::facts::{JobFacts, PodFacts};
use self::fold::Rules;
use self::sources::FirstLines;
use self::watch::{Change, Health, Watch};
use super::cancel::delete_pods;
use super::cluster::Cluster;
use super::names::Names;
use crate::core::{JobId, Observation, RunObservation, RunState, Timestamp};
use crate::runner::RunnerError;

pub(super) use self::entries::PodRef;
pub(super) use self::sources::{Kept, LogContainer, LogSource};

/// How many changes an observer may be behind before it gets a list instead.
const CHANGES: usize = 4096;

/// How often all runs are listed although no gap is known; it drives repair.
const LIST_EVERY: Duration = Duration::from_secs(5);

/// How often it is looked for what time alone changed.
const TICK: Duration = Duration::from_millis(500);

/// The pause before pods are deleted again.
const HEAL_AGAIN: Duration = Duration::from_secs(10);

/// An API server that has just started forbids everything until it has read its roles, quotas and webhooks. So long after a failed watch
/// no refusal is taken for its last word.
const STARTING: Duration = Duration::from_secs(30);

/// How many logs are read, and how many more are followed, at once.
const READERS: usize = 64;
const FOLLOWERS: usize = 256;

/// What the tasks and readers share.
pub(super) struct View {
    names: Names,
    entries: Mutex<Entries>,
    changes: broadcast::Sender<RunObservation>,
    /// Counts lists: an observer tells its list again when it grows.
    listed: flag::Sender<u64>,
    jobs: Health,
    pods: Health,
    events: Health,
    /// The longest silence of a watch that lives.
    silence: Duration,
    rules: Rules,
    first_lines: FirstLines,
    /// Logs that are read to their present end at once.
    pub(super) readers: Semaphore,
    /// Logs of running jobs that are looked at once. Others than the readers: how long that takes is the client's choice.
    pub(super) visitors: Semaphore,
    /// Logs that are followed at once. Others than the readers: these may take days.
    pub(super) followers: Semaphore,
    stop: CancellationToken,
}

impl View {
    /// Begins to watch. Ends when `stop` is cancelled.
    pub(super) fn start(cluster: Cluster, stop: CancellationToken) -> Arc<Self> {
        let settings = &cluster.settings;
        let seconds = |number: u32| Duration::from_secs(u64::from(number));
        let rules = Rules {
            start_timeout: Some(seconds(settings.start_timeout_seconds)).filter(|timeout| !timeout.is_zero()),
            grace: seconds(settings.grace_seconds),
            lost_after: seconds(settings.lost_after_seconds),
        };
        let view = Arc::new(Self {
            names: cluster.names.clone(),
            entries: Mutex::new(Entries::new(rules)),
            changes: broadcast::channel(CHANGES).0,
            listed: flag::channel(0).0,
            jobs: Health::new(),
            pods: Health::new(),
            events: Health::new(),
            silence: seconds(settings.watch_seconds.saturating_add(30)),
            rules,
            first_lines: FirstLines::default(),
            readers: Semaphore::new(READERS),
            visitors: Semaphore::new(READERS),
            followers: Semaphore::new(FOLLOWERS),
            stop,
        });
        tokio::spawn(Arc::clone(&view).watch_jobs(cluster.clone()));
        tokio::spawn(Arc::clone(&view).watch_pods(cluster.clone()));
        tokio::spawn(Arc::clone(&view).watch_events(cluster.clone()));
        tokio::spawn(Arc::clone(&view).look_again());
        tokio::spawn(Arc::clone(&view).heal(cluster));
        view
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The level-triggered stream: a list when the view is whole, changes, and a list again after every gap and every five seconds, as
    /// long as the view is fresh. It ends when the view does.
    pub(super) fn observations(self: &Arc<Self>) -> BoxStream<'static, Observation> {
        let view = Arc::clone(self);
        let mut listed = view.listed.subscribe();
        let stream = async_stream::stream! {
            loop {
                // Before the list is made: a change in between is then told twice, not never.
                let mut changes = view.changes.subscribe();
                listed.mark_unchanged();
                if view.ready().is_ok() {
                    let list = view.entries().list();
                    yield Observation::List(list);
                }
                let again = tokio::time::sleep(LIST_EVERY);
                tokio::pin!(again);
                loop {
                    let change = tokio::select! {
                        change = changes.recv() => change,
                        _ = listed.changed() => break,
                        () = &mut again => break,
                    };
                    match change {
                        Ok(change) => yield Observation::Change(change),
                        Err(_) => break,
                    }
                }
            }
        };
        stream.take_until(self.stop.clone().cancelled_owned()).boxed()
    }

    /// The pods of a run, in order of creation.
    pub(super) fn pods(&self, id: JobId) -> Vec<PodRef> {
        self.entries().pods(id)
    }

    /// The state of a run; `None` when nothing of it is held.
    pub(super) fn state(&self, id: JobId) -> Option<RunState> {
        self.entries().get(id)?.shown().cloned()
    }

    /// Notes that a run's Job and these of its pods were let go, before the watches tell.
    pub(super) fn let_go(&self, id: JobId, pods: &[PodRef]) {
        self.entries().let_go(id, pods);
    }

    /// Whether what the view says can be relied on.
    pub(super) fn ready(&self) -> Result<(), RunnerError> {
        for (what, health) in [("jobs", &self.jobs), ("pods", &self.pods)] {
            if let Some(why) = health.stale(self.silence) {
                let message = format!("the watch of {what} does not tell how runs are");
                return Err(RunnerError::Unavailable { message, source: why.into() });
            }
        }
        Ok(())
    }

    /// Whether the API server was away a moment ago, or is.
    pub(super) fn is_unsettled(&self) -> bool {
        [&self.jobs, &self.pods].iter().any(|health| health.has_failed_within(STARTING))
    }

    fn tell(&self, change: Option<RunObservation>) {
        if let Some(change) = change {
            // Nobody may be listening.
            let _ = self.changes.send(change);
        }
    }

    /// A list has come to its end.
    fn after_list(&self) {
        if self.jobs.is_listed() && self.pods.is_listed() {
            self.entries().complete(Timestamp::now());
            self.listed.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    async fn watch_jobs(self: Arc<Self>, cluster: Cluster) {
        let mut named: Option<HashMap<JobId, Box<str>>> = None;
        let watch =
            watch(&cluster, "jobs", Job::url_path(&(), Some(&cluster.namespace)), Some(self.names.selector()), None);
        let hand_on = |change: Change<wire::Job>| {
            let now = Timestamp::now();
            match change {
                Change::Began => named = Some(Default::default()),
                Change::Applied(job) => {
                    let (Some(id), Some(facts)) = (self.id_of_job(&job), JobFacts::read(&job, now)) else { return };
                    if let Some(named) = &mut named {
                        named.insert(id, facts.uid.clone());
                    }
                    let change = self.entries().job(id, facts, now);
                    self.tell(change);
                }
                Change::Deleted(job) => {
                    let (Some(id), Some(uid)) = (self.id_of_job(&job), job.metadata.uid) else { return };
                    let change = self.entries().job_gone(id, &uid, now);
                    self.tell(change);
                }
                Change::Listed(version) => {
                    self.entries().jobs_listed(&named.take().unwrap_or_default(), version, now);
                    self.after_list();
                }
                Change::Reached(_) => {}
            }
        };
        watch.run(&self.jobs, &self.stop, hand_on).await;
    }

    async fn watch_pods(self: Arc<Self>, cluster: Cluster) {
        let mut named: Option<HashSet<Box<str>>> = None;
        let watch =
            watch(&cluster, "pods", Pod::url_path(&(), Some(&cluster.namespace)), Some(self.names.selector()), None);
        let hand_on = |change: Change<wire::Pod>| {
            let now = Timestamp::now();
            match change {
                Change::Began => named = Some(Default::default()),
                Change::Applied(pod) => {
                    let (Some(id), Some(facts)) = (label(&pod.metadata), PodFacts::read(&pod, now)) else { return };
                    if let Some(named) = &mut named {
                        named.insert(facts.uid.clone());
                    }
                    let change = self.entries().pod(id, facts, now);
                    self.tell(change);
                }
                Change::Deleted(pod) => {
                    let (Some(id), Some(uid)) = (label(&pod.metadata), pod.metadata.uid) else { return };
                    self.first_lines.forget(&uid);
                    let change = self.entries().pod_gone(id, &uid, now);
                    self.tell(change);
                }
                Change::Listed(version) => {
                    let named = named.take().unwrap_or_default();
                    self.entries().pods_listed(&named, version, now);
                    self.first_lines.keep_only(&named);
                    self.after_list();
                }
                Change::Reached(version) => self.entries().pods_reached(version),
            }
        };
        watch.run(&self.pods, &self.stop, hand_on).await;
    }

    /// Warnings only make messages better: the view is not stale without them.
    async fn watch_events(self: Arc<Self>, cluster: Cluster) {
        let mut listed = self.listed.subscribe();
        tokio::select! {
            // Warnings of runs that are not known are of no use.
            _ = listed.wait_for(|count| *count > 0) => {}
            () = self.stop.cancelled() => return,
        }
        let path = Event::url_path(&(), Some(&cluster.namespace));
        let watch = watch(&cluster, "events", path, None, Some("type=Warning".to_owned()));
        let hand_on = |change: Change<wire::Event>| {
            let Change::Applied(event) = change else { return };
            let Some((id, about)) = self.subject_of(&event) else { return };
            let text = event.message.unwrap_or_default().chars().take(500).collect();
            let change = self.entries().warned(id, about, text, Timestamp::now());
            self.tell(change);
        };
        watch.run(&self.events, &self.stop, hand_on).await;
    }

    /// The run whose Job this is. Another's Job that has our labels is none of ours.
    fn id_of_job(&self, job: &wire::Job) -> Option<JobId> {
        let id = label(&job.metadata)?;
        (job.metadata.name.as_deref() == Some(self.names.job(id).as_str())).then_some(id)
    }

    /// Which run a warning is about, if it is one that says more than the pod itself.
    fn subject_of(&self, event: &wire::Event) -> Option<(JobId, About)> {
        let object = &event.involved_object;
        let id = self.names.id_in(object.name.as_deref()?)?;
        match (object.kind.as_deref()?, event.reason.as_deref()?) {
            ("Job", "FailedCreate") => Some((id, About::Creation)),
            ("Pod", "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" | "FailedCreatePodSandBox") => {
                Some((id, About::Pod))
            }
            _ => None,
        }
    }

    async fn look_again(self: Arc<Self>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.stop.cancelled() => return,
            }
            // What a stale view has not heard of, time does not prove either.
            if self.ready().is_ok() {
                let changes = self.entries().due(Timestamp::now());
                changes.into_iter().for_each(|change| self.tell(Some(change)));
            }
        }
    }

    /// Deletes pods whose Job is being deleted, whoever asked for that.
    async fn heal(self: Arc<Self>, cluster: Cluster) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.stop.cancelled() => return,
            }
            let found = self.entries().left_pods(Timestamp::now(), HEAL_AGAIN);
            let deletions = futures::stream::iter(found).map(|(id, pod)| {
                let cluster = &cluster;
                async move { (id, delete_pods(cluster, &[pod]).await) }
            });
            let mut deletions = std::pin::pin!(deletions.buffer_unordered(8));
            while let Some((id, deleted)) = deletions.next().await {
                if let Err(error) = deleted {
                    tracing::warn!(job.id = %id, error = &error as &dyn std::error::Error, "cannot delete the pod of a deleted Job; tried again");
                }
            }
        }
    }
}

fn watch<T>(
    cluster: &Cluster,
    what: &'static str,
    path: String,
    labels: Option<String>,
    fields: Option<String>,
) -> Watch<T> {
    Watch {
        client: cluster.client.clone(),
        what,
        path,
        labels,
        fields,
        seconds: cluster.settings.watch_seconds,
        deadline: Duration::from_millis(u64::from(cluster.settings.deadline_ms)),
        kind: PhantomData,
    }
}

/// The job's id in an object's labels.
fn label(meta: &wire::Meta) -> Option<JobId> {
    meta.labels.as_ref()?.job_id.as_deref()?.parse().ok()
}
