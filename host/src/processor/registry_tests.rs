//! Tests of the registry.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::processor::tests::{entry, guest, guest_path, host, host_with};
use crate::processor::{ProcessEntry, Settings, Sources};

struct Bench {
    folder: tempfile::TempDir,
    sources: Sources,
    registry: Registry,
    kept: Vec<Digest>,
}

impl Bench {
    fn new(configured: Vec<ProcessEntry>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let poll = Duration::from_millis(5);
        let sources = Sources::new(configured, vec![], Some(folder.path().to_owned()), poll);
        Self { folder, sources, registry: Registry::new(host().clone()), kept: vec![] }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn copy(&self, from: &str, to: &str) {
        std::fs::copy(guest_path(from), self.path(to)).unwrap();
    }

    /// Follows the sources until this holds.
    async fn until(&mut self, what: &str, holds: impl Fn(&Registry) -> bool) {
        let followed = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                let desired = self.sources.changed().await;
                let prepared = self.registry.prepare(&desired, &Fetched::new(), &Offered::new()).await;
                self.kept.extend(prepared.components.iter().map(|(digest, _)| *digest));
                self.registry.commit(prepared);
                if holds(&self.registry) {
                    return;
                }
            }
        });
        assert!(followed.await.is_ok(), "{what}: {:?}", self.registry.reports());
    }
}

fn ids(registry: &Registry) -> Vec<String> {
    registry.all().iter().map(|process| process.id.to_string()).collect()
}

fn reasons(registry: &Registry, name: &str) -> String {
    registry.reports().iter().filter(|report| report.name == name).fold(String::new(), |text, report| {
        match &report.state {
            ReportState::Active => text,
            ReportState::Refused { reasons } => text + &reasons.join("; "),
        }
    })
}

#[tokio::test]
async fn dropped_replaced_broken_and_removed() {
    let mut bench = Bench::new(vec![]);
    bench.copy("hello-world", "hello.wasm");
    bench.until("it is offered", |registry| ids(registry) == ["hello-world"]).await;
    let first = bench.registry.get("hello-world").unwrap();
    assert_eq!(bench.kept, [first.digest]);

    // The same bytes again: the very same process.
    let generation = bench.registry.generation();
    std::fs::copy(guest_path("hello-world"), bench.path("new")).unwrap();
    std::fs::rename(bench.path("new"), bench.path("hello.wasm")).unwrap();
    bench.until("it was looked at", |registry| registry.generation() > generation).await;
    assert!(Arc::ptr_eq(&first, &bench.registry.get("hello-world").unwrap()));

    // Half of it: the good version stays, and the report says so.
    let whole = guest("hello-world");
    std::fs::write(bench.path("hello.wasm"), &whole[..whole.len() / 2]).unwrap();
    bench.until("it is refused", |registry| !reasons(registry, "hello.wasm").is_empty()).await;
    let told = reasons(&bench.registry, "hello.wasm");
    assert!(told.contains("does not compile") && told.contains("stays in force"), "{told}");
    assert!(Arc::ptr_eq(&first, &bench.registry.get("hello-world").unwrap()));

    // A configuration beside it, and the whole file: another process, while the first still answers those who hold it.
    std::fs::write(bench.path("hello.yaml"), "id: greeting\nconfig: {image: other}\n").unwrap();
    std::fs::write(bench.path("hello.wasm"), &whole).unwrap();
    bench.until("it is replaced", |registry| ids(registry) == ["greeting"]).await;
    assert_eq!(first.id.as_str(), "hello-world");
    assert!(reasons(&bench.registry, "hello.wasm").is_empty());

    std::fs::remove_file(bench.path("hello.wasm")).unwrap();
    std::fs::remove_file(bench.path("hello.yaml")).unwrap();
    bench.until("it is gone", |registry| ids(registry).is_empty()).await;
    assert!(bench.registry.reports().is_empty());
}

