//! The shim: a process of our own binary that runs one run's containers and writes how they ended, whatever becomes of the server.
//!
//! Invariant: `ended.json` is written once, under the lock, when no process of the run is left.

mod container;
pub(super) mod processes;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use self::container::Prepared;
use super::run_dir::{self, RunDir, Started};
use super::spec::Spec;
use crate::core::plan::Container;
use crate::core::{EndReason, ExitState, Timestamp};
use crate::runner::signal::signal_name;

/// How often the shim looks for a wish to cancel that no datagram announced, and reaps orphans.
const LOOK: Duration = Duration::from_secs(1);

/// The longest pause between two attempts.
const LONGEST_DELAY: Duration = Duration::from_secs(360);

/// Runs the containers of the run in this folder; returns when everything of it has ended. This is what `vespiary shim <run-dir>`
/// does. It makes a session and a runtime of its own, so it must not be called from within one; it reads nothing of the environment.
#[must_use]
pub fn main(run_dir: &Path) -> ExitCode {
    match watch_over(run_dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            RunDir::new(run_dir).write_trouble(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn watch_over(run_dir: &Path) -> io::Result<()> {
    // Fails only for a process that leads a group already, which nobody else's terminal can stop either.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let dir = RunDir::new(fs::canonicalize(run_dir)?);
    let Some(_lock) = dir.try_lock()? else { return Ok(()) };
    if dir.ended()?.is_some() || dir.started()?.is_some() {
        return Ok(());
    }
    let spec = dir
        .spec()?
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the run's specification cannot be read"))?;
    container::limit_own_resources(&spec);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = listen(&dir)?;
        let mut shim = Shim { dir: &dir, spec: &spec, stop, started: None, deadline: None };
        let exit = shim.run().await?;
        // A run whose end cannot be written has not ended; the bytes are set aside, so this is about more than a full disk.
        while dir.write_ended(&exit).is_err() {
            tokio::time::sleep(LOOK).await;
        }
        dir.wake_server(spec.job_id);
        Ok(())
    })
}

/// Why a run is stopped from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Cancelled,
    Terminated,
}

