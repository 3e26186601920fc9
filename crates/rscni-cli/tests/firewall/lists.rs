//! Networks and assertions of the firewall tests.

use std::{net::IpAddr, ops::Deref, time::Duration};

use rscni_test::{Lab, Namespace};
use serde_json::{Value, json};

use crate::support::{self, Attached, Network};

pub(crate) use crate::support::{IPTABLES, NFTABLES};

/// A list of bridge and firewall: the network number `number`, on the bridge `br<number>`.
pub(crate) struct List {
    pub(crate) bridge: Network,
    pub(crate) firewall: Network,
}

impl List {
    /// Addresses of both families, `10.<number>.0.0/24` and `fd0<number>::/64`.
    pub(crate) fn new(lab: &Lab, number: u8, firewall: &Value) -> Self {
        let name = json!({ "name": format!("net{number}") });
        let subnets = [format!("10.{number}.0.0/24"), format!("fd0{number}::/64")];
        let keys = json!({ "bridge": format!("br{number}"), "isDefaultGateway": true, "hairpinMode": true });
        let bridge = Network::bridge(lab, &[&subnets[0], &subnets[1]], &keys).with(&name);
        Self { bridge, firewall: Network::new(lab, "firewall", firewall).with(&name) }
    }

    #[track_caller]
    pub(crate) fn attach(&self, lab: &Lab, name: &str) -> Member {
        let bridge = self.bridge.attach(lab, name);
        let firewall = self.firewall.after(&bridge);
        Member { bridge, firewall }
    }
}

/// A container that both plugins attached. It derefs to the firewall's part.
pub(crate) struct Member {
    pub(crate) bridge: Attached,
    pub(crate) firewall: Attached,
}

impl Deref for Member {
    type Target = Attached;

    fn deref(&self) -> &Attached {
        &self.firewall
    }
}

/// Runs a program of the host with these words, and returns what it prints.
#[track_caller]
pub(crate) fn run(program: &str, words: &str) -> String {
    support::run(program, &words.split_whitespace().collect::<Vec<_>>())
}

/// The rules of iptables' table `filter`, a line each, of both families.
pub(crate) fn iptables_rules() -> Vec<String> {
    let families = ["iptables", "ip6tables"].map(|program| run(program, "-S"));
    families.iter().flat_map(|text| text.lines().map(str::to_owned)).collect()
}

/// Asserts that `from` opens a connection to each address of `to` and is answered.
#[track_caller]
pub(crate) fn assert_reaches(lab: &Lab, from: &Namespace, to: &Attached) {
    for address in [to.v4(), to.v6()] {
        lab.tcp(from, to, address, 8080);
        lab.udp(from, to, address, 5353);
        from.ping(address);
    }
}

/// Asserts that nothing that `from` sends is answered by `to`.
#[track_caller]
pub(crate) fn assert_does_not_reach(from: &Namespace, to: &Attached) {
    let server = to.serve_tcp(8080);
    for address in [to.v4(), to.v6()] {
        let target = std::net::SocketAddr::new(address, server.port());
        let answer = from.try_tcp(target, Duration::from_millis(500));
        assert!(answer.is_err(), "{} reached {} at {address}", from.name(), to.name());
        let answer = from.try_ping(address, Duration::from_millis(300));
        assert!(answer.is_err(), "{} pinged {} at {address}", from.name(), to.name());
    }
}

/// Returns what is left of an attachment on the host, by its addresses and container id.
pub(crate) fn left(lab: &Lab, of: &Attached) -> Vec<String> {
    let text = lab.snapshot().to_string();
    let mut left: Vec<String> =
        text.lines().filter(|line| line.contains(of.id())).map(str::to_owned).collect();
    // The bridge plugin's part is still there.
    left.retain(|line| !line.contains(" link veth") && !line.contains("/var/lib/cni"));
    let rules = iptables_rules();
    let addresses: Vec<IpAddr> = of.reply.ips().iter().map(ipnet::IpNet::addr).collect();
    left.extend(
        rules
            .into_iter()
            .filter(|rule| addresses.iter().any(|ip| rule.contains(&format!(" {ip}/")))),
    );
    left
}

#[track_caller]
pub(crate) fn assert_nothing_left(lab: &Lab, of: &Attached) {
    let left = left(lab, of);
    assert!(left.is_empty(), "{left:#?}");
}

/// The ways in which an attachment ends.
pub(crate) const ENDS: [&str; 6] = [
    "with_result",
    "without_result",
    "without_netns",
    "netns_gone",
    "netns_gone_without_result",
    "gc",
];

/// Makes the host drop every forwarded packet that no rule accepts.
pub(crate) fn drop_by_default(backend: &str) {
    match backend {
        NFTABLES => drop(run("nft", "add chain inet rscni forward { policy drop ; }")),
        _ => drop([run("iptables", "-P FORWARD DROP"), run("ip6tables", "-P FORWARD DROP")]),
    }
}
