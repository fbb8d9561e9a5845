//! The WebAssembly engine: one pool of instances, one clock, one cache of compiled code. Every request runs in an instance of its own,
//! and each of its calls within its time, memory, output and a place among the concurrent calls, whatever the guest does.
//!
//! Where a guest's code runs: a call takes some 20 µs, far less than a hop to another thread and back, so it begins on the async
//! worker that asks for it. A guest that still runs (or waits) after two ticks of the clock gives the worker back, and its call
//! goes on as it stands on a thread for blocking work, at most as many of those at once as there are processors. So a worker
//! is held for at most two to three ticks (4 to 6 ms) by any guest, a guest that loops for its whole deadline competes with the HTTP server as a
//! thread that the kernel preempts, and the common call pays nothing for it. Calls are fibers: that is what lets them move, and
//! what lets one be dropped that waits in a clock of WASI, which no epoch interrupts.

use std::fs::{DirBuilder, Permissions};
use std::future::{Future, poll_fn};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::Linker;
use wasmtime::{
    Cache, CacheConfig, Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, Trap,
    UpdateDeadline,
};
use wasmtime_wasi::I32Exit;

use super::error::ProcessorError;
use super::imports::{Guest, MemoryExceeded, VerifyToken};
use super::settings::Settings;
use super::ticker::{TICK, Ticker, Ticking};
use super::{text, v1};

/// Ticks that a call may hold an async worker.
const INLINE_TICKS: u64 = 2;
/// What is kept of a memory between two calls. At or above a plugin's initial memory (1.1 MiB for Rust) it spares the system
/// calls that would otherwise serialise all instances in the kernel.
const KEEP_RESIDENT: usize = 2 << 20;
/// Core instances, and tables, that one component may have: Python's are made of some dozens of modules.
const CORE_INSTANCES: u32 = 64;
const TABLES: u32 = 32;
const MEMORIES: u32 = 4;

/// Compiles processors and runs their calls. Cheap to clone.
#[derive(Clone)]
pub struct ProcessorHost(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) engine: Engine,
    pub(super) linker: Linker<Guest>,
    pub(super) settings: Settings,
    /// One compilation at a time: each uses all processors already.
    pub(super) compiling: Semaphore,
    verify: VerifyToken,
    pub(super) places: Arc<Semaphore>,
    slow_places: Arc<Semaphore>,
    ticker: Ticker,
    cache: Option<Cache>,
}

/// Where a call failed.
pub(super) enum CallFailure {
    /// While the instance was made.
    Start(wasmtime::Error),
    /// In the guest, or while its answer was read.
    Run(wasmtime::Error),
}

/// The guest's time is over.
#[derive(Debug, thiserror::Error)]
#[error("the guest's time is over")]
struct TimeOver;

/// What one call is about.
pub(super) struct Call {
    /// `describe`, `authorize` or `shape`.
    pub(super) name: &'static str,
    /// The process, for the log.
    pub(super) process: Arc<str>,
    /// Its configuration.
    pub(super) config: Arc<str>,
    pub(super) deadline: Duration,
    /// The process's share of the places, see [`ProcessorHost::share`].
    pub(super) share: Arc<Semaphore>,
}

/// What a request holds while its processor is asked: the process's share, a place among all calls, and the clock that runs for it.
pub(super) struct Seat {
    _share: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
    _ticking: Ticking,
}

