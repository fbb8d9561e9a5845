//! Tests of what becomes of a result: taken apart, checked, kept, and within which memory.

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::core::job::StoredRequest;
use crate::core::json::tree_size;
use crate::core::request::{OutputSelection, ResponseMode};
use crate::core::{Digest, Job, JobId, JobPlan, JobStatus, Timestamp};

/// A job whose process declares these outputs and whose request asks for these.
fn job(declared: Value, asked: Value) -> JobDetail {
    let at = Timestamp::from_millis(0);
    JobDetail {
        job: Job {
            id: JobId::new(),
            process_id: "p".parse().unwrap(),
            status: JobStatus::Running,
            message: None,
            progress: None,
            caller: "anonymous".into(),
            created: at,
            started: Some(at),
            finished: None,
            updated: at,
            removed: None,
            guarded: false,
        },
        process_version: "1".into(),
        processor_digest: Digest::of(b"p"),
        request: StoredRequest {
            inputs: json!({}),
            outputs: serde_json::from_value::<OutputSelection>(asked).unwrap(),
            response: ResponseMode::Raw,
            declared,
            guarded: false,
        },
        plan: JobPlan::default(),
        nonce: None,
        relaunchable: true,
        reason: None,
        exit_code: None,
        receipt: None,
    }
}

fn several() -> Value {
    json!({
        "text": {"schema": {"type": "string"}},
        "csv": {"schema": {"type": "string", "contentMediaType": "text/csv"}},
        "numbers": {"schema": {"type": "array", "items": {"type": "integer"}}},
        "image": {"schema": {"type": "string", "contentEncoding": "binary", "contentMediaType": "image/png"}},
        "any": {"schema": {}},
    })
}

fn captured(media_type: Option<&str>, value: Bytes) -> Captured {
    Captured {
        bytes: 0,
        lines: 0,
        sha256: String::new(),
        missing: None,
        media_type: media_type.map(str::to_owned),
        value: CapturedValue::Whole(SpooledValue::from_bytes(value)),
        warnings: Vec::new(),
    }
}

fn checking(limit: u64, memory: usize) -> Checking {
    let room = Room { memory, folder: std::env::temp_dir(), stall: Duration::from_secs(60) };
    Checking { turns: Arc::new(Semaphore::new(1)), limit, room }
}

/// The outputs of this value, and how it was told where it is wrong.
async fn found(detail: &JobDetail, value: &str) -> Result<Vec<(String, String, Vec<u8>)>, String> {
    let value = captured(None, Bytes::copy_from_slice(value.as_bytes()));
    let mut found = Vec::new();
    for output in assemble(detail, value, &checking(u64::MAX, 1 << 28)).await.unwrap()? {
        let bytes = output.value.bytes(u64::MAX).await.unwrap().unwrap();
        found.push((output.id, output.media_type, bytes.to_vec()));
    }
    Ok(found)
}

#[tokio::test]
async fn several_outputs_are_taken_apart_as_they_are() {
    let value = r#"{"numbers": [1,  2], "csv": {"value": "a,b\n1,2\n", "mediaType": "text/csv"}, "text": "x\u00e4",
        "image": {"value": "iVBO/w==", "encoding": "base64", "mediaType": "image/png"}, "any": {"value": 1, "unit": "m"}}"#;
    let out = |id: &str, kind: &str, bytes: &[u8]| (id.to_owned(), kind.to_owned(), bytes.to_vec());
    assert_eq!(
        found(&job(several(), Value::Null), value).await.unwrap(),
        [
            out("text", "text/plain", "x\u{e4}".as_bytes()),
            out("csv", "text/csv", b"a,b\n1,2\n"),
            out("numbers", "application/json", b"[1,  2]"),
            out("image", "image/png", &[0x89, b'P', b'N', 0xff]),
            out("any", "application/json", br#"{"value": 1, "unit": "m"}"#),
        ]
    );
    let bare = r#"{"any": {"value": "AP8=", "encoding": "Base64"}, "text": {"value": "AP8=", "encoding": null}}"#;
    assert_eq!(
        found(&job(several(), Value::Null), bare).await.unwrap(),
        [out("text", "text/plain", b"AP8="), out("any", "application/octet-stream", &[0, 0xff])]
    );
}

