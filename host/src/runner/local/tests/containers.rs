//! What a container finds and how its end is told.

use super::*;
use crate::core::EndReason;
use crate::core::plan::{EnvValue, EnvVariable, KeyReference};

fn plan(json: &str) -> JobPlan {
    serde_json::from_str(json).unwrap()
}

#[tokio::test]
async fn the_environment_is_exact() {
    let data = data();
    fs::create_dir_all(data.path().join("secrets/s")).unwrap();
    fs::write(data.path().join("secrets/s/k"), "se cret\n").unwrap();
    let runner = open(data.path()).await;
    let mut plan = shell("");
    plan.containers[0].command = vec!["env".to_owned(), "-0".to_owned()];
    let key =
        |key: &str, optional| EnvValue::SecretKey(KeyReference { name: "s".to_owned(), key: key.to_owned(), optional });
    for (name, value) in [
        ("A", EnvValue::Literal("$(B) `x` \"'".to_owned())),
        ("B", key("k", false)),
        ("C", key("absent", true)),
        ("D", EnvValue::Inputs),
        ("PYGEOAPI_JOB_ID", EnvValue::Literal("forged".to_owned())),
    ] {
        plan.containers[0].env.push(EnvVariable { name: name.to_owned(), value });
    }
    let launch = Launch { nonce: Some("n0nce".to_owned()), ..contract::launch(plan) };
    runner.launch(&launch).await.unwrap();
    assert!(end(&runner, launch.job_id).await.is_success());
    let text = text(&runner, launch.job_id).await;
    let mut found: Vec<_> = text.split_terminator('\0').collect();
    found.sort_unstable();
    let inputs = r#"{"name":"Ada \"L\""}"#;
    let id = launch.job_id;
    assert_eq!(
        found,
        [
            "A=$(B) `x` \"'",
            "B=se cret\n",
            &format!("D={inputs}"),
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            &format!("PYGEOAPI_JOB_ID={id}"),
            &format!("PYGEOAPI_K8S_MANAGER_INPUTS={inputs}"),
            "PYGEOAPI_PROCESS_ID=contract",
            "VESPIARY_RESULT_NONCE=n0nce",
        ]
    );
    // What the secret holds is nowhere in the folder.
    let spec = fs::read_to_string(folder(&data, id).join("spec.json")).unwrap();
    assert!(!spec.contains("se cret"));
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(folder(&data, id).join("spec.json")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn without_inputs_there_is_no_variable() {
    let data = data();
    let runner = open(data.path()).await;
    let launch = Launch { inputs: None, ..contract::launch(shell("env | grep -c INPUTS; pwd; ls -A; ulimit -c")) };
    runner.launch(&launch).await.unwrap();
    end(&runner, launch.job_id).await;
    let work = fs::canonicalize(folder(&data, launch.job_id)).unwrap().join("work");
    assert_eq!(text(&runner, launch.job_id).await, format!("0\n{}\n0\n", work.display()));
}

#[tokio::test]
async fn large_inputs_are_a_file() {
    let data = data();
    let runner = open(data.path()).await;
    let raw = |text: String| Some(serde_json::value::RawValue::from_string(text).unwrap().into());
    let inputs = format!(r#"{{"a":"{}"}}"#, "x".repeat(5 << 20));
    let script = r#"echo "${PYGEOAPI_K8S_MANAGER_INPUTS-none}"; cat "$PYGEOAPI_K8S_MANAGER_INPUTS_FILE""#;
    let launch = Launch { inputs: raw(inputs.clone()), ..contract::launch(shell(script)) };
    runner.launch(&launch).await.unwrap();
    assert!(end(&runner, launch.job_id).await.is_success());
    assert!(text(&runner, launch.job_id).await == format!("none\n{inputs}"));

    // The largest that travels in a variable does start.
    let inputs = format!(r#"{{"a":"{}"}}"#, "x".repeat(environment::INPUTS_IN_VARIABLE - 8));
    let launch = Launch {
        inputs: raw(inputs.clone()),
        ..contract::launch(shell(r#"printf %s "$PYGEOAPI_K8S_MANAGER_INPUTS""#))
    };
    runner.launch(&launch).await.unwrap();
    assert!(end(&runner, launch.job_id).await.is_success());
    assert!(text(&runner, launch.job_id).await == inputs);

    let mut plan = shell("true");
    plan.containers[0].env.push(EnvVariable { name: "MINE".to_owned(), value: EnvValue::Inputs });
    let launch = Launch { inputs: raw(format!(r#"{{"a":"{}"}}"#, "x".repeat(200_000))), ..contract::launch(plan) };
    let refusal = runner.launch(&launch).await.unwrap_err();
    assert!(matches!(&refusal, RunnerError::Refused(why) if why.contains("MINE")), "{refusal}");
}

#[tokio::test]
async fn volumes_appear_below_the_working_directory() {
    let data = data();
    for (path, text) in [("config-maps/c/key", "from the map"), ("volumes/claim/in/file", "from the claim")] {
        let path = data.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let runner = open(data.path()).await;
    let json = r#"{
        "volumes": [
            {"name": "scratch", "source": {"emptyDir": {}}},
            {"name": "map", "source": {"configMap": {"name": "c"}}},
            {"name": "claim", "source": {"claim": {"claimName": "claim"}}},
            {"name": "maybe", "source": {"secret": {"name": "absent", "optional": true}}}],
        "initContainers": [{"name": "init", "command": ["sh", "-c", "echo made > data/made"],
            "mounts": [{"volume": "scratch", "mountPath": "/data"}]}],
        "containers": [{"name": "main", "workingDir": "/app",
            "command": ["sh", "-c", "cd ..; cat deep/er/made data/key claim/file; ls maybe; echo kept > claim/new"],
            "mounts": [{"volume": "scratch", "mountPath": "/deep/er"}, {"volume": "map", "mountPath": "/data"},
                {"volume": "claim", "mountPath": "/claim", "subPath": "in"}, {"volume": "maybe", "mountPath": "/maybe"}]}]}"#;
    let job_id = begin(&runner, plan(json)).await;
    let exit = end(&runner, job_id).await;
    assert!(exit.is_success(), "{exit:?} {}", text(&runner, job_id).await);
    assert_eq!(text(&runner, job_id).await, "made\nfrom the mapfrom the claim");
    runner.release(job_id).await.unwrap();
    assert_eq!(fs::read_to_string(data.path().join("volumes/claim/in/new")).unwrap(), "kept\n");
    assert_eq!(fs::read_to_string(data.path().join("config-maps/c/key")).unwrap(), "from the map");
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let data = data();
    let runner = open(data.path()).await;
    for (members, wanted) in [
        (r#""command":["no-such-command-here"]"#, "'no-such-command-here'"),
        (r#""command":["/etc/passwd"]"#, "'/etc/passwd' is not executable"),
        (
            r#""command":["true"],"env":[{"name":"A","value":{"secretKey":{"name":"s","key":"k"}}}]"#,
            "key 'k' of secret 's'",
        ),
        (
            r#""command":["true"],"env":[{"name":"A","value":{"configMapKey":{"name":"m","key":"k"}}}]"#,
            "config map 'm'",
        ),
        (r#""command":["true"],"mounts":[{"volume":"v","mountPath":"/v"}]"#, "volume 'v'"),
    ] {
        let json = format!(
            r#"{{"containers":[{{"name":"main",{members}}}],"retries":2,
            "volumes":[{{"name":"v","source":{{"claim":{{"claimName":"absent"}}}}}}]}}"#
        );
        let (exit, _) = run(&runner, plan(&json)).await;
        assert_eq!(exit.reason, EndReason::StartError, "{exit:?}");
        assert!(exit.message.contains(wanted) && exit.message.contains("'main'"), "{}", exit.message);
    }
}

#[tokio::test]
async fn a_signal_is_told_by_name() {
    let data = data();
    let runner = open(data.path()).await;
    let (exit, _) = run(&runner, shell("kill -9 $$")).await;
    assert_eq!((exit.reason, exit.exit_code, exit.signal), (EndReason::Error, None, Some(9)));
    assert_eq!(exit.message, "container 'main' was ended by signal 9 (SIGKILL)");
}

#[tokio::test]
async fn memory_is_limited() {
    let data = data();
    let runner = open(data.path()).await;
    let mut limited = shell(
        "ulimit -d; dd if=/dev/zero of=/dev/null bs=1000000 count=1 2>/dev/null && echo small; dd if=/dev/zero of=/dev/null bs=200000000 count=1",
    );
    limited.containers[0].resources.limits.insert("memory".to_owned(), "64Mi".to_owned());
    limited.deadline_seconds = Some(20);
    let (exit, log) = run(&runner, limited).await;
    assert!(log.starts_with("65536\nsmall\n"), "{log}");
    assert_eq!(exit.reason, EndReason::Error, "{exit:?}");
}

#[tokio::test]
async fn the_memory_limit_is_named_where_it_may_be_the_cause() {
    let data = data();
    let runner = open(data.path()).await;
    for (script, named) in [
        ("exit 3", false),
        ("exit 127", false),
        ("kill -TERM $$", false),
        ("kill -KILL $$", true),
        ("kill -ABRT $$", true),
        ("kill -SEGV $$", true),
        ("sh -c 'kill -KILL $$'; exit $?", true),
        ("exit 134", true),
        ("exit 139", true),
    ] {
        let mut limited = shell(script);
        limited.containers[0].resources.limits.insert("memory".to_owned(), "512Mi".to_owned());
        let (exit, _) = run(&runner, limited).await;
        assert_eq!(exit.message.contains("its memory is limited to 512Mi"), named, "{script}: {}", exit.message);
    }
}

#[tokio::test]
async fn a_stubborn_one_is_killed_and_so_are_its_children() {
    let data = data();
    let runner = open_with(data.path(), Settings { grace_seconds: 1, ..settings() }).await;
    let job_id = begin(&runner, shell("trap '' TERM; sleep 600 & echo pid $! end; while :; do wait; done")).await;
    let log = printed(&runner, job_id, "end").await;
    let child = log.split(' ').nth(1).unwrap();
    assert!(is_alive(child));
    runner.cancel(job_id).await.unwrap();
    let exit = end(&runner, job_id).await;
    assert_eq!(exit.reason, EndReason::Cancelled);
    assert!(!is_alive(child));
}

#[tokio::test]
async fn an_orphan_in_a_session_of_its_own_is_ended() {
    let data = data();
    let runner = open(data.path()).await;
    let (exit, log) =
        run(&runner, shell("setsid sh -c 'setsid sleep 601 & echo $!; exec sleep 602' & sleep 0.3; echo $!; echo end"))
            .await;
    assert!(exit.is_success());
    let pids: Vec<_> = log.lines().filter(|line| *line != "end").collect();
    assert_eq!(pids.len(), 2, "{log}");
    for pid in pids {
        assert!(!is_alive(pid), "{pid} is alive");
    }
}

#[tokio::test]
async fn tried_again_with_an_empty_folder() {
    let data = data();
    fs::create_dir_all(data.path().join("volumes/v")).unwrap();
    let runner = open(data.path()).await;
    let json = r#"{"retries": 4, "volumes": [{"name": "v", "source": {"claim": {"claimName": "v"}}}],
        "containers": [{"name": "main", "mounts": [{"volume": "v", "mountPath": "/v"}],
        "command": ["sh", "-c", "ls; touch left; echo x >> v/count; [ $(wc -l < v/count) -ge 3 ] || exit 7; echo done"]}]}"#;
    let job_id = begin(&runner, plan(json)).await;
    let followed = contract::log(&runner, job_id, true).await;
    assert!(end(&runner, job_id).await.is_success());
    let sections = ["v\n", "v\n", "v\ndone\n"].map(|log| ("main".to_owned(), log.as_bytes().to_vec()));
    assert_eq!(contract::log(&runner, job_id, false).await, sections);
    assert_eq!(followed, sections);
    assert_eq!(fs::read_to_string(data.path().join("volumes/v/count")).unwrap(), "x\nx\nx\n");
}

#[tokio::test]
async fn read_only_folders_do_not_stay() {
    let data = data();
    let runner = open(data.path()).await;
    let job_id = begin(&runner, shell("mkdir -p a/b && touch a/b/c && chmod -R 0555 a")).await;
    end(&runner, job_id).await;
    runner.release(job_id).await.unwrap();
    swept(&data, &[]).await;
}
