//! `vespiary run`: from `key=value` to an execution, and to its result.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::copy::to_stdout;
use super::http::{Client, ClientError, ServerArgs, block_on};
use crate::cli::output::{Failure, note, print};

/// How often a job is looked at while it is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// `vespiary run`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Values: KEY=TEXT as the input's schema reads it, KEY:=JSON as JSON, KEY=@FILE the content of a file.\n\nExamples:\n  vespiary run hello-world name=Ada message='good morning' --wait\n  vespiary run echo message=hi numbers:='[1,2,3]' --wait\n  vespiary run hello-world name=Ada --json     the job, as the server answered it"
)]
pub(crate) struct Run {
    #[command(flatten)]
    server: ServerArgs,
    /// Id of the process
    process: String,
    /// Inputs
    #[arg(value_name = "KEY=VALUE")]
    inputs: Vec<String>,
    /// Wait for the end and print the result; the exit code is 1 when the job fails
    #[arg(long, short)]
    wait: bool,
    /// Execute synchronously: the server answers with the result, or with the job when it takes longer than it waits
    #[arg(long, conflicts_with = "wait")]
    sync: bool,
    /// Print JSON as the server answered it: the job, or with --sync the results document
    #[arg(long)]
    json: bool,
}

impl Run {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        block_on(async {
            let client = self.server.client()?;
            let description = client.get(&["processes", &self.process], &[]).await?;
            let mut inputs = Map::new();
            for pair in &self.inputs {
                let (key, value) = input(pair, &description)?;
                inputs.insert(key, value);
            }
            if self.sync {
                return self.synchronously(&client, inputs).await;
            }
            let request = client
                .request(Method::POST, &["processes", &self.process, "execution"])?
                .header("prefer", "respond-async")
                .json(&json!({ "inputs": inputs, "response": "document" }));
            let mut job: Value = client.send(request).await?.json().await.map_err(ClientError::Unreadable)?;
            let id = job.get("jobID").and_then(Value::as_str).unwrap_or_default().to_owned();
            if !self.wait {
                print(&if self.json { serde_json::to_string_pretty(&job)? } else { id })?;
                return Ok(ExitCode::SUCCESS);
            }
            note(&format!("job {id}"));
            let mut shown = String::new();
            while !ended(&job) {
                tokio::time::sleep(LOOK_EVERY).await;
                job = client.get(&["jobs", &id], &[]).await?;
                shown = show_progress(&job, &shown);
            }
            if self.json {
                print(&serde_json::to_string_pretty(&job)?)?;
            }
            if status(&job) != "successful" {
                let why = job.get("message").and_then(Value::as_str).unwrap_or("no reason is known");
                note(&format!("{}: {why}", status(&job)));
                return Ok(ExitCode::FAILURE);
            }
            if !self.json {
                print_results(&client, &id).await?;
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

impl Run {
    async fn synchronously(&self, client: &Client, inputs: Map<String, Value>) -> Result<ExitCode, Failure> {
        let response = if self.json { "document" } else { "raw" };
        let request = client
            .request(Method::POST, &["processes", &self.process, "execution"])?
            .json(&json!({ "inputs": inputs, "response": response }));
        let answer = client.send(request).await?;
        if answer.status().as_u16() == 201 {
            note("it takes longer than the server waits; the job goes on");
        }
        to_stdout(answer).await?;
        Ok(ExitCode::SUCCESS)
    }
}

fn status(job: &Value) -> &str {
    job.get("status").and_then(Value::as_str).unwrap_or_default()
}

fn ended(job: &Value) -> bool {
    matches!(status(job), "successful" | "failed" | "dismissed")
}

/// A line on a terminal when something changed.
fn show_progress(job: &Value, shown: &str) -> String {
    let percent =
        job.get("progress").and_then(Value::as_u64).map(|percent| format!(" {percent} %")).unwrap_or_default();
    let message = job.get("message").and_then(Value::as_str).map(|text| format!(": {text}")).unwrap_or_default();
    let line = format!("{}{percent}{message}", status(job));
    if line != shown && std::io::stderr().is_terminal() {
        note(&line);
    }
    line
}

/// The bare value of one output, the document of several.
async fn print_results(client: &Client, id: &str) -> Result<(), Failure> {
    let results = client.get(&["jobs", id, "results"], &[]).await?;
    let only = results.as_object().filter(|outputs| outputs.len() == 1).and_then(|outputs| outputs.keys().next());
    let Some(output) = only else {
        return print(&serde_json::to_string_pretty(&results)?);
    };
    to_stdout(client.send(client.request(Method::GET, &["jobs", id, "results", output])?).await?).await
}

/// One `key=value` as the input's schema reads it.
fn input(pair: &str, description: &Value) -> Result<(String, Value), ClientError> {
    let usage = |why: String| ClientError::Usage(why);
    let Some((key, text)) = pair.split_once('=') else {
        return Err(usage(format!("'{pair}' is not KEY=VALUE")));
    };
    if let Some(key) = key.strip_suffix(':') {
        let value = serde_json::from_str(text).map_err(|error| usage(format!("{key}:= wants JSON: {error}")))?;
        return Ok((key.to_owned(), value));
    }
    let text = match text.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(|error| usage(format!("{key}=@{path}: {error}")))?,
        None => text.to_owned(),
    };
    let schema = description.get("inputs").and_then(|inputs| inputs.get(key)).and_then(|input| input.get("schema"));
    let is_text = schema.and_then(|schema| schema.get("type")).is_none_or(|kind| kind == "string");
    let value = match serde_json::from_str::<Value>(&text) {
        Ok(value) if !is_text => value,
        _ => Value::String(text),
    };
    Ok((key.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_read_as_its_schema_says() {
        let description = json!({ "inputs": {
            "name": { "schema": { "type": "string" } },
            "count": { "schema": { "type": "integer" } },
        }});
        let read = |pair| input(pair, &description).map_err(|error| error.to_string());
        assert_eq!(read("name=42"), Ok(("name".to_owned(), json!("42"))));
        assert_eq!(read("count=42"), Ok(("count".to_owned(), json!(42))));
        assert_eq!(read("count=many"), Ok(("count".to_owned(), json!("many"))), "the server says what is wrong");
        assert_eq!(read("x:=[1]"), Ok(("x".to_owned(), json!([1]))));
        assert_eq!(read("name=a=b"), Ok(("name".to_owned(), json!("a=b"))));
        assert!(read("x:=[").unwrap_err().contains("wants JSON"));
        assert!(read("name").unwrap_err().contains("KEY=VALUE"));
        assert!(read("name=@/nowhere").is_err());
    }
}
