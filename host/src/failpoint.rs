//! Places where a test can kill the process: `FAILPOINTS="name=return"` in the environment of a server built with the
//! feature `failpoints` ends it as `kill -9` would, at that line. Without the feature nothing of it is compiled.

/// Dies here if a test asked for it.
#[inline]
pub fn hit(_name: &'static str) {
    #[cfg(feature = "failpoints")]
    if fail::eval(_name, |_| ()).is_some() {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal is delivered before the call returns; should it not be, going on would hide the crash.
        std::process::abort();
    }
}
