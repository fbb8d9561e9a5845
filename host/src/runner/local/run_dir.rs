//! The folder of one run: what is in it, and how each file of it is written so that a crash leaves the old or the new.
//!
//! Invariant: a folder under a job's id was complete when it got its name. `started.json` is there before the first container
//! starts, `ended.json` after the last process of the run is gone, and both are written only under the lock.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::process::{Flock, FlockType};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::spec::Spec;
use crate::core::{ExitState, JobId, Timestamp};

/// Bytes set aside for each of the two records, so that a full disk cannot keep a run from ending.
const RECORD: usize = 4096;

/// How the name of what is being made begins.
pub(super) const NEW: &str = ".new-";

/// How the name of what is only to be removed begins.
const TRASH: &str = ".trash-";

/// The socket on which the server is told that something changed, in the folder of `runs`' parent.
pub(super) const SERVER_SOCKET: &str = "runner.sock";

/// The socket of a shim, in its run's folder.
pub(super) const SHIM_SOCKET: &str = "shim.sock";

/// `started.json`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Started {
    /// Just before the first container was started.
    pub(super) started: Timestamp,
}

/// Which logs a run has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Logs {
    /// At least 1.
    pub(super) attempts: u32,
    /// Containers that the last attempt began.
    pub(super) containers: usize,
}

/// The folder of one run.
#[derive(Debug, Clone)]
pub(super) struct RunDir {
    path: PathBuf,
}

/// The lock of a run, held until this is dropped. A record lock of the process: who opens the file again in the same process and
/// closes it lets the lock go, so a shim opens it once.
#[derive(Debug)]
pub(super) struct RunLock {
    _file: File,
}

impl RunDir {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The server's folder: `<data>` of `<data>/runs/<job-id>`.
    pub(super) fn data_dir(&self) -> &Path {
        self.path.parent().and_then(Path::parent).unwrap_or(Path::new("/"))
    }

    /// The containers' working directory.
    pub(super) fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    /// Where the `emptyDir` volumes are.
    pub(super) fn volumes(&self) -> PathBuf {
        self.path.join("volumes")
    }

    /// The inputs, when they are too large for a variable.
    pub(super) fn inputs(&self) -> PathBuf {
        self.path.join("inputs.json")
    }

    /// Where the logs of the current attempt are.
    pub(super) fn logs(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Where the logs of an attempt are once it was given up; the first attempt is 1.
    pub(super) fn logs_of_attempt(&self, attempt: u32) -> PathBuf {
        self.path.join(format!("log-{attempt}"))
    }

    /// The log of a container, in the folder of an attempt's logs.
    pub(super) fn log(folder: &Path, index: usize, container: &str) -> PathBuf {
        folder.join(format!("{index}-{container}.log"))
    }

    /// Which logs are there. Each attempt begins its containers in their order, so that a count says which.
    pub(super) fn count_logs(&self) -> io::Result<Logs> {
        let mut attempts: u32 = 1;
        while self.logs_of_attempt(attempts).is_dir() {
            attempts += 1;
        }
        match fs::read_dir(self.logs()) {
            Ok(entries) => Ok(Logs { attempts, containers: entries.count() }),
            // Its shim died between two attempts.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Logs { attempts, containers: 0 }),
            Err(error) => Err(error),
        }
    }

    pub(super) fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Makes the folder of a run that has not begun, all at once.
    pub(super) fn create(&self, spec: &Spec, large_inputs: Option<&[u8]>) -> io::Result<()> {
        let runs = self.path.parent().unwrap_or(Path::new("/"));
        let new = Self::new(runs.join(format!("{NEW}{}", Uuid::now_v7())));
        let made = new.fill(spec, large_inputs).and_then(|()| fs::rename(&new.path, &self.path));
        if made.is_err() {
            let _ = fs::remove_dir_all(&new.path);
        }
        made
    }

    fn fill(&self, spec: &Spec, large_inputs: Option<&[u8]>) -> io::Result<()> {
        private_dir(&self.path)?;
        private_dir(&self.work())?;
        private_dir(&self.logs())?;
        if let Some(inputs) = large_inputs {
            // On disk before the specification: a run that outlives a power loss never begins with half of its inputs.
            new_file(&self.inputs(), inputs)?.sync_data()?;
        }
        new_file(&self.path.join("spec.json"), &serde_json::to_vec(spec)?)?;
        new_file(&self.path.join("lock"), b"")?;
        new_file(&self.path.join("started.next"), &[b' '; RECORD])?;
        new_file(&self.path.join("ended.next"), &[b' '; RECORD])?;
        Ok(())
    }

    /// The specification; `None` if it cannot be read, as after a power loss.
    pub(super) fn spec(&self) -> io::Result<Option<Spec>> {
        self.read("spec.json")
    }

    pub(super) fn started(&self) -> io::Result<Option<Started>> {
        self.read("started.json")
    }

    pub(super) fn ended(&self) -> io::Result<Option<ExitState>> {
        self.read("ended.json")
    }

    /// Writes that containers start from now on, and makes it durable: a run that may have done something never starts twice.
    pub(super) fn write_started(&self, started: Started) -> io::Result<()> {
        self.write_record("started", &started)?.sync_data()?;
        File::open(&self.path)?.sync_all()
    }

    /// Writes that nothing of the run is left. Not made durable: if the power goes before the end is stored elsewhere, the logs are
    /// in doubt too, and the run counts as lost.
    pub(super) fn write_ended(&self, exit: &ExitState) -> io::Result<()> {
        self.write_record("ended", exit).map(drop)
    }

    /// Writes a record over the bytes that were set aside for it and gives it its name.
    fn write_record<T: Serialize>(&self, name: &str, record: &T) -> io::Result<File> {
        let mut text = serde_json::to_vec(record)?;
        text.resize(text.len().max(RECORD), b' ');
        let next = self.path.join(format!("{name}.next"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&next)?;
        file.write_all(&text)?;
        fs::rename(&next, self.path.join(format!("{name}.json")))?;
        Ok(file)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let bytes = match fs::read(self.path.join(name)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), name, %error, "a file of a run is not readable");
                Ok(None)
            }
        }
    }

    /// Leaves the wish that the run be cancelled.
    pub(super) fn request_cancel(&self) -> io::Result<()> {
        OpenOptions::new().write(true).create(true).truncate(false).open(self.path.join("cancel")).map(drop)
    }

    pub(super) fn cancel_requested(&self) -> bool {
        self.path.join("cancel").exists()
    }

    /// Leaves a word on why the shim could not begin, for the next who looks.
    pub(super) fn write_trouble(&self, text: &str) {
        let _ = fs::write(self.path.join("trouble"), text);
    }

    pub(super) fn trouble(&self) -> Option<String> {
        fs::read_to_string(self.path.join("trouble")).ok().map(|text| text.chars().take(500).collect())
    }

    fn lock_file(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(self.path.join("lock"))
    }

    /// Whether another process, the shim, holds the lock. Does not take it, so that a shim that starts now is not turned away.
    pub(super) fn is_locked(&self) -> io::Result<bool> {
        let held = rustix::process::fcntl_getlk(self.lock_file()?, &Flock::from(FlockType::WriteLock))?;
        Ok(held.is_some())
    }

    /// Takes the lock, if nobody has it.
    pub(super) fn try_lock(&self) -> io::Result<Option<RunLock>> {
        let file = self.lock_file()?;
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(RunLock { _file: file })),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells the run's shim to look at once whether it is cancelled. Best effort: it looks every second anyway.
    pub(super) fn wake_shim(&self) {
        if let Err(error) = send(&self.path, SHIM_SOCKET, b"cancel") {
            tracing::debug!(path = %self.path.display(), %error, "the shim was not woken");
        }
    }

    /// Tells the server to look at this run. Best effort: it looks every second anyway.
    pub(super) fn wake_server(&self, job_id: JobId) {
        let _ = send(self.data_dir(), SERVER_SOCKET, job_id.to_string().as_bytes());
    }

    /// Takes the folder's name away, and with it the run. What was in it is trash from now on: removing that may take long.
    pub(super) fn discard(&self) -> io::Result<()> {
        move_to_trash(&self.path)
    }
}

