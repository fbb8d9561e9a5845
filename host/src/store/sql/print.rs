//! Rows as a table, CSV or JSON, one after another.

use std::io::{self, Write};

use sqlx::postgres::PgValueRef;
use sqlx::sqlite::{Sqlite, SqliteValueRef};
use sqlx::{Decode, TypeInfo, ValueRef};

use super::Format;

/// Rows that a table looks at for the widths of its columns, and the bytes of them: what comes later keeps those widths.
const MEASURED_ROWS: usize = 500;
const MEASURED_BYTES: usize = 1 << 20;

/// One value of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Null,
    Truth(bool),
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

/// Takes a value as SQLite stores it, whatever its column was declared as.
pub(super) fn value(raw: SqliteValueRef<'_>) -> Cell {
    if raw.is_null() {
        return Cell::Null;
    }
    let kind = raw.type_info().name().to_owned();
    let read = match kind.as_str() {
        "INTEGER" => <i64 as Decode<Sqlite>>::decode(raw).map(Cell::Integer),
        "REAL" => <f64 as Decode<Sqlite>>::decode(raw).map(Cell::Real),
        "BLOB" => <Vec<u8> as Decode<Sqlite>>::decode(raw).map(Cell::Blob),
        // Text that is no UTF-8 is shown as far as it is.
        _ => <Vec<u8> as Decode<Sqlite>>::decode(raw)
            .map(|bytes| Cell::Text(String::from_utf8_lossy(&bytes).into_owned())),
    };
    read.unwrap_or(Cell::Null)
}

/// Takes a value as PostgreSQL writes it, in a session that answers with text.
pub(super) fn written(raw: &PgValueRef<'_>) -> Cell {
    if raw.is_null() {
        return Cell::Null;
    }
    let kind = raw.type_info().name().to_owned();
    let Ok(text) = raw.as_str() else {
        return Cell::Null;
    };
    let read = match kind.as_str() {
        "BOOL" => Some(Cell::Truth(text == "t")),
        "INT2" | "INT4" | "INT8" => text.parse().ok().map(Cell::Integer),
        "FLOAT4" | "FLOAT8" => text.parse().ok().map(Cell::Real),
        // Sums of integers are of this type.
        "NUMERIC" => text.parse().ok().map(Cell::Integer).or_else(|| text.parse().ok().map(Cell::Real)),
        "BYTEA" => text.strip_prefix("\\x").and_then(|digits| hex::decode(digits).ok()).map(Cell::Blob),
        _ => None,
    };
    read.unwrap_or_else(|| Cell::Text(text.to_owned()))
}

impl Cell {
    fn text(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Truth(truth) => truth.to_string(),
            Self::Integer(number) => number.to_string(),
            Self::Real(number) => real(*number),
            Self::Text(text) => text.clone(),
            Self::Blob(bytes) => hex::encode(bytes),
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Integer(_) | Self::Real(_))
    }

    fn json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Truth(truth) => (*truth).into(),
            Self::Integer(number) => (*number).into(),
            // Infinity is no JSON number: null.
            Self::Real(number) => (*number).into(),
            Self::Text(_) | Self::Blob(_) => self.text().into(),
        }
    }
}

/// A real number that reads back as one: `1.0`, not `1`.
fn real(number: f64) -> String {
    format!("{number:?}")
}

/// Prints rows in one format.
pub(super) struct Printer<'o> {
    out: &'o mut dyn Write,
    format: Format,
    names: Vec<String>,
    rows: u64,
    measured: Vec<Vec<Cell>>,
    measured_bytes: usize,
    widths: Option<Vec<usize>>,
}

