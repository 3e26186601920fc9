//! The results as text, which is Markdown that reads well on a terminal too, and as files.

use std::{fmt::Write, path::Path};

use anyhow::{Context, Result};

use super::{
    Results, chart,
    footprint::Footprint,
    measure::{Cost, Measure},
    statistics::Spread,
};

/// Writes `README.md`, `results.json` and the charts.
pub(crate) fn write(results: &Results, directory: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(results)? + "\n";
    let files = [
        ("README.md", page(results)),
        ("results.json", json),
        ("operations.svg", chart::operations(&results.measures)),
        ("growth.svg", chart::growth(&results.curves)),
    ];
    std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    for (name, text) in files {
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn page(results: &Results) -> String {
    format!(
        "# What a call costs\n\n\
         Written by `cargo xtask bench`, which measures ours, the Go plugins (the peer) and the least that the kernel\n\
         needs (the floor: an empty static program, linked with glibc as they usually are, or bare netlink) in turn, in one private network. A time is that from\n\
         the start of a process to its end: the median, and the quartiles around it. Where there are two numbers, the first\n\
         is ours. Own memory is what one process of the call has that no file backs, so what each call at a time costs; resident\n\
         are the pages of the program besides, which are in memory once for all calls. Both are of the largest process.\n\
         Written is what goes into files, pipes and sockets.\n\n\
         ![ours, floor and peer, by operation](operations.svg)\n\n\
         ![cost against what is held already](growth.svg)\n\n{}",
        text(results)
    )
}

/// Everything but the charts.
pub(crate) fn text(results: &Results) -> String {
    let [programs, machine] = results.environment.lines();
    let mut text = format!("{programs}.  \n{machine}.\n\n## Operations\n\n");
    text += &table(
        &OPERATION,
        &results.measures.iter().map(|measure| operation(measure, None)).collect::<Vec<_>>(),
    );
    for curve in &results.curves {
        let _ = write!(text, "\n## With {} held\n\n", curve.held);
        let rows = curve.points.iter().flat_map(|point| {
            let alone =
                point.alone.iter().filter(|_| point.measures.iter().any(|m| m.peer.is_some()));
            let alone = alone.map(|m| operation(m, Some(&format!("{} held, alone", point.held))));
            point
                .measures
                .iter()
                .map(|m| operation(m, Some(&format!("{} held", point.held))))
                .chain(alone)
        });
        text += &table(&OPERATION, &rows.collect::<Vec<_>>());
    }
    text += "\n## Limits\n\n";
    let limits = results.limits.iter().map(|limit| {
        let holds = if limit.holds() { "holds" } else { "BROKEN" };
        vec![limit.what.clone(), number(limit.value), number(limit.at_most), holds.to_owned()]
    });
    text += &table(&["measure", "is", "at most", ""], &limits.collect::<Vec<_>>());
    #[expect(clippy::cast_precision_loss, reason = "sizes of some megabytes")]
    let [ours, peer] = [results.disk, results.peer_disk].map(|bytes| bytes as f64 / 1e6);
    text + &format!(
        "\nOn disk: every plugin and cnitool in {ours:.1} MB; the peer's plugins have {peer:.1} MB.\n"
    )
}

const OPERATION: [&str; 13] = [
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

/// A row of the table; numbers beside time are ours, then the peer's.
fn operation(measure: &Measure, held: Option<&str>) -> Vec<String> {
    let none = String::new;
    let ours = measure.ours.footprint;
    let peer = measure.peer.as_ref().and_then(|peer| peer.footprint);
    let both = |of: fn(&Footprint) -> u64, unit: &str| match (&ours, &peer) {
        (Some(ours), Some(peer)) => format!("{}, {}{unit}", of(ours), of(peer)),
        (Some(ours), None) => format!("{}{unit}", of(ours)),
        _ => none(),
    };
    let held = held.map_or_else(none, |held| format!(", {held}"));
    vec![
        format!("{} {}{held}", measure.case, measure.command),
        time(&measure.ours.time),
        measure.peer.as_ref().map_or_else(none, |Cost { time: spread, .. }| time(spread)),
        measure.floor.as_ref().map_or_else(none, time),
        measure.ratio().map_or_else(none, number),
        measure.to_floor().map_or_else(none, number),
        both(|footprint| footprint.system_calls, ""),
        both(|footprint| footprint.processes, ""),
        both(|footprint| footprint.threads, ""),
        both(|footprint| footprint.page_faults, ""),
        both(|footprint| footprint.own_memory, " KiB"),
        both(|footprint| footprint.peak_memory, " KiB"),
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

/// A table of Markdown whose columns are aligned, so that it can be read as it is.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&text| text.to_owned()).collect();
    let width = |column: usize| {
        let cells = std::iter::once(&head).chain(rows).map(|row| row[column].chars().count());
        cells.max().unwrap_or_default().max(3)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let rows: String = rows.iter().map(|row| line(row)).collect();
    format!("{}{}{rows}", line(&head), line(&rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned() {
        let rows = vec![
            vec!["a".to_owned(), "long cell".to_owned()],
            vec!["µµµµ".to_owned(), String::new()],
        ];
        let table = table(&["one", "two"], &rows);
        assert_eq!(
            table,
            "| one  | two       |\n| ---- | --------- |\n| a    | long cell |\n| µµµµ |           |\n"
        );
    }

    #[test]
    fn times_are_milliseconds_with_their_quartiles() {
        let spread = Spread { lower: 1100.0, median: 1234.0, upper: 20_000.0, samples: 3 };
        assert_eq!(time(&spread), "1.23 ms (1.10–20.00)");
    }
}
