//! Who may disturb whom: an outage of a server that all tests share is had by one test alone, and ends with it.

use std::fs::File;
use std::process::Command;

use crate::cluster::variable;
use crate::namespace::fault;

fn lock_file() -> File {
    let path = std::env::temp_dir().join("vespiary-tests-outage.lock");
    File::options().create(true).truncate(false).write(true).open(path).expect("a lock file in the temporary folder")
}

/// Held by a test that needs all servers; many may hold it. Free when dropped.
pub struct Calm {
    _lock: File,
}

impl Calm {
    /// Waits until no outage is under way.
    #[must_use]
    pub fn hold() -> Self {
        let lock = lock_file();
        lock.lock_shared().expect("a file can be locked");
        Self { _lock: lock }
    }
}

/// Held by the one test that takes servers away; they are back when it is dropped.
pub struct Outage {
    _lock: File,
}

impl Outage {
    /// Waits until nobody needs the servers.
    #[must_use]
    pub fn begin() -> Self {
        let lock = lock_file();
        lock.lock().expect("a file can be locked");
        Self { _lock: lock }
    }

    /// Asks a server to stop. One that takes its time (an API server with watches takes a minute, in which it serves nobody else) is killed
    /// after ten seconds.
    pub fn stop(&self, name: &str) {
        let program = variable("TEST_FAULT");
        let stopped = Command::new(program).args(["stop", name]).output().expect("the fault program runs");
        if !stopped.status.success() {
            self.kill(name);
        }
    }

    /// Ends a server as a power cut would.
    pub fn kill(&self, name: &str) {
        fault(&["kill", name]);
    }

    /// Brings back what is missing.
    pub fn end(&self) {
        assert!(bring_back(), "the servers cannot be brought back");
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        // Also when the test failed: others need the servers. Where there are none, none went away.
        if !variable("TEST_FAULT").is_empty() && !bring_back() {
            eprintln!("the servers could not be brought back");
        }
    }
}

/// Whether all servers are there. Others may try the same at this moment and be in the way, so a failure is tried again.
fn bring_back() -> bool {
    (0..5).any(|_| {
        let started = Command::new(variable("TEST_FAULT")).arg("start").output();
        started.is_ok_and(|output| output.status.success())
    })
}
