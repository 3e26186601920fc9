//! What came out, as lines and as the table in the documentation.

use std::{
    fmt::{self, Display, Write},
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::page::replace_table;

/// What came out for a plugin.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) plugin: String,
    pub(super) peer: bool,
    passed: usize,
    must: usize,
    should: usize,
    not_applicable: usize,
    /// The ids of what is not met.
    pub(super) unmet: Vec<String>,
}

/// Whose plugin it is, in a word.
pub(super) fn whose(peer: bool) -> &'static str {
    if peer { "Go" } else { "ours" }
}

/// Reads the report about a plugin.
pub(super) fn read(plugin: &str, peer: bool, report: &Value) -> Result<Line> {
    let entries = report["requirements"].as_array().context("the report has no requirements")?;
    let count = |verdict: &str, level: Option<&str>| {
        let is_it =
            |e: &&Value| e["verdict"] == verdict && level.is_none_or(|level| e["level"] == level);
        entries.iter().filter(is_it).count()
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

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plugin, passed, must, should, not_applicable, unmet, .. } = self;
        let whose = whose(self.peer);
        write!(
            f,
            "{plugin:<12} {whose:<5} {passed:>3} passed  {must:>3} MUST and {should:>2} SHOULD failed  "
        )?;
        write!(f, "{not_applicable:>3} not applicable  {}", unmet.join(", "))
    }
}

const BEGIN: &str = "<!-- begin: cargo xtask conformance --peer --write -->\n";

/// Replaces the table in the documentation.
pub(super) fn write(lines: &[Line], page: &Path) -> Result<()> {
    replace_table(page, BEGIN, &markdown(lines))
}

fn markdown(lines: &[Line]) -> String {
    let mut table = String::from(
        "| plugin | whose | passed | failed | not applicable | not met |\n|---|---|---|---|---|---|\n",
    );
    for line in lines {
        let Line { plugin, passed, must, should, not_applicable, unmet, .. } = line;
        let ids: Vec<_> = unmet.iter().map(|id| format!("`{id}`")).collect();
        let ids = if ids.is_empty() { "none".to_owned() } else { ids.join(", ") };
        let whose = whose(line.peer);
        let _ = writeln!(
            table,
            "| {plugin} | {whose} | {passed} | {must} MUST, {should} SHOULD | {not_applicable} | {ids} |"
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::END;
    use serde_json::json;

    #[test]
    fn a_report_becomes_a_row_in_the_place_of_those_before() {
        let report = json!({ "requirements": [
            { "id": "a", "level": "MUST", "verdict": "pass" },
            { "id": "b", "level": "MUST", "verdict": "fail" },
            { "id": "c", "level": "SHOULD", "verdict": "fail" },
            { "id": "d", "level": "SHOULD", "verdict": "not applicable" },
        ] });
        let line = read("bridge", true, &report).unwrap();
        assert_eq!(line.unmet, ["b", "c"]);
        let directory = tempfile::tempdir().unwrap();
        let page = directory.path().join("page.md");
        std::fs::write(&page, format!("before\n{BEGIN}old\n{END}after\n")).unwrap();
        write(
            &[
                line,
                Line { peer: false, unmet: Vec::new(), ..read("tap", false, &report).unwrap() },
            ],
            &page,
        )
        .unwrap();
        let text = std::fs::read_to_string(&page).unwrap();
        assert!(
            text.contains("| bridge | Go | 1 | 1 MUST, 1 SHOULD | 1 | `b`, `c` |\n| tap | ours |"),
            "{text}"
        );
        assert!(
            text.contains(" | none |\n") && text.ends_with("after\n") && !text.contains("old"),
            "{text}"
        );
        std::fs::write(&page, "nothing").unwrap();
        assert!(write(&[], &page).is_err());
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        assert!(read("bridge", false, &json!({})).is_err());
    }
}
