//! What a requirement is.

use serde::{Deserialize, Serialize};

use crate::{verdict::Checked, world::World};

/// How the specification words a requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// A plugin that does otherwise is not conformant.
    Must,
    /// There may be reasons to do otherwise.
    Should,
}

impl Level {
    /// As it is written.
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
    /// How the specification words it.
    pub level: Level,
    /// The heading in the specification, version 1.1.0.
    pub section: &'static str,
    /// What is required, in a sentence.
    pub text: &'static str,
    /// What tells several requirements with the same check apart.
    pub(crate) about: &'static str,
    pub(crate) check: fn(&World, &'static str) -> Checked,
}
