//! The comparison: a table in Markdown, and below it each case that passes with upstream's plugins and not with ours.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::suite::{Case, Place};

/// Cases that need not pass, each with the reason.
pub(super) struct Exceptions(Vec<Exception>);

/// One case, in all versions of the spec that it is repeated for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    plugin: String,
    /// Its name, with `[*]` for the version.
    case: String,
    /// The versions that it is about; all if there are none.
    #[serde(default)]
    versions: Vec<String>,
    reason: String,
}

impl Exceptions {
    /// Those of the checked-in file.
    pub(super) fn read() -> Result<Self> {
        Self::parse(include_str!("exceptions.json"))
    }

    fn parse(text: &str) -> Result<Self> {
        let all: Vec<Exception> = serde_json::from_str(text).context("read exceptions.json")?;
        for exception in &all {
            ensure!(
                !exception.reason.trim().is_empty(),
                "exceptions.json gives no reason for: {}",
                exception.case
            );
        }
        Ok(Self(all))
    }

    fn find(&self, plugin: &str, case: &str) -> Option<&Exception> {
        self.0.iter().find(|exception| exception.plugin == plugin && exception.is_about(case))
    }
}

impl Exception {
    fn is_about(&self, case: &str) -> bool {
        let is_its_version = |version: &String| case.contains(&format!("[{version}]"));
        self.case == without_version(case)
            && (self.versions.is_empty() || self.versions.iter().any(is_its_version))
    }
}

/// The name of a case with `[*]` for the version in brackets.
fn without_version(case: &str) -> String {
    let is_version =
        |text: &str| text.contains('.') && text.chars().all(|c| c == '.' || c.is_ascii_digit());
    let mut rest = case;
    let mut name = String::new();
    while let Some((before, after)) = rest.split_once('[') {
        let inside = after.split(']').next().unwrap_or_default();
        name += before;
        name.push('[');
        rest = after;
        if is_version(inside) {
            name.push('*');
            rest = &after[inside.len()..];
        }
    }
    name + rest
}

/// The comparison so far.
pub(super) struct Table {
    exceptions: Exceptions,
    place: Place,
    rows: Vec<Row>,
}

struct Row {
    plugin: String,
    cases: usize,
    with_theirs: usize,
    with_ours: usize,
    about_functions: usize,
    /// With theirs and not with ours, and why not.
    missing: Vec<(String, String)>,
    /// The same, where that is accepted: the name without its version, how often, the reason.
    excepted: BTreeMap<String, (usize, String)>,
    /// Exceptions that no case needs.
    needless: Vec<String>,
}

impl Table {
    pub(super) fn new(exceptions: Exceptions, place: Place) -> Self {
        Self { exceptions, place, rows: Vec::new() }
    }

    /// Adds what became of a suite's cases.
    pub(super) fn add(&mut self, plugin: &str, theirs: &[Case], ours: &[Case]) {
        // A case that passes and calls no plugin says nothing about one.
        let (about_functions, about_plugin): (Vec<&Case>, Vec<&Case>) =
            theirs.iter().partition(|case| case.passed && !case.calls_plugin);
        let with_ours = |case: &Case| ours.iter().find(|other| other.name == case.name);
        let passes_with_ours = |case: &Case| with_ours(case).is_some_and(|case| case.passed);
        let mut row = Row {
            plugin: plugin.to_owned(),
            cases: about_plugin.len(),
            with_theirs: about_plugin.iter().filter(|case| case.passed).count(),
            with_ours: about_plugin.iter().filter(|case| passes_with_ours(case)).count(),
            about_functions: about_functions.len(),
            missing: Vec::new(),
            excepted: BTreeMap::new(),
            needless: Vec::new(),
        };
        for case in theirs.iter().filter(|case| case.passed && !passes_with_ours(case)) {
            if let Some(exception) = self.exceptions.find(plugin, &case.name) {
                row.excepted
                    .entry(exception.case.clone())
                    .or_insert((0, exception.reason.clone()))
                    .0 += 1;
            } else {
                let message = with_ours(case).map_or("it was not run", |case| &case.message);
                row.missing.push((case.name.clone(), message.to_owned()));
            }
        }
        let all_pass = |exception: &Exception| {
            let mut its = theirs.iter().filter(|case| exception.is_about(&case.name)).peekable();
            its.peek().is_none() || (its.all(|case| case.passed && passes_with_ours(case)))
        };
        let its_own = self.exceptions.0.iter().filter(|exception| exception.plugin == plugin);
        row.needless =
            its_own.filter(|exception| all_pass(exception)).map(|e| e.case.clone()).collect();
        self.rows.push(row);
    }

