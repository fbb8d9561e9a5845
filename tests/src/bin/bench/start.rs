//! A fresh server: how soon it is ready when its code is compiled already, and how much memory it has when nobody asks it anything.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use vespiary_tests::workspace;

use crate::child::Served;
use crate::driver::{self, Connection};
use crate::sample::{median, millis};
use crate::table::{Row, Table};
use crate::{Options, Outcome, documents, place, proc_fs};

const READY_MILLIS: f64 = 150.0;
const IDLE_MIB: f64 = 40.0;
/// How long a server may take to be ready at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// One start, in milliseconds from `spawn`.
struct Start {
    line: f64,
    ready: f64,
    served: Served,
}

pub(crate) fn measure(options: &Options, runtime: &Runtime, table: &mut Table) -> Outcome<()> {
    let folder = place::passing()?;
    let replies = folder.path().join("replies.json");
    let starts = options.pick(10, 2);
    let settle = Duration::from_millis(options.pick(5000, 100));
    documents::write(&replies, &[])?;
    // The first start compiles.
    drop(start(runtime, folder.path())?);
    let (mut lines, mut readies, mut bares) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..starts {
        let started = start(runtime, folder.path())?;
        lines.push(started.line);
        readies.push(started.ready);
        drop(started);
        let begun = Instant::now();
        let bare = Served::start(&["documents", &replies.to_string_lossy()])?;
        bares.push(millis(begun.elapsed()));
        drop(bare);
    }
    let started = start(runtime, folder.path())?;
    let bare = Served::start(&["documents", &replies.to_string_lossy()])?;
    std::thread::sleep(settle);
    let (idle, bare) = (mib(started.served.pid())?, mib(bare.pid())?);

    let ready = median(&readies);
    table.add(Row {
        figure: "start to ready, warm cache".to_owned(),
        measured: format!("{ready:.0} ms (URL printed after {:.0} ms)", median(&lines)),
        bare: format!("{:.0} ms", median(&bares)),
        reach: "<= 150 ms",
        reached: Some(ready <= READY_MILLIS),
        runs: format!("{starts} starts, after 1"),
        ..Row::default()
    });
    table.add(Row {
        figure: "idle memory".to_owned(),
        measured: format!("{idle:.1} MiB resident"),
        bare: format!("{bare:.1} MiB"),
        reach: "<= 40 MiB",
        reached: Some(idle <= IDLE_MIB),
        runs: format!("1 server, after {} s", settle.as_secs_f64()),
        ..Row::default()
    });
    Ok(())
}

/// Starts a server and waits until it is ready.
fn start(runtime: &Runtime, folder: &Path) -> Outcome<Start> {
    let mut command = Command::new(workspace::program());
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(folder.join("data")).current_dir(folder);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    let served = Served::of(&mut command)?;
    let line = millis(begun.elapsed());
    let request = driver::get(served.address, "/readyz");
    runtime.block_on(async {
        let ready = async {
            loop {
                if Connection::open(served.address).await?.send(&request).await?.status == 200 {
                    return Outcome::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready).await?
    })?;
    Ok(Start { line, ready: millis(begun.elapsed()), served })
}

#[allow(clippy::cast_precision_loss, reason = "a size that is shown")]
fn mib(pid: u32) -> Outcome<f64> {
    Ok(proc_fs::resident_kib(pid)?.0 as f64 / 1024.0)
}
