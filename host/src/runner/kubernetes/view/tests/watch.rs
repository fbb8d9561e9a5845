//! Watches and their gaps.

use super::api::Fake;
use super::*;
use crate::runner::kubernetes::KubernetesRunner;
use crate::runner::kubernetes::launch_tests::plan;
use crate::runner::{Runner as _, contract};

/// A view of a fake cluster, once it is whole.
struct Subject {
    fake: Fake,
    view: Arc<View>,
    stop: CancellationToken,
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "it never came: {what}");
}

async fn watching(fake: Fake) -> Subject {
    watching_for(fake, 60).await
}

async fn watching_for(fake: Fake, seconds: u32) -> Subject {
    let stop = CancellationToken::new();
    let view = View::start(fake.cluster(seconds), stop.clone());
    let subject = Subject { fake, view, stop };
    subject.fresh().await;
    subject
}

impl Subject {
    async fn fresh(&self) {
        until("a fresh view", || self.view.ready().is_ok()).await;
        until("watches", || self.fake.watches("jobs") == 1 && self.fake.watches("pods") == 1).await;
    }

    fn is(&self, wanted: &str) -> bool {
        matches!(
            (wanted, self.view.state(job_id())),
            ("waiting", Some(RunState::Waiting { .. }))
                | ("running", Some(RunState::Running { .. }))
                | ("ended", Some(RunState::Ended(_)))
                | ("none", None)
        )
    }

    async fn shows(&self, wanted: &str) {
        until(wanted, || self.is(wanted)).await;
    }
}

fn with_run() -> Fake {
    let fake = Fake::default();
    fake.put("jobs", job_json(&json!({})));
    // Another's Job that has our labels: none of ours.
    fake.put("jobs", job_json(&json!({ "metadata": { "uid": "j9", "name": "something-else" } })));
    fake.put("pods", pod_json(&json!({ "status": running(2) })));
    fake
}

fn recent() -> Value {
    json!({ "metadata": { "creationTimestamp": Timestamp::now().to_string() } })
}

fn ended() -> Value {
    pod_json(&json!({ "status": terminated(0, "Completed", 2, 9) }))
}

#[tokio::test]
async fn lists_in_pages_then_watches() {
    let subject = watching(with_run()).await;
    assert!(subject.is("running"));
    assert_eq!((subject.fake.lists("jobs"), subject.fake.lists("pods")), (2, 1));
    let mut observations = subject.view.observations();
    let Some(Observation::List(runs)) = observations.next().await else { panic!("the list does not come first") };
    assert_eq!(runs.len(), 1);
    subject.fake.put("pods", ended());
    let Some(Observation::Change(run)) = observations.next().await else { panic!("no change") };
    assert!(matches!(run.state, RunState::Ended(exit) if exit.is_success()));
    // And again and again, without a call.
    let calls = subject.fake.calls().len();
    for _ in 0..2 {
        assert!(matches!(observations.next().await, Some(Observation::List(_))));
    }
    assert_eq!(subject.fake.calls().len(), calls);
    subject.stop.cancel();
    assert!(observations.next().await.is_none());
}

#[tokio::test]
async fn an_orderly_end_or_a_cut_is_no_gap() {
    for orderly in [true, false] {
        let subject = watching(with_run()).await;
        subject.fake.cut(orderly);
        subject.fresh().await;
        subject.fake.put("pods", ended());
        subject.shows("ended").await;
        assert_eq!(subject.fake.lists("pods"), 1);
        // From where it was, not from the start.
        assert_eq!(subject.fake.asked_from("pods"), ["1003", "1003"]);
    }
}

#[tokio::test]
async fn after_410_everything_is_listed_again() {
    let subject = watching(with_run()).await;
    let mut observations = subject.view.observations();
    observations.next().await.unwrap();
    // Ended and gone while nobody looked.
    subject.fake.take("pods", "p1", false);
    subject.fake.take("jobs", "j1", false);
    let gone = json!({ "kind": "Status", "code": 410, "status": "Failure", "reason": "Expired", "message": "too old resource version" });
    subject.fake.send("pods", "ERROR", &gone);
    subject.fake.send("jobs", "ERROR", &gone);
    subject.shows("none").await;
    let told = tokio::time::timeout(Duration::from_secs(4), async {
        loop {
            if let Some(Observation::List(runs)) = observations.next().await
                && runs.is_empty()
            {
                return;
            }
        }
    });
    told.await.unwrap();
    assert!(subject.fake.lists("jobs") >= 3);
    // 410 may also be the answer to the call.
    subject.fake.put("jobs", job_json(&recent()));
    subject.shows("waiting").await;
    subject.fake.cut(true);
    subject.fake.fail(&[410, 410]);
    subject.fresh().await;
    assert!(subject.is("waiting"));
}

