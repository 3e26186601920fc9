//! Networks to which tests attach containers, with the plugins of the binary under test.

#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod dhcp;
pub(crate) mod dhcp_server;
mod links;
pub(crate) mod outside;
mod programs;

use std::{net::IpAddr, ops::Deref, path::Path};

use rscni_catalogue::{Row, Values};
use rscni_linux::Link;
use rscni_test::{Container, Lab, Outcome, Plugin, Reply, Snapshot, VERSIONS};
use serde_json::{Value, json};

#[allow(unused_imports, reason = "each test program uses its part")]
pub(crate) use self::{links::*, programs::*};

/// Subnets of most tests.
pub(crate) const V4: &str = "10.1.0.0/24";
pub(crate) const V6: &str = "fd01::/64";

/// Objects that belong to no attachment and stay: files of host-local, forwarding, and shared
/// tables, sets and rules.
const STAYS: &[&str] = &[
    "forward",
    "/last_reserved_ip.",
    "/lock",
    "/.index/",
    "nft table inet rscni",
    "nft chain inet rscni postrouting",
    "nft rule inet rscni postrouting",
    "nft chain inet rscni masquerading",
    "nft rule inet rscni masquerading",
    "nft set inet rscni masquerade",
    // The subnets in which iptables masquerades.
    "nft element inet rscni masquerade4-net-",
    "nft element inet rscni masquerade6-net-",
    "nft chain inet rscni hostport",
    "nft rule inet rscni hostport",
    "nft map inet rscni hostport",
    "nft set inet rscni hostport",
    "nft chain inet rscni firewall-",
    "nft rule inet rscni firewall-policy",
    "nft set inet rscni firewall",
    "nft set bridge rscni firewall",
    "nft table bridge rscni",
    "nft chain bridge rscni prerouting",
    "nft rule bridge rscni prerouting",
    "nft set bridge rscni spoof",
    // ADD enables IPv6 on `lo` of the container if it adds an IPv6 address.
    "sysctl net/ipv6/conf/lo/disable_ipv6",
];

/// Takes a snapshot without objects that belong to no attachment.
#[track_caller]
pub(crate) fn snapshot(lab: &Lab) -> Snapshot {
    STAYS.iter().fold(lab.snapshot(), |snapshot, text| snapshot.ignoring(text))
}

/// Installs every plugin of the binary.
pub(crate) fn install(lab: &Lab) {
    for plugin in rscni_plugins::ALL {
        lab.install(plugin.name, RSCNI);
    }
}

/// Prepares the host for a row of the catalogue, except for its device.
#[track_caller]
pub(crate) fn set_up(row: &Row, values: &Values) {
    for command in row.setup(values, Path::new(BIN)) {
        run("sh", &["-c", &command]);
    }
}

/// `ipam` with a range for each of these subnets.
pub(crate) fn host_local(subnets: &[&str]) -> Value {
    let ranges: Vec<Value> = subnets.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
    json!({ "type": "host-local", "ranges": ranges })
}

/// `ipam` with these addresses and gateways.
pub(crate) fn fixed(addresses: &[(&str, &str)]) -> Value {
    let entry = |(address, gateway): &(&str, &str)| match *gateway {
        "" => json!({ "address": address }),
        gateway => json!({ "address": address, "gateway": gateway }),
    };
    json!({ "type": "static", "addresses": addresses.iter().map(entry).collect::<Vec<_>>() })
}

/// A plugin with its configuration.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) plugin: Plugin,
    pub(crate) config: Value,
}

impl Network {
    /// Returns a network `net` of this type in version 1.1.0, with these keys.
    pub(crate) fn new(lab: &Lab, plugin: &str, keys: &Value) -> Self {
        if !Path::new(BIN).join("bridge").exists() {
            install(lab);
        }
        let config = json!({ "cniVersion": "1.1.0", "name": "net", "type": plugin });
        let plugin = lab.plugin(Path::new(BIN).join(plugin));
        Self { plugin, config }.with(keys)
    }

    /// The networks of a row of the catalogue, one per plugin of its list, on a host that is set up
    /// for them.
    #[track_caller]
    pub(crate) fn of_row(lab: &Lab, row: &Row, values: &Values) -> Vec<Self> {
        if row.needs_device() {
            cable(lab, &values.device, &lab.container("machine"), "peer");
        }
        set_up(row, values);
        let plugins = row.plugins(values);
        let last = plugins.len() - 1;
        let network = |(index, config): (usize, &Value)| match config["type"].as_str() {
            Some(kind) if index < last => Self::new(lab, kind, config),
            _ => Self::new(lab, &row.plugin, config),
        };
        plugins.iter().enumerate().map(network).collect()
    }

