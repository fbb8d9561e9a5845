//! What must hold of a job when it has ended, wherever it is looked at: status, result, log, history, and what is left on the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::{Client, Cluster, Server, until};

/// How long the server may take to let a run go, and the cluster to remove it.
const LET_GO_WITHIN: Duration = Duration::from_secs(60);

/// How a job must have ended.
#[derive(Debug, Clone, Copy)]
pub struct Verdict<'a> {
    /// Its status.
    pub status: &'a str,
    /// The reason in the history.
    pub reason: &'a str,
    /// What stands in its message, each of them.
    pub words: &'a [&'a str],
    /// The only output's bytes, where it has one.
    pub result: Option<&'a [u8]>,
    /// The whole log.
    pub log: &'a str,
    /// Whether its pod was deleted: then the kubelet may remove the log before anybody can read it, and the receipt must say so.
    pub pod_deleted: bool,
}

impl<'a> Verdict<'a> {
    /// Of a job that did what it should.
    #[must_use]
    pub fn success(result: &'a str, log: &'a str) -> Self {
        Self {
            status: "successful",
            reason: "Completed",
            words: &[],
            result: Some(result.as_bytes()),
            log,
            pod_deleted: false,
        }
    }

    /// Of a job that failed.
    #[must_use]
    pub fn failure(reason: &'a str, words: &'a [&'a str], log: &'a str) -> Self {
        Self { status: "failed", reason, words, result: None, log, pod_deleted: false }
    }

    /// The same of a job whose pod was deleted.
    #[must_use]
    pub fn of_deleted_pod(self) -> Self {
        Self { pod_deleted: true, ..self }
    }

    /// Waits until the job has ended, and looks everywhere.
    pub async fn hold(&self, server: &Server, id: &str) {
        let client = server.client();
        let job = client.ended(id).await;
        assert_eq!(job["status"], self.status, "{job}");
        let message = job["message"].as_str().unwrap_or_default();
        for word in self.words {
            assert!(message.contains(word), "'{word}' in: {message}");
        }
        let results = client.get(&format!("/jobs/{id}/results")).await;
        match (self.result, self.status) {
            (Some(wanted), _) => {
                let found = results.expect(200).body;
                assert!(found == wanted, "{} bytes, not {}: {:?}", found.len(), wanted.len(), head(&found));
            }
            (None, "successful") => assert!(results.expect(204).body.is_empty()),
            (None, "failed") => assert_eq!(results.expect(500).problem(), "job-failed"),
            _ => assert_eq!(results.expect(404).problem(), "result-not-available"),
        }
        let size = self.assert_log(server, &client, id).await;
        let history = server.sql(&format!("select status, reason, log_size from job_history where id = '{id}'"));
        assert_eq!(history, [json!({ "status": self.status, "reason": self.reason, "log_size": size })], "{message}");
    }

    /// The log as the API answers it, as the archive has it, as its receipt says: its size.
    async fn assert_log(&self, server: &Server, client: &Client, id: &str) -> usize {
        let receipt = until(&format!("the log of {id} to be kept"), LET_GO_WITHIN, || async {
            let answer = client.get(&format!("/jobs/{id}/receipt")).await;
            (answer.status == 200).then(|| answer.json())
        })
        .await;
        let log = client.get(&format!("/jobs/{id}/logs")).await.expect(200).text();
        let is_whole = receipt["complete"] == json!(true);
        if is_whole || !self.pod_deleted {
            assert!(is_whole, "{receipt}");
            assert!(log == self.log, "the log of {id}: {:?}", head(log.as_bytes()));
        } else {
            assert!(receipt["missing"].is_string() && log.contains("==> missing: "), "{receipt}: {log}");
        }
        assert_eq!(receipt["bytes"], json!(log.len()), "{receipt}");
        let key = format!("logs/{id}.log");
        assert_eq!(server.archived(&key), BTreeMap::from([(key, log.len() as u64)]));
        log.len()
    }
}

fn head(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..200).unwrap_or(bytes)).into_owned()
}

/// Many jobs of which all are to be the same success, and no other job is there.
pub async fn all_succeeded(
    server: &Server,
    cluster: &Cluster,
    ids: &[String],
    within: Duration,
    result: &str,
    log: &str,
) {
    let client = server.client();
    let open = "select count(*) as jobs from job_history where status in ('accepted', 'running') or log_uri is null";
    until("all jobs to end", within, || async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let left = server.sql(open);
        (left == [json!({ "jobs": 0 })]).then_some(())
    })
    .await;
    let rows = server.sql("select id, status, reason, message, log_size from job_history");
    let rows: BTreeMap<&str, &Value> = rows.iter().map(|row| (row["id"].as_str().expect("an id"), row)).collect();
    let mut wanted: Vec<&str> = ids.iter().map(String::as_str).collect();
    wanted.sort_unstable();
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), wanted, "no job lost, none doubled");
    for row in rows.values() {
        assert_eq!((&row["status"], &row["reason"]), (&json!("successful"), &json!("Completed")), "{row}");
        assert_eq!(row["log_size"], json!(log.len()), "{row}");
    }
    let objects: BTreeMap<String, u64> = ids.iter().map(|id| (format!("logs/{id}.log"), log.len() as u64)).collect();
    assert_eq!(cluster.objects("logs/"), objects);
    for id in ids {
        assert_eq!(client.get(&format!("/jobs/{id}/results")).await.expect(200).text(), result, "{id}");
        assert_eq!(client.get(&format!("/jobs/{id}/logs")).await.expect(200).text(), log, "{id}");
    }
    all_let_go(cluster).await;
}

/// Waits until nothing on the cluster is held by the server's finalizer, and no pod is stuck on its way out.
pub async fn all_let_go(cluster: &Cluster) {
    let namespace = cluster.namespace().expect("a cluster with the Kubernetes runner");
    until("everything to be let go", LET_GO_WITHIN, || async {
        (namespace.held().is_empty() && namespace.leaving().is_empty()).then_some(())
    })
    .await;
}
