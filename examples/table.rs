//! A table for people: columns as wide as their widest cell, words to the left, numbers to the right.

use std::fmt::{self, Write as _};

/// Rows of text under headings.
#[derive(Debug, Clone)]
pub struct Table<const COLUMNS: usize> {
    headings: [&'static str; COLUMNS],
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// A table without rows.
    pub fn new(headings: [&'static str; COLUMNS]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    /// Adds a row at the bottom.
    pub fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells);
    }
}

impl<const COLUMNS: usize> fmt::Display for Table<COLUMNS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headings = self.headings.map(String::from);
        let width = |column: usize| {
            self.rows.iter().chain([&headings]).map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths: [usize; COLUMNS] = std::array::from_fn(width);
        for row in [&headings].into_iter().chain(&self.rows) {
            let mut line = format!("  {:<width$}", row[0], width = widths[0]);
            for (cell, width) in row.iter().zip(widths).skip(1) {
                write!(line, "  {cell:>width$}")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["phase", "median"]);
        table.row(["link up".into(), "210 µs".into()]);
        table.row(["cut".into(), "9 µs".into()]);
        assert_eq!(table.to_string(), "  phase    median\n  link up  210 µs\n  cut        9 µs\n");
    }
}
