//! The report as text.

use std::fmt::Write;

use super::{Entry, Report, Result};
use crate::verdict::CallRecord;

impl Report {
    /// Returns the report by section, with the counts in the last line.
    pub fn text(&self, colour: bool) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} ({})", self.plugin, self.program);
        let _ = writeln!(
            text,
            "supports {}; called in {} unless stated otherwise",
            self.supported.join(", "),
            self.version
        );
        let mut section = "";
        for entry in &self.entries {
            if entry.section != section {
                section = &entry.section;
                let _ = writeln!(text, "\n{}", paint(section, "1", colour));
            }
            write_entry(&mut text, entry, colour);
        }
        let counts = self.counts();
        let _ = writeln!(
            text,
            "\n{} requirements: {} passed, {} MUST and {} SHOULD failed, {} not applicable",
            self.entries.len(),
            counts.passed,
            counts.failed_must,
            counts.failed_should,
            counts.not_applicable
        );
        text
    }
}

fn write_entry(text: &mut String, entry: &Entry, colour: bool) {
    let (verdict, style) = match &entry.result {
        Result::Pass => ("pass", "32"),
        Result::Fail(_) => ("FAIL", "31"),
        Result::NotApplicable { .. } => ("n/a ", "2"),
    };
    let (level, verdict) = (entry.level.as_str(), paint(verdict, style, colour));
    let _ = writeln!(text, "  {verdict}  {:26} {level:6} {}", entry.id, entry.requirement);
    match &entry.result {
        Result::Pass => {}
        Result::NotApplicable { reason } => write_block(text, "because", reason),
        Result::Fail(failure) => {
            write_block(text, "expected", &failure.expected);
            write_block(text, "found", &failure.found);
            if let Some(call) = &failure.call {
                for (name, content) in parts(call) {
                    write_block(text, name, content);
                }
            }
        }
    }
}

/// Returns the parts of a call with their labels.
pub(super) fn parts(call: &CallRecord) -> [(&'static str, &str); 4] {
    [
        ("again", &call.command),
        ("ended", &call.end),
        ("stdout", &call.stdout),
        ("stderr", &call.stderr),
    ]
}

fn write_block(text: &mut String, name: &str, content: &str) {
    let mut label = name;
    for line in content.lines() {
        // The terminal must not interpret control characters in the output of a plugin.
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let _ = writeln!(text, "          {label:9} {line}");
        label = "";
    }
}

fn paint(text: &str, style: &str, colour: bool) -> String {
    if colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
}
