//! Who may do what: 401, 403 and 404 as they should be, and secrets that appear nowhere.

use serde_json::json;
use sha2::{Digest as _, Sha256};
use vespiary_tests::cluster::is_wanted;
use vespiary_tests::{Folder, Server, ServerOptions, local_only};

fn hash(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn closed() -> Server {
    let tokens: String = [("reader", "read"), ("runner", "read, execute"), ("deployer", "deploy"), ("boss", "admin")]
        .iter()
        .map(|(name, roles)| {
            format!("    - {{ name: {name}, sha256: \"{}\", roles: [{roles}] }}\n", hash(&format!("{name}-token")))
        })
        .collect();
    let config = format!("access:\n  anonymous: []\n  tokens:\n{tokens}processes:\n  - processor: hello-world\n");
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
