//! `echo`: gives its inputs back as outputs of the same ids, after `pause` seconds. It is the process that the conformance tests of OGC API -
//! Processes run, so its inputs and their order are what those tests look for.
//!
//! The container repeats what the caller wrote, which could hold a marker: its own markers carry the job's nonce.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use vespiary_processor::{
    Caller, Container, Description, Input, JobControl, Output, Plan, Processor, Rejection, Request, Violations,
};

/// The text is fixed: what the caller gives comes as an argument (`$1`, a number) and in a variable.
const SCRIPT: &str = r#"trap 'exit 143' TERM
sleep "$1" &
wait "$!" || exit
printf 'PYGEOAPI_K8S_MANAGER_RESULT_MIMETYPE: application/json %s\n' "$VESPIARY_RESULT_NONCE"
printf 'PYGEOAPI_K8S_MANAGER_RESULT_START %s\n' "$VESPIARY_RESULT_NONCE"
printf '%s\n' "$ECHO_OUTPUTS"
printf 'PYGEOAPI_K8S_MANAGER_RESULT_END %s\n' "$VESPIARY_RESULT_NONCE"
"#;

/// Linux takes at most 128 KiB in one variable, name and end included.
const LONGEST_OUTPUTS: usize = 120 * 1024;

/// The configuration of the process.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// An image that has `sh`, `sleep` and `printf`.
    image: String,
    /// Whether a caller needs a credential.
    check_auth: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { image: "busybox:1.36".to_owned(), check_auth: false }
    }
}

struct Echo {
    config: Config,
}

/// Id, title, required, schema of what is echoed, in the order of the description.
fn echoed() -> [(&'static str, &'static str, bool, Value); 5] {
    let bbox = json!({
        "allOf": [
            {"format": "ogc-bbox"},
            {
                "type": "object",
                "required": ["bbox"],
                "properties": {
                    "bbox": {
                        "type": "array",
                        "oneOf": [{"minItems": 4, "maxItems": 4}, {"minItems": 6, "maxItems": 6}],
                        "items": {"type": "number"}
                    },
                    "crs": {
                        "type": "string",
                        "format": "uri",
                        "default": "http://www.opengis.net/def/crs/OGC/1.3/CRS84",
                        "enum": [
                            "http://www.opengis.net/def/crs/OGC/1.3/CRS84",
                            "http://www.opengis.net/def/crs/OGC/0/CRS84h"
                        ]
                    }
                }
            }
        ]
    });
    [
        ("message", "Text", true, json!({"type": "string"})),
        ("pause", "Seconds to wait", false, json!({"type": "integer", "minimum": 0})),
        ("numbers", "Whole numbers", false, json!({"type": "array", "items": {"type": "integer"}})),
        ("bbox", "Bounding box", false, bbox),
        ("mixed", "Text or a number", false, json!({"oneOf": [{"type": "string"}, {"type": "number"}]})),
    ]
}

impl Processor for Echo {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self { config })
    }

    fn check_auth(&self) -> bool {
        self.config.check_auth
    }

    fn describe(&self) -> Result<Value, String> {
        let mut description = Description::new("echo", env!("CARGO_PKG_VERSION"))
            .title("Echo")
            .description("Gives its inputs back as outputs of the same ids, after a pause if one is asked for.")
            .keywords(&["echo", "test"])
            .job_control(&[JobControl::Sync, JobControl::Async]);
        for (id, title, required, schema) in echoed() {
            let input = Input::new(schema.clone()).title(title);
            description = description
                .input(id, if required { input } else { input.optional() })
                .output(id, Output::new(schema).title(title));
        }
        let doc = json!({"type": "string", "contentMediaType": "text/csv"});
        Ok(description
            .input("doc", Input::new(doc).optional().title("A table; it is not given back"))
            .token_input(self.check_auth())
            .into())
    }

    fn shape(&self, request: &Request, _caller: &Caller) -> Result<Plan, Rejection> {
        let mut wrong = Violations::new();
        for (id, ..) in echoed() {
            if request.inputs.is_link(id) {
                wrong.add(id, "must be a value: this process does not follow links");
            }
        }
        let pause = request.inputs.get("pause").map_or(Some(0), seconds);
        if pause.is_none() {
            wrong.add("pause", "must be a whole number of seconds, 0 to 4294967295");
        }
        // No output named means all.
        let asked = |id: &str| request.outputs.is_empty() || request.outputs.iter().any(|output| output == id);
        let outputs: Map<String, Value> = echoed()
            .into_iter()
            .filter(|(id, ..)| asked(id))
            .filter_map(|(id, ..)| Some((id.to_owned(), request.inputs.get(id)?.clone())))
            .collect();
        let outputs = Value::Object(outputs).to_string();
        if outputs.len() > LONGEST_OUTPUTS {
            wrong.add("", "the inputs are larger than the 120 KiB that this process can give back");
        }
        wrong.check()?;
        let pause = pause.unwrap_or_default().to_string();
        let main = Container::new("main", &self.config.image)
            .command(["sh", "-c", SCRIPT, "echo", &pause])
            .env("ECHO_OUTPUTS", outputs);
        Ok(Plan::new(main).default_media_type("application/json").nonce())
    }
}

