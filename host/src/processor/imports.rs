//! What a guest can reach: the state of one call, and the functions of `vespiary:processor/host` over it. Nothing in here grants
//! anything of the server, and every function is bounded by a count or a size.

use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView, async_trait};

use super::text::clean;

/// Longest line of a guest in the log, in bytes.
const LINE_BYTES: usize = 4 << 10;
/// Lines that one call may log.
const LINES: u32 = 100;
/// Bytes of standard output, and of standard error, that are kept of one call.
const STDIO_BYTES: usize = 16 << 10;
/// Tokens that one call may have verified.
const TOKENS: u32 = 8;
/// Resources (streams, pollables) that one call may hold.
const RESOURCES: usize = 1000;
/// Random bytes that one call of WASI gives.
const RANDOM_BYTES: u64 = 64 << 10;

/// Says whether a text is a token that may execute, in a time that does not depend on the text.
pub type VerifyToken = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A guest wanted more memory than it may have.
#[derive(Debug, thiserror::Error)]
#[error("the guest wanted {wanted} bytes of memory")]
pub(super) struct MemoryExceeded {
    wanted: usize,
}

/// How much a guest says.
#[derive(Debug, Clone, Copy)]
pub(super) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// The state of one call.
pub(super) struct Guest {
    /// Who speaks in the log.
    name: Arc<str>,
    config: Arc<str>,
    verify: VerifyToken,
    memory_limit: usize,
    memory: usize,
    lines: u32,
    dropped: u32,
    tokens: u32,
    /// Made when the guest first uses WASI; most never do.
    wasi: Option<Wasi>,
    table: ResourceTable,
}

struct Wasi {
    ctx: WasiCtx,
    out: Stdio,
    err: Stdio,
}

impl Guest {
    pub(super) fn new(name: Arc<str>, config: Arc<str>, verify: VerifyToken, memory_limit: usize) -> Self {
        Self {
            name,
            config,
            verify,
            memory_limit,
            memory: 0,
            lines: 0,
            dropped: 0,
            tokens: 0,
            wasi: None,
            table: ResourceTable::with_capacity(0),
        }
    }

    pub(super) fn config(&self) -> String {
        self.config.as_ref().to_owned()
    }

    pub(super) fn log(&mut self, level: Level, message: &str) {
        if self.lines >= LINES {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        self.lines += 1;
        let (process, message) = (&*self.name, clean(message, LINE_BYTES));
        match level {
            Level::Debug => tracing::debug!(target: "vespiary::guest", process, "{message}"),
            Level::Info => tracing::info!(target: "vespiary::guest", process, "{message}"),
            Level::Warn => tracing::warn!(target: "vespiary::guest", process, "{message}"),
            Level::Error => tracing::error!(target: "vespiary::guest", process, "{message}"),
        }
    }

    pub(super) fn verify_token(&mut self, token: &str) -> bool {
        self.tokens = self.tokens.saturating_add(1);
        self.tokens <= TOKENS && (self.verify)(token)
    }

    /// Writes what the guest printed to the log.
    fn flush(&mut self) {
        let Some(wasi) = self.wasi.take() else { return };
        for (stdio, level) in [(wasi.out, Level::Info), (wasi.err, Level::Warn)] {
            let (bytes, lost) = stdio.take();
            for line in String::from_utf8_lossy(&bytes).lines().filter(|line| !line.trim().is_empty()) {
                self.log(level, line);
            }
            if lost > 0 {
                tracing::warn!(target: "vespiary::guest", process = &*self.name, bytes = lost, "more was printed than is kept");
            }
        }
    }
}

impl Drop for Guest {
    /// A call that traps or is stopped is the one whose last words are wanted.
    fn drop(&mut self) {
        self.flush();
        if self.dropped > 0 {
            tracing::warn!(target: "vespiary::guest", process = &*self.name, lines = self.dropped, "more was logged than a call may");
        }
        if self.tokens > TOKENS {
            tracing::warn!(target: "vespiary::guest", process = &*self.name, "more tokens were tried than a call may");
        }
    }
}

impl ResourceLimiter for Guest {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        // All memories of the component count together. An error instead of `false` stops the guest right here: otherwise it
        // goes on and ends in an `unreachable` that nobody can tell from a fault of its own.
        let wanted = self.memory.saturating_add(desired.saturating_sub(current));
        if wanted > self.memory_limit {
            return Err(MemoryExceeded { wanted }.into());
        }
        self.memory = wanted;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        // Over the memory's own maximum: that is the guest's affair, and it is told so.
        tracing::debug!(target: "vespiary::guest", process = &*self.name, error = %error, "memory could not grow");
        Ok(())
    }

    fn table_growing(&mut self, _current: usize, _desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        // The pool bounds tables.
        Ok(true)
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi.get_or_insert_with(|| {
            self.table.set_max_capacity(RESOURCES);
            Wasi::nothing_granted()
        });
        WasiCtxView { ctx: &mut wasi.ctx, table: &mut self.table }
    }
}

impl Wasi {
    /// No files, sockets, arguments or environment; clocks and randomness; standard output and error into memory.
    fn nothing_granted() -> Self {
        let (out, err) = (Stdio::default(), Stdio::default());
        let mut builder = WasiCtxBuilder::new();
        builder.stdout(out.clone()).stderr(err.clone());
        builder.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false).max_random_size(RANDOM_BYTES);
        Self { ctx: builder.build(), out, err }
    }
}

/// An output stream into memory that keeps the first [`STDIO_BYTES`] and counts the rest. It never blocks and never fails: a guest
/// that prints too much is not to be broken by it.
#[derive(Clone, Default)]
struct Stdio(Arc<Mutex<(Vec<u8>, u64)>>);

impl Stdio {
    fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = STDIO_BYTES.saturating_sub(kept.0.len()).min(bytes.len());
        let (fits, rest) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
        kept.0.extend_from_slice(fits);
        kept.1 = kept.1.saturating_add(rest.len() as u64);
    }

    fn take(&self) -> (Vec<u8>, u64) {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl IsTerminal for Stdio {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdio {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        // WASI 0.2 asks for `p2_stream`; this one belongs to later versions, which are not linked.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Stdio {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for Stdio {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Guest {
        Guest::new("p".into(), "{}".into(), Arc::new(|token| token == "right"), 1 << 20)
    }

    #[test]
    fn every_import_is_bounded() {
        let mut guest = guest();
        for _ in 0..TOKENS {
            assert!(guest.verify_token("right"));
        }
        assert!(!guest.verify_token("right"), "the ninth is not tried");
        for _ in 0..LINES + 7 {
            guest.log(Level::Info, "x");
        }
        assert_eq!((guest.lines, guest.dropped), (LINES, 7));
        assert!(guest.memory_growing(0, 1 << 19, None).unwrap());
        assert!(guest.memory_growing(0, 1 << 20, None).is_err(), "memories count together");
    }

    #[test]
    fn standard_output_is_kept_to_its_bound() {
        let stdio = Stdio::default();
        stdio.push(&[b'a'; STDIO_BYTES - 1]);
        stdio.push(b"bcd");
        let (kept, lost) = stdio.take();
        assert_eq!((kept.len(), kept.last(), lost), (STDIO_BYTES, Some(&b'b'), 2));
    }
}
