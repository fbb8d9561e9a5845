//! Tests of the validation of inputs and outputs.

use serde_json::{Value, json};

use super::*;

fn echo() -> ProcessDescription {
    let schemas = json!({
        "message": {"type": "string"},
        "pause": {"type": "integer", "minimum": 0},
        "numbers": {"type": "array", "items": {"type": "integer"}},
        "bbox": {"allOf": [{"format": "ogc-bbox"}, {"type": "object", "required": ["bbox"], "properties": {"bbox": {"type": "array"}}}]},
        "mixed": {"oneOf": [{"type": "string"}, {"type": "number"}]},
        "doc": {"type": "string", "contentMediaType": "text/csv"},
        "level": {"type": "string", "enum": ["low", "high"]},
        "several": {"type": "integer", "maximum": 9},
        "rows": {"type": "array", "items": {"type": "string"}},
        "object": {"type": "object", "required": ["a"]},
        "image": {"oneOf": [{"type": "string", "contentEncoding": "binary", "contentMediaType": "image/png"},
                            {"type": "string", "format": "byte", "contentMediaType": "image/tiff"}]},
        "password": {"type": "string", "format": "password", "enum": ["swordfish"]}
    });
    let inputs: serde_json::Map<String, Value> = schemas
        .as_object()
        .unwrap()
        .iter()
        .map(|(id, schema)| {
            let mut input = json!({"schema": schema, "minOccurs": u8::from(id == "message")});
            if ["several", "rows"].contains(&id.as_str()) {
                input["minOccurs"] = json!(0);
                input["maxOccurs"] = json!(3);
            }
            (id.clone(), input)
        })
        .collect();
    let outputs = json!({
        "message": {"schema": {"type": "string", "maxLength": 5}},
        "pause": {"schema": {"type": "integer"}},
        "doc": {"schema": {"oneOf": [{"type": "string", "contentMediaType": "text/csv"},
                                     {"type": "object", "contentMediaType": "application/json", "required": ["rows"]}]}},
        "raw": {"schema": {"type": "string", "contentMediaType": "application/json"}},
        "image": {"schema": {"type": "string", "contentEncoding": "binary", "contentMediaType": "image/png"}},
        "any": {"schema": {}},
        "nested": {"schema": {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}}}
    });
    let text = json!({"id": "echo", "version": "1", "inputs": inputs, "outputs": outputs}).to_string();
    ProcessDescription::parse(&text, None).unwrap()
}

fn found(request: &Value) -> Vec<Violation> {
    found_with(request, &[])
}

fn found_with(request: &Value, secret: &[&str]) -> Vec<Violation> {
    check_request(&echo(), &ExecuteRequest::parse(request.to_string().as_bytes()).unwrap(), secret)
}

fn pointers(inputs: &Value) -> Vec<String> {
    let mut inputs = inputs.clone();
    if inputs.get("message").is_none() {
        inputs["message"] = json!("m");
    }
    found(&json!({"inputs": inputs})).into_iter().map(|violation| violation.pointer).collect()
}

#[test]
fn every_form_of_a_right_value_is_taken() {
    for inputs in [
        json!({"message": "teststring", "pause": 5, "numbers": [1, 2, 3], "mixed": 1.5, "doc": "a,b", "level": "low"}),
        json!({"bbox": {"bbox": [51.9, 7, 52, 7.1], "crs": "http://www.opengis.net/def/crs/OGC/1.3/CRS84"}}),
        json!({"message": {"value": "x"}, "object": {"value": {"a": 1}}, "pause": {"value": 5}}),
        json!({"object": {"a": 1}}),
        json!({"doc": {"value": "a,b", "mediaType": "text/csv; header=present"}}),
        json!({"doc": {"value": "a,b", "format": {"mediaType": "text/csv", "encoding": "utf-8"}}}),
        json!({"doc": {"value": "YSxi", "mediaType": "text/csv", "encoding": "base64"}}),
        json!({"doc": {"href": "https://example.org/x.csv", "type": "text/csv"}}),
        json!({"doc": {"href": "s3://bucket/x.csv", "format": {"mediaType": "text/csv"}}}),
        json!({"image": "AAEC"}),
        json!({"image": {"value": "AAEC", "mediaType": "image/tiff", "encoding": "base64"}}),
        json!({"several": 1}),
        json!({"several": [1, {"value": 2}, {"href": "http://example.org/3"}]}),
        json!({"several": []}),
        json!({"rows": ["a", "b", "c", "d"]}),
        json!({"rows": [["a"], ["b", "c"]]}),
        json!({"password": "swordfish"}),
    ] {
        assert_eq!(pointers(&inputs), [""; 0], "{inputs}");
    }
}

