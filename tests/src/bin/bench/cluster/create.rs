//! Asynchronous POSTs up to their 201 and up to their Jobs, against a bare loop that creates the same Jobs, and one that also inserts the
//! same rows. Their pods fit no node, so that only the API server and the controllers work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Api, ListParams, PostParams};
use tokio::runtime::Runtime;
use vespiary::core::{JobId, NewJob, Timestamp};
use vespiary::store::JobStore as _;
use vespiary::store::postgres::PostgresStore;

use super::site::Site;
use crate::driver::Connection;
use crate::sample::{Sample, grouped, median, ratio};
use crate::table::{Row, Table};
use crate::{Options, Outcome, say};

const AT_ONCE: usize = 16;
const SHARE: f64 = 0.9;
/// Writes in a second of a cluster at rest: its parts say that they live.
const AT_REST: u64 = 15;
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
        let (id, job) = site.example("nowhere").await?;
        let request = site.request("nowhere")?;
        let beside = site.beside(&client);
        let rows = Rows::like(&site, &id).await?;
        let [mut ours, mut there, mut bare, mut kept] = [(); 4].map(|()| Side::default());
        let mut busy = 0;
        for round in 0..=rounds {
            let counts = round > 0 || rounds == 1;
            rest(&beside, &mut busy).await?;
            let [answered, launched] = post(&site, &request, count).await?;
            ours.add(counts, answered);
            there.add(counts, launched);
            rest(&beside, &mut busy).await?;
            bare.add(counts, create(&beside, &job, count, None).await?);
            rest(&beside, &mut busy).await?;
            kept.add(counts, create(&beside, &job, count, Some(&rows)).await?);
            // The first one was the example.
            let wanted = 1 + count / AT_ONCE * AT_ONCE * (round + 1);
            let made = site.jobs(&client).await?;
            if made != wanted {
                return Err(format!("there are {made} Jobs for {wanted} answers").into());
            }
        }
        let runs = format!("{rounds} x {count} of each, after 1, each on a cluster at rest");
        let share = ours.share_of(&bare);
        table.add(Row {
            figure: "asynchronous POST to its 201, 16 at once".to_owned(),
            measured: ours.shown(),
            bare: format!("create: {}", bare.shown()),
            ratio: format!("{share:.2}"),
            reach: ">= 0.9",
            reached: Some(share >= SHARE),
            runs: runs.clone(),
        });
        for (name, loops) in [("create", &bare), ("insert and create", &kept)] {
            table.add(Row {
                figure: "  until the last Job is there".to_owned(),
                measured: there.rate(),
                bare: format!("{name}: {}", loops.rate()),
                ratio: format!("{:.2}", there.share_of(loops)),
                runs: runs.clone(),
                ..Row::default()
            });
        }
        Ok(())
    })
}

/// What one side did, round by round.
#[derive(Default)]
struct Side {
    rates: Vec<f64>,
    calls: Sample,
}

impl Side {
    fn add(&mut self, counts: bool, (rate, calls): (f64, Sample)) {
        if counts {
            self.rates.push(rate);
            self.calls.extend(&calls);
        }
    }

    fn share_of(&self, other: &Self) -> f64 {
        median(&self.rates.iter().zip(&other.rates).map(|(ours, theirs)| ratio(*ours, *theirs)).collect::<Vec<_>>())
    }

    fn rate(&self) -> String {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shown, not counted with")]
        let rate = grouped(median(&self.rates).round() as u64);
        format!("{rate}/s")
    }

    fn shown(&self) -> String {
        let (rate, millis) = (self.rate(), |share| self.calls.micros(share) / 1000.0);
        format!("{rate}, p50 {:.1} ms, p99 {:.1} ms", millis(0.5), millis(0.99))
    }
}

/// The rows of a bare loop that keeps what it creates, as the product does: no Job without a row.
struct Rows {
    store: Arc<PostgresStore>,
    job: NewJob,
}

impl Rows {
    /// Rows like that of a job of the site's server, in its database.
    async fn like(site: &Site, id: &str) -> Outcome<Self> {
        let store = PostgresStore::open(&site.database(), &Default::default()).await?;
        let like = store.detail(id.parse()?).await?.ok_or("the job has no row")?;
        let job = NewJob {
            id: like.job.id,
            process_id: like.job.process_id,
            process_version: like.process_version,
            processor_digest: like.processor_digest,
            caller: like.job.caller,
            idempotency: None,
            request: like.request,
            plan: like.plan,
            nonce: like.nonce,
            relaunchable: like.relaunchable,
            // Not the server's: it would launch them.
            runner: "bench".to_owned(),
            created: like.job.created,
        };
        Ok(Self { store, job })
    }

    async fn insert(&self) -> Outcome<()> {
        let job = NewJob { id: JobId::new(), created: Timestamp::now(), ..NewJob::clone(&self.job) };
        self.store.insert(job).await?;
        Ok(())
    }
}

/// Waits until the controllers have done with what was created before: they would be measured with what comes. `busy` is what the cluster
/// writes in a second that is always so busy.
async fn rest(jobs: &Api<Job>, busy: &mut u64) -> Outcome<()> {
    let mut last = 0;
    for _ in 0..PATIENCE {
        last = writes(jobs).await?;
        if last <= busy.saturating_add(AT_REST) {
            return Ok(());
        }
    }
    say(&format!("bench: the cluster has not come to rest in {PATIENCE} s; it is measured as it is"));
    *busy = last;
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

/// Posts so many: how many a second and how long each took, up to the answers, and up to the Jobs.
async fn post(site: &Site, request: &[u8], count: usize) -> Outcome<[(f64, Sample); 2]> {
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
    let samples = try_join_all(loops).await?;
    let answered = summed(&samples, count, begun);
    site.launched().await?;
    Ok([answered, summed(&samples, count, begun)])
}

/// Creates so many, each after its row where rows are kept.
async fn create(jobs: &Api<Job>, job: &Job, count: usize, rows: Option<&Rows>) -> Outcome<(f64, Sample)> {
    let begun = Instant::now();
    let loops = (0..AT_ONCE).map(async |_| {
        let mut sample = Sample::default();
        for _ in 0..count / AT_ONCE {
            let mut job = job.clone();
            job.metadata.name = Some(format!("bare-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
            let begun = Instant::now();
            if let Some(rows) = rows {
                rows.insert().await?;
            }
            jobs.create(&PostParams::default(), &job).await?;
            sample.add(begun);
        }
        Outcome::Ok(sample)
    });
    Ok(summed(&try_join_all(loops).await?, count, begun))
}

fn summed(samples: &[Sample], count: usize, begun: Instant) -> (f64, Sample) {
    let seconds = begun.elapsed().as_secs_f64();
    let mut all = Sample::default();
    samples.iter().for_each(|one| all.extend(one));
    #[allow(clippy::cast_precision_loss, reason = "a count of requests")]
    (ratio(count as f64, seconds), all)
}
