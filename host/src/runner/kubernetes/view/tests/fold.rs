//! From objects to states, one row a case.

use super::*;
use crate::core::{EndReason, ExitState};

fn end(job: &Value, pods: &[Value]) -> ExitState {
    match judged(Some(job), pods, 50, 50).state {
        RunState::Ended(exit) => exit,
        state => panic!("{state:?}"),
    }
}

fn waits(job: &Value, pods: &[Value]) -> Option<String> {
    match judged(Some(job), pods, 50, 50).state {
        RunState::Waiting { message } => message,
        state => panic!("{state:?}"),
    }
}

/// When it is looked at again; it runs until then.
fn runs(job: &Value, pods: &[Value]) -> Option<Timestamp> {
    let folded = judged(Some(job), pods, 50, 50);
    assert!(matches!(folded.state, RunState::Running { .. }), "{:?}", folded.state);
    folded.again
}

fn job() -> Value {
    job_json(&json!({}))
}

fn pod(status: &Value) -> Value {
    pod_json(&json!({ "status": status }))
}

fn waiting(reason: &str, message: &str) -> Value {
    pod(&json!({ "containerStatuses": [main_status(&json!({ "waiting": { "reason": reason, "message": message } }))] }))
}

#[test]
fn what_it_waits_for() {
    let unschedulable = json!({ "status": { "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu." }] }, "spec": { "nodeName": null } });
    let gated = json!({ "status": { "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "SchedulingGated" }] } });
    let pull = "rpc error: code = NotFound desc = failed to pull and unpack image \"lab/tool:1\": not found";
    let backing_off = format!("Back-off pulling image \"lab/tool:1\": ErrImagePull: {pull}");
    let cannot_pull = format!("waiting: image 'lab/tool:1' of container 'main' cannot be pulled: {pull}");
    let cases = [
        (vec![], None),
        (vec![pod(&json!({}))], None),
        (vec![waiting("ContainerCreating", "")], None),
        (
            vec![pod_json(&unschedulable)],
            Some("waiting: no node takes its pod: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
        ),
        (vec![pod_json(&gated)], Some("waiting: a scheduling gate holds its pod")),
        // One sentence for both, which come by turns.
        (vec![waiting("ErrImagePull", pull)], Some(cannot_pull.as_str())),
        (vec![waiting("ImagePullBackOff", &backing_off)], Some(cannot_pull.as_str())),
        (
            vec![waiting("CreateContainerConfigError", "secret \"s\" not found")],
            Some("waiting: container 'main' cannot be configured: secret \"s\" not found"),
        ),
        (
            vec![waiting("CreateContainerError", "x")],
            Some("waiting: container 'main' cannot be started: CreateContainerError: x"),
        ),
    ];
    for (pods, expected) in cases {
        assert_eq!(waits(&job(), &pods).as_deref(), expected);
    }
    let queued =
        json!({ "metadata": { "labels": { "kueue.x-k8s.io/queue-name": "gpu" } }, "spec": { "suspend": true } });
    assert_eq!(waits(&job_json(&queued), &[]).unwrap(), "waiting: in queue 'gpu'");
    assert_eq!(
        waits(&job_json(&json!({ "spec": { "suspend": true } })), &[]).unwrap(),
        "waiting: its Job is suspended"
    );
    // Taken back into the queue: it waits again, although its pod ran and was ended.
    let taken =
        pod_json(&json!({ "metadata": { "deletionTimestamp": at(30).to_string(), "deletionGracePeriodSeconds": 10 },
        "status": terminated(143, "Error", 2, 21) }));
    assert_eq!(waits(&job_json(&queued), &[taken]).unwrap(), "waiting: in queue 'gpu'");
    let held_back = job_json(&json!({ "metadata": { "annotations": { "vespiary.io/incomplete": "secret" } } }));
    assert!(matches!(judged(Some(&held_back), &[], 50, 50).state, RunState::Incomplete));
}

#[test]
fn ends_that_a_container_makes() {
    let complete = end(&job(), &[pod(&terminated(0, "Completed", 2, 9))]);
    assert_eq!((complete.reason, complete.exit_code, complete.signal), (EndReason::Completed, Some(0), None));
    assert_eq!((complete.started, complete.finished), (Some(at(2)), at(9)));
    let cases = [
        (3, "Error", EndReason::Error, Some(3), None, "container 'main' ended with exit code 3"),
        (143, "Error", EndReason::Error, None, Some(15), "container 'main' was ended by signal 15 (SIGTERM)"),
        (
            139,
            "Error",
            EndReason::Error,
            None,
            Some(11),
            "container 'main' was ended by signal 11 (SIGSEGV); its memory is limited to 64Mi",
        ),
        (
            137,
            "OOMKilled",
            EndReason::OomKilled,
            None,
            Some(9),
            "container 'main' was ended by signal 9 (SIGKILL) when it had no memory left; its memory is limited to 64Mi",
        ),
        (255, "Error", EndReason::Error, Some(255), None, "container 'main' ended with exit code 255"),
    ];
    for (code, reason, expected, exit_code, signal, message) in cases {
        let folded = judged(Some(&job()), &[pod(&terminated(code, reason, 2, 9))], 10, 20);
        let RunState::Ended(exit) = folded.state else { panic!("{:?}", folded.state) };
        assert_eq!((exit.reason, exit.exit_code, exit.signal), (expected, exit_code, signal));
        assert_eq!((exit.message.as_str(), exit.container.as_deref()), (message, Some("main")));
    }
    let message = "exec: \"/no/such\": stat /no/such: no such file or directory: unknown";
    let state = json!({ "terminated": { "exitCode": 128, "reason": "StartError", "message": message,
        "startedAt": "1970-01-01T00:00:00Z", "finishedAt": at(3).to_string() } });
    let exit = end(&job(), &[pod(&json!({ "phase": "Failed", "containerStatuses": [main_status(&state)] }))]);
    assert_eq!((exit.reason, exit.exit_code, exit.started), (EndReason::StartError, None, None));
    assert_eq!(exit.message, format!("container 'main' could not be started: {message}"));
}

#[test]
fn several_containers() {
    let spec = json!({ "initContainers": [{ "name": "first", "image": "i" },
        { "name": "mesh", "image": "i", "restartPolicy": "Always" }], "containers": [{ "name": "main" }, { "name": "two" }] });
    let status = |name: &str, state: Value| json!({ "name": name, "state": state });
    let ended = |code: i32, to: i64| json!({ "terminated": { "exitCode": code, "startedAt": at(2).to_string(), "finishedAt": at(to).to_string() } });
    let going = || json!({ "running": { "startedAt": at(2).to_string() } });
    let with = |inits: Vec<Value>, mains: Vec<Value>| {
        pod_json(
            &json!({ "spec": spec, "status": { "phase": "Running", "initContainerStatuses": inits, "containerStatuses": mains } }),
        )
    };
    let failed_init = with(vec![status("first", ended(4, 3))], vec![status("main", json!({ "waiting": {} }))]);
    let exit = end(&job(), &[failed_init]);
    assert_eq!((exit.container.as_deref(), exit.exit_code), (Some("first"), Some(4)));
    // A sidecar's end is not waited for; that of every other container is.
    let inits = || vec![status("first", ended(0, 2)), status("mesh", going())];
    let exit = end(&job(), &[with(inits(), vec![status("main", ended(0, 5)), status("two", ended(0, 7))])]);
    assert_eq!((exit.reason, exit.finished), (EndReason::Completed, at(7)));
    assert_eq!(runs(&job(), &[with(inits(), vec![status("main", ended(3, 5)), status("two", going())])]), None);
    // The one that failed first decides.
    let exit = end(&job(), &[with(inits(), vec![status("main", ended(3, 8)), status("two", ended(6, 5))])]);
    assert_eq!((exit.container.as_deref(), exit.exit_code), (Some("two"), Some(6)));
}

#[test]
fn the_job_decides_where_retries_are_left() {
    let retried = |over: &Value| {
        let mut job = job_json(&json!({ "spec": { "backoffLimit": 1 } }));
        merge(&mut job, over);
        job
    };
    let first = pod(&terminated(5, "Error", 2, 9));
    let second = |status: &Value| {
        pod_json(
            &json!({ "metadata": { "name": "x-2", "uid": "p2", "creationTimestamp": at(20).to_string() }, "status": status }),
        )
    };
    assert_eq!(runs(&retried(&json!({})), std::slice::from_ref(&first)), None);
    assert_eq!(
        runs(&retried(&json!({ "status": { "failed": 1 } })), &[first.clone(), second(&json!({}))]),
        Some(at(620))
    );
    let exit = end(&retried(&json!({})), &[first.clone(), second(&terminated(6, "Error", 21, 22))]);
    assert_eq!((exit.exit_code, exit.started, exit.finished), (Some(6), Some(at(2)), at(22)));
    assert!(end(&retried(&json!({})), &[first.clone(), second(&terminated(0, "Completed", 21, 22))]).is_success());
    // It gives up before its time is used up; success needs no word of the Job.
    let gives_up =
        json!({ "status": { "failed": 1, "conditions": [condition("FailureTarget", "PodFailurePolicy", "m", 10)] } });
    assert_eq!(end(&retried(&gives_up), std::slice::from_ref(&first)).exit_code, Some(5));
    // It has counted a pod that is not known here yet: that one decides.
    let counted = json!({ "metadata": { "resourceVersion": "5000" },
        "status": { "failed": 2, "conditions": [condition("Failed", "BackoffLimitExceeded", "m", 40)] } });
    assert_eq!(runs(&retried(&counted), std::slice::from_ref(&first)), Some(at(125)));
    let late = judged(Some(&retried(&counted)), &[first], 50, 125);
    assert!(matches!(late.state, RunState::Ended(exit) if exit.exit_code == Some(5)));
}

#[test]
fn stopped_from_outside() {
    let deadline = |at: i64| {
        job_json(&json!({ "spec": { "activeDeadlineSeconds": 8 }, "status": { "failed": 1,
            "conditions": [condition("FailureTarget", "DeadlineExceeded", "Job was active longer than specified deadline", at),
                condition("Failed", "DeadlineExceeded", "Job was active longer than specified deadline", at + 3)] } }))
    };
    let deleted_job = |when: i64| {
        job_json(&json!({ "metadata": { "deletionTimestamp": at(when).to_string(), "deletionGracePeriodSeconds": 0 } }))
    };
    // The kubelet resets the time of the deletion when it is done.
    let deleted_pod = |done: i64, status: Value| {
        pod_json(
            &json!({ "metadata": { "deletionTimestamp": at(done).to_string(), "deletionGracePeriodSeconds": 0 }, "status": status }),
        )
    };
    let killed = || terminated(137, "Error", 2, 10);
    let reason = |job: &Value, pod: Value| {
        let exit = end(job, &[pod]);
        (exit.reason, exit.message)
    };
    let stopped = (EndReason::DeadlineExceeded, "stopped at its deadline of 8 s".to_owned());
    assert_eq!(reason(&deadline(8), deleted_pod(11, killed())), stopped);
    assert_eq!(reason(&deadline(8), deleted_pod(11, terminated(0, "Completed", 2, 10))), stopped);
    // It had ended before.
    assert_eq!(reason(&deadline(12), deleted_pod(13, terminated(0, "Completed", 2, 10))).0, EndReason::Completed);
    assert_eq!(reason(&deadline(12), deleted_pod(13, terminated(1, "Error", 2, 10))).0, EndReason::Error);
    assert_eq!(reason(&deleted_job(9), deleted_pod(11, killed())), (EndReason::Cancelled, "cancelled".to_owned()));
    assert_eq!(reason(&deleted_job(10), deleted_pod(11, terminated(0, "Completed", 2, 10))).0, EndReason::Completed);
    assert_eq!(reason(&deleted_job(30), pod(&terminated(1, "Error", 2, 10))).0, EndReason::Error);

    // Its deletion is visible, its cause not yet.
    assert_eq!(
        runs(
            &job(),
            &[pod_json(
                &json!({ "metadata": { "deletionTimestamp": at(20).to_string(), "deletionGracePeriodSeconds": 15 },
        "status": killed() })
            )]
        ),
        None
    );
    let alone = || [deleted_pod(5, killed())];
    assert!(matches!(judged(None, &alone(), 50, 52).state, RunState::Running { .. }));
    assert!(
        matches!(judged(None, &alone(), 50, 53).state, RunState::Ended(exit) if exit.reason == EndReason::Cancelled)
    );
    // Killed by whom is waited for, a moment.
    let folded = judged(Some(&job()), &[pod(&killed())], 50, 51);
    assert_eq!(folded.again, Some(at(53)));
    assert!(
        matches!(judged(Some(&job()), &[pod(&killed())], 50, 53).state, RunState::Ended(exit) if exit.signal == Some(9))
    );

    // Without a pod.
    let exit = end(&deleted_job(9), &[]);
    assert_eq!((exit.reason, exit.message.as_str()), (EndReason::Cancelled, "cancelled before it started"));
    let unplaced = pod_json(
        &json!({ "metadata": { "deletionTimestamp": at(9).to_string() }, "spec": { "nodeName": null },
        "status": { "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node" }] } }),
    );
    let exit = end(&deadline(8), &[unplaced]);
    assert_eq!(exit.message, "stopped at its deadline of 8 s before it started: no node takes its pod: no node");
}

#[test]
fn taken_away() {
    let failed_job = job_json(
        &json!({ "status": { "failed": 1, "conditions": [condition("Failed", "BackoffLimitExceeded", "m", 40)] } }),
    );
    let disturbed = |reason: &str| {
        let mut status = terminated(137, "Error", 2, 10);
        merge(&mut status, &json!({ "conditions": [condition("DisruptionTarget", reason, "why", 9)] }));
        pod_json(&json!({ "metadata": { "deletionTimestamp": at(9).to_string() }, "status": status }))
    };
    for (reason, message) in [
        ("EvictionByEvictionAPI", "evicted from node 'node-1': why"),
        ("PreemptionByScheduler", "displaced by a pod of higher priority: why"),
        ("DeletionByTaintManager", "removed from node 'node-1', which is not available: why"),
        ("DeletionByPodGC", "its node is gone: why"),
        ("SomethingNew", "taken away: SomethingNew: why"),
    ] {
        let exit = end(&failed_job, &[disturbed(reason)]);
        assert_eq!((exit.reason, exit.message.as_str()), (EndReason::Lost, message));
    }
    let evicted = json!({ "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory." });
    let exit = end(&job(), &[pod(&evicted)]);
    assert_eq!(
        (exit.reason, exit.message.as_str()),
        (EndReason::Lost, "evicted from node 'node-1': The node was low on resource: memory.")
    );
    let refused =
        json!({ "phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough resource: cpu" });
    assert!(end(&job(), &[pod(&refused)]).message.contains("OutOfcpu"));

    // A node that does not answer: given up after a while.
    let lost = pod_json(&json!({ "metadata": { "deletionTimestamp": at(40).to_string() }, "status": running(2) }));
    assert_eq!(runs(&failed_job, std::slice::from_ref(&lost)), Some(at(120)));
    let given_up = judged(Some(&failed_job), std::slice::from_ref(&lost), 50, 120).state;
    assert!(
        matches!(&given_up, RunState::Ended(exit) if exit.reason == EndReason::Lost && exit.message.contains("'node-1'")),
        "{given_up:?}"
    );
    let cancelled = job_json(&json!({ "metadata": { "deletionTimestamp": at(40).to_string() } }));
    let given_up = judged(Some(&cancelled), &[lost], 50, 120).state;
    assert!(matches!(&given_up, RunState::Ended(exit) if exit.reason == EndReason::Cancelled), "{given_up:?}");
    assert_eq!(end(&failed_job, &[]).message, "its Job failed and its pod is gone: BackoffLimitExceeded: m");
    let complete = job_json(
        &json!({ "status": { "active": 0, "succeeded": 1, "conditions": [condition("Complete", "", "", 9)] } }),
    );
    assert!(end(&complete, &[]).is_success());
}

#[test]
fn what_never_starts_is_given_up() {
    let no_secret = waiting("CreateContainerConfigError", "secret \"s\" not found");
    let timeout = i64::try_from(START_TIMEOUT).unwrap();
    let folded = judged(Some(&job()), std::slice::from_ref(&no_secret), 50, timeout - 1);
    assert!(matches!(folded.state, RunState::Waiting { .. }));
    assert_eq!(folded.again, Some(at(timeout)));
    let RunState::Ended(exit) = judged(Some(&job()), std::slice::from_ref(&no_secret), 50, timeout).state else {
        panic!()
    };
    assert_eq!(exit.reason, EndReason::StartError);
    assert_eq!(exit.message, "not started within 600 s: container 'main' cannot be configured: secret \"s\" not found");
    // The time in a queue does not count, nor that of attempts before, nor does one that has started.
    let resumed = json!({ "status": { "conditions": [
        { "type": "Suspended", "status": "False", "lastTransitionTime": at(1000).to_string() }] } });
    assert!(matches!(judged(Some(&job_json(&resumed)), &[no_secret], 50, 1500).state, RunState::Waiting { .. }));
    let suspended = job_json(&json!({ "spec": { "suspend": true } }));
    assert!(matches!(judged(Some(&suspended), &[], 50, 99_999).state, RunState::Waiting { .. }));
    assert!(matches!(judged(Some(&job()), &[pod(&running(2))], 50, 99_999).state, RunState::Running { .. }));
}

#[test]
fn what_does_not_go_on_is_told_and_given_up() {
    let timeout = i64::try_from(START_TIMEOUT).unwrap();
    let two = json!({ "initContainers": [{ "name": "first", "image": "i" }] });
    let ended = json!({ "name": "first", "state": { "terminated": { "exitCode": 0, "startedAt": at(2).to_string(), "finishedAt": at(2000).to_string() } } });
    let behind_init = |reason: &str| {
        let state = json!({ "waiting": { "reason": reason, "message": "no such image" } });
        pod_json(
            &json!({ "spec": two, "status": { "phase": "Pending", "initContainerStatuses": [ended], "containerStatuses": [main_status(&state)] } }),
        )
    };
    let message = |pods: &[Value], now: i64| match judged(Some(&job()), pods, 50, now).state {
        RunState::Running { started, message } => {
            assert_eq!(started, at(2));
            message
        }
        state => panic!("{state:?}"),
    };
    assert_eq!(message(&[behind_init("PodInitializing")], 2001), None);
    let cannot_pull = "image 'lab/tool:1' of container 'main' cannot be pulled: no such image";
    let pods = [behind_init("ImagePullBackOff")];
    // The time of the init container does not count.
    assert_eq!(message(&pods, 2000 + timeout - 1), Some(format!("waiting: {cannot_pull}")));
    let RunState::Ended(exit) = judged(Some(&job()), &pods, 50, 2000 + timeout).state else { panic!() };
    assert_eq!((exit.reason, exit.started), (EndReason::StartError, Some(at(2))));
    assert_eq!(exit.message, format!("not started within 600 s: {cannot_pull}"));
    let deadline = job_json(&json!({ "spec": { "activeDeadlineSeconds": 60 },
        "status": { "conditions": [condition("FailureTarget", "DeadlineExceeded", "m", 62)] } }));
    let mut stopped = behind_init("ImagePullBackOff");
    merge(
        &mut stopped,
        &json!({ "metadata": { "deletionTimestamp": at(63).to_string() }, "status": { "phase": "Failed" } }),
    );
    assert_eq!(
        end(&deadline, &[stopped]).message,
        format!("stopped at its deadline of 60 s while it waited: {cannot_pull}")
    );

    // Another attempt waits.
    let retried = job_json(&json!({ "spec": { "backoffLimit": 2 } }));
    let first = pod(&terminated(5, "Error", 2, 9));
    let mut second = waiting("ErrImagePull", "no such image");
    merge(&mut second, &json!({ "metadata": { "uid": "p2", "creationTimestamp": at(20).to_string() } }));
    let pods = [first, second];
    let RunState::Running { message, .. } = judged(Some(&retried), &pods, 50, 20 + timeout - 1).state else { panic!() };
    assert_eq!(message, Some(format!("waiting: {cannot_pull}")));
    let RunState::Ended(exit) = judged(Some(&retried), &pods, 50, 20 + timeout).state else { panic!() };
    assert_eq!(exit.reason, EndReason::StartError);
}

#[test]
fn who_gives_a_pod_more_time_is_waited_for() {
    let lost = |grace: u64| {
        let over = at(40 + i64::try_from(grace).unwrap()).to_string();
        pod_json(
            &json!({ "metadata": { "deletionTimestamp": over, "deletionGracePeriodSeconds": grace }, "status": running(2) }),
        )
    };
    let deleted = job_json(&json!({ "metadata": { "deletionTimestamp": at(40).to_string() } }));
    let until = |grace: u64| judged(Some(&deleted), &[lost(grace)], 50, 50).again;
    assert_eq!((until(1), until(10), until(600)), (Some(at(120)), Some(at(120)), Some(at(710))));
    // The kubelet takes the grace off when it is done; a pod that still runs keeps what it was given.
    let mut now = read_pod(&lost(0), at(60));
    now.remember(&read_pod(&lost(600), at(50)));
    assert_eq!(rules().patience(&now), Duration::from_secs(660));
}