    /// The same network with the Go plugin.
    pub(crate) fn with_go(&self, lab: &Lab) -> Self {
        let program = Path::new(GO).join(self.kind());
        Self { plugin: lab.plugin(program).cni_path([GO]), config: self.config.clone() }
    }

    /// The type of the configuration.
    #[track_caller]
    pub(crate) fn kind(&self) -> &str {
        self.config["type"].as_str().expect("a type")
    }

    /// ADD of the container as `eth0`.
    pub(crate) fn add(&self, container: &Container) -> Outcome {
        self.plugin.add(container, "eth0", &self.config)
    }

    /// CHECK of the container's `eth0`, with the configuration as it is.
    pub(crate) fn check(&self, container: &Container) -> Outcome {
        self.plugin.check(container, "eth0", &self.config)
    }

    /// DEL of the container's `eth0`, with the configuration as it is.
    pub(crate) fn del(&self, container: &Container) -> Outcome {
        self.plugin.del(container, "eth0", &self.config)
    }

    pub(crate) fn status(&self) -> Outcome {
        self.plugin.status(&self.config)
    }

    /// Asserts that ADD fails with this code and text, and that neither it nor the DEL after it
    /// changes anything.
    #[track_caller]
    pub(crate) fn assert_add_fails(&self, lab: &Lab, on: &Container, code: u64, text: &str) {
        let before = snapshot(lab);
        self.add(on).error(code).mentions(text);
        lab.assert_unchanged_since(&before);
        self.del(on).success();
        lab.assert_unchanged_since(&before);
    }

    /// A bridge network with addresses of these subnets.
    pub(crate) fn bridge(lab: &Lab, subnets: &[&str], keys: &Value) -> Self {
        let all = Self::new(lab, "bridge", &json!({ "bridge": "br0", "isGateway": true }));
        let all = if subnets.is_empty() {
            all
        } else {
            all.with(&json!({ "ipam": host_local(subnets) }))
        };
        all.with(keys)
    }

    /// A ptp network with addresses of these subnets.
    pub(crate) fn ptp(lab: &Lab, subnets: &[&str], keys: &Value) -> Self {
        Self::new(lab, "ptp", &json!({ "ipam": host_local(subnets) })).with(keys)
    }

    /// Returns the network with other keys; `null` removes one.
    pub(crate) fn with(&self, keys: &Value) -> Self {
        let mut network = self.clone();
        for (key, value) in keys.as_object().expect("keys") {
            if value.is_null() {
                network.config.as_object_mut().expect("a configuration").shift_remove(key);
            } else {
                network.config[key] = value.clone();
            }
        }
        network
    }

    /// Attaches a new container as `eth0`.
    #[track_caller]
    pub(crate) fn attach(&self, lab: &Lab, name: &str) -> Attached {
        self.attach_as(&lab.container(name), "eth0")
    }

    /// Attaches the container as `ifname`.
    #[track_caller]
    pub(crate) fn attach_as(&self, container: &Container, ifname: &str) -> Attached {
        let reply = self.plugin.add(container, ifname, &self.config).success();
        Attached {
            network: self.clone(),
            container: container.clone(),
            ifname: ifname.to_owned(),
            reply,
        }
    }

    /// Calls ADD of this plugin as the next one of the list of `first`.
    pub(crate) fn call_after(&self, first: &Attached) -> Outcome {
        self.plugin.add(&first.container, &first.ifname, &first.reply.follow(&self.config))
    }

    /// Attaches the container of `first` with this plugin as the next one of its list.
    #[track_caller]
    pub(crate) fn after(&self, first: &Attached) -> Attached {
        let reply = self.call_after(first).success();
        let (container, ifname) = (first.container.clone(), first.ifname.clone());
        Attached { network: self.clone(), container, ifname, reply }
    }

    /// Calls GC with these valid attachments.
    pub(crate) fn gc(&self, valid: &[&Attached]) -> Outcome {
        let entry = |a: &&Attached| json!({ "containerID": a.container.id(), "ifname": a.ifname });
        let valid: Vec<Value> = valid.iter().map(entry).collect();
        self.plugin.gc(&self.with(&json!({ "cni.dev/valid-attachments": valid })).config)
    }
}

/// An attachment. It derefs to the container.
pub(crate) struct Attached {
    pub(crate) network: Network,
    pub(crate) container: Container,
    pub(crate) ifname: String,
    pub(crate) reply: Reply,
}

impl Deref for Attached {
    type Target = Container;

    fn deref(&self) -> &Container {
        &self.container
    }
}

impl Attached {
    /// The configuration with the result of the ADD.
    pub(crate) fn config(&self) -> Value {
        self.reply.follow(&self.network.config)
    }

    pub(crate) fn check(&self) -> Outcome {
        self.network.plugin.check(&self.container, &self.ifname, &self.config())
    }

