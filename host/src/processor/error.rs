//! Why a component is not a processor ([`Refusal`], told to who deploys it) and why a call of one failed
//! ([`ProcessorError`], one request's trouble). Texts of plugins in here are cleaned already.

use std::time::Duration;

use crate::core::{Digest, ProcessId, Violation};

/// Why the processor host could not be made, or why one call of a processor did not give an answer.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorError {
    /// The settings are out of their bounds.
    #[error("the processor settings are not valid: {0}")]
    Settings(String),
    /// The WebAssembly engine could not be set up on this machine.
    #[error("the WebAssembly engine could not be set up")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The folder of compiled code belongs to someone else, who could put code into this process.
    #[error("the folder of compiled code '{0}' belongs to another user: remove it or choose another data folder")]
    CacheNotOurs(String),
    /// The code hit `unreachable`, read outside its memory, exited or the like.
    #[error("the processor trapped in {call}: {reason}")]
    Trapped {
        /// Which call: `describe`, `authorize` or `shape`.
        call: &'static str,
        /// The kind of trap.
        reason: String,
        /// The trap with its backtrace.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The call did not come back in time.
    #[error("the processor was stopped in {call}: no answer within {} ms", .deadline.as_millis())]
    DeadlineExceeded {
        /// Which call.
        call: &'static str,
        /// The time it had.
        deadline: Duration,
    },
    /// The call wanted more memory than it may have.
    #[error("the processor was stopped in {call}: it wanted more than {limit_mib} MiB of memory")]
    OutOfMemory {
        /// Which call.
        call: &'static str,
        /// What it may have, in MiB.
        limit_mib: u32,
    },
    /// What the call handed over is too large, or not well-formed text or records. The engine does not tell these apart
    /// by type; the source does in words.
    #[error("the processor's answer to {call} is larger than {limit_kib} KiB or not well-formed")]
    BadAnswer {
        /// Which call.
        call: &'static str,
        /// How large an answer may be, in KiB.
        limit_kib: u32,
        /// What the engine says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is well-formed, but breaks a rule of the contract.
    #[error("the processor's answer to {call} breaks the contract: {reason}")]
    BrokenContract {
        /// Which call.
        call: &'static str,
        /// Which rule.
        reason: String,
    },
    /// No instance of it could be made.
    #[error("the processor could not be instantiated for {call}")]
    NotInstantiated {
        /// Which call.
        call: &'static str,
        /// What the engine says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// All instances were busy for as long as a call may wait.
    #[error("too many processor calls at once: none could start within {} ms", .waited.as_millis())]
    Overloaded {
        /// How long the call waited.
        waited: Duration,
    },
    /// The inputs that the caller of this module gave are not a JSON object.
    #[error("the request's inputs are not a JSON object")]
    Inputs(#[source] serde_json::Error),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

/// Why something is not offered as a process. Each message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The bytes are something else.
    #[error("not a WebAssembly file: it does not begin with the bytes of one. An unfinished copy? Copy it again")]
    NotWasm,
    /// A core module: the usual result of building for `wasm32-unknown-unknown` or `wasm32-wasip1`.
    #[error("a core module, not a component: build for the target wasm32-wasip2")]
    CoreModule,
    /// Larger than allowed.
    #[error(
        "{bytes} bytes are more than the {limit_mib} MiB that a processor may have: build it for size and strip it, or raise `component_mib`"
    )]
    TooLarge {
        /// How large it is.
        bytes: u64,
        /// The limit in MiB.
        limit_mib: u32,
    },
    /// The engine does not accept the code.
    #[error(
        "it does not compile: {reason}. Copy it again if it was cut off; otherwise build it with features of WebAssembly 2.0 and without threads"
    )]
    DoesNotCompile {
        /// What the engine says.
        reason: String,
    },
    /// It wants something that is not there.
    #[error("it imports what is not offered: {}. {hint}", .names.join(", "))]
    Imports {
        /// The names of the imports.
        names: Vec<String>,
        /// What to do.
        hint: &'static str,
    },
    /// A component of another kind.
    #[error(
        "it does not export vespiary:processor/process@1 but {}: implement the world `processor` of wit/v1",
        if .exports.is_empty() { "nothing".to_owned() } else { .exports.join(", ") }
    )]
    NotAProcessor {
        /// What it exports.
        exports: Vec<String>,
    },
    /// A processor of a contract that this server does not know, or one whose records are not those of the contract.
    #[error("it was built against another contract: {reason}. Build it against the wit/v1 of this server")]
    OtherContract {
        /// What differs.
        reason: String,
    },
    /// `describe` did not give an answer.
    #[error("{}. Try it with `vespiary check`", chain(.0))]
    Describe(#[source] ProcessorError),
    /// `describe` says why the configuration does not make a process.
    #[error("the processor does not accept its configuration: {reason}")]
    Configuration {
        /// In the processor's words.
        reason: String,
    },
    /// What `describe` answered is not a process description.
    #[error("its process description is not valid: {}", join(.0))]
    Description(Vec<Violation>),
    /// Nothing of that name.
    #[error(
        "there is no processor '{processor}': name one that ships, a .wasm file, or a digest sha256:… of one that was deployed"
    )]
    NoSuchProcessor {
        /// The name in the entry.
        processor: String,
    },
    /// The bytes of this digest were not found.
    #[error("no processor of digest {0} was ever deployed here: deploy the file instead")]
    NoSuchDigest(Digest),
    /// The file or folder could not be read.
    #[error("'{path}' could not be read ({reason}): check that it is there and readable")]
    Unreadable {
        /// Which file.
        path: String,
        /// What the system says.
        reason: String,
    },
    /// The entry is not valid.
    #[error("its configuration is not valid: {reason}")]
    Entry {
        /// What and where.
        reason: String,
    },
    /// Another process has this id.
    #[error("the id '{id}' is taken by {by}: give this one another `id`")]
    IdTaken {
        /// The id.
        id: ProcessId,
        /// Who has it.
        by: String,
    },
    /// The host itself could not do it now.
    #[error("it could not be loaded: {0}")]
    Host(#[source] ProcessorError),
}

impl Refusal {
    /// Whether it comes of the state of this machine: the same bytes may be accepted a moment later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreadable { .. } | Self::Host(_) => true,
            Self::Describe(error) => {
                matches!(error, ProcessorError::DeadlineExceeded { .. } | ProcessorError::Overloaded { .. })
            }
            _ => false,
        }
    }
}

fn join(violations: &[Violation]) -> String {
    let texts = violations.iter().map(|violation| match violation.pointer.as_str() {
        "" => violation.message.clone(),
        pointer => format!("{pointer}: {}", violation.message),
    });
    texts.collect::<Vec<_>>().join("; ")
}

/// The error with its causes, in one line. The operator sees only this line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        let line = line.lines().next().unwrap_or_default().trim();
        if !line.is_empty() && !text.contains(line) {
            text.push_str(": ");
            text.push_str(line);
        }
        cause = error.source();
    }
    super::text::clean(&text, 1024)
}
