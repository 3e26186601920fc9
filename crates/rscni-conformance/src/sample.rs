//! A sample attachment: its result and the state of the kernel.

use ipnet::IpNet;
use rscni_linux::{Link, Route, RouteFilter};
use rscni_test::Namespace;
use serde_json::Value;

use crate::host::{Attachment, PrivateHost};

/// An attachment and the state of both namespaces while it existed.
pub(crate) struct Sample {
    pub(crate) result: Value,
    /// `CNI_NETNS`.
    pub(crate) netns: String,
    pub(crate) container: NamespaceState,
    pub(crate) host: NamespaceState,
}

/// The state of a network namespace.
pub(crate) struct NamespaceState {
    pub(crate) links: Vec<Link>,
    /// Addresses with the index of their link.
    pub(crate) addresses: Vec<(u32, IpNet)>,
    pub(crate) routes: Vec<Route>,
}

impl Sample {
    pub(crate) fn take(host: &PrivateHost, made: &Attachment) -> Self {
        Self {
            result: made.result.clone().unwrap_or_default(),
            netns: made.container.path().display().to_string(),
            container: NamespaceState::read(&made.container),
            host: NamespaceState::read(host.lab.host()),
        }
    }

    /// Returns the namespace that an interface of the result must be in.
    pub(crate) fn namespace_of(&self, interface: &Value) -> &NamespaceState {
        if interface["sandbox"].as_str().is_none_or(str::is_empty) {
            &self.host
        } else {
            &self.container
        }
    }
}

impl NamespaceState {
    /// Reads the state; parts that the kernel does not list are empty.
    pub(crate) fn read(namespace: &Namespace) -> Self {
        let mut netlink = namespace.netlink();
        let addresses = netlink.all_addresses().unwrap_or_default();
        Self {
            links: netlink.links().unwrap_or_default(),
            addresses: addresses.iter().map(|address| (address.index, address.net)).collect(),
            routes: netlink.routes(RouteFilter::default()).unwrap_or_default(),
        }
    }

    pub(crate) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }
}
