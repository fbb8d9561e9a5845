//! What is kept of Jobs and pods: the few facts from which a run's state follows, some hundred bytes each.

use std::sync::Arc;
use std::time::Duration;

use super::super::names::FINALIZER;
use super::wire;
use crate::core::Timestamp;

/// Sentences of the cluster are kept up to this length.
const LONGEST: usize = 1000;

/// A condition that is true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) reason: Box<str>,
    pub(super) message: Box<str>,
    pub(super) at: Option<Timestamp>,
}

/// A Job.
#[derive(Debug, Clone)]
pub(super) struct JobFacts {
    pub(super) uid: Box<str>,
    pub(super) version: u64,
    /// Whether our finalizer is on it.
    pub(super) held: bool,
    /// Whether this server has let it go; what a watch says later may be older than that.
    pub(super) let_go: bool,
    /// Whether its launch was not finished.
    pub(super) incomplete: bool,
    pub(super) created: Timestamp,
    pub(super) retries: u32,
    pub(super) deadline_seconds: Option<u32>,
    pub(super) suspended: bool,
    /// When it was let go by what had suspended it.
    pub(super) resumed: Option<Timestamp>,
    pub(super) queue: Option<Box<str>>,
    /// When its deletion was asked for.
    pub(super) deleted: Option<Timestamp>,
    /// Pods that have ended, as the Job's controller counts them.
    pub(super) ended_pods: usize,
    /// Those of them that failed.
    pub(super) failed_pods: usize,
    /// Pods that the Job's controller knows to be there.
    pub(super) active_pods: usize,
    /// The condition FailureTarget, which comes before the pods are ended, or Failed, which comes after.
    pub(super) failure: Option<Condition>,
    /// The condition Complete, or SuccessCriteriaMet before it.
    pub(super) complete: bool,
    /// When this server first saw it deleted, failed or complete.
    pub(super) settled_seen: Option<Timestamp>,
}

/// A pod.
#[derive(Debug, Clone)]
pub(super) struct PodFacts {
    pub(super) name: Box<str>,
    pub(super) uid: Box<str>,
    pub(super) version: u64,
    /// Whether our finalizer is on it.
    pub(super) held: bool,
    /// As in [`JobFacts::let_go`].
    pub(super) let_go: bool,
    pub(super) created: Timestamp,
    pub(super) node: Option<Box<str>>,
    pub(super) phase: Phase,
    /// Reason and message of the pod's own status: evicted, refused by the node.
    pub(super) trouble: Option<Condition>,
    /// The condition PodScheduled, where it is false.
    pub(super) unschedulable: Option<Condition>,
    /// The condition DisruptionTarget.
    pub(super) disruption: Option<Condition>,
    /// When its deletion was asked for. Once the kubelet is done with it: when it was done.
    pub(super) deleted: Option<Timestamp>,
    /// The time that it was given to end, the longest that was seen.
    pub(super) grace: Duration,
    /// In the order of the plan: init containers first, sidecars last.
    pub(super) containers: Box<[ContainerFacts]>,
    /// When this server first saw that it is being deleted.
    pub(super) deleted_seen: Option<Timestamp>,
    /// When this server first saw that nothing of it runs any more.
    pub(super) ended_seen: Option<Timestamp>,
    /// Whether this server saw it being deleted while it ran. Better than the times, which are told in seconds and change.
    pub(super) told_to_stop: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Must have ended before the main containers start.
    Init,
    Main,
    /// An init container that runs beside the others, and whose end means nothing.
    Sidecar,
}

/// A container of a pod.
#[derive(Debug, Clone)]
pub(super) struct ContainerFacts {
    pub(super) name: Arc<str>,
    pub(super) role: Role,
    pub(super) image: Box<str>,
    pub(super) memory_limit: Option<Box<str>>,
    /// The runtime's name for it, `containerd://…`.
    pub(super) id: Option<Box<str>>,
    pub(super) stage: Stage,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    Waiting { reason: Box<str>, message: Box<str> },
    Running { started: Option<Timestamp> },
    Ended(Ended),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) exit_code: i32,
    pub(super) signal: Option<i32>,
    pub(super) reason: Box<str>,
    pub(super) message: Box<str>,
    /// Absent if it could not be started.
    pub(super) started: Option<Timestamp>,
    pub(super) finished: Option<Timestamp>,
}

impl ContainerFacts {
    pub(super) fn ended(&self) -> Option<&Ended> {
        match &self.stage {
            Stage::Ended(ended) => Some(ended),
            Stage::Waiting { .. } | Stage::Running { .. } => None,
        }
    }

    /// When it started, if it did and the cluster says when.
    pub(super) fn started(&self) -> Option<Timestamp> {
        match &self.stage {
            Stage::Waiting { .. } => None,
            Stage::Running { started } => *started,
            Stage::Ended(ended) => ended.started,
        }
    }

    /// Whether it ran at all, and so may have written a log.
    pub(super) fn has_run(&self) -> bool {
        match &self.stage {
            Stage::Waiting { .. } => false,
            Stage::Running { .. } => true,
            Stage::Ended(ended) => ended.started.is_some(),
        }
    }
}

