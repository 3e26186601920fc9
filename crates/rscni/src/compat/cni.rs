//! The trait style: `use rscni::compat::cni::{Cni, Plugin}`.

pub use crate::Cni;
use crate::Error;

use super::version::{AnyVersion, PluginInfo};

/// A plugin that runs an implementation of [`Cni`].
#[derive(Clone, Debug, Default)]
pub struct Plugin(crate::Plugin);

impl Plugin {
    /// A plugin that supports these versions.
    pub fn new(newest: impl AnyVersion, versions: Vec<impl AnyVersion>) -> Self {
        Self(crate::Plugin::default().versions(PluginInfo::new(newest, versions).0))
    }

    /// Sets the text about the plugin.
    #[must_use]
    pub fn msg(self, about: &str) -> Self {
        Self(self.0.msg(about))
    }

    /// Answers the call that this process was started with.
    ///
    /// # Errors
    /// The error of the error reply, which is already written.
    pub fn run<C: Cni>(&self, plugin: &C) -> Result<(), Error> {
        self.0.run(plugin)
    }
}
