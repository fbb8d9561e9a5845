//! Finding and ending processes: what a container left behind, and what a dead shim left behind.
//!
//! Invariant: a signal goes only to our own child that was not waited for, or to a process held by descriptor and recognised, so that
//! a reused process id is never hit.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::core::JobId;

/// How long a shim waits for processes that do not even die of SIGKILL.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a server waits for those that a dead shim left: it has other runs to look after.
pub(in super::super) const LEFTOVERS_PATIENCE: Duration = Duration::from_secs(5);

/// Sends a signal to the group of a child that was not waited for.
pub(super) fn signal_group(child: Option<u32>, signal: Signal) {
    if let Some(group) = child.and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        let _ = rustix::process::kill_process_group(group, signal);
    }
}

/// The children of this process, those of its threads together.
fn children() -> Vec<Pid> {
    let mut found = Vec::new();
    for thread in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let text = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(text.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
    }
    found
}

/// Waits for orphans that have ended, so that their ids are free again. `main` is left to the one who waits for it.
pub(super) fn reap_orphans(main: Option<u32>) {
    for child in children() {
        if Some(child.as_raw_nonzero().get().cast_unsigned()) != main {
            let _ = rustix::process::waitpid(Some(child), WaitOptions::NOHANG);
        }
    }
}

/// Ends all children of this process, and theirs, which become ours when they are orphaned, until none is left.
pub(super) async fn end_all_children() {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => break,
                // No child is left.
                Err(_) => return,
            }
        }
        for child in children() {
            let _ = rustix::process::kill_process(child, Signal::KILL);
        }
        if begun.elapsed() > PATIENCE {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Ends what a dead shim left of a run: every process that has the job's id in its environment or works in its folder. Whether none
/// is left. Blocks.
pub(in super::super) fn end_leftovers(job_id: JobId, run_dir: &Path) -> bool {
    let begun = Instant::now();
    let variable = format!("PYGEOAPI_JOB_ID={job_id}");
    let mut pause = Duration::from_millis(2);
    while signal_leftovers(variable.as_bytes(), run_dir) {
        if begun.elapsed() >= LEFTOVERS_PATIENCE {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
    true
}

/// Sends SIGKILL to all of them; whether there was one.
fn signal_leftovers(variable: &[u8], run_dir: &Path) -> bool {
    let mut found = false;
    let own = rustix::process::getpid();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?)) else { continue };
        if pid == own {
            continue;
        }
        // The descriptor first: from here on the id means this process or none.
        let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if belongs(&entry.path(), variable, run_dir)
            && rustix::process::pidfd_send_signal(&process, Signal::KILL).is_ok()
        {
            found = true;
        }
    }
    found
}

fn belongs(process: &Path, variable: &[u8], run_dir: &Path) -> bool {
    // The environment of a process that has ended is empty.
    let environment = fs::read(process.join("environ")).unwrap_or_default();
    if environment.split(|byte| *byte == 0).any(|entry| entry == variable) {
        return true;
    }
    fs::read_link(process.join("cwd")).is_ok_and(|folder| {
        let inside = folder.as_os_str().as_bytes().strip_prefix(run_dir.as_os_str().as_bytes());
        inside.is_some_and(|rest| rest.starts_with(b"/work"))
    })
}
