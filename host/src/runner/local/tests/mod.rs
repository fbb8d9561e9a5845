//! The local runner on real processes. The shim is this test binary: one test of it acts as the shim when it is started as one.

mod containers;
mod logs;
mod recovery;

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::core::JobPlan;
use crate::runner::contract;

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// The variable that makes [`acts_as_the_shim`] act.
const ACT: &str = "VESPIARY_TEST_ACTS_AS_SHIM";

#[test]
fn acts_as_the_shim() {
    if std::env::var_os(ACT).is_some() {
        let run_dir = std::env::args_os().next_back().unwrap();
        let code = if shim::main(Path::new(&run_dir)) == std::process::ExitCode::SUCCESS { 0 } else { 1 };
        std::process::exit(code);
    }
}

fn this_binary() -> ShimProgram {
    let args = ["--exact", "runner::local::tests::acts_as_the_shim", "--test-threads=1"];
    ShimProgram {
        program: std::env::current_exe().unwrap(),
        args: args.map(OsString::from).to_vec(),
        env: vec![(ACT.into(), "1".into())],
    }
}

fn settings() -> Settings {
    Settings { max_running: NonZeroU32::new(20), grace_seconds: 2, retry_delay_ms: 50, ..Settings::default() }
}

async fn open(data: &Path) -> LocalRunner {
    open_with(data, settings()).await
}

async fn open_with(data: &Path, settings: Settings) -> LocalRunner {
    LocalRunner::open_with(settings, data, this_binary(), PATIENCE).await.unwrap()
}

fn data() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn shell(script: &str) -> JobPlan {
    let container = crate::core::plan::Container {
        name: "main".to_owned(),
        image: "busybox:1".to_owned(),
        command: ["sh", "-c", script].map(ToOwned::to_owned).to_vec(),
        ..Default::default()
    };
    JobPlan { containers: vec![container], ..JobPlan::default() }
}

async fn begin(runner: &LocalRunner, plan: JobPlan) -> JobId {
    let launch = contract::launch(plan);
    runner.launch(&launch).await.unwrap();
    launch.job_id
}

async fn end(runner: &LocalRunner, job_id: JobId) -> crate::core::ExitState {
    contract::ended(runner, job_id, PATIENCE).await
}

async fn run(runner: &LocalRunner, plan: JobPlan) -> (crate::core::ExitState, String) {
    let job_id = begin(runner, plan).await;
    let exit = end(runner, job_id).await;
    (exit, text(runner, job_id).await)
}

/// All sections of the log as one text.
async fn text(runner: &LocalRunner, job_id: JobId) -> String {
    let sections = contract::log(runner, job_id, false).await;
    sections.into_iter().map(|(_, bytes)| String::from_utf8(bytes).unwrap()).collect()
}

/// Waits for a condition.
async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "it never came: {what}");
}

async fn printed(runner: &LocalRunner, job_id: JobId, wanted: &str) -> String {
    eventually(wanted, async || text(runner, job_id).await.contains(wanted)).await;
    text(runner, job_id).await
}

fn folder(data: &TempDir, job_id: JobId) -> PathBuf {
    data.path().join("runs").join(job_id.to_string())
}

/// Waits until only these folders of runs are left.
async fn swept(data: &TempDir, left: &[JobId]) {
    let left: Vec<_> = left.iter().map(|id| OsString::from(id.to_string())).collect();
    eventually("the trash's removal", async || {
        let entries = fs::read_dir(data.path().join("runs")).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>() == left
    })
    .await;
}

/// Whether a process is there that has not ended.
fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    let data = data();
    let runner: Arc<dyn Runner> = Arc::new(open(data.path()).await);
    let subject = contract::Subject {
        runner: Arc::clone(&runner),
        shell: &shell,
        patience: PATIENCE,
        notice: std::time::Duration::from_millis(200),
        deadline_seconds: 1,
        containers_at_once: false,
        outputs_in_order: true,
        keeps_carriage_returns: true,
    };
    contract::check(&subject).await;
    swept(&data, &[]).await;
}
