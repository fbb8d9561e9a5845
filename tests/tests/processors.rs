//! Processors that come, change and go while the server runs, and those that must not get in.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vespiary_tests::workspace::processor;
use vespiary_tests::{Server, ServerOptions, until};

fn empty() -> Server {
    Server::with(ServerOptions::default().config("processes: []\n"))
}

/// Puts a file where it will be seen whole.
fn drop_in(server: &Server, name: &str, bytes: &[u8]) {
    let made = server.folder().join(format!("made-{name}"));
    std::fs::write(&made, bytes).unwrap();
    std::fs::rename(made, server.plugins().join(name)).unwrap();
}

fn fault(server: &Server, name: &str, configuration: &str) {
    drop_in(server, &format!("{name}.yaml"), format!("id: {name}\nconfig: {configuration}\n").as_bytes());
    drop_in(server, &format!("{name}.wasm"), &std::fs::read(processor("misbehaving")).unwrap());
}

/// The reasons for which a file was refused, once it is.
async fn refused(server: &Server, file: &str) -> String {
    until(&format!("{file} to be refused"), Duration::from_secs(30), || async {
        let reports = server.admin().get("/admin/processes").await.expect(200).json();
        let list = reports["processes"].as_array().cloned().unwrap_or_default();
        let found = list
            .iter()
            .find(|one| one["name"].as_str().is_some_and(|path| path.ends_with(file)) && one["state"] == "refused")?;
        Some(found["reasons"].to_string())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_a_process_without_a_restart() {
    let server = empty();
    let client = server.client();
    client.offered("hello-world", false).await;
    let begun = Instant::now();
    drop_in(&server, "hello.wasm", &std::fs::read(processor("hello-world")).unwrap());
    client.offered("hello-world", true).await;
    eprintln!("offered after {:?}", begun.elapsed());
    let id = client.submit("hello-world", &json!({ "name": "Ada" })).await;
    assert_eq!(client.ended(&id).await["status"], "successful");
    // Renamed by a file beside it.
    drop_in(&server, "hello.yaml", b"id: greeting\n");
    client.offered("greeting", true).await;
    client.offered("hello-world", false).await;
    // One processor, two processes.
    for name in ["one", "two"] {
        let entry = format!(
            "processor: generic-image\nconfig:\n  metadata: {{ id: {name}, version: 1.0.0, title: {name} }}\n  default_image: busybox:1.36\n  check_auth: false\n  command: [echo, {name}]\n"
        );
        drop_in(&server, &format!("{name}.yaml"), entry.as_bytes());
        client.offered(name, true).await;
        let id = client.submit(name, &json!({})).await;
        client.ended(&id).await;
        assert_eq!(client.get(&format!("/jobs/{id}/logs")).await.expect(200).text(), format!("{name}\n"));
        assert_eq!(client.get(&format!("/jobs/{id}/results")).await.status, 204, "a success without outputs");
    }
    std::fs::remove_file(server.plugins().join("hello.wasm")).unwrap();
    client.offered("greeting", false).await;
    let history = server.sql("select id, digest from process_history order by id");
    let names: Vec<&str> = history.iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["greeting", "hello-world", "one", "two"]);
    assert_eq!(client.job(&id).await["status"], "successful", "jobs outlive their process");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_processor_is_refused_with_the_reason() {
    let server = empty();
    let good = std::fs::read(processor("hello-world")).unwrap();
    drop_in(&server, "text.wasm", b"hello");
    drop_in(&server, "empty.wasm", b"");
    drop_in(&server, "half.wasm", &good[..good.len() / 2]);
    drop_in(&server, "core.wasm", b"\0asm\x01\0\0\0");
    drop_in(&server, "no-id.yaml", b"config: { fault: no-id }\n");
    drop_in(&server, "no-id.wasm", &std::fs::read(processor("misbehaving")).unwrap());
    fault(&server, "bad-json", "{ fault: bad-json }");
    fault(&server, "bad-schema", "{ fault: bad-schema }");
    fault(&server, "describe-trap", "{ fault: trap, when: describe }");
    fault(&server, "describe-loop", "{ fault: loop, when: describe }");
    fault(&server, "describe-allocate", "{ fault: allocate, when: describe }");
    fault(&server, "describe-garbage", "{ fault: garbage, when: describe }");
    drop_in(&server, "wrong.yaml", b"processor: nothing-of-this-name\n");
    for (file, word) in [
        ("text.wasm", "not a WebAssembly"),
        ("empty.wasm", "WebAssembly"),
        ("half.wasm", ""),
        ("core.wasm", "component"),
        ("no-id.wasm", "id"),
        ("bad-json.wasm", "JSON"),
        ("bad-schema.wasm", "schema"),
        ("describe-trap.wasm", "trap"),
        ("describe-loop.wasm", "ms"),
        ("describe-allocate.wasm", "memory"),
        ("describe-garbage.wasm", ""),
        ("wrong.yaml", "nothing-of-this-name"),
    ] {
        let reasons = refused(&server, file).await;
        assert!(reasons.len() > 10 && reasons.contains(word), "{file}: {reasons}");
        assert!(reasons.len() < 8000, "{file}: {} bytes of reasons", reasons.len());
    }
    let client = server.client();
    assert_eq!(client.get("/processes").await.expect(200).json()["processes"], json!([]));
    // The rest of a half-written file comes: it is a process.
    drop_in(&server, "half.wasm", &good);
    client.offered("hello-world", true).await;
    let (code, out, _) = server.cli(&["processes", "--refused"]);
    assert!(code == 0 && out.contains("text.wasm"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_does_not_replace_a_good_one() {
    let server = empty();
    let client = server.client();
    drop_in(&server, "hello.wasm", &std::fs::read(processor("hello-world")).unwrap());
    client.offered("hello-world", true).await;
    drop_in(&server, "hello.wasm", b"rubbish");
    refused(&server, "hello.wasm").await;
    client.get("/processes/hello-world").await.expect(200);
    let id = client.submit("hello-world", &json!({ "name": "Ada" })).await;
    assert_eq!(client.ended(&id).await["status"], "successful");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_that_goes_wrong_is_one_request_s_500() {
    let server = empty();
    let client = server.client();
    drop_in(&server, "hello.wasm", &std::fs::read(processor("hello-world")).unwrap());
    let faults = ["trap", "loop", "allocate", "garbage", "huge-plan", "invalid-plan"];
    for name in faults {
        fault(&server, name, &format!("{{ fault: {name}, when: shape }}"));
    }
    for name in faults.iter().chain(&["hello-world"]) {
        client.offered(name, true).await;
    }
    for name in faults {
        let begun = Instant::now();
        let (nothing, ada) = (json!({}), json!({ "inputs": { "name": "Ada" } }));
        let (broken, hello) =
            tokio::join!(client.execute(name, &nothing, &[]), client.execute("hello-world", &ada, &[]));
        assert_eq!(hello.expect(200).text(), "Hello 'Ada'!", "beside {name}");
        if name == "garbage" {
            assert!(matches!(broken.status, 400 | 500), "{name}: {}", broken.status);
        } else {
            assert_eq!(broken.expect(500).problem(), "processor-failed", "{name}");
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{name} took {:?}", begun.elapsed());
    }
    assert_eq!(server.sql("select id from job_history where process <> 'hello-world'"), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_bounds_every_plan() {
    let config = "processes:\n  - processor: hello-world\n    config: { image: 'evil.example/x:1' }\npolicy: { images: ['busybox:*'] }\n";
    let server = Server::with(ServerOptions::default().config(config));
    let client = server.client();
    let refused = client.execute("hello-world", &json!({ "inputs": { "name": "a" } }), &[]).await.expect(403);
    assert_eq!(refused.problem(), "policy-violated");
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("policy.images") && detail.contains("evil.example/x:1"), "{detail}");
    assert!(server.sql("select id from job_history").is_empty());
}

fn check(args: &[&str]) -> (i32, String) {
    let output =
        std::process::Command::new(vespiary_tests::workspace::program()).arg("check").args(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[test]
fn check_tries_a_processor_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    };
    let hello = processor("hello-world").to_string_lossy().into_owned();
    let (code, text) = check(&[&hello]);
    assert!(code == 0 && text.contains("hello-world"), "{text}");
    let good = write("good.json", r#"{"inputs":{"name":"Ada"}}"#);
    let (code, text) = check(&[&hello, "--request", &good, "--json"]);
    assert_eq!(code, 0, "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert!(answer["plan"]["containers"][0]["args"] == json!(["Ada"]), "{answer}");
    let bad = write("bad.json", r#"{"inputs":{"nam":"Ada"}}"#);
    let (code, text) = check(&[&hello, "--request", &bad]);
    assert!(code == 1 && text.contains("/inputs/name") && text.contains("/inputs/nam"), "{text}");
    let rubbish = write("rubbish.wasm", "rubbish");
    let (code, text) = check(&[&rubbish]);
    assert!(code == 1 && text.contains("WebAssembly"), "{text}");
    let (code, text) = check(&["/nowhere.wasm"]);
    assert!(code == 1 && text.contains("/nowhere.wasm"), "{text}");
    assert!(Path::new(&hello).exists());
}
