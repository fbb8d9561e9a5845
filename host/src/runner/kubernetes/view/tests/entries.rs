//! All runs together: what changes by what, and what stays.

use super::super::entries::{About, Entries, PodRef};
use super::*;

fn shown(change: Option<RunObservation>) -> &'static str {
    match change.map(|change| change.state) {
        None => "-",
        Some(RunState::Incomplete) => "incomplete",
        Some(RunState::Waiting { .. }) => "waiting",
        Some(RunState::Running { .. }) => "running",
        Some(RunState::Ended(_)) => "ended",
    }
}

fn whole() -> Entries {
    let mut entries = Entries::new(rules());
    entries.complete(at(0));
    entries
}

fn take_pod(entries: &mut Entries, over: &Value) -> &'static str {
    shown(entries.pod(job_id(), read_pod(&pod_json(over), at(50)), at(50)))
}

fn take_job(entries: &mut Entries, over: &Value) -> &'static str {
    shown(entries.job(job_id(), read_job(&job_json(over), at(50)), at(50)))
}

#[test]
fn a_run_from_its_beginning_to_its_end() {
    let mut entries = whole();
    assert_eq!(take_job(&mut entries, &json!({})), "waiting");
    assert_eq!(shown(entries.warned(job_id(), About::Creation, "exceeded quota".to_owned(), at(50))), "waiting");
    assert_eq!(shown(entries.warned(job_id(), About::Creation, "exceeded quota".to_owned(), at(50))), "-");
    assert_eq!(take_pod(&mut entries, &json!({})), "waiting");
    assert_eq!(shown(entries.warned(job_id(), About::Pod, "no such volume".to_owned(), at(50))), "waiting");
    assert_eq!(take_pod(&mut entries, &json!({ "status": running(2) })), "running");
    assert_eq!(take_pod(&mut entries, &json!({ "status": running(2) })), "-");
    assert_eq!(take_pod(&mut entries, &json!({ "status": terminated(0, "Completed", 2, 9) })), "ended");
    // What the Job says later changes nothing.
    let failed = json!({ "status": { "conditions": [condition("Failed", "DeadlineExceeded", "m", 3)] } });
    assert_eq!(take_job(&mut entries, &failed), "-");
    assert!(matches!(entries.get(job_id()).unwrap().shown(), Some(RunState::Ended(exit)) if exit.is_success()));

    // Let go, it is no run any more, even if what comes in is older than that.
    let pods = entries.pods(job_id());
    entries.let_go(job_id(), &pods);
    assert!(entries.list().is_empty() && entries.pods(job_id()).iter().all(|pod| !pod.held));
    assert_eq!(take_job(&mut entries, &json!({})), "-");
    assert_eq!(take_pod(&mut entries, &json!({ "status": terminated(0, "Completed", 2, 9) })), "-");
    assert!(entries.get(job_id()).unwrap().shown().is_none());
    // Another pod that we hold is seen again, so that it is let go, too.
    assert_eq!(
        take_pod(&mut entries, &json!({ "metadata": { "uid": "p2", "creationTimestamp": at(30).to_string() } })),
        "running"
    );
    assert_eq!(shown(entries.pod_gone(job_id(), "p1", at(51))), "waiting");
    assert_eq!(shown(entries.pod_gone(job_id(), "p2", at(51))), "-");
    assert!(entries.job_gone(job_id(), "another", at(51)).is_none() && entries.get(job_id()).is_some());
    assert!(entries.job_gone(job_id(), "j1", at(51)).is_none() && entries.get(job_id()).is_none());
}

#[test]
fn half_of_the_facts_say_nothing() {
    let mut entries = Entries::new(rules());
    let complete =
        json!({ "status": { "active": 0, "succeeded": 1, "conditions": [condition("Complete", "", "", 9)] } });
    assert_eq!(take_job(&mut entries, &complete), "-");
    assert!(entries.list().is_empty());
    assert_eq!(take_pod(&mut entries, &json!({ "status": terminated(0, "Completed", 2, 9) })), "-");
    entries.complete(at(50));
    assert_eq!(entries.list().len(), 1);
}

