//! The command line as its user meets it: every command against a real server, with exit code, standard output and standard error.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use vespiary_tests::cluster::is_wanted;
use vespiary_tests::workspace::{processor, program, root};
use vespiary_tests::{Server, ServerOptions, local_only};

fn server() -> Server {
    let wait = if is_wanted() { 6 } else { 1 };
    let config = format!(
        "server: {{ max_wait_seconds: {wait} }}\nprocesses:\n  - processor: hello-world\n  - processor: echo\n  - processor: {}\n",
        processor("misbehaving").display()
    );
    Server::with(ServerOptions::default().config(&config))
}

/// What a command that must succeed prints.
fn done(server: &Server, args: &[&str]) -> String {
    let (code, out, err) = server.cli(args);
    assert_eq!(code, 0, "{args:?}: {out}{err}");
    out
}

/// What a command that must fail writes to standard error; it prints nothing else.
fn failed(server: &Server, args: &[&str], with: i32) -> String {
    let (code, out, err) = server.cli(args);
    assert_eq!((code, out.as_str()), (with, ""), "{args:?}: {err}");
    err
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

fn alone(args: &[&str]) -> (i32, String, String) {
    told(&Command::new(program()).args(args).env_remove("VESPIARY_URL").output().unwrap())
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn every_command_explains_itself_with_an_example() {
    for command in
        ["serve", "check", "processes", "jobs", "logs", "receipt", "run", "sql", "config", "doctor", "uninstall"]
    {
        let (code, out, _) = alone(&[command, "--help"]);
        assert!(code == 0 && out.contains(&format!("\n  vespiary {command}")), "{command}: {out}");
    }
    let (code, out, _) = alone(&["--help"]);
    assert!(code == 0 && out.contains("\n  vespiary run hello-world"), "{out}");
    assert!(!out.contains("shim"), "{out}");
    let (code, _, err) = alone(&["fly"]);
    assert!(code == 2 && err.contains("fly"), "{err}");
}

#[test]
fn a_server_that_is_not_there_is_told_with_a_hint() {
    let nowhere = ["--server", "http://127.0.0.1:1"];
    for command in [&["processes"][..], &["jobs"], &["logs", "x"], &["receipt", "x"], &["run", "hello-world"]] {
        let (code, out, err) = alone(&[command, &nowhere[..]].concat());
        assert_eq!((code, out.as_str()), (1, ""), "{command:?}");
        assert!(err.contains("cannot reach http://127.0.0.1:1") && err.contains("is the server running"), "{err}");
    }
    let (code, _, err) = alone(&["jobs", "--server", "not a url"]);
    assert!(code == 2 && err.contains("--server not a url"), "{err}");
}

#[test]
fn processes_and_jobs_are_listed() {
    let server = server();
    let table = done(&server, &["processes"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.len() == 4 && lines[0].starts_with("PROCESS"), "{table}");
    assert!(lines[1].starts_with("echo ") && lines[2].starts_with("hello-world "), "{table}");
    assert_eq!(json(&done(&server, &["processes", "--json"]))["processes"].as_array().unwrap().len(), 3);
    let refused = done(&server, &["processes", "--refused"]);
    assert!(refused.starts_with("NAME ") && refused.contains("active"), "{refused}");
    let err = failed(&server, &["processes", "--refused", "--token", "wrong"], 1);
    assert!(err.contains("401"), "{err}");

    let greeting = done(&server, &["run", "hello-world", "name=Ada", "--json"]);
    let greeting = json(&greeting)["jobID"].as_str().unwrap().to_owned();
    done(&server, &["logs", "-f", &greeting]);
    done(&server, &["run", "echo", "message=hi", "--wait"]);
    let table = done(&server, &["jobs"]);
    assert!(table.starts_with("JOB ") && table.lines().count() == 3, "{table}");
    let of_hello = done(&server, &["jobs", "--process", "hello-world", "--status", "successful", "--limit", "5"]);
    assert!(of_hello.lines().count() == 2 && of_hello.contains(&greeting), "{of_hello}");
    let listed = json(&done(&server, &["jobs", "--limit", "1", "--json"]));
    assert_eq!((listed["jobs"].as_array().unwrap().len(), &listed["jobs"][0]["processID"]), (1, &json!("echo")));
    assert_eq!(done(&server, &["jobs", "--status", "failed"]).lines().count(), 1);
    let err = failed(&server, &["jobs", "--status", "done"], 1);
    assert!(err.contains("must be one of accepted"), "{err}");
}

#[test]
fn a_run_is_waited_for_or_not() {
    let server = server();
    let id = done(&server, &["run", "hello-world", "name=Ada"]);
    assert!(id.lines().count() == 1 && id.trim().len() == 36, "the id and nothing else: {id}");
    let (code, out, err) = server.cli(&["run", "hello-world", "name=Ada", "message=good morning", "--wait"]);
    assert_eq!((code, out.as_str()), (0, "Hello 'Ada': 'good morning'"), "the bytes as they are: {err}");
    assert!(err.starts_with("job "), "{err}");
    let job = json(&done(&server, &["run", "hello-world", "name=Ada", "--wait", "--json"]));
    assert_eq!(job["status"], "successful");
    assert_eq!(done(&server, &["run", "hello-world", "name=Ada", "--sync"]), "Hello 'Ada'!");
    let document = json(&done(&server, &["run", "hello-world", "name=Ada", "--sync", "--json"]));
    assert_eq!(document, json!({ "hello": "Hello 'Ada'!" }));

    std::fs::write(server.folder().join("text"), "from a file").unwrap();
    let several = done(&server, &["run", "echo", "message=@text", "numbers:=[1,2]", "mixed=2.5", "--wait"]);
    assert_eq!(json(&several)["numbers"], json!([1, 2]), "{several}");
    assert!(several.contains("from a file"), "{several}");

    let long = if is_wanted() { "seconds=9" } else { "seconds=3" };
    let (code, out, err) = server.cli(&["run", "misbehaving", long, "text=late", "--sync"]);
    assert!(code == 0 && err.contains("longer than the server waits"), "{err}");
    let late = json(&out)["jobID"].as_str().unwrap().to_owned();
    assert!(done(&server, &["logs", "-f", &late]).ends_with("late"));
}

#[test]
fn a_run_that_fails_is_a_command_that_fails() {
    let server = server();
    let (code, out, err) = server.cli(&["run", "misbehaving", "exit=3", "--wait"]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("failed: ") && err.contains("exit code 3"), "{err}");
    let err = failed(&server, &["run", "misbehaving", "exit=3", "--sync"], 1);
    assert!(err.contains("exit code 3"), "{err}");
    let (code, out, _) = server.cli(&["run", "misbehaving", "exit=3", "--wait", "--json"]);
    assert_eq!((code, &json(&out)["status"]), (1, &json!("failed")));
    let err = failed(&server, &["run", "hello-world", "nam=Ada"], 1);
    assert!(err.contains("/inputs/name: ") && err.contains("/inputs/nam: "), "every violation: {err}");
    let err = failed(&server, &["run", "nothing"], 1);
    assert!(err.contains("there is no process 'nothing'"), "{err}");
    for wrong in ["name", "name:=[", "name=@nowhere"] {
        assert!(failed(&server, &["run", "hello-world", wrong], 2).contains("the command line is wrong"), "{wrong}");
    }
    failed(&server, &["run", "hello-world", "name=Ada", "--sync", "--wait"], 2);
}

#[test]
fn a_log_is_shown_and_followed_and_has_a_receipt() {
    let server = server();
    let id = done(&server, &["run", "misbehaving", "seconds=1", "text=at the end"]);
    let id = id.trim();
    let followed = done(&server, &["logs", "--follow", id]);
    assert!(followed.ends_with("at the end"), "{followed}");
    assert!(done(&server, &["jobs", "--status", "successful"]).contains(id), "it was followed to the job's end");
    assert_eq!(done(&server, &["logs", id]), followed);
    let receipt = json(&done(&server, &["receipt", id]));
    assert_eq!((&receipt["bytes"], &receipt["complete"]), (&json!(followed.len()), &json!(true)));
    assert_eq!(json(&done(&server, &["receipt", id, "--json"])), receipt);
    let err = failed(&server, &["logs", id, "--json"], 2);
    assert!(err.contains("--json"), "a log has no JSON form, and that is said: {err}");
    for command in ["logs", "receipt"] {
        let err = failed(&server, &[command, "00000000-0000-7000-8000-000000000000"], 1);
        assert!(err.contains("404"), "{command}: {err}");
    }
}

#[test]
fn the_history_is_asked_in_sql() {
    if local_only() {
        return;
    }
    let server = server();
    done(&server, &["run", "hello-world", "name=Ada, \"the first\"", "--wait"]);
    let ask = |more: &[&'static str]| done(&server, &[&["sql", "--data", "data"], more].concat());
    let statement = "select process, status, inputs from job_history";
    let table = ask(&[statement]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("process      status") && lines[1].starts_with("-----------  ---"), "{table}");
    assert!(lines.len() == 3 && lines[2].starts_with("hello-world  successful  "), "{table}");
    let csv = ask(&["--format", "csv", statement]);
    assert!(
        csv.starts_with("process,status,inputs") && csv.contains("hello-world,successful,\"{\"\"name\"\""),
        "{csv}"
    );
    for form in [&["--json"][..], &["--format", "json"]] {
        let rows = json(&ask(&[form, &[statement]].concat()));
        assert_eq!((rows.as_array().unwrap().len(), &rows[0]["status"]), (1, &json!("successful")));
    }
    assert_eq!(json(&ask(&["--json", "--max-rows", "2", "values (1), (2), (3)"])).as_array().unwrap().len(), 2);

    let refused = |statement: &str| failed(&server, &["sql", "--data", "data", statement], 1);
    assert!(refused("delete from jobs").contains("only reading is possible"));
    assert!(refused("with x as (select 1) delete from jobs").contains("error: "));
    assert!(refused("select 1; select 2").contains("one statement at a time"));
    assert!(refused("select nothing from job_history").contains("nothing"));
    let err = failed(&server, &["sql", "--data", "elsewhere", "select 1"], 1);
    assert!(err.contains("elsewhere"), "{err}");
    assert_eq!(ask(&["--json", "select count(*) as jobs from job_history"]).trim().matches('1').count(), 1);
}

#[test]
fn the_configuration_is_shown_without_secrets_or_refused_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vespiary.yaml");
    let hash = "sha256:03d2d3ed7bcc0b5b2ba1a3f3c1c7a5b8a8a9f1d6c46c3a3d3a7e4f1b2c3d4e5f";
    let shown = |text: &str, more: &[&str]| {
        std::fs::write(&path, text).unwrap();
        alone(&[&["config", "--config", &path.to_string_lossy()], more].concat())
    };
    let good = format!(
        "server: {{ max_body_mib: 3 }}\naccess: {{ api_token: hunter2, tokens: [{{ name: ann, sha256: '{hash}', roles: [read] }}] }}\n\
         processes: [{{ processor: hello-world, config: {{ password: hunter2 }} }}]\n"
    );
    let (code, out, err) = shown(&good, &["--json"]);
    assert_eq!(code, 0, "{err}");
    let config = json(&out);
    assert_eq!((&config["server"]["max_body_mib"], &config["server"]["max_headers"]), (&json!(3), &json!(64)));
    assert_eq!(
        (&config["access"]["tokens"][0]["name"], &config["access"]["api_token"]),
        (&json!("ann"), &json!("***"))
    );
    let (_, yaml, _) = shown(&good, &[]);
    assert!(yaml.contains("max_body_mib: 3"), "{yaml}");
    for text in [out, yaml] {
        assert!(!text.contains("hunter2") && !text.contains(hash), "{text}");
    }
    let (code, out, err) = shown("server: { listn: x, max_body_mib: 0 }\nruner: {}\npolicy: { images: 7 }\n", &[]);
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    for words in ["'listn' is not a key", "listen", "max_body_mib", "'runer'", "runner", "policy.images"] {
        assert!(err.contains(words), "{words} in {err}");
    }
    let (code, _, err) = alone(&["config", "--config", "/nowhere.yaml"]);
    assert!(code == 2 && err.contains("/nowhere.yaml"), "{err}");
}

#[test]
fn check_needs_no_server() {
    let hello = processor("hello-world").to_string_lossy().into_owned();
    let folder = tempfile::tempdir().unwrap();
    let request = folder.path().join("request.json");
    std::fs::write(&request, r#"{"inputs": {"name": "Ada"}}"#).unwrap();
    let (code, out, err) = alone(&["check", &hello, "--request", &request.to_string_lossy()]);
    assert_eq!(code, 0, "{err}");
    for line in ["process   hello-world ", "inputs    name, message", "outputs   hello", "caller    ", "plan\n{"] {
        assert!(out.contains(line), "{line} in {out}");
    }
    let (code, _, err) = alone(&["check", &folder.path().join("none.wasm").to_string_lossy()]);
    assert!(code == 1 && err.contains("none.wasm"), "{err}");
}

/// Runs the demo with variables set that would lead it astray.
fn demo(program: &Path, processor: &Path) -> (i32, String, String) {
    let mut demo = Command::new("sh");
    demo.arg(root().join("tests/demo.sh")).args([program, processor]);
    for name in ["VESPIARY_TOKEN", "VESPIARY_URL", "VESPIARY_NONSENSE", "VESPIARY_ACCESS_API_TOKEN"] {
        demo.env(name, "of another server");
    }
    told(&demo.env("VESPIARY_CONFIG", "/nowhere.yaml").env("PYGEOAPI_K8S_MANAGER_API_TOKEN", "").output().unwrap())
}

#[test]
fn the_demo_shows_the_main_job_whatever_the_caller_s_variables_are() {
    let (code, out, err) = demo(&program(), &processor("hello-world"));
    assert_eq!(code, 0, "{out}{err}");
    for words in
        ["Hello 'Grace': 'good evening'", "Hello 'Ada': 'good morning'", "\"complete\": true", "7. the history"]
    {
        assert!(out.contains(words), "{words} in {out}");
    }
}

#[test]
fn a_demo_that_fails_says_where_and_shows_the_server_s_log() {
    let (code, _, err) = demo(Path::new("/bin/false"), &processor("hello-world"));
    assert!(code == 1 && err.contains("the server ended while the demo waited") && err.contains("step \"1."), "{err}");
    let folder = tempfile::tempdir().unwrap();
    let rubbish = folder.path().join("rubbish.wasm");
    std::fs::write(&rubbish, "rubbish").unwrap();
    let (code, _, err) = demo(&program(), &rubbish);
    assert!(code == 1 && err.contains("in vain for the process hello-world"), "{err}");
    assert!(err.contains("the last lines of the server log") && err.contains("rubbish.wasm"), "{err}");
}
