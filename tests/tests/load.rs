//! Five hundred executions at once, some of which fail, are dismissed or meet a processor that traps: all end right, and the API, the
//! history and the archive agree.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use vespiary_tests::cluster::is_wanted;
use vespiary_tests::{Client, Server, ServerOptions, until};

/// A small cluster ends two or three jobs a second; there it is a hundred.
fn executions() -> usize {
    if is_wanted() { 100 } else { 500 }
}

#[derive(Debug, Clone, PartialEq)]
enum Sent {
    Accepted { id: String, expected: &'static str, text: String },
    Trapped,
}

async fn one(client: Client, number: usize) -> Sent {
    let (expected, seconds, exit) = match number % 10 {
        0 => ("failed", 0.0, 3),
        1 => ("dismissed", 600.0, 0),
        _ => ("successful", 0.01, 0),
    };
    let trap = if number % 10 == 5 { "random" } else { "never" };
    let text = format!("result of {number}\nline two");
    let body = json!({ "inputs": { "seconds": seconds, "exit": exit, "text": text, "trap": trap } });
    // What a good client does: a 503 is sent again, with a key so that nothing can be done twice.
    let key = format!("execution-{number}");
    let headers = [("prefer", "respond-async"), ("idempotency-key", key.as_str())];
    let answer = until("the server to have room", Duration::from_secs(60), || async {
        let answer = client.execute("misbehaving", &body, &headers).await;
        if answer.status == 503 {
            assert!(!answer.header("retry-after").is_empty());
            tokio::time::sleep(Duration::from_secs(1)).await;
            return None;
        }
        Some(answer)
    })
    .await;
    if answer.status == 500 {
        assert_eq!((trap, answer.problem().as_str()), ("random", "processor-failed"), "{}", answer.text());
        return Sent::Trapped;
    }
    let id = answer.expect(201).json()["jobID"].as_str().unwrap().to_owned();
    if expected == "dismissed" {
        let dismissed = until("the dismissal to be taken", Duration::from_secs(60), || async {
            let answer = client.delete(&format!("/jobs/{id}")).await;
            (answer.status != 503).then_some(answer)
        })
        .await;
        assert_eq!(dismissed.expect(200).json()["status"], "dismissed");
    }
    Sent::Accepted { id, expected, text }
}

/// Every job that the list shows, by pages.
async fn listed(client: &Client, query: &str) -> Vec<Value> {
    let mut jobs = Vec::new();
    let mut next = Some(format!("/jobs?limit=37{query}"));
    while let Some(path) = next {
        let page = client.get(&path).await.expect(200).json();
        jobs.extend(page["jobs"].as_array().unwrap().iter().cloned());
        let links = page["links"].as_array().unwrap();
        next = links.iter().find(|link| link["rel"] == "next").map(|link| link["href"].as_str().unwrap().to_owned());
    }
    jobs
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_at_once() {
    let config = format!(
        "processes:\n  - processor: {}\n    config: {{ trap_percent: 50, nonce: true }}\nserver: {{ max_concurrent_requests: 2000 }}\n",
        vespiary_tests::workspace::processor("misbehaving").display()
    );
    let server = Server::with(ServerOptions::default().config(&config));
    let client = server.client();
    let tasks: Vec<_> = (0..executions()).map(|number| tokio::spawn(one(client.clone(), number))).collect();
    let mut sent = Vec::new();
    for task in tasks {
        sent.push(task.await.unwrap());
    }
    let trapped = sent.iter().filter(|sent| **sent == Sent::Trapped).count();
    let random = executions() / 10;
    // Half of them; of ten, all or none is possible, if not likely.
    let usual = if random >= 50 { 5..=45 } else { 0..=random };
    assert!(usual.contains(&trapped), "{trapped} of {random} processors trapped at random");
    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    for sent in &sent {
        let Sent::Accepted { id, expected: status, text } = sent else { continue };
        *expected.entry(status).or_default() += 1;
        let job = client.ended(id).await;
        assert_eq!(job["status"], *status, "{job}");
        let results = client.get(&format!("/jobs/{id}/results")).await;
        match *status {
            "successful" => assert_eq!(results.expect(200).text(), *text),
            "failed" => {
                assert_eq!(job["message"].as_str().unwrap(), "container 'main' ended with exit code 3");
                assert_eq!(results.expect(500).problem(), "job-failed");
            }
            _ => assert_eq!(results.expect(404).problem(), "result-not-available"),
        }
    }
    // Everything is captured and let go.
    until("all runs to be released", Duration::from_secs(60), || async { (server.runs_left() == 0).then_some(()) })
        .await;
    let accepted = executions() - trapped;
    let all = listed(&client, "").await;
    assert_eq!(all.len(), accepted);
    let mut ids: Vec<&str> = all.iter().map(|job| job["jobID"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), accepted, "no job twice");
    for (status, count) in &expected {
        assert_eq!(listed(&client, &format!("&status={status}")).await.len(), *count, "{status} in the API");
    }
    let by_status = server.sql("select status, count(*) as jobs from job_history group by status");
    let by_status: BTreeMap<&str, usize> =
        by_status.iter().map(|row| (row["status"].as_str().unwrap(), row["jobs"].as_u64().unwrap() as usize)).collect();
    assert_eq!(by_status, expected, "in SQL");
    // One log for each job that ran, of the size that the history says.
    let kept = server.sql("select id, log_size from job_history where log_uri is not null");
    let in_history: BTreeMap<String, u64> = kept
        .iter()
        .map(|row| (format!("logs/{}.log", row["id"].as_str().unwrap()), row["log_size"].as_u64().unwrap()))
        .collect();
    assert_eq!(server.archived("logs/"), in_history, "the archive and the history agree");
    let ran = server
        .sql("select count(*) as jobs from job_history where status in ('successful', 'failed') and log_uri is null");
    assert_eq!(ran[0]["jobs"], 0, "every job that ran has its log");
}
