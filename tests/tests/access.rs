//! Who may do what: 401, 403 and 404 as they should be, and secrets that appear nowhere.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use vespiary_tests::cluster::is_wanted;
use vespiary_tests::workspace::processor;
use vespiary_tests::{Client, Folder, Server, ServerOptions, local_only, until};

fn hash(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// The section `access`: a token for each set of roles, and what nobody in particular may do.
fn access(anonymous: &str) -> String {
    let tokens: String = [("reader", "read"), ("runner", "read, execute"), ("deployer", "deploy"), ("boss", "admin")]
        .iter()
        .map(|(name, roles)| {
            format!("    - {{ name: {name}, sha256: \"{}\", roles: [{roles}] }}\n", hash(&format!("{name}-token")))
        })
        .collect();
    format!("access:\n  anonymous: [{anonymous}]\n  tokens:\n{tokens}")
}

fn closed() -> Server {
    let config = format!("{}processes:\n  - processor: hello-world\n", access(""));
    Server::with(ServerOptions::default().config(&config))
}

#[tokio::test(flavor = "multi_thread")]
async fn roles() {
    let server = closed();
    let nobody = server.client();
    let body = json!({ "inputs": { "name": "a" } });
    let runner = nobody.with_token("runner-token");
    let id = runner.submit("hello-world", &json!({ "name": "a" })).await;
    runner.ended(&id).await;
    for path in [
        "/jobs".to_owned(),
        format!("/jobs/{id}"),
        format!("/jobs/{id}/results"),
        format!("/jobs/{id}/logs"),
        format!("/jobs/{id}/receipt"),
    ] {
        let answer = nobody.get(&path).await.expect(401);
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{path}");
        nobody.with_token("wrong").get(&path).await.expect(401);
        nobody.with_token("deployer-token").get(&path).await.expect(403);
        nobody.with_token("reader-token").get(&path).await.expect(200);
        nobody.with_token("boss-token").get(&path).await.expect(200);
    }
    nobody.execute("hello-world", &body, &[]).await.expect(401);
    nobody.with_token("reader-token").execute("hello-world", &body, &[]).await.expect(403);
    nobody.with_token("reader-token").delete(&format!("/jobs/{id}")).await.expect(403);
    nobody.with_token("reader-token").get("/jobs/00000000-0000-7000-8000-000000000000").await.expect(404);
    runner.execute("nothing", &body, &[]).await.expect(404);
    nobody.get("/admin/processes").await.expect(401);
    runner.get("/admin/processes").await.expect(403);
    nobody.with_token("deployer-token").get("/admin/processes").await.expect(200);
    let row = &server.sql("select caller from job_history")[0];
    assert_eq!(row["caller"], "runner");
}

#[test]
fn a_body_is_not_waited_for_from_one_who_may_not_execute() {
    let server = closed();
    let address = server.url().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).unwrap();
    // Well before the body's own timeout.
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let head =
        "POST /processes/hello-world/execution HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 9999";
    write!(stream, "{head}\r\nhost: {address}\r\n\r\n").unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 401");
}

fn guarded(check_auth: &str) -> String {
    format!(
        r#"
processes:
  - processor: generic-image
    config:
      metadata:
        id: guarded
        version: 1.0.0
        title: Guarded
        jobControlOptions: [sync-execute, async-execute]
        inputs:
          word: {{ schema: {{ type: string }} }}
          secret: {{ minOccurs: 0, schema: {{ type: string, format: password }} }}
          keyword: {{ minOccurs: 0, schema: {{ type: string }} }}
        outputs: {{ text: {{ schema: {{ type: string, contentMediaType: text/plain }} }} }}
      default_image: busybox:1.36
      {check_auth}
      command: [sh, -c, 'echo PYGEOAPI_K8S_MANAGER_RESULT_START; env | sort']
"#
    )
}

