//! Whole captures: what is stored, what is found, what is left behind by failures, and how much is in memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;

const M: &str = "PYGEOAPI_K8S_MANAGER_RESULT_MIMETYPE";
const S: &str = "PYGEOAPI_K8S_MANAGER_RESULT_START";
const E: &str = "PYGEOAPI_K8S_MANAGER_RESULT_END";

type Event = Result<LogEvent, RunnerError>;

/// An archive of one object, in memory.
#[derive(Clone, Default)]
struct Shelf {
    object: Arc<Mutex<Option<Vec<u8>>>>,
    open: Arc<AtomicUsize>,
}

/// What an archive does wrong.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    Write,
    Finish,
    Hang,
    Discard,
}

struct ShelfWriter {
    shelf: Shelf,
    bytes: Vec<u8>,
    fault: Fault,
}

impl Shelf {
    fn writer(&self, fault: Fault) -> Box<dyn ArchiveWriter> {
        self.open.fetch_add(1, Ordering::SeqCst);
        Box::new(ShelfWriter { shelf: self.clone(), bytes: Vec::new(), fault })
    }

    fn object(&self) -> Option<Vec<u8>> {
        self.object.lock().unwrap().clone()
    }
}

impl Drop for ShelfWriter {
    fn drop(&mut self) {
        self.shelf.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn full() -> ArchiveError {
    ArchiveError::Unavailable(Box::new(std::io::Error::from(std::io::ErrorKind::StorageFull)))
}

#[async_trait]
impl ArchiveWriter for ShelfWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ArchiveError> {
        match self.fault {
            Fault::Write => return Err(full()),
            Fault::Hang => std::future::pending().await,
            Fault::Discard => tokio::task::yield_now().await,
            Fault::None | Fault::Finish => self.bytes.extend_from_slice(&bytes),
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), ArchiveError> {
        if self.fault == Fault::Finish {
            return Err(full());
        }
        *self.shelf.object.lock().unwrap() = Some(std::mem::take(&mut self.bytes));
        Ok(())
    }
}

fn rules(containers: usize) -> CaptureRules {
    CaptureRules {
        containers,
        result_container: Some("main".to_owned()),
        nonce: None,
        max_value_bytes: u64::MAX,
        max_log_bytes: None,
        stall: Duration::from_secs(60),
    }
}

fn container(name: &str) -> Event {
    Ok(LogEvent::Container { name: name.into() })
}

fn text(text: impl Into<String>) -> Event {
    Ok(LogEvent::Bytes(Bytes::from(text.into())))
}

fn missing(reason: &str) -> Event {
    Ok(LogEvent::Missing { reason: reason.to_owned() })
}

async fn run(events: Vec<Event>, rules: &CaptureRules) -> (Captured, String) {
    let folder = tempfile::tempdir().unwrap();
    let shelf = Shelf::default();
    let events = stream::iter(events).boxed();
    let captured = capture(events, shelf.writer(Fault::None), rules, folder.path()).await.unwrap();
    let stored = shelf.object().unwrap();
    assert_eq!(
        (captured.bytes, captured.sha256.as_str()),
        (stored.len() as u64, hex::encode(Sha256::digest(&stored)).as_str())
    );
    (captured, String::from_utf8(stored).unwrap())
}

async fn value(captured: &Captured) -> String {
    let CapturedValue::Whole(value) = &captured.value else { panic!("no whole value: {:?}", captured.value) };
    let bytes = value.bytes(u64::MAX).await.unwrap().unwrap();
    assert_eq!((value.size, value.sha256.as_str()), (bytes.len() as u64, hex::encode(Sha256::digest(&bytes)).as_str()));
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn one_container_is_stored_as_it_is_and_its_result_found() {
    let log = format!("hello\n{M}: text/csv\n{S}\na,b\r\n1,2\n{E}\nbye");
    let pieces = log.as_bytes().chunks(7).map(|piece| Ok(LogEvent::Bytes(Bytes::copy_from_slice(piece))));
    let (captured, stored) = run([container("main")].into_iter().chain(pieces).collect(), &rules(1)).await;
    assert_eq!(stored, log);
    assert_eq!(captured.lines, 7);
    assert_eq!(captured.media_type.as_deref(), Some("text/csv"));
    assert_eq!(value(&captured).await, "a,b\r\n1,2\n");
    assert_eq!((captured.missing, captured.warnings), (None, vec![]));
}

#[tokio::test]
async fn an_empty_log_is_captured() {
    let (captured, stored) = run(vec![container("main")], &rules(1)).await;
    assert_eq!((stored.as_str(), captured.bytes, captured.lines), ("", 0, 0));
    assert!(matches!(captured.value, CapturedValue::Absent));
}

#[tokio::test]
async fn only_the_result_container_has_a_result() {
    let events = vec![
        container("init"),
        text(format!("{M}: text/html\n{S}\nforged\n")),
        container("main"),
        text(format!("{M}: text/csv\n{S}\nreal")),
        container("side"),
        text(format!("{E}\nmore\n")),
    ];
    let (captured, stored) = run(events, &rules(3)).await;
    let expected = format!(
        "==> container init <==\n{M}: text/html\n{S}\nforged\n==> container main <==\n{M}: text/csv\n{S}\nreal\n==> container side <==\n{E}\nmore\n"
    );
    assert_eq!(stored, expected);
    assert_eq!(captured.media_type.as_deref(), Some("text/csv"));
    assert_eq!(value(&captured).await, "real");
}

#[tokio::test]
async fn the_last_try_of_a_retried_run_counts() {
    let events = vec![
        container("main"),
        text(format!("{M}: text/html\n{S}\nhalf a val")),
        container("main"),
        text(format!("{M}: text/csv\n{S}\nwhole\n")),
    ];
    let (captured, _) = run(events, &rules(1)).await;
    assert_eq!((captured.media_type.as_deref(), value(&captured).await.as_str()), (Some("text/csv"), "whole\n"));
}

#[tokio::test]
async fn a_gap_before_the_value_is_told_and_one_in_it_breaks_it() {
    let before = vec![container("main"), missing("rotated away"), text(format!("tail\n{S}\nx\n"))];
    let (captured, stored) = run(before, &rules(1)).await;
    assert_eq!(stored, format!("==> missing: rotated away <==\ntail\n{S}\nx\n"));
    assert_eq!((captured.missing.as_deref(), value(&captured).await.as_str()), (Some("rotated away"), "x\n"));

    let inside = vec![container("main"), text(format!("{S}\nx")), missing("node lost"), text(format!("y\n{E}\n"))];
    let (captured, stored) = run(inside, &rules(1)).await;
    assert_eq!(stored, format!("{S}\nx\n==> missing: node lost <==\ny\n{E}\n"));
    assert_eq!(captured.missing.as_deref(), Some("node lost"));
    assert!(matches!(captured.value, CapturedValue::Incomplete { reason } if reason == "node lost"));

    // Where no marker is left, one may have been in what is missing; what an earlier attempt lost does not matter.
    let nothing = || vec![container("main"), missing("rotated away"), text("tail\n")];
    let (captured, _) = run(nothing(), &rules(1)).await;
    assert!(matches!(captured.value, CapturedValue::Unseen { reason } if reason == "rotated away"));
    let again = nothing().into_iter().chain([container("main"), text("whole\n")]).collect();
    let (captured, _) = run(again, &rules(1)).await;
    assert!(matches!(captured.value, CapturedValue::Absent));
}

#[tokio::test]
async fn a_value_over_its_limit_is_told_and_the_log_kept() {
    let events = vec![text(format!("{S}\n0123456789a"))];
    let (captured, stored) = run(events, &CaptureRules { max_value_bytes: 10, ..rules(1) }).await;
    assert!(matches!(captured.value, CapturedValue::TooLarge { limit: 10 }));
    assert_eq!(stored.len(), S.len() + 12);
}

#[tokio::test]
async fn a_log_over_its_limit_is_cut_and_its_result_still_found() {
    let log = format!("0123456789\n{S}\nvalue\n");
    let limited = |max| CaptureRules { max_log_bytes: Some(max), ..rules(1) };
    let pieces = || log.as_bytes().chunks(4).map(|piece| Ok(LogEvent::Bytes(Bytes::copy_from_slice(piece)))).collect();
    let (captured, stored) = run(pieces(), &limited(7)).await;
    assert_eq!(stored, "0123456\n==> missing: the log is longer than 7 bytes, the most that is kept <==\n");
    assert_eq!(captured.missing.as_deref(), Some("the log is longer than 7 bytes, the most that is kept"));
    assert_eq!(value(&captured).await, "value\n");
    let (captured, stored) = run(pieces(), &limited(log.len() as u64)).await;
    assert_eq!((stored, captured.missing), (log.clone(), None), "a log of exactly the limit is whole");
    let (captured, _) = run(pieces(), &limited(8)).await;
    assert!(captured.missing.is_some());
}

/// Runs a capture that must fail; answers why.
async fn failure(events: Vec<Event>, fault: Fault, spool: Option<&Path>, stall: Duration) -> CaptureError {
    let folder = tempfile::tempdir().unwrap();
    let shelf = Shelf::default();
    let rules = CaptureRules { stall, ..rules(1) };
    let events = stream::iter(events).chain(stream::pending().take(usize::from(fault == Fault::Discard))).boxed();
    let error = capture(events, shelf.writer(fault), &rules, spool.unwrap_or(folder.path())).await.unwrap_err();
    assert_eq!((shelf.object(), shelf.open.load(Ordering::SeqCst)), (None, 0), "nothing is readable or open");
    error
}

#[tokio::test]
async fn a_failure_says_which_side_it_was_and_leaves_nothing() {
    let long = Duration::from_secs(60);
    let big = || text("x".repeat(1 << 20));
    let lost = || Err(RunnerError::Refused("gone".to_owned()));
    let error = failure(vec![text("a"), lost()], Fault::None, None, long).await;
    assert!(matches!(error, CaptureError::Log(_)), "{error}");
    let error = failure(vec![big(), big(), big(), lost()], Fault::None, None, long).await;
    assert!(matches!(error, CaptureError::Log(_)), "{error}");
    let error = failure(vec![big(), big()], Fault::Write, None, long).await;
    assert!(matches!(error, CaptureError::Archive(ArchiveError::Unavailable(_))), "{error}");
    let error = failure(vec![text("a")], Fault::Finish, None, long).await;
    assert!(matches!(error, CaptureError::Archive(ArchiveError::Unavailable(_))), "{error}");
    let value = vec![text(format!("{S}\n")), big(), big()];
    let error = failure(value, Fault::None, Some(Path::new("/nonexistent/folder")), long).await;
    assert!(matches!(error, CaptureError::Spool(SpoolError::Create { .. })), "{error}");
    let value = vec![text(format!("{S}\n{}", "x".repeat(256 * 1024 - 5))), text("xxxxxxxxxx")];
    let error = failure(value, Fault::None, Some(Path::new("/nonexistent/folder")), long).await;
    assert!(matches!(error, CaptureError::Spool(SpoolError::Create { .. })), "{error}");
}

#[tokio::test]
async fn a_log_or_an_archive_that_hangs_is_given_up() {
    let short = Duration::from_millis(20);
    let error = failure(vec![text("a")], Fault::Discard, None, short).await;
    assert!(matches!(error, CaptureError::LogStalled { ms: 20 }), "{error}");
    let error = failure(vec![text("a")], Fault::Hang, None, short).await;
    assert!(matches!(error, CaptureError::Archive(ArchiveError::Timeout(_))), "{error}");
}

#[test]
fn a_disk_that_hangs_is_given_up() {
    // The only thread for blocking work does none until the sender is dropped.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().max_blocking_threads(1).build().unwrap();
    let (release, receiver) = std::sync::mpsc::channel::<()>();
    runtime.spawn_blocking(move || receiver.recv());
    let large = vec![text(format!("{S}\n{}", "x".repeat(1 << 20)))];
    let error = runtime.block_on(failure(large, Fault::None, None, Duration::from_millis(20)));
    assert!(matches!(error, CaptureError::Spool(SpoolError::Stalled { ms: 20 })), "{error}");
    drop(release);
}

/// Bytes whose life is counted.
struct Tracked {
    bytes: Vec<u8>,
    live: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Tracked {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.live.fetch_sub(self.bytes.len(), Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_long_log_with_a_long_value_stays_out_of_memory() {
    const PIECES: usize = 96;
    let live = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (counted, peak) = (Arc::clone(&live), Arc::clone(&most));
    let pieces = stream::iter(0..PIECES).map(move |at| {
        let start = if at == 8 { format!("{S}\n") } else { String::new() };
        let mut bytes = format!("{start}line of piece {at}\n").into_bytes();
        bytes.resize(1 << 20, b'y');
        let now = counted.fetch_add(bytes.len(), Ordering::SeqCst) + bytes.len();
        peak.fetch_max(now, Ordering::SeqCst);
        Ok(LogEvent::Bytes(Bytes::from_owner(Tracked { bytes, live: Arc::clone(&counted) })))
    });
    let folder = tempfile::tempdir().unwrap();
    let shelf = Shelf::default();
    let captured = capture(pieces.boxed(), shelf.writer(Fault::Discard), &rules(1), folder.path()).await.unwrap();
    assert_eq!(captured.bytes, (PIECES << 20) as u64);
    let CapturedValue::Whole(value) = &captured.value else { panic!("no value") };
    assert_eq!(value.size, ((PIECES - 8) << 20) as u64 - S.len() as u64 - 1);
    let most = most.load(Ordering::SeqCst);
    assert!(most <= 3 << 20, "at most {most} bytes of the log were in memory at once");
    assert_eq!(live.load(Ordering::SeqCst), 0, "nothing of the log is kept");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_repeated_capture_gives_the_same_whatever_the_pieces(
        sections in prop::collection::vec(("main|init|side", prop::collection::vec(any::<u8>(), 0..300)), 0..6),
        cut in 1..100_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let events = |cut: usize| -> Vec<Event> {
            sections.iter().flat_map(|(name, bytes)| {
                let bytes = [format!("{S}\n").as_bytes(), bytes].concat();
                let pieces: Vec<_> = bytes.chunks(cut).map(|piece| Ok(LogEvent::Bytes(Bytes::copy_from_slice(piece)))).collect();
                [container(name)].into_iter().chain(pieces)
            }).collect()
        };
        let one = |cut| runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let shelf = Shelf::default();
            let captured = capture(stream::iter(events(cut)).boxed(), shelf.writer(Fault::None), &rules(2), folder.path()).await.unwrap();
            let value = match captured.value {
                CapturedValue::Whole(value) => value.bytes(u64::MAX).await.unwrap(),
                _ => None,
            };
            (shelf.object().unwrap(), captured.sha256, captured.lines, value)
        });
        let (whole, pieces) = (one(usize::MAX), one(cut));
        let last = sections.iter().rfind(|(name, _)| name == "main").map(|(_, bytes)| Bytes::from(bytes.clone()));
        prop_assert_eq!(&whole.3, &last);
        prop_assert_eq!(whole, pieces);
    }
}
