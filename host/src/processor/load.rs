//! From bytes to a processor that can be called: what is not one is refused here, with the reason.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::{Component, InstancePre};

use super::engine::ProcessorHost;
use super::error::{ProcessorError, Refusal, chain};
use super::imports::Guest;
use super::text::clean;
use super::v1::{self, V1};
use crate::core::Digest;

/// A component that was compiled and found to be a processor.
pub struct Processor {
    digest: Digest,
    pub(super) track: Track,
}

/// The major version of the contract that it was built against.
#[derive(Clone)]
pub(super) enum Track {
    /// `wit/v1`.
    V1(V1),
}

impl Processor {
    /// SHA-256 of its bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl ProcessorHost {
    /// Compiles a component, or takes its code from the cache. One at a time, off the async workers; seconds for large ones.
    ///
    /// # Errors
    /// Why these bytes are not a processor.
    pub async fn compile(&self, bytes: Bytes) -> Result<Arc<Processor>, Refusal> {
        self.check_size(bytes.len() as u64)?;
        check_header(&bytes)?;
        let host = self.clone();
        let ended = |error: tokio::task::JoinError| match error.is_panic() {
            true => Refusal::DoesNotCompile { reason: "the compiler gave up on it".to_owned() },
            false => Refusal::Host(ProcessorError::Stopping),
        };
        let _turn = self.0.compiling.acquire().await.map_err(|_| Refusal::Host(ProcessorError::Stopping))?;
        tokio::task::spawn_blocking(move || host.compile_now(&bytes)).await.map_err(ended)?
    }

    pub(super) fn check_size(&self, bytes: u64) -> Result<(), Refusal> {
        if bytes > self.0.settings.component_bytes() {
            return Err(Refusal::TooLarge { bytes, limit_mib: self.0.settings.component_mib });
        }
        Ok(())
    }

    fn compile_now(&self, bytes: &[u8]) -> Result<Arc<Processor>, Refusal> {
        let engine = &self.0.engine;
        let component =
            Component::new(engine, bytes).map_err(|error| Refusal::DoesNotCompile { reason: words(error) })?;
        let shape = component.component_type();
        let missing: Vec<_> = shape.imports(engine).map(|(name, _)| name).filter(|name| !offered(name)).collect();
        if !missing.is_empty() {
            return Err(Refusal::Imports {
                hint: hint(&missing),
                names: missing.into_iter().take(20).map(|name| clean(name, 120)).collect(),
            });
        }
        let pre = self
            .0
            .linker
            .instantiate_pre(&component)
            .map_err(|error| Refusal::OtherContract { reason: words(error) })?;
        let exports: Vec<_> = shape.exports(engine).map(|(name, _)| name.to_owned()).collect();
        Ok(Arc::new(Processor { digest: Digest::of(bytes), track: track(pre, &exports)? }))
    }
}

/// The one track that takes the component. A later major version is tried here first.
fn track(pre: InstancePre<Guest>, exports: &[String]) -> Result<Track, Refusal> {
    let why_not_v1 = match V1::new(pre) {
        Ok(v1) => return Ok(Track::V1(v1)),
        Err(error) => words(error),
    };
    if exports.iter().any(|name| name.starts_with(v1::EXPORT)) {
        return Err(Refusal::OtherContract { reason: why_not_v1 });
    }
    if let Some(name) = exports.iter().find(|name| name.starts_with("vespiary:processor/")) {
        return Err(Refusal::OtherContract { reason: format!("it exports {}", clean(name, 120)) });
    }
    Err(Refusal::NotAProcessor { exports: exports.iter().take(20).map(|name| clean(name, 120)).collect() })
}

fn check_header(bytes: &[u8]) -> Result<(), Refusal> {
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', _, _, 1, 0]) => Ok(()),
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => Err(Refusal::CoreModule),
        _ => Err(Refusal::NotWasm),
    }
}

/// What is linked: the host's own interfaces of version 1, and WASI 0.2 without HTTP.
fn offered(import: &str) -> bool {
    let (name, version) = import.split_once('@').unwrap_or((import, ""));
    match name.split_once(':') {
        Some(("vespiary", "processor/host" | "processor/types")) => version.starts_with("1."),
        Some(("wasi", interface)) => {
            let package = interface.split('/').next().unwrap_or_default();
            version.starts_with("0.2.") && ["io", "cli", "clocks", "random", "filesystem", "sockets"].contains(&package)
        }
        _ => false,
    }
}

fn hint(missing: &[&str]) -> &'static str {
    let any = |prefix: &str| missing.iter().any(|name| name.starts_with(prefix));
    if any("wasi:http/") {
        "Processors have no network: build without HTTP (JavaScript: `disableFeatures: ['http', 'fetch-event']`)"
    } else if any("vespiary:processor/") {
        "It was built against a newer contract: update this server, or build against its wit/v1"
    } else if any("wasi:") {
        "This server offers WASI 0.2 without HTTP: build for wasm32-wasip2"
    } else if any("wasi_snapshot_preview1") {
        "Build for wasm32-wasip2"
    } else {
        "Remove what needs them, or link them into the component"
    }
}

/// What the engine says, in one line.
pub(super) fn words(error: wasmtime::Error) -> String {
    let error: Box<dyn std::error::Error + Send + Sync> = error.into();
    chain(&*error)
}

#[cfg(test)]
mod tests {
    use super::offered;

    #[test]
    fn what_is_offered() {
        for name in [
            "wasi:io/streams@0.2.6",
            "wasi:cli/stdout@0.2.12",
            "vespiary:processor/host@1.0.0",
            "vespiary:processor/host@1.3.0",
        ] {
            assert!(offered(name), "{name}");
        }
        for name in
            ["wasi:http/types@0.2.6", "wasi:cli/stdout@0.3.0", "vespiary:processor/host@2.0.0", "wasi:io", "host", ""]
        {
            assert!(!offered(name), "{name}");
        }
    }
}
