//! Another machine on the node's network.

use std::process::Command;

use anyhow::Result;
use rscni_test::Namespace;

use xtask::program;

/// A cable from the node to another machine, which has a route to the node only.
pub(super) struct Outside {
    node: rscni_test::Container,
    client: rscni_test::Container,
}

impl Outside {
    /// The node's addresses on the cable; IPv6 ones as they stand before a port.
    pub(super) const NODE: [&'static str; 2] = ["192.0.2.1", "[2001:db8::1]"];
    /// The addresses of the other machine.
    pub(super) const CLIENT: [&'static str; 2] = ["192.0.2.2", "2001:db8::2"];

    pub(super) fn new() -> Result<Self> {
        for line in [
            "netns add client",
            "link add uplink type veth peer name eth0 netns client",
            "address add 192.0.2.1/24 dev uplink",
            "address add 2001:db8::1/64 dev uplink nodad",
            "link set uplink up",
            "-n client address add 192.0.2.2/24 dev eth0",
            "-n client address add 2001:db8::2/64 dev eth0 nodad",
            "-n client link set eth0 up",
            // Back to the pods, for packets that nobody masquerades.
            "-n client route add default via 192.0.2.1",
            "-n client route add default via 2001:db8::1",
        ] {
            program::capture(Command::new("ip").args(line.split(' ')))?;
        }
        let at = |name: &str, path: &str| rscni_test::Container::at(name, path);
        Ok(Self {
            node: at("node", "/proc/self/ns/net"),
            client: at("client", "/run/netns/client"),
        })
    }

    pub(super) fn node(&self) -> &Namespace {
        &self.node
    }

    pub(super) fn client(&self) -> &Namespace {
        &self.client
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // The private node ends soon, and everything in it at the latest.
        for line in ["link delete uplink", "netns delete client"] {
            let _ = program::capture(Command::new("ip").args(line.split(' ')));
        }
    }
}

/// Has the node drop what it would forward, unless a rule of iptables says otherwise.
pub(super) fn while_nothing_is_forwarded(test: impl FnOnce() -> Result<()>) -> Result<()> {
    set_policy("DROP")?;
    let outcome = test();
    set_policy("ACCEPT")?;
    outcome
}

/// Says what becomes of packets that the node is to forward, and so makes the tables of iptables, which every node with
/// kubelet has.
pub(super) fn set_policy(policy: &str) -> Result<()> {
    for iptables in ["iptables", "ip6tables"] {
        program::capture(Command::new(iptables).args(["--policy", "FORWARD", policy]))?;
    }
    Ok(())
}
