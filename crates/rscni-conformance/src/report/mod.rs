//! The report of a run.

mod json;
mod junit;
mod text;

use serde::{Deserialize, Serialize};

use crate::{
    requirement::{Level, Requirement},
    subject::Subject,
    verdict::{CheckResult, Failure, NotPassed},
};

/// The results of all requirements.
#[derive(Clone, Debug)]
pub struct Report {
    /// The plugin's name.
    pub plugin: String,
    /// Its file.
    pub program: String,
    /// The version of most calls.
    pub version: String,
    /// The versions of the specification that the plugin supports.
    pub supported: Vec<String>,
    /// The result of each requirement.
    pub entries: Vec<Entry>,
    /// Whether the last requirements were not checked, because too many calls timed out.
    pub gave_up: bool,
}

/// A requirement and its result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The requirement's stable name.
    pub id: String,
    /// Its level in the specification.
    pub level: Level,
    /// The heading in the specification.
    pub section: String,
    /// The requirement as a sentence.
    pub requirement: String,
    /// The result.
    #[serde(flatten)]
    pub result: Result,
}

/// The result of a requirement.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum Result {
    /// It is met.
    Pass,
    /// It is not met.
    Fail(Box<Failure>),
    /// It does not apply to the plugin.
    #[serde(rename = "not applicable")]
    NotApplicable {
        /// The reason.
        reason: String,
    },
}

impl Entry {
    pub(crate) fn new(requirement: &Requirement, checked: CheckResult) -> Self {
        let result = match checked {
            Ok(()) => Result::Pass,
            Err(NotPassed::Failed(failure)) => Result::Fail(failure),
            Err(NotPassed::NotApplicable(reason)) => Result::NotApplicable { reason },
        };
        Self {
            id: requirement.id.to_owned(),
            level: requirement.level,
            section: requirement.section.to_owned(),
            requirement: requirement.text.to_owned(),
            result,
        }
    }

    pub(crate) fn failed(requirement: &Requirement, failure: Failure) -> Self {
        Self::new(requirement, Err(NotPassed::Failed(Box::new(failure))))
    }
}

/// The number of requirements per result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Requirements that are met.
    pub passed: usize,
    /// MUST requirements that are not met.
    pub failed_must: usize,
    /// SHOULD requirements that are not met.
    pub failed_should: usize,
    /// Requirements that do not apply to the plugin.
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
        }
    }

    /// Counts the results.
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
