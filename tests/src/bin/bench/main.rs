//! `make bench` and `make bench-cluster`: the figures that the product answers for, each beside a bare loop of the same run, in one table. It never fails
//! on a time: what is out of reach is said, not punished.
//!
//! ```text
//! main -> processor, documents, execute, list, log, start, cluster -> driver, child -> sample, table
//! ```
//! A figure and its bare loop take turns (A B A B), so that a machine that slows down slows both. Servers are processes of
//! their own: this same program with a hidden first word (`child.rs`), or the real `vespiary`.

mod child;
mod cluster;
mod documents;
mod driver;
mod execute;
mod list;
mod log;
mod place;
mod proc_fs;
mod processor;
mod rows;
mod sample;
mod start;
mod table;
mod use_cases;

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use tokio::runtime::Runtime;

use self::table::{Table, print};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str = "\
usage: bench [--quick] [--log-gib N] [--rows N] [NAME…]
       bench cluster [--quick] [NAME…]

NAME         processor, documents, execute, list, log, start; without one: all of them
cluster      what needs a cluster, PostgreSQL and S3: create, readable, synchronous, reads, memory, stream
--quick      small sizes and few runs: to see that it works, not how fast
--log-gib N  size of the log (4)
--rows N     rows of the job list (1000000)
";

/// How much is measured.
#[derive(Debug, Clone)]
struct Options {
    figures: &'static [(&'static str, Measure)],
    names: Vec<String>,
    quick: bool,
    log_mib: u64,
    rows: u64,
}

impl Options {
    fn parse(words: &[String]) -> Outcome<Self> {
        let quick = words.iter().any(|word| word == "--quick");
        let (log_mib, rows) = if quick { (64, 20_000) } else { (4096, 1_000_000) };
        let (figures, words) = match words.split_first() {
            Some((first, rest)) if first == "cluster" => (cluster::FIGURES, rest),
            _ => (FIGURES, words),
        };
        let mut options = Self { figures, names: Vec::new(), quick, log_mib, rows };
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            match word.as_str() {
                "--quick" => {}
                "--log-gib" => options.log_mib = number(rest.next())?.saturating_mul(1024),
                "--rows" => options.rows = number(rest.next())?,
                name if figures.iter().any(|(known, _)| *known == name) => options.names.push(name.to_owned()),
                _ => return Err(format!("'{word}' is not known\n{USAGE}").into()),
            }
        }
        Ok(options)
    }

    /// One number for a real run, another for a quick one.
    fn pick<T>(&self, real: T, quick: T) -> T {
        if self.quick { quick } else { real }
    }
}

fn number(word: Option<&String>) -> Outcome<u64> {
    let found = word.and_then(|word| word.parse().ok()).filter(|number| *number > 0);
    found.ok_or_else(|| format!("a number above 0 is missing\n{USAGE}").into())
}

type Measure = fn(&Options, &Runtime, &mut Table) -> Outcome<()>;

const FIGURES: &[(&str, Measure)] = &[
    ("processor", processor::measure),
    ("documents", documents::measure),
    ("execute", execute::measure),
    ("list", list::measure),
    ("log", log::measure),
    ("start", start::measure),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.split_first() {
        Some((first, rest)) if first == child::WORD => child::run(rest),
        Some((first, _)) if matches!(first.as_str(), "-h" | "--help") => {
            std::io::stdout().write_all(USAGE.as_bytes()).map_err(Into::into)
        }
        _ => run(&words),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Outcome<()> {
    let options = Options::parse(words)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut table = Table::new(&options)?;
    for (name, measure) in options.figures {
        if options.names.is_empty() || options.names.iter().any(|wanted| wanted == name) {
            say(&format!("bench: {name} …"));
            // One figure that cannot be measured must not hide the others.
            if let Err(error) = measure(&options, &runtime, &mut table) {
                table.missing(name, &error.to_string());
            }
        }
    }
    print(&table, &mut std::io::stdout().lock())?;
    if table.is_complete() { Ok(()) } else { Err("some figures could not be measured".into()) }
}

/// Progress, and what went wrong, for who watches.
fn say(text: &str) {
    // Nobody may be watching.
    let _ = writeln!(std::io::stderr(), "{text}");
}
