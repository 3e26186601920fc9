//! The function style: `use rscni::compat::skel::Plugin`.

use crate::{Args, CNIResult, Cni, Error};

use super::version::PluginInfo;

/// A function for ADD, DEL or CHECK. Only the result of ADD is written.
pub type CmdFn = fn(args: Args) -> Result<CNIResult, Error>;

/// A plugin made of three functions.
#[derive(Clone, Debug)]
pub struct Plugin {
    functions: Functions,
    plugin: crate::Plugin,
}

#[derive(Clone, Copy, Debug)]
struct Functions {
    add: CmdFn,
    del: CmdFn,
    check: CmdFn,
}

impl Cni for Functions {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        (self.add)(args)
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        (self.del)(args).map(drop)
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        (self.check)(args).map(drop)
    }
}

impl Plugin {
    /// A plugin made of three functions, with its versions and a text about it.
    pub fn new(add: CmdFn, del: CmdFn, check: CmdFn, info: PluginInfo, about: &str) -> Self {
        let plugin = crate::Plugin::default().msg(about).versions(info.0);
        Self { functions: Functions { add, del, check }, plugin }
    }

    /// Answers the call that this process was started with.
    ///
    /// # Errors
    /// The error of the error reply, which is already written.
    pub fn run(&mut self) -> Result<(), Error> {
        self.plugin.run(&self.functions)
    }
}
