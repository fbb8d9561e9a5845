//! Resident memory of a server with ten thousand live Jobs, all held back by a queue.

use std::time::Duration;

use futures::future::try_join_all;
use tokio::runtime::Runtime;

use super::site::Site;
use crate::driver::Connection;
use crate::sample::grouped;
use crate::table::{Row, Table};
use crate::{Options, Outcome, proc_fs};

const AT_ONCE: usize = 16;
const MOST_MIB: f64 = 120.0;

pub(crate) fn measure(options: &Options, runtime: &Runtime, table: &mut Table) -> Outcome<()> {
    let count = options.pick(10_000, 32);
    let settle = Duration::from_secs(options.pick(10, 1));
    let mut site = Site::start(&[])?;
    let mib = |site: &Site| -> Outcome<(f64, f64)> {
        let (now, most) = proc_fs::resident_kib(site.server()?.pid())?;
        #[allow(clippy::cast_precision_loss, reason = "a size that is shown")]
        Ok((now as f64 / 1024.0, most as f64 / 1024.0))
    };
    runtime.block_on(site.ready())?;
    std::thread::sleep(settle);
    let (idle, _) = mib(&site)?;
    runtime.block_on(async {
        let (address, request) = (site.address()?, site.request("held")?);
        let request = &request;
        let loops = (0..AT_ONCE).map(async |_| {
            let mut connection = Connection::open(address).await?;
            for _ in 0..count / AT_ONCE {
                connection.expect(request, 201).await?;
            }
            Outcome::Ok(())
        });
        try_join_all(loops).await?;
        site.launched().await
    })?;
    let made = site.namespace()?.job_names().len();
    // The controllers note in each that it is held, which the watch brings.
    std::thread::sleep(settle);
    let (live, most) = mib(&site)?;
    site.server = site.server.take().map(vespiary_tests::Server::restart);
    runtime.block_on(site.ready())?;
    std::thread::sleep(settle);
    let (listed, most_of_list) = mib(&site)?;
    table.add(Row {
        figure: format!("memory with {} suspended Jobs", grouped(made as u64)),
        measured: format!(
            "{live:.0} MiB (at most {most:.0}); {listed:.0} MiB after a restart (at most {most_of_list:.0})"
        ),
        bare: format!("without: {idle:.0} MiB"),
        reach: "<= 120 MiB",
        // The most is what a limit of memory has to leave room for.
        reached: Some(most.max(most_of_list) <= MOST_MIB && made >= count),
        runs: format!("1 server, {} s after the last", settle.as_secs()),
        ..Row::default()
    });
    Ok(())
}
