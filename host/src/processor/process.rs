//! A process: one processor with one configuration, and the two questions that a request puts to it. It is immutable; a request that
//! holds one is answered by the version it began with.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::convert::{self, Breach};
use super::engine::{Call, ProcessorHost, Seat};
use super::entry::ProcessEntry;
use super::error::{ProcessorError, Refusal};
use super::load::{Processor, Track};
use super::text::clean;
use super::v1;
use crate::core::{Digest, JobId, JobPlan, Principal, ProcessDescription, ProcessId, Violation};

/// What is asked of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a job.
    Execute,
    /// Stop or remove a job.
    Dismiss,
    /// See a job, its results or its log.
    Read,
}

/// A request as a processor sees it.
#[derive(Debug, Clone)]
pub struct ProcessorRequest {
    /// What is asked.
    pub action: Action,
    /// The job that is read or dismissed.
    pub job_id: Option<JobId>,
    /// The inputs: the text of a JSON object by input id; `{}` for other actions than `Execute`.
    pub inputs: Arc<str>,
    /// Ids of the outputs that are asked for.
    pub outputs: Vec<String>,
    /// Who asks.
    pub principal: Principal,
    /// The request's headers. The processor sees those that the process's entry lets through.
    pub headers: Vec<(String, String)>,
}

/// Who a request is for, in the words of the processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// One line, at most 256 bytes; stands in the job's row.
    pub subject: String,
    /// Inputs that were credentials: they are not shaped, stored or given to containers.
    pub consumed_inputs: Vec<String>,
}

/// Why a processor turns a request away. The texts are safe to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// 401; `challenge` is a valid value of `WWW-Authenticate`.
    Unauthenticated {
        /// `Bearer`, say.
        challenge: String,
    },
    /// 403.
    Forbidden {
        /// One line.
        reason: String,
    },
}

/// Why a request has no answer of the kind that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The processor does not authorize it.
    #[error("the processor does not authorize the request")]
    Denied(Denial),
    /// The processor does not accept the inputs; never empty, pointers like `/inputs/name`.
    #[error("the processor does not accept the inputs")]
    Rejected(Vec<Violation>),
    /// The processor did not answer.
    #[error(transparent)]
    Failed(#[from] ProcessorError),
}

