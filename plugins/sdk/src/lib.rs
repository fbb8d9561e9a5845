//! Write a Vespiary processor in a page of Rust.
//!
//! A processor says what a process is, who may use it and which containers a request becomes. It runs nothing itself. With
//! this crate it is a type that implements [`Processor`] and one line with [`export!`]:
//!
//! ```
//! use serde::Deserialize;
//! use serde_json::{Value, json};
//! use vespiary_processor::{Caller, Container, Description, Input, Output, Plan, Processor, Rejection, Request, Violations};
//!
//! /// What the operator writes under `config:`.
//! #[derive(Deserialize)]
//! #[serde(default, deny_unknown_fields)]
//! struct Config {
//!     image: String,
//! }
//!
//! impl Default for Config {
//!     fn default() -> Self {
//!         Self { image: "busybox:1.36".to_owned() }
//!     }
//! }
//!
//! struct WordCount {
//!     config: Config,
//! }
//!
//! impl Processor for WordCount {
//!     type Config = Config;
//!
//!     fn new(config: Config) -> Result<Self, String> {
//!         Ok(Self { config })
//!     }
//!
//!     fn describe(&self) -> Result<Value, String> {
//!         Ok(Description::new("word-count", "1.0.0")
//!             .title("Word count")
//!             .input("text", Input::new(json!({"type": "string", "maxLength": 1000})).title("Text to count in"))
//!             .output("count", Output::new(json!({"type": "string", "contentMediaType": "text/plain"})))
//!             .into())
//!     }
//!
//!     fn shape(&self, request: &Request, _caller: &Caller) -> Result<Plan, Rejection> {
//!         let mut wrong = Violations::new();
//!         let text: String = request.inputs.require("text", &mut wrong);
//!         if text.contains('\0') {
//!             wrong.add("text", "must not hold a zero byte");
//!         }
//!         wrong.check()?;
//!         let script = "echo PYGEOAPI_K8S_MANAGER_RESULT_MIMETYPE: text/plain
//!             echo PYGEOAPI_K8S_MANAGER_RESULT_START
//!             printf %s \"$1\" | wc -w";
//!         // Caller-given text is an argument or a variable's value, never part of a script.
//!         let main = Container::new("main", &self.config.image).command(["sh", "-c", script, "word-count", &text]);
//!         Ok(Plan::new(main).default_media_type("text/plain"))
//!     }
//! }
//!
//! vespiary_processor::export!(WordCount);
//! # // What it says is tried: anyone may, and the script prints what a result begins with.
//! # let processor: WordCount = vespiary_processor::load("{}").unwrap();
//! # let request = Request::execute(json!({"text": "to be; echo \"$HOME\""}));
//! # let caller = processor.authorize(&request).unwrap();
//! # let plan = processor.shape(&request, &caller).unwrap();
//! # let (program, arguments) = plan.containers[0].command.split_first().unwrap();
//! # let printed = std::process::Command::new(program).args(arguments).output().unwrap().stdout;
//! # let printed = String::from_utf8(printed).unwrap();
//! # let head = "PYGEOAPI_K8S_MANAGER_RESULT_MIMETYPE: text/plain\nPYGEOAPI_K8S_MANAGER_RESULT_START\n";
//! # assert_eq!(printed.strip_prefix(head).unwrap().trim(), "4");
//! ```
//!
//! Whoever the server lets execute may execute it. To ask for a credential, answer true in [`Processor::check_auth`] and add
//! `.token_input(self.check_auth())` to the description.
//!
//! # Build
//! ```toml
//! [package]
//! name = "word-count"
//! version = "1.0.0"
//! edition = "2024"
//!
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [dependencies]
//! serde = { version = "1", features = ["derive"] }
//! serde_json = "1"
//! vespiary-processor = { path = "…/plugins/sdk" }
//! ```
//! Then `rustup target add wasm32-wasip2` and `cargo build --release --target wasm32-wasip2` make
//! `target/wasm32-wasip2/release/word_count.wasm`, which is a component that can be deployed as it is. `vespiary check word_count.wasm`
//! shows what it makes of a configuration and a request.
//!
//! # The three functions
//! | function | is asked | answers |
//! |---|---|---|
//! | [`Processor::describe`] | once, when the component is loaded | the process description of OGC API - Processes; [`Description`] writes one |
//! | [`Processor::authorize`] | before every execution | a [`Caller`], or a [`Denial`] (401 or 403); the default is [`authorize`] |
//! | [`Processor::shape`] | after that | a [`Plan`], or a [`Rejection`] with all that is wrong (400) |
//!
//! Each request runs in a fresh instance of 64 MiB, each call has 100 ms (the operator can change both), without files, sockets or
//! environment. Nothing is kept from one request to the next, and `shape` must not count on what `authorize` has left in memory: it must
//! give the same plan for the same arguments.
//!
//! # What a container finds and prints
//! | variable | value |
//! |---|---|
//! | `PYGEOAPI_JOB_ID`, `PYGEOAPI_PROCESS_ID` | ids of the job and its process |
//! | `PYGEOAPI_K8S_MANAGER_INPUTS` | the inputs as one JSON object, without the credentials; absent when the request has none, and in init containers |
//! | `PYGEOAPI_K8S_MANAGER_INPUTS_FILE` | a file with the inputs instead, when they are larger than 96 KiB |
//! | `VESPIARY_RESULT_NONCE` | the job's nonce, with [`Plan::nonce`]; not in init containers |
//!
//! A plan must not set them, nor any that begins with `VESPIARY_` ([`is_reserved_variable`]). No text of the command, argument or variable
//! may have 128 KiB or more: Linux starts no program with such a one, and the host refuses the plan. The result is read out of the log of the
//! first container, or of the one that [`Plan::result_container`] names:
//!
//! * the first line that contains `PYGEOAPI_K8S_MANAGER_RESULT_MIMETYPE: text/csv` names the media type ([`Plan::default_media_type`] where
//!   there is none);
//! * what follows the line that contains `PYGEOAPI_K8S_MANAGER_RESULT_START` is the value, to the end of the log or to a line that
//!   contains `PYGEOAPI_K8S_MANAGER_RESULT_END`. Text before the end marker on its own line is left out: print a line end first;
//! * a process with one output has the value as that output; one with several prints a JSON object by output id; one without has it as
//!   the output `result`. Without a start marker there is no result, which is no failure;
//! * with [`Plan::nonce`] a marker counts only on a line that also contains the text of the variable `VESPIARY_RESULT_NONCE`. Use it where
//!   a container prints text of the caller; [`holds_marker`] tells whether a text could pass for a marker without it.
//!
//! A line `VESPIARY_PROGRESS: 42 half way there` sets progress and message of the running job. Exit code 0 is success. Standard output and
//! error both go to the log, as they are: a container must not print its secrets.
//!
//! # Tests
//! The crate compiles natively, so that a processor's functions are called in plain unit tests: see [`testing`].

mod access;
#[doc(hidden)]
pub mod bindings;
mod description;
mod export;
mod host;
mod plan;
mod rejection;
mod request;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub use access::{CHALLENGE, CHALLENGE_INVALID_TOKEN, TOKEN_INPUT, authorize, token_input};
pub use bindings::vespiary::processor::host::Level;
pub use bindings::vespiary::processor::types::{
    Action, Caller, ClaimSource, Container, Denial, EmptyDirSource, EnvValue, EnvVariable, ImagePullPolicy,
    KeyReference, Mount, ObjectSource, Pair, Plan, Rejection, Resources, ResultRules, Security, Toleration, Violation,
    Volume, VolumeSource,
};
pub use description::{Description, Input, JobControl, Output};
#[doc(hidden)]
pub use export::Exported;
pub use export::{Processor, load};
pub use host::{log, verify_token};
pub use plan::{holds_control, holds_marker, is_reserved_variable};
pub use rejection::Violations;
pub use request::{Inputs, Principal, Request, inner_value};
pub use serde_json;
