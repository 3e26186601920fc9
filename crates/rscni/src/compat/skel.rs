//! The function style: `use rscni::compat::skel::Plugin`.

use crate::{Error, Functions};

use super::version::PluginInfo;

pub use crate::functions::CmdFn;

/// A plugin made of three functions.
#[derive(Clone, Debug)]
pub struct Plugin(crate::Plugin<Functions>);

impl Plugin {
    /// A plugin made of three functions, with its versions and a text about it.
    pub fn new(add: CmdFn, del: CmdFn, check: CmdFn, info: PluginInfo, about: &str) -> Self {
        Self(crate::Plugin::new(add, del, check, info.0, about))
    }

    /// Answers the call that this process was started with.
    ///
    /// # Errors
    /// The error of the error reply, which is already written.
    pub fn run(&mut self) -> Result<(), Error> {
        self.0.run()
    }
}