/// Whether a text stands anywhere in the server's files or log.
fn found(server: &Server, secret: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![server.folder().join("data")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = std::fs::read(&path)
                && bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
            {
                found.push(path.display().to_string());
            }
        }
    }
    if server.log().contains(secret) {
        found.push("the log".to_owned());
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_original_s_token_input() {
    let options = ServerOptions::default()
        .config(&format!("telemetry: {{ log: debug }}\n{}", guarded("check_auth: true")))
        .env("PYGEOAPI_K8S_MANAGER_API_TOKEN", "the-api-token");
    let server = Server::with(options);
    let client = server.client();
    let missing = client.execute("guarded", &json!({ "inputs": { "word": "a" } }), &[]).await.expect(401);
    assert!(missing.header("www-authenticate").starts_with("Bearer"));
    client.execute("guarded", &json!({ "inputs": { "word": "a", "token": "the-api-tokem" } }), &[]).await.expect(401);
    client.execute("guarded", &json!({ "inputs": { "word": "a", "token": "" } }), &[]).await.expect(401);
    let answer = client
        .execute("guarded", &json!({ "inputs": { "word": "a", "token": "the-api-token" } }), &[])
        .await
        .expect(200);
    assert!(answer.text().contains("PYGEOAPI_K8S_MANAGER_INPUTS={\"word\":\"a\"}"), "{}", answer.text());
    assert!(!answer.text().contains("the-api-token"));
    // Or as a bearer token with the role.
    server.admin().execute("guarded", &json!({ "inputs": { "word": "a" } }), &[]).await.expect(200);
    assert_eq!(found(&server, "the-api-token"), Vec::<String>::new());
    assert_eq!(found(&server, &server.token().unwrap()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_of_a_container_is_the_contract_and_nothing_else() {
    let server =
        Server::with(ServerOptions::default().config(&guarded("check_auth: false")).env("SECRET_OF_THE_SERVER", "x"));
    let client = server.client();
    let id = client.submit("guarded", &json!({ "word": "a", "secret": "hunter2-hunter2", "keyword": "shown" })).await;
    client.ended(&id).await;
    let text = client.get(&format!("/jobs/{id}/results")).await.expect(200).text();
    let mut names: Vec<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
    // A shell adds these three by itself.
    names.retain(|name| !["_", "PWD", "SHLVL"].contains(name));
    if is_wanted() {
        // These are in every container of a cluster.
        names.retain(|name| !name.starts_with("KUBERNETES_") && !["HOME", "HOSTNAME"].contains(name));
    }
    assert_eq!(names, ["PATH", "PYGEOAPI_JOB_ID", "PYGEOAPI_K8S_MANAGER_INPUTS", "PYGEOAPI_PROCESS_ID"]);
    assert!(text.contains(&format!("PYGEOAPI_JOB_ID={id}\n")) && text.contains("PYGEOAPI_PROCESS_ID=guarded\n"));
    assert!(text.contains("hunter2-hunter2"), "the container gets the secret");
    let row = &server.sql("select inputs from job_history")[0];
    let inputs = row["inputs"].to_string();
    assert!(!inputs.contains("hunter2") && inputs.contains("***") && inputs.contains("shown"), "{inputs}");
    assert!(!server.log().contains("hunter2"));
}

#[test]
fn an_empty_token_is_refused_at_start() {
    let folder = Folder::new();
    let options = ServerOptions::default().env("PYGEOAPI_K8S_MANAGER_API_TOKEN", "");
    let log = Server::try_launch(folder, options, None).map(|_| ()).unwrap_err();
    assert!(log.contains("PYGEOAPI_K8S_MANAGER_API_TOKEN is empty"), "{log}");
}

#[test]
fn the_generated_token_is_shown_once_and_goes_on_working() {
    // Servers that share a database make none.
    if local_only() {
        return;
    }
    let server = Server::with(ServerOptions::default());
    let token = server.token().expect("a token is printed at the first start");
    assert!(token.len() >= 32);
    let kept = std::fs::read_to_string(server.folder().join("data/token.sha256")).unwrap();
    assert!(!kept.contains(&token));
    let server = server.restart();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { server.admin().get("/admin/processes").await.expect(200) });
}

/// The status of a read with a header that its process looks at.
async fn seen(client: &Client, path: &str, project: &str) -> u16 {
    client.send(Method::GET, path, &[("x-project", project)], "").await.status
}

async fn listed(client: &Client) -> Vec<String> {
    let page = client.get("/jobs?limit=100").await.expect(200).json();
    page["jobs"].as_array().unwrap().iter().map(|job| job["jobID"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_decides_who_sees_its_jobs() {
    let server = Server::with(ServerOptions::default().config(&format!("{}processes: []\n", access("read"))));
    let drop_in = |name: &str, bytes: &[u8]| {
        let made = server.folder().join(format!("made-{name}"));
        std::fs::write(&made, bytes).unwrap();
        std::fs::rename(made, server.plugins().join(name)).unwrap();
    };
    let entry = "id: project\nconfig: { project: blue }\nheaders: [X-Project]\n";
    drop_in("project.yaml", format!("{entry}authorize_reads: true\n").as_bytes());
    drop_in("project.wasm", &std::fs::read(processor("misbehaving")).unwrap());
    let nobody = server.client();
    let [reader, runner, boss] = ["reader", "runner", "boss"].map(|who| nobody.with_token(&format!("{who}-token")));
    nobody.offered("project", true).await;

    let body = json!({ "inputs": { "text": "seen" } });
    runner.execute("project", &body, &[]).await.expect(403);
    let blue = [("x-project", "blue")];
    assert_eq!(runner.execute("project", &body, &blue).await.expect(200).text(), "seen");
    let ids = listed(&runner).await;
    let [id] = ids.as_slice() else { panic!("one job: {ids:?}") };
    for path in ["", "/results", "/results/text", "/logs", "/receipt"].map(|part| format!("/jobs/{id}{part}")) {
        assert_eq!(seen(&reader, &path, "blue").await, 200, "{path}");
        for client in [&nobody, &reader, &runner] {
            assert_eq!(seen(client, &path, "red").await, 403, "{path}");
        }
    }
    // The list asks nobody: what it shows is the caller's own, or all of it to an administrator.
    assert_eq!(listed(&boss).await, ids);
    assert_eq!((listed(&reader).await, listed(&nobody).await), (Vec::new(), Vec::new()));
    runner.delete(&format!("/jobs/{id}")).await.expect(403);

    // The process is replaced by one that is not to be asked: that opens no old job.
    drop_in("project.yaml", entry.as_bytes());
    let path = format!("/jobs/{id}");
    until("the other process", Duration::from_secs(30), || async {
        (seen(&reader, &path, "blue").await == 403).then_some(())
    })
    .await;
    assert_eq!(seen(&boss, &path, "red").await, 200);
    let open = runner.execute("project", &body, &[("x-project", "blue"), ("prefer", "respond-async")]).await;
    let open = open.expect(201).json()["jobID"].as_str().unwrap().to_owned();
    assert_eq!(listed(&reader).await, [open.clone()]);
    reader.get(&format!("/jobs/{open}")).await.expect(200);

    std::fs::remove_file(server.plugins().join("project.yaml")).unwrap();
    std::fs::remove_file(server.plugins().join("project.wasm")).unwrap();
    nobody.offered("project", false).await;
    assert_eq!(seen(&reader, &path, "blue").await, 403);
    runner.delete(&path).await.expect(403);
    boss.delete(&path).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_executes_gets_the_answer_though_the_process_guards_its_jobs() {
    let guarded = guarded("check_auth: true").replace("    config:\n", "    authorize_reads: true\n    config:\n");
    let config = format!("{}  api_token: the-api-token\n{guarded}", access("read, execute"));
    let server = Server::with(ServerOptions::default().config(&config));
    let client = server.client();
    let with_token = json!({ "inputs": { "word": "a", "token": "the-api-token" } });
    assert!(client.execute("guarded", &with_token, &[]).await.expect(200).text().contains("PYGEOAPI_JOB_ID="));
    let accepted = client.execute("guarded", &with_token, &[("prefer", "respond-async")]).await.expect(201).json();
    client.get(&format!("/jobs/{}", accepted["jobID"].as_str().unwrap())).await.expect(401);
    assert!(listed(&client).await.is_empty());
    assert_eq!(listed(&client.with_token("boss-token")).await.len(), 2);
    // The role `execute` alone is enough as well.
    let config = config.replace("anonymous: [read, execute]", "anonymous: [execute]");
    let server = Server::with(ServerOptions::default().config(&config));
    server.client().execute("guarded", &with_token, &[]).await.expect(200);
    server.client().get("/jobs").await.expect(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_nowhere() {
    const CONFIG: &str = r#"
telemetry: { log: debug }
jobs: { secret_names: [deep] }
processes:
  - processor: generic-image
    secret_inputs: [keyword]
    config:
      metadata:
        id: keeper
        version: 1.0.0
        inputs:
          password: { schema: { type: string, format: password, maxLength: 30 } }
          keyword: { schema: { type: string, maxLength: 30 } }
          account: { schema: { type: object, properties: { deep: { type: string, maxLength: 30 } } } }
        outputs: { text: { schema: { type: string, contentMediaType: text/plain } } }
      default_image: busybox:1.36
      check_auth: false
      env: [{ name: DB_PASSWORD, value: of-the-operator }]
      command: [sh, -c, 'echo PYGEOAPI_K8S_MANAGER_RESULT_START; echo nothing of it']
"#;
    const PATH: &str = "/processes/keeper/execution";
    let secrets = ["secret-by-schema", "secret-by-entry", "secret-by-name"];
    let inputs = |ending: &str| {
        let [password, keyword, deep] = secrets.map(|secret| format!("{secret}{ending}"));
        json!({ "password": password, "keyword": keyword, "account": { "value": { "user": "ann", "deep": deep } } })
    };
    let server = Server::with(ServerOptions::default().config(CONFIG));
    let client = server.client();
    let json_body = [("content-type", "application/json")];
    let body = json!({ "inputs": inputs("") });
    let ask = async |client: &Client, path: &str, body: &Value| {
        client.send(Method::POST, path, &json_body, body.to_string()).await
    };
    let dry = format!("{PATH}?dryRun=true");
    let mut answers = vec![
        ask(&client, &dry, &body).await.expect(200).text(),
        ask(&client, PATH, &json!({ "inputs": inputs(&"-too-long".repeat(9)) })).await.expect(400).text(),
        ask(&client, PATH, &body).await.expect(200).text(),
    ];
    assert!(answers[0].contains("DB_PASSWORD") && !answers[0].contains("of-the-operator"), "{}", answers[0]);
    for place in ["/inputs/password", "/inputs/keyword", "/inputs/account"] {
        assert!(answers[1].contains(place), "{place} in {}", answers[1]);
    }
    let shown = ask(&server.admin(), &dry, &body).await.expect(200).text();
    assert!(shown.contains("of-the-operator"), "who runs the server sees what it runs: {shown}");
    let id = client.submit("keeper", &inputs("")).await;
    client.ended(&id).await;
    for path in ["", "/results", "/logs", "/receipt"].map(|part| format!("/jobs/{id}{part}")) {
        answers.push(client.get(&path).await.expect(200).text());
    }
    answers.extend([shown, client.get("/jobs").await.text(), client.get("/metrics").await.text()]);
    answers.push(json!(server.sql("select * from job_history")).to_string());
    assert!(answers.last().unwrap().contains("\\\"user\\\":\\\"ann\\\""), "{answers:?}");
    // The runs had to have them, and are gone with all that was theirs.
    until("the runs to be released", Duration::from_secs(60), || async { (server.runs_left() == 0).then_some(()) })
        .await;
    for secret in secrets {
        assert_eq!(found(&server, secret), Vec::<String>::new());
        assert!(!answers.iter().any(|answer| answer.contains(secret)), "{secret} in {answers:#?}");
    }
}
