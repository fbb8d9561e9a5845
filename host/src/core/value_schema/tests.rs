//! Tests of schemas.

use serde_json::json;

use super::*;

fn told(schema: &Value, value: &Value, media_type: Option<&str>, shown: Shown) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let schema = ValueSchema::parse(schema, "", &mut out).unwrap_or_else(|| panic!("{out:?}"));
    schema.check(value, media_type, "/v", shown, &mut out);
    out.into_iter().map(|violation| (violation.pointer, violation.message)).collect()
}

fn message(schema: &Value, value: &Value) -> String {
    match told(schema, value, None, Shown::Values).as_slice() {
        [] => String::new(),
        [(pointer, message)] if pointer == "/v" => message.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_are_plain() {
    for (schema, value, expected) in [
        (json!({"type": "integer"}), json!("a"), "must be an integer, not a string"),
        (json!({"type": "integer"}), json!(1.5), "must be an integer, not a number with a fraction"),
        (json!({"enum": ["a", "b"]}), json!("c"), r#"must be one of "a", "b"; it is "c""#),
        (json!({"enum": ["a"]}), json!("c"), r#"must be "a"; it is "c""#),
        (json!({"minimum": 0}), json!(-1), "must be at least 0; it is -1"),
        (json!({"minimum": 0, "exclusiveMinimum": true}), json!(0), "must be greater than 0; it is 0"),
        (json!({"maximum": 1, "exclusiveMaximum": false}), json!(1), ""),
        (json!({"minLength": 1}), json!(""), r#"must have at least 1 character; it is """#),
        (json!({"pattern": "^a+$"}), json!("b"), r#"must match the pattern ^a+$; it is "b""#),
        (json!({"type": "object", "required": ["a"]}), json!({}), r#"must have the member "a""#),
        (
            json!({"additionalProperties": false}),
            json!({"x": 1}),
            "must not have other members than those of its schema",
        ),
        (
            json!({"properties": {"a": {}}, "additionalProperties": false}),
            json!({"x": 1}),
            "must not have the members 'x'",
        ),
        (json!({"format": "date-time"}), json!("today"), r#"must be of the format 'date-time'; it is "today""#),
        (json!({"format": "byte", "type": "string"}), json!("???"), "must be base64 text (RFC 4648)"),
        (
            json!({"format": "int32", "type": "integer"}),
            json!(3_000_000_000_u32),
            "must be at most 2147483647; it is 3000000000",
        ),
        (
            json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            json!(true),
            "must be a string or a number, not a boolean",
        ),
        (json!({"format": "made-up"}), json!("x"), ""),
        (json!({"type": "string", "nullable": true}), json!(null), ""),
        (json!({"enum": ["a"], "nullable": true}), json!(null), ""),
        (json!({"type": "number"}), json!(null), "must be a number, not null"),
    ] {
        assert_eq!(message(&schema, &value), expected, "{schema} {value}");
    }
}

#[test]
fn null_inside_is_taken_where_the_schema_says_so() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "string", "nullable": true},
        "b": {"nullable": true, "oneOf": [{"type": "string"}, {"type": "number"}]},
        "c": {"type": "string"}
    }});
    let all = told(&schema, &json!({"a": null, "b": null, "c": null}), None, Shown::Values);
    assert_eq!(all, [("/v/c".to_owned(), "must be a string, not null".to_owned())]);
}

#[test]
fn long_values_are_clipped_and_secrets_not_told() {
    let long = message(&json!({"enum": ["a"]}), &json!("x".repeat(10_000)));
    assert!(long.chars().count() < 120, "{long}");
    let schema = json!({"type": "object", "additionalProperties": {"enum": ["a"]}});
    let hidden = told(&schema, &json!({"hunter2": "swordfish"}), None, Shown::Nothing);
    assert_eq!(hidden, [("/v".to_owned(), r#"must be "a""#.to_owned())]);
    let closed = json!({"type": "object", "additionalProperties": false});
    assert!(!told(&closed, &json!({"hunter2": 1}), None, Shown::Nothing)[0].1.contains("hunter2"));
    let named = told(&schema, &json!({"hunter2": "swordfish"}), None, Shown::Names);
    assert_eq!(named, [("/v/hunter2".to_owned(), r#"must be "a""#.to_owned())]);
}

#[test]
fn a_bounding_box_has_four_or_six_numbers() {
    let hinted = [
        json!({"allOf": [{"format": "ogc-bbox"}, {"type": "object"}]}),
        json!({"type": "object", "format": "http://www.opengis.net/def/format/ogcapi-processes/0/ogc-bbox"}),
        json!({"$ref": "https://schemas.example.org/openapi/schemas/bbox.yaml"}),
    ];
    for schema in hinted {
        let pointers = |value: Value| -> Vec<String> {
            told(&schema, &value, None, Shown::Values).into_iter().map(|(pointer, _)| pointer).collect()
        };
        let h = "http://www.opengis.net/def/crs/OGC/0/CRS84h";
        assert_eq!(pointers(json!({"bbox": [51.9, 7, 52, 7.1]})), [""; 0]);
        assert_eq!(pointers(json!({"bbox": [1, 2, 3, 4, 5, 6], "crs": h})), [""; 0]);
        assert_eq!(pointers(json!({"bbox": [1, 2, 3, 4, 5]})), ["/v/bbox"]);
        assert_eq!(pointers(json!({"bbox": [1, 2, 3, "4"]})), ["/v/bbox"]);
        assert_eq!(pointers(json!({"crs": "urn:ogc:def:crs:EPSG:6.6:4326"})), ["/v/bbox", "/v/crs"]);
        assert_eq!(pointers(json!([1, 2, 3, 4])), ["/v"]);
    }
    let own = json!({"format": "ogc-bbox", "properties": {"crs": {"enum": ["urn:x"]}}});
    assert_eq!(told(&own, &json!({"bbox": [1, 2, 3, 4], "crs": "urn:x"}), None, Shown::Values), []);
    assert_eq!(told(&own, &json!({"bbox": [1, 2, 3, 4], "crs": "urn:y"}), None, Shown::Values).len(), 1);
}

#[test]
fn media_types_pick_the_alternative() {
    let schema = json!({"oneOf": [
        {"type": "string", "contentEncoding": "binary", "contentMediaType": "image/tiff; application=geotiff"},
        {"type": "string", "contentEncoding": "binary", "contentMediaType": "image/jp2"},
        {"type": "object", "required": ["type"]}
    ]});
    let mut out = Vec::new();
    let parsed = ValueSchema::parse(&schema, "", &mut out).unwrap();
    assert_eq!(parsed.media_type(), Some("image/tiff; application=geotiff"));
    assert!(parsed.offers("image/tiff") && parsed.offers("application/geo+json") && !parsed.offers("text/html"));
    // The same base64 text fits two of them: that is no mistake.
    assert_eq!(told(&schema, &json!("AAAA"), None, Shown::Values), []);
    assert_eq!(told(&schema, &json!({"type": "x"}), Some("image/jp2"), Shown::Values).len(), 1);
    assert_eq!(
        told(&schema, &json!({}), None, Shown::Values),
        [("/v".into(), r#"must have the member "type""#.into())]
    );
    let unnamed = ValueSchema::parse(&json!({"type": "string"}), "", &mut out).unwrap();
    assert!(unnamed.offers("image/png") && unnamed.media_type().is_none());
    let beside = ValueSchema::parse(
        &json!({"contentMediaType": "text/csv", "maxLength": 2, "oneOf": [{"type": "string"}]}),
        "",
        &mut out,
    );
    assert_eq!(beside.as_ref().unwrap().media_type(), Some("text/csv"));
    beside.unwrap().check(&json!("abc"), None, "/v", Shown::Values, &mut out);
    assert_eq!(out.len(), 1, "what stands beside 'oneOf' counts");
}

#[test]
fn secrets_are_found_wherever_they_are() {
    let secrets = |schema: Value| {
        let parsed = ValueSchema::parse(&schema, "", &mut Vec::new()).unwrap();
        (parsed.is_secret(), parsed.holds_secret())
    };
    assert_eq!(secrets(json!({"type": "string"})), (false, false));
    assert_eq!(secrets(json!({"format": "password"})), (true, true));
    assert_eq!(secrets(json!({"writeOnly": true})), (true, true));
    assert_eq!(secrets(json!({"allOf": [{"type": "string"}, {"format": "password"}]})), (true, true));
    assert_eq!(secrets(json!({"properties": {"a": {"items": {"writeOnly": true}}}})), (false, true));
    assert_eq!(secrets(json!({"properties": {"format": {"type": "string"}, "writeOnly": {}}})), (false, false));
}

#[test]
fn a_hostile_pattern_ends() {
    let begin = std::time::Instant::now();
    let told = message(&json!({"pattern": "^(?=(a+)+$)(a|aa)+\\1b$"}), &json!("a".repeat(200)));
    assert!(told.contains("pattern"), "{told}");
    assert!(begin.elapsed() < std::time::Duration::from_secs(10));
}
