//! Versions of the specification.

use crate::Error;
pub use crate::SpecVersion;

impl SpecVersion {
    /// The newest version.
    pub const CURRENT: Self = Self::LATEST;

    /// Returns the version with these numbers.
    ///
    /// # Panics
    /// If the specification has no such version. In a constant, the program does not compile.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        match (major, minor, patch) {
            (0, 1, 0) => Self::V0_1_0,
            (0, 2, 0) => Self::V0_2_0,
            (0, 3, 0) => Self::V0_3_0,
            (0, 3, 1) => Self::V0_3_1,
            (0, 4, 0) => Self::V0_4_0,
            (1, 0, 0) => Self::V1_0_0,
            (1, 1, 0) => Self::V1_1_0,
            _ => panic!("the CNI specification has no such version"),
        }
    }
}

/// A version as a value or, up to 0.2, as text.
pub trait AnyVersion {
    /// Returns the version.
    ///
    /// # Errors
    /// [`Error::IncompatibleVersion`] if the specification has no such version.
    fn version(self) -> Result<SpecVersion, Error>;
}

impl AnyVersion for SpecVersion {
    fn version(self) -> Result<SpecVersion, Error> {
        Ok(self)
    }
}

impl AnyVersion for &str {
    fn version(self) -> Result<SpecVersion, Error> {
        self.parse()
    }
}

impl AnyVersion for String {
    fn version(self) -> Result<SpecVersion, Error> {
        self.parse()
    }
}

/// The versions that a plugin supports. Texts that are not versions of the specification, such as
/// 1.3.0, are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginInfo(pub(super) crate::PluginInfo);

impl PluginInfo {
    /// The versions of a plugin. `newest` counts as supported too.
    pub fn new(newest: impl AnyVersion, versions: Vec<impl AnyVersion>) -> Self {
        let others = versions.into_iter().map(AnyVersion::version);
        let all = std::iter::once(newest.version()).chain(others);
        Self(crate::PluginInfo::new(all.filter_map(Result::ok)))
    }

    /// Returns the supported versions, oldest first.
    pub fn supported_versions(&self) -> &[SpecVersion] {
        self.0.supported_versions()
    }
}
