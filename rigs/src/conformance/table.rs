//! The results, as lines and as the table in the documentation.

use std::{
    fmt::{self, Display},
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::page;

/// The result of a plugin.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) plugin: String,
    pub(super) peer: bool,
    passed: usize,
    must: usize,
    should: usize,
    not_applicable: usize,
    /// Ids of the requirements that the plugin violates.
    pub(super) unmet: Vec<String>,
}

/// Reads the report of a plugin.
pub(super) fn read(plugin: &str, peer: bool, report: &Value) -> Result<Line> {
    let entries = report["requirements"].as_array().context("the report has no requirements")?;
    let count = |verdict: &str, level: Option<&str>| {
        let counts =
            |e: &&Value| e["verdict"] == verdict && level.is_none_or(|level| e["level"] == level);
        entries.iter().filter(counts).count()
    };
    let failed = entries.iter().filter(|entry| entry["verdict"] == "fail");
    Ok(Line {
        plugin: plugin.to_owned(),
        peer,
        passed: count("pass", None),
        must: count("fail", Some("MUST")),
        should: count("fail", Some("SHOULD")),
        not_applicable: count("not applicable", None),
        unmet: failed.filter_map(|entry| Some(entry["id"].as_str()?.to_owned())).collect(),
    })
}

impl Line {
    fn owner(&self) -> &'static str {
        if self.peer { "Go" } else { "ours" }
    }
}

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self { plugin, passed, must, should, not_applicable, .. }, owner) =
            (self, self.owner());
        write!(f, "{plugin:<12} {owner:<5} {passed:>3} passed  {must:>3} MUST and {should:>2} ")?;
        write!(f, "SHOULD failed  {not_applicable:>3} not applicable  {}", self.unmet.join(", "))
    }
}

const BEGIN: &str = "<!-- begin: cargo xtask conformance --peer --write -->\n";

/// Replaces the table in the documentation.
pub(super) fn write(lines: &[Line], page: &Path) -> Result<()> {
    page::replace_table(page, BEGIN, &markdown(lines))
}

fn markdown(lines: &[Line]) -> String {
    let row = |line: &Line| {
        let ids: Vec<_> = line.unmet.iter().map(|id| format!("`{id}`")).collect();
        vec![
            line.plugin.clone(),
            line.owner().to_owned(),
            line.passed.to_string(),
            format!("{} MUST, {} SHOULD", line.must, line.should),
            line.not_applicable.to_string(),
            if ids.is_empty() { "none".to_owned() } else { ids.join(", ") },
        ]
    };
    let head = ["plugin", "whose", "passed", "failed", "not applicable", "not met"];
    page::table(&head, &lines.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::page::tests::squeezed;

    #[test]
    fn a_report_becomes_a_row() {
        let report = json!({ "requirements": [
            { "id": "a", "level": "MUST", "verdict": "pass" },
            { "id": "b", "level": "MUST", "verdict": "fail" },
            { "id": "c", "level": "SHOULD", "verdict": "fail" },
            { "id": "d", "level": "SHOULD", "verdict": "not applicable" },
        ] });
        let line = read("bridge", true, &report).unwrap();
        assert_eq!(line.unmet, ["b", "c"]);
        let passing =
            Line { peer: false, unmet: Vec::new(), ..read("tap", false, &report).unwrap() };
        let text = squeezed(&markdown(&[line, passing]));
        let row = "| bridge | Go | 1 | 1 MUST, 1 SHOULD | 1 | `b`, `c` |\n| tap | ours |";
        assert!(text.contains(row) && text.contains(" | none |\n"), "{text}");
    }

    #[test]
    fn a_report_without_requirements_is_an_error() {
        assert!(read("bridge", false, &json!({})).is_err());
    }
}
