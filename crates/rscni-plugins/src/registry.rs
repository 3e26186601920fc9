//! The list of the plugins.

pub(crate) mod alias;

use std::sync::atomic::{AtomicBool, Ordering};

use rscni::{Cni, Error, Plugin, Reply, Request};

use crate::{
    interface::bridge::BRIDGE, interface::dummy::DUMMY, interface::host_device::HOST_DEVICE,
    interface::ipvlan::IPVLAN, interface::loopback::LOOPBACK, interface::macvlan::MACVLAN,
    interface::ptp::PTP, interface::tap::TAP, interface::vlan::VLAN, ipam::dhcp::DHCP,
    ipam::host_local::HOST_LOCAL, ipam::r#static::STATIC, meta::bandwidth::BANDWIDTH,
    meta::firewall::FIREWALL, meta::flannel::FLANNEL, meta::portmap::PORTMAP, meta::sbr::SBR,
    meta::tuning::TUNING, meta::vrf::VRF,
};

/// The release of the Go plugins (containernetworking/plugins) that these plugins are equivalent
/// to.
///
/// Other programs compare it: nerdctl asks firewall whether it is at least v1.7.1 before it uses
/// `isolated`. Raise it when the plugins do what a newer release does.
pub const EQUIVALENT_RELEASE: &str = "v1.10.0";

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
    Entry {
        name: "bandwidth",
        about: "limits what the container sends and receives",
        plugin: &BANDWIDTH,
    },
    Entry {
        name: "bridge",
        about: "a veth pair whose host end is a port of a bridge",
        plugin: &BRIDGE,
    },
    Entry {
        name: "dhcp",
        about: "gives addresses of a DHCP server, which its daemon keeps",
        plugin: &DHCP,
    },
    Entry {
        name: "dummy",
        about: "an interface that leads nowhere, for the container's own addresses",
        plugin: &DUMMY,
    },
    Entry {
        name: "firewall",
        about: "lets a container's packets through the host's firewall",
        plugin: &FIREWALL,
    },
    Entry {
        name: "flannel",
        about: "calls another plugin with the subnet of the flannel daemon",
        plugin: &FLANNEL,
    },
    Entry {
        name: "host-device",
        about: "lends the container an interface that the host has",
        plugin: &HOST_DEVICE,
    },
    Entry {
        name: "host-local",
        about: "gives addresses from ranges of this host's own",
        plugin: &HOST_LOCAL,
    },
    Entry {
        name: "ipvlan",
        about: "an interface with own addresses on the host's network",
        plugin: &IPVLAN,
    },
    Entry { name: "loopback", about: "switches the container's lo on", plugin: &LOOPBACK },
    Entry {
        name: "macvlan",
        about: "an interface with an own hardware address on the host's network",
        plugin: &MACVLAN,
    },
    Entry {
        name: "portmap",
        about: "ports of the host that lead into the container",
        plugin: &PORTMAP,
    },
    Entry {
        name: "ptp",
        about: "a veth pair, with a route to the container on the host",
        plugin: &PTP,
    },
    Entry {
        name: "sbr",
        about: "answers by the interface that the question came in by",
        plugin: &SBR,
    },
    Entry {
        name: "static",
        about: "gives the addresses that the configuration names",
        plugin: &STATIC,
    },
    Entry {
        name: "tap",
        about: "an interface whose packets a program in the container reads and writes",
        plugin: &TAP,
    },
    Entry {
        name: "tuning",
        about: "sets sysctls, and attributes of the container's interface",
        plugin: &TUNING,
    },
    Entry {
        name: "vlan",
        about: "an interface in an 802.1Q VLAN of the host's network",
        plugin: &VLAN,
    },
    Entry {
        name: "vrf",
        about: "gives the container's interface a routing table of its own",
        plugin: &VRF,
    },
];

/// The plugin of that name.
pub fn find(name: &str) -> Option<&'static Entry> {
    ALL.iter().find(|entry| entry.name == name)
}

/// Whether this process is a plugin's, and ends when the call has been answered.
static ENDS_WITH_CALL: AtomicBool = AtomicBool::new(false);

/// Whether nothing is gained by leaving something to a thread: the process ends with the call, and not before the thread.
pub(crate) fn process_ends_with_call() -> bool {
    ENDS_WITH_CALL.load(Ordering::Relaxed)
}

impl Entry {
    /// Answers the call that this process was started with.
    ///
    /// # Errors
    /// The error that was told to the caller on stdout.
    pub fn run(&self) -> Result<(), Error> {
        ENDS_WITH_CALL.store(true, Ordering::Relaxed);
        self.skeleton().run(self.plugin)
    }

    /// Answers `request` in this process.
    pub fn reply(&self, request: &Request) -> Reply {
        self.skeleton().reply(self.plugin, request)
    }

    /// Writes to stderr what the plugin writes there without `CNI_COMMAND`: its version, and those
    /// of the protocol that it supports.
    ///
    /// # Errors
    /// None is known: a closed stderr is no error.
    pub fn write_version(&self) -> Result<(), Error> {
        self.reply(&Request::default()).emit()
    }

    /// The first line is that of the Go plugins, which other programs parse: no word may be added
    /// to it.
    fn skeleton(&self) -> Plugin {
        Plugin::default().msg(format!(
            "CNI {} plugin {EQUIVALENT_RELEASE}+rscni.{}",
            self.name,
            env!("CARGO_PKG_VERSION"),
        ))
    }
}
