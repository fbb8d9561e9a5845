//! `vespiary processes`, `jobs` and `logs`.

use std::process::ExitCode;

use reqwest::Method;
use serde_json::Value;

use super::copy::to_stdout;
use super::http::{ServerArgs, block_on};
use crate::cli::output::{Failure, print, table};

/// `vespiary processes`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  vespiary processes\n  vespiary processes --refused --token $TOKEN    files that were refused, and why"
)]
pub(crate) struct Processes {
    #[command(flatten)]
    server: ServerArgs,
    /// Show every configured process and file with its state (needs a token with the role deploy)
    #[arg(long)]
    refused: bool,
    /// Print JSON as the server answered it
    #[arg(long)]
    json: bool,
}

impl Processes {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        block_on(async {
            let client = self.server.client()?;
            if self.refused {
                let answer = client.get(&["admin", "processes"], &[]).await?;
                if self.json {
                    print(&serde_json::to_string_pretty(&answer)?)?;
                } else {
                    let rows =
                        rows(answer.get("processes").unwrap_or(&answer), &["name", "state", "source", "id", "reasons"]);
                    print(&table(&["NAME", "STATE", "SOURCE", "PROCESS", "REASON"], &rows))?;
                }
                return Ok(ExitCode::SUCCESS);
            }
            let answer = client.get(&["processes"], &[("limit", "10000".to_owned())]).await?;
            if self.json {
                print(&serde_json::to_string_pretty(&answer)?)?;
            } else {
                let rows = rows(answer.get("processes").unwrap_or(&Value::Null), &["id", "version", "title"]);
                print(&table(&["PROCESS", "VERSION", "TITLE"], &rows))?;
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// `vespiary jobs`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  vespiary jobs\n  vespiary jobs --status failed --process hello-world --limit 50\n  vespiary jobs --json"
)]
pub(crate) struct Jobs {
    #[command(flatten)]
    server: ServerArgs,
    /// Only jobs of this process (repeatable)
    #[arg(long, value_name = "PROCESS")]
    process: Vec<String>,
    /// Only jobs in this state (repeatable): accepted, running, successful, failed, dismissed
    #[arg(long, value_name = "STATUS")]
    status: Vec<String>,
    /// How many, newest first
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// Print JSON as the server answered it
    #[arg(long)]
    json: bool,
}

impl Jobs {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        block_on(async {
            let client = self.server.client()?;
            let mut query = vec![("limit", self.limit.to_string())];
            query.extend(self.process.iter().map(|id| ("processID", id.clone())));
            query.extend(self.status.iter().map(|status| ("status", status.clone())));
            let answer = client.get(&["jobs"], &query).await?;
            if self.json {
                print(&serde_json::to_string_pretty(&answer)?)?;
            } else {
                let columns = ["jobID", "processID", "status", "progress", "created", "message"];
                let rows = rows(answer.get("jobs").unwrap_or(&Value::Null), &columns);
                print(&table(&["JOB", "PROCESS", "STATUS", "%", "CREATED", "MESSAGE"], &rows))?;
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// The values of these members, a row an item.
fn rows(items: &Value, members: &[&str]) -> Vec<Vec<String>> {
    let shown = |value: Option<&Value>| match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts
            .iter()
            .map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join("; "),
        Some(other) => other.to_string(),
    };
    let items = items.as_array().into_iter().flatten();
    items.map(|item| members.iter().map(|member| shown(item.get(*member))).collect()).collect()
}

/// `vespiary logs`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  vespiary logs 0198f2c4-…\n  vespiary logs -f 0198f2c4-…       follow it until the job ends"
)]
pub(crate) struct Logs {
    #[command(flatten)]
    server: ServerArgs,
    /// Id of the job
    id: String,
    /// Follow the log until the job ends
    #[arg(long, short)]
    follow: bool,
}

impl Logs {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        block_on(async {
            let client = self.server.client()?;
            let request = client.request(Method::GET, &["jobs", &self.id, "logs"])?.query(&[("follow", self.follow)]);
            to_stdout(client.send(request).await?).await?;
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// `vespiary receipt`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It is JSON, with --json or without.\n\nExamples:\n  vespiary receipt 0198f2c4-…\n  vespiary receipt 0198f2c4-… | jq .complete"
)]
pub(crate) struct Receipt {
    #[command(flatten)]
    server: ServerArgs,
    /// Id of the job
    id: String,
    /// As every other list and document of a server; a receipt has no other form
    #[arg(long)]
    json: bool,
}

impl Receipt {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        block_on(async {
            let Self { server, id, json: _ } = &self;
            let receipt = server.client()?.get(&["jobs", id, "receipt"], &[]).await?;
            print(&serde_json::to_string_pretty(&receipt)?)?;
            Ok(ExitCode::SUCCESS)
        })
    }
}
