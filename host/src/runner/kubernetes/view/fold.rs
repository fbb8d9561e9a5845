//! From the facts about a Job and its pods to the state of the run. Pure: time and everything else come in as arguments.
//!
//! Invariant: a run has ended only when nothing of it writes any more. Pods tell that first; the Job's own conditions, seconds later,
//! count only where retries are left or where the pods do not tell why.

use std::time::Duration;

use super::facts::{ContainerFacts, Ended, JobFacts, Phase, PodFacts, Role};
use super::message;
use crate::core::{EndReason, ExitState, RunState, Timestamp};

/// How long a cause is waited for that may come after the end: the deadline's, the deletion's, the disruption's.
const CAUSE: Duration = Duration::from_secs(3);

/// How long pods are waited for of which the Job knows already; the API server sends a bookmark every minute.
const PODS: Duration = Duration::from_secs(75);

/// Everything from which a run's state follows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) job: Option<&'a JobFacts>,
    /// In order of creation.
    pub(super) pods: &'a [PodFacts],
    /// How many more there were.
    pub(super) pods_gone: usize,
    /// Why no pod could be made.
    pub(super) creation_failure: Option<&'a str>,
    /// What the cluster last warned of about a pod.
    pub(super) warning: Option<&'a str>,
    /// What it was last seen to wait for.
    pub(super) waited_for: Option<&'a str>,
    /// Up to which version of the cluster all pods are known.
    pub(super) pods_version: u64,
    pub(super) now: Timestamp,
    pub(super) rules: Rules,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// In which a run must have started.
    pub(super) start_timeout: Option<Duration>,
    /// From SIGTERM to SIGKILL, at least.
    pub(super) grace: Duration,
    /// After which a pod is given up that should have ended by then.
    pub(super) lost_after: Duration,
}

impl Rules {
    /// How long after the request to delete it a pod is given up that does not end. Who deletes it may give it more time than we do.
    pub(super) fn patience(&self, pod: &PodFacts) -> Duration {
        self.grace.max(pod.grace) + self.lost_after
    }
}

/// A run's state, and when it may be another although nothing changed.
#[derive(Debug)]
pub(super) struct Folded {
    pub(super) state: RunState,
    pub(super) again: Option<Timestamp>,
    /// What it waits for, where it has not started.
    pub(super) waits_for: Option<String>,
}

/// What is known of an end.
enum Verdict {
    End(ExitState),
    /// Not yet; `again` as in [`Folded`].
    Later(Option<Timestamp>),
}

/// The run's state. There must be a Job or a pod.
pub(super) fn fold(facts: &Facts<'_>) -> Folded {
    if facts.job.is_some_and(|job| job.incomplete && job.deleted.is_none()) {
        return Folded { state: RunState::Incomplete, again: None, waits_for: None };
    }
    let verdict = match facts.newest() {
        Some(pod) if pod.has_ended() => facts.ended(pod),
        Some(pod) => facts.alive(pod),
        None => facts.without_pod(),
    };
    let again = match verdict {
        Verdict::End(exit) => return Folded { state: RunState::Ended(exit), again: None, waits_for: None },
        Verdict::Later(again) => again,
    };
    let suspended = facts.job.is_some_and(|job| job.suspended);
    let started = facts.started().filter(|_| !suspended);
    if let Some(started) = started
        && !facts.newest().is_some_and(PodFacts::is_idle)
    {
        return Folded { state: RunState::Running { started, message: None }, again, waits_for: None };
    }
    // Not started, or not gone on: behind its init containers, or in another attempt.
    let waits_for = facts.waits_for();
    let message = waits_for.as_ref().map(|what| message::clipped(format!("waiting: {what}")));
    let (expired, again) = facts.start_timeout(again);
    let state = match (expired, started) {
        (Some(exit), _) => return Folded { state: RunState::Ended(exit), again: None, waits_for },
        (None, Some(started)) => RunState::Running { started, message },
        (None, None) => RunState::Waiting { message },
    };
    Folded { state, again, waits_for }
}