#[tokio::test]
async fn what_is_bad_harms_nothing() {
    let mut bench = Bench::new(vec![]);
    bench.copy("hello-world", "good.wasm");
    std::fs::write(bench.path("text.wasm"), "not one").unwrap();
    std::fs::write(bench.path("core.wasm"), b"\0asm\x01\0\0\0").unwrap();
    std::fs::write(bench.path("broken.yaml"), "processor: [\n").unwrap();
    bench.copy("misbehaving", "wrong.wasm");
    std::fs::write(bench.path("wrong.yaml"), "config: {fault: trap, when: describe}\n").unwrap();
    bench.until("all are told", |registry| registry.reports().len() == 5).await;
    assert_eq!(ids(&bench.registry), ["hello-world"]);
    for (name, reason) in [
        ("text.wasm", "not a WebAssembly file"),
        ("core.wasm", "wasm32-wasip2"),
        ("broken.yaml", "configuration"),
        ("wrong.wasm", "trapped"),
    ] {
        let told = reasons(&bench.registry, name);
        assert!(told.contains(reason), "{name}: {told}");
    }
    assert_eq!(bench.kept, [Digest::of(&guest("hello-world"))], "what is refused is not kept");
}

#[tokio::test]
async fn the_first_of_two_with_one_id_has_it() {
    let configured = ProcessEntry {
        id: Some("hello-world".parse().unwrap()),
        processor: Some(guest_path("hello-world").display().to_string()),
        ..entry(json!({"image": "configured"}))
    };
    let mut bench = Bench::new(vec![configured]);
    bench.copy("hello-world", "a.wasm");
    bench.copy("hello-world", "b.wasm");
    std::fs::write(bench.path("b.yaml"), "id: b\n").unwrap();
    bench.until("both are told", |registry| registry.reports().len() == 3).await;
    assert_eq!(ids(&bench.registry), ["b", "hello-world"]);
    let taken = bench.registry.get("hello-world").unwrap();
    assert_eq!(taken.entry.config.get("image"), Some(&json!("configured")));
    let told = reasons(&bench.registry, "a.wasm");
    assert!(told.contains("'hello-world' is taken by 'hello-world' (config)"), "{told}");
    assert_eq!(bench.kept.len(), 1, "one component serves all");
}

#[tokio::test]
async fn a_file_of_an_earlier_name_takes_nothing_over() {
    let mut bench = Bench::new(vec![]);
    bench.copy("hello-world", "m.wasm");
    bench.until("it is offered", |registry| ids(registry) == ["hello-world"]).await;
    bench.copy("misbehaving", "a.wasm");
    std::fs::write(bench.path("a.yaml"), "id: hello-world\n").unwrap();
    bench.until("the copy is refused", |registry| reasons(registry, "a.wasm").contains("taken by 'm.wasm'")).await;
    assert_eq!(bench.registry.get("hello-world").unwrap().digest, Digest::of(&guest("hello-world")));
    // A newer version of the holder itself is no other file.
    bench.copy("misbehaving", "m.wasm");
    std::fs::write(bench.path("m.yaml"), "id: hello-world\n").unwrap();
    let newer = Digest::of(&guest("misbehaving"));
    bench.until("the newer one", |registry| registry.get("hello-world").is_some_and(|one| one.digest == newer)).await;
    assert!(!reasons(&bench.registry, "a.wasm").is_empty());
}

#[tokio::test]
async fn when_the_first_leaves_the_second_has_the_id() {
    let mut bench = Bench::new(vec![]);
    bench.copy("hello-world", "a.wasm");
    bench.copy("misbehaving", "b.wasm");
    std::fs::write(bench.path("b.yaml"), "id: hello-world\n").unwrap();
    bench.until("the second is refused", |registry| !reasons(registry, "b.wasm").is_empty()).await;
    std::fs::remove_file(bench.path("a.wasm")).unwrap();
    bench.until("the second is offered", |registry| registry.reports().len() == 1).await;
    assert!(reasons(&bench.registry, "b.wasm").is_empty());
    let second = bench.registry.get("hello-world").unwrap();
    assert_eq!(second.digest, Digest::of(&guest("misbehaving")));
    assert!(bench.kept.contains(&second.digest), "its bytes were kept before it was offered");
}

