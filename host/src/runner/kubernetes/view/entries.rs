//! All runs that are known: facts go in, the runs that they changed come out. Pure but for the time that is passed in.
//!
//! Invariant: an end that was shown stays as it was shown, whatever the cluster says later of the same Job. Nothing is concluded before
//! Jobs and pods were both listed: half of the facts are other facts.

use std::collections::HashMap;

use super::facts::{JobFacts, PodFacts};
use super::fold::{Facts, Rules, fold};
use crate::core::{JobId, RunObservation, RunState, Timestamp};

/// A pod, by what is done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct PodRef {
    pub(in super::super) name: String,
    pub(in super::super) uid: String,
    /// Whether our finalizer is on it.
    pub(in super::super) held: bool,
    /// Whether nothing of it runs any more.
    pub(in super::super) terminated: bool,
}

/// What is known of one run.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) job: Option<JobFacts>,
    /// In order of creation.
    pub(super) pods: Vec<PodFacts>,
    /// How many more there were.
    pods_gone: usize,
    /// Whether one of these had run.
    logs_gone: bool,
    creation_failure: Option<Box<str>>,
    warning: Option<Box<str>>,
    /// What it was last seen to wait for.
    waited_for: Option<Box<str>>,
    shown: Option<RunState>,
    /// When to look again although nothing changed.
    again: Option<Timestamp>,
    /// When its pods were last asked to be deleted.
    pub(super) healed: Option<Timestamp>,
}

impl Entry {
    /// Whether anything of it waits for us.
    fn is_held(&self) -> bool {
        self.job.as_ref().is_some_and(|job| job.held && !job.let_go)
            || self.pods.iter().any(|pod| pod.held && !pod.let_go)
    }

    pub(super) fn shown(&self) -> Option<&RunState> {
        self.shown.as_ref()
    }

    /// Whether pods that have run, by what was seen or by what their Job says, are not there any more.
    pub(super) fn has_lost_pods(&self) -> bool {
        let succeeded = matches!(&self.shown, Some(RunState::Ended(exit)) if exit.is_success());
        let told = self.job.as_ref().map_or(0, |job| job.ended_pods).max(usize::from(succeeded));
        self.logs_gone || told > self.pods.len().saturating_add(self.pods_gone)
    }

    /// Pods that run although their Job is being deleted: the garbage collector waits until it is gone, and that waits for us.
    fn left_running(&self) -> impl Iterator<Item = &PodFacts> {
        let deleted = self.job.as_ref().is_some_and(|job| job.held && job.deleted.is_some());
        self.pods.iter().filter(move |pod| deleted && pod.deleted.is_none() && !pod.has_ended())
    }
}

/// All runs.
#[derive(Debug)]
pub(super) struct Entries {
    runs: HashMap<JobId, Entry>,
    rules: Rules,
    /// Whether Jobs and pods were both listed.
    whole: bool,
    /// Up to which version all pods are known.
    pods_version: u64,
}

impl Entries {
    pub(super) fn new(rules: Rules) -> Self {
        Self { runs: HashMap::new(), rules, whole: false, pods_version: 0 }
    }

    pub(super) fn get(&self, id: JobId) -> Option<&Entry> {
        self.runs.get(&id)
    }

    /// Takes a Job; what changed by it.
    pub(super) fn job(&mut self, id: JobId, mut job: JobFacts, now: Timestamp) -> Option<RunObservation> {
        let entry = self.runs.entry(id).or_default();
        match &entry.job {
            Some(before) if before.uid == job.uid => job.remember(before),
            Some(_) => {
                // Another Job of the same name: another run.
                entry.shown = None;
                entry.pods_gone = 0;
                entry.logs_gone = false;
                entry.creation_failure = None;
                entry.warning = None;
                entry.waited_for = None;
            }
            None => {}
        }
        entry.job = Some(job);
        self.refresh(id, now)
    }

