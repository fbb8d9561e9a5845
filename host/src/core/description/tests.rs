//! Tests of process descriptions.

use proptest::prelude::*;

use super::*;

fn pointers(text: &str) -> Vec<String> {
    ProcessDescription::parse(text, None).unwrap_err().into_iter().map(|violation| violation.pointer).collect()
}

fn parse(value: &Value) -> ProcessDescription {
    ProcessDescription::parse(&value.to_string(), None).unwrap()
}

fn schema_pointers(schema: &Value) -> Vec<String> {
    let all = pointers(&json!({"id": "p", "version": "1", "inputs": {"a": {"schema": schema}}}).to_string());
    all.into_iter().map(|pointer| pointer.strip_prefix("/inputs/a/schema").unwrap().to_owned()).collect()
}

#[test]
fn a_description_is_read_in_its_order() {
    let process = parse(&json!({
        "version": "1.2.0", "id": "p", "title": "T", "description": null, "keywords": ["k"], "example": {"inputs": {}},
        "metadata": [{"title": "m", "href": "http://x"}],
        "links": [{"href": "http://x", "rel": "about"}],
        "jobControlOptions": ["async-execute"],
        "inputs": {
            "z": {"title": "Z", "schema": {"type": "string", "format": "password"}},
            "a": {"schema": {"type": "integer"}, "minOccurs": 0, "maxOccurs": "unbounded"},
            "m": {"schema": {"type": "integer"}, "minOccurs": 2, "maxOccurs": 3}
        },
        "outputs": {
            "text": {"schema": {"oneOf": [{"type": "string", "contentMediaType": "text/csv"}, {"type": "object"}]}},
            "any": {"schema": {}}
        }
    }));
    assert_eq!((process.id.as_str(), process.version.as_str(), process.title.as_deref()), ("p", "1.2.0", Some("T")));
    assert_eq!(process.modes, Modes { sync: false, asynchronous: true });
    let inputs: Vec<_> =
        process.inputs.iter().map(|i| (i.id.as_str(), i.min_occurs, i.max_occurs, i.is_secret)).collect();
    assert_eq!(inputs, [("z", 1, Some(1), true), ("a", 0, None, false), ("m", 2, Some(3), false)]);
    let outputs: Vec<_> = process.outputs.iter().map(|output| (output.id.as_str(), output.media_type())).collect();
    assert_eq!(outputs, [("text", Some("text/csv")), ("any", None)]);
    assert_eq!(process.links, [json!({"href": "http://x", "rel": "about"})]);

    let document = process.document();
    assert_eq!(document["jobControlOptions"], json!(["async-execute", "dismiss"]));
    assert_eq!(document["outputTransmission"], json!(["value", "reference"]));
    assert_eq!(document["mutable"], json!(false));
    assert_eq!(document["example"], json!({"inputs": {}}));
    assert_eq!(document["inputs"].as_object().unwrap().keys().collect::<Vec<_>>(), ["z", "a", "m"]);
    assert!(document.get("links").is_none() && document.get("description").is_none());

    let summary = process.summary();
    assert_eq!(summary["metadata"], json!([{"title": "m", "href": "http://x"}]));
    assert_eq!(summary["jobControlOptions"], document["jobControlOptions"]);
    assert!(["inputs", "outputs", "example", "links"].iter().all(|key| summary.get(key).is_none()));
}

#[test]
fn what_is_left_out_has_a_default() {
    let process = parse(&json!({"id": "p", "version": "1", "jobControlOptions": []}));
    assert_eq!(process.modes, Modes { sync: true, asynchronous: true });
    assert_eq!(process.document()["inputs"], json!({}));
    assert_eq!(process.document()["outputs"], json!({}));
    assert_eq!(process.summary()["jobControlOptions"], json!(["sync-execute", "async-execute", "dismiss"]));
}

#[test]
fn the_operators_id_replaces_the_texts() {
    let id: ProcessId = "mine".parse().unwrap();
    for text in [r#"{"id": "theirs", "version": "1"}"#, r#"{"version": "1"}"#] {
        let process = ProcessDescription::parse(text, Some(&id)).unwrap();
        assert_eq!((process.id.as_str(), &process.document()["id"]), ("mine", &json!("mine")));
    }
}

