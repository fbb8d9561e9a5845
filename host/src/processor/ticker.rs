//! The clock of guests: a thread that moves the engine's epoch on while calls run, and sleeps without a wake-up while none does.
//!
//! It is a thread of the operating system and not a task, since the tasks' threads may all be busy with the very guests that it is to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::Engine;

/// How long an epoch lasts.
pub(super) const TICK: Duration = Duration::from_millis(2);

#[derive(Default)]
struct Shared {
    active: AtomicUsize,
    parked: AtomicBool,
    stop: AtomicBool,
}

/// The thread. It ends when this is dropped and no call runs any more: a guest that loops while the server stops must be stopped too.
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

/// While this is there, epochs pass.
pub(super) struct Ticking(Arc<Shared>);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, SeqCst);
    }
}

impl Ticker {
    pub(super) fn start(engine: Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let thread = thread::Builder::new().name("epochs".to_owned()).spawn(move || run(&engine, &seen))?;
        Ok(Self { shared, thread: thread.thread().clone() })
    }

    /// Lets epochs pass.
    pub(super) fn tick(&self) -> Ticking {
        // The order matters, here and in `run`: one of both sees what the other wrote, so that no call runs while the thread sleeps.
        self.shared.active.fetch_add(1, SeqCst);
        if self.shared.parked.swap(false, SeqCst) {
            self.thread.unpark();
        }
        Ticking(Arc::clone(&self.shared))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.thread.unpark();
    }
}

fn run(engine: &Engine, shared: &Shared) {
    while !shared.stop.load(SeqCst) || shared.active.load(SeqCst) > 0 {
        if shared.active.load(SeqCst) == 0 {
            shared.parked.store(true, SeqCst);
            if shared.active.load(SeqCst) == 0 && !shared.stop.load(SeqCst) {
                thread::park();
            }
            shared.parked.store(false, SeqCst);
        } else {
            thread::sleep(TICK);
            engine.increment_epoch();
        }
    }
}
