//! The bindings of `wit/v1`: the three calls of a processor of major version 1, in the plain types of this server.

use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::{HasSelf, InstancePre, Linker};

use super::convert::{self, Breach};
use super::engine::CallFailure;
use super::imports::{Guest, Level};
use super::process::{Caller, Denial, ProcessorRequest};
use crate::core::{JobPlan, ProcessId, Violation};

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::indexing_slicing, clippy::unwrap_used)]
pub(super) mod generated {
    wasmtime::component::bindgen!({
        path: "../wit/v1",
        world: "processor",
        exports: { default: async },
    });
}

use generated::{Processor, vespiary::processor::host};
pub(super) use generated::{ProcessorPre, vespiary::processor::types};

/// The exported interface that makes a component a processor of this major version.
pub(super) const EXPORT: &str = "vespiary:processor/process@1.";

impl host::Host for Guest {
    fn config(&mut self) -> String {
        Guest::config(self)
    }

    fn log(&mut self, level: host::Level, message: String) {
        let level = match level {
            host::Level::Debug => Level::Debug,
            host::Level::Info => Level::Info,
            host::Level::Warn => Level::Warn,
            host::Level::Error => Level::Error,
        };
        Guest::log(self, level, &message);
    }

    fn verify_token(&mut self, token: String) -> bool {
        Guest::verify_token(self, &token)
    }
}

impl types::Host for Guest {}

/// Offers the imports of this major version.
pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    host::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)?;
    types::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
}

/// A component of this major version, ready to be instantiated.
#[derive(Clone)]
pub(super) struct V1(Arc<ProcessorPre<Guest>>);

impl V1 {
    /// Takes a component that exports what this version asks for.
    pub(super) fn new(pre: InstancePre<Guest>) -> wasmtime::Result<Self> {
        ProcessorPre::new(pre).map(|pre| Self(Arc::new(pre)))
    }

    /// `describe`: the description's text, or the processor's reason why there is none.
    pub(super) async fn describe(self, mut store: Store<Guest>) -> Result<Result<String, String>, CallFailure> {
        let instance = self.0.instantiate_async(&mut store).await.map_err(CallFailure::Start)?;
        instance.vespiary_processor_process().call_describe(&mut store).await.map_err(CallFailure::Run)
    }

    /// `authorize`, and the instance that has answered, for `shape` of the same request.
    pub(super) async fn authorize(
        self,
        mut store: Store<Guest>,
        request: types::Request,
    ) -> Result<(Result<Result<Caller, Denial>, Breach>, Authorized), CallFailure> {
        let instance = self.0.instantiate_async(&mut store).await.map_err(CallFailure::Start)?;
        let answer = instance.vespiary_processor_process().call_authorize(&mut store, &request).await;
        let answer = match answer.map_err(CallFailure::Run)? {
            Ok(caller) => convert::caller(caller).map(Ok),
            Err(denial) => Ok(Err(convert::denial(denial))),
        };
        Ok((answer, Authorized { store, instance, request }))
    }

    /// `shape` in a fresh instance.
    pub(super) async fn shape(
        self,
        mut store: Store<Guest>,
        request: types::Request,
        caller: types::Caller,
    ) -> Result<Shape, CallFailure> {
        let instance = self.0.instantiate_async(&mut store).await.map_err(CallFailure::Start)?;
        Authorized { store, instance, request }.shape(caller).await
    }
}

/// What `shape` answers: the plan or what it rejects, unless the answer breaks the contract.
pub(super) type Shape = Result<Result<JobPlan, Vec<Violation>>, Breach>;

/// An instance and the request that it serves.
pub(super) struct Authorized {
    pub(super) store: Store<Guest>,
    instance: Processor,
    request: types::Request,
}

impl Authorized {
    /// `shape` of this request, word for word. The store has been made ready for another call.
    pub(super) async fn shape(mut self, caller: types::Caller) -> Result<Shape, CallFailure> {
        let process = self.instance.vespiary_processor_process();
        Ok(match process.call_shape(&mut self.store, &self.request, &caller).await.map_err(CallFailure::Run)? {
            Ok(plan) => convert::plan(plan).map(Ok),
            Err(rejection) => convert::rejection(rejection).map(Err),
        })
    }
}

/// A request in the records of this version.
pub(super) fn request(
    process: &ProcessId,
    request: &ProcessorRequest,
    headers: &[String],
    inputs: String,
) -> types::Request {
    convert::request(process, request, headers, inputs)
}