    pub(super) fn job_gone(&mut self, id: JobId, uid: &str, now: Timestamp) -> Option<RunObservation> {
        let entry = self.runs.get_mut(&id)?;
        if entry.job.as_ref().is_some_and(|job| &*job.uid == uid) {
            entry.job = None;
        }
        self.refresh(id, now)
    }

    /// Takes a pod; what changed by it.
    pub(super) fn pod(&mut self, id: JobId, mut pod: PodFacts, now: Timestamp) -> Option<RunObservation> {
        let entry = self.runs.entry(id).or_default();
        match entry.pods.iter_mut().find(|known| known.uid == pod.uid) {
            Some(known) => {
                pod.remember(known);
                *known = pod;
            }
            None => {
                entry.warning = None;
                entry.pods.push(pod);
                entry.pods.sort_by(|one, other| (one.created, &one.name).cmp(&(other.created, &other.name)));
            }
        }
        self.refresh(id, now)
    }

    pub(super) fn pod_gone(&mut self, id: JobId, uid: &str, now: Timestamp) -> Option<RunObservation> {
        let entry = self.runs.get_mut(&id)?;
        let before = entry.pods.len();
        entry.logs_gone |= entry.pods.iter().any(|pod| &*pod.uid == uid && pod.has_run());
        entry.pods.retain(|pod| &*pod.uid != uid);
        entry.pods_gone = entry.pods_gone.saturating_add(before - entry.pods.len());
        self.refresh(id, now)
    }

    /// Takes a warning about the Job itself or one of its pods. Warnings of runs that are not known are of no use.
    pub(super) fn warned(&mut self, id: JobId, about: About, text: String, now: Timestamp) -> Option<RunObservation> {
        let entry = self.runs.get_mut(&id)?;
        let text = Some(text.into_boxed_str());
        match about {
            About::Creation => entry.creation_failure = text,
            About::Pod => entry.warning = text,
        }
        self.refresh(id, now)
    }

    /// Forgets the Jobs that a list of this version did not name.
    pub(super) fn jobs_listed(&mut self, named: &HashMap<JobId, Box<str>>, version: u64, now: Timestamp) {
        for (id, entry) in &mut self.runs {
            let Some(job) = &entry.job else { continue };
            if job.version <= version && named.get(id) != Some(&job.uid) {
                entry.job = None;
            }
        }
        self.sweep(now);
    }

    /// Forgets the pods that a list of this version did not name.
    pub(super) fn pods_listed(&mut self, named: &std::collections::HashSet<Box<str>>, version: u64, now: Timestamp) {
        for entry in self.runs.values_mut() {
            entry.pods.retain(|pod| pod.version > version || named.contains(&pod.uid));
        }
        self.pods_reached(version);
        self.sweep(now);
    }

    pub(super) fn pods_reached(&mut self, version: u64) {
        self.pods_version = self.pods_version.max(version);
    }

    /// From here on the facts are whole. What follows is told by the list that comes next.
    pub(super) fn complete(&mut self, now: Timestamp) {
        self.whole = true;
        self.sweep(now);
    }

    /// Our finalizer is off the Job and these pods. A pod that came meanwhile keeps the run in the view.
    pub(super) fn let_go(&mut self, id: JobId, pods: &[PodRef]) {
        let Some(entry) = self.runs.get_mut(&id) else { return };
        entry.job.iter_mut().for_each(|job| job.let_go = true);
        for pod in &mut entry.pods {
            pod.let_go |= pods.iter().any(|gone| *gone.uid == *pod.uid);
        }
        if !entry.is_held() {
            entry.shown = None;
            entry.again = None;
        }
    }

    /// Looks again where time alone may have changed something.
    pub(super) fn due(&mut self, now: Timestamp) -> Vec<RunObservation> {
        let due = self.runs.iter().filter(|(_, entry)| entry.again.is_some_and(|again| again <= now));
        let due: Vec<_> = due.map(|(id, _)| *id).collect();
        due.into_iter().filter_map(|id| self.refresh(id, now)).collect()
    }

