//! What commands print: results on standard output, everything else on standard error.

use std::io::Write as _;

/// What ends a command.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A line on standard output. A reader that went away (`| head`) is not an error of ours.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// A line on standard error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// An error with its causes, a line each. A cause that the line before has quoted already is left out.
pub(crate) fn report(failed: &(dyn std::error::Error + 'static)) {
    let mut told = failed.to_string();
    note(&format!("error: {told}"));
    let mut cause = failed.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !told.contains(&text) {
            note(&format!("  because: {text}"));
            told = text;
        }
        cause = inner.source();
    }
}

/// Columns as wide as their widest value, two blanks between them.
pub(crate) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut lines: Vec<Vec<String>> = vec![heads.iter().map(|head| (*head).to_owned()).collect()];
    // A value with line breaks would break the table.
    lines.extend(rows.iter().map(|row| row.iter().map(|cell| cell.replace(['\n', '\r', '\t'], " ")).collect()));
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..heads.len()).map(|column| width(column).unwrap_or(0)).collect();
    let shown = lines.iter().map(|line| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    shown.collect::<Vec<_>>().join("\n")
}
