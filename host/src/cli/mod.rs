//! The command line.

pub mod check;
pub mod client;
mod doctor;
mod output;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config, ConfigError, Overrides};

/// A job platform whose processors are WebAssembly components.
#[derive(Debug, Parser)]
#[command(name = "vespiary", version, about, max_term_width = 120)]
#[command(
    after_help = "Examples:\n  vespiary serve                      start on 127.0.0.1:8080, data in ./vespiary-data\n  vespiary run hello-world name=Ada --wait\n  vespiary sql \"select id, status, run_seconds from job_history order by created desc limit 5\""
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server
    Serve(serve::Serve),
    /// Try a processor: load it, describe, authorize, shape, policy; show the plan
    Check(check::Check),
    /// List the processes of a server
    Processes(client::Processes),
    /// List the jobs of a server
    Jobs(client::Jobs),
    /// Show a job's log
    Logs(client::Logs),
    /// Show what was captured of a job's log: bytes, lines, SHA-256, whether it is complete
    Receipt(client::Receipt),
    /// Execute a process
    Run(client::Run),
    /// Ask the job history in SQL, read-only, while the server runs or not
    Sql(client::Sql),
    /// Show the configuration in force, secrets masked
    Config(serve::ShowConfig),
    /// Find, explain and repair what is left behind or cannot be reached
    Doctor(doctor::Doctor),
    /// Let the cluster's objects go, for a cluster without servers
    Uninstall(doctor::Uninstall),
    /// The watcher of one local run; the server starts it
    #[command(hide = true)]
    Shim {
        /// The run's folder
        folder: PathBuf,
    },
}

/// Where a command's configuration comes from.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConfigArgs {
    /// Configuration file (YAML)
    #[arg(long, short, env = "VESPIARY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of database, logs and runs [default: ./vespiary-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl ConfigArgs {
    /// Reads the configuration with what else the command line says.
    fn load(&self, overrides: Overrides) -> Result<(Config, Vec<String>), ConfigError> {
        let env: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        config::load(self.config.as_deref(), &env, &Overrides { data_dir: self.data.clone(), ..overrides })
    }
}

/// Reads the command line and does what it says. The exit code is 0 on success, 1 when what was asked for failed, 2 when the command
/// line or the configuration is wrong.
#[must_use]
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    if let Command::Shim { folder } = command {
        return crate::runner::local::shim::main(&folder);
    }
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed before");
    }
    let done = match command {
        Command::Serve(serve) => serve.run(),
        Command::Check(check) => check.run(),
        Command::Processes(list) => list.run(),
        Command::Jobs(list) => list.run(),
        Command::Logs(logs) => logs.run(),
        Command::Receipt(receipt) => receipt.run(),
        Command::Run(run) => run.run(),
        Command::Sql(sql) => sql.run(),
        Command::Config(show) => show.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Uninstall(uninstall) => uninstall.run(),
        Command::Shim { .. } => Ok(ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(failed) => {
            output::report(failed.as_ref());
            let wrong_words = matches!(failed.downcast_ref(), Some(client::ClientError::Usage(_)));
            let wrong_config = failed.downcast_ref::<ConfigError>().is_some();
            ExitCode::from(if wrong_words || wrong_config { 2 } else { 1 })
        }
    }
}