    fn sweep(&mut self, now: Timestamp) {
        let ids: Vec<_> = self.runs.keys().copied().collect();
        for id in ids {
            self.refresh(id, now);
        }
        self.runs.shrink_to_fit();
    }

    /// All runs as they are now.
    pub(super) fn list(&self) -> Vec<RunObservation> {
        let shown = self.runs.iter().filter_map(|(id, entry)| Some((*id, entry.shown.clone()?)));
        shown.map(|(job_id, state)| RunObservation { job_id, state }).collect()
    }

    /// Every pod, with its run.
    pub(super) fn all_pods(&self) -> impl Iterator<Item = (JobId, &PodFacts)> {
        self.runs.iter().flat_map(|(id, entry)| entry.pods.iter().map(|pod| (*id, pod)))
    }

    /// The pods of a run, in order of creation.
    pub(super) fn pods(&self, id: JobId) -> Vec<PodRef> {
        let pods = self.runs.get(&id).into_iter().flat_map(|entry| &entry.pods);
        let reference = |pod: &PodFacts| PodRef {
            name: pod.name.to_string(),
            uid: pod.uid.to_string(),
            held: pod.held && !pod.let_go,
            terminated: pod.has_ended(),
        };
        pods.map(reference).collect()
    }

    /// Pods that have to be deleted by us; each is named once until `pause` is over.
    pub(super) fn left_pods(&mut self, now: Timestamp, pause: std::time::Duration) -> Vec<(JobId, PodRef)> {
        let mut found = Vec::new();
        for (id, entry) in &mut self.runs {
            if entry.healed.is_some_and(|healed| now < healed + pause) {
                continue;
            }
            let before = found.len();
            found.extend(entry.left_running().map(|pod| {
                let (name, uid) = (pod.name.to_string(), pod.uid.to_string());
                (*id, PodRef { name, uid, held: pod.held, terminated: false })
            }));
            if found.len() > before {
                entry.healed = Some(now);
            }
        }
        found
    }

    /// Draws the conclusion from a run's facts again.
    fn refresh(&mut self, id: JobId, now: Timestamp) -> Option<RunObservation> {
        let entry = self.runs.get_mut(&id)?;
        if entry.job.is_none() && entry.pods.is_empty() {
            self.runs.remove(&id);
            return None;
        }
        entry.again = None;
        if !entry.is_held() {
            entry.shown = None;
            return None;
        }
        if !self.whole || matches!(entry.shown, Some(RunState::Ended(_))) {
            return None;
        }
        let folded = fold(&Facts {
            job: entry.job.as_ref(),
            pods: &entry.pods,
            pods_gone: entry.pods_gone,
            creation_failure: entry.creation_failure.as_deref(),
            warning: entry.warning.as_deref(),
            waited_for: entry.waited_for.as_deref(),
            pods_version: self.pods_version,
            now,
            rules: self.rules,
        });
        entry.again = folded.again;
        match folded.waits_for {
            Some(what) => entry.waited_for = Some(what.into()),
            None if matches!(folded.state, RunState::Running { .. }) => entry.waited_for = None,
            None => {}
        }
        if entry.shown.as_ref().is_some_and(|shown| same(shown, &folded.state)) {
            return None;
        }
        entry.shown = Some(folded.state.clone());
        Some(RunObservation { job_id: id, state: folded.state })
    }
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// The making of pods.
    Creation,
    Pod,
}

fn same(one: &RunState, other: &RunState) -> bool {
    match (one, other) {
        (RunState::Incomplete, RunState::Incomplete) => true,
        (RunState::Waiting { message: one }, RunState::Waiting { message: other }) => one == other,
        (
            RunState::Running { started: one, message: what },
            RunState::Running { started: other, message: other_what },
        ) => (one, what) == (other, other_what),
        (RunState::Ended(one), RunState::Ended(other)) => one == other,
        _ => false,
    }
}
