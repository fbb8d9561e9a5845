//! Plans and the objects that they become.

use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::*;
use crate::core::Timestamp;
use crate::runner::Masked;

const ID: &str = "01890000-0000-7000-8000-000000000001";

fn launch(plan: Value, inputs: Option<Value>) -> Launch {
    Launch {
        job_id: ID.parse().unwrap(),
        process_id: "hello".parse().unwrap(),
        plan: Arc::new(serde_json::from_value(plan).unwrap()),
        inputs: inputs.map(|inputs| raw(&inputs)),
        nonce: None,
        created: Timestamp::parse("2026-01-02T03:04:05Z").unwrap(),
        masked: None,
    }
}

fn raw(value: &Value) -> Arc<RawValue> {
    serde_json::value::to_raw_value(value).unwrap().into()
}

fn built(launch: &Launch) -> Objects {
    build(&Names::new("pygeoapi-job-"), &Settings::default(), launch).unwrap()
}

fn refusal(settings: &Settings, launch: &Launch) -> String {
    match build(&Names::new("pygeoapi-job-"), settings, launch) {
        Err(refused @ (RunnerError::Refused(_) | RunnerError::TooLarge { .. })) => refused.to_string(),
        other => panic!("{other:?}"),
    }
}

fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

fn own_labels() -> Value {
    json!({
        "app.kubernetes.io/instance": "pygeoapi-job", "app.kubernetes.io/managed-by": "vespiary",
        "vespiary.io/job-id": ID, "vespiary.io/process-id": "hello"
    })
}

#[test]
fn the_smallest_plan() {
    let launch = launch(json!({ "containers": [{ "name": "main", "image": "busybox:1.36" }] }), None);
    let objects = built(&launch);
    assert!(objects.secret.is_none());
    let name = format!("pygeoapi-job-{ID}");
    let expected = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": own_labels(),
            "annotations": {
                "pygeoapi.io/identifier": ID, "pygeoapi.io/process_id": "hello", "pygeoapi.io/job-name": name,
                "pygeoapi.io/started": "2026-01-02T03:04:05.000Z", "pygeoapi.io/updated": "2026-01-02T03:04:05.000Z"
            },
            "finalizers": ["pygeoapi.io/finalizer-log-retrieval"]
        },
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": 600,
            "template": {
                "metadata": { "labels": own_labels(), "finalizers": ["pygeoapi.io/finalizer-log-retrieval"] },
                "spec": {
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 10,
                    "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
                    "containers": [{
                        "name": "main",
                        "image": "busybox:1.36",
                        "env": [
                            { "name": "PYGEOAPI_JOB_ID", "value": ID },
                            { "name": "PYGEOAPI_PROCESS_ID", "value": "hello" }
                        ],
                        "securityContext": { "allowPrivilegeEscalation": false }
                    }]
                }
            }
        }
    });
    assert_eq!(objects.job, expected);
}

