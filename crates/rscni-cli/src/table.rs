//! Text in columns, each as wide as its widest cell. Nothing is ever cut: what is too wide for a terminal wraps there,
//! and a pipe gets it whole.

/// Lines of cells, with two blanks between columns and none at the end of a line.
pub(crate) fn columns<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// The text without characters that would do something to a terminal: it comes from files and from plugins.
pub(crate) fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["länger".to_owned(), "x".to_owned(), String::new()],
            [String::new(), printable("\u{1b}[2J\n"), "y".to_owned()],
        ];
        assert_eq!(columns(&rows), ["länger  x", "        \\u{1b}[2J\\n  y"]);
    }
}