/// Listens for a cancel (datagram or file) and for SIGTERM.
fn listen(dir: &RunDir) -> io::Result<watch::Receiver<Option<Stop>>> {
    let (sender, receiver) = watch::channel(None);
    // Without the socket, on a file system that has none, the file is looked at every second.
    let socket = run_dir::bind(dir.path(), run_dir::SHIM_SOCKET).and_then(|socket| {
        socket.set_nonblocking(true)?;
        tokio::net::UnixDatagram::from_std(socket)
    });
    let mut terminated = signal(SignalKind::terminate())?;
    let dir = dir.clone();
    tokio::spawn(async move {
        while !dir.cancel_requested() {
            let datagram = async {
                match &socket {
                    Ok(socket) => {
                        let mut message = [0; 16];
                        match socket.recv(&mut message).await {
                            Ok(length) => message.get(..length) == Some(b"cancel"),
                            Err(_) => std::future::pending().await,
                        }
                    }
                    Err(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                cancel = datagram => if cancel { break },
                _ = terminated.recv() => {
                    let _ = sender.send(Some(Stop::Terminated));
                    return;
                }
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        let _ = sender.send(Some(Stop::Cancelled));
        // The sender stays, and a SIGTERM from now on changes nothing.
        std::future::pending::<()>().await;
    });
    Ok(receiver)
}

/// How one container came to its end.
enum End {
    Exited(ExitStatus),
    Stopped(EndReason),
    NotStarted(String),
}

struct Shim<'a> {
    dir: &'a RunDir,
    spec: &'a Spec,
    stop: watch::Receiver<Option<Stop>>,
    started: Option<Timestamp>,
    deadline: Option<Instant>,
}

impl Shim<'_> {
    async fn run(&mut self) -> io::Result<ExitState> {
        let mut attempt = 1;
        loop {
            let exit = self.attempt().await?;
            let again =
                matches!(exit.reason, EndReason::Error | EndReason::OomKilled) && attempt <= self.spec.plan.retries;
            if !again {
                return Ok(exit);
            }
            let doubled = 1u64.checked_shl(attempt - 1).unwrap_or(u64::MAX);
            let delay = Duration::from_millis(self.spec.retry_delay_ms.saturating_mul(doubled)).min(LONGEST_DELAY);
            if let Some(reason) = self.stopped_within(delay).await {
                return Ok(self.stopped(reason, None));
            }
            self.make_room(attempt)?;
            attempt += 1;
        }
    }

    /// Puts the attempt's logs aside and gives the next one an empty folder to work in.
    fn make_room(&self, attempt: u32) -> io::Result<()> {
        for folder in [self.dir.work(), self.dir.volumes()] {
            run_dir::remove_tree(&folder)?;
        }
        run_dir::private_dir(&self.dir.work())?;
        fs::rename(self.dir.logs(), self.dir.logs_of_attempt(attempt))?;
        run_dir::private_dir(&self.dir.logs())
    }

    /// Runs every container once, up to the first that fails.
    async fn attempt(&mut self) -> io::Result<ExitState> {
        let plan = &self.spec.plan;
        for (index, container) in plan.all_containers().enumerate() {
            let init = index < plan.init_containers.len();
            if let Some(reason) = self.stopped_already() {
                return Ok(self.stopped(reason, None));
            }
            let kills_before = oom_kills();
            let end = self.container(index, container, init).await?;
            // Whatever it left behind in other groups and sessions has become ours.
            processes::end_all_children().await;
            let out_of_memory = oom_kills() > kills_before;
            match end {
                End::Exited(status) if status.success() => {}
                End::Exited(status) => return Ok(self.failed(container, status, out_of_memory)),
                End::Stopped(reason) => return Ok(self.stopped(reason, Some(container))),
                End::NotStarted(why) => {
                    let message = format!("container '{}' could not be started: {why}", container.name);
                    return Ok(self.exit(EndReason::StartError, Some(container), message));
                }
            }
        }
        let message = "every container ended with exit code 0".to_owned();
        let mut exit = self.exit(EndReason::Completed, None, message);
        exit.container = plan.result_container().map(ToOwned::to_owned);
        exit.exit_code = Some(0);
        Ok(exit)
    }

    async fn container(&mut self, index: usize, container: &Container, init: bool) -> io::Result<End> {
        let prepared = match Prepared::new(self.dir, self.spec, container, init) {
            Ok(prepared) => prepared,
            Err(why) => return Ok(End::NotStarted(why)),
        };
        let log = File::options().append(true).create(true).open(RunDir::log(&self.dir.logs(), index, &container.name));
        let log = match log {
            Ok(log) => log,
            Err(error) => return Ok(End::NotStarted(format!("its log cannot be written: {error}"))),
        };
        let first = self.started.is_none();
        if first {
            // On disk before anything runs: a run that may have begun is never begun again.
            let started = Timestamp::now();
            self.dir.write_started(Started { started })?;
            self.started = Some(started);
            let seconds = self.spec.plan.deadline_seconds;
            self.deadline = seconds.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds.into())));
        }
        let mut child = match prepared.spawn(log) {
            Ok(child) => child,
            Err(why) => return Ok(End::NotStarted(why)),
        };
        self.dir.wake_server(self.spec.job_id);
        let main = child.id();
        let reason = loop {
            tokio::select! {
                biased;
                status = child.wait() => return Ok(End::Exited(status?)),
                reason = stop_signal(&mut self.stop, self.deadline) => break reason,
                () = tokio::time::sleep(LOOK) => processes::reap_orphans(main),
            }
        };
        processes::signal_group(main, Signal::TERM);
        let grace = Duration::from_secs(self.spec.grace_seconds.into());
        if tokio::time::timeout(grace, child.wait()).await.is_err() {
            processes::signal_group(main, Signal::KILL);
            child.wait().await?;
        }
        Ok(End::Stopped(reason))
    }

    fn stopped_already(&self) -> Option<EndReason> {
        // The file itself: the listener may not have come to it yet.
        if self.dir.cancel_requested() {
            return Some(EndReason::Cancelled);
        }
        let stop = *self.stop.borrow();
        let late = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        stop.map(reason_of).or(late.then_some(EndReason::DeadlineExceeded))
    }

    async fn stopped_within(&mut self, delay: Duration) -> Option<EndReason> {
        tokio::time::timeout(delay, stop_signal(&mut self.stop, self.deadline)).await.ok()
    }

    fn exit(&self, reason: EndReason, container: Option<&Container>, message: String) -> ExitState {
        let container = container.map(|container| container.name.clone());
        let finished = Timestamp::now();
        let message = message.chars().take(1000).collect();
        ExitState { reason, container, exit_code: None, signal: None, message, started: self.started, finished }
    }

    fn stopped(&self, reason: EndReason, container: Option<&Container>) -> ExitState {
        let message = match reason {
            EndReason::DeadlineExceeded => {
                let seconds = self.spec.plan.deadline_seconds.unwrap_or_default();
                format!("stopped at its deadline of {seconds} s")
            }
            EndReason::Cancelled if self.started.is_none() => "cancelled before it started".to_owned(),
            EndReason::Cancelled => "cancelled".to_owned(),
            _ => "the machine or the process that watched it was stopped".to_owned(),
        };
        self.exit(reason, container, message)
    }

    fn failed(&self, container: &Container, status: ExitStatus, out_of_memory: bool) -> ExitState {
        let name = &container.name;
        let (mut reason, mut message) = match (status.code(), status.signal()) {
            (Some(code), _) => (EndReason::Error, format!("container '{name}' ended with exit code {code}")),
            (None, Some(number)) => {
                (EndReason::Error, format!("container '{name}' was ended by signal {number} ({})", signal_name(number)))
            }
            (None, None) => (EndReason::Error, format!("container '{name}' ended in an unknown way")),
        };
        if out_of_memory && status.signal() == Some(Signal::KILL.as_raw()) {
            reason = EndReason::OomKilled;
            message.push_str(" when the machine had no memory left");
        }
        if let Some(limit) = container.resources.limits.get("memory").filter(|_| may_be_memory(status)) {
            message.push_str(&format!("; its memory is limited to {limit}"));
        }
        let mut exit = self.exit(reason, Some(container), message);
        exit.exit_code = status.code();
        exit.signal = status.signal();
        exit
    }
}

