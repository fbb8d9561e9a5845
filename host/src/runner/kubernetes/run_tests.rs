//! Runs on a real cluster: the contract of all runners, and what only a cluster does to a run.

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::Api;
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::launch_tests::{PATIENCE, on_a_cluster, plan, until};
use super::*;
use crate::core::{EndReason, ExitState, JobPlan};
use crate::runner::contract;

impl KubernetesRunner {
    async fn begin(&self, plan: JobPlan) -> JobId {
        let launch = contract::launch(plan);
        self.launch(&launch).await.unwrap();
        launch.job_id
    }

    async fn end(&self, id: JobId) -> ExitState {
        contract::ended(self, id, PATIENCE).await
    }

    async fn waits(&self, id: JobId, what: &str) -> String {
        let says = |state: &RunState| matches!(state, RunState::Waiting { message: Some(why) } if why.contains(what));
        match contract::observed(self, id, PATIENCE, says).await {
            RunState::Waiting { message } => message.unwrap(),
            state => panic!("{state:?}"),
        }
    }

    async fn runs(&self, id: JobId) {
        contract::observed(self, id, PATIENCE, |state| matches!(state, RunState::Running { .. })).await;
    }

    async fn events(&self, id: JobId, follow: bool) -> Vec<LogEvent> {
        let events = self.logs(id, follow).await.unwrap().map(Result::unwrap).collect::<Vec<_>>();
        tokio::time::timeout(PATIENCE, events).await.unwrap()
    }

    /// Releases; nothing is left but objects without our finalizer, which go when they are deleted.
    async fn gone(&self, id: JobId) {
        self.release(id).await.unwrap();
        assert!(self.state(id).await.unwrap().is_none());
        let api = self.cluster.jobs();
        let name = self.cluster.names.job(id);
        let _ = api.delete(&name, &DeleteParams::background()).await;
        until("end of the Job", async || api.get_opt(&name).await.unwrap().is_none().then_some(())).await;
        let selector = ListParams::default().labels(&format!("{}={id}", names::JOB_ID));
        let pods = self.cluster.pods();
        until("end of the pods", async || pods.list(&selector).await.unwrap().items.is_empty().then_some(())).await;
    }