impl<'a> Facts<'a> {
    /// The pod that counts: of two made in the same second, the one that goes on.
    pub(super) fn newest(&self) -> Option<&'a PodFacts> {
        self.pods.iter().max_by_key(|pod| (pod.created, !pod.has_ended()))
    }

    /// When the first container of all attempts started.
    fn started(&self) -> Option<Timestamp> {
        let containers =
            || self.pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)));
        let told = containers().filter_map(|(_, container)| container.started()).min();
        told.or_else(|| containers().find(|(_, container)| container.has_run()).map(|(pod, _)| pod.created))
    }

    fn waits_for(&self) -> Option<String> {
        // A warning is of the time before the first container.
        let warning = self.warning.filter(|_| self.newest().is_none_or(|pod| !pod.has_run()));
        message::waits_for(self.job, self.newest(), self.creation_failure, warning)
    }

    /// Whether the Job will try again, or has not said yet that it will not.
    fn goes_on(&self) -> bool {
        let Some(job) = self.job else { return false };
        if job.deleted.is_some() || job.failure.is_some() || job.complete {
            return false;
        }
        // Deleted pods may have been taken away by a queue, which is no failure: of those the Job speaks.
        let failed = self.pods.iter().filter(|pod| pod.deleted.is_none() && pod.has_ended() && !has_succeeded(pod));
        let failed = failed.count().max(job.failed_pods);
        job.suspended || u32::try_from(failed).is_ok_and(|failed| failed <= job.retries)
    }

    /// When to look again for pods of which the Job knows and this server does not yet.
    fn pods_missing(&self) -> Option<Timestamp> {
        let job = self.job?;
        let told = job.ended_pods.saturating_add(if self.pods.is_empty() { job.active_pods } else { 0 });
        if told <= self.pods.len().saturating_add(self.pods_gone) || self.pods_version >= job.version {
            return None;
        }
        let until = job.settled_seen? + PODS;
        (self.now < until).then_some(until)
    }

    /// The newest pod has ended.
    fn ended(&self, pod: &PodFacts) -> Verdict {
        let success = has_succeeded(pod);
        let finished = pod.containers.iter().filter_map(|container| container.ended()?.finished).max();
        // Seconds are all that the cluster tells: who ended in the second in which it was asked to succeeded by itself.
        let in_time = |finished: Timestamp, asked: Timestamp| {
            finished < asked || (finished == asked && success && !pod.told_to_stop)
        };
        let after = |asked: Timestamp| finished.is_none_or(|finished| !in_time(finished, asked));
        let deadline = self.job.filter(|job| is_deadline(job)).and_then(|job| job.failure.as_ref());
        let deadline = deadline.is_some_and(|failure| failure.at.is_none_or(after));
        let cancelled = self.job.is_some_and(|job| job.deleted.is_some_and(after));
        let stopped = deadline || cancelled || pod.told_to_stop || pod.deleted.is_some_and(after);
        if success && !stopped {
            return Verdict::End(self.completed(finished, message::COMPLETED));
        }
        let failing = deciding(pod);
        let name = failing.filter(|container| container.has_run()).map(|container| &*container.name);
        let waited = pod.ended_seen.is_none_or(|seen| seen + CAUSE <= self.now);
        let later = Verdict::Later(pod.ended_seen.map(|seen| seen + CAUSE));
        let disturbed = pod.disruption.is_some() || pod.trouble.is_some();
        let own = failing.and_then(|container| Some((container, container.ended()?)));
        if !stopped
            && !disturbed
            && let Some((container, ended)) = own
        {
            if self.goes_on() {
                return Verdict::Later(None);
            }
            if let Some(until) = self.pods_missing() {
                return Verdict::Later(Some(until));
            }
            return if may_have_cause(ended) && !waited && !self.is_settled() {
                later
            } else {
                Verdict::End(self.failed(container, ended, finished))
            };
        }
        // It was stopped, or taken away.
        if deadline || cancelled {
            let reason = if deadline { EndReason::DeadlineExceeded } else { EndReason::Cancelled };
            return Verdict::End(self.stopped(reason, name, finished));
        }
        if self.goes_on() {
            return Verdict::Later(None);
        }
        if let Some(until) = self.pods_missing() {
            return Verdict::Later(Some(until));
        }
        if let Some(sentence) = message::disturbance(pod) {
            return Verdict::End(self.exit(EndReason::Lost, name, sentence, finished));
        }
        if !waited && self.job.is_none() {
            return later;
        }
        Verdict::End(match own {
            _ if success => self.completed(finished, message::COMPLETED),
            Some((container, ended)) if !stopped => self.failed(container, ended, finished),
            _ if pod.deleted.is_none() => self.exit(EndReason::Error, name, message::POD_FAILED.to_owned(), finished),
            _ => self.exit(EndReason::Cancelled, name, message::pod_deleted(&pod.name), finished),
        })
    }

    /// The newest pod has not ended.
    fn alive(&self, pod: &PodFacts) -> Verdict {
        let Some(asked) = pod.deleted_seen else { return Verdict::Later(None) };
        let patience = self.rules.patience(pod);
        let given_up = asked + patience;
        if self.now < given_up || self.job.is_some_and(|job| job.suspended) {
            return Verdict::Later(Some(given_up));
        }
        if self.goes_on() {
            return Verdict::Later(None);
        }
        let sentence = message::node_lost(pod, patience);
        Verdict::End(match self.job {
            Some(job) if is_deadline(job) => self.stopped(EndReason::DeadlineExceeded, None, None),
            Some(job) if job.deleted.is_some() => {
                self.exit(EndReason::Cancelled, None, format!("cancelled; {sentence}"), None)
            }
            _ => self.exit(EndReason::Lost, None, sentence, None),
        })
    }

    /// There is a Job without pods.
    fn without_pod(&self) -> Verdict {
        let Some(job) = self.job.filter(|_| self.is_settled()) else { return Verdict::Later(None) };
        if let Some(until) = self.pods_missing() {
            return Verdict::Later(Some(until));
        }
        Verdict::End(match &job.failure {
            _ if job.complete => self.completed(None, message::COMPLETED_WITHOUT_POD),
            Some(_) if is_deadline(job) => self.stopped(EndReason::DeadlineExceeded, None, None),
            Some(failure) => self.exit(EndReason::Lost, None, message::failed_without_pod(failure), failure.at),
            None => self.stopped(EndReason::Cancelled, None, job.deleted),
        })
    }

    fn is_settled(&self) -> bool {
        self.job.is_some_and(|job| job.deleted.is_some() || job.failure.is_some() || job.complete)
    }

    /// The end of a run that has not started in time, or not gone on, and otherwise when to look again.
    fn start_timeout(&self, again: Option<Timestamp>) -> (Option<ExitState>, Option<Timestamp>) {
        let newest = self.newest();
        let stays = self.is_settled()
            || self.job.is_some_and(|job| job.suspended)
            || newest.is_some_and(|pod| pod.deleted.is_some() || pod.has_ended());
        let since = match (newest, self.job) {
            (Some(pod), _) if self.pods.len() > 1 || pod.has_run() => Some(pod.idle_since()),
            (_, Some(job)) => Some(job.resumed.map_or(job.created, |resumed| resumed.max(job.created))),
            (Some(pod), None) => Some(pod.created),
            (None, None) => None,
        };
        let (Some(timeout), Some(since)) = (self.rules.start_timeout.filter(|_| !stays), since) else {
            return (None, again);
        };
        let until = since + timeout;
        if self.now < until {
            return (None, Some(again.map_or(until, |again| again.min(until))));
        }
        let sentence = message::not_started(timeout, self.waits_for());
        (Some(self.exit(EndReason::StartError, None, sentence, Some(self.now))), None)
    }

    fn exit(
        &self,
        reason: EndReason,
        container: Option<&str>,
        message: String,
        finished: Option<Timestamp>,
    ) -> ExitState {
        let started = self.started();
        let told = finished
            .or_else(|| self.job.and_then(|job| job.failure.as_ref()?.at))
            .or_else(|| self.newest()?.deleted)
            .unwrap_or(self.now);
        ExitState {
            reason,
            container: container.map(ToOwned::to_owned),
            exit_code: None,
            signal: None,
            message: message::clipped(message),
            started,
            finished: started.map_or(told, |started| told.max(started)),
        }
    }

    fn completed(&self, finished: Option<Timestamp>, message: &str) -> ExitState {
        let mut exit = self.exit(EndReason::Completed, None, message.to_owned(), finished);
        exit.exit_code = Some(0);
        exit
    }

    fn stopped(&self, reason: EndReason, container: Option<&str>, finished: Option<Timestamp>) -> ExitState {
        let waited_for = self.waits_for().or_else(|| self.waited_for.map(ToOwned::to_owned));
        let deadline = self.job.and_then(|job| job.deadline_seconds);
        let sentence = message::stopped(reason, deadline, self.started().is_some(), waited_for);
        self.exit(reason, container, sentence, finished)
    }

    fn failed(&self, container: &ContainerFacts, ended: &Ended, finished: Option<Timestamp>) -> ExitState {
        let (reason, sentence) = message::failed(container, ended);
        let mut exit = self.exit(reason, Some(&container.name), sentence, finished);
        if ended.started.is_some() {
            exit.signal = signal(ended);
            exit.exit_code = exit.signal.is_none().then_some(ended.exit_code);
        }
        exit
    }
}

