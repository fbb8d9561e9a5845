//! Calls to the API server for every GET but live logs, counted by a proxy in front of it.

use std::time::Duration;

use tokio::runtime::Runtime;
use vespiary_tests::ApiProxy;

use super::site::{Site, job_id};
use crate::driver::Connection;
use crate::table::{Row, Table};
use crate::{Options, Outcome, place, say};

/// The server calls nobody for so long before the GETs begin.
const QUIET: Duration = Duration::from_secs(2);
/// After so many such spans it is measured as it is.
const PATIENCE: u32 = 10;

pub(crate) fn measure(options: &Options, runtime: &Runtime, table: &mut Table) -> Outcome<()> {
    let times = options.pick(50, 2);
    let folder = place::passing()?;
    let proxy = ApiProxy::start(None);
    let kubeconfig = proxy.kubeconfig(folder.path()).to_string_lossy().into_owned();
    let site = Site::start(&[("KUBECONFIG", kubeconfig)])?;
    let (gets, paths) = runtime.block_on(async {
        site.ready().await?;
        let client = site.server()?.client();
        let mut connection = Connection::open(site.address()?).await?;
        let mut ids = Vec::new();
        for process in ["brief", "long", "nowhere", "held"] {
            ids.push(job_id(&connection.expect(&site.request(process)?, 201).await?.body)?);
        }
        let [done, runs, waits, held] = ids.as_slice() else { return Err("four jobs".into()) };
        client.reaches(done, "successful").await;
        client.reaches(runs, "running").await;
        let namespace = site.namespace()?;
        vespiary_tests::until("what has ended to be let go", Duration::from_secs(30), || async {
            let held = namespace.held();
            (!held.iter().any(|name| name.contains(done.as_str()))).then_some(())
        })
        .await;
        let mut paths: Vec<String> = [
            "/",
            "/conformance",
            "/api",
            "/processes",
            "/processes/brief",
            "/jobs",
            "/jobs?status=running",
            "/jobs?processID=brief&limit=1",
            "/healthz",
            "/readyz",
            "/metrics",
        ]
        .map(str::to_owned)
        .to_vec();
        paths.extend(ids.iter().map(|id| format!("/jobs/{id}")));
        paths.extend([runs, waits, held].map(|id| format!("/jobs/{id}/results")));
        paths.extend(["results", "results/text", "logs", "receipt"].map(|part| format!("/jobs/{done}/{part}")));
        // The log of what runs is followed from its start on, for its progress: not for a GET.
        let mut before = calls(&proxy).len();
        for _ in 0..PATIENCE {
            tokio::time::sleep(QUIET).await;
            let now = calls(&proxy).len();
            if std::mem::replace(&mut before, now) == now {
                break;
            }
        }
        for path in paths.iter().cycle().take(paths.len() * times) {
            let reply = client.get(path).await;
            if reply.status >= 500 {
                return Err(format!("GET {path}: {}", reply.status).into());
            }
        }
        Outcome::Ok((calls(&proxy).split_off(before), paths.len()))
    })?;
    if !gets.is_empty() {
        say(&format!("bench: while GETs were answered: {}", gets.join(", ")));
    }
    let (gets, all) = (gets.len(), calls(&proxy).len());
    drop(site);
    table.add(Row {
        figure: "calls to the API server for any GET but live logs".to_owned(),
        measured: format!("{gets} for {} GETs", paths * times),
        bare: format!("{all} for the 4 jobs"),
        reach: "0",
        reached: Some(gets == 0),
        runs: format!("{times} x {paths} paths"),
        ..Row::default()
    });
    Ok(())
}

/// Calls so far, without watches that are begun anew from time to time.
fn calls(proxy: &ApiProxy) -> Vec<String> {
    let by_itself = |resource: &str| resource.ends_with("selfsubjectaccessreviews");
    let calls = proxy.calls();
    let others = calls.iter().filter(|call| call.verb != "watch" && !by_itself(&call.resource));
    others.map(|call| format!("{} {}", call.verb, call.resource)).collect()
}
