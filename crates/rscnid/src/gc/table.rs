//! The report of a pass as a table and as JSON.

use std::{fmt, time::Duration};

use serde_json::{Value, json};

use super::collector::{Finding, Report};

impl Finding {
    /// Its state after the pass.
    fn state(&self) -> &'static str {
        match (self.is_removed, self.is_confirmed) {
            (true, _) => "removed",
            (false, true) => "stale",
            (false, false) => "unconfirmed",
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["STATE", "KIND", "OBJECT", "NETWORK", "OWNER", "AGE", "WHY"];
        let mut rows = vec![header.map(str::to_owned)];
        rows.extend(self.findings.iter().map(|finding| {
            let Finding { kind, what, why, .. } = finding;
            let (network, owner) = finding.owner.clone().unwrap_or_default();
            let age = finding.age.map(age).unwrap_or_default();
            [finding.state(), kind, what, &network, &owner, &age, why].map(cell)
        }));
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
        let widths: [_; 7] = std::array::from_fn(|column| width(column).unwrap_or_default());
        for row in &rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

impl Report {
    /// Returns the report as JSON.
    pub fn json(&self) -> Value {
        let finding = |it: &Finding| {
            json!({
                "state": it.state(),
                "kind": it.kind,
                "object": it.what,
                "network": it.owner.as_ref().map(|(network, _)| network),
                "owner": it.owner.as_ref().map(|(_, owner)| owner),
                "ageSeconds": it.age.map(|age| age.as_secs()),
                "why": it.why,
            })
        };
        json!({
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
            "failures": self.failures,
        })
    }
}

/// Formats a cell: control characters are escaped, since the text comes from files.
fn cell(text: &str) -> String {
    let shown =
        |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    if text.is_empty() { "-".to_owned() } else { text.chars().map(shown).collect() }
}

/// Formats an age in its largest unit.
fn age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86400),
    }
}
