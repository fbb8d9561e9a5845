//! A large log from a stream through scanner and archive into S3, against the SDK's bare multipart upload of the same bytes.

use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use vespiary::archive::Archive as _;
use vespiary::archive::s3::{S3Archive, Settings};
use vespiary::core::LogEvent;
use vespiary::jobs::capture::{CaptureRules, CapturedValue, capture};
use vespiary_tests::{Cluster, cluster};

use crate::sample::{median, ratio};
use crate::table::{Row, Table};
use crate::{Options, Outcome, child, log, proc_fs};

/// Bytes of a piece of the stream.
const PIECE: usize = 512 * 1024;
const KEY: &str = "logs/one";
const SHARE: f64 = 0.8;
/// Memory that a log four times as long may take more.
const MORE_MIB: f64 = 8.0;

pub(crate) fn measure(options: &Options, _: &Runtime, table: &mut Table) -> Outcome<()> {
    let (mib, rounds) = (options.pick(1024, 32), options.pick(4, 1));
    let backends = Cluster::if_any().ok_or("TEST_POSTGRES_URL or a TEST_S3 variable is missing")?;
    let (mut ours, mut theirs, mut shares, mut growth) = (Vec::new(), Vec::new(), Vec::new(), 0.0_f64);
    let (_, short) = run(&backends, "s3-capture", mib / 4)?;
    for round in 0..=rounds {
        let (captured, grown) = run(&backends, "s3-capture", mib)?;
        let (sent, _) = run(&backends, "s3-bare", mib)?;
        if round > 0 || rounds == 1 {
            ours.push(captured);
            theirs.push(sent);
            shares.push(ratio(sent, captured));
            growth = growth.max(grown);
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "a size that is shown")]
    let speed = |seconds: &[f64]| format!("{:.0} MiB/s ({:.1} s)", ratio(mib as f64, median(seconds)), median(seconds));
    let runs = format!("{rounds} runs in turns, after 1, a process each");
    table.add(Row {
        figure: format!("log of {mib} MiB from a stream into S3"),
        measured: speed(&ours),
        bare: format!("multipart upload: {}", speed(&theirs)),
        ratio: format!("{:.2}", median(&shares)),
        reach: ">= 0.8",
        reached: Some(median(&shares) >= SHARE),
        runs: runs.clone(),
    });
    table.add(Row {
        figure: "  growth of resident memory".to_owned(),
        measured: format!("{growth:.0} MiB; {short:.0} MiB for a quarter of it"),
        reach: "constant",
        reached: Some(growth - short <= MORE_MIB),
        runs,
        ..Row::default()
    });
    Ok(())
}

/// Does it in a process of its own, whose memory is its own too: seconds, and MiB that it grew by.
fn run(backends: &Cluster, word: &str, mib: usize) -> Outcome<(f64, f64)> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.args([child::WORD, word, &mib.to_string()]).envs(backends.env()).output()?;
    if !output.status.success() {
        return Err(format!("{word} failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let done: Value = serde_json::from_slice(&output.stdout)?;
    let number = |name: &str| done.get(name).and_then(Value::as_f64).ok_or("the child says too little");
    Ok((number("seconds")?, number("grown_mib")?))
}

/// That process.
pub(crate) fn child(bare: bool, mib: &str) -> Outcome<()> {
    let mib: usize = mib.parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let settings = settings()?;
        let archive = S3Archive::open(&settings).await?;
        // Connected and warm, as a server is.
        archive.ready().await?;
        let block = Bytes::from(log::block()?);
        let pid = std::process::id();
        let (before, _) = proc_fs::resident_kib(pid)?;
        let begun = Instant::now();
        if bare {
            send(&settings, &block, mib).await?;
        } else {
            captured(&archive, &block, mib).await?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        let (_, most) = proc_fs::resident_kib(pid)?;
        archive.remove(KEY).await?;
        #[allow(clippy::cast_precision_loss, reason = "a size that is shown")]
        let grown = most.saturating_sub(before) as f64 / 1024.0;
        let mut out = std::io::stdout();
        Ok(out.write_all(json!({ "seconds": seconds, "grown_mib": grown }).to_string().as_bytes())?)
    })
}

/// The archive as a server has it that the backends' variables configure.
fn settings() -> Outcome<Settings> {
    let variable = |name: &str| std::env::var(format!("VESPIARY_S3_{name}"));
    Ok(Settings {
        endpoint: Some(variable("ENDPOINT")?),
        region: Some(variable("REGION")?),
        access_key: Some(variable("ACCESS_KEY")?),
        secret_key: Some(variable("SECRET_KEY")?),
        bucket: variable("BUCKET")?,
        prefix: variable("PREFIX")?,
        ..Settings::default()
    })
}

/// What the server does with a log.
async fn captured(archive: &S3Archive, block: &Bytes, mib: usize) -> Outcome<()> {
    let rules = CaptureRules {
        containers: 1,
        result_container: None,
        nonce: None,
        max_value_bytes: 1 << 30,
        max_log_bytes: None,
        stall: Duration::from_secs(600),
    };
    let spool = tempfile::tempdir()?;
    let opened: Arc<str> = "main".into();
    let block = block.clone();
    let pieces = (0..(mib << 20) / PIECE).map(move |number| {
        let begin = number * PIECE % block.len();
        block.slice(begin..begin + PIECE)
    });
    let events = std::iter::once(LogEvent::Container { name: opened })
        .chain(pieces.chain([Bytes::from_static(log::END)]).map(LogEvent::Bytes))
        .map(Ok);
    let writer = archive.create(KEY, "text/plain").await?;
    let done = capture(futures::stream::iter(events).boxed(), writer, &rules, spool.path()).await?;
    let CapturedValue::Whole(value) = &done.value else { return Err("the result was not found".into()) };
    let bytes = (mib << 20) + log::END.len();
    if done.missing.is_some() || done.bytes < bytes as u64 || value.size == 0 {
        return Err(format!("captured {} of {bytes} bytes, a value of {}", done.bytes, value.size).into());
    }
    Ok(())
}

/// The same bytes with the SDK alone: parts of the same size, as many at once, none of them copied.
async fn send(settings: &Settings, block: &Bytes, mib: usize) -> Outcome<()> {
    let client = cluster::s3_client();
    let key = format!("{}{KEY}", settings.prefix);
    let size = usize::try_from(settings.part_mib)? << 20;
    let whole: Bytes = block.iter().copied().cycle().take(size).collect();
    let begun = client.create_multipart_upload().bucket(&settings.bucket).key(&key).send().await?;
    let upload = begun.upload_id().ok_or("the upload has no id")?;
    let full = (mib << 20) / size;
    let parts = std::iter::repeat_n(whole, full).chain([Bytes::from_static(log::END)]).zip(1..);
    let sent: Vec<CompletedPart> = futures::stream::iter(parts)
        .map(async |(bytes, number)| {
            let call = client.upload_part().bucket(&settings.bucket).key(&key).upload_id(upload);
            let sent = call.part_number(number).body(ByteStream::from(bytes)).send().await?;
            let tag = sent.e_tag().map(str::to_owned);
            Outcome::Ok(CompletedPart::builder().part_number(number).set_e_tag(tag).build())
        })
        .buffered(usize::try_from(settings.parts_in_flight)?)
        .try_collect()
        .await?;
    let parts = CompletedMultipartUpload::builder().set_parts(Some(sent)).build();
    let done = client.complete_multipart_upload().bucket(&settings.bucket).key(&key).upload_id(upload);
    done.multipart_upload(parts).send().await?;
    Ok(())
}
