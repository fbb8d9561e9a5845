//! Servers and shims that die, runs that wait, disks that fail, many runs at once.

use std::time::{Duration, Instant};

use futures::StreamExt;

use super::*;
use crate::core::EndReason;

fn pid_of_shim(data: &TempDir, job_id: JobId) -> Option<rustix::process::Pid> {
    let lock = File::options().write(true).open(folder(data, job_id).join("lock")).ok()?;
    let wanted = rustix::process::Flock::from(rustix::process::FlockType::WriteLock);
    rustix::process::fcntl_getlk(&lock, &wanted).ok()??.pid
}

#[tokio::test]
async fn a_run_goes_on_while_the_server_is_gone() {
    let data = data();
    let runner = open(data.path()).await;
    let going = begin(&runner, shell("echo begun; while [ ! -e go ]; do sleep 0.02; done; echo on")).await;
    let done = begin(&runner, shell("echo begun; while [ ! -e go ]; do sleep 0.02; done; echo done; exit 2")).await;
    printed(&runner, going, "begun").await;
    printed(&runner, done, "begun").await;
    drop(runner);

    fs::write(folder(&data, done).join("work/go"), "").unwrap();
    eventually("the end", async || folder(&data, done).join("ended.json").exists()).await;

    let runner = open(data.path()).await;
    assert!(matches!(runner.state(going).await.unwrap(), Some(RunState::Running { .. })));
    assert_eq!(end(&runner, done).await.exit_code, Some(2));
    let mut observations = runner.observations();
    let Some(Observation::List(runs)) = observations.next().await else { panic!("no list") };
    assert_eq!(runs.len(), 2);
    fs::write(folder(&data, going).join("work/go"), "").unwrap();
    assert!(end(&runner, going).await.is_success());
    assert_eq!(text(&runner, going).await, "begun\non\n");
}

#[tokio::test]
async fn a_killed_shim_is_a_lost_run_and_leaves_nothing_running() {
    let data = data();
    for reopened in [false, true] {
        let runner = open(data.path()).await;
        let job_id = begin(&runner, shell("setsid sleep 603 & echo pid $! end; env -i sleep 604 & wait")).await;
        let log = printed(&runner, job_id, "end").await;
        let shim = pid_of_shim(&data, job_id).unwrap();
        let runner = (!reopened).then_some(runner);
        rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
        let runner = match runner {
            Some(runner) => runner,
            None => {
                eventually("the lock", async || pid_of_shim(&data, job_id).is_none()).await;
                open(data.path()).await
            }
        };
        let exit = end(&runner, job_id).await;
        assert_eq!(exit.reason, EndReason::Lost, "{exit:?}");
        assert!(exit.message.contains("stopped") && exit.started.is_some());
        eventually("the end of the orphan", async || !is_alive(log.split(' ').nth(1).unwrap())).await;
        // The verdict stays what it is.
        drop(runner);
        let runner = open(data.path()).await;
        assert_eq!(end(&runner, job_id).await, exit);
        runner.launch(&Launch { job_id, ..contract::launch(shell("echo again")) }).await.unwrap();
        assert_eq!(end(&runner, job_id).await, exit);
        runner.release(job_id).await.unwrap();
    }
}

#[tokio::test]
async fn a_folder_without_a_shim_is_started_by_the_next_server() {
    let data = data();
    let broken = ShimProgram { program: "/bin/false".into(), ..this_binary() };
    let runner = LocalRunner::open_with(settings(), data.path(), broken, PATIENCE).await.unwrap();
    // As if the server had died between the two steps of a launch: a folder, and no shim that began.
    let launch = contract::launch(shell("echo ran"));
    runner.launch(&launch).await.unwrap();
    contract::observed(
        &runner,
        launch.job_id,
        PATIENCE,
        |state| matches!(state, RunState::Waiting { message: Some(message) } if message.contains("could not begin")),
    )
    .await;
    drop(runner);
    // And leftovers of a launch and a release.
    fs::create_dir_all(data.path().join("runs/.new-x/work")).unwrap();
    fs::create_dir_all(data.path().join("runs/.trash-x/work")).unwrap();
    // A folder whose content the power took.
    let empty = JobId::new();
    fs::create_dir_all(folder(&data, empty)).unwrap();
    fs::write(folder(&data, empty).join("spec.json"), "").unwrap();

    let runner = open(data.path()).await;
    assert!(end(&runner, launch.job_id).await.is_success());
    runner.launch(&launch).await.unwrap();
    assert_eq!(text(&runner, launch.job_id).await, "ran\n");
    assert!(runner.state(empty).await.unwrap().is_none());
    swept(&data, &[launch.job_id]).await;
}