    fn pod_name(&self, id: JobId) -> String {
        self.view.pods(id).pop().unwrap().name
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    on_a_cluster("contract", |runner| async move {
        until("view", async || runner.ready().await.ok()).await;
        let subject = contract::Subject {
            runner: Arc::new(runner),
            shell: &|script: &str| plan(&[script]),
            patience: PATIENCE,
            notice: std::time::Duration::from_secs(4),
            deadline_seconds: 6,
            containers_at_once: true,
            outputs_in_order: false,
            keeps_carriage_returns: false,
        };
        contract::check(&subject).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_run_waits_for_is_said() {
    on_a_cluster("waits", |runner| async move {
        let nowhere = JobPlan { node_selector: [("no".to_owned(), "such-node".to_owned())].into(), ..plan(&["true"]) };
        let mut unknown_image = plan(&["true"]);
        unknown_image.containers[0].image = "localhost/no-such-image:1".to_owned();
        let mut no_secret = plan(&["true"]);
        let variable = json!({ "name": "A", "value": { "secretKey": { "name": "no-such-secret", "key": "k" } } });
        no_secret.containers[0].env.push(serde_json::from_value(variable).unwrap());
        let mut no_claim = plan(&["true"]);
        no_claim.volumes = vec![
            serde_json::from_value(json!({ "name": "v", "source": { "configMap": { "name": "no-such-map" } } }))
                .unwrap(),
        ];
        no_claim.containers[0].mounts =
            vec![serde_json::from_value(json!({ "volume": "v", "mountPath": "/v" })).unwrap()];
        let queued = JobPlan { queue: Some("lab".to_owned()), ..plan(&["true"]) };
        let cases = [
            (nowhere, "no node takes its pod: 0/1 nodes are available"),
            (unknown_image, "image 'localhost/no-such-image:1' of container 'main' cannot be pulled: "),
            (no_secret, "container 'main' cannot be configured: secret \"no-such-secret\" not found"),
            (no_claim, "configmap \"no-such-map\" not found"),
            (queued, "in queue 'lab'"),
        ];
        let mut ids = Vec::new();
        for (plan, why) in cases {
            let id = runner.begin(plan).await;
            let message = runner.waits(id, why).await;
            assert!(message.starts_with("waiting: "), "{message}");
            ids.push((id, why));
        }
        // Whatever it waits for, it can be stopped, and the reason is kept.
        for (id, why) in ids {
            runner.cancel(id).await.unwrap();
            let exit = runner.end(id).await;
            assert_eq!(exit.reason, EndReason::Cancelled, "{exit:?}");
            assert!(exit.started.is_none() && exit.message.starts_with("cancelled before it started"), "{exit:?}");
            assert!(exit.message.contains(why), "{exit:?}");
            assert_eq!(runner.events(id, false).await, []);
            runner.gone(id).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_start_fails_in_time() {
    on_a_cluster("timeout", |runner| async move {
        let settings = Settings { start_timeout_seconds: 4, ..Settings::clone(&runner.cluster.settings) };
        let impatient = KubernetesRunner::start(Cluster { settings: Arc::new(settings), ..runner.cluster.clone() });
        let quotas: Api<ResourceQuota> = Api::namespaced(runner.cluster.client.clone(), runner.namespace());
        let nowhere = JobPlan {
            retries: 3,
            node_selector: [("no".to_owned(), "such-node".to_owned())].into(),
            ..plan(&["true"])
        };
        let id = impatient.begin(nowhere).await;
        let exit = impatient.end(id).await;
        assert_eq!((exit.reason, exit.started), (EndReason::StartError, None), "{exit:?}");
        assert!(exit.message.starts_with("not started within 4 s: no node takes its pod: "), "{exit:?}");
        // A node may come yet: who stops it must not be told that there is nothing to stop.
        impatient.cancel(id).await.unwrap();
        let job = runner.cluster.jobs().get(&runner.cluster.names.job(id)).await.unwrap();
        assert!(job.metadata.deletion_timestamp.is_some(), "{job:?}");
        impatient.gone(id).await;

        let none = json!({ "metadata": { "name": "none" }, "spec": { "hard": { "pods": "0" } } });
        quotas.create(&PostParams::default(), &serde_json::from_value(none).unwrap()).await.unwrap();
        until("quota", async || quotas.get("none").await.unwrap().status?.hard).await;
        let id = impatient.begin(plan(&["true"])).await;
        let exit = impatient.end(id).await;
        assert_eq!(exit.reason, EndReason::StartError);
        assert!(exit.message.contains("exceeded quota: none"), "{exit:?}");
        impatient.gone(id).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_that_a_cluster_makes() {
    on_a_cluster("ends", |runner| async move {
        let mut plan_oom = plan(&["echo begun; tail /dev/zero"]);
        plan_oom.containers[0].resources.limits.insert("memory".to_owned(), "20Mi".to_owned());
        let id = runner.begin(plan_oom).await;
        let exit = runner.end(id).await;
        assert_eq!((exit.reason, exit.container.as_deref()), (EndReason::OomKilled, Some("main")), "{exit:?}");
        assert!(exit.message.contains("memory is limited to 20Mi"), "{exit:?}");
        runner.gone(id).await;

        let id = runner.begin(plan(&["echo begun; kill -SEGV $$"])).await;
        let exit = runner.end(id).await;
        // A shell that is the first process of its container does not die of its own signals.
        assert!(matches!((exit.exit_code, exit.signal), (None, Some(11)) | (Some(_), None)), "{exit:?}");
        runner.gone(id).await;

        // Stopped from outside, by whatever reads none of our tables.
        let begin = async || {
            let id =
                runner.begin(plan(&["trap 'echo bye; exit 0' TERM; echo begun; while :; do sleep 0.1; done"])).await;
            runner.runs(id).await;
            let begun = LogEvent::Bytes("begun\n".into());
            until("first line", async || runner.events(id, false).await.contains(&begun).then_some(())).await;
            id
        };
        let (jobs, pods) = (runner.cluster.jobs(), runner.cluster.pods());
        let id = begin().await;
        jobs.delete(&runner.cluster.names.job(id), &DeleteParams::background()).await.unwrap();
        let exit = runner.end(id).await;
        assert_eq!((exit.reason, exit.message.as_str()), (EndReason::Cancelled, "cancelled"));
        let text = |events: Vec<LogEvent>| format!("{events:?}");
        let log = text(runner.events(id, false).await);
        assert!(log.contains("begun") && !log.contains("Missing"), "{log}");
        runner.gone(id).await;

        let id = begin().await;
        let pod = runner.pod_name(id);
        pods.evict(&pod, &EvictParams::default()).await.unwrap();
        let exit = runner.end(id).await;
        assert_eq!(exit.reason, EndReason::Lost, "{exit:?}");
        assert!(exit.message.starts_with("evicted from node '"), "{exit:?}");
        assert!(text(runner.events(id, false).await).contains("begun"));
        runner.gone(id).await;

        let id = begin().await;
        let pod = runner.pod_name(id);
        pods.delete(&pod, &DeleteParams::default()).await.unwrap();
        // Its work was done: the Job counts it so, too.
        assert!(runner.end(id).await.is_success());
        runner.gone(id).await;

        let id = runner.begin(plan(&["sleep 600"])).await;
        runner.runs(id).await;
        let pod = runner.pod_name(id);
        pods.delete(&pod, &DeleteParams::default()).await.unwrap();
        let exit = runner.end(id).await;
        assert_eq!(exit.message, format!("its pod '{pod}' was deleted"), "{exit:?}");
        runner.gone(id).await;

        let id = begin().await;
        let pod = runner.pod_name(id);
        // By force, and not held by us: nothing is left to be read.
        let others = json!({ "metadata": { "finalizers": ["batch.kubernetes.io/job-tracking"] } });
        pods.patch(&pod, &PatchParams::default(), &Patch::Merge(others)).await.unwrap();
        pods.delete(&pod, &DeleteParams::default().grace_period(0)).await.unwrap();
        let exit = runner.end(id).await;
        assert_eq!(exit.reason, EndReason::Lost, "{exit:?}");
        let told = runner.events(id, false).await;
        assert!(matches!(&told[..], [LogEvent::Missing { reason }] if reason.contains("is gone")), "{told:?}");
        runner.gone(id).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_rotated_says_so() {
    on_a_cluster("rotated", |runner| async move {
        // 14 MB and one line after, or none; the kubelet looks every ten seconds and keeps 10 MiB. A log that is rotated in its first
        // seconds, before anybody has looked where it begins, is not told from one that begins late.
        let line = "x".repeat(999);
        let script = format!("echo first; sleep 8; i=0; while [ $i -lt 14000 ]; do echo {line}; i=$((i+1)); done; sleep 25; echo last");
        let id = runner.begin(plan(&[&script])).await;
        runner.runs(id).await;
        let followed = runner.events(id, true).await;
        assert!(runner.end(id).await.is_success());
        let read = runner.events(id, false).await;
        let text = |events: &[LogEvent]| {
            let bytes = events.iter().filter_map(|event| match event {
                LogEvent::Bytes(bytes) => Some(bytes.to_vec()),
                LogEvent::Container { .. } | LogEvent::Missing { .. } => None,
            });
            String::from_utf8(bytes.flatten().collect()).unwrap()
        };
        // Followed from the start it is whole.
        assert!(!followed.iter().any(|event| matches!(event, LogEvent::Missing { .. })), "{:?}", &followed[..2]);
        let whole = text(&followed);
        assert_eq!(whole.len(), 6 + 14_000 * 1000 + 5);
        assert!(whole.starts_with("first\n") && whole.ends_with("x\nlast\n"));
        // Read at the end it is not, and says so at its beginning.
        assert!(matches!(&read[..2], [LogEvent::Container { .. }, LogEvent::Missing { reason }] if reason.contains("rotated")), "{:?}", &read[..2]);
        let kept = text(&read);
        assert!(kept.ends_with("last\n") && kept.len() < whole.len());
        runner.gone(id).await;

        // Nobody follows, and nothing comes behind the rotation.
        let silent = script.strip_suffix("; echo last").unwrap();
        let id = runner.begin(plan(&[silent])).await;
        assert!(runner.end(id).await.is_success());
        let read = runner.events(id, false).await;
        assert!(matches!(&read[..2], [LogEvent::Container { .. }, LogEvent::Missing { reason }] if reason.contains("rotated")), "{:?}", &read[..2]);
        runner.gone(id).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_goes_is_seen_off() {
    on_a_cluster("namespace", |runner| async move {
        let id = runner.begin(plan(&["echo begun; sleep 600"])).await;
        runner.runs(id).await;
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(runner.cluster.client.clone());
        namespaces.delete(runner.namespace(), &DeleteParams::default()).await.unwrap();
        let exit = runner.end(id).await;
        assert_eq!(exit.reason, EndReason::Cancelled, "{exit:?}");
        runner.events(id, false).await;
        runner.release(id).await.unwrap();
        until("end of the namespace", async || {
            namespaces.get_opt(runner.namespace()).await.unwrap().is_none().then_some(())
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_starts_sees_what_was_before_it() {
    on_a_cluster("restart", |runner| async move {
        let done = runner.begin(plan(&["echo done"])).await;
        let failed = runner.begin(JobPlan { deadline_seconds: Some(4), ..plan(&["sleep 600"]) }).await;
        let cancelled = runner.begin(plan(&["sleep 600"])).await;
        runner.runs(cancelled).await;
        runner.cancel(cancelled).await.unwrap();
        let mut exits = Vec::new();
        for id in [done, failed, cancelled] {
            exits.push((id, runner.end(id).await));
        }
        let job = runner.cluster.names.job(failed);
        until("the Job's own end", async || {
            let status = runner.cluster.jobs().get(&job).await.unwrap().status?;
            status.conditions?.iter().any(|condition| condition.type_ == "Failed").then_some(())
        })
        .await;
        // Let go as soon as its container has ended, long before the Job controller says so; who is late to stop it is too late,
        // and so is another replica.
        let brief = runner.begin(plan(&["echo brief"])).await;
        assert!(runner.end(brief).await.is_success());
        runner.release(brief).await.unwrap();
        runner.cancel(brief).await.unwrap();
        runner.release(brief).await.unwrap();
        let job = runner.cluster.jobs().get(&runner.cluster.names.job(brief)).await.unwrap();
        assert_eq!(job.metadata.deletion_timestamp, None);
        let cluster = runner.cluster.clone();
        drop(runner);
        let next = KubernetesRunner::start(cluster);
        for (id, before) in exits {
            let after = next.end(id).await;
            assert_eq!((after.reason, &after.message, after.started), (before.reason, &before.message, before.started));
            next.gone(id).await;
        }
    })
    .await;
}