#[test]
fn wrong_values_are_told_by_place() {
    for (inputs, told) in [
        (json!({"doc": {"type": "wrong/type_5f0f0c36-1b5e-4b44-9dbc-b7b4ea1a9ae4"}}), vec!["/inputs/doc"]),
        (
            json!({"message": 1, "pause": -1, "numbers": [1, "2"], "level": "mid"}),
            vec!["/inputs/message", "/inputs/pause", "/inputs/numbers/1", "/inputs/level"],
        ),
        (json!({"message": null}), vec!["/inputs/message"]),
        (json!({"unknown": 1}), vec!["/inputs/unknown"]),
        (json!({"bbox": {"bbox": [1, 2, 3]}}), vec!["/inputs/bbox/bbox"]),
        (json!({"mixed": true}), vec!["/inputs/mixed"]),
        (json!({"several": [1, 20, "x"]}), vec!["/inputs/several/1", "/inputs/several/2"]),
        (json!({"several": [1, 2, 3, 4]}), vec!["/inputs/several"]),
        (json!({"rows": [["a"], [1]]}), vec!["/inputs/rows/1/0"]),
        (json!({"object": {"value": {"b": 1}}}), vec!["/inputs/object/value"]),
        (json!({"object": {"value": {"a": 1}, "unit": "m"}}), vec!["/inputs/object"]),
        (json!({"doc": {"value": "x", "mediaType": "text/html"}}), vec!["/inputs/doc/mediaType"]),
        (json!({"doc": {"value": "x", "format": {"mediaType": "text/html"}}}), vec!["/inputs/doc/format/mediaType"]),
        (json!({"doc": {"value": "x", "format": "text/csv"}}), vec!["/inputs/doc/format"]),
        (json!({"doc": {"value": "x", "encoding": "rot13"}}), vec!["/inputs/doc/encoding"]),
        (json!({"doc": {"value": "?", "encoding": "base64"}}), vec!["/inputs/doc/value"]),
        (json!({"doc": {"href": "/etc/passwd"}}), vec!["/inputs/doc/href"]),
        (
            json!({"doc": {"href": "file:///etc/passwd", "type": "image/png"}}),
            vec!["/inputs/doc/href", "/inputs/doc/type"],
        ),
        (
            json!({"doc": {"href": 5, "type": 6, "title": 7}}),
            vec!["/inputs/doc/href", "/inputs/doc/title", "/inputs/doc/type"],
        ),
        (json!({"image": "not base64!"}), vec!["/inputs/image"]),
        (json!({"password": {"value": "hunter2"}}), vec!["/inputs/password/value"]),
    ] {
        assert_eq!(pointers(&inputs), told, "{inputs}");
    }
}

#[test]
fn a_request_without_what_is_required_is_told_so() {
    assert_eq!(found(&json!({})), [Violation::new("/inputs/message", "is required")]);
    let unknown = found(&json!({"inputs": {"message": "m", "mesage": 1}}));
    assert!(unknown[0].message.contains("its inputs are message, pause,"), "{unknown:?}");
}

#[test]
fn a_secret_is_never_quoted() {
    for value in
        [json!("hunter2"), json!({"value": "hunter2"}), json!({"hunter2": 1}), json!({"value": {"hunter2": 2}})]
    {
        let all = format!("{:?}", found(&json!({"inputs": {"message": "m", "password": value}})));
        assert!(all.contains("/inputs/password") && !all.contains("hunter2"), "{all}");
    }
}

#[test]
fn what_the_configuration_calls_secret_is_not_quoted_either() {
    let given = [
        (json!({"level": "hunter2"}), "level"),
        (json!({"several": [10_002_000]}), "several"),
        (json!({"mixed": {"value": {"key": "hunter2"}}}), "key"),
        (json!({"object": {"value": {"b": [{"key": "hunter2"}]}}}), "key"),
    ];
    for (inputs, name) in given {
        let mut inputs = inputs;
        inputs["message"] = json!("m");
        let told = |secret: &[&str]| {
            let found = found_with(&json!({"inputs": inputs}), secret);
            assert!(!found.is_empty(), "{inputs}");
            serde_json::to_string(&found).unwrap()
        };
        let quoted = told(&["other"]);
        assert!(
            name == "key" || quoted.contains("hunter2") || quoted.contains("10002000"),
            "the test can fail: {quoted}"
        );
        let silent = told(&["other", name]);
        assert!(!silent.contains("hunter2") && !silent.contains("10002000"), "{silent}");
    }
}

#[test]
fn violations_are_bounded() {
    let wrong: Vec<Value> = (0..10_000).map(|n| json!(format!("{n}"))).collect();
    assert_eq!(found(&json!({"inputs": {"message": "m", "numbers": wrong}})).len(), MOST);
}

