//! The function style with async functions: `use rscni::compat::async_skel::Plugin`.

use std::pin::Pin;

use crate::{
    Args, CNIResult, Error, Functions,
    async_cni::{self, Nothing},
};

use super::version::PluginInfo;

/// An async function for ADD, DEL or CHECK. Only the result of ADD is written. The future is
/// `Send`, unlike that of 0.0.x.
pub type CmdFn = fn(Args) -> Pin<Box<dyn Future<Output = Result<CNIResult, Error>> + Send>>;

/// A plugin made of three async functions.
#[derive(Debug)]
pub struct Plugin(async_cni::Plugin<Functions<CmdFn, CmdFn, CmdFn, Nothing, Nothing>>);

impl Plugin {
    /// A plugin made of three async functions, with its versions and a text about it.
    pub fn new(add: CmdFn, del: CmdFn, check: CmdFn, info: PluginInfo, about: &str) -> Self {
        Self(async_cni::Plugin::new(add, del, check, info.0, about))
    }

    /// Answers the call that this process was started with.
    ///
    /// # Errors
    /// The error of the error reply, which is already written.
    pub async fn run(&mut self) -> Result<(), Error> {
        self.0.run().await
    }
}
