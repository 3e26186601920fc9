//! Another machine on the node's network.

use anyhow::Result;
use rscni_test::{Container, Namespace};
use xtask::program;

/// A veth pair from the node to another machine, which has a route to the node only.
pub(super) struct Outside {
    node: Container,
    client: Container,
}

impl Outside {
    /// The node's addresses on the link; the IPv6 one in the syntax for a port.
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
            // For answers to packets that are not masqueraded.
            "-n client route add default via 192.0.2.1",
            "-n client route add default via 2001:db8::1",
        ] {
            program::output_of(&format!("ip {line}"))?;
        }
        Ok(Self {
            node: Container::at("node", "/proc/self/ns/net"),
            client: Container::at("client", "/run/netns/client"),
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
        for line in ["ip link delete uplink", "ip netns delete client"] {
            let _ = program::output_of(line);
        }
    }
}

/// Makes the node drop forwarded packets during `test`, unless a rule accepts them.
pub(super) fn while_nothing_is_forwarded(test: impl FnOnce() -> Result<()>) -> Result<()> {
    set_policy("DROP")?;
    let outcome = test();
    set_policy("ACCEPT")?;
    outcome
}

/// Sets the policy for forwarded packets. This also creates the tables of iptables, which every
/// node with kubelet has.
pub(super) fn set_policy(policy: &str) -> Result<()> {
    for iptables in ["iptables", "ip6tables"] {
        program::output_of(&format!("{iptables} --policy FORWARD {policy}"))?;
    }
    Ok(())
}
