//! What has come out.

mod json;
mod junit;
mod text;

use serde::{Deserialize, Serialize};

use crate::{
    requirement::{Level, Requirement},
    subject::Subject,
    verdict::{Checked, Failure, Not},
};

/// What all requirements came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The plugin's name.
    pub plugin: String,
    /// Its file.
    pub program: String,
    /// The version of most calls.
    pub version: String,
    /// The versions that the plugin claims, of those that the specification has.
    pub supported: Vec<String>,
    /// One for each requirement.
    pub entries: Vec<Entry>,
    /// Whether the last of them were not tried, as too many calls were overdue.
    pub gave_up: bool,
    /// Why there can be no report.
    pub(crate) failed: Option<String>,
}

/// What a requirement came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The requirement's stable name.
    pub id: String,
    /// How the specification words it.
    pub level: Level,
    /// The heading in the specification.
    pub section: String,
    /// What is required.
    pub requirement: String,
    /// What came of it.
    #[serde(flatten)]
    pub result: Result,
}

/// What came of a requirement.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum Result {
    /// It is met.
    Pass,
    /// It is not.
    Fail(Box<Failure>),
    /// It does not concern the plugin.
    #[serde(rename = "not applicable")]
    NotApplicable {
        /// Why.
        reason: String,
    },
}

impl Entry {
    pub(crate) fn new(requirement: &Requirement, checked: Checked) -> Self {
        let result = match checked {
            Ok(()) => Result::Pass,
            Err(Not::Met(failure)) => Result::Fail(failure),
            Err(Not::Applicable(reason)) => Result::NotApplicable { reason },
        };
        let (section, text) = (requirement.section.to_owned(), requirement.text.to_owned());
        Self {
            id: requirement.id.to_owned(),
            level: requirement.level,
            section,
            requirement: text,
            result,
        }
    }

    pub(crate) fn failed(requirement: &Requirement, failure: Failure) -> Self {
        Self::new(requirement, Err(Not::Met(Box::new(failure))))
    }
}

/// How many requirements came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Met.
    pub passed: usize,
    /// Not met, though they must be.
    pub failed_must: usize,
    /// Not met, though they should be.
    pub failed_should: usize,
    /// No concern of the plugin.
    pub not_applicable: usize,
}

impl Report {
    pub(crate) fn of(subject: &Subject) -> Self {
        Self {
            plugin: subject.name.clone(),
            program: subject.program.display().to_string(),
            version: String::new(),
            supported: Vec::new(),
            entries: Vec::new(),
            gave_up: false,
            failed: None,
        }
    }

    /// How many there are of what.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for entry in &self.entries {
            *match (&entry.result, entry.level) {
                (Result::Pass, _) => &mut counts.passed,
                (Result::Fail(_), Level::Must) => &mut counts.failed_must,
                (Result::Fail(_), Level::Should) => &mut counts.failed_should,
                (Result::NotApplicable { .. }, _) => &mut counts.not_applicable,
            } += 1;
        }
        counts
    }
}
