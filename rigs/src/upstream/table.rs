//! The comparison: a Markdown table, and each case that passes with upstream's plugins and fails
//! with ours.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::suite::{Case, Kernel};
use crate::page;

/// Cases that may fail, each with a reason.
pub(super) struct Exceptions(Vec<Exception>);

/// A case, in all versions of the spec that it is repeated for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    plugin: String,
    /// Its name, with `[*]` for the version.
    case: String,
    /// Versions; empty for all.
    #[serde(default)]
    versions: Vec<String>,
    reason: String,
}

impl Exceptions {
    /// Reads the checked-in file.
    pub(super) fn read() -> Result<Self> {
        Self::parse(include_str!("exceptions.json"))
    }

    fn parse(text: &str) -> Result<Self> {
        let all: Vec<Exception> = serde_json::from_str(text).context("read exceptions.json")?;
        for Exception { case, reason, .. } in &all {
            ensure!(!reason.trim().is_empty(), "exceptions.json gives no reason for: {case}");
        }
        Ok(Self(all))
    }

    fn of(&self, plugin: &str) -> impl Iterator<Item = &Exception> {
        self.0.iter().filter(move |exception| exception.plugin == plugin)
    }
}

impl Exception {
    fn covers(&self, case: &str) -> bool {
        let has_version = |version: &String| case.contains(&format!("[{version}]"));
        self.case == without_version(case)
            && (self.versions.is_empty() || self.versions.iter().any(has_version))
    }
}

/// The name of a case with `[*]` for the version in brackets.
fn without_version(case: &str) -> String {
    let is_version =
        |text: &str| text.contains('.') && text.chars().all(|c| c == '.' || c.is_ascii_digit());
    let mut parts = case.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| match part.split_once(']') {
        Some((inside, rest)) if is_version(inside) => format!("{name}[*]{rest}"),
        _ => format!("{name}[{part}"),
    })
}

/// The comparison so far.
pub(super) struct Table {
    exceptions: Exceptions,
    kernel: Kernel,
    rows: Vec<Row>,
}

struct Row {
    plugin: String,
    cases: usize,
    with_theirs: usize,
    with_ours: usize,
    about_functions: usize,
    /// Cases that pass with theirs only, with the failure of ours.
    missing: Vec<(String, String)>,
    /// The same with an exception: name without version, number of cases, reason.
    excepted: BTreeMap<String, (usize, String)>,
    /// Exceptions that no case needs.
    needless: Vec<String>,
}

impl Table {
    pub(super) fn new(exceptions: Exceptions, kernel: Kernel) -> Self {
        Self { exceptions, kernel, rows: Vec::new() }
    }

    /// Adds the results of a suite.
    pub(super) fn add(&mut self, plugin: &str, theirs: &[Case], ours: &[Case]) {
        // A case that passes and calls no plugin tests upstream's functions.
        let (about_functions, about_plugin): (Vec<&Case>, Vec<&Case>) =
            theirs.iter().partition(|case| case.passed && !case.calls_plugin);
        let with_ours = |case: &Case| ours.iter().find(|other| other.name == case.name);
        let passes_with_ours = |case: &Case| with_ours(case).is_some_and(|case| case.passed);
        let mut missing = Vec::new();
        let mut excepted = BTreeMap::new();
        for case in theirs.iter().filter(|case| case.passed && !passes_with_ours(case)) {
            if let Some(exception) = self.exceptions.of(plugin).find(|it| it.covers(&case.name)) {
                let entry = excepted.entry(exception.case.clone());
                entry.or_insert((0, exception.reason.clone())).0 += 1;
            } else {
                let message = with_ours(case).map_or("it was not run", |case| &case.message);
                missing.push((case.name.clone(), message.to_owned()));
            }
        }
        let is_needless = |exception: &&Exception| {
            let mut covered = theirs.iter().filter(|case| exception.covers(&case.name)).peekable();
            covered.peek().is_none() || covered.all(|case| case.passed && passes_with_ours(case))
        };
        let needless = self.exceptions.of(plugin).filter(is_needless);
        self.rows.push(Row {
            plugin: plugin.to_owned(),
            cases: about_plugin.len(),
            with_theirs: about_plugin.iter().filter(|case| case.passed).count(),
            with_ours: about_plugin.iter().filter(|case| passes_with_ours(case)).count(),
            about_functions: about_functions.len(),
            missing,
            excepted,
            needless: needless.map(|exception| exception.case.clone()).collect(),
        });
    }

