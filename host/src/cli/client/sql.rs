//! `vespiary sql`.

use std::io::Write as _;
use std::process::ExitCode;

use crate::cli::ConfigArgs;
use crate::cli::output::Failure;
use crate::config::Overrides;
use crate::store::sql::{self, Format};

/// `vespiary sql`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Views: job_history, job_status_history, process_history.\n\nExamples:\n  vespiary sql \"select process, status, count(*) from job_history group by 1, 2\"\n  vespiary sql --format csv \"select * from job_history where status = 'failed'\" > failed.csv"
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
            let (statement, max_rows) = (self.statement.as_str(), self.max_rows);
            match &config.store.url {
                Some(url) => Ok(sql::query_url(url, statement, format, max_rows, &mut out).await?),
                None => Ok(sql::query(&config.database(), statement, format, max_rows, &mut out).await?),
            }
        })?;
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}
