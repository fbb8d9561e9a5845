//! `vespiary doctor` and `vespiary uninstall` as their user meets them, beside a server and without one.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::{Json, Router};
use serde_json::{Value, json};
use vespiary::core::{JobId, RunState, Timestamp};
use vespiary::runner::local::LocalRunner;
use vespiary::runner::{Launch, Runner as _};
use vespiary_tests::workspace::program;
use vespiary_tests::{Server, local_only};

/// Exit code, standard output, standard error; nothing is left to servers.
fn run(data: &Path, args: &[&str]) -> (i32, String, String) {
    run_with(data, args, &[])
}

fn run_with(data: &Path, args: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new(program());
    command.args(args).arg("--data").arg(data).env_remove("VESPIARY_URL");
    for name in ["VESPIARY_CONFIG", "VESPIARY_RUNNER_KIND", "VESPIARY_STORE_URL"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// A run that has ended in this folder, and no row.
fn launched(data: &Path, script: &str) -> JobId {
    let container = json!({ "name": "main", "image": "none", "command": ["sh", "-c", script] });
    let launch = Launch {
        job_id: JobId::new(),
        process_id: "hello".parse().unwrap(),
        plan: Arc::new(serde_json::from_value(json!({ "containers": [container] })).unwrap()),
        inputs: None,
        nonce: None,
        created: Timestamp::now(),
        masked: None,
    };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let runner = LocalRunner::open(Default::default(), data, program()).await.unwrap();
        runner.launch(&launch).await.unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while !matches!(runner.state(launch.job_id).await.unwrap(), Some(RunState::Ended(_))) {
            assert!(Instant::now() < until, "the run does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    launch.job_id
}

#[test]
fn a_server_in_order_has_no_findings_and_is_not_disturbed() {
    if local_only() {
        return;
    }
    let server = Server::start();
    let data = server.folder().join("data");
    let (code, out, err) = server.cli(&["run", "hello-world", "name=Ada", "--wait"]);
    assert_eq!(code, 0, "{out}{err}");
    // Nothing to do is nothing that a server stands in the way of.
    for args in [&["doctor", "--settle", "0"][..], &["doctor", "--fix", "--settle", "0"]] {
        let (code, out, err) = run(&data, args);
        assert!(code == 0 && out.contains("nothing found"), "{out}{err}");
    }
    let (code, out, _) = run(&data, &["uninstall", "--release"]);
    assert!(code == 0 && out.contains("local"), "{out}");
}

#[test]
fn what_was_never_started_is_told_and_nothing_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("nowhere");
    let (code, out, _) = run(&data, &["doctor"]);
    assert!(code == 1 && out.contains("database not reachable") && out.contains("archive not reachable"), "{out}");
    let (code, out, _) = run(&data, &["doctor", "--json"]);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &told["findings"][0]["severity"]), (1, &json!("error")), "{told}");
    assert!(!data.exists());
}

#[test]
fn a_lost_row_is_found_beside_the_server_and_repaired_without_it() {
    if local_only() {
        return;
    }
    let mut server = Server::start();
    let data = server.folder().join("data");
    // As a database has it that was restored from an older copy: the run is there, its row is not.
    let lost = launched(&data, "echo from a lost job").to_string();
    let folder = data.join("runs").join(&lost);
    let (code, out, err) = run(&data, &["doctor", "--settle", "0"]);
    assert!(code == 1 && out.contains("job without a row") && out.contains(&lost), "{out}{err}");
    let (code, out, err) = run(&data, &["doctor", "--fix", "--settle", "0"]);
    assert!(code == 1 && err.contains("another server uses the data folder"), "{out}{err}");
    assert!(folder.exists());

    assert!(server.stop());
    let (code, out, err) = run(&data, &["doctor", "--fix", "--settle", "0"]);
    assert!(code == 0 && out.contains("fixed") && out.contains(&lost), "{out}{err}");
    assert!(!data.join("runs").join(&lost).exists());
    let log = data.join("archive/logs").join(format!("{lost}.log"));
    assert!(std::fs::read_to_string(&log).unwrap().contains("from a lost job"), "{out}");
    let (code, out, _) = run(&data, &["doctor"]);
    assert!(code == 0 && log.exists(), "an object of today stays: {out}");
}

/// A cluster with these Jobs and nothing else: its kubeconfig, whose context is of the namespace `default`.
fn cluster(folder: &Path, jobs: Value) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let answer = move |request: Request| {
            let found = if request.uri().path().ends_with("/jobs") { jobs.clone() } else { json!([]) };
            async move { Json(json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": found })) }
        };
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, Router::new().fallback(answer)).await.unwrap();
        });
    });
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "clusters": [{ "name": "one", "cluster": { "server": format!("http://{address}") } }],
        "contexts": [{ "name": "one", "context": { "cluster": "one", "user": "one" } }],
        "users": [{ "name": "one", "user": {} }],
    });
    let file = folder.join("kubeconfig");
    std::fs::write(&file, kubeconfig.to_string()).unwrap();
    file.to_string_lossy().into_owned()
}

#[test]
fn leaving_a_namespace_that_nobody_named_is_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let (data, kubeconfig) = (folder.path().join("data"), cluster(folder.path(), json!([])));
    let kubernetes = [("KUBECONFIG", kubeconfig.as_str()), ("VESPIARY_RUNNER_KIND", "kubernetes")];
    let (code, out, err) = run_with(&data, &["uninstall", "--release"], &kubernetes);
    assert!(code == 1 && out.contains("namespace 'default' (of the kubeconfig's context)"), "{out}{err}");
    assert!(err.contains("VESPIARY_KUBERNETES_NAMESPACE"), "{err}");
    let named = [kubernetes[0], kubernetes[1], ("VESPIARY_KUBERNETES_NAMESPACE", "lab")];
    let (code, out, err) = run_with(&data, &["uninstall", "--release"], &named);
    assert!(
        code == 0 && out.contains("namespace 'lab' (of the configuration): our finalizer is on nothing"),
        "{out}{err}"
    );
}

#[test]
fn jobs_that_make_more_pods_are_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let id = JobId::new();
    let name = format!("pygeoapi-job-{id}");
    // Suspended, and let go before.
    let labels = json!({ "vespiary.io/job-id": id });
    let job = json!({ "metadata": { "name": name, "uid": "u", "labels": labels }, "spec": { "template": { "spec": { "containers": [] } } } });
    let kubeconfig = cluster(folder.path(), json!([job]));
    let named = [
        ("KUBECONFIG", kubeconfig.as_str()),
        ("VESPIARY_RUNNER_KIND", "kubernetes"),
        ("VESPIARY_KUBERNETES_NAMESPACE", "lab"),
    ];
    let (code, out, err) = run_with(&folder.path().join("data"), &["uninstall", "--release", "--force"], &named);
    assert!(code == 1 && err.contains(&format!("kubectl delete jobs {name}")), "{out}{err}");
}