    /// Whether each case that passes with theirs passes with ours or is excepted, and no exception
    /// is needless.
    pub(super) fn passes(&self) -> bool {
        self.rows.iter().all(|row| row.missing.is_empty() && row.needless.is_empty())
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = match self.kernel {
            Kernel::Running => "on the running kernel",
            Kernel::UserModeLinux => "on User-Mode Linux",
        };
        let head = [
            first,
            "cases",
            "pass with upstream's",
            "pass with ours",
            "excepted",
            "call no plugin",
        ];
        let cells = |row: &Row| {
            let excepted = row.excepted.values().map(|(times, _)| times).sum();
            let numbers =
                [row.cases, row.with_theirs, row.with_ours, excepted, row.about_functions];
            let numbers = numbers.iter().map(ToString::to_string);
            [row.plugin.clone()].into_iter().chain(numbers).collect()
        };
        f.write_str(&page::table(&head, &self.rows.iter().map(cells).collect::<Vec<_>>()))?;
        for Row { plugin, excepted, needless, missing, .. } in &self.rows {
            for (case, (times, reason)) in excepted {
                writeln!(f, "\nexcepted: {plugin}: {case} ({times} cases): {reason}")?;
            }
            for case in needless {
                writeln!(f, "\nNEEDLESS EXCEPTION: {plugin}: {case}")?;
            }
            for (case, message) in missing {
                let message = message.replace('\n', "\n    ");
                writeln!(f, "\nPASSES WITH UPSTREAM'S ONLY: {plugin}: {case}\n    {message}")?;
            }
        }
        let missing: usize = self.rows.iter().map(|row| row.missing.len()).sum();
        writeln!(f, "\ncases that pass with upstream's plugins only, without exception: {missing}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::squeezed;

    fn case(name: &str, passed: bool, calls_plugin: bool) -> Case {
        let (name, text, message) = (name.into(), name.into(), "failed".into());
        Case { name, text, passed, calls_plugin, message }
    }

    fn table(exceptions: &str) -> Table {
        Table::new(Exceptions::parse(exceptions).unwrap(), Kernel::Running)
    }

    #[test]
    fn a_case_that_passes_with_upstream_s_plugins_must_pass_with_ours() {
        let mut table = table("[]");
        let theirs = [case("a", true, true), case("b", false, true), case("internal", true, false)];
        table.add("ptp", &theirs, &theirs);
        assert!(table.passes());
        assert!(squeezed(&table.to_string()).contains("| ptp | 2 | 1 | 1 | 0 | 1 |"), "{table}");
        table.add("bridge", &theirs, &[case("a", false, true), case("b", true, true)]);
        assert!(!table.passes());
        assert!(squeezed(&table.to_string()).contains("| bridge | 2 | 1 | 1 | 0 | 1 |"), "{table}");
        let failure = "PASSES WITH UPSTREAM'S ONLY: bridge: a\n    failed";
        assert!(table.to_string().contains(failure), "{table}");
    }

    #[test]
    fn an_exception_covers_all_versions_and_must_be_needed() {
        let one = r#"[{"plugin": "ptp", "case": "ptp [*] works [x]", "reason": "it is random"}]"#;
        let theirs =
            [case("ptp [0.1.0] works [x]", true, true), case("ptp [1.0.0] works [x]", true, true)];
        let mut needed = table(one);
        needed.add("ptp", &theirs, &[]);
        assert!(needed.passes());
        let line = "excepted: ptp: ptp [*] works [x] (2 cases): it is random";
        assert!(needed.to_string().contains(line), "{needed}");
        let mut needless = table(one);
        needless.add("ptp", &theirs, &theirs);
        assert!(!needless.passes());
    }

    #[test]
    fn an_exception_of_some_versions_does_not_cover_the_others() {
        let one = r#"[{"plugin": "ptp", "case": "ptp [*] a", "versions": ["0.1.0"], "reason": "it is old"}]"#;
        let (old, new) = (case("ptp [0.1.0] a", true, true), case("ptp [1.0.0] a", true, true));
        let mut table = table(one);
        table.add("ptp", std::slice::from_ref(&old), &[]);
        assert!(table.passes());
        table.add("ptp", &[old, new], &[]);
        assert!(!table.passes());
    }

    #[test]
    fn an_exception_needs_a_reason() {
        assert!(Exceptions::parse(r#"[{"plugin": "ptp", "case": "a", "reason": " "}]"#).is_err());
        assert!(Exceptions::read().is_ok());
    }
}
