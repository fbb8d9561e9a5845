//! Rows on their way from the database to the output.
//!
//! A thread of its own reads, the caller prints. An output that takes nothing, that of a pager say, holds the caller up; the thread ends at
//! the deadline all the same, and with it the transaction: the database keeps what it replaces for as long as one reads.

use std::io::{self, Write};

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::print::{Cell, Printer};
use super::{Bounds, Format, Printed, SqlError};

/// Rows that are read ahead of the output.
const AHEAD: usize = 64;

enum Step {
    Columns(Vec<String>),
    Row(Vec<Cell>),
}

/// Where the thread that reads puts what it reads.
pub(super) struct Rows {
    to: mpsc::Sender<Step>,
    left: Option<u64>,
    truncated: bool,
}

impl Rows {
    /// The names of the columns, before any row. False: nobody prints any more.
    pub(super) async fn columns(&self, names: Vec<String>) -> bool {
        self.to.send(Step::Columns(names)).await.is_ok()
    }

    /// One row. False: no more are wanted.
    pub(super) async fn row(&mut self, cells: Vec<Cell>) -> bool {
        match &mut self.left {
            Some(0) => {
                self.truncated = true;
                return false;
            }
            Some(left) => *left -= 1,
            None => {}
        }
        self.to.send(Step::Row(cells)).await.is_ok()
    }
}

/// Prints what `read` reads, within the bounds.
pub(super) async fn print(
    format: Format,
    bounds: Bounds,
    out: &mut dyn Write,
    read: impl AsyncFnOnce(&mut Rows) -> Result<(), SqlError> + Send + 'static,
) -> Result<Printed, SqlError> {
    let (to, mut arriving) = mpsc::channel(AHEAD);
    let (ended, outcome) = oneshot::channel();
    let thread = std::thread::Builder::new().name("sql-reader".to_owned());
    thread.spawn(move || drop(ended.send(reading(bounds, to, read)))).map_err(SqlError::Thread)?;
    let (mut printer, mut printed) = (None, 0);
    let mut out = Some(out);
    while let Some(step) = arriving.recv().await {
        match step {
            Step::Columns(names) => printer = out.take().map(|out| Printer::new(format, names, out)),
            Step::Row(cells) => {
                if let Some(printer) = &mut printer {
                    printer.row(cells).map_err(SqlError::Output)?;
                    printed += 1;
                }
            }
        }
    }
    let stopped = || SqlError::Thread(io::Error::other("it stopped"));
    let truncated = outcome.await.map_err(|_| stopped())??;
    if let Some(printer) = printer {
        printer.end().map_err(SqlError::Output)?;
    }
    Ok(Printed { rows: printed, truncated })
}

/// Reads to the end or the deadline; whether there were more rows than were wanted.
fn reading(
    bounds: Bounds,
    to: mpsc::Sender<Step>,
    read: impl AsyncFnOnce(&mut Rows) -> Result<(), SqlError>,
) -> Result<bool, SqlError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(SqlError::Thread)?;
    let mut rows = Rows { to, left: bounds.max_rows, truncated: false };
    let work = async { timeout(bounds.deadline, read(&mut rows)).await };
    match runtime.block_on(work) {
        Ok(outcome) => outcome.map(|()| rows.truncated),
        Err(_) => Err(SqlError::Deadline(bounds.deadline)),
    }
}
