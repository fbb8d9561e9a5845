//! Logs of a fake API server: gaps, refusals, excuses.

use super::api::{Fake, LogAnswer, LogScript};
use super::watch::until;
use super::*;
use crate::core::LogEvent;
use crate::runner::kubernetes::KubernetesRunner;
use crate::runner::kubernetes::logs::logs;

const FIRST: &str = "2026-01-01T00:00:02.5Z a line";

async fn read(fake: &Fake, pod: &Value, follow: bool) -> Vec<Result<LogEvent, RunnerError>> {
    fake.put("jobs", job_json(&json!({})));
    fake.put("pods", pod.clone());
    let cluster = fake.cluster(60);
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let view = View::start(cluster.clone(), stop);
    if follow {
        // The container ends while its log is followed.
        let fake = fake.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            fake.put("pods", pod_json(&json!({ "status": terminated(0, "Completed", 2, 9) })));
        });
    }
    let events = logs(&cluster, &view, job_id(), follow).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), events.collect()).await.unwrap()
}

/// The events as one text.
fn text(events: &[Result<LogEvent, RunnerError>]) -> String {
    let mut text = String::new();
    for event in events {
        match event {
            Ok(LogEvent::Container { name }) => text.push_str(&format!("[{name}]")),
            Ok(LogEvent::Bytes(bytes)) => text.push_str(std::str::from_utf8(bytes).unwrap()),
            Ok(LogEvent::Missing { reason }) => text.push_str(&format!("<{reason}>")),
            Err(error) => text.push_str(&format!("!{error}!")),
        }
    }
    text
}

fn script(reads: &[LogAnswer]) -> Fake {
    let fake = Fake::default();
    fake.set_log("main", LogScript { reads: reads.iter().cloned().collect(), first: FIRST.to_owned() });
    fake
}

fn ended() -> Value {
    pod_json(&json!({ "status": terminated(0, "Completed", 2, 9) }))
}

#[tokio::test]
async fn read_at_its_end() {
    let cases = [
        (LogAnswer::Whole("one\ntwo"), "[main]one\ntwo"),
        (LogAnswer::Whole(""), "[main]"),
        (
            LogAnswer::Refused(404, "gone"),
            "[main]<pod 'pygeoapi-job-01a20b46-0ba2-77df-9211-339dbeb28b9a-abcde' is gone, and with it the log of container 'main'>",
        ),
        (LogAnswer::Refused(503, "later"), "[main]!the runner is not available: could not read a log!"),
        (LogAnswer::Broken("one"), "[main]one!the runner is not available: could not read a log!"),
    ];
    for (answer, expected) in cases {
        assert_eq!(text(&read(&script(&[answer]), &ended(), false).await), expected);
    }
}

#[tokio::test]
async fn a_followed_log_is_whole_whatever_breaks() {
    let cases: [&[LogAnswer]; 4] = [
        &[LogAnswer::Whole("one\ntwo\n")],
        &[LogAnswer::Broken("one"), LogAnswer::Broken("one\nt"), LogAnswer::Whole("one\ntwo\n")],
        // An end that looks orderly, since only the kubelet went away.
        &[LogAnswer::Whole("one\n"), LogAnswer::Whole("one\ntwo\n")],
        &[LogAnswer::Refused(502, "no kubelet"), LogAnswer::Broken(""), LogAnswer::Whole("one\ntwo\n")],
    ];
    for reads in cases {
        let events = read(&script(reads), &pod_json(&json!({ "status": running(2) })), true).await;
        assert_eq!(text(&events), "[main]one\ntwo\n");
    }
}