#[tokio::test]
async fn a_dead_connection_is_noticed() {
    let subject = watching_for(with_run(), 1).await;
    assert_eq!(subject.fake.watches("pods"), 1);
    // Nothing comes any more: at the latest when the API server would have ended the watch, it is begun anew.
    until("a new watch", || subject.fake.asked_from("pods").len() > 1).await;
    assert!(subject.view.ready().is_ok());
    assert_eq!(subject.fake.lists("pods"), 1);
}

#[tokio::test]
async fn an_api_server_that_is_gone_makes_the_view_stale() {
    let subject = watching(with_run()).await;
    subject.fake.break_down(Some(503));
    subject.fake.cut(false);
    until("a stale view", || subject.view.ready().is_err()).await;
    let error = subject.view.ready().unwrap_err();
    assert!(
        matches!(&error, RunnerError::Unavailable { source, .. } if source.to_string().contains("made up")),
        "{error:?}"
    );
    assert!(subject.view.is_unsettled());
    // What was known is still known, but not told as the whole truth.
    assert!(subject.is("running"));
    let mut observations = subject.view.observations();
    assert!(tokio::time::timeout(Duration::from_secs(6), observations.next()).await.is_err());
    subject.fake.break_down(None);
    subject.fresh().await;
    subject.fake.put("pods", ended());
    subject.shows("ended").await;
    assert!(matches!(observations.next().await, Some(Observation::List(_) | Observation::Change(_))));
}

#[tokio::test]
async fn an_api_server_that_has_just_come_back_does_not_refuse_for_ever() {
    let fake = Fake::default();
    let runner = KubernetesRunner::start(fake.cluster(60));
    let whole = async || {
        until("a fresh view", || runner.view.ready().is_ok()).await;
        until("watches", || ["jobs", "pods", "events"].iter().all(|kind| fake.watches(kind) == 1)).await;
    };
    let forbidden = async || {
        fake.fail(&[403]);
        runner.launch(&contract::launch(plan(&["true"]))).await.unwrap_err()
    };
    whole().await;
    let refused = forbidden().await;
    assert!(matches!(refused, RunnerError::Refused(_)), "{refused}");
    fake.cut(false);
    until("the failure to be noticed", || runner.view.is_unsettled()).await;
    whole().await;
    let refused = forbidden().await;
    assert!(matches!(refused, RunnerError::Unavailable { .. }), "{refused}");
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_is_not_waited_for() {
    let fake = with_run();
    fake.hang(true);
    let stop = CancellationToken::new();
    let view = View::start(fake.cluster(60), stop.clone());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(view.ready().is_err() && view.state(job_id()).is_none());
    fake.hang(false);
    until("a fresh view", || view.ready().is_ok()).await;
    assert!(view.state(job_id()).is_some());
    stop.cancel();
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_no_end() {
    let subject = watching(with_run()).await;
    subject.fake.send("pods", "MODIFIED", &json!({ "metadata": 7 }));
    subject.fake.send("pods", "NEWS", &json!({}));
    until("another list", || subject.fake.lists("pods") >= 2).await;
    subject.fake.put("pods", ended());
    subject.shows("ended").await;
}

#[tokio::test]
async fn bookmarks_move_on() {
    let subject = watching(with_run()).await;
    subject.fake.send("pods", "BOOKMARK", &json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "resourceVersion": "4000", "creationTimestamp": null } }));
    subject.fake.cut(true);
    until("a new watch", || subject.fake.asked_from("pods").len() == 2).await;
    assert_eq!(subject.fake.asked_from("pods")[1], "4000");
}

#[tokio::test]
async fn warnings_become_messages() {
    let fake = Fake::default();
    fake.put("jobs", job_json(&recent()));
    let subject = watching(fake).await;
    until("the watch of events", || subject.fake.watches("events") == 1).await;
    let warning = |kind: &str, reason: &str| {
        json!({ "metadata": { "uid": reason, "name": "e" }, "type": "Warning", "reason": reason, "message": "exceeded quota: small",
            "involvedObject": { "kind": kind, "name": job_name(), "uid": "j1" } })
    };
    subject.fake.put("events", warning("Job", "Irrelevant"));
    subject.fake.put("events", warning("Job", "FailedCreate"));
    let says = || match subject.view.state(job_id()) {
        Some(RunState::Waiting { message: Some(message) }) => message,
        _ => String::new(),
    };
    until("the message", || says() == "waiting: its pod could not be made: exceeded quota: small").await;
    subject.fake.put("pods", pod_json(&json!({})));
    until("no message", || says().is_empty()).await;
}

#[tokio::test]
async fn pods_of_a_deleted_job_are_deleted() {
    let subject = watching(with_run()).await;
    let mut deleted = json!({ "metadata": { "deletionTimestamp": at(9).to_string() } });
    deleted["metadata"]["deletionGracePeriodSeconds"] = json!(0);
    subject.fake.put("jobs", job_json(&deleted));
    let wanted = format!("DELETE /api/v1/namespaces/here/pods/{}-abcde", job_name());
    until("the deletion", || subject.fake.calls().contains(&wanted)).await;
}
