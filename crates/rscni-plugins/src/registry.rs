//! The list of the plugins.

use rscni::{Cni, Error, Plugin, Reply, Request};

use crate::bridge::BRIDGE;
use crate::dhcp::Dhcp;
use crate::host_local::HostLocal;
use crate::loopback::LOOPBACK;
use crate::ptp::PTP;
use crate::r#static::Static;

/// A plugin of this crate.
pub struct Entry {
    /// Its name, the `type` that configurations say.
    pub name: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    plugin: &'static (dyn Cni + Sync),
}

/// Every plugin, by name.
pub const ALL: &[Entry] = &[
    Entry { name: "bridge", about: "a veth pair whose host end is a port of a bridge", plugin: &BRIDGE },
    Entry { name: "dhcp", about: "gives addresses of a DHCP server, which its daemon keeps", plugin: &Dhcp },
    Entry { name: "host-local", about: "gives addresses from ranges of this host's own", plugin: &HostLocal },
    Entry { name: "loopback", about: "switches the container's lo on", plugin: &LOOPBACK },
    Entry { name: "ptp", about: "a veth pair, with a route to the container on the host", plugin: &PTP },
    Entry { name: "static", about: "gives the addresses that the configuration names", plugin: &Static },
];

/// The plugin of that name.
pub fn find(name: &str) -> Option<&'static Entry> {
    ALL.iter().find(|entry| entry.name == name)
}

impl Entry {
    /// Answers the call that this process was started with.
    ///
    /// # Errors
    /// The error that was told to the caller on stdout.
    pub fn run(&self) -> Result<(), Error> {
        self.skeleton().run(self.plugin)
    }

    /// Answers `request` in this process.
    pub fn reply(&self, request: &Request) -> Reply {
        self.skeleton().reply(self.plugin, request)
    }

    fn skeleton(&self) -> Plugin {
        Plugin::default().msg(format!("CNI plugin {} (rscni {}): {}", self.name, env!("CARGO_PKG_VERSION"), self.about))
    }
}
