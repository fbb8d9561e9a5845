//! What a runner does by itself: gives free places away, looks after runs that are alive, listens to shims.
//!
//! Invariant: nothing here knows more than the folders say; each task may be late or miss something and the next round finds it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixDatagram;

use super::observe::{Inner, Stage, lock, unavailable};
use super::run_dir;
use crate::core::{JobId, RunState};

/// How often runs that are alive are looked at.
const POLL: Duration = Duration::from_secs(1);

/// Starts the tasks; they end with the runner.
pub(super) fn spawn(inner: &Arc<Inner>, data_dir: &Path) {
    tokio::spawn(until_stopped(Arc::clone(inner), schedule(Arc::clone(inner))));
    tokio::spawn(until_stopped(Arc::clone(inner), poll(Arc::clone(inner))));
    tokio::spawn(until_stopped(Arc::clone(inner), sweep(Arc::clone(inner))));
    // What an earlier server did not come to.
    inner.sweeper.notify_one();
    let socket = run_dir::bind(data_dir, run_dir::SERVER_SOCKET).and_then(|socket| {
        socket.set_nonblocking(true)?;
        UnixDatagram::from_std(socket)
    });
    match socket {
        Ok(socket) => drop(tokio::spawn(until_stopped(Arc::clone(inner), listen(Arc::clone(inner), socket)))),
        Err(error) => tracing::warn!(%error, "cannot listen to shims; runs are looked at every second instead"),
    }
}

async fn until_stopped(inner: Arc<Inner>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = inner.stopping.cancelled() => {}
        () = work => {}
    }
}

/// Gives free places to runs that wait.
async fn schedule(inner: Arc<Inner>) {
    loop {
        loop {
            let next = lock(&inner.places).next(Instant::now());
            let Some(id) = next else { break };
            start(&inner, id).await;
        }
        let next_try = lock(&inner.places).next_try();
        let due = async {
            match next_try {
                Some(time) => tokio::time::sleep_until(time.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = inner.scheduler.notified() => {}
            () = due => {}
        }
    }
}

async fn start(inner: &Arc<Inner>, id: JobId) {
    let Some(run) = inner.run(id) else {
        lock(&inner.places).leave(id);
        return;
    };
    let starter = Arc::clone(inner);
    let started = inner.blocking("to start a run that waited", move || {
        let mut slot = lock(&run.slot);
        if slot.stage != Stage::Waiting {
            if matches!(slot.stage, Stage::Ended | Stage::Gone) {
                lock(&starter.places).leave(id);
            }
            return Ok(());
        }
        starter.start(&run, &mut slot).map_err(|error| {
            let message = format!("the process that watches the run cannot be started: {error}; it is tried again");
            starter.show(&run, &mut slot, RunState::Waiting { message: Some(message) });
            unavailable("to start the process that watches a run", error)
        })
    });
    if let Err(error) = started.await {
        tracing::warn!(job_id = %id, error = &error as &dyn std::error::Error, "cannot start a run that waited; it is tried again");
        lock(&inner.places).wait_until(id, Instant::now() + POLL);
    }
}

/// Looks at the runs that are alive, as long as there are any.
async fn poll(inner: Arc<Inner>) {
    loop {
        if lock(&inner.places).is_idle() {
            inner.poller.notified().await;
        }
        tokio::time::sleep(POLL).await;
        let live = lock(&inner.places).live();
        let poller = Arc::clone(&inner);
        let polled = inner.blocking("to look at the runs", move || {
            for run in live.into_iter().filter_map(|id| poller.run(id)) {
                if let Err(error) = poller.refresh(&run) {
                    tracing::warn!(job_id = %run.id, %error, "cannot read the folder of a run; it is tried again");
                }
            }
            Ok(())
        });
        if let Err(error) = polled.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot look at the runs; it is tried again");
        }
    }
}

/// Removes trash, however long that takes: only this task waits for it.
async fn sweep(inner: Arc<Inner>) {
    loop {
        inner.sweeper.notified().await;
        let (done, swept) = tokio::sync::oneshot::channel();
        let runs_dir = inner.runs_dir.clone();
        let work = move || {
            if let Err(error) = run_dir::remove_trash(&runs_dir) {
                tracing::warn!(%error, "cannot look for what is left of runs");
            }
            let _ = done.send(());
        };
        // A thread of its own, since a runtime that ends waits for its own threads.
        match std::thread::Builder::new().name("sweep".to_owned()).spawn(work) {
            // An error is a thread that panicked: the next notice tries again.
            Ok(_) => drop(swept.await),
            Err(error) => tracing::warn!(%error, "cannot start a thread that removes what is left of runs"),
        }
    }
}

/// Looks at the runs whose shims say that something changed.
async fn listen(inner: Arc<Inner>, socket: UnixDatagram) {
    loop {
        let mut message = [0; 64];
        let length = match socket.recv(&mut message).await {
            Ok(length) => length,
            Err(error) => {
                tracing::warn!(%error, "cannot receive what shims say");
                tokio::time::sleep(POLL).await;
                continue;
            }
        };
        let id =
            message.get(..length).and_then(|text| std::str::from_utf8(text).ok()).and_then(|text| text.parse().ok());
        let Some(run) = id.and_then(|id: JobId| inner.run(id)) else { continue };
        let listener = Arc::clone(&inner);
        let looked = inner.blocking("to look at a run", move || {
            listener.refresh(&run).map_err(|error| unavailable("to read the folder of a run", error))
        });
        if let Err(error) = looked.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot look at a run; it is tried again");
        }
    }
}