fn move_to_trash(path: &Path) -> io::Result<()> {
    let trash = path.with_file_name(format!("{TRASH}{}", Uuid::now_v7()));
    match fs::rename(path, trash) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        moved => moved,
    }
}

/// Binds a datagram socket in a folder, in place of one that a dead process left. The path goes through the folder's descriptor,
/// since a socket's address holds 108 bytes only.
pub(super) fn bind(folder: &Path, name: &str) -> io::Result<UnixDatagram> {
    let folder = File::open(folder)?;
    let path = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixDatagram::bind(path)
}

/// Sends a datagram to a socket in a folder. Waits a moment when its queue is full: queues hold ten by default.
fn send(folder: &Path, name: &str, message: &[u8]) -> io::Result<()> {
    let folder = File::open(folder)?;
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(Duration::from_millis(200)))?;
    socket.send_to(message, format!("/proc/self/fd/{}/{name}", folder.as_raw_fd())).map(drop)
}

/// Makes a folder that only its owner may enter, with its parents.
pub(super) fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn new_file(path: &Path, content: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    Ok(file)
}

/// Removes a folder and all in it, also below folders that were made read-only. Links are removed, not followed.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Makes every folder below this one writable for its owner.
fn open_up(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

/// The job ids of the folders in `runs`.
pub(super) fn job_ids(runs: &Path) -> io::Result<BTreeSet<JobId>> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(runs)? {
        if let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            ids.insert(id);
        }
    }
    Ok(ids)
}

/// Makes trash of what a crash left half made in `runs`.
pub(super) fn discard_half_made(runs: &Path) -> io::Result<()> {
    for path in named(runs, NEW)? {
        move_to_trash(&path)?;
    }
    Ok(())
}

/// Removes the trash in `runs`. Takes as long as there are files in it; what cannot be removed stays for the next time.
pub(super) fn remove_trash(runs: &Path) -> io::Result<()> {
    for path in named(runs, TRASH)? {
        let is_folder = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
        let removed = if is_folder { remove_tree(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "cannot remove what is left of a run");
            }
            _ => {}
        }
    }
    Ok(())
}

/// What is in `runs` under a name that begins like this.
fn named(runs: &Path, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let begins = |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with(prefix));
    Ok(fs::read_dir(runs)?.flatten().filter(|entry| begins(&entry.file_name())).map(|entry| entry.path()).collect())
}
