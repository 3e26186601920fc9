//! What the tests of the plugins share: networks that containers are attached to with the real binary, under the
//! names that a node has it installed under.

#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod dhcp;
pub(crate) mod dhcp_server;
pub(crate) mod outside;

use std::{net::IpAddr, ops::Deref};

use rscni_linux::{Link, LinkChange, Netlink};
use rscni_test::{Container, Lab, Namespace, Outcome, Plugin, Reply, Snapshot};
use serde_json::{Value, json};

/// The subnets of most tests.
pub(crate) const V4: &str = "10.1.0.0/24";
pub(crate) const V6: &str = "fd01::/64";

/// What belongs to no attachment and stays when the last one goes: host-local's lock, index and where it goes on,
/// forwarding, and tables, sets and rules that are the same for all.
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
    "nft set inet rscni hostport",
    "nft chain inet rscni firewall-",
    "nft rule inet rscni firewall-policy",
    "nft set inet rscni firewall",
    "nft set bridge rscni firewall",
    "nft table bridge rscni",
    "nft chain bridge rscni prerouting",
    "nft rule bridge rscni prerouting",
    "nft set bridge rscni spoof",
    // IPv6 is switched on for `lo` of a container that gets an address of it.
    "sysctl net/ipv6/conf/lo/disable_ipv6",
];

/// Everything that is there, for a comparison that minds what attachments leave.
#[track_caller]
pub(crate) fn snapshot(lab: &Lab) -> Snapshot {
    STAYS.iter().fold(lab.snapshot(), |snapshot, text| snapshot.ignoring(text))
}

/// Every plugin of the binary, installed.
pub(crate) fn install(lab: &Lab) {
    for plugin in rscni_plugins::ALL {
        lab.install(plugin.name, env!("CARGO_BIN_EXE_rscni"));
    }
}

/// `ipam` with a range for each of these subnets.
pub(crate) fn host_local(subnets: &[&str]) -> Value {
    let ranges: Vec<Value> = subnets.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
    json!({ "type": "host-local", "ranges": ranges })
}

/// `ipam` with these addresses, and the gateway that belongs to each.
pub(crate) fn fixed(addresses: &[(&str, &str)]) -> Value {
    let entry = |(address, gateway): &(&str, &str)| match *gateway {
        "" => json!({ "address": address }),
        gateway => json!({ "address": address, "gateway": gateway }),
    };
    json!({ "type": "static", "addresses": addresses.iter().map(entry).collect::<Vec<_>>() })
}

/// A plugin with the configuration that it is called with.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) plugin: Plugin,
    pub(crate) config: Value,
}

impl Network {
    /// A network `net` of this type, at version 1.1.0, with these keys.
    pub(crate) fn new(lab: &Lab, plugin: &str, keys: &Value) -> Self {
        if !std::path::Path::new("/run/rscni-test/bin/bridge").exists() {
            install(lab);
        }
        let config = json!({ "cniVersion": "1.1.0", "name": "net", "type": plugin });
        let plugin = lab.plugin(format!("/run/rscni-test/bin/{plugin}"));
        Self { plugin, config }.with(keys)
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

    /// The same with other keys; `null` removes one.
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

    /// A new container, attached as `eth0`.
    #[track_caller]
    pub(crate) fn attach(&self, lab: &Lab, name: &str) -> Attached {
        self.attach_as(&lab.container(name), "eth0")
    }

    /// The container attached as `ifname`.
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

    /// This plugin called as the next one of the list by which `first` was attached.
    pub(crate) fn call_after(&self, first: &Attached) -> Outcome {
        self.plugin.add(&first.container, &first.ifname, &first.reply.follow(&self.config))
    }

    /// The container with this plugin's ADD after that by which it was attached.
    #[track_caller]
    pub(crate) fn after(&self, first: &Attached) -> Attached {
        let reply = self.call_after(first).success();
        let (container, ifname) = (first.container.clone(), first.ifname.clone());
        Attached { network: self.clone(), container, ifname, reply }
    }

    /// GC that is to spare these.
    pub(crate) fn gc(&self, valid: &[&Attached]) -> Outcome {
        let entry = |a: &&Attached| json!({ "containerID": a.container.id(), "ifname": a.ifname });
        let valid: Vec<Value> = valid.iter().map(entry).collect();
        self.plugin.gc(&self.with(&json!({ "cni.dev/valid-attachments": valid })).config)
    }
}

/// A container on a network. It derefs to the container.
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

