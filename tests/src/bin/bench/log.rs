//! A large log through scanner and archive, against `cp` of the same file; and how much memory that takes.

use std::fs::File;
use std::io::{BufWriter, Read as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use vespiary::archive::Archive as _;
use vespiary::archive::directory::DirectoryArchive;
use vespiary::core::LogEvent;
use vespiary::jobs::capture::{CaptureRules, CapturedValue, capture};
use vespiary::runner::RunnerError;

use crate::sample::{median, ratio};
use crate::table::{Row, Table};
use crate::{Options, Outcome, child, place, proc_fs};

/// Bytes of a piece, as the local runner reads them.
const PIECE: usize = 256 * 1024;
const SHARE: f64 = 0.5;
const GROWTH_MIB: f64 = 16.0;
const VALUE: &[u8] = b"{\"found\": true}\n";

/// The end of a log: a result, which is [`VALUE`].
pub(crate) const END: &[u8] = b"\
PYGEOAPI_K8S_MANAGER_RESULT_MIMETYPE: application/json
PYGEOAPI_K8S_MANAGER_RESULT_START
{\"found\": true}
";

pub(crate) fn measure(options: &Options, _: &Runtime, table: &mut Table) -> Outcome<()> {
    let folder = place::passing()?;
    let (file, copy, archive) = (folder.path().join("log"), folder.path().join("copy"), folder.path().join("archive"));
    let bytes = write(&file, options.log_mib << 20)?;
    let rounds = options.pick(5, 1);
    let (mut ours, mut theirs, mut durable, mut growth) = (Vec::new(), Vec::new(), Vec::new(), 0.0_f64);
    let mut shares = Vec::new();
    for round in 0..=rounds {
        let done = captured(&file, &archive)?;
        let number = |name: &str| done.get(name).and_then(Value::as_f64).ok_or("the child says too little");
        let (seconds, grown) = (number("seconds")?, number("grown_mib")?);
        std::fs::remove_dir_all(&archive)?;
        settle()?;
        let begun = Instant::now();
        let success = Command::new("cp").arg(&file).arg(&copy).status()?.success();
        let copied = begun.elapsed().as_secs_f64();
        File::open(&copy)?.sync_all()?;
        let synced = begun.elapsed().as_secs_f64();
        if !success {
            return Err("cp failed".into());
        }
        std::fs::remove_file(&copy)?;
        settle()?;
        if round > 0 || rounds == 1 {
            ours.push(seconds);
            theirs.push(copied);
            durable.push(synced);
            shares.push(ratio(copied, seconds));
            growth = growth.max(grown);
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "a size that is shown")]
    let gib = bytes as f64 / f64::from(1 << 30);
    let speed = |seconds: &[f64]| format!("{:.2} GiB/s ({:.1} s)", ratio(gib, median(seconds)), median(seconds));
    let runs = format!("{rounds} runs, after 1, file in the page cache");
    table.add(Row {
        figure: format!("log of {gib:.1} GiB to the archive, against cp"),
        measured: speed(&ours),
        bare: speed(&theirs),
        ratio: format!("{:.2}", median(&shares)),
        reach: ">= 0.5",
        reached: Some(median(&shares) >= SHARE),
        runs: runs.clone(),
    });
    table.add(Row {
        figure: "  the same, against cp and fsync".to_owned(),
        measured: speed(&ours),
        bare: speed(&durable),
        ratio: format!("{:.2}", ratio(median(&durable), median(&ours))),
        runs: runs.clone(),
        ..Row::default()
    });
    table.add(Row {
        figure: "  growth of resident memory".to_owned(),
        measured: format!("{growth:.1} MiB"),
        reach: "< 16 MiB",
        reached: Some(growth < GROWTH_MIB),
        runs: format!("the most of {rounds} runs, a process each"),
        ..Row::default()
    });
    Ok(())
}

/// Writes what the one before left to the disk, so that the next one does not pay for it.
fn settle() -> Outcome<()> {
    if Command::new("sync").status()?.success() { Ok(()) } else { Err("sync failed".into()) }
}

/// 4 MiB of lines of all lengths, of which a log is made.
pub(crate) fn block() -> Outcome<Vec<u8>> {
    let mut block = Vec::with_capacity(4 << 20);
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    while block.len() < 4 << 20 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let length = usize::try_from(state >> 57).unwrap_or(0);
        write!(block, "2026-01-01T00:00:00Z INFO step {:x} ", state >> 20)?;
        block.resize(block.len() + length, b'a' + u8::try_from((state >> 40) % 26)?);
        block.push(b'\n');
    }
    block.truncate((4 << 20) - 1);
    block.push(b'\n');
    Ok(block)
}

/// A log of so many bytes, and a result near its end.
fn write(path: &Path, bytes: u64) -> Outcome<u64> {
    let block = block()?;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut written = 0;
    while written < bytes {
        file.write_all(&block)?;
        written += block.len() as u64;
    }
    file.write_all(END)?;
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
    Ok(written + END.len() as u64)
}

/// Captures in a process of its own, whose memory is its own too.
fn captured(file: &Path, archive: &Path) -> Outcome<Value> {
    let output =
        Command::new(std::env::current_exe()?).args([child::WORD, "capture"]).args([file, archive]).output()?;
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout)?);
    }
    Err(format!("the capture failed: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// That process.
pub(crate) fn child(file: &Path, archive: &Path) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let archive = DirectoryArchive::open(archive).await?;
        let rules = CaptureRules {
            containers: 1,
            result_container: None,
            nonce: None,
            max_value_bytes: 1 << 30,
            max_log_bytes: None,
            stall: Duration::from_secs(600),
        };
        let spool = tempfile::tempdir()?;
        let pid = std::process::id();
        let (before, _) = proc_fs::resident_kib(pid)?;
        let begun = Instant::now();
        let writer = archive.create("jobs/one/log", "text/plain").await?;
        let opened: Arc<str> = "main".into();
        let start = futures::stream::iter([Ok(LogEvent::Container { name: opened })]);
        let done = capture(start.chain(pieces(File::open(file)?)).boxed(), writer, &rules, spool.path()).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let (_, most) = proc_fs::resident_kib(pid)?;
        let CapturedValue::Whole(value) = &done.value else { return Err("the result was not found".into()) };
        let whole = done.missing.is_none() && done.bytes >= std::fs::metadata(file)?.len();
        if !whole || value.size != VALUE.len() as u64 {
            return Err(format!("captured {} bytes, a value of {}", done.bytes, value.size).into());
        }
        #[allow(clippy::cast_precision_loss, reason = "a size that is shown")]
        let grown = most.saturating_sub(before) as f64 / 1024.0;
        let mut out = std::io::stdout();
        Ok(out.write_all(json!({ "seconds": seconds, "grown_mib": grown }).to_string().as_bytes())?)
    })
}

/// A file in pieces, each read off the async threads.
fn pieces(file: File) -> impl futures::Stream<Item = Result<LogEvent, RunnerError>> + Send {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| RunnerError::Unavailable {
        message: "to read the log".to_owned(),
        source: error,
    };
    futures::stream::try_unfold(file, move |mut file| async move {
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = Vec::with_capacity(PIECE);
            std::io::Read::take(&mut file, PIECE as u64).read_to_end(&mut piece)?;
            std::io::Result::Ok((file, Bytes::from(piece)))
        });
        let (file, bytes) = read.await.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))?;
        Ok((!bytes.is_empty()).then_some((LogEvent::Bytes(bytes), file)))
    })
}
