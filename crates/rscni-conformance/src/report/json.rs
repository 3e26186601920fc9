//! The report as JSON.

use serde::Serialize;

use super::{Counts, Entry, Report};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    plugin: &'a str,
    program: &'a str,
    cni_version: &'a str,
    supported_versions: &'a [String],
    counts: Counts,
    requirements: &'a [Entry],
}

impl Report {
    /// Returns the report as a JSON object with all requirements in an array.
    pub fn json(&self) -> String {
        let document = Document {
            plugin: &self.plugin,
            program: &self.program,
            cni_version: &self.version,
            supported_versions: &self.supported,
            counts: self.counts(),
            requirements: &self.entries,
        };
        // Serialization only fails for keys that are not strings.
        serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
    }
}