/// Whether a program ends like this that was refused memory. An allocation beyond the limit fails; what the program makes of that is
/// its own affair, so this is no proof, and other ends say nothing about memory at all.
fn may_be_memory(status: ExitStatus) -> bool {
    // A shell tells its last command's signal as an exit code.
    let signal = status.signal().or_else(|| status.code()?.checked_sub(128));
    [Signal::KILL, Signal::ABORT, Signal::SEGV, Signal::BUS].iter().any(|fatal| signal == Some(fatal.as_raw()))
}

fn reason_of(stop: Stop) -> EndReason {
    match stop {
        Stop::Cancelled => EndReason::Cancelled,
        Stop::Terminated => EndReason::Lost,
    }
}

/// Waits for a wish to stop or the deadline.
async fn stop_signal(stop: &mut watch::Receiver<Option<Stop>>, deadline: Option<Instant>) -> EndReason {
    let wish = async {
        match stop.wait_for(Option::is_some).await.map(|stop| *stop) {
            Ok(Some(stop)) => reason_of(stop),
            _ => std::future::pending().await,
        }
    };
    let late = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        reason = wish => reason,
        () = late => EndReason::DeadlineExceeded,
    }
}

/// How many processes the kernel has ended for want of memory since it started.
fn oom_kills() -> u64 {
    let mut text = String::new();
    let read = File::open("/proc/vmstat").and_then(|mut file| file.read_to_string(&mut text));
    let line = read.ok().and_then(|_| text.lines().find_map(|line| line.strip_prefix("oom_kill ")));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}
