//! Where the logs of a run are, and what is remembered of their beginnings: a log that begins later than it did was rotated.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::View;
use super::facts::{ContainerFacts, PodFacts, Stage};
use crate::core::{JobId, RunState, Timestamp};

/// The logs of a run.
#[derive(Debug, Clone)]
pub(in super::super) struct LogSources {
    /// In order of creation.
    pub(in super::super) pods: Vec<LogSource>,
    /// Whether the run has ended.
    pub(in super::super) over: bool,
    /// Whether a pod of it has ended that is not there any more.
    pub(in super::super) pods_lost: bool,
}

/// The logs of a pod.
#[derive(Debug, Clone)]
pub(in super::super) struct LogSource {
    pub(in super::super) name: String,
    pub(in super::super) uid: String,
    /// Whether no container of it will start any more.
    pub(in super::super) over: bool,
    /// Whether it was given up: nobody may answer for its logs.
    pub(in super::super) given_up: bool,
    /// In the order of the plan.
    pub(in super::super) containers: Vec<LogContainer>,
}

/// The log of a container.
#[derive(Debug, Clone)]
pub(in super::super) struct LogContainer {
    pub(in super::super) name: Arc<str>,
    /// The runtime's name for it.
    pub(in super::super) id: Option<String>,
    pub(in super::super) has_run: bool,
    pub(in super::super) ended: bool,
    pub(in super::super) started: Option<Timestamp>,
    pub(in super::super) finished: Option<Timestamp>,
}

/// The time of a log's first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Kept {
    pub(in super::super) first: jiff::Timestamp,
    /// Whether it was seen so soon after the container's start that it is the very first.
    pub(in super::super) early: bool,
}

/// By the pod's uid and the container's name.
type ByPod = HashMap<Box<str>, Vec<(Arc<str>, Kept)>>;

/// First lines by pod and container. Forgotten with the pod.
#[derive(Debug, Default)]
pub(super) struct FirstLines {
    seen: Mutex<ByPod>,
}

impl FirstLines {
    fn seen(&self) -> MutexGuard<'_, ByPod> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn forget(&self, uid: &str) {
        self.seen().remove(uid);
    }

    pub(super) fn keep_only(&self, uids: &HashSet<Box<str>>) {
        self.seen().retain(|uid, _| uids.contains(uid));
    }
}

impl View {
    /// Where the logs of a run are; `None` when nothing of it is held.
    pub(in super::super) fn log_sources(&self, id: JobId) -> Option<LogSources> {
        let now = Timestamp::now();
        let entries = self.entries();
        let entry = entries.get(id)?;
        let over = matches!(entry.shown()?, RunState::Ended(_));
        let pods = entry.pods.iter().map(|pod| self.source(pod, now)).collect();
        Some(LogSources { pods, over, pods_lost: over && entry.has_lost_pods() })
    }

    fn source(&self, pod: &PodFacts, now: Timestamp) -> LogSource {
        LogSource {
            name: pod.name.to_string(),
            uid: pod.uid.to_string(),
            over: pod.has_ended(),
            given_up: pod.deleted_seen.is_some_and(|seen| seen + self.rules.patience(pod) <= now),
            containers: pod.containers.iter().map(container).collect(),
        }
    }

    /// Containers that have run for so long, of whose beginning nothing is remembered and which `wanted` (uid of the pod, name) takes; at
    /// most `most`.
    pub(in super::super) fn unremembered(
        &self,
        after: Duration,
        most: usize,
        mut wanted: impl FnMut(&str, &str) -> bool,
    ) -> Vec<(JobId, LogSource, LogContainer)> {
        let now = Timestamp::now();
        let entries = self.entries();
        let seen = self.first_lines.seen();
        let mut found = Vec::new();
        for (id, pod) in entries.all_pods() {
            let known = seen.get(&pod.uid);
            for facts in &pod.containers {
                let Stage::Running { started: Some(started) } = facts.stage else { continue };
                if found.len() >= most {
                    return found;
                }
                let is_known = known.is_some_and(|lines| lines.iter().any(|(name, _)| *name == facts.name));
                if started + after <= now && !is_known && wanted(&pod.uid, &facts.name) {
                    found.push((id, self.source(pod, now), container(facts)));
                }
            }
        }
        found
    }

    /// What is remembered of the beginning of a log.
    pub(in super::super) fn first_line(&self, uid: &str, container: &str) -> Option<Kept> {
        let seen = self.first_lines.seen();
        let (_, kept) = seen.get(uid)?.iter().find(|(name, _)| &**name == container)?;
        Some(*kept)
    }

    /// Remembers the beginning of a log, unless an earlier one is remembered.
    pub(in super::super) fn remember_first_line(&self, uid: &str, container: &Arc<str>, kept: Kept) {
        let mut seen = self.first_lines.seen();
        let lines = seen.entry(uid.into()).or_default();
        if !lines.iter().any(|(name, _)| name == container) {
            lines.push((Arc::clone(container), kept));
        }
    }

    /// Notes that a log begins here by now, after what was missing was told.
    pub(in super::super) fn first_line_is(&self, uid: &str, container: &str, first: jiff::Timestamp) {
        let mut seen = self.first_lines.seen();
        let lines = seen.get_mut(uid).into_iter().flatten();
        lines.filter(|(name, _)| &**name == container).for_each(|(_, kept)| kept.first = first);
    }
}

fn container(facts: &ContainerFacts) -> LogContainer {
    LogContainer {
        name: Arc::clone(&facts.name),
        id: facts.id.as_ref().map(ToString::to_string),
        has_run: facts.has_run(),
        ended: facts.ended().is_some(),
        started: facts.started(),
        finished: facts.ended().and_then(|ended| ended.finished),
    }
}
