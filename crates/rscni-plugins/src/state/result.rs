//! The part of a result that belongs to one attachment.
//!
//! `prevResult` may contain several attachments of one container: some runtimes merge results, and
//! a list may have several interface plugins. A plugin works on the addresses of its own interface
//! only.

use std::path::Path;

use ipnet::IpNet;
use rscni::{CNIResult, Interface, IpConfig, Route};

/// A result as one attachment sees it.
#[derive(Clone, Copy)]
pub(crate) struct AttachmentResult<'r> {
    result: &'r CNIResult,
    ifname: &'r str,
    /// The sandbox of the attachment, if the result has interfaces of this name in several.
    sandbox: Option<&'r str>,
}

impl<'r> AttachmentResult<'r> {
    /// The part of the interface `ifname` in `netns`.
    ///
    /// The path only selects between several interfaces of that name, since a namespace can have
    /// more than one path.
    pub(crate) fn new(result: &'r CNIResult, ifname: &'r str, netns: Option<&'r Path>) -> Self {
        let has = |sandbox: &&str| {
            let mut interfaces = result.interfaces.iter();
            interfaces.any(|i| i.name == ifname && i.sandbox.as_deref() == Some(*sandbox))
        };
        Self { result, ifname, sandbox: netns.and_then(Path::to_str).filter(has) }
    }

    pub(crate) fn interface(self) -> Option<&'r Interface> {
        self.result.interfaces.iter().find(|interface| self.has(interface))
    }

    fn has(self, interface: &Interface) -> bool {
        let sandbox = interface.sandbox.as_deref();
        interface.name == self.ifname
            && sandbox.is_some()
            && self.sandbox.is_none_or(|own| sandbox == Some(own))
    }

    /// Returns the addresses of the container interface, and those without an interface.
    pub(crate) fn ips(self) -> impl Iterator<Item = &'r IpConfig> {
        let is_own = move |ip: &&IpConfig| {
            interface_of(self.result, ip).is_none_or(|interface| self.has(interface))
        };
        self.result.ips.iter().filter(is_own)
    }

    /// Returns the addresses without their gateways.
    pub(crate) fn addresses(self) -> Vec<IpNet> {
        self.ips().map(|ip| ip.address).collect()
    }

    /// Returns the addresses of other interfaces in containers.
    fn others(self) -> impl Iterator<Item = &'r IpConfig> {
        let is_other = move |ip: &&IpConfig| {
            interface_of(self.result, ip)
                .is_some_and(|interface| interface.sandbox.is_some() && !self.has(interface))
        };
        self.result.ips.iter().filter(is_other)
    }

    /// Whether the result contains other attachments too. Its routes do not name an interface.
    pub(crate) fn is_merged(self) -> bool {
        self.others().next().is_some()
    }

    /// Returns the routes, except those through the network of another attachment.
    pub(crate) fn routes(self) -> impl Iterator<Item = &'r Route> {
        let is_near = |ip: &IpConfig, route: &Route| {
            route.gw.is_some_and(|gw| ip.gateway == Some(gw) || ip.address.contains(&gw))
        };
        self.result.routes.iter().filter(move |route| {
            self.ips().any(|ip| is_near(ip, route)) || !self.others().any(|ip| is_near(ip, route))
        })
    }
}

fn interface_of<'r>(result: &'r CNIResult, ip: &IpConfig) -> Option<&'r Interface> {
    result.interfaces.get(usize::try_from(ip.interface?).ok()?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged() -> CNIResult {
        serde_json::from_value(json!({
            "interfaces": [
                { "name": "br0" },
                { "name": "eth0", "sandbox": "/run/netns/a" },
                { "name": "net1", "sandbox": "/run/netns/a" },
                { "name": "eth0", "sandbox": "/run/netns/b" }
            ],
            "ips": [
                { "interface": 0, "address": "10.1.0.1/24" },
                { "interface": 1, "address": "10.1.0.2/24", "gateway": "10.1.0.1" },
                { "interface": 2, "address": "10.2.0.2/24", "gateway": "10.2.0.1" },
                { "interface": 3, "address": "10.3.0.2/24" },
                { "address": "10.4.0.2/24" },
                { "interface": 9, "address": "10.5.0.2/24" }
            ],
            "routes": [
                { "dst": "0.0.0.0/0", "gw": "10.1.0.1" },
                { "dst": "192.0.2.0/24", "gw": "10.2.0.1" },
                { "dst": "198.51.100.0/24", "gw": "10.9.0.1" },
                { "dst": "203.0.113.0/24" }
            ]
        }))
        .unwrap()
    }

    fn addresses(ifname: &str, netns: Option<&str>) -> Vec<String> {
        let result = merged();
        let own = AttachmentResult::new(&result, ifname, netns.map(Path::new));
        own.ips().map(|ip| ip.address.addr().to_string()).collect()
    }

    #[test]
    fn addresses_of_other_attachments_are_excluded() {
        let (a, b) = (Some("/run/netns/a"), Some("/run/netns/b"));
        assert_eq!(addresses("eth0", a), ["10.1.0.2", "10.4.0.2", "10.5.0.2"]);
        assert_eq!(addresses("eth0", b), ["10.3.0.2", "10.4.0.2", "10.5.0.2"]);
        assert_eq!(addresses("net1", a), ["10.2.0.2", "10.4.0.2", "10.5.0.2"]);
        assert_eq!(addresses("net2", a), ["10.4.0.2", "10.5.0.2"]);
    }

    #[test]
    fn the_path_of_the_namespace_only_decides_between_several() {
        let expected = ["10.1.0.2", "10.3.0.2", "10.4.0.2", "10.5.0.2"];
        assert_eq!(addresses("eth0", Some("/proc/1/ns/net")), expected);
        assert_eq!(addresses("eth0", None), expected);
    }

    #[test]
    fn routes_through_the_network_of_another_attachment_are_excluded() {
        let result = merged();
        let routes = |ifname: &str| -> Vec<String> {
            let own = AttachmentResult::new(&result, ifname, Some(Path::new("/run/netns/a")));
            assert!(own.is_merged());
            own.routes().map(|route| route.dst.to_string()).collect()
        };
        let either = ["198.51.100.0/24", "203.0.113.0/24"];
        assert_eq!(routes("eth0"), [&["0.0.0.0/0"], &either[..]].concat());
        assert_eq!(routes("net1"), [&["192.0.2.0/24"], &either[..]].concat());
    }
}
