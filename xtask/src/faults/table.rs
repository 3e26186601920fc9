//! What came out, as lines and as the table in the documentation.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::Kind;
use super::worlds::NAMES;

/// How many trials there were, and how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) held: usize,
    pub(super) failed: usize,
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "trials: {} held, {} failed", self.held, self.failed)
    }
}

impl std::str::FromStr for Count {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (held, failed) = text.strip_prefix("trials: ").and_then(|rest| rest.split_once(", ")).ok_or(())?;
        let number = |text: &str, word| text.strip_suffix(word).and_then(|number| number.parse().ok()).ok_or(());
        Ok(Self { held: number(held, " held")?, failed: number(failed, " failed")? })
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
        let kind = self.kind.to_possible_value().expect("no kind is hidden");
        let peer = if self.peer { " (Go)" } else { "" };
        let Count { held, failed } = self.count;
        write!(
            f,
            "{:<18} {:<6} {:>6} trials  {held:>6} held  {failed:>5} failed{peer}",
            self.world,
            kind.get_name(),
            held + failed
        )
    }
}

/// The sum of our lines, or of those of the Go plugins.
pub(super) fn sum(lines: &[Line], peer: bool) -> Count {
    lines.iter().filter(|line| line.peer == peer).fold(Count::default(), |sum, line| Count {
        held: sum.held + line.count.held,
        failed: sum.failed + line.count.failed,
    })
}

/// The sums in a sentence.
pub(super) fn text(lines: &[Line]) -> String {
    let ours = sum(lines, false);
    let mut text = format!("{} of {} trials held", ours.held, ours.held + ours.failed);
    if lines.iter().any(|line| line.peer) {
        let theirs = sum(lines, true);
        let _ = write!(text, "; of the Go plugins {} of {}", theirs.held, theirs.held + theirs.failed);
    }
    text
}

const BEGIN: &str = "<!-- begin: cargo xtask faults --peer --write -->\n";
const END: &str = "<!-- end -->\n";

/// Replaces the table in the documentation.
pub(super) fn write(lines: &[Line], page: &Path) -> Result<()> {
    let text = std::fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
    let (before, rest) = text.split_once(BEGIN).context("the page has no place for the table")?;
    let (_, after) = rest.split_once(END).context("the table in the page has no end")?;
    let table = markdown(lines);
    let text = format!("{before}{BEGIN}\n{table}\n{END}{after}");
    std::fs::write(page, text).with_context(|| format!("write {}", page.display()))
}

fn markdown(lines: &[Line]) -> String {
    let mut table =
        String::from("| list | fault | rscni: trials | failed | Go: trials | failed |\n|---|---|--:|--:|--:|--:|\n");
    for name in NAMES {
        for kind in Kind::value_variants() {
            let of = |peer: bool| {
                let found = lines.iter().find(|line| line.world == name && line.kind == *kind && line.peer == peer);
                found.map(|line| line.count)
            };
            let Some(ours) = of(false) else { continue };
            let kind = kind.to_possible_value().expect("no kind is hidden");
            let theirs = of(true).map_or_else(
                || "| | ".to_owned(),
                |count| format!("| {} | {} ", count.held + count.failed, count.failed),
            );
            let _ = writeln!(
                table,
                "| {name} | {} | {} | {} {theirs}|",
                kind.get_name(),
                ours.held + ours.failed,
                ours.failed
            );
        }
    }
    table + "\n" + &text(lines) + ".\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: Kind, peer: bool, held: usize, failed: usize) -> Line {
        Line { world: "bridge".to_owned(), kind, peer, count: Count { held, failed } }
    }

    #[test]
    fn a_count_is_read_as_it_is_written() {
        let count = Count { held: 12, failed: 3 };
        assert_eq!(count.to_string().parse(), Ok(count));
        assert!("FAILED something".parse::<Count>().is_err());
    }

    #[test]
    fn the_table_takes_the_place_of_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let page = directory.path().join("faults.md");
        std::fs::write(&page, format!("before\n{BEGIN}old\n{END}after\n")).unwrap();
        write(&[line(Kind::Kill, false, 10, 0), line(Kind::Kill, true, 1, 4)], &page).unwrap();
        let text = std::fs::read_to_string(&page).unwrap();
        assert!(text.contains("| bridge | kill | 10 | 0 | 5 | 4 |") && !text.contains("old"), "{text}");
        assert!(
            text.contains("10 of 10 trials held; of the Go plugins 1 of 5.") && text.ends_with("after\n"),
            "{text}"
        );
        std::fs::write(&page, "nothing").unwrap();
        assert!(write(&[], &page).is_err());
    }
}
