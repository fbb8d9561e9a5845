//! Tests of the conversion from the contract.

use serde_json::json;

use super::*;

fn a_container() -> types::Container {
    types::Container {
        name: "main".into(),
        image: "alpine".into(),
        image_pull_policy: Some(types::ImagePullPolicy::IfNotPresent),
        command: vec!["sh".into()],
        args: vec!["-c".into()],
        working_dir: Some("/w".into()),
        env: vec![
            types::EnvVariable {
                name: "A".into(),
                value: types::EnvValue::Literal("1".into()),
                extensions: String::new(),
            },
            types::EnvVariable { name: "I".into(), value: types::EnvValue::Inputs, extensions: "{}".into() },
        ],
        resources: types::Resources {
            requests: vec![types::Pair { name: "cpu".into(), value: "1".into() }],
            limits: vec![],
            extensions: String::new(),
        },
        mounts: vec![types::Mount {
            volume: "v".into(),
            mount_path: "/v".into(),
            sub_path: None,
            read_only: true,
            extensions: " { } ".into(),
        }],
        extensions: String::new(),
    }
}

fn a_plan() -> types::Plan {
    types::Plan {
        containers: vec![a_container()],
        init_containers: vec![],
        volumes: vec![types::Volume {
            name: "v".into(),
            source: types::VolumeSource::EmptyDir(types::EmptyDirSource {
                medium: None,
                size_limit: Some("1Gi".into()),
                extensions: String::new(),
            }),
            extensions: String::new(),
        }],
        tolerations: vec![],
        node_selector: vec![],
        image_pull_secrets: vec!["s".into()],
        service_account: None,
        priority_class: None,
        queue: Some("q".into()),
        deadline_seconds: Some(60),
        retries: 2,
        labels: vec![types::Pair { name: "l".into(), value: "1".into() }],
        annotations: vec![],
        security: types::Security {
            run_as_user: Some(1000),
            run_as_group: None,
            fs_group: None,
            service_account_token: false,
            privilege_escalation: true,
            seccomp_unconfined: false,
            extensions: String::new(),
        },
        results: types::ResultRules {
            container: None,
            default_media_type: Some("text/plain".into()),
            nonce: true,
            extensions: String::new(),
        },
        pod_patch: Some(r#"[{"op":"remove","path":"/spec/x"}]"#.into()),
        extensions: String::new(),
    }
}

#[test]
fn a_plan_arrives_whole() {
    let plan = serde_json::to_value(plan(a_plan()).unwrap()).unwrap();
    let expected = json!({
        "containers": [{
            "name": "main", "image": "alpine", "imagePullPolicy": "IfNotPresent", "command": ["sh"], "args": ["-c"], "workingDir": "/w",
            "env": [{"name": "A", "value": {"literal": "1"}}, {"name": "I", "value": "inputs"}],
            "resources": {"requests": {"cpu": "1"}},
            "mounts": [{"volume": "v", "mountPath": "/v", "readOnly": true}],
        }],
        "volumes": [{"name": "v", "source": {"emptyDir": {"sizeLimit": "1Gi"}}}],
        "imagePullSecrets": ["s"], "queue": "q", "deadlineSeconds": 60, "retries": 2, "labels": {"l": "1"},
        "security": {"runAsUser": 1000, "serviceAccountToken": false, "privilegeEscalation": true, "seccompUnconfined": false},
        "results": {"defaultMediaType": "text/plain", "nonce": true},
        "podPatch": [{"op": "remove", "path": "/spec/x"}],
    });
    assert_eq!(plan, expected);
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let breach = |change: fn(&mut types::Plan)| {
        let mut record = a_plan();
        change(&mut record);
        plan(record).unwrap_err().to_string()
    };
    let found = breach(|plan| plan.containers[0].extensions = r#"{"gpu":1}"#.into());
    assert_eq!(found, "container 'main' has the extension 'gpu', which this server does not know");
    let found = breach(|plan| plan.containers[0].mounts[0].extensions = "[]".into());
    assert_eq!(found, "the extensions of mount of 'v' are not a JSON object");
    let found = breach(|plan| plan.results.extensions = r#"{"a":1}"#.into());
    assert!(found.starts_with("plan.results has the extension 'a'"), "{found}");
    assert_eq!(breach(|plan| plan.containers.clear()), "plan.containers is empty");
    assert_eq!(breach(|plan| plan.pod_patch = Some("{}".into())), "plan.pod-patch is not a list of operations");
    let found = breach(|plan| plan.labels.push(types::Pair { name: "l".into(), value: "2".into() }));
    assert_eq!(found, "plan.labels has 'l' twice");
}

#[test]
fn texts_of_a_processor_are_cleaned() {
    let text = "no\r\n\u{1b}[2J".to_owned();
    assert_eq!(denial(types::Denial::Forbidden(text.clone())), Denial::Forbidden { reason: "no   [2J".into() });
    assert_eq!(
        denial(types::Denial::Unauthenticated(String::new())),
        Denial::Unauthenticated { challenge: "Bearer".into() }
    );
    let violation =
        |input: &str| types::Violation { input: input.into(), message: text.clone(), extensions: String::new() };
    let found =
        rejection(types::Rejection { violations: vec![violation("a/b"), violation("")], extensions: String::new() })
            .unwrap();
    let pointers: Vec<_> = found.iter().map(|violation| violation.pointer.as_str()).collect();
    assert_eq!(pointers, ["/inputs/a~1b", ""]);
    assert_eq!(rejection(types::Rejection { violations: vec![], extensions: String::new() }).unwrap().len(), 1);
    let nobody = types::Caller { subject: "\n".into(), consumed_inputs: vec![], extensions: String::new() };
    assert!(caller(nobody).is_err());
}
