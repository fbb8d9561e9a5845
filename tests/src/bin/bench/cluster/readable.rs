//! From the moment when the API server says that the main container has ended, up to the result over HTTP: what the product adds to what
//! nobody can know earlier.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use tokio::runtime::Runtime;

use super::seen::Seen;
use super::site::{Site, job_id};
use crate::driver::{self, Connection};
use crate::sample::Sample;
use crate::table::{Row, Table};
use crate::{Options, Outcome};

const P95_MILLIS: f64 = 150.0;
/// Between two questions whether the result is there.
const POLL: Duration = Duration::from_millis(2);

pub(crate) fn measure(options: &Options, runtime: &Runtime, table: &mut Table) -> Outcome<()> {
    let runs = options.pick(40, 2);
    let site = Site::start(&[])?;
    runtime.block_on(async {
        site.ready().await?;
        let client = kube::Client::try_default().await?;
        let mut seen = Seen::watch(Api::namespaced(client, site.namespace()?.name()), ended).await?;
        let address = site.address()?;
        let request = site.request("brief")?;
        let mut sample = Sample::default();
        for run in 0..=runs {
            let mut connection = Connection::open(address).await?;
            let id = job_id(&connection.expect(&request, 201).await?.body)?;
            let at = seen.when(&id).await?;
            readable(&mut connection, &driver::get(address, &format!("/jobs/{id}/results")), at).await?;
            if run > 0 {
                sample.add(at);
            }
        }
        let (p50, p95) = (sample.micros(0.5) / 1000.0, sample.micros(0.95) / 1000.0);
        table.add(Row {
            figure: "container terminated in the API to result readable".to_owned(),
            measured: format!("p50 {p50:.0} ms, p95 {p95:.0} ms"),
            bare: "a watch of its own: 0".to_owned(),
            reach: "p95 <= 150 ms",
            reached: Some(p95 <= P95_MILLIS),
            runs: format!("{runs} jobs one after another, after 1"),
            ..Row::default()
        });
        Ok(())
    })
}

/// The job's id once the container of its pod has ended.
fn ended(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|one| one.state.as_ref().is_some_and(|state| state.terminated.is_some()))?;
    pod.metadata.labels.as_ref()?.get("vespiary.io/job-id").cloned()
}

/// Asks until the result is there.
async fn readable(connection: &mut Connection, request: &[u8], since: Instant) -> Outcome<()> {
    while connection.send(request).await?.status != 200 {
        if since.elapsed() > Duration::from_secs(60) {
            return Err("the result does not become readable".into());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
