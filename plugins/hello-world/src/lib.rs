//! `hello-world`: greets by name. The smallest processor that is of use, and the first one to read.
//!
//! It prints `Hello 'NAME': 'MESSAGE'`, or `Hello 'NAME'!` without a message (an empty one counts as none), and no line end after it.
//! No shell sees the caller's text: it is an argument of `printf`.

use serde::Deserialize;
use serde_json::{Value, json};
use vespiary_processor::{
    Caller, Container, Description, Input, Output, Plan, Processor, Rejection, Request, Violations, holds_control,
    holds_marker,
};

/// The configuration of the process.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// An image that has `printf`.
    #[serde(alias = "default_image")]
    image: String,
    /// Whether a caller needs a credential.
    check_auth: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { image: "busybox:1.36".to_owned(), check_auth: false }
    }
}

struct HelloWorld {
    config: Config,
}

impl Processor for HelloWorld {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self { config })
    }

    fn check_auth(&self) -> bool {
        self.config.check_auth
    }

    fn describe(&self) -> Result<Value, String> {
        // One line each: a control character could start a line of its own in the log.
        let line = |min: u32| json!({"type": "string", "minLength": min, "maxLength": 1000, "pattern": r"^[^\x00-\x1F\x7F]*$"});
        Ok(Description::new("hello-world", env!("CARGO_PKG_VERSION"))
            .title("Hello, world")
            .description("Greets somebody by name, with a message if there is one.")
            .keywords(&["hello", "world", "example"])
            .input("name", Input::new(line(1)).title("Name").description("Who is greeted."))
            .input(
                "message",
                Input::new(line(0)).optional().title("Message").description("What is said beside the name."),
            )
            .output(
                "hello",
                Output::new(json!({"type": "string", "contentMediaType": "text/plain"}))
                    .title("Greeting")
                    .description("`Hello 'NAME': 'MESSAGE'`, or `Hello 'NAME'!` without a message."),
            )
            .token_input(self.check_auth())
            .into())
    }

    fn shape(&self, request: &Request, _caller: &Caller) -> Result<Plan, Rejection> {
        let mut wrong = Violations::new();
        let name: String = request.inputs.require("name", &mut wrong);
        let message: String = request.inputs.read("message", &mut wrong).unwrap_or_default();
        for (input, text) in [("name", &name), ("message", &message)] {
            if holds_marker(text) || holds_control(text) {
                wrong.add(input, "must not hold a control character or a marker of a result or of progress");
            }
        }
        wrong.check()?;
        let (greeting, words) =
            if message.is_empty() { ("Hello '%s'!", vec![name]) } else { ("Hello '%s': '%s'", vec![name, message]) };
        let format = format!(
            "PYGEOAPI_K8S_MANAGER_RESULT_MIMETYPE: text/plain\\nPYGEOAPI_K8S_MANAGER_RESULT_START\\n{greeting}"
        );
        let main = Container::new("main", &self.config.image).command(["printf", &format]).args(words);
        Ok(Plan::new(main).default_media_type("text/plain"))
    }
}

vespiary_processor::export!(HelloWorld);

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn plan(inputs: Value) -> Result<Plan, Rejection> {
        let processor: HelloWorld = vespiary_processor::load("{}").unwrap();
        processor.shape(&Request::execute(inputs), &Caller::new("anonymous"))
    }

    /// What the plan's container prints, run here.
    fn printed(plan: &Plan) -> String {
        let [main] = plan.containers.as_slice() else { panic!("one container") };
        let output = Command::new(&main.command[0]).args(&main.command[1..]).args(&main.args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn it_describes_itself() {
        let open: HelloWorld = vespiary_processor::load("{}").unwrap();
        let description = open.describe().unwrap();
        assert_eq!(
            (&description["id"], &description["inputs"]["name"]["minOccurs"]),
            (&json!("hello-world"), &json!(1))
        );
        assert_eq!(description["inputs"]["message"]["minOccurs"], 0);
        assert_eq!(description["outputs"]["hello"]["schema"]["contentMediaType"], "text/plain");
        assert!(description["inputs"].get("token").is_none());
        let closed: HelloWorld = vespiary_processor::load(r#"{"check_auth": true}"#).unwrap();
        assert!(closed.describe().unwrap()["inputs"].get("token").is_some());
        assert!(
            closed.authorize(&Request::execute(json!({}))).is_err()
                && open.authorize(&Request::execute(json!({}))).is_ok()
        );
        assert!(vespiary_processor::load::<HelloWorld>(r#"{"imgae": "x"}"#).err().unwrap().contains("imgae"));
    }

    #[test]
    fn it_greets() {
        let head = "PYGEOAPI_K8S_MANAGER_RESULT_MIMETYPE: text/plain\nPYGEOAPI_K8S_MANAGER_RESULT_START\n";
        let told = plan(json!({"name": "Ann", "message": {"value": "good morning"}})).unwrap();
        assert_eq!(printed(&told), format!("{head}Hello 'Ann': 'good morning'"));
        assert_eq!(printed(&plan(json!({"name": "Ann"})).unwrap()), format!("{head}Hello 'Ann'!"));
        assert_eq!(printed(&plan(json!({"name": "Ann", "message": ""})).unwrap()), format!("{head}Hello 'Ann'!"));
    }

    #[test]
    fn what_the_caller_writes_is_text_and_nothing_else() {
        for name in ["'; id; '", "$(id)", "`id`", "%s%n%d", "-v", "--", "\\n\\0", "a\"b", "Ж 名"] {
            let output = printed(&plan(json!({"name": name, "message": name})).unwrap());
            assert!(output.ends_with(&format!("\nHello '{name}': '{name}'")), "{output}");
        }
    }

    #[test]
    fn a_forged_marker_is_refused() {
        let rejection = plan(json!({"name": "PYGEOAPI_K8S_MANAGER_RESULT_END", "message": "a\nb"})).unwrap_err();
        let inputs: Vec<_> = rejection.violations.iter().map(|violation| violation.input.as_str()).collect();
        assert_eq!(inputs, ["name", "message"]);
        assert_eq!(plan(json!({})).unwrap_err().violations.len(), 1);
    }
}
