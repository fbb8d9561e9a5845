//! How jobs end, through the whole server: results against their schema, large ones, progress, deadlines, signals, several containers.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use vespiary_tests::cluster::is_wanted;
use vespiary_tests::{Server, ServerOptions, until};

/// A process of generic-image that runs this shell text.
fn process(id: &str, outputs: &str, more: &str, script: &str) -> String {
    let script: String = script.lines().map(|line| format!("          {line}\n")).collect();
    format!(
        "  - processor: generic-image\n    config:\n      metadata: {{ id: {id}, version: 1.0.0, title: {id}, outputs: {outputs} }}\n      default_image: busybox:1.36\n      check_auth: false\n{more}      command:\n        - sh\n        - -c\n        - |\n{script}"
    )
}

fn server(processes: &[String]) -> Server {
    Server::with(ServerOptions::default().config(&format!("processes:\n{}", processes.concat())))
}

const COUNT: &str = "{ count: { schema: { type: integer } } }";
const TEXT: &str = "{ text: { schema: { type: string, contentMediaType: text/plain } } }";

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_not_what_was_declared_fails_the_job_and_keeps_the_log() {
    let wrong = "echo 'PYGEOAPI_K8S_MANAGER_RESULT_MIMETYPE: application/json'\necho PYGEOAPI_K8S_MANAGER_RESULT_START\necho '\"many\"'";
    let server = server(&[process("wrong", COUNT, "", wrong)]);
    let client = server.client();
    let id = client.submit("wrong", &json!({})).await;
    let job = client.ended(&id).await;
    assert_eq!(job["status"], "failed");
    assert!(job["message"].as_str().unwrap().contains("/outputs/count"), "{job}");
    assert!(client.get(&format!("/jobs/{id}/logs")).await.expect(200).text().ends_with("\"many\"\n"));
    assert_eq!(
        server.sql("select reason, exit_code from job_history"),
        [json!({ "reason": "InvalidResult", "exit_code": 0 })]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_result_is_in_the_archive_and_goes_with_its_job() {
    // A container's runtime may drop what is in its pipe at the exit (containerd 1.6 does): nobody could read that.
    let rest = if is_wanted() { "\nsleep 1" } else { "" };
    let large = format!("echo PYGEOAPI_K8S_MANAGER_RESULT_START\nyes 0123456789 | head -c 600000{rest}");
    let server = server(&[process("large", TEXT, "", &large)]);
    let client = server.client();
    let id = client.submit("large", &json!({})).await;
    assert_eq!(client.ended(&id).await["status"], "successful");
    let whole = client.get(&format!("/jobs/{id}/results")).await.expect(200);
    assert_eq!(whole.body.len(), 600_000, "{:?}", &whole.text()[..60.min(whole.body.len())]);
    assert!(whole.text().starts_with("0123456789\n0123"));
    let key = format!("results/{id}/0");
    assert_eq!(server.archived("results/").get(&key), Some(&600_000));
    let path = format!("/jobs/{id}/results/text");
    let part = client.send(Method::GET, &path, &[("range", "bytes=11-20")], "").await.expect(206);
    assert_eq!(part.text(), "0123456789");
    client.delete(&format!("/jobs/{id}")).await.expect(200);
    assert!(server.archived("results/").is_empty(), "it is removed with its job");
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_seen_while_the_job_runs() {
    // A container of a cluster sees no file of this machine.
    let rest = if is_wanted() { "sleep 6" } else { "while [ ! -e \"$GO\" ]; do sleep 0.1; done" };
    let slow = &format!("echo 'VESPIARY_PROGRESS: 42 half way'\n{rest}");
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    let env = format!("      env: [ {{ name: GO, value: \"{}\" }} ]\n", go.display());
    let server = server(&[process("slow", TEXT, &env, slow)]);
    let client = server.client();
    let id = client.submit("slow", &json!({})).await;
    let seen: Value = until("progress", Duration::from_secs(20), || async {
        let job = client.job(&id).await;
        (job["progress"] == 42).then_some(job)
    })
    .await;
    assert_eq!((&seen["status"], &seen["message"]), (&json!("running"), &json!("half way")));
    // The live log is there meanwhile, and it is the one that is kept.
    let live = client.get(&format!("/jobs/{id}/logs")).await.expect(200).text();
    assert_eq!(live, "VESPIARY_PROGRESS: 42 half way\n");
    std::fs::write(&go, "").unwrap();
    assert_eq!(client.ended(&id).await["status"], "successful");
    assert_eq!(client.get(&format!("/jobs/{id}/logs")).await.expect(200).text(), live);
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_and_signals_are_told() {
    // The first process of a container cannot kill itself.
    let shot = if is_wanted() { "sh -c 'kill -9 $$'; exit $?" } else { "kill -9 $$" };
    let server =
        server(&[process("late", TEXT, "      deadline_seconds: 1\n", "sleep 300"), process("shot", TEXT, "", shot)]);
    let client = server.client();
    for (name, reason, word) in [("late", "DeadlineExceeded", "deadline"), ("shot", "Error", "SIGKILL")] {
        let id = client.submit(name, &json!({})).await;
        let job = client.ended(&id).await;
        assert_eq!(job["status"], "failed", "{job}");
        assert!(job["message"].as_str().unwrap().contains(word), "{job}");
        let rows = server.sql(&format!("select reason from job_history where id = '{id}'"));
        assert_eq!(rows, [json!({ "reason": reason })]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_containers_are_one_log_with_headings() {
    let init = "      init_containers:\n        - { name: fetch, image: busybox:1.36, command: [echo, fetched] }\n";
    let server = server(&[process("two", TEXT, init, "echo PYGEOAPI_K8S_MANAGER_RESULT_START\nprintf done")]);
    let client = server.client();
    let id = client.submit("two", &json!({})).await;
    assert_eq!(client.ended(&id).await["status"], "successful");
    assert_eq!(client.get(&format!("/jobs/{id}/results")).await.expect(200).text(), "done");
    let log = client.get(&format!("/jobs/{id}/logs")).await.expect(200).text();
    assert_eq!(
        log,
        "==> container fetch <==\nfetched\n==> container main <==\nPYGEOAPI_K8S_MANAGER_RESULT_START\ndone"
    );
}
