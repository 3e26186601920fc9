//! The type of requirements.

use serde::{Deserialize, Serialize};

use crate::{host::PrivateHost, verdict::CheckResult};

/// The level of a requirement in the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// Required for conformance.
    Must,
    /// Recommended.
    Should,
}

impl Level {
    /// Returns the keyword of the specification.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
        }
    }
}

/// A requirement of the specification.
#[derive(Debug)]
pub struct Requirement {
    /// Its stable name.
    pub id: &'static str,
    /// Its level in the specification.
    pub level: Level,
    /// The heading in the specification, version 1.1.0.
    pub section: &'static str,
    /// The requirement as a sentence.
    pub text: &'static str,
    /// The argument of the check, for several requirements with the same check.
    pub(crate) parameter: &'static str,
    pub(crate) check: fn(&PrivateHost, &'static str) -> CheckResult,
}