/// A machine that was too busy at the start is not too busy for ever.
#[tokio::test]
async fn what_was_refused_for_a_passing_reason_is_tried_again() {
    let mut bench = Bench::new(vec![]);
    let host =
        host_with(&Settings { load_deadline_ms: 20_000, concurrent_calls: 1, queue_ms: 1, ..Settings::default() });
    bench.registry = Registry::new(host.clone());
    let busy = Arc::clone(&host.0.places).acquire_owned().await.unwrap();
    bench.copy("hello-world", "hello.wasm");
    bench.until("it is refused", |registry| reasons(registry, "hello.wasm").contains("too many")).await;
    drop(busy);
    bench.until("it is offered", |registry| ids(registry) == ["hello-world"]).await;
    assert!(reasons(&bench.registry, "hello.wasm").is_empty());

    // What will not pass is not tried again.
    bench.copy("misbehaving", "wrong.wasm");
    std::fs::write(bench.path("wrong.yaml"), "config: {fault: trap, when: describe}\n").unwrap();
    bench.until("it is refused", |registry| !reasons(registry, "wrong.wasm").is_empty()).await;
    let quiet = tokio::time::timeout(Duration::from_millis(200), bench.sources.changed()).await;
    assert!(quiet.is_err(), "nothing has changed");
}

#[tokio::test]
async fn a_digest_is_fetched_from_the_store() {
    let bytes = guest("hello-world");
    let digest = Digest::of(&bytes);
    let wanted = ProcessEntry { processor: Some(digest.to_string()), ..ProcessEntry::default() };
    let mut sources = Sources::new(vec![wanted], vec![], None, Duration::from_millis(5));
    let registry = Registry::new(host().clone());
    let desired = sources.changed().await;
    assert_eq!(desired.missing_digests(), [digest]);
    registry.commit(registry.prepare(&desired, &Fetched::new(), &Offered::new()).await);
    assert!(reasons(&registry, "processes[0]").contains("ever deployed"), "{:?}", registry.reports());
    // Other bytes under this name are as good as none.
    let wrong = Fetched::from([(digest, guest("misbehaving"))]);
    registry.commit(registry.prepare(&desired, &wrong, &Offered::new()).await);
    assert!(ids(&registry).is_empty());
    registry.commit(registry.prepare(&desired, &Fetched::from([(digest, bytes)]), &Offered::new()).await);
    assert_eq!(ids(&registry), ["hello-world"]);
    let rows = registry.prepare(&desired, &Fetched::new(), &Offered::new()).await.rows().to_vec();
    assert_eq!((rows.len(), rows[0].source, rows[0].digest), (1, "config", digest));
}

#[tokio::test]
async fn a_server_that_starts_leaves_each_id_with_the_file_that_was_offered() {
    let mut bench = Bench::new(vec![]);
    for (name, image) in [("a", "first"), ("m", "second"), ("z", "third")] {
        bench.copy("hello-world", &format!("{name}.wasm"));
        std::fs::write(bench.path(&format!("{name}.yaml")), format!("config: {{image: '{image}'}}\n")).unwrap();
    }
    let digest = Digest::of(&guest("hello-world"));
    let offered = |image: &str| (digest, entry(json!({ "image": image })).sha256());
    let desired = loop {
        let desired = bench.sources.changed().await;
        let prepared = bench.registry.prepare(&desired, &Fetched::new(), &Offered::new()).await;
        if prepared.reports().len() == 3 {
            break desired;
        }
    };
    for (offered, holder) in [(offered("second"), "m.wasm"), (offered("another"), "a.wasm")] {
        let offered = Offered::from([("hello-world".parse().unwrap(), offered)]);
        let registry = Registry::new(host().clone());
        registry.commit(registry.prepare(&desired, &Fetched::new(), &offered).await);
        let active: Vec<_> = registry
            .reports()
            .iter()
            .filter(|report| matches!(report.state, ReportState::Active))
            .map(|report| report.name.clone())
            .collect();
        assert_eq!(active, [holder]);
    }
}
