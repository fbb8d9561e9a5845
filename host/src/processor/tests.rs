//! Real components through the whole host: what each fault of a processor ends in, and that it ends nothing else.

#![allow(clippy::needless_pass_by_value, reason = "`json!` in a call reads better than a reference to it")]

use std::future::Future as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::core::{Digest, Principal, Role};

/// A component of this workspace, built before the tests.
pub(super) fn guest(name: &str) -> Bytes {
    std::fs::read(guest_path(name)).unwrap().into()
}

pub(super) fn guest_path(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = root.join("target/wasm32-wasip2/plugin").join(format!("{}.wasm", name.replace('-', "_")));
    assert!(path.exists(), "build it first: cargo build --target wasm32-wasip2 --profile plugin -p {name}");
    path
}

fn cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-compiled-code")
}

pub(super) fn host_with(settings: &Settings) -> ProcessorHost {
    ProcessorHost::new(settings, &cache(), Arc::new(|token| token == "right")).unwrap()
}

/// One host for most tests, with time enough for a busy machine.
pub(super) fn host() -> &'static ProcessorHost {
    static HOST: OnceLock<ProcessorHost> = OnceLock::new();
    HOST.get_or_init(|| host_with(&Settings { deadline_ms: 5000, load_deadline_ms: 20_000, ..Settings::default() }))
}

pub(super) fn entry(config: serde_json::Value) -> ProcessEntry {
    ProcessEntry { config: config.as_object().unwrap().clone(), ..ProcessEntry::default() }
}

async fn load(host: &ProcessorHost, name: &str, config: serde_json::Value) -> Result<Process, Refusal> {
    Process::load(host, &host.compile(guest(name)).await?, entry(config)).await
}

async fn misbehaving(host: &ProcessorHost, fault: &str, when: &str) -> Process {
    load(host, "misbehaving", json!({"fault": fault, "when": when})).await.unwrap()
}

fn request(inputs: serde_json::Value) -> ProcessorRequest {
    ProcessorRequest {
        action: Action::Execute,
        job_id: None,
        inputs: inputs.to_string().into(),
        outputs: vec![],
        principal: Principal { authenticated: true, ..Principal::anonymous(vec![Role::Execute]) },
        headers: vec![],
    }
}

fn somebody() -> Caller {
    Caller { subject: "somebody".into(), consumed_inputs: vec![] }
}

#[tokio::test]
async fn a_request_becomes_a_plan() {
    let process = load(host(), "hello-world", json!({"image": "alpine:3"})).await.unwrap();
    assert_eq!(process.id.as_str(), "hello-world");
    assert_eq!(process.digest, Digest::of(&guest("hello-world")));
    let request = request(json!({"name": "Ann", "message": "hi"}));
    let (_, plan) = process.plan(&request).await.unwrap();
    let [main] = plan.containers.as_slice() else { panic!("one container") };
    assert_eq!(
        (main.image.as_str(), main.args.as_slice()),
        ("alpine:3", ["Ann".to_owned(), "hi".to_owned()].as_slice())
    );
}

#[tokio::test]
async fn an_operator_names_the_process() {
    let processor = host().compile(guest("hello-world")).await.unwrap();
    let named = ProcessEntry { id: Some("greeting".parse().unwrap()), ..ProcessEntry::default() };
    let process = Process::load(host(), &processor, named).await.unwrap();
    assert_eq!(process.id.as_str(), "greeting");
}

#[tokio::test]
async fn tokens_are_verified_by_the_host_and_consumed() {
    let process = load(host(), "misbehaving", json!({"check_auth": true})).await.unwrap();
    let anonymous = |inputs| ProcessorRequest { principal: Principal::anonymous(vec![]), ..request(inputs) };
    let denied = process.authorize(&anonymous(json!({"token": "wrong"}))).await.unwrap_err();
    assert!(matches!(denied, AskError::Denied(Denial::Unauthenticated { .. })), "{denied:?}");
    let asked = anonymous(json!({"token": "right", "text": "x"}));
    let caller = process.authorize(&asked).await.unwrap();
    assert_eq!(caller.consumed_inputs, ["token"]);
    process.shape(&asked, &caller).await.unwrap();
}

