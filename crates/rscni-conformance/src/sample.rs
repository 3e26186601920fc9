//! An attachment, and what the kernel has while it is there.

use ipnet::IpNet;
use rscni_linux::{Link, Route, RouteFilter};
use rscni_test::Namespace;
use serde_json::Value;

use crate::world::{Attachment, World};

/// What there was.
pub(crate) struct Sample {
    pub(crate) result: Value,
    /// `CNI_NETNS`.
    pub(crate) netns: String,
    pub(crate) container: Place,
    pub(crate) host: Place,
}

/// A network namespace.
pub(crate) struct Place {
    pub(crate) links: Vec<Link>,
    /// With the index of their link.
    pub(crate) addresses: Vec<(u32, IpNet)>,
    pub(crate) routes: Vec<Route>,
}

impl Sample {
    pub(crate) fn take(world: &World, made: &Attachment) -> Self {
        Self {
            result: made.result.clone().unwrap_or_default(),
            netns: made.container.path().display().to_string(),
            container: Place::look(&made.container),
            host: Place::look(world.lab.host()),
        }
    }

    /// Where an interface of the result is: in the container, or on the host.
    pub(crate) fn place_of(&self, interface: &Value) -> &Place {
        if interface["sandbox"].as_str().is_none_or(str::is_empty) {
            &self.host
        } else {
            &self.container
        }
    }
}

impl Place {
    /// A kernel that does not tell has nothing.
    pub(crate) fn look(namespace: &Namespace) -> Self {
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