impl ProcessorHost {
    /// Sets the engine up. `cache_dir` is where compiled code is kept, private to this user; it is made if it is not there, and where it cannot
    /// be written the host works without it. `verify_token` says whether a text is a token that may execute.
    ///
    /// # Errors
    /// When the settings are out of bounds, the folder belongs to someone else, or the machine cannot reserve the address space.
    pub fn new(settings: &Settings, cache_dir: &Path, verify_token: VerifyToken) -> Result<Self, ProcessorError> {
        if let Some(wrong) = settings.violations().into_iter().next() {
            return Err(ProcessorError::Settings(format!(
                "{}: {}",
                wrong.pointer.trim_start_matches('/'),
                wrong.message
            )));
        }
        let cache = open_cache(cache_dir)?;
        let engine = Engine::new(&engine_config(settings, cache.clone()))
            .map_err(|error| ProcessorError::Engine(error.into()))?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)
            .and_then(|()| v1::link(&mut linker))
            .map_err(|error| ProcessorError::Engine(error.into()))?;
        let ticker = Ticker::start(engine.clone()).map_err(|error| ProcessorError::Engine(error.into()))?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self(Arc::new(Inner {
            engine,
            linker,
            settings: settings.clone(),
            compiling: Semaphore::new(1),
            verify: verify_token,
            places: Arc::new(Semaphore::new(settings.concurrent_calls as usize)),
            slow_places: Arc::new(Semaphore::new(processors)),
            ticker,
            cache,
        })))
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// How often compiled code was found in the cache, and how often not, since the start.
    #[must_use]
    pub fn cache_counts(&self) -> (usize, usize) {
        self.0.cache.as_ref().map_or((0, 0), |cache| (cache.cache_hits(), cache.cache_misses()))
    }

    /// What one process may have of the places: half, so that one whose calls all take their whole time leaves room for the others.
    pub(super) fn share(&self) -> Arc<Semaphore> {
        Arc::new(Semaphore::new((self.0.settings.concurrent_calls as usize / 2).max(1)))
    }

    /// Runs one call in a fresh instance.
    pub(super) async fn call<T, F, Fut>(&self, call: Call, run: F) -> Result<T, ProcessorError>
    where
        T: Send + 'static,
        F: FnOnce(Store<Guest>) -> Fut,
        Fut: Future<Output = Result<T, CallFailure>> + Send + 'static,
    {
        let (name, deadline) = (call.name, call.deadline);
        let (seat, store) = self.begin(call).await?;
        let (answer, _) = self.run(seat, name, deadline, run(store)).await?;
        Ok(answer)
    }

    /// Takes a seat among the concurrent calls, and makes the store of a fresh instance that is ready for its first call.
    pub(super) async fn begin(&self, call: Call) -> Result<(Seat, Store<Guest>), ProcessorError> {
        let inner = &self.0;
        let queue = inner.settings.queue();
        // First the share: who waits for that holds nothing that another process could use.
        let share = free_place(&call.share, queue).await?;
        let place = free_place(&inner.places, queue).await?;
        let seat = Seat { _share: share, _place: place, _ticking: inner.ticker.tick() };
        let guest = Guest::new(call.process, call.config, Arc::clone(&inner.verify), inner.settings.memory_bytes());
        let mut store = Store::new(&inner.engine, guest);
        store.limiter(|guest| guest);
        store.set_max_component_handles(1000);
        self.arm(&mut store, call.deadline);
        Ok((seat, store))
    }

    /// Runs one call in a store that [`Self::arm`] has made ready for it. The seat is given back for another call in the same store.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        seat: Seat,
        name: &'static str,
        deadline: Duration,
        call: impl Future<Output = Result<T, CallFailure>> + Send + 'static,
    ) -> Result<(T, Seat), ProcessorError> {
        let mut running = Box::pin(call);
        let first = poll_fn(|context| Poll::Ready(running.as_mut().poll(context))).await;
        let (answer, seat) = match first {
            Poll::Ready(answer) => (answer, seat),
            Poll::Pending => {
                let slow = free_place(&self.0.slow_places, self.0.settings.queue()).await?;
                match go_on_elsewhere(running, deadline, (seat, slow)).await? {
                    Some(answered) => answered,
                    None => return Err(ProcessorError::DeadlineExceeded { call: name, deadline }),
                }
            }
        };
        Ok((answer.map_err(|failure| self.explain(failure, name, deadline))?, seat))
    }

    /// Gives the next call in this store its time and output.
    pub(super) fn arm(&self, store: &mut Store<Guest>, deadline: Duration) {
        // What a guest may hand over in one piece, counted before it is copied.
        store.set_hostcall_fuel(self.0.settings.output_bytes());
        let ticks = u64::try_from(deadline.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX).max(1);
        store.set_epoch_deadline(ticks.min(INLINE_TICKS));
        // First the worker is given back, then, when the rest of the time is over, the call ends. The rest counts from where the call goes on,
        // so that a wait for a place is not the guest's fault.
        let mut rest = ticks.checked_sub(INLINE_TICKS).filter(|rest| *rest > 0);
        store.epoch_deadline_callback(move |_| match rest.take() {
            Some(rest) => Ok(UpdateDeadline::Yield(rest)),
            None => Err(TimeOver.into()),
        });
    }

    fn explain(&self, failure: CallFailure, call: &'static str, deadline: Duration) -> ProcessorError {
        let (error, starting) = match failure {
            CallFailure::Start(error) => (error, true),
            CallFailure::Run(error) => (error, false),
        };
        if error.is::<TimeOver>() {
            return ProcessorError::DeadlineExceeded { call, deadline };
        }
        if error.is::<MemoryExceeded>() {
            return ProcessorError::OutOfMemory { call, limit_mib: self.0.settings.memory_mib };
        }
        let trap = error.downcast_ref::<Trap>().map(|trap| text::clean(&trap.to_string(), 200));
        let exit = error.downcast_ref::<I32Exit>().map(|exit| format!("it exited with status {}", exit.0));
        match trap.or(exit) {
            Some(reason) => ProcessorError::Trapped { call, reason, source: error.into() },
            None if starting => ProcessorError::NotInstantiated { call, source: error.into() },
            None => ProcessorError::BadAnswer { call, limit_kib: self.0.settings.output_kib, source: error.into() },
        }
    }
}