/// A whole number of seconds; `5.0` is one as well in JSON Schema.
fn seconds(value: &Value) -> Option<u32> {
    match value.as_u64() {
        Some(seconds) => u32::try_from(seconds).ok(),
        None => value
            .as_f64()
            .filter(|seconds| seconds.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(seconds))
            .map(|seconds| seconds as u32),
    }
}

vespiary_processor::export!(Echo);

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    fn echo() -> Echo {
        vespiary_processor::load("{}").unwrap()
    }

    fn plan(inputs: Value, outputs: &[&str]) -> Result<Plan, Rejection> {
        let mut request = Request::execute(inputs);
        request.outputs = outputs.iter().map(|&output| output.to_owned()).collect();
        echo().shape(&request, &Caller::new("anonymous"))
    }

    /// What the plan's container prints, run here.
    fn printed(plan: &Plan) -> String {
        let [main] = plan.containers.as_slice() else { panic!("one container") };
        let mut command = Command::new(&main.command[0]);
        command.args(&main.command[1..]).env("VESPIARY_RESULT_NONCE", "n0nce");
        for variable in &main.env {
            let vespiary_processor::EnvValue::Literal(text) = &variable.value else { panic!("a literal") };
            command.env(&variable.name, text);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The value between the markers with the nonce.
    fn value(log: &str) -> Value {
        let (_, rest) = log.split_once("PYGEOAPI_K8S_MANAGER_RESULT_START n0nce\n").unwrap();
        let (value, _) = rest.rsplit_once("PYGEOAPI_K8S_MANAGER_RESULT_END n0nce\n").unwrap();
        serde_json::from_str(value).unwrap()
    }

    #[test]
    fn the_description_is_what_the_conformance_tests_look_for() {
        let description = echo().describe().unwrap();
        assert_eq!(description["jobControlOptions"], json!(["sync-execute", "async-execute"]));
        let inputs: Vec<_> = description["inputs"].as_object().unwrap().keys().collect();
        assert_eq!(inputs, ["message", "pause", "numbers", "bbox", "mixed", "doc"]);
        let outputs: Vec<_> = description["outputs"].as_object().unwrap().keys().collect();
        assert_eq!(outputs, ["message", "pause", "numbers", "bbox", "mixed"]);
        let required = description["inputs"].as_object().unwrap().values().filter(|input| input["minOccurs"] == 1);
        assert_eq!(required.count(), 1);
        assert_eq!(description["inputs"]["bbox"]["schema"]["allOf"][0], json!({"format": "ogc-bbox"}));
    }

    #[test]
    fn inputs_come_back_without_their_wrapping() {
        let inputs = json!({
            "message": {"value": "teststring", "mediaType": "text/plain"},
            "numbers": [1, 2, 3],
            "bbox": {"bbox": [51.9, 7, 52, 7.1], "crs": "http://www.opengis.net/def/crs/OGC/1.3/CRS84"},
            "mixed": 2.5,
            "doc": "a,b",
        });
        let log = printed(&plan(inputs.clone(), &[]).unwrap());
        assert!(log.starts_with("PYGEOAPI_K8S_MANAGER_RESULT_MIMETYPE: application/json n0nce\n"), "{log}");
        let bbox = &inputs["bbox"];
        assert_eq!(value(&log), json!({"message": "teststring", "numbers": [1, 2, 3], "bbox": bbox, "mixed": 2.5}));
        assert_eq!(value(&printed(&plan(inputs, &["mixed", "pause"]).unwrap())), json!({"mixed": 2.5}));
    }

    #[test]
    fn text_of_the_caller_stays_text() {
        let text = "'; id; \"$(id)\" `id` \\n %s\nPYGEOAPI_K8S_MANAGER_RESULT_END\u{0}";
        let log = printed(&plan(json!({"message": text}), &[]).unwrap());
        assert_eq!(value(&log), json!({"message": text}));
    }

    #[test]
    fn a_link_is_refused() {
        let rejection = plan(json!({"message": {"href": "https://example.org/x"}}), &[]).unwrap_err();
        assert_eq!(rejection.violations[0].input, "message");
    }

    #[test]
    fn it_waits() {
        let started = Instant::now();
        let log = printed(&plan(json!({"message": "m", "pause": 1.0}), &[]).unwrap());
        assert!(started.elapsed() >= Duration::from_secs(1));
        assert_eq!(value(&log), json!({"message": "m", "pause": 1.0}));
        for pause in [json!(-1), json!(1.5), json!("1; id"), json!(1e30)] {
            assert_eq!(plan(json!({"message": "m", "pause": pause}), &[]).unwrap_err().violations[0].input, "pause");
        }
    }

    #[test]
    fn what_does_not_fit_into_a_variable_is_refused() {
        assert!(plan(json!({"message": "x".repeat(LONGEST_OUTPUTS)}), &[]).is_err());
        let fits = plan(json!({"message": "x".repeat(LONGEST_OUTPUTS - 100)}), &[]).unwrap();
        assert_eq!(value(&printed(&fits))["message"].as_str().unwrap().len(), LONGEST_OUTPUTS - 100);
    }
}
