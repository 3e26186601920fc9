//! Containers with host ports: an interface plugin, then portmap.

use std::ops::Deref;

use rscni_test::{Lab, Namespace, Outcome};
use serde_json::{Value, json};

use crate::support::{self, Attached, Network, V4, V6};

pub(crate) use crate::support::{IPTABLES, NFTABLES};

/// Mappings of TCP and UDP from host port 8080 to port 80 of the container.
pub(crate) fn web() -> Value {
    json!([mapping(8080, "tcp"), mapping(8080, "UDP")])
}

/// A mapping of a host port to port 80 of the container.
pub(crate) fn mapping(host_port: u16, protocol: &str) -> Value {
    json!({ "hostPort": host_port, "containerPort": 80, "protocol": protocol })
}

/// A mapping of one address of the host.
pub(crate) fn at(host_ip: &str, host_port: u16) -> Value {
    json!({ "hostPort": host_port, "containerPort": 80, "protocol": "tcp", "hostIP": host_ip })
}

/// A bridge network of both families whose containers reach everything. The host's rules do not see
/// bridged frames, like on a host without `br_netfilter`.
pub(crate) fn bridge(lab: &Lab) -> Network {
    for key in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        match rscni_linux::sysctl::set(&format!("net/bridge/{key}"), "0") {
            Err(error) if !error.is_not_found() => panic!("{error}"),
            _ => {}
        }
    }
    Network::bridge(lab, &[V4, V6], &json!({ "isDefaultGateway": true }))
}

/// A container with its link and portmap. It derefs to the latter.
pub(crate) struct Published {
    pub(crate) link: Attached,
    pub(crate) ports: Attached,
}

impl Deref for Published {
    type Target = Attached;

    fn deref(&self) -> &Attached {
        &self.ports
    }
}

/// Portmap with these keys and mappings, in the network of the link.
pub(crate) fn portmap(lab: &Lab, link: &Network, keys: &Value, mappings: &Value) -> Network {
    let (name, version) = (&link.config["name"], &link.config["cniVersion"]);
    let own = json!({ "name": name, "cniVersion": version, "runtimeConfig": { "portMappings": mappings } });
    Network::new(lab, "portmap", keys).with(&own)
}

/// Calls ADD of portmap after that of the link.
pub(crate) fn try_publish(
    lab: &Lab,
    link: &Attached,
    keys: &Value,
    mappings: &Value,
) -> (Network, Outcome) {
    let portmap = portmap(lab, &link.network, keys, mappings);
    let outcome =
        portmap.plugin.add(&link.container, &link.ifname, &link.reply.follow(&portmap.config));
    (portmap, outcome)
}

/// A new container with these mappings.
#[track_caller]
pub(crate) fn publish(
    lab: &Lab,
    link: &Network,
    name: &str,
    keys: &Value,
    mappings: &Value,
) -> Published {
    publish_attached(lab, link.attach(lab, name), keys, mappings)
}

#[track_caller]
pub(crate) fn publish_attached(
    lab: &Lab,
    link: Attached,
    keys: &Value,
    mappings: &Value,
) -> Published {
    // Like the plugin loopback.
    support::change(&mut link.netlink(), "lo", &support::up(true));
    let (network, outcome) = try_publish(lab, &link, keys, mappings);
    let ports = Attached {
        network,
        container: link.container.clone(),
        ifname: link.ifname.clone(),
        reply: outcome.success(),
    };
    Published { link, ports }
}

impl Published {
    /// Calls DEL of the list, the last plugin first.
    #[track_caller]
    pub(crate) fn del_all(&self) {
        self.ports.del().success();
        self.link.del().success();
    }

    /// Asserts that TCP and UDP to port 8080 of this address reach the container, which sees this
    /// source.
    #[track_caller]
    pub(crate) fn assert_reached(&self, from: &Namespace, address: &str, seen_as: &str) {
        let (tcp, udp) = (self.serve_tcp(80), self.serve_udp(80));
        let target = target(address);
        for (answer, server) in [(from.tcp(&target), &tcp), (from.udp(&target), &udp)] {
            answer.assert_by(server);
            assert_eq!(answer.seen_as.to_string(), seen_as, "from {} to {target}", from.name());
        }
    }
}

/// Port 8080 of an address.
pub(crate) fn target(address: &str) -> String {
    if address.contains(':') { format!("[{address}]:8080") } else { format!("{address}:8080") }
}

/// Asserts that the host has no rule or element of a mapping.
#[track_caller]
pub(crate) fn assert_no_ports(lab: &Lab) {
    support::assert_gone(lab, &["CNI-DN-", "nft element inet rscni hostport"]);
}
