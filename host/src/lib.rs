//! Vespiary: a job platform whose processors are WebAssembly components.
//!
//! ```text
//! main -> app -> { api, finalizer } -> jobs -> { store, archive, processor, runner } -> core
//! ```
//! An arrow means "may use". Adapters do not know each other; only `jobs` combines them.

pub mod api;
pub mod archive;
pub mod core;
pub mod failpoint;
pub mod jobs;
pub mod runner;
pub mod store;
