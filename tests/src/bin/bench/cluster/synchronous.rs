//! A synchronous execution over a container that works for 50 ms, against the bare Job from its creation to its condition `Complete`.

use std::time::Instant;

use k8s_openapi::api::batch::v1::Job;
use kube::api::PostParams;
use tokio::runtime::Runtime;

use super::seen::Seen;
use super::site::Site;
use crate::driver::{self, Connection};
use crate::sample::{Sample, ratio};
use crate::table::{Row, Table};
use crate::{Options, Outcome};

const SHARE: f64 = 0.55;

pub(crate) fn measure(options: &Options, runtime: &Runtime, table: &mut Table) -> Outcome<()> {
    let runs = options.pick(15, 2);
    let site = Site::start(&[])?;
    runtime.block_on(async {
        let client = kube::Client::try_default().await?;
        let (_, job) = site.example("brief").await?;
        let beside = site.beside(&client);
        let mut seen = Seen::watch(beside.clone(), complete).await?;
        let address = site.address()?;
        let request = driver::post(address, "/processes/brief/execution", "", r#"{"inputs":{}}"#);
        let (mut ours, mut theirs) = (Sample::default(), Sample::default());
        for run in 0..=runs {
            let mut connection = Connection::open(address).await?;
            let begun = Instant::now();
            connection.expect(&request, 200).await?;
            if run > 0 {
                ours.add(begun);
            }
            let mut job = job.clone();
            let name = format!("bare-{run}");
            job.metadata.name = Some(name.clone());
            let begun = Instant::now();
            beside.create(&PostParams::default(), &job).await?;
            seen.when(&name).await?;
            if run > 0 {
                theirs.add(begun);
            }
        }
        let (a, b) = (ours.micros(0.5), theirs.micros(0.5));
        let shown = |sample: &Sample| {
            let seconds = |share| sample.micros(share) / 1_000_000.0;
            format!("p50 {:.2} s, p95 {:.2} s", seconds(0.5), seconds(0.95))
        };
        table.add(Row {
            figure: "synchronous call over a container of 50 ms".to_owned(),
            measured: shown(&ours),
            bare: format!("create to Complete: {}", shown(&theirs)),
            ratio: format!("{:.2}", ratio(a, b)),
            reach: "<= 0.55",
            reached: Some(ratio(a, b) <= SHARE),
            runs: format!("{runs} of each in turns, after 1"),
        });
        Ok(())
    })
}

/// The Job's name once it is complete.
fn complete(job: &Job) -> Option<String> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|one| one.type_ == "Complete" && one.status == "True")?;
    job.metadata.name.clone()
}
