//! A stand-in for the host in native unit tests of processors.
//!
//! ```
//! use vespiary_processor::{Request, authorize, serde_json::json, testing::Host};
//!
//! let host = Host::new().token("secret");
//! let caller = host.run(|| authorize(true, &Request::execute(json!({"token": "secret"})))).unwrap();
//! assert_eq!(caller.consumed_inputs, ["token"]);
//! ```

use std::cell::RefCell;

use crate::Level;

thread_local! {
    static CURRENT: RefCell<Host> = RefCell::new(Host::new());
}

/// What the host knows during [`Host::run`].
#[derive(Debug, Clone, Default)]
pub struct Host {
    tokens: Vec<String>,
    lines: Vec<(Level, String)>,
}

impl Host {
    /// A host with no token.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a token that may execute jobs.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.tokens.push(token.to_owned());
        self
    }

    /// Runs `body` on this thread with this host.
    pub fn run<R>(&self, body: impl FnOnce() -> R) -> R {
        self.run_logged(body).0
    }

    /// The same, and gives what was logged as well.
    pub fn run_logged<R>(&self, body: impl FnOnce() -> R) -> (R, Vec<(Level, String)>) {
        CURRENT.with_borrow_mut(|current| *current = self.clone());
        let result = body();
        (result, CURRENT.take().lines)
    }
}

pub(crate) fn log(level: Level, message: &str) {
    CURRENT.with_borrow_mut(|current| current.lines.push((level, message.to_owned())));
}

pub(crate) fn verify_token(token: &str) -> bool {
    CURRENT.with_borrow(|current| current.tokens.iter().any(|known| known == token))
}