    /// Asserts that CHECK fails and mentions `what`.
    #[track_caller]
    pub(crate) fn check_misses(&self, what: &str) {
        self.check().error(100).mentions(what);
    }

    pub(crate) fn del(&self) -> Outcome {
        self.network.plugin.del(&self.container, &self.ifname, &self.config())
    }

    /// DEL without `prevResult`.
    pub(crate) fn del_without_result(&self) -> Outcome {
        self.network.plugin.del(&self.container, &self.ifname, &self.network.config)
    }

    /// DEL without `prevResult` and `CNI_NETNS`.
    pub(crate) fn del_without_netns(&self) -> Outcome {
        let call = self.network.plugin.call("DEL").attachment(&self.container, &self.ifname);
        call.without("CNI_NETNS").config(&self.network.config).run()
    }

    /// Ends the attachment: `with_result`, `without_result`, `without_netns` or `gc`, each also
    /// after `netns_gone_`.
    #[track_caller]
    pub(crate) fn end(&self, lab: &Lab, how: &str) -> Outcome {
        let how = match how.strip_prefix("netns_gone") {
            Some(rest) => {
                lab.remove_namespace(self);
                rest.trim_start_matches('_')
            }
            None => how,
        };
        match how {
            "with_result" | "" => self.del(),
            "without_result" => self.del_without_result(),
            "without_netns" => self.del_without_netns(),
            "gc" => self.network.with(&json!({ "cniVersion": "1.1.0" })).gc(&[]),
            _ => panic!("{how}"),
        }
    }

    /// Asserts that CHECK, STATUS and GC work in the versions that have them and fail in the
    /// others.
    #[track_caller]
    pub(crate) fn assert_commands_of(&self, version: &str) {
        let (network, age) = (&self.network, VERSIONS.iter().position(|known| *known == version));
        if age >= VERSIONS.iter().position(|known| *known == "0.4.0") {
            self.check().success();
        } else {
            self.check().error(1).mentions("0.4.0");
        }
        if version == "1.1.0" {
            network.status().success();
            network.gc(&[self]).success();
            self.check().success();
        } else {
            network.status().error(1).mentions("1.1.0");
            network.gc(&[]).error(1).mentions("1.1.0");
        }
    }

    /// Its first address of the family.
    #[track_caller]
    pub(crate) fn address(&self, v4: bool) -> IpAddr {
        let ips = self.reply.ips();
        ips.iter()
            .map(ipnet::IpNet::addr)
            .find(|ip| ip.is_ipv4() == v4)
            .expect("an address of the family")
    }

    pub(crate) fn v4(&self) -> IpAddr {
        self.address(true)
    }

    pub(crate) fn v6(&self) -> IpAddr {
        self.address(false)
    }

    /// The container's interface.
    #[track_caller]
    pub(crate) fn link(&self) -> Link {
        self.netlink().link_by_name(&self.ifname).expect("the container's interface")
    }

    /// The name of the host interface in the result of ADD.
    #[track_caller]
    pub(crate) fn port_name(&self) -> String {
        let interfaces = self.reply["interfaces"].as_array().expect("interfaces");
        let port = interfaces
            .iter()
            .filter_map(|i| i["name"].as_str())
            .find(|name| name.starts_with("veth"));
        port.expect("the host's end").to_owned()
    }
}

/// Asserts that the two containers reach each other with pings, TCP and UDP.
#[track_caller]
pub(crate) fn assert_talk(lab: &Lab, a: &Attached, b: &Attached, v4: bool) {
    for (from, to) in [(a, b), (b, a)] {
        let address = to.address(v4);
        from.ping(address);
        lab.tcp(from, to, address, 8080);
        lab.udp(from, to, address, 5353);
    }
}

/// Asserts that DEL of these attachments, twice each, restores what was there before.
#[track_caller]
pub(crate) fn assert_del_restores(lab: &Lab, before: &Snapshot, attached: &[&Attached]) {
    for attached in attached {
        attached.del().success();
        attached.del().success();
        lab.remove_namespace(attached);
    }
    lab.assert_unchanged_since(before);
}

/// Asserts that no line of a snapshot contains one of these texts.
#[track_caller]
pub(crate) fn assert_gone(lab: &Lab, texts: &[&str]) {
    let left = lab.snapshot().to_string();
    let is_left = |line: &&str| texts.iter().any(|text| line.contains(text));
    let left: Vec<&str> = left.lines().filter(is_left).collect();
    assert!(left.is_empty(), "{left:#?}");
}

/// Waits until no line of a snapshot contains this text.
#[track_caller]
pub(crate) fn wait_until_gone(lab: &Lab, text: &str) {
    let is_gone = || (!lab.snapshot().to_string().contains(text)).then_some(());
    rscni_test::eventually(&format!("{text} is gone"), is_gone);
}
