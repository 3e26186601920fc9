//! Tables of text. A column is as wide as its widest cell, and cells are never truncated.

use crate::output::Style;

/// A header with rows.
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(header: [&str; N]) -> Self {
        Self { rows: vec![header.map(str::to_owned)] }
    }

    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell)));
    }

    /// Returns the lines, with the header in bold if the style has that.
    pub(crate) fn text(&self, style: Style) -> String {
        let mut text = String::new();
        for (index, line) in columns(&self.rows).into_iter().enumerate() {
            text += &if index == 0 { style.bold(&line) } else { line };
            text.push('\n');
        }
        text
    }
}

/// Formats rows with two spaces between columns and no trailing spaces.
pub(crate) fn columns<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<_> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Escapes control characters, since the text comes from files and plugins.
pub(crate) fn printable(text: &str) -> String {
    let shown =
        |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["A", "BETA", "C"]);
        table.row(["länger".into(), "x".into(), String::new()]);
        table.row([String::new(), "\u{1b}[2J\n".into(), "y".into()]);
        assert_eq!(
            table.text(Style::default()),
            "A       BETA         C\nlänger  x\n        \\u{1b}[2J\\n  y\n"
        );
        assert!(
            table
                .text(Style { bold: true })
                .starts_with("\u{1b}[1mA       BETA         C\u{1b}[0m\nl")
        );
    }
}
