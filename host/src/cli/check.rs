//! `vespiary check`: everything that a processor is asked, without a server.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use super::ConfigArgs;
use super::client::block_on;
use super::output::{Failure, note, print};
use crate::config::Overrides;
use crate::core::access::TokenTable;
use crate::core::{Policy, Principal, Role};
use crate::jobs::{Error, Submission, shape};
use crate::processor::{Process, ProcessEntry, ProcessorHost};

/// `vespiary check`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The exit code is 0 when the processor is good and the request becomes a plan, 1 when not.\n\nExamples:\n  vespiary check hello.wasm\n  vespiary check generic-image.wasm --config ndvi.yaml --request request.json\n  vespiary check hello.wasm --request request.json --json | jq .plan"
)]
pub(crate) struct Check {
    /// The component
    file: PathBuf,
    /// The entry that makes a process of it: the .yaml that will lie beside it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The server's configuration, for its policy and limits
    #[arg(long, env = "VESPIARY_CONFIG", value_name = "FILE")]
    server_config: Option<PathBuf>,
    /// An execute request: the body of POST /processes/{id}/execution
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// Ask without a credential; otherwise the caller has the roles read and execute
    #[arg(long)]
    anonymous: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is the entry of a process: name its processor first, as in 'vespiary check generic-image.wasm --config FILE'", .0.display())]
    NotAComponent(PathBuf),
    #[error("{} is not a process entry: {reason}", path.display())]
    NotAnEntry { path: PathBuf, reason: String },
    #[error("{}", .0.join("; "))]
    Settings(Vec<String>),
}

fn read(path: &Path) -> Result<Vec<u8>, CheckError> {
    std::fs::read(path).map_err(|source| CheckError::Unreadable { path: path.to_owned(), source })
}

impl Check {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let (config, _) = ConfigArgs { config: self.server_config.clone(), data: None }.load(Overrides::default())?;
        if self.file.extension().is_some_and(|kind| kind == "yaml" || kind == "yml") {
            return Err(CheckError::NotAComponent(self.file).into());
        }
        let component = read(&self.file)?;
        let entry = match &self.config {
            None => ProcessEntry::default(),
            Some(path) => serde_saphyr::from_slice(&read(path)?)
                .map_err(|error| CheckError::NotAnEntry { path: path.clone(), reason: error.to_string() })?,
        };
        let request = self.request.as_deref().map(read).transpose()?;
        let policy = Policy::new(&config.policy).map_err(CheckError::Settings)?;
        let table = TokenTable::new(&config.access).map_err(CheckError::Settings)?;
        let cache = tempfile::tempdir()?;
        let verify = Arc::new(move |token: &str| table.may_execute(token));
        block_on(async {
            let host = ProcessorHost::new(&config.processor, cache.path(), verify)?;
            let processor = host.compile(component.into()).await?;
            let process = Arc::new(Process::load(&host, &processor, entry).await?);
            let mut shown = json!({
                "id": process.id.as_str(),
                "digest": process.digest,
                "description": process.description.document(),
            });
            if !self.json {
                let title = process.description.title.as_deref().unwrap_or("no title");
                print(&format!("process   {} {} ({title})", process.id, process.description.version))?;
                print(&format!("processor {}", process.digest))?;
                let ids = |ids: Vec<&str>| if ids.is_empty() { "none".to_owned() } else { ids.join(", ") };
                print(&format!(
                    "inputs    {}",
                    ids(process.description.inputs.iter().map(|one| one.id.as_str()).collect())
                ))?;
                print(&format!(
                    "outputs   {}",
                    ids(process.description.outputs.iter().map(|one| one.id.as_str()).collect())
                ))?;
            }
            let Some(body) = request else {
                if self.json {
                    print(&serde_json::to_string_pretty(&shown)?)?;
                }
                return Ok(ExitCode::SUCCESS);
            };
            let principal = match self.anonymous {
                true => Principal::anonymous(vec![Role::Read, Role::Execute]),
                false => Principal {
                    subject: "check".to_owned(),
                    authenticated: true,
                    ..Principal::anonymous(vec![Role::Read, Role::Execute])
                },
            };
            let id = process.id.clone();
            let submission = Submission {
                principal: &principal,
                process_id: id.as_str(),
                body: &body,
                headers: &[],
                idempotency_key: None,
            };
            match shape::shape(process, &policy, &config.jobs.secret_names, &submission).await {
                Ok(shaped) => {
                    let plan = serde_json::to_value(&shaped.plan)?;
                    if let Value::Object(members) = &mut shown {
                        members.insert("caller".to_owned(), Value::from(shaped.caller.as_str()));
                        members.insert("plan".to_owned(), plan.clone());
                    }
                    if self.json {
                        print(&serde_json::to_string_pretty(&shown)?)?;
                    } else {
                        print(&format!("caller    {}", shaped.caller))?;
                        print(&format!("plan\n{}", serde_json::to_string_pretty(&plan)?))?;
                    }
                    Ok(ExitCode::SUCCESS)
                }
                Err(refused) => {
                    if self.json {
                        let told = json!({ "detail": refused.to_string(), "violations": refused.violations() });
                        if let Value::Object(members) = &mut shown {
                            members.insert("refused".to_owned(), told);
                        }
                        print(&serde_json::to_string_pretty(&shown)?)?;
                    }
                    tell(&refused);
                    Ok(ExitCode::FAILURE)
                }
            }
        })
    }
}

/// The refusal, with every violation on a line of its own.
fn tell(refused: &Error) {
    super::output::report(refused);
    for violation in refused.violations() {
        note(&format!("  {}: {}", violation.pointer, violation.message));
    }
    if let Error::Unauthenticated { challenge } = refused {
        note(&format!("  challenge: {challenge}"));
    }
}
