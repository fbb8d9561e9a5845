//! What every runner must do, as one suite that any runner can be put through.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // A suite of tests, also where `cfg(test)` is not set.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde_json::value::RawValue;

use super::{Launch, Runner, RunnerError};
use crate::core::{EndReason, ExitState, JobId, JobPlan, LogEvent, Observation, RunState, Timestamp};

/// What the suite needs to know of the runner under test.
pub struct Subject<'a> {
    /// The runner.
    pub runner: Arc<dyn Runner>,
    /// A plan of one container, `main`, that runs this text with `sh -c`.
    pub shell: &'a (dyn Fn(&str) -> JobPlan + Sync),
    /// The longest that a run of a moment may take from launch to its observed end.
    pub patience: Duration,
    /// The longest that a run may be running without being observed so.
    pub notice: Duration,
    /// A deadline in seconds by which a run of a moment has started.
    pub deadline_seconds: u32,
    /// Whether the containers of a plan run beside one another, not one after another.
    pub containers_at_once: bool,
    /// Whether what a container writes to its two outputs is in the log in the order in which it was written.
    pub outputs_in_order: bool,
    /// Whether a carriage return before a line feed stays. Container runtimes that write logs by lines take it for a part of the line's end.
    pub keeps_carriage_returns: bool,
}

/// Runs the whole suite; panics where the runner does not do as it must.
pub async fn check(subject: &Subject<'_>) {
    subject.runner.ready().await.unwrap();
    subject.succeeds().await;
    subject.fails().await;
    subject.cannot_start().await;
    subject.several_containers().await;
    subject.cancelled_while_it_runs().await;
    subject.cancelled_at_once().await;
    subject.stopped_at_its_deadline().await;
    subject.tried_again().await;
    subject.logs_byte_for_byte().await;
    subject.logs_followed().await;
    subject.launched_once().await;
    subject.unknown_runs().await;
    subject.observed_from_the_start().await;
    subject.refuses().await;
}

