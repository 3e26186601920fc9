//! The result of attaching a sandbox.

use std::collections::BTreeMap;

use crate::{CNIResult, Dns, Interface, IpConfig, Route};

/// The result of attaching a sandbox to its networks, by interface and as the plugins returned it.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Attached {
    /// The interfaces by name: those of the container, and host interfaces with other names.
    ///
    /// There is one for each network, even if its plugins did not return any.
    pub interfaces: BTreeMap<String, AttachedInterface>,
    /// The routes of all networks.
    pub routes: Vec<Route>,
    /// The DNS settings of the networks that have some.
    pub dns: Vec<Dns>,
    /// The results in the order of the networks.
    pub results: Vec<AttachedNetwork>,
}

/// An interface with its addresses.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct AttachedInterface {
    /// The network that it belongs to.
    pub network: String,
    /// Its MAC address, if it has one.
    pub mac: Option<String>,
    /// Its MTU in bytes.
    pub mtu: Option<u32>,
    /// The network namespace of the container; `None` for a host interface.
    pub sandbox: Option<String>,
    /// Absolute path of its socket.
    pub socket_path: Option<String>,
    /// The platform's identifier of its PCI device.
    pub pci_id: Option<String>,
    /// Its addresses.
    pub ips: Vec<IpConfig>,
}

/// The result of one network.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AttachedNetwork {
    /// The network.
    pub network: String,
    /// The container interface.
    pub ifname: String,
    /// The result of its last plugin.
    pub result: CNIResult,
}

impl Attached {
    pub(super) fn of(results: Vec<AttachedNetwork>) -> Self {
        let mut attached = Self::default();
        for it in &results {
            for (name, interface) in it.interfaces() {
                let known = attached.interfaces.get(&name);
                // A container interface is not hidden by a host interface of the same name.
                if known.is_none_or(|known| known.sandbox.is_none()) {
                    attached.interfaces.insert(name, interface);
                }
            }
            attached.routes.extend(it.result.routes.iter().cloned());
            attached.dns.extend(it.result.dns.clone());
        }
        attached.results = results;
        attached
    }
}

impl AttachedNetwork {
    /// Returns the interfaces with their addresses.
    fn interfaces(&self) -> Vec<(String, AttachedInterface)> {
        let interface = |interface: &Interface| AttachedInterface {
            network: self.network.clone(),
            mac: interface.mac.clone(),
            mtu: interface.mtu,
            sandbox: interface.sandbox.clone(),
            socket_path: interface.socket_path.clone(),
            pci_id: interface.pci_id.clone(),
            ips: Vec::new(),
        };
        let own = Interface { name: self.ifname.clone(), ..Interface::default() };
        let is_own = |it: &Interface| it.name == own.name && it.sandbox.is_some();
        let listed = &self.result.interfaces;
        let index_of_own = listed.iter().position(is_own).unwrap_or(listed.len());
        let all = listed.iter().chain((index_of_own == listed.len()).then_some(&own));
        let mut all: Vec<_> = all.map(|it| (it.name.clone(), interface(it))).collect();
        for ip in &self.result.ips {
            // Plugins may omit the index if there is only one interface.
            let index = ip.interface.map_or(index_of_own, |index| index as usize);
            let index = if index < listed.len() { index } else { index_of_own };
            all[index].1.ips.push(ip.clone());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn network(network: &str, ifname: &str, result: &Value) -> AttachedNetwork {
        let result = CNIResult::from_json(result.to_string().as_bytes()).unwrap();
        AttachedNetwork { network: network.into(), ifname: ifname.into(), result }
    }

    fn addresses(interface: &AttachedInterface) -> Vec<String> {
        interface.ips.iter().map(|ip| ip.address.to_string()).collect()
    }

    #[test]
    fn addresses_are_found_by_the_name_of_their_interface() {
        let attached = Attached::of(vec![
            network(
                "a",
                "eth0",
                &json!({
                    "interfaces": [
                        { "name": "cni0", "mac": "02:00:00:00:00:01" },
                        { "name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/box", "mtu": 1400 }
                    ],
                    "ips": [
                        { "address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 1 },
                        { "address": "10.0.0.1/24", "interface": 0 }
                    ],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                    "dns": { "nameservers": ["10.0.0.1"] }
                }),
            ),
            network("b", "eth1", &json!({ "ips": [{ "address": "10.1.0.2/24" }] })),
        ]);
        assert_eq!(attached.interfaces.keys().collect::<Vec<_>>(), ["cni0", "eth0", "eth1"]);
        let [cni0, eth0, eth1] = ["cni0", "eth0", "eth1"].map(|name| &attached.interfaces[name]);
        assert_eq!(addresses(eth0), ["10.0.0.2/24"]);
        assert_eq!(
            (eth0.mac.as_deref(), eth0.mtu, eth0.sandbox.as_deref(), eth0.network.as_str()),
            (Some("02:00:00:00:00:02"), Some(1400), Some("/box"), "a")
        );
        assert_eq!((addresses(cni0), cni0.sandbox.as_deref()), (vec!["10.0.0.1/24".into()], None));
        assert_eq!((addresses(eth1), eth1.network.as_str()), (vec!["10.1.0.2/24".into()], "b"));
        assert_eq!((attached.routes.len(), attached.dns.len(), attached.results.len()), (1, 1, 2));
    }

    #[test]
    fn a_host_interface_does_not_hide_a_container_interface() {
        let of_host = json!({ "interfaces": [{ "name": "eth0" }] });
        let of_container = json!({ "interfaces": [{ "name": "eth0", "sandbox": "/box" }],
            "ips": [{ "address": "10.0.0.2/24", "interface": 7 }] });
        for order in [
            [("eth1", &of_host), ("eth0", &of_container)],
            [("eth0", &of_container), ("eth1", &of_host)],
        ] {
            let attached =
                Attached::of(order.map(|(ifname, result)| network("n", ifname, result)).into());
            let eth0 = &attached.interfaces["eth0"];
            assert_eq!(
                (eth0.sandbox.as_deref(), addresses(eth0)),
                (Some("/box"), vec!["10.0.0.2/24".into()])
            );
            assert!(attached.interfaces.contains_key("eth1"));
        }
    }
}
