//! Plain types and rules of the platform: what a job, a process, a plan and an outcome are, and which of them are valid.
//!
//! Nothing in here does input or output: no runtime, no HTTP, no SQL, no cluster and no WebAssembly. Every other
//! module may use `core`; `core` uses none of them.

pub mod access;
pub mod description;
pub mod error;
pub mod id;
pub mod job;
pub mod json;
pub mod media_type;
pub mod observation;
pub mod outcome;
pub mod plan;
pub mod plan_check;
pub mod pointer;
pub mod policy;
pub mod principal;
pub mod quantity;
pub mod request;
pub mod secrets;
pub mod status;
pub mod time;
pub mod validation;
pub mod value_schema;

pub use description::ProcessDescription;
pub use error::{ErrorKind, Violation};
pub use id::{Digest, JobId, ProcessId};
pub use job::{Job, JobDetail, JobFilter, JobPage, NewJob, PageKey};
pub use observation::{LogEvent, Observation, RunObservation, RunState};
pub use outcome::{CaptureReceipt, EndReason, ExitState, FinalRecord, OutputBody, OutputRecord};
pub use plan::JobPlan;
pub use policy::{Policy, PolicyViolation};
pub use principal::{Principal, Role};
pub use request::{ExecuteRequest, ResponseMode};
pub use status::JobStatus;
pub use time::Timestamp;