/// A launch of this plan, with inputs.
#[must_use]
pub fn launch(plan: JobPlan) -> Launch {
    Launch {
        job_id: JobId::new(),
        process_id: "contract".parse().unwrap(),
        plan: Arc::new(plan),
        inputs: Some(RawValue::from_string(r#"{"name":"Ada \"L\""}"#.to_owned()).unwrap().into()),
        nonce: None,
        created: Timestamp::now(),
        masked: None,
    }
}

/// A log as sections: container and bytes.
pub async fn log(runner: &dyn Runner, job_id: JobId, follow: bool) -> Vec<(String, Vec<u8>)> {
    let mut sections: Vec<(String, Vec<u8>)> = Vec::new();
    let mut events = runner.logs(job_id, follow).await.unwrap();
    while let Some(event) = events.next().await {
        match event.unwrap() {
            LogEvent::Container { name } => sections.push((name.to_string(), Vec::new())),
            LogEvent::Bytes(bytes) => {
                assert!(!bytes.is_empty() && bytes.len() <= 1024 * 1024);
                sections.last_mut().unwrap().1.extend_from_slice(&bytes);
            }
            LogEvent::Missing { reason } => panic!("missing: {reason}"),
        }
    }
    sections
}

/// Waits for a state of a run by what is observed alone.
pub async fn observed(
    runner: &dyn Runner,
    job_id: JobId,
    patience: Duration,
    wanted: impl Fn(&RunState) -> bool,
) -> RunState {
    let mut observations = runner.observations();
    let found = tokio::time::timeout(patience, async {
        loop {
            let runs = match observations.next().await.unwrap() {
                Observation::List(runs) => runs,
                Observation::Change(run) => vec![run],
            };
            if let Some(run) = runs.into_iter().find(|run| run.job_id == job_id && wanted(&run.state)) {
                return run.state;
            }
        }
    });
    match found.await {
        Ok(state) => state,
        Err(_) => panic!("not observed in time; the run is {:?}", runner.state(job_id).await),
    }
}

/// Waits for the end of a run.
pub async fn ended(runner: &dyn Runner, job_id: JobId, patience: Duration) -> ExitState {
    match observed(runner, job_id, patience, |state| matches!(state, RunState::Ended(_))).await {
        RunState::Ended(exit) => exit,
        state => panic!("{state:?} is no end"),
    }
}

impl Subject<'_> {
    async fn begin(&self, plan: JobPlan) -> JobId {
        let launch = launch(plan);
        self.runner.launch(&launch).await.unwrap();
        launch.job_id
    }

    async fn end(&self, job_id: JobId) -> ExitState {
        ended(&*self.runner, job_id, self.patience).await
    }

    async fn running(&self, job_id: JobId) {
        observed(&*self.runner, job_id, self.patience, |state| matches!(state, RunState::Running { .. })).await;
    }

    /// Waits until the run has printed this.
    async fn printed(&self, job_id: JobId, text: &str) {
        let waited = tokio::time::timeout(self.patience, async {
            while !log(&*self.runner, job_id, false)
                .await
                .iter()
                .any(|(_, log)| String::from_utf8_lossy(log).contains(text))
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        waited.await.unwrap();
    }

    async fn release(&self, job_id: JobId) {
        self.runner.release(job_id).await.unwrap();
        self.runner.release(job_id).await.unwrap();
    }

    async fn succeeds(&self) {
        let plan = (self.shell)(
            r#"printf '%s|%s|%s' "$PYGEOAPI_JOB_ID" "$PYGEOAPI_PROCESS_ID" "$PYGEOAPI_K8S_MANAGER_INPUTS""#,
        );
        let job_id = self.begin(plan).await;
        let exit = self.end(job_id).await;
        assert_eq!((exit.reason, exit.exit_code, exit.signal), (EndReason::Completed, Some(0), None), "{exit:?}");
        assert!(exit.is_success() && exit.started.unwrap() <= exit.finished && !exit.message.is_empty());
        let expected = format!(r#"{job_id}|contract|{{"name":"Ada \"L\""}}"#);
        assert_eq!(log(&*self.runner, job_id, false).await, [("main".to_owned(), expected.into_bytes())]);
        match self.runner.state(job_id).await.unwrap() {
            Some(RunState::Ended(again)) => assert_eq!(again, exit),
            state => panic!("{state:?}"),
        }
        self.release(job_id).await;
        assert!(self.runner.state(job_id).await.unwrap().is_none());
    }

    async fn fails(&self) {
        let script = if self.outputs_in_order {
            "echo out; echo err >&2; exit 3"
        } else {
            "echo out; sleep 1; echo err >&2; exit 3"
        };
        let job_id = self.begin((self.shell)(script)).await;
        let exit = self.end(job_id).await;
        assert_eq!((exit.reason, exit.exit_code, exit.container.as_deref()), (EndReason::Error, Some(3), Some("main")));
        assert!(exit.message.contains("'main'") && exit.message.contains('3'), "{}", exit.message);
        assert_eq!(log(&*self.runner, job_id, true).await, [("main".to_owned(), b"out\nerr\n".to_vec())]);
        self.release(job_id).await;
    }

    async fn cannot_start(&self) {
        let mut plan = (self.shell)("true");
        plan.containers[0].command = vec!["/no/such/command".to_owned()];
        let job_id = self.begin(plan).await;
        let exit = self.end(job_id).await;
        assert_eq!(exit.reason, EndReason::StartError);
        assert!(exit.message.contains("/no/such/command"), "{}", exit.message);
        self.release(job_id).await;
    }

    async fn several_containers(&self) {
        let container = |name: &str, script: &str| {
            let mut container = (self.shell)(script).containers.remove(0);
            container.name = name.to_owned();
            container
        };
        let mut plan = (self.shell)("echo main");
        plan.init_containers = vec![
            container("first", r#"echo "first ${PYGEOAPI_JOB_ID:+id} ${PYGEOAPI_K8S_MANAGER_INPUTS-none}""#),
            container("second", "echo second"),
        ];
        let job_id = self.begin(plan.clone()).await;
        assert!(self.end(job_id).await.is_success());
        let sections = [("first", "first id none\n"), ("second", "second\n"), ("main", "main\n")];
        let sections = sections.map(|(name, log)| (name.to_owned(), log.as_bytes().to_vec()));
        assert_eq!(log(&*self.runner, job_id, false).await, sections);
        self.release(job_id).await;

        plan.init_containers[1] = container("second", "echo bad; exit 4");
        let job_id = self.begin(plan).await;
        let exit = self.end(job_id).await;
        assert_eq!(
            (exit.reason, exit.container.as_deref(), exit.exit_code),
            (EndReason::Error, Some("second"), Some(4))
        );
        let sections = log(&*self.runner, job_id, false).await;
        assert_eq!(sections.len(), 2, "the main container began behind a failed init container: {sections:?}");
        self.release(job_id).await;

        let mut plan = JobPlan {
            containers: vec![container("one", "echo one"), container("two", "echo two; exit 6")],
            ..JobPlan::default()
        };
        let sections = [("one".to_owned(), b"one\n".to_vec()), ("two".to_owned(), b"two\n".to_vec())];
        let job_id = self.begin(plan.clone()).await;
        let exit = self.end(job_id).await;
        assert_eq!((exit.reason, exit.container.as_deref(), exit.exit_code), (EndReason::Error, Some("two"), Some(6)));
        assert_eq!(log(&*self.runner, job_id, false).await, sections);
        assert_eq!(log(&*self.runner, job_id, true).await, sections);
        self.release(job_id).await;

        plan.containers = vec![container("one", "echo one; exit 7"), container("two", "echo two")];
        let job_id = self.begin(plan).await;
        let exit = self.end(job_id).await;
        assert_eq!((exit.reason, exit.container.as_deref(), exit.exit_code), (EndReason::Error, Some("one"), Some(7)));
        let expected = if self.containers_at_once { &sections[..] } else { &sections[..1] };
        assert_eq!(log(&*self.runner, job_id, false).await, expected);
        self.release(job_id).await;
    }

    async fn cancelled_while_it_runs(&self) {
        let job_id = self.begin((self.shell)("echo here; sleep 600 & wait")).await;
        self.running(job_id).await;
        self.printed(job_id, "here").await;
        assert!(matches!(self.runner.release(job_id).await, Err(RunnerError::Refused(_)) | Ok(())));
        self.runner.cancel(job_id).await.unwrap();
        self.runner.cancel(job_id).await.unwrap();
        let exit = self.end(job_id).await;
        assert_eq!(exit.reason, EndReason::Cancelled, "{exit:?}");
        self.runner.cancel(job_id).await.unwrap();
        assert_eq!(log(&*self.runner, job_id, false).await, [("main".to_owned(), b"here\n".to_vec())]);
        self.release(job_id).await;
    }

    async fn cancelled_at_once(&self) {
        let job_id = self.begin((self.shell)("sleep 600")).await;
        self.runner.cancel(job_id).await.unwrap();
        assert_eq!(self.end(job_id).await.reason, EndReason::Cancelled);
        self.release(job_id).await;
    }

    async fn stopped_at_its_deadline(&self) {
        let plan = JobPlan { deadline_seconds: Some(self.deadline_seconds), retries: 3, ..(self.shell)("sleep 600") };
        let job_id = self.begin(plan).await;
        let exit = self.end(job_id).await;
        assert_eq!(exit.reason, EndReason::DeadlineExceeded, "{exit:?}");
        assert!(exit.finished.millis_since(exit.started.unwrap()) >= 900);
        self.release(job_id).await;
    }

    async fn tried_again(&self) {
        let plan = JobPlan { retries: 1, ..(self.shell)("echo once; exit 5") };
        let job_id = self.begin(plan).await;
        let exit = self.end(job_id).await;
        assert_eq!((exit.reason, exit.exit_code), (EndReason::Error, Some(5)));
        // The log is that of both attempts, whoever reads it.
        let once = ("main".to_owned(), b"once\n".to_vec());
        assert_eq!(log(&*self.runner, job_id, false).await, [once.clone(), once.clone()]);
        assert_eq!(log(&*self.runner, job_id, true).await, [once.clone(), once]);
        self.release(job_id).await;
    }

    async fn logs_byte_for_byte(&self) {
        let script = r"printf 'a\0b\r\n\377\n\n'; head -c 3000000 /dev/zero; printf 'no line feed'";
        let job_id = self.begin((self.shell)(script)).await;
        assert!(self.end(job_id).await.is_success());
        let sections = log(&*self.runner, job_id, false).await;
        assert_eq!(sections.len(), 1);
        let bytes = &sections[0].1;
        let first: &[u8] = if self.keeps_carriage_returns { b"a\0b\r\n\xff\n\n" } else { b"a\0b\n\xff\n\n" };
        let rest = bytes.strip_prefix(first).unwrap();
        assert_eq!(rest.len(), 3_000_000 + 12);
        assert!(rest[..3_000_000].iter().all(|byte| *byte == 0) && rest.ends_with(b"\0no line feed"));
        assert!(log(&*self.runner, job_id, true).await == sections, "the log followed is another");
        self.release(job_id).await;

        let job_id = self.begin((self.shell)("true")).await;
        assert!(self.end(job_id).await.is_success());
        assert_eq!(log(&*self.runner, job_id, true).await, [("main".to_owned(), Vec::new())]);
        self.release(job_id).await;
    }

    async fn logs_followed(&self) {
        let job_id = self.begin((self.shell)("for i in 1 2 3 4 5; do echo $i; sleep 0.1; done; printf end")).await;
        let sections = tokio::time::timeout(self.patience, log(&*self.runner, job_id, true)).await.unwrap();
        assert_eq!(sections, [("main".to_owned(), b"1\n2\n3\n4\n5\nend".to_vec())]);
        assert!(self.end(job_id).await.is_success());
        self.release(job_id).await;
    }

    async fn launched_once(&self) {
        let launch = launch((self.shell)(&format!("echo started; sleep {}", self.notice.as_secs_f32())));
        let many = futures::future::join_all((0..5).map(|_| self.runner.launch(&launch))).await;
        many.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
        self.running(launch.job_id).await;
        self.runner.launch(&launch).await.unwrap();
        let exit = self.end(launch.job_id).await;
        self.runner.launch(&launch).await.unwrap();
        assert_eq!(self.end(launch.job_id).await, exit);
        assert_eq!(log(&*self.runner, launch.job_id, false).await, [("main".to_owned(), b"started\n".to_vec())]);
        self.release(launch.job_id).await;
    }

    async fn unknown_runs(&self) {
        let job_id = JobId::new();
        self.runner.cancel(job_id).await.unwrap();
        self.release(job_id).await;
        assert!(self.runner.state(job_id).await.unwrap().is_none());
        assert!(matches!(self.runner.logs(job_id, true).await.err(), Some(RunnerError::NoSuchRun(id)) if id == job_id));
    }

    async fn observed_from_the_start(&self) {
        let done = self.begin((self.shell)("true")).await;
        self.end(done).await;
        let running = self.begin((self.shell)("sleep 600")).await;
        self.running(running).await;
        let mut observations = self.runner.observations();
        let Some(Observation::List(runs)) = observations.next().await else { panic!("the list does not come first") };
        let state = |id| runs.iter().filter(|run| run.job_id == id).map(|run| &run.state).collect::<Vec<_>>();
        assert!(matches!(state(done)[..], [RunState::Ended(_)]), "{runs:?}");
        assert!(matches!(state(running)[..], [RunState::Running { .. }]), "{runs:?}");
        self.runner.cancel(running).await.unwrap();
        self.end(running).await;
        self.release(done).await;
        self.release(running).await;
        let Some(Observation::List(runs)) = self.runner.observations().next().await else { panic!("no list") };
        assert!(runs.iter().all(|run| run.job_id != done && run.job_id != running));
    }

    async fn refuses(&self) {
        let plan = JobPlan::default();
        assert!(matches!(self.runner.check(&launch(plan.clone())), Err(RunnerError::Refused(_))));
        assert!(matches!(self.runner.launch(&launch(plan)).await, Err(RunnerError::Refused(_))));
        self.runner.check(&launch((self.shell)("true"))).unwrap();
    }
}