/// The signal that ended a container. Runtimes tell it as 128 more, as shells do.
pub(super) fn signal(ended: &Ended) -> Option<i32> {
    ended.signal.or_else(|| Some(ended.exit_code.checked_sub(128)?).filter(|signal| (1..=31).contains(signal)))
}

/// Whether something outside may have ended the container so, of which the cluster may still tell.
fn may_have_cause(ended: &Ended) -> bool {
    matches!(signal(ended), Some(9 | 15)) && &*ended.reason != message::OOM_KILLED
}

fn is_deadline(job: &JobFacts) -> bool {
    job.failure.as_ref().is_some_and(|failure| &*failure.reason == "DeadlineExceeded")
}

fn has_succeeded(pod: &PodFacts) -> bool {
    let mut work = pod.containers.iter().filter(|container| container.role != Role::Sidecar);
    match pod.phase {
        Phase::Succeeded => true,
        Phase::Failed => false,
        _ => {
            pod.containers_ended() && work.all(|container| container.ended().is_some_and(|ended| ended.exit_code == 0))
        }
    }
}

/// The container that decided how a failed pod ended: the one that failed first.
fn deciding(pod: &PodFacts) -> Option<&ContainerFacts> {
    let failed = pod.containers.iter().filter(|container| {
        container.role != Role::Sidecar && container.ended().is_some_and(|ended| ended.exit_code != 0)
    });
    failed.min_by_key(|container| container.ended().and_then(|ended| ended.finished).unwrap_or_default())
}
