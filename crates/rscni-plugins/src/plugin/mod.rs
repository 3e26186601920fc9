//! A plugin of this crate.

pub(crate) mod call;
pub(crate) mod facts;

use rscni::CNIResult;

pub(crate) use self::{
    call::{Call, Command, IpamOrder, Kind, PluginExec},
    facts::{Facts, GatewayBridge, KernelFeature, Keys, Repair, StateFiles},
};
pub(crate) use crate::error::{
    self, BestEffort, Context, Failure, Result, best_effort, differs, invalid, unless_absent,
    unless_exists,
};

/// A plugin of this crate.
pub struct Plugin {
    /// The name, which is the `type` in configurations.
    pub name: &'static str,
    /// One line on what it does.
    pub about: &'static str,
    pub(crate) commands: Commands,
    pub(crate) facts: Facts,
}

/// The function of each command.
pub(crate) struct Commands {
    pub(crate) add: fn(&Call<'_>) -> Result<CNIResult>,
    pub(crate) del: Command,
    pub(crate) check: Command,
    pub(crate) gc: Command,
    pub(crate) status: Command,
}