/// A process that can be executed.
pub struct Process {
    /// Its id in URLs.
    pub id: ProcessId,
    /// What it says of itself.
    pub description: Arc<ProcessDescription>,
    /// SHA-256 of its processor's bytes.
    pub digest: Digest,
    /// What the operator wrote.
    pub entry: ProcessEntry,
    host: ProcessorHost,
    processor: Arc<Processor>,
    name: Arc<str>,
    config: Arc<str>,
    share: Arc<Semaphore>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the configuration: it may hold secrets.
        f.debug_struct("Process").field("id", &self.id).field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Process {
    /// Asks a processor to describe itself with this configuration.
    ///
    /// # Errors
    /// Why they do not make a process.
    pub async fn load(host: &ProcessorHost, processor: &Arc<Processor>, entry: ProcessEntry) -> Result<Self, Refusal> {
        let violations = entry.violations();
        if !violations.is_empty() {
            let texts: Vec<_> =
                violations.iter().map(|wrong| format!("{}: {}", wrong.pointer, wrong.message)).collect();
            return Err(Refusal::Entry { reason: texts.join("; ") });
        }
        let config: Arc<str> = match serde_json::to_string(&entry.config) {
            Ok(text) => text.into(),
            Err(error) => return Err(Refusal::Entry { reason: error.to_string() }),
        };
        let loading: Arc<str> = entry.id.as_ref().map_or("(describe)", |id| id.as_str()).into();
        let share = host.share();
        let text = match describe(host, processor, &loading, &config, &share).await {
            // A machine that starts may be that busy: once more, before a good processor is refused.
            Err(ProcessorError::DeadlineExceeded { .. } | ProcessorError::Overloaded { .. }) => {
                describe(host, processor, &loading, &config, &share).await
            }
            answer => answer,
        };
        let text = match text {
            Ok(Ok(text)) => text,
            Ok(Err(reason)) => return Err(Refusal::Configuration { reason: clean(&reason, 2048) }),
            Err(ProcessorError::Stopping) => return Err(Refusal::Host(ProcessorError::Stopping)),
            Err(error @ ProcessorError::NotInstantiated { .. }) => {
                return Err(Refusal::OtherContract { reason: super::error::chain(&error) });
            }
            Err(error) => return Err(Refusal::Describe(error)),
        };
        let description = ProcessDescription::parse(&text, entry.id.as_ref()).map_err(|mut violations| {
            for violation in &mut violations {
                violation.message = clean(&violation.message, 512);
                violation.pointer = clean(&violation.pointer, 256);
            }
            Refusal::Description(violations)
        })?;
        Ok(Self {
            id: description.id.clone(),
            name: description.id.as_str().into(),
            description: Arc::new(description),
            digest: processor.digest(),
            entry,
            host: host.clone(),
            processor: Arc::clone(processor),
            config,
            share,
        })
    }

    /// Asks who the request is for. The caller asks for `Read` and `Dismiss` only where [`ProcessEntry::authorize_reads`] says so.
    ///
    /// # Errors
    /// When the processor denies it, or does not answer.
    pub async fn authorize(&self, request: &ProcessorRequest) -> Result<Caller, AskError> {
        self.begin(request).await.map(|(caller, ..)| caller)
    }

    /// Asks who the request is for, and for its plan: without the inputs that were consumed.
    ///
    /// Both are asked of one fresh instance, which takes half the time of two, as long as `shape` is to see the very request that
    /// `authorize` has seen. Where inputs were consumed it is not: a credential does not reach the instance that makes the plan.
    ///
    /// # Errors
    /// When the processor denies it, rejects the inputs, or does not answer.
    pub async fn plan(&self, request: &ProcessorRequest) -> Result<(Caller, JobPlan), AskError> {
        let (caller, seat, mut authorized) = self.begin(request).await?;
        if !caller.consumed_inputs.is_empty() {
            drop((seat, authorized));
            let plan = self.shape(request, &caller).await?;
            return Ok((caller, plan));
        }
        let Call { name, deadline, .. } = self.call("shape");
        self.host.arm(&mut authorized.store, deadline);
        let record = convert::caller_record(&caller);
        let (answer, _) = self.host.run(seat, name, deadline, authorized.shape(record)).await?;
        Ok((caller, kept(name, answer)?.map_err(AskError::Rejected)?))
    }

    /// Makes the plan of a request in a fresh instance, without the inputs that were consumed.
    pub(super) async fn shape(&self, request: &ProcessorRequest, caller: &Caller) -> Result<JobPlan, AskError> {
        let Track::V1(track) = self.processor.track.clone();
        let inputs = without(&request.inputs, &caller.consumed_inputs)?;
        let asked = v1::request(&self.id, request, &self.entry.headers, inputs);
        let record = convert::caller_record(caller);
        let answer = self.host.call(self.call("shape"), |store| track.shape(store, asked, record)).await?;
        kept("shape", answer)?.map_err(AskError::Rejected)
    }

    /// `authorize` in a fresh instance, which then can shape this very request.
    async fn begin(&self, request: &ProcessorRequest) -> Result<(Caller, Seat, v1::Authorized), AskError> {
        let Track::V1(track) = self.processor.track.clone();
        let asked = v1::request(&self.id, request, &self.entry.headers, request.inputs.as_ref().to_owned());
        let call = self.call("authorize");
        let (name, deadline) = (call.name, call.deadline);
        let (seat, store) = self.host.begin(call).await?;
        let ((answer, authorized), seat) = self.host.run(seat, name, deadline, track.authorize(store, asked)).await?;
        Ok((kept(name, answer)?.map_err(AskError::Denied)?, seat, authorized))
    }

    fn call(&self, name: &'static str) -> Call {
        Call {
            name,
            process: Arc::clone(&self.name),
            config: Arc::clone(&self.config),
            deadline: self.host.settings().deadline(),
            share: Arc::clone(&self.share),
        }
    }
}

async fn describe(
    host: &ProcessorHost,
    processor: &Processor,
    name: &Arc<str>,
    config: &Arc<str>,
    share: &Arc<Semaphore>,
) -> Result<Result<String, String>, ProcessorError> {
    let Track::V1(track) = processor.track.clone();
    let deadline: Duration = host.settings().load_deadline();
    let (process, config, share) = (Arc::clone(name), Arc::clone(config), Arc::clone(share));
    let call = Call { name: "describe", process, config, deadline, share };
    host.call(call, |store| track.describe(store)).await
}

fn kept<T>(call: &'static str, answer: Result<T, Breach>) -> Result<T, ProcessorError> {
    answer.map_err(|breach| ProcessorError::BrokenContract { call, reason: breach.to_string() })
}

/// The inputs without these; the very same text when there are none to leave out.
fn without(inputs: &str, consumed: &[String]) -> Result<String, ProcessorError> {
    if consumed.is_empty() {
        return Ok(inputs.to_owned());
    }
    let mut object: Map<String, Value> = serde_json::from_str(inputs).map_err(ProcessorError::Inputs)?;
    object.retain(|id, _| !consumed.contains(id));
    serde_json::to_string(&object).map_err(ProcessorError::Inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumed_inputs_are_left_out() {
        assert_eq!(without(r#"{"b": 1}"#, &[]).unwrap(), r#"{"b": 1}"#);
        let consumed = ["token".to_owned(), "absent".to_owned()];
        assert_eq!(without(r#"{"b": 1, "token": "x", "a": [2]}"#, &consumed).unwrap(), r#"{"b":1,"a":[2]}"#);
        assert!(without("[]", &consumed).is_err());
    }
}