#[tokio::test]
async fn an_instance_serves_one_request_and_sees_no_credential_when_it_shapes() {
    let process = load(host(), "misbehaving", json!({"fault": "remember", "check_auth": true})).await.unwrap();
    let told = async |inputs: serde_json::Value| {
        let (_, plan) = process.plan(&request(inputs)).await.unwrap();
        plan.containers.iter().skip(1).flat_map(|container| container.command.clone()).collect::<String>()
    };
    // Both calls of a request may be asked of one instance, but no two requests are.
    for text in ["first", "second"] {
        assert_eq!(told(json!({ "text": text })).await, format!("echo{}", json!({ "text": text })));
    }
    assert_eq!(told(json!({"text": "third", "token": "right"})).await, "");
}

#[tokio::test]
async fn each_call_of_a_request_has_its_own_time_and_its_own_name() {
    let asked = request(json!({}));
    let trap = misbehaving(host(), "trap", "shape").await.plan(&asked).await.unwrap_err();
    assert!(matches!(trap, AskError::Failed(ProcessorError::Trapped { call: "shape", .. })), "{trap:?}");
    let brief = host_with(&Settings { deadline_ms: 100, load_deadline_ms: 20_000, ..Settings::default() });
    for (step, call) in [("authorize", "authorize"), ("shape", "shape")] {
        let endless = misbehaving(&brief, "loop", step).await;
        let failed = endless.plan(&asked).await.unwrap_err();
        let AskError::Failed(ProcessorError::DeadlineExceeded { call: named, .. }) = failed else {
            panic!("{failed:?}")
        };
        assert_eq!(named, call);
    }
    let huge = misbehaving(host(), "huge-plan", "shape").await.plan(&asked).await.unwrap_err();
    assert!(matches!(huge, AskError::Failed(ProcessorError::BadAnswer { limit_kib: 1024, .. })), "{huge:?}");
    let reject = misbehaving(host(), "reject", "shape").await.plan(&asked).await.unwrap_err();
    assert!(matches!(reject, AskError::Rejected(_)), "{reject:?}");
}

