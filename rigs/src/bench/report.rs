//! The results as Markdown, which reads well on a terminal too, and as files.

use std::{fmt::Write, path::Path};

use anyhow::Result;
use fs_err as fs;

use super::{
    Results, chart,
    footprint::Footprint,
    measure::{Cost, Measure},
    statistics::Spread,
};
use crate::page::table;

/// Writes `README.md`, `results.json` and the charts.
pub(crate) fn write(results: &Results, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    fs::write(directory.join("README.md"), INTRODUCTION.to_owned() + &text(results))?;
    fs::write(directory.join("results.json"), serde_json::to_string_pretty(results)? + "\n")?;
    fs::write(directory.join("operations.svg"), chart::operations(&results.measures)?)?;
    Ok(fs::write(directory.join("growth.svg"), chart::growth(&results.curves)?)?)
}

const INTRODUCTION: &str = "\
# Cost of a call

Written by `cargo xtask bench`. It measures rscni, the Go plugins (the peer) and the least that the
kernel needs (the floor) in turn, in one private network. The floor is an empty static program,
linked with glibc as most are, or bare netlink. A time is measured from the start of a process to
its end: the median, and the quartiles in parentheses. Of two numbers the first is ours. Memory is
that of the largest process: own memory is not backed by a file and needed by each call; resident
memory also contains pages of the program, which all calls share. Written counts bytes to files,
pipes and sockets.

![rscni, floor and peer, by operation](operations.svg)

![cost by what is held already](growth.svg)

";

/// Everything but the charts.
pub(crate) fn text(results: &Results) -> String {
    let [programs, machine] = results.environment.lines();
    let rows: Vec<_> = results.measures.iter().map(|measure| row(measure, "")).collect();
    let mut text = format!("{programs}.  \n{machine}.\n\n## Operations\n\n{}", table(&HEAD, &rows));
    for curve in &results.curves {
        let mut rows = Vec::new();
        for point in &curve.points {
            let held = format!(", {} held", point.held);
            rows.extend(point.measures.iter().map(|measure| row(measure, &held)));
            if point.measures.iter().any(|measure| measure.peer.is_some()) {
                let alone = format!("{held}, alone");
                rows.extend(point.alone.iter().map(|measure| row(measure, &alone)));
            }
        }
        let _ = write!(text, "\n## With {} held\n\n{}", curve.held, table(&HEAD, &rows));
    }
    let limits = results.limits.iter().map(|limit| {
        let holds = if limit.holds() { "holds" } else { "BROKEN" };
        vec![limit.what.clone(), number(limit.value), number(limit.at_most), holds.to_owned()]
    });
    let limits = table(&["measure", "is", "at most", ""], &limits.collect::<Vec<_>>());
    #[expect(clippy::cast_precision_loss, reason = "sizes of some megabytes")]
    let [ours, peer] = [results.disk, results.peer_disk].map(|bytes| bytes as f64 / 1e6);
    let _ = write!(
        text,
        "\n## Limits\n\n{limits}\nOn disk: every plugin and cnitool in {ours:.1} MB; the peer's \
         plugins have {peer:.1} MB.\n"
    );
    text
}

const HEAD: [&str; 13] = [
    "operation",
    "ours",
    "peer",
    "floor",
    "ours / peer",
    "ours / floor",
    "system calls",
    "processes",
    "threads",
    "page faults",
    "own memory",
    "resident",
    "written",
];

/// A row of the table. Of two numbers the first is ours.
fn row(measure: &Measure, held: &str) -> Vec<String> {
    let none = String::new;
    let ours = measure.ours.footprint;
    let peer = measure.peer.as_ref().and_then(|peer| peer.footprint);
    let both = |of: fn(&Footprint) -> u64, unit: &str| match (&ours, &peer) {
        (Some(ours), Some(peer)) => format!("{}, {}{unit}", of(ours), of(peer)),
        (Some(ours), None) => format!("{}{unit}", of(ours)),
        _ => none(),
    };
    vec![
        format!("{} {}{held}", measure.case, measure.command),
        time(&measure.ours.time),
        measure.peer.as_ref().map_or_else(none, |Cost { time: spread, .. }| time(spread)),
        measure.floor.as_ref().map_or_else(none, time),
        measure.ratio().map_or_else(none, number),
        measure.to_floor().map_or_else(none, number),
        both(|footprint| footprint.usage.system_calls, ""),
        both(|footprint| footprint.usage.processes, ""),
        both(|footprint| footprint.usage.threads, ""),
        both(|footprint| footprint.usage.page_faults, ""),
        both(|footprint| footprint.usage.own_memory, " KiB"),
        both(|footprint| footprint.usage.peak_memory, " KiB"),
        both(|footprint| footprint.bytes_written, " B"),
    ]
}

/// `1.2 ms (1.1–1.4)`
fn time(spread: &Spread) -> String {
    let [lower, median, upper] =
        [spread.lower, spread.median, spread.upper].map(|micros| micros / 1000.0);
    let digits = if median < 10.0 { 2 } else { 1 };
    format!("{median:.digits$} ms ({lower:.digits$}–{upper:.digits$})")
}

fn number(value: f64) -> String {
    let digits = if value < 0.1 { 3 } else { 2 };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_milliseconds_with_their_quartiles() {
        let spread = Spread { lower: 1100.0, median: 1234.0, upper: 20_000.0, samples: 3 };
        assert_eq!(time(&spread), "1.23 ms (1.10–20.00)");
    }
}