#[tokio::test]
async fn a_release_does_not_wait_for_the_removal() {
    let data = data();
    let runner = open(data.path()).await;
    let job_id = begin(&runner, shell("mkdir a; touch a/b")).await;
    assert!(end(&runner, job_id).await.is_success());
    // The tasks are gone, so nobody removes trash: what is left is what a release itself does.
    runner.inner.stopping.cancel();
    runner.release(job_id).await.unwrap();
    assert!(runner.state(job_id).await.unwrap().is_none() && runner.inner.list().is_empty());
    let trash: Vec<_> = fs::read_dir(data.path().join("runs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(trash.len() == 1 && trash[0].join("work/a/b").exists(), "{trash:?}");
    drop(runner);
    let _runner = open(data.path()).await;
    swept(&data, &[]).await;
}

#[tokio::test]
async fn a_run_that_cannot_be_read_does_not_stop_the_start() {
    let data = data();
    let stuck = JobId::new();
    fs::create_dir_all(folder(&data, stuck)).unwrap();
    // Whoever opens this waits for a writer.
    let pipe = folder(&data, stuck).join("ended.json");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    let opened = LocalRunner::open_with(settings(), data.path(), this_binary(), Duration::from_millis(200)).await;
    let runner = opened.unwrap();
    let job_id = begin(&runner, shell("true")).await;
    eventually("the end", async || matches!(runner.state(job_id).await.unwrap(), Some(RunState::Ended(_)))).await;
    // Lets the reader go, and find nothing the next time.
    let aside = data.path().join("pipe");
    fs::rename(&pipe, &aside).unwrap();
    File::options().write(true).open(&aside).unwrap();
    swept(&data, &[job_id]).await;
}

#[tokio::test]
async fn a_second_shim_leaves_silently() {
    let data = data();
    let runner = open(data.path()).await;
    let job_id = begin(&runner, shell("echo begun; sleep 0.5")).await;
    printed(&runner, job_id, "begun").await;
    let second = || async { this_binary().command(&folder(&data, job_id)).status().await.unwrap() };
    assert!(second().await.success());
    assert!(end(&runner, job_id).await.is_success());
    assert!(second().await.success());
    assert_eq!(text(&runner, job_id).await, "begun\n");
}

#[tokio::test]
async fn runs_beyond_the_places_wait_in_order() {
    let data = data();
    let one = || Settings { max_running: NonZeroU32::new(1), ..settings() };
    let runner = open_with(data.path(), one()).await;
    let first = begin(&runner, shell("while [ ! -e go ]; do sleep 0.02; done")).await;
    contract::observed(&runner, first, PATIENCE, |state| matches!(state, RunState::Running { .. })).await;
    let second = begin(&runner, shell("true")).await;
    let third = begin(&runner, shell("true")).await;
    let fourth = begin(&runner, shell("true")).await;
    let waits = |state: Option<RunState>| matches!(state, Some(RunState::Waiting { message: Some(why) }) if why.contains("1 runs at once"));
    for id in [second, third, fourth] {
        assert!(waits(runner.state(id).await.unwrap()));
    }
    runner.cancel(third).await.unwrap();
    let exit = end(&runner, third).await;
    assert_eq!((exit.reason, exit.started), (EndReason::Cancelled, None));
    drop(runner);

    let runner = open_with(data.path(), one()).await;
    for id in [second, fourth] {
        // The first look at a folder may come before the places are counted.
        let end = Instant::now() + Duration::from_secs(10);
        while !waits(runner.state(id).await.unwrap()) {
            assert!(Instant::now() < end, "{:?}", runner.state(id).await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    fs::write(folder(&data, first).join("work/go"), "").unwrap();
    let (first, second, fourth) = (end(&runner, first).await, end(&runner, second).await, end(&runner, fourth).await);
    assert!(first.is_success() && second.is_success() && fourth.is_success());
    assert!(second.started.unwrap() >= first.finished && fourth.started.unwrap() >= second.finished);
}

#[tokio::test]
async fn a_disk_that_fails_leaves_nothing_in_the_way() {
    let data = data();
    let runner = open(data.path()).await;
    runner.ready().await.unwrap();
    let runs = data.path().join("runs");
    fs::rename(&runs, data.path().join("aside")).unwrap();
    fs::write(&runs, "in the way").unwrap();
    let launch = contract::launch(shell("echo ran"));
    assert!(matches!(runner.launch(&launch).await, Err(RunnerError::Unavailable { .. })));
    assert!(matches!(runner.ready().await, Err(RunnerError::Unavailable { .. })));
    assert!(runner.state(launch.job_id).await.unwrap().is_none());
    fs::remove_file(&runs).unwrap();
    fs::rename(data.path().join("aside"), &runs).unwrap();
    runner.launch(&launch).await.unwrap();
    assert!(end(&runner, launch.job_id).await.is_success());
    drop(runner);

    // Without the program nothing starts, and nothing is left.
    let absent = ShimProgram { program: "/no/such/program".into(), ..this_binary() };
    let runner = LocalRunner::open_with(settings(), data.path(), absent, PATIENCE).await.unwrap();
    assert!(matches!(runner.ready().await, Err(RunnerError::Unavailable { .. })));
    let launch = contract::launch(shell("true"));
    assert!(matches!(runner.launch(&launch).await, Err(RunnerError::Unavailable { .. })));
    assert!(!folder(&data, launch.job_id).exists());
}

#[tokio::test]
async fn a_long_path_is_no_trouble() {
    let data = data();
    let deep = data.path().join("x".repeat(150)).join("y".repeat(150));
    let runner = open(&deep).await;
    let (exit, _) = run(&runner, shell("true")).await;
    assert!(exit.is_success());
    assert!(deep.join(run_dir::SERVER_SOCKET).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_observed_at_once() {
    let data = data();
    let runner = open(data.path()).await;
    let mut best = Duration::MAX;
    for adopted in [false, true, false, true, false, true] {
        let job_id = begin(&runner, shell("while [ ! -e go ]; do sleep 0.01; done; date +%s%N")).await;
        contract::observed(&runner, job_id, PATIENCE, |state| matches!(state, RunState::Running { .. })).await;
        // A server that did not start the shim learns of the end by the datagram.
        let second = if adopted { Some(open(data.path()).await) } else { None };
        let observer = second.as_ref().unwrap_or(&runner);
        let mut observations = observer.observations();
        fs::write(folder(&data, job_id).join("work/go"), "").unwrap();
        loop {
            let seen = match observations.next().await.unwrap() {
                Observation::List(runs) => runs,
                Observation::Change(run) => vec![run],
            };
            if seen.iter().any(|run| run.job_id == job_id && matches!(run.state, RunState::Ended(_))) {
                break;
            }
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let exited = Duration::from_nanos(text(observer, job_id).await.trim().parse().unwrap());
        best = best.min(now - exited);
    }
    // Far below the second after which it would be found anyway; the machine may be busy.
    assert!(best < Duration::from_millis(250), "{best:?}");
    tracing::info!(?best, "observed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once() {
    let data = data();
    let runner = open_with(data.path(), Settings { max_running: NonZeroU32::new(200), ..settings() }).await;
    let begun = Instant::now();
    let mut observations = runner.observations();
    let plan = |number: usize| {
        shell(&format!("echo {number}; while [ ! -e ../../../go ]; do sleep 0.2; done; exit {}", number % 3))
    };
    let launches: Vec<_> = (0..200).map(|number| contract::launch(plan(number))).collect();
    for result in futures::future::join_all(launches.iter().map(|launch| runner.launch(launch))).await {
        result.unwrap();
    }
    eventually("all run", async || {
        let live = lock(&runner.inner.runs)
            .values()
            .filter(|run| matches!(lock(&run.slot).shown, RunState::Running { .. }))
            .count();
        live == 200
    })
    .await;
    fs::write(data.path().join("go"), "").unwrap();
    let mut ends = std::collections::BTreeMap::new();
    while ends.len() < launches.len() {
        let observation = tokio::time::timeout(PATIENCE, observations.next()).await.unwrap().unwrap();
        let seen = match observation {
            Observation::List(runs) => runs,
            Observation::Change(run) => vec![run],
        };
        for run in seen {
            if let RunState::Ended(exit) = run.state {
                ends.insert(run.job_id, exit.exit_code);
            }
        }
    }
    for (number, launch) in launches.iter().enumerate() {
        assert_eq!(ends[&launch.job_id], Some((number % 3) as i32));
        assert_eq!(text(&runner, launch.job_id).await, format!("{number}\n"));
        runner.release(launch.job_id).await.unwrap();
    }
    tracing::info!(elapsed = ?begun.elapsed(), "200 runs");
}
