//! Pages of the documentation that have a table in them which a task writes.

use std::path::Path;

use anyhow::{Context, Result};

/// The line after the table.
pub(crate) const END: &str = "<!-- end -->\n";

/// Replaces what stands between the line `begin` and [`END`].
pub(crate) fn replace_table(page: &Path, begin: &str, table: &str) -> Result<()> {
    let text = std::fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
    let (before, rest) = text.split_once(begin).context("the page has no place for the table")?;
    let (_, after) = rest.split_once(END).context("the table in the page has no end")?;
    let text = format!("{before}{begin}\n{table}\n{END}{after}");
    std::fs::write(page, text).with_context(|| format!("write {}", page.display()))
}
