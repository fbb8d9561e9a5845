//! What a container finds in its environment, whoever runs it: the names of the variables, and when the inputs are too large for one.

use super::Launch;
use crate::core::plan::EnvValue;

/// The job's id; in every container.
pub(super) const JOB_ID: &str = "PYGEOAPI_JOB_ID";

/// The process's id; in every container.
pub(super) const PROCESS_ID: &str = "PYGEOAPI_PROCESS_ID";

/// The inputs as a JSON object; not in init containers, and only where the request had inputs that fit.
pub(super) const INPUTS: &str = "PYGEOAPI_K8S_MANAGER_INPUTS";

/// Path of the file with inputs that do not fit into a variable; not in init containers.
pub(super) const INPUTS_FILE: &str = "PYGEOAPI_K8S_MANAGER_INPUTS_FILE";

/// The nonce of the result's markers, for plans that ask for one; not in init containers.
pub(super) const RESULT_NONCE: &str = "VESPIARY_RESULT_NONCE";

/// What a plan's variable of the inputs holds when the request had none.
pub(super) const NO_INPUTS: &str = "{}";

/// Inputs up to this many bytes travel in a variable: Linux allows 128 KiB for one, its name included.
pub(super) const INPUTS_IN_VARIABLE: usize = 96 * 1024;

/// Whether the inputs travel as a file.
pub(super) fn inputs_in_file(launch: &Launch) -> bool {
    launch.inputs.as_ref().is_some_and(|inputs| inputs.get().len() > INPUTS_IN_VARIABLE)
}

/// Refuses a plan that wants inputs in a variable which are too large for one.
pub(super) fn check_inputs(launch: &Launch) -> Result<(), String> {
    let mut variables = launch.plan.all_containers().flat_map(|container| &container.env);
    match variables.find(|variable| variable.value == EnvValue::Inputs) {
        Some(variable) if inputs_in_file(launch) => Err(format!(
            "the inputs do not fit into the variable '{}': it takes {} KiB; a container finds larger ones in the file named by \
             {INPUTS_FILE}",
            variable.name,
            INPUTS_IN_VARIABLE / 1024
        )),
        _ => Ok(()),
    }
}
