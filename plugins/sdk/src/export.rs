//! The trait that a processor implements, and how it becomes the component's exports.

use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::bindings::exports::vespiary::processor::process::Guest;
use crate::bindings::vespiary::processor::types;
use crate::{Caller, Denial, Plan, Rejection, Request, host};

/// A processor: what a process is, who may use it, and what a request becomes. See the crate's front page for an example.
pub trait Processor: Sized {
    /// The configuration that the operator writes for the process. Derive `Deserialize` with
    /// `#[serde(default, deny_unknown_fields)]`, so that a mistyped key is refused with the list of the known ones.
    type Config: DeserializeOwned;

    /// Makes the processor of a configuration. It is called at the beginning of every call of the host.
    ///
    /// # Errors
    /// Why the configuration does not make a process, all at once. The operator reads it when the component is loaded.
    fn new(config: Self::Config) -> Result<Self, String>;

    /// The process description of OGC API - Processes 1.0: [`crate::Description`] writes one. It depends on nothing but the configuration.
    ///
    /// # Errors
    /// Why there is none; the operator reads it.
    fn describe(&self) -> Result<Value, String>;

    /// Whether the default [`Processor::authorize`] asks for a credential of its own accord. False: whoever the server's `access` lets
    /// execute may. A processor that its configuration can close answers with that setting.
    fn check_auth(&self) -> bool {
        false
    }

    /// Decides who may do this: [`crate::authorize`] with [`Processor::check_auth`] unless the processor has a rule of its own.
    ///
    /// # Errors
    /// [`Denial::Unauthenticated`] (401) with a challenge, or [`Denial::Forbidden`] (403) with a reason.
    fn authorize(&self, request: &Request) -> Result<Caller, Denial> {
        crate::authorize(self.check_auth(), request)
    }

    /// Makes the plan of a request. Inputs were checked against the description's schemas; those that [`Processor::authorize`]
    /// consumed are not there any more. The same again must give the same plan.
    ///
    /// # Errors
    /// All that is wrong with the inputs: [`crate::Violations`] collects it.
    fn shape(&self, request: &Request, caller: &Caller) -> Result<Plan, Rejection>;
}

/// Makes a processor of the text of its configuration, as the component does at each call.
///
/// # Errors
/// What is wrong with the configuration.
pub fn load<P: Processor>(config: &str) -> Result<P, String> {
    // What is wrong is told by way of a value: the errors then name the key and not a column in a text that the operator never wrote.
    serde_json::from_str::<P::Config>(config)
        .or_else(|_| serde_json::from_str::<Value>(config).and_then(serde_json::from_value::<P::Config>))
        .map_err(|cause| format!("the configuration is not valid: {cause}"))
        .and_then(P::new)
}

/// The exports of a component whose processor is `P`. Named by [`crate::export!`] only.
#[derive(Debug)]
pub struct Exported<P>(PhantomData<P>);

impl<P: Processor> Guest for Exported<P> {
    fn describe() -> Result<String, String> {
        load::<P>(&host::config())?.describe().map(|description| description.to_string())
    }

    fn authorize(request: types::Request) -> Result<Caller, Denial> {
        let (processor, request) = begin::<P>(request);
        processor.authorize(&request)
    }

    fn shape(request: types::Request, caller: Caller) -> Result<Plan, Rejection> {
        let (processor, request) = begin::<P>(request);
        processor.shape(&request, &caller)
    }
}

/// The processor and the request. `describe` accepted the same configuration before and the host wrote the request, so a
/// failure is nobody's input: the call ends in a trap.
fn begin<P: Processor>(request: types::Request) -> (P, Request) {
    load::<P>(&host::config())
        .and_then(|processor| Ok((processor, Request::try_from(request)?)))
        .unwrap_or_else(|reason| host::give_up(&reason))
}

/// Makes a [`Processor`] the exports of this component: `vespiary_processor::export!(MyProcessor);`, once in the crate.
///
/// Natively it only checks the type, so that the crate can be unit-tested.
#[macro_export]
macro_rules! export {
    ($processor:ty) => {
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, reason = "the exports of the canonical ABI pass pointers")]
        const _: () = {
            type Exports = $crate::Exported<$processor>;
    $crate::bindings::export_guest!(Exports with_types_in $crate::bindings);
        };
        #[cfg(not(target_family = "wasm"))]
        const _: fn(&str) -> ::core::result::Result<$processor, ::std::string::String> = $crate::load::<$processor>;
    };
}
