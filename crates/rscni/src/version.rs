//! The versions of the CNI specification and their features.
//!
//! Release numbers of the Go library (1.2.3, 1.3.0) are not spec versions; a configuration with one
//! is rejected with code 1.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::{Error, any_case, json};

/// A released version of the CNI spec, ordered by age.
///
/// The default is 0.1.0, the version of a configuration without `cniVersion`.
///
/// ```
/// use rscni::SpecVersion;
///
/// let version: SpecVersion = "0.4.0".parse()?;
/// assert!(version.has_check() && version < SpecVersion::LATEST);
/// # Ok::<(), rscni::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SpecVersion {
    /// 0.1.0: results have `ip4` and `ip6`.
    #[default]
    V0_1_0,
    /// 0.2.0: the VERSION command.
    V0_2_0,
    /// 0.3.0: chains, and results with `interfaces`, `ips` and `routes`.
    V0_3_0,
    /// 0.3.1: corrections of the text.
    V0_3_1,
    /// 0.4.0: CHECK, and `prevResult` on DEL.
    V0_4_0,
    /// 1.0.0: lists only, no `version` in a result's `ips`.
    V1_0_0,
    /// 1.1.0: GC and STATUS; `mtu`, `socketPath`, `pciID` of interfaces; `mtu`, `advmss`,
    /// `priority`, `table`, `scope` of routes.
    V1_1_0,
}

impl SpecVersion {
    /// All versions, oldest first.
    pub const ALL: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    /// The newest version, 1.1.0.
    pub const LATEST: Self = Self::V1_1_0;

    /// Returns the value of `cniVersion`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Whether results have the shape with `ip4` and `ip6` (up to 0.2.0).
    pub fn has_legacy_result(self) -> bool {
        self <= Self::V0_2_0
    }

    /// Whether plugins can be chained, each with the `prevResult` of the previous one (from 0.3.0).
    pub fn has_chaining(self) -> bool {
        self >= Self::V0_3_0
    }

    /// Whether CHECK exists, and DEL gets a `prevResult` (from 0.4.0).
    pub fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// Whether GC and STATUS exist (from 1.1.0).
    pub fn has_gc_and_status(self) -> bool {
        self >= Self::V1_1_0
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for SpecVersion {
    type Err = Error;

    /// # Errors
    /// [`Error::IncompatibleVersion`] for anything that is not a released spec version.
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|v| v.as_str() == text).ok_or_else(|| {
            Error::IncompatibleVersion(format!(
                "cniVersion {text:?} is not a version of the CNI spec; supported are {}",
                join(&Self::ALL)
            ))
        })
    }
}

impl Serialize for SpecVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for SpecVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The spec versions that a plugin supports, as reported by VERSION.
///
/// [`PluginInfo::default`] contains all versions, since the library converts configurations and
/// results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginInfo {
    supported: Vec<SpecVersion>,
}

impl PluginInfo {
    /// A plugin that supports exactly these versions.
    pub fn new(versions: impl IntoIterator<Item = SpecVersion>) -> Self {
        let mut supported: Vec<_> = versions.into_iter().collect();
        supported.sort_unstable();
        supported.dedup();
        Self { supported }
    }

    /// A plugin that supports this version and all newer ones.
    ///
    /// ```
    /// use rscni::{PluginInfo, SpecVersion};
    ///
    /// let info = PluginInfo::since(SpecVersion::V1_0_0);
    /// assert_eq!(info.supported_versions(), [SpecVersion::V1_0_0, SpecVersion::V1_1_0]);
    /// ```
    pub fn since(oldest: SpecVersion) -> Self {
        Self::new(SpecVersion::ALL.into_iter().filter(|v| *v >= oldest))
    }

    /// Returns the supported versions, oldest first.
    pub fn supported_versions(&self) -> &[SpecVersion] {
        &self.supported
    }

    /// Whether the plugin supports configurations of `version`.
    pub fn supports(&self, version: SpecVersion) -> bool {
        self.supported.contains(&version)
    }

    /// Returns the reply to VERSION (spec: "VERSION Success"), in the version of the input, or in
    /// the newest supported one.
    pub(crate) fn reply(&self, stdin: &[u8]) -> Vec<u8> {
        let input: Value = serde_json::from_slice(stdin).unwrap_or_default();
        let asked = input.as_object().and_then(|input| any_case::get(input, "cniVersion"));
        let asked = asked.and_then(|text| text.as_str()?.parse().ok());
        let version = asked.or(self.supported.last().copied()).unwrap_or(SpecVersion::LATEST);
        let supported = self.supported.iter().map(|version| version.as_str().into()).collect();
        let mut reply = Map::new();
        reply.insert("cniVersion".into(), version.as_str().into());
        reply.insert("supportedVersions".into(), Value::Array(supported));
        json::to_text(reply)
    }

    /// Returns the supported versions as a comma-separated list.
    pub(crate) fn list(&self) -> String {
        join(&self.supported)
    }
}

impl Default for PluginInfo {
    fn default() -> Self {
        Self::new(SpecVersion::ALL)
    }
}

fn join(versions: &[SpecVersion]) -> String {
    versions.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed_from_their_text() {
        for version in SpecVersion::ALL {
            assert_eq!(version.to_string().parse::<SpecVersion>().unwrap(), version);
        }
    }

    #[test]
    fn release_numbers_of_the_go_library_are_not_spec_versions() {
        for text in ["1.2.0", "1.2.3", "1.3.0", "1.1", "v1.1.0", "1.1.0 ", ""] {
            assert_eq!(text.parse::<SpecVersion>().unwrap_err().code(), 1, "{text:?}");
        }
    }

    #[test]
    fn features_exist_from_the_version_that_added_them() {
        let with =
            |f: fn(SpecVersion) -> bool| SpecVersion::ALL.into_iter().filter(|v| f(*v)).count();
        assert_eq!(with(SpecVersion::has_legacy_result), 2);
        assert_eq!(with(SpecVersion::has_chaining), 5);
        assert_eq!(with(SpecVersion::has_check), 3);
        assert_eq!(with(SpecVersion::has_gc_and_status), 1);
    }

    #[test]
    fn plugin_info_supports_all_versions_by_default() {
        assert_eq!(PluginInfo::default().supported_versions(), SpecVersion::ALL);
        let since = PluginInfo::since(SpecVersion::V0_4_0);
        assert!(since.supports(SpecVersion::V1_1_0) && !since.supports(SpecVersion::V0_3_1));
        assert_eq!(
            String::from_utf8(since.reply(b"")).unwrap(),
            r#"{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}"#
        );
        let in_version = |stdin: &str| String::from_utf8(since.reply(stdin.as_bytes())).unwrap();
        assert!(in_version(r#"{ "cniVersion": "1.0.0" }"#).starts_with(r#"{"cniVersion":"1.0.0""#));
        for nothing in [r#"{ "cniVersion": "9.0.0" }"#, r#"{ "cniVersion": 1 }"#, "[]"] {
            assert!(in_version(nothing).starts_with(r#"{"cniVersion":"1.1.0""#), "{nothing}");
        }
    }
}
