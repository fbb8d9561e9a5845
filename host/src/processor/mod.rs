//! Processors: WebAssembly components that say what a process is, who may run it and what a request becomes.
//!
//! ```text
//! sources (configuration, watched folder) -> Desired -> registry -> Process -> authorize, shape
//!                                                          |            |
//!                                                       load.rs      engine.rs: one fresh instance a request
//! ```
//! Nothing that a component does ends more than its own call, and nothing that lies in a folder changes what is offered unless it is good.

mod convert;
mod engine;
pub mod entry;
pub mod error;
mod folder;
mod imports;
mod load;
pub mod process;
pub mod registry;
pub mod settings;
pub mod sources;
mod text;
mod ticker;
mod v1;

#[cfg(test)]
mod tests;

pub use engine::ProcessorHost;
pub use entry::ProcessEntry;
pub use error::{ProcessorError, Refusal};
pub use imports::VerifyToken;
pub use load::Processor;
pub use process::{Action, AskError, Caller, Denial, Process, ProcessorRequest};
pub use registry::{Prepared, ProcessReport, Registry, ReportState};
pub use settings::Settings;
pub use sources::{Desired, Offered, Source, Sources};
