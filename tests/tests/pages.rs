//! What the README shows and a machine can try: its questions in SQL, on each database.

use std::fs;

use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use vespiary_tests::{Cluster, Server, ServerOptions, local_only, workspace};

fn readme() -> String {
    fs::read_to_string(workspace::root().join("README.md")).unwrap()
}

/// Every statement behind `vespiary sql "`, with its options left out.
fn statements(page: &str) -> Vec<String> {
    let calls = page.split("vespiary sql ").skip(1);
    let quoted = calls.filter_map(|call| call.lines().next()?.split_once('"')?.1.split_once('"'));
    quoted.map(|(statement, _)| statement.to_owned()).filter(|statement| !statement.contains('…')).collect()
}

/// A server with a job that its questions find.
async fn asked(server: &Server) {
    let client = server.client();
    let id = client.submit("hello-world", &json!({ "name": "Ada" })).await;
    assert_eq!(client.ended(&id).await["status"], "successful");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_questions_are_answered_by_sqlite() {
    if local_only() {
        return;
    }
    let server = Server::start();
    asked(&server).await;
    let found = statements(&readme());
    assert!(found.len() >= 5, "{found:?}");
    for statement in &found {
        let rows = server.sql(statement);
        assert_eq!(rows.is_empty(), statement.contains("where"), "{statement}: {rows:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_questions_are_answered_by_postgresql() {
    let Some(cluster) = Cluster::if_any() else { return };
    let server = Server::replica(&cluster, ServerOptions::default());
    asked(&server).await;
    // The one difference, as the page tells it.
    let page = readme();
    assert!(page.contains("on PostgreSQL write `inputs::json ->> 'count'`"));
    for statement in statements(&page) {
        let rows = server.sql(&statement.replace("inputs ->>", "inputs::json ->>"));
        assert_eq!(rows.is_empty(), statement.contains("where"), "{statement}: {rows:?}");
    }
    // And an analyst's rights: the views, and no table.
    let grants = page.split_once("```sql\n").unwrap().1.split_once("```").unwrap().0;
    let role = format!("analyst_{}", std::process::id());
    let mut connection = PgConnection::connect(&cluster.url()).await.unwrap();
    let mut said = async |statements: String| sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut connection).await;
    said(grants.replace("analyst", &role)).await.unwrap();
    said(format!("set role {role}")).await.unwrap();
    for view in ["job_history", "job_status_history", "process_history"] {
        said(format!("select * from {view}")).await.unwrap();
    }
    let refused = said("select * from jobs".to_owned()).await;
    // Roles are of the whole server.
    said(format!("reset role; drop owned by {role}; drop role {role}")).await.unwrap();
    assert!(refused.is_err(), "an analyst reads a table");
}
