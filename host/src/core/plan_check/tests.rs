//! Tests of a plan's structure.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn plan(document: Value) -> JobPlan {
    serde_json::from_value(document).unwrap()
}

fn good() -> Value {
    json!({
        "containers": [{
            "name": "main", "image": "registry.example/tool:1", "command": ["tool"], "args": ["'; rm -rf /"],
            "env": [
                {"name": "A", "value": {"literal": "x"}},
                {"name": "B", "value": {"secretKey": {"name": "s3.keys", "key": "access_key"}}},
                {"name": "C", "value": "inputs"}
            ],
            "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "1", "nvidia.com/gpu": "1"}},
            "mounts": [{"volume": "scratch", "mountPath": "/scratch", "subPath": "a/b"}]
        }],
        "initContainers": [{"name": "init", "image": "busybox"}],
        "volumes": [{"name": "scratch", "source": {"emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}}],
        "tolerations": [{"operator": "Exists"}, {"key": "k", "value": "v", "effect": "NoSchedule"}],
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "labels": {"app": "x", "example.org/team": ""},
        "annotations": {"example.org/note": "any text, really"},
        "results": {"container": "main", "defaultMediaType": "text/plain"},
        "podPatch": [{"op": "add", "path": "/spec/hostname", "value": "h"}],
        "extensions": {}
    })
}

fn pointers(document: Value) -> Vec<String> {
    violations(&plan(document)).into_iter().map(|violation| violation.pointer).collect()
}

#[test]
fn a_good_plan_has_no_violations() {
    assert_eq!(violations(&plan(good())), []);
}

#[test]
fn an_empty_plan_has_no_container() {
    assert_eq!(pointers(json!({})), ["/containers"]);
}

/// Each change breaks the good plan at exactly this place.
#[test]
fn each_rule_bites() {
    for (at, value, told) in [
        ("/containers/0/name", json!("Main"), vec!["/containers/0/name", "/results/container"]),
        ("/initContainers/0/name", json!("main"), vec!["/containers/0/name"]),
        ("/containers/0/image", json!(""), vec!["/containers/0/image"]),
        ("/containers/0/image", json!("a b"), vec!["/containers/0/image"]),
        ("/containers/0/env/0/name", json!("B"), vec!["/containers/0/env/1/name"]),
        ("/containers/0/env/0/name", json!("1A"), vec!["/containers/0/env/0/name"]),
        ("/containers/0/env/0/name", json!("A=B"), vec!["/containers/0/env/0/name"]),
        ("/containers/0/env/0/name", json!("PYGEOAPI_JOB_ID"), vec!["/containers/0/env/0/name"]),
        ("/containers/0/env/0/name", json!("VESPIARY_RESULT_NONCE"), vec!["/containers/0/env/0/name"]),
        ("/containers/0/env/0/name", json!("PYGEOAPI_K8S_MANAGER_INPUTS_FILE"), vec!["/containers/0/env/0/name"]),
        ("/containers/0/env/0/value/literal", json!("a\0b"), vec!["/containers/0/env/0/value/literal"]),
        ("/containers/0/env/1/value/secretKey/name", json!("S"), vec!["/containers/0/env/1/value/secretKey/name"]),
        ("/containers/0/env/1/value/secretKey/key", json!("a/b"), vec!["/containers/0/env/1/value/secretKey/key"]),
        ("/containers/0/args/0", json!("\0"), vec!["/containers/0/args/0"]),
        ("/containers/0/resources/requests/cpu", json!("2"), vec!["/containers/0/resources/requests/cpu"]),
        ("/containers/0/resources/limits/cpu", json!("much"), vec!["/containers/0/resources/limits/cpu"]),
        ("/containers/0/mounts/0/volume", json!("other"), vec!["/containers/0/mounts/0/volume"]),
        ("/containers/0/mounts/0/mountPath", json!("scratch"), vec!["/containers/0/mounts/0/mountPath"]),
        ("/containers/0/mounts/0/mountPath", json!("/a/../b"), vec!["/containers/0/mounts/0/mountPath"]),
        ("/containers/0/mounts/0/subPath", json!("../b"), vec!["/containers/0/mounts/0/subPath"]),
        ("/volumes/0/source/emptyDir/sizeLimit", json!("-1"), vec!["/volumes/0/source/emptyDir/sizeLimit"]),
        ("/volumes/0/source", json!({"claim": {"claimName": "A"}}), vec!["/volumes/0/source/claim/claimName"]),
        ("/tolerations/0/operator", json!("Maybe"), vec!["/tolerations/0/operator", "/tolerations/0"]),
        ("/tolerations/1/effect", json!("Maybe"), vec!["/tolerations/1/effect"]),
        ("/nodeSelector", json!({"a/b/c": "x"}), vec!["/nodeSelector/a~1b~1c"]),
        ("/labels", json!({"pygeoapi.io/x": "1"}), vec!["/labels/pygeoapi.io~1x"]),
        ("/labels", json!({"app": "not a value"}), vec!["/labels/app"]),
        ("/annotations", json!({"vespiary.dev/job": "1"}), vec!["/annotations/vespiary.dev~1job"]),
        ("/results/container", json!("init"), vec!["/results/container"]),
        ("/results/defaultMediaType", json!("text"), vec!["/results/defaultMediaType"]),
        ("/podPatch", json!({"op": "add"}), vec!["/podPatch"]),
        ("/podPatch/0/op", json!("explode"), vec!["/podPatch/0"]),
        ("/extensions", json!({"gpu": 1}), vec!["/extensions/gpu"]),
    ] {
        let mut document = good();
        *document.pointer_mut(at).unwrap_or_else(|| panic!("{at}")) = value.clone();
        assert_eq!(pointers(document), told, "{at} = {value}");
    }
}

/// The limits are the system's own: the longest texts that pass can be executed, and one byte more cannot.
#[test]
fn a_text_that_no_program_can_be_started_with_is_refused() {
    let starts = |plan: &JobPlan| {
        let main = &plan.containers[0];
        let mut command = std::process::Command::new("/bin/true");
        command.env_clear().args(&main.args);
        for variable in &main.env {
            let EnvValue::Literal(text) = &variable.value else { continue };
            command.env(&variable.name, text);
        }
        command.status().map_err(|error| error.kind())
    };
    let longest = 128 * 1024 - 1;
    let plan_of = |argument: usize, variable: usize| {
        plan(json!({"containers": [{"name": "main", "image": "i", "args": ["a", "x".repeat(argument)],
            "env": [{"name": "NAME", "value": {"literal": "x".repeat(variable)}}]}]}))
    };
    let fits = plan_of(longest, longest - "NAME=".len());
    assert_eq!(violations(&fits), []);
    assert!(starts(&fits).unwrap().success());
    for (long, pointer, words) in [
        (plan_of(longest + 1, 1), "/containers/0/args/1", ["131072 bytes", "'main'"]),
        (plan_of(1, longest - "NAME=".len() + 1), "/containers/0/env/0", ["131072 bytes", "'main'"]),
    ] {
        assert_eq!(starts(&long).unwrap_err(), std::io::ErrorKind::ArgumentListTooLong);
        let [found] = violations(&long).try_into().unwrap();
        assert_eq!(found.pointer, pointer);
        assert!(words.iter().all(|word| found.message.contains(word)), "{}", found.message);
    }
    let many = |count: usize| {
        plan(
            json!({"containers": [{"name": "main", "image": "i", "command": vec!["x".repeat(100 * 1024 - 9); count]}]}),
        )
    };
    assert_eq!(violations(&many(15)), []);
    let [found] = violations(&many(16)).try_into().unwrap();
    assert_eq!(found.pointer, "/containers/0");
    assert!(found.message.contains("1638400 bytes") && found.message.contains("'main'"), "{}", found.message);
}

#[test]
fn names_are_those_of_the_cluster() {
    assert!(names::is_label("a-1") && !names::is_label("-a") && !names::is_label("a.b") && !names::is_label(""));
    assert!(names::is_object("a.b-c") && !names::is_object("a..b") && !names::is_object(&"a".repeat(254)));
    assert!(names::is_qualified("example.org/a_B.c") && !names::is_qualified("/a") && !names::is_qualified("a/"));
    assert!(names::is_variable("_a1") && !names::is_variable("") && !names::is_variable("\u{e4}"));
}

proptest! {
    #[test]
    fn any_texts_are_answered(text in "\\PC{0,20}|[\\x00-\\x7f]{0,20}") {
        let mut plan = plan(good());
        plan.containers[0].name.clone_from(&text);
        plan.labels.insert(text.clone(), text.clone());
        plan.volumes[0].name.clone_from(&text);
        plan.results.default_media_type = Some(text.clone());
        let found = violations(&plan);
        prop_assert!(!text.contains('\0') || !found.is_empty());
    }
}