impl PodFacts {
    /// Whether no container of it that counts will write any more.
    pub(super) fn has_ended(&self) -> bool {
        self.phase == Phase::Failed || self.phase == Phase::Succeeded || self.containers_ended()
    }

    /// Whether its containers say that it has ended, or it can have none.
    pub(super) fn containers_ended(&self) -> bool {
        let mut work = self.containers.iter().filter(|container| container.role != Role::Sidecar);
        let init_failed = work.clone().any(|container| {
            container.role == Role::Init && container.ended().is_some_and(|ended| ended.exit_code != 0)
        });
        let never_placed = self.deleted.is_some() && self.node.is_none();
        init_failed
            || never_placed
            || (work.clone().next().is_some() && work.all(|container| container.ended().is_some()))
    }

    /// The containers that count.
    fn work(&self) -> impl Iterator<Item = &ContainerFacts> {
        self.containers.iter().filter(|container| container.role != Role::Sidecar)
    }

    /// Whether any container of it has run.
    pub(super) fn has_run(&self) -> bool {
        self.work().any(ContainerFacts::has_run)
    }

    /// Whether none of its containers runs although one is due: the first, or one behind those that have ended.
    pub(super) fn is_idle(&self) -> bool {
        let runs = |container: &ContainerFacts| matches!(container.stage, Stage::Running { .. });
        self.deleted.is_none() && !self.has_ended() && !self.work().any(runs)
    }

    /// Since when nothing of it runs, where nothing does.
    pub(super) fn idle_since(&self) -> Timestamp {
        let ends = self.work().filter_map(|container| container.ended()?.finished);
        ends.fold(self.created, Timestamp::max)
    }
}

fn clipped(text: Option<&str>) -> Box<str> {
    text.unwrap_or_default().chars().take(LONGEST).collect()
}

fn time(text: Option<&str>) -> Option<Timestamp> {
    // Containers that never started have the year 1970.
    text.and_then(Timestamp::parse).filter(|time| time.as_millis() > 0)
}

fn count(number: Option<i64>) -> usize {
    number.and_then(|number| usize::try_from(number).ok()).unwrap_or(0)
}

fn condition(found: &wire::Condition) -> Condition {
    Condition {
        reason: clipped(found.reason.as_deref()),
        message: clipped(found.message.as_deref()),
        at: time(found.changed.as_deref()),
    }
}

