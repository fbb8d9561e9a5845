//! The table: one row a figure, and under what conditions it was measured.

use std::io::{self, Write};

use crate::{Options, Outcome, proc_fs};

/// One figure.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    pub(crate) figure: String,
    pub(crate) measured: String,
    /// The bare loop in the same run.
    pub(crate) bare: String,
    pub(crate) ratio: String,
    /// What the product wants to reach.
    pub(crate) reach: &'static str,
    /// Whether it does; absent where a row only explains another.
    pub(crate) reached: Option<bool>,
    /// Runs and warm-up.
    pub(crate) runs: String,
}

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Table {
    conditions: Vec<String>,
    rows: Vec<Row>,
    missing: Vec<String>,
}

impl Table {
    pub(crate) fn new(options: &Options) -> Outcome<Self> {
        let cores = std::thread::available_parallelism()?;
        let mut conditions = vec![
            format!("{cores} cores, {}, {} GiB of memory", proc_fs::cpu_model()?, proc_fs::memory_gib()?),
            format!("Linux {}; load at the start {}", proc_fs::kernel()?, proc_fs::load()?),
        ];
        if options.quick {
            conditions.push("--quick: small sizes and few runs, so these numbers say nothing about speed".to_owned());
        }
        if cfg!(debug_assertions) {
            conditions.push("not a release build: these numbers say nothing about speed".to_owned());
        }
        Ok(Self { conditions, rows: Vec::new(), missing: Vec::new() })
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// A figure that could not be measured.
    pub(crate) fn missing(&mut self, name: &str, why: &str) {
        self.missing.push(format!("{name}: {why}"));
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

/// Writes the table.
pub(crate) fn print(table: &Table, out: &mut impl Write) -> io::Result<()> {
    let heads = ["figure", "measured", "bare loop, same run", "ratio", "reach", "", "runs"].map(str::to_owned);
    let mut lines = vec![heads.to_vec()];
    for row in &table.rows {
        let word = row.reached.map_or("", |reached| if reached { "ok" } else { "MISSED" });
        let cells = [&row.figure, &row.measured, &row.bare, &row.ratio].map(String::clone);
        lines.push([cells.as_slice(), &[row.reach.to_owned(), word.to_owned(), row.runs.clone()]].concat());
    }
    let widths: Vec<usize> = (0..heads.len())
        .map(|column| {
            lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    writeln!(out)?;
    for (number, line) in lines.iter().enumerate() {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
        if number == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            writeln!(out, "{}", rules.join("  "))?;
        }
    }
    writeln!(out)?;
    for line in &table.conditions {
        writeln!(out, "{line}")?;
    }
    writeln!(
        out,
        "A figure and its bare loop take turns; medians of the rounds; load at the end {}",
        proc_fs::load().unwrap_or_default()
    )?;
    for line in &table.missing {
        writeln!(out, "NOT MEASURED {line}")?;
    }
    out.flush()
}
