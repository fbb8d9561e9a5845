//! `vespiary doctor` and `vespiary uninstall`.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::ConfigArgs;
use super::client::block_on;
use super::output::{Failure, note, print, table};
use crate::app::examine;
use crate::config::{Config, Overrides, RunnerKind};
use crate::jobs::inspect::leave::{Leaving, leave};
use crate::jobs::inspect::{Finding, Limits};

/// `vespiary doctor`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Looks with the server's configuration, beside servers that run. Without --fix it changes nothing, but for the object by which a bucket is proven to take one.\nExit code: 0 nothing is wrong (any more), 1 something is, 2 the configuration is wrong.\n\nExamples:\n  vespiary doctor --config vespiary.yaml\n  vespiary doctor --fix\n  vespiary doctor --json | jq '.findings[] | select(.severity == \"error\")'\n  kubectl -n vespiary exec deploy/vespiary -- vespiary doctor"
)]
pub(crate) struct Doctor {
    #[command(flatten)]
    config: ConfigArgs,
    /// Repair what can be repaired. With SQLite, a log folder or local runs the server must be stopped; otherwise it may run
    #[arg(long)]
    fix: bool,
    /// Also remove archived objects when the database does not know most of their jobs
    #[arg(long, requires = "fix")]
    force: bool,
    /// Longest time of one check, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    deadline: u32,
    /// What ended or changed less than so many seconds ago is left to the servers
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    settle: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let (config, _) = self.config.load(Overrides::default())?;
        let settle = Duration::from_secs(u64::from(self.settle));
        let limits = Limits { settle, force: self.force, ..limits(self.deadline) };
        let (findings, unrepaired) = block_on(async {
            let subject = examine::open(&config, limits).await;
            let mut findings = subject.look().await;
            let to_do = self.fix && findings.iter().any(|finding| finding.fix.is_some());
            let outcome = if to_do { examine::repair(&config, &subject, &mut findings).await } else { Ok(()) };
            Ok((findings, outcome.err()))
        })?;
        if self.json {
            print(&serde_json::to_string_pretty(&json!({ "findings": findings, "notRepaired": unrepaired }))?)?;
        } else {
            print(&shown(&findings))?;
        }
        if let Some(why) = &unrepaired {
            note(&format!("nothing was repaired: {why}"));
        }
        let is_open = unrepaired.is_some() || findings.iter().any(Finding::is_open);
        Ok(if is_open { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn limits(deadline: u32) -> Limits {
    Limits { deadline: Duration::from_secs(u64::from(deadline)), ..Limits::default() }
}

/// A block for each finding: sentences do not fit into columns.
fn shown(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "nothing found: every part answers, and nothing is left behind".to_owned();
    }
    let blocks = findings.iter().map(|finding| {
        let mut lines = vec![
            format!("{:<8} {}", finding.severity.as_str(), finding.what),
            format!("  where  {}", finding.place),
            format!("  means  {}", finding.meaning),
        ];
        match (&finding.done, &finding.fix) {
            (Some(done), _) => {
                lines.push(format!("  {}  {}", if done.repaired { "fixed" } else { "left " }, done.text));
            }
            (None, Some(fix)) => lines.push(format!("  --fix  {fix}")),
            (None, None) => {}
        }
        // Texts of others may hold line breaks.
        lines.iter().map(|line| line.replace(['\n', '\r', '\t'], " ")).collect::<Vec<_>>().join("\n")
    });
    blocks.collect::<Vec<_>>().join("\n")
}

/// `vespiary uninstall`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Stop the servers first: one that runs holds what it starts. Nothing is deleted and nothing is stopped: our finalizer is taken off, and no other.\nExit code: 0 listed, or nothing is held any more; 1 refused or failed, or Jobs have not ended, or nothing is there and the namespace is the kubeconfig's own; 2 the configuration is wrong.\n\nExamples:\n  kubectl -n vespiary scale deploy/vespiary --replicas 0\n  kubectl apply -k k8s-manifests/uninstall                       let go in the cluster, with all that the server has\n  vespiary uninstall --config vespiary.yaml                      list what is held\n  vespiary uninstall --config vespiary.yaml --release            let it go\n  VESPIARY_RUNNER_KIND=kubernetes VESPIARY_KUBERNETES_NAMESPACE=vespiary vespiary uninstall --release --force"
)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    config: ConfigArgs,
    /// Take our finalizer off every Job and pod of ours
    #[arg(long)]
    release: bool,
    /// Also those of jobs that are not finished and recorded; their logs and results are lost
    #[arg(long, requires = "release")]
    force: bool,
    /// Longest time of one call, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    deadline: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
enum UninstallError {
    #[error("cannot see what is held: {0}")]
    Unseen(String),
    #[error("nothing was let go: {0}")]
    Refused(String),
    #[error("not everything was let go")]
    Kept,
    #[error(
        "{count} Jobs have not ended, and a pod that they make later is held again: delete them in {place} (kubectl delete jobs {names}), then run this again"
    )]
    Unfinished { count: usize, place: String, names: String },
    #[error(
        "nothing of a server is in {0}, and nobody has named it: name the server's namespace with VESPIARY_KUBERNETES_NAMESPACE, or by kubernetes.namespace in the configuration"
    )]
    Doubtful(String),
}