#[test]
fn everything_that_a_plan_can_say() {
    let plan = json!({
        "initContainers": [{ "name": "init", "image": "i:1", "imagePullPolicy": "Never", "env": [
            { "name": "ALL", "value": "inputs" }] }],
        "containers": [{
            "name": "main", "image": "i:2", "command": ["run", "$(A)"], "args": ["$$", "a$b", "é"], "workingDir": "/w",
            "env": [
                { "name": "A", "value": { "literal": "$(HOME)" } },
                { "name": "B", "value": { "secretKey": { "name": "s", "key": "k", "optional": true } } },
                { "name": "C", "value": { "configMapKey": { "name": "c", "key": "k" } } }],
            "resources": { "requests": { "cpu": "500m" }, "limits": { "memory": "1Gi", "nvidia.com/gpu": "1" } },
            "mounts": [{ "volume": "v", "mountPath": "/v", "subPath": "s", "readOnly": true }, { "volume": "e", "mountPath": "/e" }]
        }],
        "volumes": [
            { "name": "v", "source": { "claim": { "claimName": "pvc", "readOnly": true } } },
            { "name": "e", "source": { "emptyDir": { "medium": "Memory", "sizeLimit": "1Gi" } } },
            { "name": "c", "source": { "configMap": { "name": "c", "optional": true } } },
            { "name": "s", "source": { "secret": { "name": "s" } } }],
        "tolerations": [{ "key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60 }],
        "nodeSelector": { "disk": "ssd" },
        "imagePullSecrets": ["pull"],
        "serviceAccount": "account",
        "priorityClass": "high",
        "queue": "lab",
        "deadlineSeconds": 90,
        "retries": 2,
        "labels": { "team": "x", "app.kubernetes.io/managed-by": "forged" },
        "annotations": { "note": "y" },
        "security": { "runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "serviceAccountToken": true,
            "privilegeEscalation": true, "seccompUnconfined": true },
        "results": { "defaultMediaType": "text/csv", "nonce": true }
    });
    let inputs = json!({ "name": "Ada" });
    let launch = Launch { nonce: Some("n0nce".to_owned()), ..launch(plan, Some(inputs.clone())) };
    let objects = built(&launch);
    assert!(objects.secret.is_none());
    let job = &objects.job;
    assert_eq!(*at(job, "/metadata/labels/team"), "x");
    assert_eq!(*at(job, "/metadata/labels/app.kubernetes.io~1managed-by"), "vespiary");
    assert_eq!(*at(job, "/metadata/labels/kueue.x-k8s.io~1queue-name"), "lab");
    assert_eq!(*at(job, "/metadata/annotations/note"), "y");
    assert_eq!(*at(job, "/metadata/annotations/pygeoapi.io~1parameters"), inputs.to_string());
    assert_eq!(*at(job, "/metadata/annotations/pygeoapi.io~1mimetype"), "text/csv");
    assert_eq!(*at(job, "/metadata/annotations/pygeoapi.io~1result-mimetype"), "text/csv");
    let mut spec = at(job, "/spec").clone();
    let template = spec.as_object_mut().unwrap().remove("template").unwrap();
    assert_eq!(
        spec,
        json!({ "activeDeadlineSeconds": 90, "backoffLimit": 2, "suspend": true, "ttlSecondsAfterFinished": 600 })
    );
    assert_eq!(*at(&template, "/metadata/labels/team"), "x");
    assert_eq!(*at(&template, "/metadata/labels/kueue.x-k8s.io~1queue-name"), Value::Null);
    assert_eq!(*at(&template, "/metadata/annotations"), json!({ "note": "y" }));
    let ids =
        [json!({ "name": "PYGEOAPI_JOB_ID", "value": ID }), json!({ "name": "PYGEOAPI_PROCESS_ID", "value": "hello" })];
    let expected = json!({
        "automountServiceAccountToken": true,
        "enableServiceLinks": false,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 10,
        "serviceAccountName": "account",
        "priorityClassName": "high",
        "nodeSelector": { "disk": "ssd" },
        "imagePullSecrets": [{ "name": "pull" }],
        "tolerations": [{ "key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60 }],
        "securityContext": {
            "runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "seccompProfile": { "type": "Unconfined" } },
        "volumes": [
            { "name": "v", "persistentVolumeClaim": { "claimName": "pvc", "readOnly": true } },
            { "name": "e", "emptyDir": { "medium": "Memory", "sizeLimit": "1Gi" } },
            { "name": "c", "configMap": { "name": "c", "optional": true } },
            { "name": "s", "secret": { "secretName": "s" } }],
        "initContainers": [{
            "name": "init", "image": "i:1", "imagePullPolicy": "Never",
            "env": [{ "name": "ALL", "value": r#"{"name":"Ada"}"# }, ids[0], ids[1]],
            "securityContext": { "allowPrivilegeEscalation": true }
        }],
        "containers": [{
            "name": "main", "image": "i:2", "command": ["run", "$$(A)"], "args": ["$$$$", "a$$b", "é"], "workingDir": "/w",
            "env": [
                { "name": "A", "value": "$$(HOME)" },
                { "name": "B", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k", "optional": true } } },
                { "name": "C", "valueFrom": { "configMapKeyRef": { "name": "c", "key": "k" } } },
                ids[0], ids[1],
                { "name": "PYGEOAPI_K8S_MANAGER_INPUTS", "value": r#"{"name":"Ada"}"# },
                { "name": "VESPIARY_RESULT_NONCE", "value": "n0nce" }],
            "resources": { "requests": { "cpu": "500m" }, "limits": { "memory": "1Gi", "nvidia.com/gpu": "1" } },
            "volumeMounts": [
                { "name": "v", "mountPath": "/v", "subPath": "s", "readOnly": true }, { "name": "e", "mountPath": "/e" }],
            "securityContext": { "allowPrivilegeEscalation": true }
        }]
    });
    assert_eq!(*at(&template, "/spec"), expected);
}

#[test]
fn secrets_are_nowhere_in_the_job() {
    let plan = |secret: &str| {
        json!({
            "containers": [{
                "name": "main", "image": "i:1", "command": ["run"], "args": [format!("--password={secret}"), "open"],
                "env": [
                    { "name": "TOKEN", "value": { "literal": secret } },
                    { "name": "PLAIN", "value": { "literal": "plain" } },
                    { "name": "ALL", "value": "inputs" }]
            }],
            "labels": { "password": secret, "team": "x" },
            "annotations": { "note": format!("with {secret}") },
            "queue": "lab"
        })
    };
    let mut launch = launch(plan("hunter2"), Some(json!({ "password": "hunter2" })));
    launch.masked = Some(Masked {
        plan: Arc::new(serde_json::from_value(plan("***")).unwrap()),
        inputs: raw(&json!({ "password": "***" })),
    });
    let objects = built(&launch);
    let job = &objects.job;
    assert!(!job.to_string().contains("hunter2"), "{job}");
    assert_eq!(*at(job, "/metadata/annotations/pygeoapi.io~1parameters"), r#"{"password":"***"}"#);
    assert_eq!(*at(job, "/metadata/annotations/note"), "with ***");
    assert_eq!((at(job, "/metadata/labels/team"), at(job, "/metadata/labels/password")), (&json!("x"), &Value::Null));
    // Held back, and not shown to the queue, until the Secret is there.
    assert_eq!(*at(job, "/spec/suspend"), true);
    assert_eq!(*at(job, "/metadata/labels/kueue.x-k8s.io~1queue-name"), Value::Null);
    assert_eq!(*at(job, "/metadata/annotations/vespiary.io~1incomplete"), "secret");

    let name = format!("pygeoapi-job-{ID}");
    let main = at(job, "/spec/template/spec/containers/0");
    assert_eq!(*at(main, "/args"), json!(["$(VESPIARY_TEXT_2)", "open"]));
    let from = |variable: &str, key: &str| json!({ "name": variable, "valueFrom": { "secretKeyRef": { "name": name, "key": key } } });
    assert_eq!(
        *at(main, "/env"),
        json!([
            from("TOKEN", "text-1"),
            { "name": "PLAIN", "value": "plain" },
            from("ALL", "inputs.json"),
            from("VESPIARY_TEXT_2", "text-2"),
            { "name": "PYGEOAPI_JOB_ID", "value": ID },
            { "name": "PYGEOAPI_PROCESS_ID", "value": "hello" },
            from("PYGEOAPI_K8S_MANAGER_INPUTS", "inputs.json"),
        ])
    );
    let labels = Names::new("pygeoapi-job-").labels(launch.job_id, &launch.process_id);
    let secret = secret(&name, "u1d", labels, objects.secret.as_ref().unwrap());
    assert_eq!(
        secret,
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": true,
            "metadata": { "name": name, "labels": own_labels(),
                "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": "u1d" }] },
            "data": {
                "inputs.json": "eyJwYXNzd29yZCI6Imh1bnRlcjIifQ==", "text-1": "aHVudGVyMg==", "text-2": "LS1wYXNzd29yZD1odW50ZXIy" }
        })
    );
}

#[test]
fn large_inputs_are_a_file() {
    let plan = json!({
        "initContainers": [{ "name": "init", "image": "i:1" }],
        "containers": [{ "name": "main", "image": "i:1" }, { "name": "side", "image": "i:1" }]
    });
    let with = |bytes: usize| launch(plan.clone(), Some(json!({ "a": "x".repeat(bytes - 8) })));
    // The largest that travels in a variable.
    assert!(built(&with(96 * 1024)).secret.is_none());
    let objects = built(&with(96 * 1024 + 1));
    assert_eq!(objects.secret.as_ref().unwrap().size(), 96 * 1024 + 1);
    let pod = at(&objects.job, "/spec/template/spec");
    let name = format!("pygeoapi-job-{ID}");
    let volume = json!([{ "name": "vespiary-inputs",
        "secret": { "secretName": name, "items": [{ "key": "inputs.json", "path": "inputs.json" }] } }]);
    assert_eq!(*at(pod, "/volumes"), volume);
    for container in ["/containers/0", "/containers/1"] {
        let container = at(pod, container);
        assert_eq!(
            *at(container, "/env/2"),
            json!({ "name": "PYGEOAPI_K8S_MANAGER_INPUTS_FILE", "value": "/vespiary/inputs.json" })
        );
        assert_eq!(
            *at(container, "/volumeMounts"),
            json!([{ "name": "vespiary-inputs", "mountPath": "/vespiary", "readOnly": true }])
        );
    }
    assert_eq!(at(pod, "/initContainers/0/env").as_array().unwrap().len(), 2);
    assert_eq!(*at(pod, "/initContainers/0/volumeMounts"), Value::Null);
    assert_eq!(*at(&objects.job, "/metadata/annotations/pygeoapi.io~1parameters"), Value::Null);

    built(&with(900 * 1024));
    let why = refusal(&Settings::default(), &with(901 * 1024));
    assert!(why.contains("at most 921600 are possible"), "{why}");
}

#[test]
fn what_can_be_refused_is_refused_here() {
    let plan = |member: &str, value: Value| {
        let mut plan = json!({ "containers": [{ "name": "main", "image": "i:1" }] });
        plan.as_object_mut().unwrap().insert(member.to_owned(), value);
        launch(plan, None)
    };
    let baseline = Settings::default();
    let restricted = Settings { pod_security: PodSecurity::Restricted, ..Settings::default() };
    for (settings, launch, word) in [
        (&baseline, plan("containers", json!([])), "no container"),
        (&baseline, plan("labels", json!({ QUEUE: "lab" })), "queue"),
        (&baseline, plan("annotations", json!({ "a": "x".repeat(1_000_000) })), "the Job has 200"),
        (&restricted, plan("security", json!({ "privilegeEscalation": true })), "privilege escalation"),
        (&restricted, plan("security", json!({ "seccompUnconfined": true })), "seccomp"),
        (&restricted, plan("security", json!({ "runAsUser": 0 })), "root"),
    ] {
        let why = refusal(settings, &launch);
        assert!(why.contains(word), "{word}: {why}");
    }
    // The Secret of a job is that job's alone, whoever lists its id.
    let name = format!("pygeoapi-job-{ID}");
    let reference = json!({ "secretKey": { "name": name, "key": "inputs.json" } });
    let container = json!({ "name": "main", "image": "i:1", "env": [{ "name": "A", "value": reference }] });
    for (member, value) in [
        ("containers", json!([container.clone()])),
        ("initContainers", json!([container])),
        ("volumes", json!([{ "name": "v", "source": { "secret": { "name": name } } }])),
        ("imagePullSecrets", json!(["pull", name])),
    ] {
        let why = refusal(&baseline, &plan(member, value));
        assert!(why.contains(&name), "{member}: {why}");
    }
    built(&plan("imagePullSecrets", json!(["pygeoapi-job-pull"])));
    let large = Some(json!({ "a": "x".repeat(100_000) }));
    for (plan, word) in [
        (
            json!({ "containers": [{ "name": "m", "image": "i", "env": [{ "name": "MINE", "value": "inputs" }] }] }),
            "MINE",
        ),
        (
            json!({ "containers": [{ "name": "m", "image": "i" }],
                "volumes": [{ "name": "vespiary-inputs", "source": { "emptyDir": {} } }] }),
            "vespiary-inputs",
        ),
        (
            json!({ "containers": [{ "name": "m", "image": "i", "mounts": [{ "volume": "v", "mountPath": "/vespiary/" }] }],
                "volumes": [{ "name": "v", "source": { "emptyDir": {} } }] }),
            "/vespiary",
        ),
    ] {
        let why = refusal(&baseline, &launch(plan, large.clone()));
        assert!(why.contains(word), "{word}: {why}");
    }
}

#[test]
fn restricted_pods_drop_all() {
    let settings = Settings { pod_security: PodSecurity::Restricted, grace_seconds: 3, ..Settings::default() };
    let launch =
        launch(json!({ "containers": [{ "name": "main", "image": "i:1" }], "security": { "runAsUser": 7 } }), None);
    let objects = build(&Names::new(""), &settings, &launch).unwrap();
    let pod = at(&objects.job, "/spec/template/spec");
    assert_eq!(
        *at(pod, "/securityContext"),
        json!({ "runAsNonRoot": true, "runAsUser": 7, "seccompProfile": { "type": "RuntimeDefault" } })
    );
    assert_eq!(
        *at(pod, "/containers/0/securityContext"),
        json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } })
    );
    assert_eq!(*at(pod, "/terminationGracePeriodSeconds"), 3);
    assert_eq!(
        (at(&objects.job, "/metadata/name"), at(&objects.job, "/metadata/labels/app.kubernetes.io~1instance")),
        (&json!(ID), &json!("none"))
    );
}

#[test]
fn a_patch_changes_what_it_may() {
    let patched = |patch: Value| {
        let plan = json!({ "containers": [{ "name": "main", "image": "i:1" }], "podPatch": patch });
        build(&Names::new("pygeoapi-job-"), &Settings::default(), &launch(plan, None))
    };
    let job = patched(json!([
        { "op": "add", "path": "/spec/affinity", "value": { "nodeAffinity": {} } },
        { "op": "add", "path": "/spec/aFieldOfTomorrow", "value": 1 },
        { "op": "replace", "path": "/spec/restartPolicy", "value": "Always" },
        { "op": "replace", "path": "/metadata", "value": { "finalizers": ["example.com/other"], "labels": {
            "vespiary.io/job-id": "forged", "more": "m" } } },
    ]));
    let job = job.unwrap().job;
    let template = at(&job, "/spec/template");
    assert_eq!(*at(template, "/spec/affinity"), json!({ "nodeAffinity": {} }));
    assert_eq!(*at(template, "/spec/aFieldOfTomorrow"), 1);
    assert_eq!(*at(template, "/spec/restartPolicy"), "Never");
    assert_eq!(
        *at(template, "/metadata/finalizers"),
        json!(["pygeoapi.io/finalizer-log-retrieval", "example.com/other"])
    );
    assert_eq!(*at(template, "/metadata/labels/vespiary.io~1job-id"), ID);
    assert_eq!(*at(template, "/metadata/labels/more"), "m");

    let copies = |count: usize| {
        (0..count).map(|n| json!({ "op": "copy", "from": "/metadata", "path": format!("/metadata/a{n}") })).collect()
    };
    for patch in [
        // Each doubles the document.
        Value::Array(copies(40)),
        Value::Array(vec![json!({ "op": "add", "path": "/spec/hostname", "value": "h" }); 201]),
        json!({}),
        json!([{ "op": "nonsense" }]),
        json!([{ "op": "test", "path": "/spec/restartPolicy", "value": "Always" }]),
        json!([{ "op": "remove", "path": "/spec" }]),
        json!([{ "op": "replace", "path": "", "value": 1 }]),
        json!([{ "op": "remove", "path": "/spec/containers/0" }]),
        json!([{ "op": "replace", "path": "/spec/containers/0/name", "value": "other" }]),
        json!([{ "op": "add", "path": "/spec/priority", "value": "text" }]),
        json!([{ "op": "replace", "path": "/metadata/labels", "value": [] }]),
    ] {
        assert!(matches!(patched(patch.clone()), Err(RunnerError::Refused(why)) if why.contains("patch")), "{patch}");
    }
}
