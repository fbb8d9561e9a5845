//! Whatever the facts are, there is a state, and no object of any shape is too odd to be read.

use proptest::prelude::*;

use super::super::facts::{Condition, ContainerFacts, Ended, Phase, Role, Stage};
use super::*;
use crate::core::EndReason;

fn condition_of() -> impl Strategy<Value = Option<Condition>> {
    let reason = prop_oneof![Just("DeadlineExceeded"), Just("Evicted"), Just("Failed"), Just("")];
    proptest::option::of((reason, proptest::option::of(0..20_i64)).prop_map(|(reason, when)| Condition {
        reason: reason.into(),
        message: "m".into(),
        at: when.map(at),
    }))
}

fn time_of() -> impl Strategy<Value = Option<Timestamp>> {
    proptest::option::of((0..20_i64).prop_map(at))
}

fn container_of() -> impl Strategy<Value = ContainerFacts> {
    let role = prop_oneof![Just(Role::Init), Just(Role::Main), Just(Role::Sidecar)];
    let code = prop_oneof![Just(0), Just(1), Just(137), any::<i32>()];
    let ended = (code, proptest::option::of(any::<i32>()), time_of(), time_of()).prop_map(
        |(exit_code, signal, started, finished)| {
            Stage::Ended(Ended { exit_code, signal, reason: "".into(), message: "".into(), started, finished })
        },
    );
    let stage = prop_oneof![
        Just(Stage::Waiting { reason: "ErrImagePull".into(), message: "".into() }),
        time_of().prop_map(|started| Stage::Running { started }),
        ended
    ];
    (role, stage).prop_map(|(role, stage)| ContainerFacts {
        name: "c".into(),
        role,
        image: "".into(),
        memory_limit: None,
        id: None,
        stage,
    })
}

fn pod_of() -> impl Strategy<Value = PodFacts> {
    let phase = prop_oneof![
        Just(Phase::Pending),
        Just(Phase::Running),
        Just(Phase::Succeeded),
        Just(Phase::Failed),
        Just(Phase::Unknown)
    ];
    let containers = proptest::collection::vec(container_of(), 0..3);
    let conditions = (condition_of(), condition_of(), condition_of());
    let times = (time_of(), time_of(), time_of(), 0..20_i64);
    (phase, containers, conditions, times, any::<bool>(), any::<bool>()).prop_map(
        |(phase, containers, (trouble, unschedulable, disruption), times, told_to_stop, placed)| PodFacts {
            name: "p".into(),
            uid: "u".into(),
            version: 1,
            held: true,
            let_go: false,
            created: at(times.3),
            node: placed.then(|| "n".into()),
            phase,
            trouble,
            unschedulable,
            disruption,
            deleted: times.0,
            grace: Duration::ZERO,
            containers: containers.into(),
            deleted_seen: times.1,
            ended_seen: times.2,
            told_to_stop,
        },
    )
}

fn job_of() -> impl Strategy<Value = Option<JobFacts>> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let counts = (0..3_usize, 0..3_usize, 0..3_usize, 0..3_u32);
    proptest::option::of((flags, counts, condition_of(), time_of(), time_of(), time_of()).prop_map(
        |((incomplete, suspended, complete), counts, failure, resumed, deleted, settled_seen)| JobFacts {
            uid: "u".into(),
            version: 1,
            held: true,
            let_go: false,
            incomplete,
            created: at(0),
            retries: counts.3,
            deadline_seconds: None,
            suspended,
            resumed,
            queue: None,
            deleted,
            ended_pods: counts.0,
            failed_pods: counts.1,
            active_pods: counts.2,
            failure,
            complete,
            settled_seen,
        },
    ))
}

proptest! {
    #[test]
    fn whatever_the_facts_are_there_is_a_state(
        job in job_of(),
        pods in proptest::collection::vec(pod_of(), 0..3),
        now in 0..2000_i64,
        pods_version in 0..3_u64,
    ) {
        let facts = Facts {
            job: job.as_ref(), pods: &pods, pods_gone: 0, creation_failure: Some("quota"), warning: None, waited_for: None,
            pods_version, now: at(now), rules: rules(),
        };
        let folded = super::super::fold::fold(&facts);
        if let RunState::Ended(exit) = &folded.state {
            prop_assert!(exit.started.is_none_or(|started| started <= exit.finished));
            prop_assert!(!exit.message.is_empty());
            prop_assert!(exit.is_success() == (exit.exit_code == Some(0) && exit.reason == EndReason::Completed));
            // Nothing that runs is called ended but by what was given up.
            let newest_runs = facts.newest().is_some_and(|pod| !pod.has_ended() && pod.deleted_seen.is_none()
                && pod.containers.iter().any(|container| container.role != Role::Sidecar && matches!(container.stage, Stage::Running { .. })));
            prop_assert!(!newest_runs, "{exit:?}");
        }
    }

    #[test]
    fn objects_of_any_shape_are_read(text in "\\PC{0,40}", number in any::<i64>()) {
        // Every member may be null or absent, whatever else is in the object.
        for object in [json!({}), json!({ "metadata": { "name": text, "uid": text, "creationTimestamp": text, "deletionTimestamp": text,
            "deletionGracePeriodSeconds": number, "finalizers": null, "labels": {} }, "spec": { "backoffLimit": number, "containers": null },
            "status": { "failed": number, "conditions": null, "containerStatuses": [{ "name": null, "state": null }] } })] {
            let job: wire::Job = serde_json::from_value(object.clone()).unwrap();
            let pod: wire::Pod = serde_json::from_value(object).unwrap();
            let (job, pod) = (JobFacts::read(&job, at(0)), PodFacts::read(&pod, at(0)));
            prop_assert_eq!(job.is_some(), pod.is_some());
        }
    }
}
