//! `vespiary serve` and `vespiary config`.

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::{ConfigArgs, output};
use crate::app::App;
use crate::config::Overrides;
use crate::telemetry;

/// `vespiary serve`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The first line on standard output is the server's URL.\n\nExamples:\n  vespiary serve\n  vespiary serve --listen 127.0.0.1:0 --data /var/lib/vespiary --plugins ./plugins\n  VESPIARY_TELEMETRY_LOG=debug vespiary serve --config vespiary.yaml"
)]
pub(crate) struct Serve {
    #[command(flatten)]
    config: ConfigArgs,
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Watched folder: a .wasm file in it is a process [default: DATA/plugins]
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
}

impl Serve {
    pub(crate) fn run(self) -> Result<ExitCode, output::Failure> {
        let overrides = Overrides { listen: self.listen, plugins: self.plugins, data_dir: None };
        let (config, notes) = self.config.load(overrides)?;
        crate::failpoint::start();
        telemetry::start(&config.telemetry);
        for note in notes {
            tracing::warn!("{note}");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let app = App::build(config).await?;
            app.announce(&mut std::io::stdout())?;
            tracing::info!(url = app.url(), "serving");
            app.run(stopped()?).await;
            tracing::info!("stopped");
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// Ends at the first SIGTERM or SIGINT; a second one ends the process at once.
fn stopped() -> Result<impl Future<Output = ()>, std::io::Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: requests and records under way are finished first; again to stop at once");
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            std::process::exit(130);
        });
    })
}

/// `vespiary config`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  vespiary config\n  vespiary config --config vespiary.yaml --json")]
pub(crate) struct ShowConfig {
    #[command(flatten)]
    config: ConfigArgs,
    /// As JSON instead of YAML
    #[arg(long)]
    json: bool,
}

impl ShowConfig {
    pub(crate) fn run(self) -> Result<ExitCode, output::Failure> {
        let (config, notes) = self.config.load(Overrides::default())?;
        let shown = config.masked();
        let text = if self.json { serde_json::to_string_pretty(&shown)? } else { serde_saphyr::to_string(&shown)? };
        output::print(text.trim_end())?;
        for note in notes {
            output::note(&note);
        }
        Ok(ExitCode::SUCCESS)
    }
}