async fn free_place(places: &Arc<Semaphore>, patience: Duration) -> Result<OwnedSemaphorePermit, ProcessorError> {
    if let Ok(place) = Arc::clone(places).try_acquire_owned() {
        return Ok(place);
    }
    match tokio::time::timeout(patience, Arc::clone(places).acquire_owned()).await {
        Ok(Ok(place)) => Ok(place),
        Ok(Err(_)) => Err(ProcessorError::Stopping),
        Err(_) => Err(ProcessorError::Overloaded { waited: patience }),
    }
}

/// Drives a call to its end on a thread for blocking work; `None` when it waited past the deadline. The call keeps its places until it
/// has ended, even when nobody waits for it any more.
async fn go_on_elsewhere<T: Send + 'static>(
    running: Pin<Box<impl Future<Output = T> + Send + 'static>>,
    deadline: Duration,
    (seat, slow): (Seat, OwnedSemaphorePermit),
) -> Result<Option<(T, Seat)>, ProcessorError> {
    let runtime = tokio::runtime::Handle::current();
    let rest = tokio::task::spawn_blocking(move || {
        let answer = runtime.block_on(async { tokio::time::timeout(deadline, running).await.ok() });
        drop(slow);
        answer.map(|answer| (answer, seat))
    });
    // Only a runtime that shuts down drops work.
    rest.await.map_err(|_| ProcessorError::Stopping)
}

fn engine_config(settings: &Settings, cache: Option<Cache>) -> Config {
    let calls = settings.concurrent_calls;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(calls)
        .total_core_instances(calls.saturating_mul(CORE_INSTANCES))
        .total_memories(calls.saturating_mul(MEMORIES).min(1024).max(calls))
        .total_tables(calls.saturating_mul(TABLES))
        .total_stacks(calls)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .table_elements(64 << 10)
        .max_memory_size(settings.memory_bytes())
        .max_unused_warm_slots(calls)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        // Where the kernel can say which pages were written, only those are cleared: half the time of a call.
        .pagemap_scan(Enabled::Auto)
        .table_keep_resident(64 << 10);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .async_stack_size(1 << 20)
        .max_wasm_stack(512 << 10)
        .cache(cache);
    config
}

/// The engine's own cache: it names an entry by the component's bytes and everything that decides what the compiler makes of them, writes it
/// aside and renames it. What is in there is run, so nobody else may write there.
fn open_cache(folder: &Path) -> Result<Option<Cache>, ProcessorError> {
    let opened = (|| -> std::io::Result<_> {
        let folder = std::path::absolute(folder)?;
        if let Some(parent) = folder.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        let found = std::fs::symlink_metadata(&folder)?;
        let ours = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
        if ours && found.permissions().mode() & 0o077 != 0 {
            std::fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        }
        Ok((folder, ours))
    })();
    let folder = match opened {
        Ok((folder, true)) => folder,
        Ok((folder, false)) => return Err(ProcessorError::CacheNotOurs(folder.display().to_string())),
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "compiled code cannot be kept: every start compiles again");
            return Ok(None);
        }
    };
    let mut config = CacheConfig::new();
    config.with_directory(&folder);
    match Cache::new(config) {
        Ok(cache) => Ok(Some(cache)),
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "compiled code cannot be kept: every start compiles again");
            Ok(None)
        }
    }
}
