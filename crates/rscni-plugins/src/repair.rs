//! Putting back what a running attachment has lost, such as rules after `nft flush ruleset`,
//! without touching its interface.
//!
//! It is called as CHECK is: with the configuration and the result of the ADD. Each plugin has two
//! functions for it. `look` finds what is missing; it is CHECK, or stricter. `restore` puts that
//! back with the steps of ADD, and leaves alone what is there.

use rscni::{Args, CNIResult, Cni, Error, Plugin, Reply, Request};

use crate::{
    interface::bridge,
    interface::ptp,
    meta::bandwidth,
    meta::firewall,
    meta::portmap,
    plugin::failure::{AsFarAsPossible, Result},
};

type Function = fn(&Args) -> Result<()>;

/// How one plugin is repaired.
struct Repair {
    look: Function,
    restore: Function,
}

/// The plugins that can put something back.
fn find(plugin: &str) -> Option<Repair> {
    let (look, restore): (Function, Function) = match plugin {
        "bandwidth" => (bandwidth::check, bandwidth::restore),
        "bridge" => (bridge::look_strictly, bridge::restore),
        "firewall" => (firewall::look_strictly, firewall::restore),
        "portmap" => (portmap::check, portmap::restore),
        "ptp" => (ptp::look_strictly, ptp::restore),
        _ => return None,
    };
    Some(Repair { look, restore })
}

/// Whether a plugin of this name can put something back.
pub fn can_repair(plugin: &str) -> bool {
    find(plugin).is_some()
}

/// Answers a CHECK with what is missing; none if the plugin cannot put anything back.
pub fn look(plugin: &str, request: &Request) -> Option<Reply> {
    find(plugin).map(|repair| Plugin::default().reply(&Step(repair.look), request))
}

/// Answers a CHECK by putting back what is missing; none if the plugin cannot put anything back.
pub fn restore(plugin: &str, request: &Request) -> Option<Reply> {
    find(plugin).map(|repair| Plugin::default().reply(&Step(repair.restore), request))
}

/// One function as a plugin that has only CHECK.
struct Step(Function);

impl Cni for Step {
    fn add(&self, _: Args) -> std::result::Result<CNIResult, Error> {
        Err(unsupported())
    }

    fn del(&self, _: Args) -> std::result::Result<(), Error> {
        Err(unsupported())
    }

    fn check(&self, args: Args) -> std::result::Result<(), Error> {
        Ok((self.0)(&args)?)
    }
}

fn unsupported() -> Error {
    Error::InvalidEnvValue("CNI_COMMAND: a repair is called as CHECK is".into())
}

/// Runs a step of `restore` only if the look that goes with it finds something missing.
pub(crate) fn restore_if_missing(
    all: &mut AsFarAsPossible,
    look: impl FnOnce() -> Result<()>,
    restore: impl FnOnce() -> Result<()>,
) {
    if look().is_err() {
        all.step(restore());
    }
}
