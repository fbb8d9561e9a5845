//! What a runner says of the runs that it has.

use std::sync::Arc;

use bytes::Bytes;

use super::{ExitState, JobId, Timestamp};

/// What a runner's level-triggered stream yields: the whole list first, then changes, and the whole list again after
/// every gap.
#[derive(Debug, Clone)]
pub enum Observation {
    /// All runs that the runner has at this moment. A job that is not in it has no run.
    List(Vec<RunObservation>),
    /// One run changed.
    Change(RunObservation),
}

/// The state of one run.
#[derive(Debug, Clone)]
pub struct RunObservation {
    /// Whose run it is.
    pub job_id: JobId,
    /// Its state now. States may be skipped: a short run is first seen when it has ended.
    pub state: RunState,
}

/// A run's state.
#[derive(Debug, Clone)]
pub enum RunState {
    /// Its launch was begun and not finished; it does not go on before it is launched again.
    Incomplete,
    /// Not started yet; the message says what it waits for, if anything special.
    Waiting {
        /// One sentence for the job's `message`.
        message: Option<String>,
    },
    /// At least one container has started.
    Running {
        /// When the first one did.
        started: Timestamp,
        /// One sentence for the job's `message` where none runs just now and one is due: what it waits for, if anything special.
        message: Option<String>,
    },
    /// Nothing of it runs any more.
    Ended(ExitState),
}

/// One event of a run's log stream. Logs of several containers follow one another, each opened by `Container`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEvent {
    /// What follows is from this container.
    Container {
        /// Its name in the plan.
        name: Arc<str>,
    },
    /// The next bytes, at most 1 MiB, exactly as they were written.
    Bytes(Bytes),
    /// Bytes are missing here for good; the receipt repeats the reason.
    Missing {
        /// Why, in one sentence.
        reason: String,
    },
}
