//! One sentence on what a run waits for or how it ended, made of what the cluster says.

use std::time::Duration;

use super::facts::{Condition, ContainerFacts, Ended, JobFacts, PodFacts, Stage};
use super::fold::signal;
use crate::core::EndReason;
use crate::runner::signal::signal_name;

pub(super) const OOM_KILLED: &str = "OOMKilled";
pub(super) const COMPLETED: &str = "every container ended with exit code 0";
pub(super) const COMPLETED_WITHOUT_POD: &str = "every container ended with exit code 0; its pod is gone";

pub(super) const POD_FAILED: &str = "its pod failed, and the cluster does not say why";

/// Messages are at most so many characters.
const LONGEST: usize = 1000;

/// What stands before the error itself where a pull is tried again. Without it the sentence stays the same from one attempt to the next.
const PULL_ERROR: &str = ": ErrImagePull: ";

pub(super) fn clipped(text: String) -> String {
    if text.len() <= LONGEST { text } else { text.chars().take(LONGEST).collect() }
}

/// `reason: message`, or the one that is there.
fn both(reason: &str, message: &str) -> String {
    match (reason, message) {
        ("", text) | (text, "") => text.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

/// What a run that has not started waits for, where that is something special.
pub(super) fn waits_for(
    job: Option<&JobFacts>,
    pod: Option<&PodFacts>,
    creation_failure: Option<&str>,
    warning: Option<&str>,
) -> Option<String> {
    if let Some(job) = job.filter(|job| job.suspended) {
        return Some(match &job.queue {
            Some(queue) => format!("in queue '{queue}'"),
            None => "its Job is suspended".to_owned(),
        });
    }
    let Some(pod) = pod else { return creation_failure.map(|why| format!("its pod could not be made: {why}")) };
    if let Some(why) = &pod.unschedulable {
        return Some(match &*why.reason {
            "SchedulingGated" => "a scheduling gate holds its pod".to_owned(),
            _ => format!("no node takes its pod: {}", both("", &why.message)),
        });
    }
    let special = pod.containers.iter().find_map(|container| match &container.stage {
        Stage::Waiting { reason, message } => container_waits(container, reason, message),
        _ => None,
    });
    special.or_else(|| warning.map(ToOwned::to_owned))
}

fn container_waits(container: &ContainerFacts, reason: &str, message: &str) -> Option<String> {
    let (name, image) = (&container.name, &container.image);
    match reason {
        "" | "ContainerCreating" | "PodInitializing" => None,
        "ErrImagePull"
        | "ImagePullBackOff"
        | "ErrImageNeverPull"
        | "InvalidImageName"
        | "ImageInspectError"
        | "RegistryUnavailable" => {
            let error = message.split_once(PULL_ERROR).map_or(message, |(_, error)| error);
            Some(format!("image '{image}' of container '{name}' cannot be pulled: {}", both("", error)))
        }
        "CreateContainerConfigError" => Some(format!("container '{name}' cannot be configured: {message}")),
        _ => Some(format!("container '{name}' cannot be started: {}", both(reason, message))),
    }
}

pub(super) fn not_started(timeout: Duration, why: Option<String>) -> String {
    let seconds = timeout.as_secs();
    match why {
        Some(why) => format!("not started within {seconds} s: {why}"),
        None => format!("not started within {seconds} s"),
    }
}

/// `waited_for`: what it waited for when it was stopped, where that is known.
pub(super) fn stopped(
    reason: EndReason,
    deadline: Option<u32>,
    has_started: bool,
    waited_for: Option<String>,
) -> String {
    let mut text = match (reason, deadline) {
        (EndReason::DeadlineExceeded, Some(seconds)) => format!("stopped at its deadline of {seconds} s"),
        (EndReason::DeadlineExceeded, None) => "stopped at its deadline".to_owned(),
        _ => "cancelled".to_owned(),
    };
    if !has_started {
        text.push_str(" before it started");
    }
    if let Some(why) = waited_for {
        text.push_str(if has_started { " while it waited: " } else { ": " });
        text.push_str(&why);
    }
    text
}

pub(super) fn pod_deleted(name: &str) -> String {
    format!("its pod '{name}' was deleted")
}

pub(super) fn node_lost(pod: &PodFacts, waited: Duration) -> String {
    let seconds = waited.as_secs();
    match &pod.node {
        Some(node) => format!("node '{node}' did not end its pod within {seconds} s"),
        None => format!("its pod did not end within {seconds} s"),
    }
}

/// What took a pod away, where something did.
pub(super) fn disturbance(pod: &PodFacts) -> Option<String> {
    let on_node = pod.node.as_ref().map(|node| format!(" from node '{node}'")).unwrap_or_default();
    let because = |why: &Condition| if why.message.is_empty() { String::new() } else { format!(": {}", why.message) };
    if let Some(why) = &pod.trouble {
        return Some(match &*why.reason {
            "Evicted" => format!("evicted{on_node}{}", because(why)),
            "NodeLost" => format!("its node was lost{}", because(why)),
            "Terminated" | "NodeShutdown" | "Shutdown" => format!("its node was shut down{}", because(why)),
            reason => format!("its pod failed: {}", both(reason, &why.message)),
        });
    }
    let why = pod.disruption.as_ref()?;
    Some(match &*why.reason {
        "EvictionByEvictionAPI" => format!("evicted{on_node}{}", because(why)),
        "PreemptionByScheduler" => format!("displaced by a pod of higher priority{}", because(why)),
        "DeletionByTaintManager" => format!("removed{on_node}, which is not available{}", because(why)),
        "DeletionByPodGC" => format!("its node is gone{}", because(why)),
        "TerminationByKubelet" => format!("ended by its node{}", because(why)),
        reason => format!("taken away: {}", both(reason, &why.message)),
    })
}

pub(super) fn failed_without_pod(failure: &Condition) -> String {
    format!("its Job failed and its pod is gone: {}", both(&failure.reason, &failure.message))
}

/// How a container failed.
pub(super) fn failed(container: &ContainerFacts, ended: &Ended) -> (EndReason, String) {
    let name = &container.name;
    if &*ended.reason == "ContainerStatusUnknown" {
        return (
            EndReason::Lost,
            format!("what became of container '{name}' is not known: {}", both("", &ended.message)),
        );
    }
    if ended.started.is_none() {
        let why = both("", if ended.message.is_empty() { &ended.reason } else { &ended.message });
        return (EndReason::StartError, format!("container '{name}' could not be started: {why}"));
    }
    let signal = signal(ended);
    let mut text = match signal {
        Some(number) => format!("container '{name}' was ended by signal {number} ({})", signal_name(number)),
        None => format!("container '{name}' ended with exit code {}", ended.exit_code),
    };
    let out_of_memory = &*ended.reason == OOM_KILLED;
    if out_of_memory {
        text.push_str(" when it had no memory left");
    }
    // Kill, abort, bus error and segmentation fault are how programs end that were refused memory.
    if let Some(limit) =
        container.memory_limit.as_ref().filter(|_| out_of_memory || matches!(signal, Some(6 | 7 | 9 | 11)))
    {
        text.push_str(&format!("; its memory is limited to {limit}"));
    }
    (if out_of_memory { EndReason::OomKilled } else { EndReason::Error }, text)
}