#[test]
fn requested_outputs_must_be_there() {
    let outputs = json!({
        "nothing": {},
        "doc": {"format": {"mediaType": "text/html"}},
        "image": {"format": {"mediaType": "image/png"}},
        "pause": {"transmissionMode": "reference"}
    });
    let all = found(&json!({"inputs": {"message": "m"}, "outputs": outputs}));
    let pointers: Vec<_> = all.iter().map(|violation| violation.pointer.as_str()).collect();
    assert_eq!(pointers, ["/outputs/doc/format/mediaType", "/outputs/nothing"]);
    assert_eq!(found(&json!({"inputs": {"message": "m"}, "outputs": {}})), []);
}

#[test]
fn inner_values() {
    assert_eq!(inner_value(&json!({"value": [1], "mediaType": "x/y"})), &json!([1]));
    for other in [json!({"href": "http://x", "value": 1}), json!({"a": 1}), json!([1]), json!("x")] {
        assert_eq!(inner_value(&other), &other);
    }
}

#[test]
fn outputs_are_checked_in_their_media_type() {
    let process = echo();
    let place = |id: &str, kind: &str, bytes: &[u8]| {
        check_output(&process, id, kind, bytes, 1 << 20).err().map(|violation| violation.pointer)
    };
    let wrong = |at: &str| Some(at.to_owned());
    assert_eq!(place("message", "text/plain", b"hello"), None);
    assert_eq!(place("message", "text/plain", b"hello\n"), None, "a last line feed does not count");
    assert_eq!(place("message", "text/plain", b"hello!"), wrong("/outputs/message"));
    assert_eq!(place("message", "application/json", b"\"hello\""), None);
    assert_eq!(place("message", "application/json", b"5"), wrong("/outputs/message"));
    assert_eq!(place("message", "text/plain", b"\xff"), wrong("/outputs/message"));
    assert_eq!(place("message", "image/png", b"\xff"), wrong("/outputs/message"));
    assert_eq!(place("pause", "text/plain", b"5\n"), None);
    assert_eq!(place("pause", "text/plain", b"five"), wrong("/outputs/pause"));
    assert_eq!(place("pause", "application/json", b"5.5"), wrong("/outputs/pause"));
    assert_eq!(place("doc", "text/csv", b"a,b\n1,2\n"), None);
    assert_eq!(place("doc", "application/json", b"{\"rows\": 1}"), None);
    assert_eq!(place("doc", "application/json", b"{}"), wrong("/outputs/doc"));
    assert_eq!(place("doc", "application/json", b"{"), wrong("/outputs/doc"));
    assert_eq!(place("doc", "text/html", b"<script>"), wrong("/outputs/doc"));
    assert_eq!(place("raw", "application/json", b"{\"a\": 1}"), None);
    assert_eq!(place("raw", "application/json", b"{"), wrong("/outputs/raw"));
    assert_eq!(place("image", "image/png", b"\x89PNG\xff"), None);
    assert_eq!(place("image", "text/plain", b"x"), wrong("/outputs/image"));
    assert_eq!(place("any", "application/octet-stream", b"\xff"), None);
    assert_eq!(place("nested", "application/json", b"{\"a\": [1, \"secret\"]}"), wrong("/outputs/nested/a/1"));
    assert_eq!(place("other", "text/plain", b""), wrong("/outputs/other"));

    let told = check_output(&process, "message", "text/plain", b"swordfish", 1 << 20).unwrap_err();
    assert!(!told.message.contains("swordfish"), "{told:?}");
    let bare = ProcessDescription::parse(r#"{"id": "p", "version": "1"}"#, None).unwrap();
    assert_eq!(check_output(&bare, "result", "text/plain", b"x", 1 << 20), Ok(Checked::Content));
}

#[test]
fn what_would_take_too_much_memory_is_checked_in_its_form() {
    let process = echo();
    let check = |id: &str, kind: &str, bytes: &[u8], memory| check_output(&process, id, kind, bytes, memory);
    let wrong = b"{\"a\": [1, \"x\"]}";
    assert!(check("nested", "application/json", wrong, 1 << 20).is_err());
    assert_eq!(check("nested", "application/json", wrong, 500), Ok(Checked::Form));
    assert!(check("nested", "application/json", b"{\"a\": [1, \"x\"}", 500).is_err(), "it is not JSON");
    assert_eq!(check("message", "text/plain", b"longer", 5), Ok(Checked::Form));
    assert_eq!(check("any", "text/plain", b"[[[1]]]", 1 << 20), Ok(Checked::Content));
    assert!(check("doc", "text/html", b"x", 0).is_err() && check_media_type(&process, "doc", "text/html").is_err());
    assert_eq!(check_media_type(&process, "doc", "text/csv; header=present"), Ok(()));
}