#[test]
fn all_violations_are_told_at_once() {
    assert_eq!(pointers("{"), [""]);
    assert_eq!(pointers("[]"), [""]);
    assert_eq!(pointers(&" ".repeat(MAX_BYTES + 1)), [""]);
    assert_eq!(pointers("{}"), ["/id", "/version"]);
    assert_eq!(pointers(&format!(r#"{{"id": "p", "version": "1", "x": {}{}}}"#, "[".repeat(70), "]".repeat(70))), [""]);
    assert_eq!(
        pointers(
            &json!({
                "id": "not an id", "version": 1, "title": {"en": "T"}, "keywords": "k", "metadata": [1],
                "jobControlOptions": ["sync-execute", "sometimes"],
                "links": [{"rel": "self"}, {"href": 1}],
                "additionalParameters": {"parameters": [{"name": "n"}]},
                "inputs": {
                    "a": {},
                    "b/c": {"schema": {"type": ["string", "null"]}, "minOccurs": -1, "maxOccurs": "many"},
                    "d": {"schema": {}, "minOccurs": 2},
                    "e": {"schema": {}, "maxOccurs": 0},
                    "f": 1,
                    "": {"schema": {}}
                },
                "outputs": []
            })
            .to_string()
        ),
        [
            "/id",
            "/version",
            "/title",
            "/keywords",
            "/metadata/0",
            "/additionalParameters/parameters",
            "/jobControlOptions/1",
            "/links/0",
            "/links/1/href",
            "/inputs/a",
            "/inputs/b~1c/schema/type",
            "/inputs/b~1c/minOccurs",
            "/inputs/b~1c/maxOccurs",
            "/inputs/d/maxOccurs",
            "/inputs/e/maxOccurs",
            "/inputs/f",
            "/inputs/",
            "/outputs"
        ]
    );
    assert_eq!(pointers(r#"{"id": "p", "version": "1", "jobControlOptions": ["dismiss"]}"#), ["/jobControlOptions"]);
    let many: Map<String, Value> = (0..=MAX_ENTRIES).map(|n| (n.to_string(), json!({"schema": {}}))).collect();
    assert_eq!(pointers(&json!({"id": "p", "version": "1", "inputs": many}).to_string()), ["/inputs"]);
}

#[test]
fn schemas_keep_to_the_closed_list() {
    for (schema, told) in [
        (json!("string"), vec![""]),
        (json!({"const": 1}), vec!["/const"]),
        (
            json!({"$schema": "x", "$defs": {}, "x-mine": 1, "examples": []}),
            vec!["/$schema", "/$defs", "/x-mine", "/examples"],
        ),
        (json!({"exclusiveMinimum": 5}), vec!["/exclusiveMinimum"]),
        (json!({"exclusiveMinimum": true}), vec!["/exclusiveMinimum"]),
        (json!({"type": "text"}), vec!["/type"]),
        (json!({"contentMediaType": "text/csv\nx: y"}), vec!["/contentMediaType"]),
        (json!({"pattern": "("}), vec!["/pattern"]),
        (json!({"enum": []}), vec!["/enum"]),
        (json!({"required": ["a", "a"]}), vec!["/required"]),
        (json!({"multipleOf": 0}), vec!["/multipleOf"]),
        (json!({"maxLength": -1, "minItems": 1.5}), vec!["/maxLength", "/minItems"]),
        (json!({"items": {"$ref": "x"}}), vec!["/items/$ref"]),
        (json!({"allOf": [{"format": "ogc-bbox"}, {"$ref": "../bbox.yaml"}]}), vec!["/allOf/1/$ref"]),
        (
            json!({"properties": {"a": {"const": 1}}, "additionalProperties": 1}),
            vec!["/properties/a/const", "/additionalProperties"],
        ),
        (json!({"oneOf": []}), vec!["/oneOf"]),
        (json!({"$ref": 1}), vec!["/$ref"]),
        (json!({"$ref": "x", "title": "t"}), vec![""]),
    ] {
        assert_eq!(schema_pointers(&schema), told, "{schema}");
    }
    parse(
        &json!({"id": "p", "version": "1", "inputs": {"a": {"schema": {"$ref": "https://example.org/schema.json"}}}}),
    );
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,100}") {
        prop_assert!(ProcessDescription::parse(&text, None).is_err() || text.contains("version"));
    }

    /// Almost a schema: each keyword with a value of some kind.
    #[test]
    fn almost_schemas_are_answered(
        keywords in proptest::collection::vec(
            (
                proptest::sample::select(vec![
                    "type", "enum", "minimum", "exclusiveMinimum", "oneOf", "allOf", "not", "items", "properties", "required", "format",
                    "pattern", "nullable", "additionalProperties", "multipleOf", "maxLength", "uniqueItems", "default", "$ref",
                ]),
                proptest::sample::select(vec![
                    json!(1), json!(-1), json!(1e300), json!(true), json!("string"), json!("byte"), json!("a{99999}"), json!(["a"]),
                    json!([{"type": "string"}]), json!({"type": "number"}), json!({"a": {"nullable": true}}), json!(null),
                ]),
            ),
            0..5,
        ),
        value in proptest::sample::select(vec![json!(1), json!("x"), json!([1]), json!({"a": 1}), json!(null)]),
    ) {
        let schema: Map<String, Value> = keywords.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let text = json!({"id": "p", "version": "1", "inputs": {"a": {"schema": schema}}}).to_string();
        match ProcessDescription::parse(&text, None) {
            Ok(process) => {
                let mut out = Vec::new();
                process.inputs[0].schema.check(&value, None, "", crate::core::value_schema::Shown::Values, &mut out);
            }
            Err(violations) => prop_assert!(!violations.is_empty()),
        }
    }
}
