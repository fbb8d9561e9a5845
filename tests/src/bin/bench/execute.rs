//! An asynchronous POST up to its 201, over a runner that does nothing: against a bare handler that does the same insert.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::json;
use tokio::runtime::Runtime;
use vespiary::core::job::StoredRequest;
use vespiary::core::{JobId, NewJob, Principal, Role, Timestamp};
use vespiary::processor::{Action, ProcessorRequest};
use vespiary::store::JobStore as _;

use crate::child::{self, Served};
use crate::documents::{self, Rounds, Side};
use crate::driver::{self, Connection};
use crate::table::Table;
use crate::use_cases::UseCases;
use crate::{Options, Outcome, place};

const CONNECTIONS: usize = 16;
const PATH: &str = "/processes/hello-world/execution";
const PREFER: &str = "prefer: respond-async\r\n";
const SHARE: f64 = 0.7;

fn inputs() -> serde_json::Value {
    json!({ "name": "Ann", "message": "what is measured is not the runner" })
}

pub(crate) fn measure(options: &Options, runtime: &Runtime, table: &mut Table) -> Outcome<()> {
    let body = json!({ "inputs": inputs() }).to_string();
    let folder = place::passing()?;
    let (a, b) = (folder.path().join("real"), folder.path().join("bare"));
    std::fs::create_dir_all(&a)?;
    std::fs::create_dir_all(&b)?;
    let real = Served::start(&["use-cases", &a.to_string_lossy()])?;
    let request = driver::post(real.address, PATH, PREFER, &body);
    let reply = runtime.block_on(async {
        Connection::open(real.address).await?.expect(&request, StatusCode::CREATED.as_u16()).await
    })?;
    let file = folder.path().join("replies.json");
    documents::write(&file, &[(PATH.to_owned(), reply)])?;
    let bare = Served::start(&["insert", &b.to_string_lossy(), &file.to_string_lossy()])?;

    let real = Side { address: real.address, pid: real.pid(), request, status: 201 }.kept(real);
    let request = driver::post(bare.address, PATH, PREFER, &body);
    let bare = Side { address: bare.address, pid: bare.pid(), request, status: 201 }.kept(bare);
    let rounds = Rounds::take(options, runtime, &real.0, &bare.0, CONNECTIONS)?;
    let share = rounds.share();
    table.add(rounds.row("asynchronous POST to its 201", ">= 0.7", share >= SHARE));
    Ok(())
}

impl Side {
    /// Together with the process that it is about.
    fn kept(self, process: Served) -> (Self, Served) {
        (self, process)
    }
}

/// The bare server: the library and the insert, with everything else made once.
pub(crate) async fn bare(folder: &Path, replies: &Path) -> Outcome<()> {
    let UseCases { store, registry, .. } = UseCases::open(folder).await?;
    let process = registry.get("hello-world").ok_or("hello-world is not offered")?;
    let asked = ProcessorRequest {
        action: Action::Execute,
        job_id: None,
        inputs: inputs().to_string().into(),
        outputs: Vec::new(),
        principal: Principal::anonymous(vec![Role::Execute]),
        headers: Vec::new(),
    };
    let (caller, plan) = process.plan(&asked).await?;
    let job = Arc::new(NewJob {
        id: JobId::new(),
        process_id: process.id.clone(),
        process_version: process.description.version.clone(),
        processor_digest: process.digest,
        caller: caller.subject,
        idempotency: None,
        request: StoredRequest {
            guarded: false,
            inputs: inputs(),
            outputs: Default::default(),
            response: Default::default(),
            declared: process.description.declared_outputs(),
        },
        plan,
        nonce: None,
        relaunchable: true,
        runner: "local".to_owned(),
        created: Timestamp::now(),
    });
    let (path, fixed) = documents::read(replies)?.pop().ok_or("there is no answer to give")?;
    let handler = async move |_: Bytes| {
        let job = NewJob { id: JobId::new(), created: Timestamp::now(), ..NewJob::clone(&job) };
        match store.insert(job).await {
            Ok(_) => fixed.response(),
            Err(_) => axum::response::IntoResponse::into_response(StatusCode::INTERNAL_SERVER_ERROR),
        }
    };
    let router = Router::new().route(&path, post(handler));
    child::serve_bare(router).await
}