impl<'o> Printer<'o> {
    pub(super) fn new(format: Format, names: Vec<String>, out: &'o mut dyn Write) -> Self {
        let names = if format == Format::Json { distinct(names) } else { names };
        Self { out, format, names, rows: 0, measured: Vec::new(), measured_bytes: 0, widths: None }
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) -> io::Result<()> {
        match self.format {
            Format::Table => self.table_row(cells)?,
            Format::Csv => {
                self.csv_header()?;
                csv_line(self.out, cells.iter().map(Cell::text))?;
            }
            Format::Json => {
                self.out.write_all(if self.rows == 0 { b"[\n" } else { b",\n" })?;
                self.out.write_all(b"{")?;
                for (index, (name, cell)) in self.names.iter().zip(&cells).enumerate() {
                    if index > 0 {
                        self.out.write_all(b",")?;
                    }
                    serde_json::to_writer(&mut *self.out, name)?;
                    self.out.write_all(b":")?;
                    serde_json::to_writer(&mut *self.out, &cell.json())?;
                }
                self.out.write_all(b"}")?;
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// Prints what is kept back and what closes the output.
    pub(super) fn end(mut self) -> io::Result<()> {
        match self.format {
            Format::Table => self.flush_table()?,
            Format::Csv => self.csv_header()?,
            Format::Json => self.out.write_all(if self.rows == 0 { b"[]\n" } else { b"\n]\n" })?,
        }
        self.out.flush()
    }

    fn csv_header(&mut self) -> io::Result<()> {
        if self.rows > 0 || self.names.is_empty() {
            return Ok(());
        }
        csv_line(self.out, self.names.iter().cloned())
    }

    fn table_row(&mut self, cells: Vec<Cell>) -> io::Result<()> {
        if let Some(widths) = &self.widths {
            return table_line(self.out, widths, &cells);
        }
        self.measured_bytes += cells.iter().map(|cell| shown(cell).len()).sum::<usize>();
        self.measured.push(cells);
        if self.measured.len() >= MEASURED_ROWS || self.measured_bytes >= MEASURED_BYTES {
            self.flush_table()?;
        }
        Ok(())
    }

    fn flush_table(&mut self) -> io::Result<()> {
        if self.widths.is_some() || self.names.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = self.names.iter().map(|name| Cell::Text(name.clone())).collect();
        let mut widths: Vec<usize> = names.iter().map(|name| shown(name).chars().count()).collect();
        for row in &self.measured {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(shown(cell).chars().count());
            }
        }
        table_line(self.out, &widths, &names)?;
        let rule: Vec<_> = widths.iter().map(|width| Cell::Text("-".repeat(*width))).collect();
        table_line(self.out, &widths, &rule)?;
        for row in std::mem::take(&mut self.measured) {
            table_line(self.out, &widths, &row)?;
        }
        self.widths = Some(widths);
        Ok(())
    }
}

/// A cell as a terminal may see it: what a job printed must not move the cursor.
fn shown(cell: &Cell) -> String {
    if *cell == Cell::Null {
        return "NULL".to_owned();
    }
    let text = cell.text();
    if !text.chars().any(char::is_control) {
        return text;
    }
    text.chars().fold(String::with_capacity(text.len() + 8), |mut line, c| {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
        line
    })
}

fn table_line(out: &mut dyn Write, widths: &[usize], cells: &[Cell]) -> io::Result<()> {
    let mut line = String::new();
    for (width, cell) in widths.iter().zip(cells) {
        if !line.is_empty() {
            line.push_str("  ");
        }
        let text = shown(cell);
        let gap = " ".repeat(width.saturating_sub(text.chars().count()));
        if cell.is_number() { line.extend([gap, text]) } else { line.extend([text, gap]) }
    }
    writeln!(out, "{}", line.trim_end())
}

fn csv_line(out: &mut dyn Write, fields: impl Iterator<Item = String>) -> io::Result<()> {
    for (index, field) in fields.enumerate() {
        if index > 0 {
            out.write_all(b",")?;
        }
        if field.contains([',', '"', '\n', '\r']) {
            write!(out, "\"{}\"", field.replace('"', "\"\""))?;
        } else {
            out.write_all(field.as_bytes())?;
        }
    }
    out.write_all(b"\r\n")
}

/// Column names of which none is there twice: an object needs that.
fn distinct(names: Vec<String>) -> Vec<String> {
    let mut taken: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        let mut candidate = name.clone();
        let mut number = 2;
        while taken.contains(&candidate) {
            candidate = format!("{name}_{number}");
            number += 1;
        }
        taken.push(candidate);
    }
    taken
}