    /// Whether all that passes with theirs passes with ours or is excepted, and no exception is needless.
    pub(super) fn is_as_it_should_be(&self) -> bool {
        self.rows.iter().all(|row| row.missing.is_empty() && row.needless.is_empty())
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.place {
            Place::RunningKernel => "the running kernel",
            Place::UserModeLinux => "User-Mode Linux",
        };
        writeln!(
            f,
            "| on {place} | cases | pass with upstream's | pass with ours | excepted | call no plugin |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for row in &self.rows {
            let Row { plugin, cases, with_theirs, with_ours, about_functions, excepted, .. } = row;
            let excepted: usize = excepted.values().map(|(times, _)| times).sum();
            writeln!(
                f,
                "| {plugin} | {cases} | {with_theirs} | {with_ours} | {excepted} | {about_functions} |"
            )?;
        }
        for row in &self.rows {
            for (case, (times, reason)) in &row.excepted {
                writeln!(f, "\nexcepted: {}: {case} ({times} cases): {reason}", row.plugin)?;
            }
            for case in &row.needless {
                writeln!(f, "\nNEEDLESS EXCEPTION: {}: {case}", row.plugin)?;
            }
            for (case, message) in &row.missing {
                writeln!(f, "\nPASSES WITH UPSTREAM'S ONLY: {}: {case}", row.plugin)?;
                for line in message.lines() {
                    writeln!(f, "    {line}")?;
                }
            }
        }
        let missing: usize = self.rows.iter().map(|row| row.missing.len()).sum();
        writeln!(
            f,
            "\ncases that pass with upstream's plugins and, unexcepted, not with ours: {missing}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, passed: bool, calls_plugin: bool) -> Case {
        Case {
            name: name.into(),
            text: name.into(),
            passed,
            calls_plugin,
            message: "failed".into(),
        }
    }

    fn table(exceptions: &str) -> Table {
        Table::new(Exceptions::parse(exceptions).unwrap(), Place::RunningKernel)
    }

    #[test]
    fn what_passes_with_upstream_s_plugins_has_to_pass_with_ours() {
        let mut table = table("[]");
        let theirs = [case("a", true, true), case("b", false, true), case("internal", true, false)];
        table.add("ptp", &theirs, &theirs);
        assert!(table.is_as_it_should_be());
        assert!(table.to_string().contains("| ptp | 2 | 1 | 1 | 0 | 1 |"), "{table}");
        table.add("bridge", &theirs, &[case("a", false, true), case("b", true, true)]);
        assert!(!table.is_as_it_should_be());
        assert!(table.to_string().contains("| bridge | 2 | 1 | 1 | 0 | 1 |"), "{table}");
        assert!(
            table.to_string().contains("PASSES WITH UPSTREAM'S ONLY: bridge: a\n    failed"),
            "{table}"
        );
    }

    #[test]
    fn an_exception_covers_all_versions_and_is_an_error_once_it_is_not_needed() {
        let one = r#"[{"plugin": "ptp", "case": "ptp [*] works [x]", "reason": "it is random"}]"#;
        let theirs =
            [case("ptp [0.1.0] works [x]", true, true), case("ptp [1.0.0] works [x]", true, true)];
        let mut needed = table(one);
        needed.add("ptp", &theirs, &[]);
        assert!(needed.is_as_it_should_be());
        assert!(
            needed.to_string().contains("excepted: ptp: ptp [*] works [x] (2 cases): it is random"),
            "{needed}"
        );
        let mut needless = table(one);
        needless.add("ptp", &theirs, &theirs);
        assert!(!needless.is_as_it_should_be());
    }

    #[test]
    fn an_exception_of_some_versions_does_not_cover_the_others() {
        let one = r#"[{"plugin": "ptp", "case": "ptp [*] a", "versions": ["0.1.0"], "reason": "it is old"}]"#;
        let mut table = table(one);
        table.add("ptp", &[case("ptp [0.1.0] a", true, true)], &[]);
        assert!(table.is_as_it_should_be());
        table.add(
            "ptp",
            &[case("ptp [0.1.0] a", true, true), case("ptp [1.0.0] a", true, true)],
            &[],
        );
        assert!(!table.is_as_it_should_be());
    }

    #[test]
    fn an_exception_needs_a_reason() {
        assert!(Exceptions::parse(r#"[{"plugin": "ptp", "case": "a", "reason": " "}]"#).is_err());
        assert!(Exceptions::read().is_ok());
    }
}