#[tokio::test]
async fn what_cannot_be_taken_apart_is_told() {
    for (value, word) in [
        ("[]", "JSON object"),
        ("{", "JSON object"),
        ("", "JSON object"),
        (r#"{} {}"#, "JSON object"),
        (r#"{"a/b": 1, "text": "x"}"#, "'a/b' that the process does not declare, at /a~1b"),
        (r#"{"text": {"value": "x", "mediaType": "x\ny"}}"#, "media type at /text/mediaType"),
        (r#"{"any": {"value": "x", "mediaType": "téxt/plain"}}"#, "media type at /any/mediaType"),
        (r#"{"any": {"value": "x", "mediaType": 5}}"#, "media type at /any/mediaType"),
        (r#"{"image": {"value": "iVBO*", "encoding": "base64"}}"#, "at /image/value"),
        (r#"{"any": {"value": [1], "encoding": "base64"}}"#, "at /any/value"),
        (r#"{"any": {"value": "x", "encoding": "rot13"}}"#, "'utf-8' at /any/encoding"),
        (r#"{"numbers": [1, "x"]}"#, "at /outputs/numbers/1"),
        (r#"{"csv": {"value": "x", "mediaType": "text/html"}}"#, "at /outputs/csv"),
    ] {
        let wrong = found(&job(several(), Value::Null), value).await.unwrap_err();
        assert!(wrong.contains(word), "{value}: {wrong}");
    }
}

#[tokio::test]
async fn another_media_type_than_was_asked_for_is_told() {
    let either = json!({"oneOf": [{"type": "string", "contentMediaType": "text/csv"},
                                  {"type": "object", "contentMediaType": "application/json"}]});
    let detail = job(json!({"table": {"schema": either}}), json!({"table": {"mediaType": "application/json"}}));
    let with = async |marked: &str, value: &'static str| {
        let value = captured(Some(marked), Bytes::from_static(value.as_bytes()));
        assemble(&detail, value, &checking(u64::MAX, 1 << 28)).await.unwrap().map(|outputs| outputs.len())
    };
    assert_eq!(with("application/json; x=1", "{}").await, Ok(1));
    let wrong = with("text/csv", "a,b\n").await.unwrap_err();
    assert!(wrong.contains("is 'text/csv', and 'application/json' was asked for, at /outputs/table"), "{wrong}");
}

#[tokio::test]
async fn content_is_checked_up_to_the_limits() {
    let detail = job(json!({"numbers": several()["numbers"].clone()}), Value::Null);
    let with = async |media_type: &str, value: &str, limit: u64, memory: usize| {
        let value = captured(Some(media_type), Bytes::copy_from_slice(value.as_bytes()));
        assemble(&detail, value, &checking(limit, memory)).await.unwrap().err()
    };
    let wrong = "[1, \"x\"]";
    assert!(with("application/json", wrong, 8, 1 << 20).await.unwrap().contains("/outputs/numbers/1"));
    assert_eq!(with("application/json", wrong, 7, 1 << 20).await, None, "too large to be looked at");
    assert_eq!(with("application/json", wrong, 8, 100).await, None, "its tree is too large");
    assert!(with("application/json", "[1, ", 8, 100).await.unwrap().contains("not JSON"));
    // The media type is checked all the same.
    let detail = job(json!({"csv": several()["csv"].clone()}), Value::Null);
    for (limit, memory) in [(2, 1 << 20), (8, 1)] {
        let value = captured(Some("text/html"), Bytes::from_static(b"a,b\n"));
        let wrong = assemble(&detail, value, &checking(limit, memory)).await.unwrap().err().unwrap();
        assert!(wrong.contains("'text/html'") && wrong.contains("/outputs/csv"), "{wrong}");
    }
}

#[test]
fn a_large_value_is_worked_on_off_the_async_threads() {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().max_blocking_threads(1).build().unwrap();
    let (release, hold) = std::sync::mpsc::channel::<()>();
    // The only thread for blocking work has none to spare.
    runtime.spawn_blocking(move || hold.recv());
    let value = format!("{{\"unknown\": \"{}\"}}", "x".repeat(SMALL_BYTES as usize));
    runtime.block_on(async {
        let (detail, checking) = (job(several(), Value::Null), checking(u64::MAX, 1 << 28));
        let mut work = Box::pin(assemble(&detail, captured(None, value.into()), &checking));
        assert!(futures::poll!(&mut work).is_pending());
        drop(release);
        assert!(work.await.unwrap().err().unwrap().contains("'unknown'"));
    });
}

/// A figure of this process's memory, in bytes.
fn figure(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn checking_stays_within_its_memory() {
    const ALONE: &str = "VESPIARY_TEST_OUTPUTS_ALONE";
    const MEMORY: usize = 16 << 20;
    if std::env::var_os(ALONE).is_none() {
        // In a process of its own, since the memory of other tests would count.
        let name = "jobs::outputs::tests::checking_stays_within_its_memory";
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        // What is freed goes back to the system: what an allocator keeps for later is not what a check needs.
        let plain =
            [("MALLOC_ARENA_MAX", "1"), ("MALLOC_TRIM_THRESHOLD_", "65536"), ("MALLOC_MMAP_THRESHOLD_", "65536")];
        let ended = again.args(["--exact", name, "--nocapture"]).env(ALONE, "1").envs(plain).status().unwrap();
        assert!(ended.success());
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let list = |unit: &str, count: usize| format!("[{}{unit}]", format!("{unit},").repeat(count - 1));
    // As many as just fit.
    let fitting = |unit: &str| {
        let counts = (10..=17).rev().map(|power| list(unit, 1 << power));
        let mut fits = counts.filter(|text| tree_size(text).unwrap() + 2 * text.len() <= MEMORY);
        fits.next().unwrap()
    };
    let any = json!({"schema": {}});
    let choice = json!({"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "array", "items": {"type": "boolean"}}]});
    let in_choice = json!({"schema": {"type": "object", "properties": {"a": choice}}});
    let shapes = [
        ("far too many objects", &any, list("{\"a\":1}", 250_000), true),
        ("far too many numbers", &any, list("1", 1_500_000), true),
        ("objects that fit", &any, fitting("{\"a\":1}"), true),
        ("lists that fit", &any, fitting("[[1,2]]"), true),
        ("numbers that fit", &any, fitting("1"), true),
        ("texts that fit", &any, fitting("\"abcdefghijklmnopqrstuvwxyz\\n\""), true),
        ("wrong in every place", &several()["numbers"], fitting("\"x\""), false),
        ("the same everywhere", &json!({"schema": {"type": "array", "uniqueItems": true}}), fitting("1"), false),
        ("wrong in every choice", &in_choice, format!("{{\"a\":{}}}", fitting("\"x\"")), false),
    ];
    let check = |schema: &Value, texts: Vec<String>| {
        // As one of several, too.
        let declared = [json!({"one": schema}), json!({"one": schema, "other": any})];
        let details = declared.map(|declared| job(declared, Value::Null));
        let checking = checking(u64::MAX, MEMORY);
        let work = texts
            .iter()
            .flat_map(|text| [(&details[0], spooled(text)), (&details[1], spooled(&format!("{{\"one\":{text}}}")))]);
        let work: Vec<_> = work.map(|(detail, value)| assemble(detail, value, &checking)).collect();
        runtime.block_on(futures::future::join_all(work))
    };
    // Code is loaded when it is needed first, and counts as well.
    for (_, schema, _, _) in &shapes {
        for unit in ["{\"a\":1}", "\"x\\n\""] {
            check(schema, vec![list(unit, 40_000)]);
        }
    }
    let idle = figure("VmRSS:");
    for (name, schema, text, is_right) in shapes {
        let size = text.len();
        // The mark begins anew.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        for result in check(schema, vec![text]) {
            assert_eq!(result.unwrap().is_ok(), is_right, "{name}");
        }
        let grown = figure("VmHWM:").saturating_sub(idle);
        eprintln!("{name}: {} KiB, {} KiB above what it was", size / 1024, grown / 1024);
        assert!(grown <= MEMORY, "{name}: {grown}");
    }
}

/// A value as a capture has it: in a file.
fn spooled(text: &str) -> Captured {
    let mut spool = crate::jobs::capture::spool::Spool::new(&std::env::temp_dir(), u64::MAX, Duration::from_secs(60));
    spool.write(text.as_bytes()).unwrap();
    let value = CapturedValue::Whole(spool.finish().unwrap().unwrap());
    Captured { value, ..captured(Some("application/json"), Bytes::new()) }
}
