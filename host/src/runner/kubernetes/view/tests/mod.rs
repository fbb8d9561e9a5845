//! The view on objects as API servers write them, and on a fake API server.

mod any_facts;
mod api;
mod entries;
mod fold;
mod logs;
mod watch;

use serde_json::{Value, json};

use super::facts::{JobFacts, PodFacts};
use super::fold::{Facts, Folded, Rules};
use super::*;

/// Seconds after which a run that has not started is given up, in these tests.
const START_TIMEOUT: u64 = 600;
const GRACE: u64 = 10;
const LOST_AFTER: u64 = 60;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_767_225_600_000 + seconds * 1000)
}

fn rules() -> Rules {
    let seconds = Duration::from_secs;
    Rules { start_timeout: Some(seconds(START_TIMEOUT)), grace: seconds(GRACE), lost_after: seconds(LOST_AFTER) }
}

fn job_id() -> JobId {
    "01a20b46-0ba2-77df-9211-339dbeb28b9a".parse().unwrap()
}

fn job_name() -> String {
    format!("pygeoapi-job-{}", job_id())
}

/// Puts members over an object, at any depth.
fn merge(object: &mut Value, over: &Value) {
    match (object, over) {
        (Value::Object(object), Value::Object(over)) => {
            for (key, value) in over {
                merge(object.entry(key.as_str()).or_insert(Value::Null), value);
            }
        }
        (object, over) => *object = over.clone(),
    }
}

/// A Job that was created at 0, with this over it.
fn job_json(over: &Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": job_name(), "namespace": "here", "uid": "j1", "resourceVersion": "100", "generation": 1,
            "creationTimestamp": at(0).to_string(), "finalizers": ["pygeoapi.io/finalizer-log-retrieval"],
            "labels": { "app.kubernetes.io/managed-by": "vespiary", "vespiary.io/job-id": job_id().to_string() },
            "annotations": { "pygeoapi.io/process_id": "x" },
            "managedFields": [{ "manager": "vespiary", "operation": "Update", "fieldsV1": { "f:spec": {} } }]
        },
        "spec": { "parallelism": 1, "completions": 1, "backoffLimit": 0, "suspend": false, "template": { "spec": {} } },
        "status": { "active": 1, "ready": 0, "terminating": 0, "startTime": at(0).to_string(), "uncountedTerminatedPods": {} }
    });
    merge(&mut job, over);
    job
}

/// A pod that was created at 1 and runs on a node, with this over it.
fn pod_json(over: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{}-abcde", job_name()), "generateName": format!("{}-", job_name()), "namespace": "here", "uid": "p1",
            "resourceVersion": "101", "creationTimestamp": at(1).to_string(),
            "finalizers": ["pygeoapi.io/finalizer-log-retrieval", "batch.kubernetes.io/job-tracking"],
            "labels": { "app.kubernetes.io/managed-by": "vespiary", "vespiary.io/job-id": job_id().to_string() }
        },
        "spec": {
            "nodeName": "node-1", "restartPolicy": "Never",
            "containers": [{ "name": "main", "image": "lab/tool:1", "resources": { "limits": { "memory": "64Mi" } } }]
        },
        "status": { "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "True", "lastProbeTime": null }] }
    });
    merge(&mut pod, over);
    pod
}

fn running(since: i64) -> Value {
    json!({ "phase": "Running", "containerStatuses": [main_status(&json!({ "running": { "startedAt": at(since).to_string() } }))] })
}

fn main_status(state: &Value) -> Value {
    json!({ "name": "main", "containerID": "containerd://c1", "state": state, "lastState": {}, "restartCount": 0 })
}

/// Status of a pod whose main container ended so.
fn terminated(code: i32, reason: &str, from: i64, to: i64) -> Value {
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let state = json!({ "terminated": { "exitCode": code, "reason": reason, "startedAt": at(from).to_string(),
        "finishedAt": at(to).to_string(), "containerID": "containerd://c1" } });
    json!({ "phase": phase, "containerStatuses": [main_status(&state)] })
}

fn condition(kind: &str, reason: &str, message: &str, when: i64) -> Value {
    json!({ "type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": at(when).to_string() })
}

fn read_job(job: &Value, now: Timestamp) -> JobFacts {
    JobFacts::read(&serde_json::from_value(job.clone()).unwrap(), now).unwrap()
}

fn read_pod(pod: &Value, now: Timestamp) -> PodFacts {
    PodFacts::read(&serde_json::from_value(pod.clone()).unwrap(), now).unwrap()
}

/// Folds a Job and pods that were first seen at one time and are judged at another.
fn judged(job: Option<&Value>, pods: &[Value], seen: i64, now: i64) -> Folded {
    let job = job.map(|job| read_job(job, at(seen)));
    let pods: Vec<_> = pods.iter().map(|pod| read_pod(pod, at(seen))).collect();
    super::fold::fold(&Facts {
        job: job.as_ref(),
        pods: &pods,
        pods_gone: 0,
        creation_failure: None,
        warning: None,
        waited_for: None,
        pods_version: 1000,
        now: at(now),
        rules: rules(),
    })
}
