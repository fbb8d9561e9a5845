//! From a request to a plan, without any side effect: role, inputs, authorize, shape, structure, policy.

use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{Error, Submission, require};
use crate::core::{ExecuteRequest, JobPlan, Policy, Role, plan_check, validation};
use crate::processor::{Action, AskError, Denial, Process, ProcessorRequest};

/// A request that passed every check.
#[derive(Debug)]
pub struct Shaped {
    /// The version of the process that shaped it.
    pub process: Arc<Process>,
    /// What was asked, without the inputs that were credentials.
    pub request: ExecuteRequest,
    /// Who it is for, in the words of the processor.
    pub caller: String,
    /// What will run.
    pub plan: JobPlan,
}

/// Asks `process` for the plan of a request. All violations of the inputs are found before the processor is asked anything; they quote
/// nothing of inputs that `secret_names` or the process's entry name.
pub async fn shape(
    process: Arc<Process>,
    policy: &Policy,
    secret_names: &[String],
    submission: &Submission<'_>,
) -> Result<Shaped, Error> {
    require(submission.principal, Role::Execute)?;
    let mut request = ExecuteRequest::parse(submission.body).map_err(Error::Invalid)?;
    let secret: Vec<&str> = secret_names.iter().chain(&process.entry.secret_inputs).map(String::as_str).collect();
    let violations = validation::check_request(&process.description, &request, &secret);
    if !violations.is_empty() {
        return Err(Error::Invalid(violations));
    }
    let outputs = process.description.outputs.iter().map(|output| output.id.clone());
    let asked = ProcessorRequest {
        action: Action::Execute,
        job_id: None,
        inputs: raw(&request.inputs)?.get().into(),
        outputs: outputs.filter(|id| request.outputs.includes(id)).collect(),
        principal: submission.principal.clone(),
        // Most processes are shown none.
        headers: if process.entry.headers.is_empty() { Vec::new() } else { submission.headers.to_vec() },
    };
    let (caller, mut plan) = process.plan(&asked).await.map_err(refused)?;
    // A credential ends here: neither the row nor a container sees it.
    request.inputs.retain(|id, _| !caller.consumed_inputs.contains(id));
    let found = plan_check::violations(&plan);
    if !found.is_empty() {
        return Err(Error::InvalidPlan(found));
    }
    policy.bound(&mut plan);
    let broken = policy.check(&plan);
    if !broken.is_empty() {
        return Err(Error::Policy(broken));
    }
    Ok(Shaped { process, request, caller: caller.subject, plan })
}

/// What a processor's no is for the client.
pub(super) fn refused(refusal: AskError) -> Error {
    match refusal {
        AskError::Denied(Denial::Unauthenticated { challenge }) => Error::Unauthenticated { challenge },
        AskError::Denied(Denial::Forbidden { reason }) => Error::Forbidden(reason),
        AskError::Rejected(violations) => Error::Invalid(violations),
        AskError::Failed(cause) => Error::Processor(cause),
    }
}

/// The inputs as the text that processor and container read.
pub(super) fn raw(inputs: &Map<String, Value>) -> Result<Arc<RawValue>, Error> {
    serde_json::value::to_raw_value(inputs).map(Arc::from).map_err(Error::Json)
}