    /// Asserts that CHECK finds the attachment changed, and says `what`.
    #[track_caller]
    pub(crate) fn check_misses(&self, what: &str) {
        self.check().error(100).mentions(what);
    }

    pub(crate) fn del(&self) -> Outcome {
        self.network.plugin.del(&self.container, &self.ifname, &self.config())
    }

    /// DEL of a runtime that has lost the result of the ADD.
    pub(crate) fn del_without_result(&self) -> Outcome {
        self.network.plugin.del(&self.container, &self.ifname, &self.network.config)
    }

    /// DEL of a runtime that has lost the container's namespace too.
    pub(crate) fn del_without_netns(&self) -> Outcome {
        let call = self.network.plugin.call("DEL").attachment(&self.container, &self.ifname);
        call.without("CNI_NETNS").config(&self.network.config).run()
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

    /// The name of the host's end in the result of the ADD.
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

/// The host's link of that name.
#[track_caller]
pub(crate) fn host_link(lab: &Lab, name: &str) -> Link {
    lab.host().netlink().link_by_name(name).unwrap_or_else(|error| panic!("{error}"))
}

/// Where `addr_assign_type` says that a program set the address (`NET_ADDR_SET`).
const SET: &str = "3";

/// Changes hardware addresses as udev does with `MACAddressPolicy=persistent`, its default: each host interface
/// whose address the kernel chose gets another one. Returns the names of these interfaces.
#[track_caller]
pub(crate) fn act_as_udev(lab: &Lab) -> Vec<String> {
    let mut host = lab.host().netlink();
    let mut changed = Vec::new();
    for link in host.links().expect("the links").into_iter().filter(|link| !link.loopback) {
        let file = format!("/sys/class/net/{}/addr_assign_type", link.name);
        let kind = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{file}, which needs a sysfs of this network: {error}"));
        if kind.trim() != SET {
            let mac = Some(rscni_linux::MacAddr::random().expect("an address"));
            host.set_link(link.index, &LinkChange { mac, ..LinkChange::default() })
                .expect("change");
            changed.push(link.name);
        }
    }
    changed
}

/// The addresses of a link, without those that the kernel makes.
#[track_caller]
pub(crate) fn addresses(place: &Namespace, link: &str) -> Vec<String> {
    let mut netlink = place.netlink();
    let link = netlink.link_by_name(link).expect("the link");
    let addresses = netlink.addresses(link.index).expect("its addresses");
    let given = addresses.iter().filter(|address| address.scope != 253);
    given.map(|address| address.net.to_string()).collect()
}

/// Changes a link.
#[track_caller]
pub(crate) fn change(netlink: &mut Netlink, link: &str, change: &LinkChange<'_>) {
    let index = netlink.link_by_name(link).expect("the link").index;
    netlink.set_link(index, change).expect("change the link");
}

/// Switches a link on or off.
pub(crate) fn up(on: bool) -> LinkChange<'static> {
    LinkChange { up: Some(on), ..LinkChange::default() }
}

/// Asserts that the two reach each other with pings, TCP and UDP.
#[track_caller]
pub(crate) fn assert_talk(lab: &Lab, a: &Attached, b: &Attached, v4: bool) {
    for (from, to) in [(a, b), (b, a)] {
        let address = to.address(v4);
        from.ping(address);
        lab.tcp(from, to, address, 8080);
        lab.udp(from, to, address, 5353);
    }
}
