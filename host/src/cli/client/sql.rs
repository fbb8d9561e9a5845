//! `vespiary sql`.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::ConfigArgs;
use crate::cli::output::Failure;
use crate::config::Overrides;
use crate::store::sql::{self, Bounds, Format};

/// `vespiary sql`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Views: job_history, job_status_history, process_history.\n\nA statement reads in one transaction, for which the database keeps what the server replaces meanwhile. So it ends at the deadline, \
                  also when a pager waits for its reader; what was printed until then stays. Where store.sql_url is set, it is used instead of store.url.\n\nExamples:\n  vespiary sql \"select process, status, count(*) from job_history group by 1, 2\"\n  vespiary sql --format csv \"select * from job_history where status = 'failed'\" > failed.csv"
)]
pub(crate) struct Sql {
    #[command(flatten)]
    config: ConfigArgs,
    /// How rows are printed
    #[arg(long, value_enum, default_value_t = FormatArg::Table)]
    format: FormatArg,
    /// The same as --format json
    #[arg(long)]
    json: bool,
    /// Print at most so many rows
    #[arg(long, value_name = "N")]
    max_rows: Option<u64>,
    /// End the statement after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    deadline: u64,
    /// One statement that only reads
    statement: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FormatArg {
    /// Aligned columns
    Table,
    /// Comma-separated values (RFC 4180)
    Csv,
    /// An array of objects
    Json,
}

impl Sql {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let (config, _) = self.config.load(Overrides::default())?;
        let format = match self.format {
            _ if self.json => Format::Json,
            FormatArg::Table => Format::Table,
            FormatArg::Csv => Format::Csv,
            FormatArg::Json => Format::Json,
        };
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        super::http::block_on(async {
            let statement = self.statement.as_str();
            let bounds = Bounds { max_rows: self.max_rows, deadline: Duration::from_secs(self.deadline) };
            match config.store.sql_url.as_ref().or(config.store.url.as_ref()) {
                Some(url) => Ok(sql::query_url(url, statement, format, bounds, &mut out).await?),
                None => Ok(sql::query(&config.database(), statement, format, bounds, &mut out).await?),
            }
        })?;
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}
