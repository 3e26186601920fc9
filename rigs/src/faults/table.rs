//! The results, as lines and as the table in the documentation.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{Kind, kinds, lists};
use crate::page;

/// Numbers of trials.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Count {
    pub(super) passed: usize,
    pub(super) failed: usize,
    /// Failed trials by the kinds of things they left.
    #[serde(default)]
    pub(super) left: BTreeMap<String, usize>,
}

impl Count {
    /// Adds a trial with its problems.
    pub(super) fn add(&mut self, problems: &[String]) {
        if problems.is_empty() {
            self.passed += 1;
            return;
        }
        self.failed += 1;
        for kind in kinds::of_all(problems) {
            *self.left.entry(kind.to_owned()).or_default() += 1;
        }
    }

    fn trials(&self) -> usize {
        self.passed + self.failed
    }

    /// The kinds of things left, each with its number.
    fn kinds(&self) -> String {
        let counted = |kind| Some(format!("{kind} {}", self.left.get(kind)?));
        kinds::all().filter_map(counted).collect::<Vec<_>>().join(", ")
    }
}

impl std::ops::AddAssign<&Self> for Count {
    fn add_assign(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        for (kind, count) in &other.left {
            *self.left.entry(kind.clone()).or_default() += count;
        }
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "trials: {}", serde_json::to_string(self).map_err(|_| std::fmt::Error)?)
    }
}

impl std::str::FromStr for Count {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        serde_json::from_str(text.strip_prefix("trials: ").ok_or(())?).map_err(|_| ())
    }
}

/// The result of a list with a kind of fault.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) list: String,
    pub(super) kind: Kind,
    pub(super) peer: bool,
    pub(super) count: Count,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (list, kind) = (&self.list, self.kind.name());
        let Count { passed, failed, .. } = self.count;
        let trials = passed + failed;
        write!(
            f,
            "{list:<18} {kind:<6} {trials:>6} trials  {passed:>6} passed  {failed:>5} failed"
        )?;
        f.write_str(if self.peer { " (Go)" } else { "" })?;
        if failed > 0 {
            write!(f, ": {}", self.count.kinds())?;
        }
        Ok(())
    }
}

/// The sum of our lines, or of those of the Go plugins.
pub(super) fn sum(lines: &[Line], peer: bool) -> Count {
    let mut sum = Count::default();
    lines.iter().filter(|line| line.peer == peer).for_each(|line| sum += &line.count);
    sum
}

/// The sums in a sentence.
pub(super) fn summary(lines: &[Line]) -> String {
    let ours = sum(lines, false);
    let mut text = format!("{} of {} trials passed", ours.passed, ours.trials());
    if lines.iter().any(|line| line.peer) {
        let theirs = sum(lines, true);
        let _ = write!(text, "; of the Go plugins' {} of {}", theirs.passed, theirs.trials());
    }
    text
}

const BEGIN: &str = "<!-- begin: cargo xtask faults --peer --write -->\n";

/// Replaces the table in the documentation.
pub(super) fn write(lines: &[Line], every: usize, page: &Path) -> Result<()> {
    page::replace_table(page, BEGIN, &markdown(lines, every))
}

fn markdown(lines: &[Line], every: usize) -> String {
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    let names = lists::names();
    let kinds = |name| Kind::value_variants().iter().map(move |kind| (name, *kind));
    for (name, kind) in names.iter().flat_map(kinds) {
        let of = |peer: bool| {
            let is_it = |l: &&Line| l.list == *name && l.kind == kind && l.peer == peer;
            lines.iter().find(is_it).map(|line| &line.count)
        };
        let both = [("rscni", of(false)), ("Go", of(true))];
        let first = [name.clone(), kind.name()];
        let cells = both.iter().flat_map(|(_, count)| match count {
            Some(count) => [count.trials().to_string(), count.failed.to_string()],
            None => [String::new(), String::new()],
        });
        if both.iter().any(|(_, count)| count.is_some()) {
            rows.push(first.into_iter().chain(cells).collect());
        }
        for (set, count) in both {
            if let Some(count) = count.filter(|count| count.failed > 0) {
                let (failed, kinds) = (count.failed.to_string(), count.kinds());
                failures.push(vec![format!("{set}: {name}"), kind.name(), failed, kinds]);
            }
        }
    }
    let extent =
        if every == 1 { "All trials".to_owned() } else { format!("One of {every} trials") };
    let head = ["list", "fault", "rscni: trials", "failed", "Go: trials", "failed"];
    let table = page::table(&head, &rows);
    let mut text = format!("{extent} of ours were made. {}.\n\n{table}", summary(lines));
    if !failures.is_empty() {
        let table = page::table(&["list", "fault", "failed", "of these, with"], &failures);
        let _ = write!(text, "\nFailed trials left or broke:\n\n{table}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::squeezed;

    fn line(peer: bool, passed: usize, failed: usize) -> Line {
        let count = count(passed, failed);
        Line { list: "bridge".to_owned(), kind: Kind::Kill, peer, count }
    }

    fn count(passed: usize, failed: usize) -> Count {
        let mut count = Count { passed, ..Count::default() };
        (0..failed).for_each(|_| count.add(&["+ host: link vethx (veth)".to_owned()]));
        count
    }

    #[test]
    fn a_count_is_parsed_from_its_display() {
        let count = count(12, 3);
        assert_eq!(count.to_string().parse(), Ok(count));
        assert!("FAILED something".parse::<Count>().is_err());
    }

    #[test]
    fn the_table_has_a_row_for_each_list_and_fault_and_one_for_each_failure() {
        let text = squeezed(&markdown(&[line(false, 10, 0), line(true, 1, 4)], 1));
        for part in [
            "All trials of ours were made. 10 of 10 trials passed; of the Go plugins' 1 of 5.",
            "| bridge | kill | 10 | 0 | 5 | 4 |",
            "| Go: bridge | kill | 4 | an interface 4 |",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
