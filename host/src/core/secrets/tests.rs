//! Tests of masking.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::core::plan::{Container, EnvValue, EnvVariable};

fn process() -> ProcessDescription {
    let text = json!({"id": "p", "version": "1", "inputs": {
        "password": {"schema": {"type": "string", "format": "password"}},
        "pin": {"schema": {"type": "integer", "writeOnly": true}},
        "keyword": {"schema": {"type": "string"}},
        "login": {"schema": {"type": "object", "properties": {
            "user": {"type": "string"},
            "secret": {"type": "string", "format": "password"},
            "value": {"type": "string"}
        }}},
        "logins": {"maxOccurs": 5, "schema": {"allOf": [{"type": "object", "properties": {"secret": {"writeOnly": true}}}]}},
        "list": {"schema": {"type": "array", "items": {"oneOf": [{"format": "password"}, {"type": "number"}]}}},
        "open": {"schema": {"type": "object", "properties": {"user": {}}, "additionalProperties": {"format": "password"}}},
        "free": {"schema": {}}
    }});
    ProcessDescription::parse(&text.to_string(), None).unwrap()
}

fn mask(inputs: &Value, names: &[&str]) -> (Value, Vec<String>) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let masked = mask_inputs(&process(), inputs.as_object().unwrap(), &names);
    (Value::Object(masked.inputs), masked.values)
}

#[test]
fn the_schema_says_what_is_secret() {
    for (inputs, masked, values) in [
        (json!({"password": "hunter2", "keyword": "k"}), json!({"password": "***", "keyword": "k"}), vec!["hunter2"]),
        (
            json!({"password": {"value": "hunter2", "mediaType": "text/plain"}}),
            json!({"password": "***"}),
            vec!["hunter2"],
        ),
        (json!({"pin": 1234}), json!({"pin": "***"}), vec!["1234"]),
        (
            json!({"password": ["a1", {"x": " b2 "}, true, null, ""]}),
            json!({"password": "***"}),
            vec![" b2 ", "a1", "b2"],
        ),
        (json!({"login": {"user": "u", "secret": "s1"}}), json!({"login": {"user": "u", "secret": "***"}}), vec!["s1"]),
        (
            json!({"login": {"value": {"user": "u", "secret": "s1"}}}),
            json!({"login": {"value": {"user": "u", "secret": "***"}}}),
            vec!["s1"],
        ),
        (
            json!({"logins": [{"secret": "s1"}, {"value": {"secret": "s2"}}]}),
            json!({"logins": [{"secret": "***"}, {"value": {"secret": "***"}}]}),
            vec!["s1", "s2"],
        ),
        (json!({"logins": {"secret": "s1"}}), json!({"logins": {"secret": "***"}}), vec!["s1"]),
        (json!({"list": ["x1", 2]}), json!({"list": ["***", "***"]}), vec!["x1", "2"]),
        (json!({"open": {"user": "u", "other": "s1"}}), json!({"open": {"user": "u", "other": "***"}}), vec!["s1"]),
        (
            json!({"free": {"password": "p"}, "unknown": [1]}),
            json!({"free": {"password": "p"}, "unknown": [1]}),
            vec![],
        ),
    ] {
        assert_eq!(mask(&inputs, &[]), (masked, values.into_iter().map(str::to_owned).collect()), "{inputs}");
    }
}

#[test]
fn configured_names_count_at_any_depth_and_exactly() {
    let inputs = json!({"key": {"a": 1}, "keyword": "k", "Key": "K", "free": [{"deep": {"key": "x1", "keys": 2}}]});
    let masked = json!({"key": "***", "keyword": "k", "Key": "K", "free": [{"deep": {"key": "***", "keys": 2}}]});
    assert_eq!(mask(&inputs, &["key"]), (masked, vec!["x1".to_owned(), "1".to_owned()]));
}

fn plan(text: &str) -> JobPlan {
    let literal = |name: &str, text: String| EnvVariable { name: name.into(), value: EnvValue::Literal(text) };
    let container = Container {
        name: "main".into(),
        image: "i".into(),
        args: vec![format!("--password={text}"), "plain".into()],
        env: vec![literal("A", text.to_owned()), literal("J", json!({"deep": [text]}).to_string())],
        ..Container::default()
    };
    JobPlan {
        containers: vec![container.clone()],
        init_containers: vec![container],
        annotations: [("note".to_owned(), format!("{text}{text}"))].into(),
        pod_patch: Some(json!([{"op": "add", "path": "/x", "value": {"a": text}}])),
        ..JobPlan::default()
    }
}

