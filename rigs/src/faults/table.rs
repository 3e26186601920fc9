//! What came out, as lines and as the table in the documentation.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{Kind, remains, worlds::NAMES};
use crate::page::replace_table;

/// How many trials there were, and how they ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Count {
    pub(super) held: usize,
    pub(super) failed: usize,
    /// How many of those that failed left what, by kinds.
    #[serde(default)]
    pub(super) left: BTreeMap<String, usize>,
}

impl Count {
    /// One trial more, with what was wrong.
    pub(super) fn add(&mut self, wrong: &[String]) {
        if wrong.is_empty() {
            self.held += 1;
            return;
        }
        self.failed += 1;
        for kind in remains::kinds(wrong) {
            *self.left.entry(kind.to_owned()).or_default() += 1;
        }
    }

    pub(super) fn trials(&self) -> usize {
        self.held + self.failed
    }
}

impl std::ops::AddAssign<&Self> for Count {
    fn add_assign(&mut self, other: &Self) {
        self.held += other.held;
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

/// What came out for a list.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) world: String,
    pub(super) kind: Kind,
    pub(super) peer: bool,
    pub(super) count: Count,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = self.kind.name();
        let peer = if self.peer { " (Go)" } else { "" };
        let Count { held, failed, .. } = self.count;
        write!(
            f,
            "{:<18} {kind:<6} {:>6} trials  {held:>6} held  {failed:>5} failed{peer}",
            self.world,
            held + failed
        )?;
        if failed > 0 {
            write!(f, ": {}", kinds(&self.count))?;
        }
        Ok(())
    }
}

/// What was left how often.
fn kinds(count: &Count) -> String {
    let counted = |kind| Some(format!("{kind} {}", count.left.get(kind)?));
    remains::all().filter_map(counted).collect::<Vec<_>>().join(", ")
}

/// The sum of our lines, or of those of the Go plugins.
pub(super) fn sum(lines: &[Line], peer: bool) -> Count {
    let mut sum = Count::default();
    lines.iter().filter(|line| line.peer == peer).for_each(|line| sum += &line.count);
    sum
}

/// The sums in a sentence.
pub(super) fn text(lines: &[Line]) -> String {
    let ours = sum(lines, false);
    let mut text = format!("{} of {} trials held", ours.held, ours.trials());
    if lines.iter().any(|line| line.peer) {
        let theirs = sum(lines, true);
        let _ = write!(text, "; of the Go plugins' {} of {}", theirs.held, theirs.trials());
    }
    text
}

const BEGIN: &str = "<!-- begin: cargo xtask faults --peer --write -->\n";

/// Replaces the table in the documentation.
pub(super) fn write(lines: &[Line], every: usize, page: &Path) -> Result<()> {
    replace_table(page, BEGIN, &markdown(lines, every))
}

fn markdown(lines: &[Line], every: usize) -> String {
    let mut table = String::from(
        "| list | fault | rscni: trials | failed | Go: trials | failed |\n|---|---|--:|--:|--:|--:|\n",
    );
    let mut left = String::new();
    for name in NAMES {
        for kind in Kind::value_variants() {
            let of = |peer: bool| {
                let found = lines
                    .iter()
                    .find(|line| line.world == name && line.kind == *kind && line.peer == peer);
                found.map(|line| &line.count)
            };
            let cells = |count: Option<&Count>| {
                count.map_or_else(
                    || "| | ".to_owned(),
                    |count| format!("| {} | {} ", count.trials(), count.failed),
                )
            };
            let (ours, theirs) = (of(false), of(true));
            if ours.or(theirs).is_some() {
                let _ =
                    writeln!(table, "| {name} | {} {}{}|", kind.name(), cells(ours), cells(theirs));
            }
            for (whose, count) in [("rscni", ours), ("Go", theirs)] {
                if let Some(count) = count.filter(|count| count.failed > 0) {
                    let _ = writeln!(
                        left,
                        "| {whose}: {name} | {} | {} | {} |",
                        kind.name(),
                        count.failed,
                        kinds(count)
                    );
                }
            }
        }
    }
    let of_ours =
        if every == 1 { "Every trial".to_owned() } else { format!("Of each {every} trials one") };
    let mut text = format!("{of_ours} of ours was made. {}.\n\n{table}", self::text(lines));
    if !left.is_empty() {
        let head = "| list | fault | failed | of these, with |\n|---|---|--:|---|\n";
        let _ = write!(text, "\nWhat was left or broken, where trials failed:\n\n{head}{left}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::END;

    fn line(kind: Kind, peer: bool, held: usize, failed: usize) -> Line {
        Line { world: "bridge".to_owned(), kind, peer, count: count(held, failed) }
    }

    fn count(held: usize, failed: usize) -> Count {
        let mut count = Count { held, ..Count::default() };
        (0..failed).for_each(|_| count.add(&["+ host: link vethx (veth)".to_owned()]));
        count
    }

    #[test]
    fn a_count_is_read_as_it_is_written() {
        let count = count(12, 3);
        assert_eq!(count.to_string().parse(), Ok(count));
        assert!("FAILED something".parse::<Count>().is_err());
    }

    #[test]
    fn the_table_takes_the_place_of_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let page = directory.path().join("faults.md");
        std::fs::write(&page, format!("before\n{BEGIN}old\n{END}after\n")).unwrap();
        write(&[line(Kind::Kill, false, 10, 0), line(Kind::Kill, true, 1, 4)], 1, &page).unwrap();
        let text = std::fs::read_to_string(&page).unwrap();
        assert!(
            text.contains("| bridge | kill | 10 | 0 | 5 | 4 |") && !text.contains("old"),
            "{text}"
        );
        assert!(
            text.contains(
                "Every trial of ours was made. 10 of 10 trials held; of the Go plugins' 1 of 5."
            ),
            "{text}"
        );
        assert!(
            text.contains("| Go: bridge | kill | 4 | an interface 4 |")
                && text.ends_with("after\n"),
            "{text}"
        );
        std::fs::write(&page, "nothing").unwrap();
        assert!(write(&[], 1, &page).is_err());
    }
}
