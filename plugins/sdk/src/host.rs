//! What the host offers, as plain functions. Natively a stand-in answers, which tests set up (see [`crate::testing`]).

use crate::Level;

/// Writes a line to the host's log, with the process's id. At most 4 KiB a line and 100 lines a call; more is dropped.
pub fn log(level: Level, message: &str) {
    #[cfg(target_family = "wasm")]
    crate::bindings::vespiary::processor::host::log(level, message);
    #[cfg(not(target_family = "wasm"))]
    crate::testing::log(level, message);
}

/// Whether this text is a token that may execute jobs. The comparison takes the same time for every text. At most 8 calls in one
/// call of the processor. For a processor that has its own rule; the default rule ([`crate::authorize`]) calls it by itself.
#[must_use]
pub fn verify_token(token: &str) -> bool {
    #[cfg(target_family = "wasm")]
    return crate::bindings::vespiary::processor::host::verify_token(token);
    #[cfg(not(target_family = "wasm"))]
    crate::testing::verify_token(token)
}

/// Ends the call in a trap, which the host reports as the process's failure and not the client's; the reason is in its log.
pub(crate) fn give_up(reason: &str) -> ! {
    log(Level::Error, reason);
    std::process::abort()
}

/// This process's configuration as the host has it: the text of a JSON object.
#[cfg(target_family = "wasm")]
pub(crate) fn config() -> String {
    crate::bindings::vespiary::processor::host::config()
}

/// Natively there is none: tests give a configuration to [`crate::load`].
#[cfg(not(target_family = "wasm"))]
pub(crate) fn config() -> String {
    "{}".to_owned()
}