#[test]
fn a_plan_that_repeats_a_secret_is_masked() {
    let (masked, found) = mask_plan(&plan("hunter2"), &["hunter2".to_owned()]);
    assert!(found);
    assert_eq!(masked.containers[0].args, ["--password=***", "plain"]);
    assert_eq!(masked.init_containers[0].env[1].value, EnvValue::Literal(r#"{"deep":["***"]}"#.into()));
    assert_eq!(masked.annotations["note"], "******");
    assert_eq!(masked.containers[0].name, "main");

    let untouched = plan("other");
    assert_eq!(mask_plan(&untouched, &["hunter2".to_owned()]), (untouched.clone(), false));
    assert_eq!(mask_plan(&untouched, &[]), (untouched, false));
}

#[test]
fn literals_are_masked_whatever_they_are() {
    let mut masked = plan("hunter2");
    mask_literals(&mut masked);
    for container in masked.all_containers() {
        assert!(container.env.iter().all(|variable| variable.value == EnvValue::Literal(MASK.into())));
        assert_eq!(container.args[0], "--password=hunter2", "what the command is stays to be seen");
    }
    assert_eq!(masked.pod_patch, Some(json!([{"op": "add", "path": "/x", "value": "***"}])));
}

#[test]
fn overlapping_and_escaped_values_leave_nothing() {
    let (masked, _) = mask_plan(&plan("xaba\"ba\u{fc}"), &["aba\"".into(), "a\"ba".into(), "ba\u{fc}".into()]);
    assert_eq!(masked.containers[0].args[0], "--password=x***");
    assert_eq!(masked.containers[0].env[1].value, EnvValue::Literal(r#"{"deep":["x***"]}"#.into()));
    let python = JobPlan { annotations: [("a".into(), r"caf\u00e9".into())].into(), ..JobPlan::default() };
    assert_eq!(mask_plan(&python, &["caf\u{e9}".into()]).0.annotations["a"], "***");
    let number = JobPlan { pod_patch: Some(json!([{"value": 4711}])), ..JobPlan::default() };
    assert_eq!(mask_plan(&number, &["4711".into()]).0.pod_patch, Some(json!([{"value": "***"}])));
}

#[test]
fn too_many_values_mask_everything() {
    let values: Vec<String> = (0..2000).map(|n| format!("value-{n}")).collect();
    let (masked, found) = mask_plan(&plan("value-7"), &values);
    assert!(found && !serde_json::to_string(&masked).unwrap().contains("value-"));
}

proptest! {
    #[test]
    fn no_secret_is_left(
        secret in "[^*\\x00-\\x1f ]{4,12}",
        around in "\\PC{0,6}",
        shape in 0..6,
    ) {
        // Words that stand in every plan and input are not what is looked for.
        prop_assume!(!["password", "secret", "login", "main", "plain", "note", "path", "value", "deep", "free", "containers", "args"]
            .iter().any(|word| word.contains(secret.as_str())));
        let inputs = match shape {
            0 => json!({"password": secret}),
            1 => json!({"password": {"value": {"a": [secret]}}}),
            2 => json!({"login": {"secret": secret, "user": around.replace(&secret, "")}}),
            3 => json!({"logins": [{"secret": [secret]}]}),
            4 => json!({"free": {"a": [{"token": {"b": secret}}]}}),
            _ => json!({"list": [secret, 1]}),
        };
        let (masked, values) = mask(&inputs, &["token"]);
        prop_assert!(values.contains(&secret));
        prop_assert!(!texts(&masked).iter().any(|text| text.contains(&secret)), "{masked}");

        let repeated = plan(&format!("{around}{secret}{around}"));
        let (masked, found) = mask_plan(&repeated, &values);
        prop_assert!(found);
        let document = serde_json::to_value(&masked).unwrap();
        prop_assert!(!texts(&document).iter().any(|text| text.contains(&secret)), "{document}");
        prop_assert_eq!(serde_json::from_value::<JobPlan>(document).unwrap(), masked);
    }
}

/// All texts in a value.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(elements) => elements.iter().flat_map(texts).collect(),
        Value::Object(members) => members.values().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}