#[test]
fn a_list_takes_away_what_it_does_not_name() {
    let mut entries = whole();
    take_job(&mut entries, &json!({}));
    take_pod(&mut entries, &json!({ "status": running(2) }));
    // A list from before the objects were made says nothing about them.
    entries.jobs_listed(&HashMap::new(), 99, at(50));
    entries.pods_listed(&HashSet::new(), 99, at(50));
    assert_eq!((entries.list().len(), entries.pods(job_id()).len()), (1, 1));
    entries.pods_listed(&HashSet::from(["p1".into()]), 200, at(50));
    entries.jobs_listed(&HashMap::from([(job_id(), "j1".into())]), 200, at(50));
    assert_eq!((entries.list().len(), entries.pods(job_id()).len()), (1, 1));
    entries.pods_listed(&HashSet::new(), 200, at(50));
    assert_eq!((entries.list().len(), entries.pods(job_id()).len()), (1, 0));
    entries.jobs_listed(&HashMap::from([(job_id(), "of another Job".into())]), 200, at(50));
    assert!(entries.list().is_empty() && entries.get(job_id()).is_none());
}

#[test]
fn another_job_of_the_same_name_is_another_run() {
    let mut entries = whole();
    take_job(&mut entries, &json!({}));
    assert_eq!(
        take_job(
            &mut entries,
            &json!({ "metadata": { "deletionTimestamp": at(9).to_string() }, "status": { "active": 0 } })
        ),
        "ended"
    );
    assert_eq!(take_job(&mut entries, &json!({ "metadata": { "uid": "j2" } })), "waiting");
}

#[test]
fn what_is_not_held_is_not_a_run() {
    let mut entries = whole();
    assert_eq!(take_job(&mut entries, &json!({ "metadata": { "finalizers": ["example.com/other"] } })), "-");
    assert_eq!(take_pod(&mut entries, &json!({ "metadata": { "finalizers": null } })), "-");
    assert!(entries.list().is_empty());
}

#[test]
fn pods_of_deleted_jobs_are_deleted() {
    let pause = Duration::from_secs(10);
    let mut entries = whole();
    take_job(&mut entries, &json!({}));
    take_pod(&mut entries, &json!({ "status": running(2) }));
    assert_eq!(entries.left_pods(at(50), pause), []);
    take_job(&mut entries, &json!({ "metadata": { "deletionTimestamp": at(9).to_string() } }));
    let pod = PodRef { name: format!("{}-abcde", job_name()), uid: "p1".to_owned(), held: true, terminated: false };
    assert_eq!(entries.left_pods(at(50), pause), [(job_id(), pod.clone())]);
    assert_eq!(entries.left_pods(at(51), pause), []);
    assert_eq!(entries.left_pods(at(60), pause), [(job_id(), pod)]);
    take_pod(&mut entries, &json!({ "metadata": { "deletionTimestamp": at(70).to_string() }, "status": running(2) }));
    assert_eq!(entries.left_pods(at(80), pause), []);
    // Seen to be deleted while it ran: it was stopped, even if it ended well in the same second.
    take_pod(
        &mut entries,
        &json!({ "metadata": { "deletionTimestamp": at(9).to_string() }, "status": terminated(0, "Completed", 2, 9) }),
    );
    let shown = entries.get(job_id()).unwrap().shown();
    assert!(matches!(shown, Some(RunState::Ended(exit)) if exit.message == "cancelled"), "{shown:?}");
}

#[test]
fn time_alone_changes_states() {
    let mut entries = whole();
    take_job(&mut entries, &json!({}));
    assert!(entries.due(at(599)).is_empty());
    assert_eq!(entries.due(at(600)).len(), 1);
    assert!(matches!(entries.get(job_id()).unwrap().shown(), Some(RunState::Ended(_))));
    assert!(entries.due(at(9999)).is_empty());
}
