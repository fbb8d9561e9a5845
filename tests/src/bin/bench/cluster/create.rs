//! Asynchronous POSTs up to their 201, against a bare loop that creates the same Jobs. Their pods fit no node, so that only the API server
//! and the controllers work.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Api, ListParams, PostParams};
use tokio::runtime::Runtime;

use super::site::Site;
use crate::driver::Connection;
use crate::sample::{Sample, grouped, median, ratio};
use crate::table::{Row, Table};
use crate::{Options, Outcome, say};

const AT_ONCE: usize = 16;
const SHARE: f64 = 0.9;
/// Writes in a second that do not matter.
const MORE: u64 = 10;
/// Seconds after which a cluster that does not come to rest is measured all the same.
const PATIENCE: u32 = 60;

/// Numbers the names of bare Jobs.
static NUMBER: AtomicU64 = AtomicU64::new(0);

pub(crate) fn measure(options: &Options, runtime: &Runtime, table: &mut Table) -> Outcome<()> {
    let (count, rounds) = (options.pick(240, 16), options.pick(6, 1));
    let site = Site::start(&[])?;
    runtime.block_on(async {
        let client = kube::Client::try_default().await?;
        site.ready().await?;
        let at_rest = writes(&site.beside(&client)).await?;
        let (_, job) = site.example("nowhere").await?;
        let request = site.request("nowhere")?;
        let beside = site.beside(&client);
        let (mut ours, mut theirs, mut shares) = (Vec::new(), Vec::new(), Vec::new());
        let (mut our_calls, mut their_calls) = (Sample::default(), Sample::default());
        for round in 0..=rounds {
            let (mut a, mut b) = (Sample::default(), Sample::default());
            rest(&beside, at_rest).await?;
            let posted = post(&site, &request, count, &mut a).await?;
            rest(&beside, at_rest).await?;
            let created = create(&beside, &job, count, &mut b).await?;
            if round > 0 || rounds == 1 {
                ours.push(posted);
                theirs.push(created);
                shares.push(ratio(posted, created));
                our_calls.extend(&a);
                their_calls.extend(&b);
            }
        }
        let shown = |rates: &[f64], calls: &Sample| {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shown, not counted with")]
            let rate = grouped(median(rates).round() as u64);
            format!("{rate}/s, p50 {:.1} ms, p99 {:.1} ms", calls.micros(0.5) / 1000.0, calls.micros(0.99) / 1000.0)
        };
        table.add(Row {
            figure: "asynchronous POST to its 201, 16 at once".to_owned(),
            measured: shown(&ours, &our_calls),
            bare: format!("create: {}", shown(&theirs, &their_calls)),
            ratio: format!("{:.2}", median(&shares)),
            reach: ">= 0.9",
            reached: Some(median(&shares) >= SHARE),
            runs: format!("{rounds} x {count} of each, after 1, each on a cluster at rest"),
        });
        Ok(())
    })
}

/// Waits until the controllers have done with what was created before, so that the cluster is as busy as `at_rest`, in writes a second: they
/// would be measured with what comes.
async fn rest(jobs: &Api<Job>, at_rest: u64) -> Outcome<()> {
    for _ in 0..PATIENCE {
        if writes(jobs).await? <= at_rest.saturating_add(MORE) {
            return Ok(());
        }
    }
    say(&format!("bench: the cluster has not come to rest in {PATIENCE} s; it is measured as it is"));
    Ok(())
}

/// How often anything was written within a second.
async fn writes(jobs: &Api<Job>) -> Outcome<u64> {
    let before = revision(jobs).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(revision(jobs).await?.saturating_sub(before))
}

/// The version of all that the cluster keeps: each write makes it one more.
async fn revision(jobs: &Api<Job>) -> Outcome<u64> {
    let page = jobs.list_metadata(&ListParams::default().limit(1)).await?;
    Ok(page.metadata.resource_version.ok_or("a list without a version")?.parse()?)
}

/// Posts so many: how many a second.
async fn post(site: &Site, request: &[u8], count: usize, sample: &mut Sample) -> Outcome<f64> {
    let address = site.address()?;
    let mut open = Vec::new();
    for _ in 0..AT_ONCE {
        open.push(Connection::open(address).await?);
    }
    let begun = Instant::now();
    let loops = open.into_iter().map(async |mut connection| {
        let mut sample = Sample::default();
        for _ in 0..count / AT_ONCE {
            let begun = Instant::now();
            connection.expect(request, 201).await?;
            sample.add(begun);
        }
        Outcome::Ok(sample)
    });
    try_join_all(loops).await?.iter().for_each(|one| sample.extend(one));
    Ok(rate(count, begun))
}

/// Creates so many: how many a second.
async fn create(jobs: &Api<Job>, job: &Job, count: usize, sample: &mut Sample) -> Outcome<f64> {
    let begun = Instant::now();
    let loops = (0..AT_ONCE).map(async |_| {
        let mut sample = Sample::default();
        for _ in 0..count / AT_ONCE {
            let mut job = job.clone();
            job.metadata.name = Some(format!("bare-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
            let begun = Instant::now();
            jobs.create(&PostParams::default(), &job).await?;
            sample.add(begun);
        }
        Outcome::Ok(sample)
    });
    try_join_all(loops).await?.iter().for_each(|one| sample.extend(one));
    Ok(rate(count, begun))
}

#[allow(clippy::cast_precision_loss, reason = "a count of requests")]
fn rate(count: usize, begun: Instant) -> f64 {
    ratio(count as f64, begun.elapsed().as_secs_f64())
}
