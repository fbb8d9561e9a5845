//! Logs that are read while they grow, and while their run is released.

use futures::{StreamExt, TryStreamExt};

use super::*;

fn two(first: &str, second: &str) -> JobPlan {
    let mut plan = shell(second);
    let mut init = shell(first).containers.remove(0);
    init.name = "init".to_owned();
    plan.init_containers.push(init);
    plan
}

fn main_log(data: &TempDir, job_id: JobId) -> PathBuf {
    folder(data, job_id).join("log/0-main.log")
}

/// The rest of a log: bytes, and whether some are missing.
async fn rest(events: BoxStream<'static, Result<LogEvent, RunnerError>>) -> (String, bool) {
    let events: Vec<_> = tokio::time::timeout(PATIENCE, events.try_collect()).await.unwrap().unwrap();
    let mut bytes = Vec::new();
    let mut missing = false;
    for event in events {
        match event {
            LogEvent::Bytes(piece) => bytes.extend_from_slice(&piece),
            LogEvent::Missing { .. } => missing = true,
            LogEvent::Container { .. } => {}
        }
    }
    (String::from_utf8(bytes).unwrap(), missing)
}

#[tokio::test]
async fn without_follow_it_ends_at_what_was_there() {
    let data = data();
    let runner = open(data.path()).await;
    let job_id = begin(&runner, shell("echo before; while [ ! -e go ]; do sleep 0.02; done")).await;
    printed(&runner, job_id, "before").await;
    let mut events = runner.logs(job_id, false).await.unwrap();
    assert!(matches!(events.next().await, Some(Ok(LogEvent::Container { .. }))));
    // As if the container went on writing faster than it is read.
    let mut log = File::options().append(true).open(main_log(&data, job_id)).unwrap();
    log.write_all(b"behind").unwrap();
    assert_eq!(rest(events).await, ("before\n".to_owned(), false));
    runner.cancel(job_id).await.unwrap();
    end(&runner, job_id).await;
}

#[tokio::test]
async fn a_run_released_before_its_log_is_opened_is_none() {
    let data = data();
    let runner = open(data.path()).await;
    let job_id = begin(&runner, shell("echo text")).await;
    end(&runner, job_id).await;
    let run = runner.inner.run(job_id).unwrap();
    runner.release(job_id).await.unwrap();
    for follow in [false, true] {
        // As if the release had come between the look at the containers and the one at their logs.
        let names = Some(vec!["main".to_owned()]);
        let opened = super::super::logs::stream(Arc::clone(&runner.inner), Arc::clone(&run), names, follow).await;
        assert!(matches!(opened.err(), Some(RunnerError::NoSuchRun(id)) if id == job_id));
    }
}

#[tokio::test]
async fn a_run_released_in_the_middle_is_told_unless_nothing_is_missing() {
    let data = data();
    let runner = open(data.path()).await;
    for (plan, expected, missing) in [
        (shell("echo text"), "text\n", false),
        (two("echo first", "echo second"), "first\n", true),
        (two("echo first; exit 1", "echo second"), "first\n", false),
        (JobPlan { retries: 1, ..shell("echo text; exit 1") }, "text\n", true),
    ] {
        for follow in [false, true] {
            let job_id = begin(&runner, plan.clone()).await;
            end(&runner, job_id).await;
            let mut events = runner.logs(job_id, follow).await.unwrap();
            assert!(matches!(events.next().await, Some(Ok(LogEvent::Container { .. }))));
            runner.release(job_id).await.unwrap();
            assert_eq!(rest(events).await, (expected.to_owned(), missing), "{plan:?}");
        }
    }
}