impl Uninstall {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let (config, _) = self.config.load(Overrides::default())?;
        if config.runner.kind == RunnerKind::Local {
            return self.local(&config);
        }
        let leaving = block_on(async {
            let subject = examine::open(&config, limits(self.deadline)).await;
            Ok(leave(&subject, self.release, self.force).await.map_err(UninstallError::Unseen)?)
        })?;
        if self.json {
            print(&serde_json::to_string_pretty(&leaving)?)?;
        } else {
            print(&self.told(&leaving))?;
        }
        match &leaving.refused {
            Some(why) => Err(UninstallError::Refused(why.clone()).into()),
            None if self.release && !leaving.is_free() => Err(UninstallError::Kept.into()),
            None if self.release && !leaving.unfinished.is_empty() => Err(UninstallError::Unfinished {
                count: leaving.unfinished.len(),
                place: leaving.place,
                names: leaving.unfinished.join(" "),
            }
            .into()),
            None if leaving.is_doubtful() => Err(UninstallError::Doubtful(leaving.place).into()),
            None => Ok(ExitCode::SUCCESS),
        }
    }

    fn local(&self, config: &Config) -> Result<ExitCode, Failure> {
        let place = config.data_dir.display();
        match self.json {
            true => print(&json!({ "place": place.to_string(), "held": [] }).to_string())?,
            false => print(&format!(
                "the configuration's runner is local: no cluster holds anything, and everything is in {place}. For a cluster, give the server's configuration with --config, or VESPIARY_RUNNER_KIND=kubernetes"
            ))?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn told(&self, leaving: &Leaving) -> String {
        let place = format!("{} ({})", leaving.place, leaving.place_from.as_str());
        if leaving.held.is_empty() {
            return format!("{place}: our finalizer is on nothing");
        }
        let outcome = |released: bool, why: &Option<String>| match (released, why) {
            (true, _) => "let go".to_owned(),
            (false, Some(why)) => format!("held: {why}"),
            (false, None) => "held".to_owned(),
        };
        let rows: Vec<Vec<String>> = leaving
            .held
            .iter()
            .map(|one| {
                let (kind, state) = (one.kind.as_str().to_owned(), one.state.as_str().to_owned());
                vec![kind, one.name.clone(), state, outcome(one.released, &one.why_not)]
            })
            .collect();
        let free = leaving.held.iter().filter(|one| one.released).count();
        let mut text = table(&["KIND", "NAME", "JOB IS", "NOW"], &rows);
        text.push_str(&match self.release {
            true => format!("\n{place}: {free} of {} objects let go", leaving.held.len()),
            false => format!("\n{place}: {} objects held; --release lets them go", leaving.held.len()),
        });
        text
    }
}
