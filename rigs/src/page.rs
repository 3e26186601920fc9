//! Markdown tables, and pages of the documentation that contain one written by a rig.

use std::path::Path;

use anyhow::{Context, Result};
use fs_err as fs;

/// The line after the table of a page.
pub(crate) const END: &str = "<!-- end -->\n";

/// Replaces the text between the line `begin` and [`END`].
pub(crate) fn replace_table(page: &Path, begin: &str, table: &str) -> Result<()> {
    let text = fs::read_to_string(page)?;
    let (before, rest) = text.split_once(begin).context("the page has no line for the table")?;
    let (_, after) = rest.split_once(END).context("the table in the page has no end")?;
    Ok(fs::write(page, format!("{before}{begin}\n{table}\n{END}{after}"))?)
}

/// A Markdown table with aligned columns, readable on a terminal too.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&text| text.to_owned()).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&head]).map(|row| row[column].chars().count());
        cells.max().unwrap_or_default().max(3)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let rows: String = rows.iter().map(|row| line(row)).collect();
    format!("{}{}{rows}", line(&head), line(&rule))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The text with single spaces.
    pub(crate) fn squeezed(text: &str) -> String {
        let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n";
        text.lines().map(line).collect()
    }

    #[test]
    fn columns_are_aligned() {
        let rows = vec![
            vec!["a".to_owned(), "long cell".to_owned()],
            vec!["µµµµ".to_owned(), String::new()],
        ];
        assert_eq!(
            table(&["one", "two"], &rows),
            "| one  | two       |\n| ---- | --------- |\n| a    | long cell |\n| µµµµ |           |\n"
        );
    }

    #[test]
    fn a_table_replaces_the_one_before_and_a_page_without_one_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let page = directory.path().join("page.md");
        fs::write(&page, format!("before\n<!-- begin -->\nold\n{END}after\n")).unwrap();
        replace_table(&page, "<!-- begin -->\n", "new").unwrap();
        let text = fs::read_to_string(&page).unwrap();
        assert_eq!(text, format!("before\n<!-- begin -->\n\nnew\n{END}after\n"));
        fs::write(&page, "nothing").unwrap();
        assert!(replace_table(&page, "<!-- begin -->\n", "new").is_err());
    }
}