#[tokio::test]
async fn the_kubelets_excuse_is_not_the_log() {
    let removed = "[main]<the log of container 'main' was removed from its node>";
    let no_file = "failed to try resolving symlinks in path \"/var/log/pods/here_x_p1/main/0.log\": lstat: no such file or directory";
    for (answer, expected) in [
        ("unable to retrieve container logs for containerd://c1", removed),
        (
            "unable to retrieve container logs for containerd://c2",
            "[main]unable to retrieve container logs for containerd://c2",
        ),
        (no_file, removed),
    ] {
        assert_eq!(text(&read(&script(&[LogAnswer::Excuse(answer)]), &ended(), false).await), expected);
    }
}

#[tokio::test]
async fn a_log_that_begins_late_is_told() {
    // 40 s long; its first line comes 30 s after its start.
    let late = |read: &'static str| {
        let fake = Fake::default();
        let first = "2026-01-01T00:00:32Z a line".to_owned();
        fake.set_log("main", LogScript { reads: [LogAnswer::Excuse(read)].into(), first });
        fake
    };
    let long = pod_json(&json!({ "status": terminated(0, "Completed", 2, 42) }));
    assert_eq!(text(&read(&late("small\n"), &long, false).await), "[main]small\n");
    let large: &'static str = "x".repeat(1024 * 1024 + 1).leak();
    let told = text(&read(&late(large), &long, false).await);
    assert!(told.starts_with("[main]<the log begins long after its container did") && told.ends_with(large));
}

/// Reads the log of a run that has ended, after its first line was remembered while it ran.
async fn read_after(fake: &Fake, first: &'static str) -> String {
    fake.put("jobs", job_json(&json!({})));
    fake.put("pods", pod_json(&json!({ "status": running(2) })));
    let runner = KubernetesRunner::start(fake.cluster(60));
    let remembered = || runner.view.first_line("p1", "main").is_some();
    until("the first line to be remembered", remembered).await;
    fake.set_log("main", LogScript { reads: [LogAnswer::Whole("rest\n")].into(), first: first.to_owned() });
    fake.put("pods", ended());
    until("the end", || matches!(runner.view.state(job_id()), Some(RunState::Ended(_)))).await;
    let events = logs(&runner.cluster, &runner.view, job_id(), false).await.unwrap();
    text(&tokio::time::timeout(Duration::from_secs(60), events.collect::<Vec<_>>()).await.unwrap())
}

#[tokio::test]
async fn what_was_rotated_away_is_told_although_nobody_followed() {
    let before = script(&[LogAnswer::Whole("one\n")]);
    assert_eq!(read_after(&before, FIRST).await, "[main]rest\n");
    let told = read_after(&script(&[LogAnswer::Whole("one\n")]), "2026-01-01T00:00:05Z a line").await;
    assert_eq!(told, "[main]<the kubelet has rotated away what was written before 2026-01-01T00:00:05Z>rest\n");
    // Nothing was written behind the rotation.
    let emptied = script(&[LogAnswer::Whole("one\n")]);
    assert!(read_after(&emptied, "").await.starts_with("[main]<the kubelet has rotated away all that was written>"));
}

#[tokio::test]
async fn pods_that_are_gone_are_told() {
    let fake = Fake::default();
    let complete =
        json!({ "status": { "active": 0, "succeeded": 1, "conditions": [condition("Complete", "", "", 9)] } });
    fake.put("jobs", job_json(&complete));
    let runner = KubernetesRunner::start(fake.cluster(60));
    until("the end", || matches!(runner.view.state(job_id()), Some(RunState::Ended(_)))).await;
    let events: Vec<_> = logs(&runner.cluster, &runner.view, job_id(), false).await.unwrap().collect().await;
    assert_eq!(text(&events), "<a pod of the run is gone, and with it its log>");
}

#[tokio::test]
async fn what_never_ran_has_no_section() {
    let waiting = pod_json(&json!({ "status": { "phase": "Failed", "reason": "Evicted",
        "containerStatuses": [main_status(&json!({ "waiting": { "reason": "ContainerCreating" } }))] } }));
    assert_eq!(text(&read(&script(&[LogAnswer::Whole("no")]), &waiting, false).await), "");
}