/// A resource version as a number, by which states of one object can be told older from newer; 0 if it is none.
pub(super) fn version(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn held(meta: &wire::Meta) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// When the deletion was asked for. The object says when its grace is over.
fn deleted(meta: &wire::Meta) -> Option<Timestamp> {
    Some(time(meta.deletion_timestamp.as_deref())? - grace(meta))
}

/// The time that an object that is being deleted was given to end.
fn grace(meta: &wire::Meta) -> Duration {
    Duration::from_secs(u64::try_from(meta.deletion_grace_period_seconds.unwrap_or(0)).unwrap_or(0))
}

impl JobFacts {
    /// `None` for an object that is not whole.
    pub(super) fn read(job: &wire::Job, now: Timestamp) -> Option<Self> {
        let (meta, status) = (&job.metadata, &job.status);
        let find = |kind: &str| status.conditions.iter().flatten().find(|found| found.is(kind, "True"));
        let uncounted = status.uncounted_terminated_pods.as_ref();
        let more = |pods: fn(&wire::Uncounted) -> &Option<Vec<String>>| {
            uncounted.and_then(|uncounted| pods(uncounted).as_ref()).map_or(0, Vec::len)
        };
        let failed_pods = count(status.failed).saturating_add(more(|uncounted| &uncounted.failed));
        let succeeded = count(status.succeeded).saturating_add(more(|uncounted| &uncounted.succeeded));
        let resumed = status.conditions.iter().flatten().find(|found| found.is("Suspended", "False"));
        let mut facts = Self {
            uid: meta.uid.as_deref()?.into(),
            version: version(meta.resource_version.as_deref()),
            held: held(meta),
            let_go: false,
            incomplete: meta.annotations.as_ref().is_some_and(|annotations| annotations.incomplete.is_some()),
            created: time(meta.creation_timestamp.as_deref()).unwrap_or(now),
            retries: job.spec.backoff_limit.map_or(6, |limit| u32::try_from(limit).unwrap_or(0)),
            deadline_seconds: job.spec.active_deadline_seconds.and_then(|seconds| u32::try_from(seconds).ok()),
            suspended: job.spec.suspend == Some(true),
            resumed: resumed.and_then(|found| time(found.changed.as_deref())),
            queue: meta.labels.as_ref().and_then(|labels| labels.queue.as_deref()).map(Into::into),
            deleted: deleted(meta),
            ended_pods: failed_pods.saturating_add(succeeded),
            failed_pods,
            active_pods: count(status.active).saturating_add(count(status.terminating)),
            failure: find("FailureTarget").or_else(|| find("Failed")).map(condition),
            complete: find("Complete").or_else(|| find("SuccessCriteriaMet")).is_some(),
            settled_seen: None,
        };
        facts.settled_seen = (facts.deleted.is_some() || facts.failure.is_some() || facts.complete).then_some(now);
        Some(facts)
    }

    /// Takes over what was noticed of the state before this one.
    pub(super) fn remember(&mut self, before: &Self) {
        self.let_go = before.let_go;
        self.settled_seen = self.settled_seen.and(before.settled_seen.or(self.settled_seen));
    }
}

impl PodFacts {
    /// `None` for an object that is not whole.
    pub(super) fn read(pod: &wire::Pod, now: Timestamp) -> Option<Self> {
        let (meta, status) = (&pod.metadata, &pod.status);
        let find = |kind: &str, value: &str| {
            status.conditions.iter().flatten().find(|found| found.is(kind, value)).map(condition)
        };
        let trouble = status.reason.as_deref().filter(|reason| !reason.is_empty()).map(|reason| Condition {
            reason: clipped(Some(reason)),
            message: clipped(status.message.as_deref()),
            at: None,
        });
        let inits = pod.spec.init_containers.iter().flatten().map(|spec| {
            let sidecar = spec.restart_policy.as_deref() == Some("Always");
            (spec, if sidecar { Role::Sidecar } else { Role::Init }, &status.init_container_statuses)
        });
        let mains = pod.spec.containers.iter().flatten().map(|spec| (spec, Role::Main, &status.container_statuses));
        let mut containers: Vec<_> = inits
            .chain(mains)
            .filter_map(|(spec, role, statuses)| {
                let status = statuses.iter().flatten().find(|status| status.name == spec.name);
                container(spec, role, status)
            })
            .collect();
        containers.sort_by_key(|container| container.role == Role::Sidecar);
        let deleted = deleted(meta);
        let mut facts = Self {
            name: meta.name.as_deref()?.into(),
            uid: meta.uid.as_deref()?.into(),
            version: version(meta.resource_version.as_deref()),
            held: held(meta),
            let_go: false,
            created: time(meta.creation_timestamp.as_deref()).unwrap_or(now),
            node: pod.spec.node_name.as_deref().filter(|node| !node.is_empty()).map(Into::into),
            phase: match status.phase.as_deref() {
                Some("Running") => Phase::Running,
                Some("Succeeded") => Phase::Succeeded,
                Some("Failed") => Phase::Failed,
                Some("Unknown") => Phase::Unknown,
                _ => Phase::Pending,
            },
            trouble,
            unschedulable: find("PodScheduled", "False"),
            disruption: find("DisruptionTarget", "True"),
            deleted,
            grace: grace(meta),
            containers: containers.into(),
            deleted_seen: deleted.map(|_| now),
            ended_seen: None,
            told_to_stop: false,
        };
        facts.ended_seen = facts.has_ended().then_some(now);
        facts.told_to_stop = facts.deleted.is_some() && !facts.has_ended();
        Some(facts)
    }

    /// Takes over what was noticed of the state before this one.
    pub(super) fn remember(&mut self, before: &Self) {
        self.let_go = before.let_go;
        self.deleted_seen = self.deleted_seen.and(before.deleted_seen.or(self.deleted_seen));
        self.grace = self.grace.max(before.grace);
        self.told_to_stop |= before.told_to_stop;
        self.ended_seen = self.ended_seen.and(before.ended_seen.or(self.ended_seen));
    }
}

fn container(spec: &wire::ContainerSpec, role: Role, status: Option<&wire::ContainerStatus>) -> Option<ContainerFacts> {
    let state = status.and_then(|status| status.state.as_ref());
    let stage = match state {
        Some(wire::ContainerState { terminated: Some(end), .. }) => Stage::Ended(Ended {
            exit_code: end.exit_code.unwrap_or(-1),
            signal: end.signal.filter(|signal| *signal > 0),
            reason: clipped(end.reason.as_deref()),
            message: clipped(end.message.as_deref()),
            started: time(end.started_at.as_deref()),
            finished: time(end.finished_at.as_deref()),
        }),
        Some(wire::ContainerState { running: Some(running), .. }) => {
            Stage::Running { started: time(running.started_at.as_deref()) }
        }
        Some(wire::ContainerState { waiting: Some(waiting), .. }) => {
            Stage::Waiting { reason: clipped(waiting.reason.as_deref()), message: clipped(waiting.message.as_deref()) }
        }
        _ => Stage::Waiting { reason: "".into(), message: "".into() },
    };
    let limit = spec.resources.as_ref().and_then(|resources| resources.limits.as_ref()?.get("memory"));
    let memory_limit = limit.map(|limit| match limit {
        serde_json::Value::String(text) => text.as_str().into(),
        other => other.to_string().into_boxed_str(),
    });
    Some(ContainerFacts {
        name: spec.name.as_deref()?.into(),
        role,
        image: spec.image.as_deref().unwrap_or_default().into(),
        memory_limit,
        id: status.and_then(|status| status.container_id.as_deref()).filter(|id| !id.is_empty()).map(Into::into),
        stage,
    })
}