#[tokio::test]
async fn denials_and_rejections_arrive() {
    let deny = misbehaving(host(), "deny", "authorize").await.authorize(&request(json!({}))).await.unwrap_err();
    let AskError::Denied(Denial::Unauthenticated { challenge }) = deny else { panic!("{deny:?}") };
    assert_eq!(challenge, r#"Bearer realm="misbehaving""#);
    let forbid = misbehaving(host(), "forbid", "authorize").await.authorize(&request(json!({}))).await.unwrap_err();
    assert!(matches!(forbid, AskError::Denied(Denial::Forbidden { .. })));
    let reject =
        misbehaving(host(), "reject", "shape").await.shape(&request(json!({})), &somebody()).await.unwrap_err();
    let AskError::Rejected(violations) = reject else { panic!("{reject:?}") };
    assert_eq!(violations.iter().map(|wrong| wrong.pointer.as_str()).collect::<Vec<_>>(), ["/inputs/text", ""]);
}

#[tokio::test]
async fn a_fault_ends_its_own_call_only() {
    let trap = misbehaving(host(), "trap", "shape").await;
    let asked = request(json!({}));
    let failed = trap.shape(&asked, &somebody()).await.unwrap_err();
    assert!(matches!(failed, AskError::Failed(ProcessorError::Trapped { call: "shape", .. })), "{failed:?}");
    trap.authorize(&asked).await.unwrap();

    let allocate = misbehaving(host(), "allocate", "authorize").await;
    let failed = allocate.authorize(&asked).await.unwrap_err();
    assert!(matches!(failed, AskError::Failed(ProcessorError::OutOfMemory { limit_mib: 64, .. })), "{failed:?}");
    allocate.shape(&asked, &somebody()).await.unwrap();

    let huge = misbehaving(host(), "huge-plan", "shape").await.shape(&asked, &somebody()).await.unwrap_err();
    assert!(matches!(huge, AskError::Failed(ProcessorError::BadAnswer { limit_kib: 1024, .. })), "{huge:?}");

    // Not too large for an answer, but a reason is one line of a kilobyte, whatever it was.
    let generous = host_with(&Settings { output_kib: 4096, deadline_ms: 5000, ..Settings::default() });
    let garbage = misbehaving(&generous, "garbage", "authorize").await.authorize(&asked).await.unwrap_err();
    let AskError::Denied(Denial::Forbidden { reason }) = garbage else { panic!("{garbage:?}") };
    assert!(reason.len() <= 1024 && !reason.chars().any(char::is_control));

    for harmless in ["log-flood", "many-verify"] {
        misbehaving(host(), harmless, "shape").await.shape(&asked, &somebody()).await.unwrap();
    }
}

/// A guest that loops is stopped in time, and on the one thread of this runtime others go on meanwhile.
#[tokio::test(flavor = "current_thread")]
async fn a_loop_is_stopped_and_starves_nobody() {
    let host = host_with(&Settings { deadline_ms: 300, load_deadline_ms: 20_000, ..Settings::default() });
    let endless = misbehaving(&host, "loop", "shape").await;
    let asked = request(json!({}));
    let begun = Instant::now();
    let beats = async {
        let mut beats = 0;
        while begun.elapsed() < Duration::from_millis(250) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            beats += 1;
        }
        beats
    };
    let caller = somebody();
    let (failed, beats) = tokio::join!(endless.shape(&asked, &caller), beats);
    let failed = failed.unwrap_err();
    assert!(matches!(failed, AskError::Failed(ProcessorError::DeadlineExceeded { call: "shape", .. })), "{failed:?}");
    assert!(begun.elapsed() >= Duration::from_millis(290), "it had its time: {:?}", begun.elapsed());
    assert!(beats > 10, "only {beats} beats beside the loop");
    endless.authorize(&asked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_are_bounded_and_given_back() {
    let settings = Settings {
        deadline_ms: 400,
        concurrent_calls: 2,
        queue_ms: 20,
        load_deadline_ms: 20_000,
        ..Settings::default()
    };
    let host = host_with(&settings);
    let endless = Arc::new(misbehaving(&host, "loop", "shape").await);
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let endless = Arc::clone(&endless);
            tokio::spawn(async move { endless.shape(&request(json!({})), &somebody()).await.unwrap_err() })
        })
        .collect();
    let mut turned_away = 0;
    for call in calls {
        match call.await.unwrap() {
            AskError::Failed(ProcessorError::Overloaded { .. }) => turned_away += 1,
            AskError::Failed(ProcessorError::DeadlineExceeded { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(turned_away >= 6, "two places, {turned_away} of 8 turned away");
    endless.authorize(&request(json!({}))).await.unwrap();
}

/// However many of one process's calls loop, another process has a place.
#[tokio::test]
async fn one_process_does_not_take_all_places() {
    let settings = Settings {
        deadline_ms: 4000,
        concurrent_calls: 2,
        queue_ms: 10_000,
        load_deadline_ms: 20_000,
        ..Settings::default()
    };
    let host = host_with(&settings);
    let (endless, other) =
        (misbehaving(&host, "loop", "shape").await, load(&host, "hello-world", json!({})).await.unwrap());
    let (asked, caller) = (request(json!({})), somebody());
    let mut loops: Vec<_> = (0..3).map(|_| Box::pin(endless.shape(&asked, &caller))).collect();
    for call in &mut loops {
        // Up to where it gives this thread back, or waits for its place.
        let first = std::future::poll_fn(|context| std::task::Poll::Ready(call.as_mut().poll(context))).await;
        assert!(first.is_pending());
    }
    let answered = tokio::time::timeout(Duration::from_secs(2), other.authorize(&asked)).await;
    answered.expect("a place, while the loops have theirs").unwrap();
    // The first loop still runs when the host goes. It is stopped all the same, or this test would not end.
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_gives_its_place_back() {
    let settings = Settings {
        deadline_ms: 100,
        concurrent_calls: 1,
        queue_ms: 10_000,
        load_deadline_ms: 20_000,
        ..Settings::default()
    };
    let host = host_with(&settings);
    let endless = misbehaving(&host, "loop", "shape").await;
    let (asked, caller) = (request(json!({})), somebody());
    let given_up = tokio::time::timeout(Duration::from_millis(20), endless.shape(&asked, &caller)).await;
    assert!(given_up.is_err(), "it was still running");
    endless.authorize(&request(json!({}))).await.unwrap();
}

#[tokio::test]
async fn what_cannot_describe_itself_is_refused() {
    let refusal =
        async |fault: &str| load(host(), "misbehaving", json!({"fault": fault, "when": "describe"})).await.unwrap_err();
    let trap = refusal("trap").await;
    assert!(matches!(trap, Refusal::Describe(ProcessorError::Trapped { .. })), "{trap}");
    assert!(trap.to_string().contains("unreachable"), "{trap}");
    assert!(matches!(refusal("allocate").await, Refusal::Describe(ProcessorError::OutOfMemory { .. })));
    for fault in ["bad-json", "no-id", "deep-json", "bad-schema"] {
        let refusal = refusal(fault).await;
        assert!(matches!(refusal, Refusal::Description(_)), "{fault}: {refusal:?}");
    }
    let configured = load(host(), "hello-world", json!({"imgae": "x"})).await.unwrap_err();
    assert!(matches!(&configured, Refusal::Configuration { reason } if reason.contains("imgae")), "{configured}");
    let hasty = host_with(&Settings { load_deadline_ms: 30, ..Settings::default() });
    let looped = load(&hasty, "misbehaving", json!({"fault": "loop", "when": "describe"})).await.unwrap_err();
    assert!(matches!(looped, Refusal::Describe(ProcessorError::DeadlineExceeded { .. })), "{looped}");
}

/// A component that is nothing but one import of an empty instance.
fn importing(name: &str) -> Bytes {
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    bytes.extend([7, 3, 1, 0x42, 0]);
    let mut import = vec![1, 0, u8::try_from(name.len()).unwrap()];
    import.extend(name.bytes());
    import.extend([5, 0]);
    bytes.extend([10, u8::try_from(import.len()).unwrap()]);
    bytes.extend(import);
    bytes.into()
}

#[tokio::test]
async fn what_is_not_a_processor_is_refused_with_the_reason() {
    let refusal = async |bytes: &[u8]| match host().compile(Bytes::copy_from_slice(bytes)).await {
        Ok(_) => panic!("taken"),
        Err(refusal) => refusal,
    };
    assert!(matches!(refusal(b"").await, Refusal::NotWasm));
    assert!(matches!(refusal(b"#!/bin/sh\nexit\n").await, Refusal::NotWasm));
    let core = refusal(b"\0asm\x01\0\0\0").await;
    assert!(matches!(core, Refusal::CoreModule) && core.to_string().contains("wasm32-wasip2"));
    assert!(matches!(refusal(b"\0asm\x0d\0\x01\0").await, Refusal::NotAProcessor { exports } if exports.is_empty()));
    let http = refusal(&importing("wasi:http/types@0.2.6")).await;
    assert!(matches!(&http, Refusal::Imports { names, .. } if names == &["wasi:http/types@0.2.6"]), "{http}");
    assert!(http.to_string().contains("without HTTP"), "{http}");
    let whole = guest("hello-world");
    let half = refusal(&whole[..whole.len() / 2]).await;
    assert!(matches!(half, Refusal::DoesNotCompile { .. }), "{half}");
    let small = host_with(&Settings { component_mib: 1, ..Settings::default() });
    let large = small.compile(vec![0; (1 << 20) + 1].into()).await.err().unwrap();
    assert!(matches!(large, Refusal::TooLarge { limit_mib: 1, .. }));
}

#[tokio::test]
async fn compiled_code_is_found_again_and_is_ours_alone() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("a/compiled");
    let new = || ProcessorHost::new(&Settings::default(), &cache, Arc::new(|_| false)).unwrap();
    let first = new();
    first.compile(guest("hello-world")).await.unwrap();
    assert_eq!(first.cache_counts(), (0, 1));
    let mode =
        |path: &Path| std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions()) & 0o777;
    assert_eq!(mode(&cache), 0o700);
    drop(first);
    let second = new();
    second.compile(guest("hello-world")).await.unwrap();
    assert_eq!(second.cache_counts(), (1, 0));
    // A link could lead into someone else's folder.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&cache, &link).unwrap();
    let refused = ProcessorHost::new(&Settings::default(), &link, Arc::new(|_| false));
    assert!(matches!(refused.err(), Some(ProcessorError::CacheNotOurs(_))));
}

#[tokio::test]
async fn without_a_cache_folder_it_works_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let host = ProcessorHost::new(&Settings::default(), &file.join("below"), Arc::new(|_| false)).unwrap();
    host.compile(guest("hello-world")).await.unwrap();
}
