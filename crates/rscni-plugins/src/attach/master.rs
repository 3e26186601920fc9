//! The parent of a macvlan, ipvlan or 802.1Q link: the keys `master`, `linkInContainer` and `mtu`.

use rscni::{Error, NetConf, name::interface_name_problem};
use rscni_linux::{Link, Netlink, NewLink, RouteFilter, RouteType};
use serde::Deserialize;

use crate::{
    attach::{Sandbox, routing_table::MAIN},
    plugin::{Failure, Result, differs},
};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    master: String,
    link_in_container: bool,
    mtu: u32,
}

/// The parent interface of a link.
#[derive(Clone, Debug)]
pub(crate) struct Master {
    /// The plugin's name, for messages.
    plugin: String,
    /// The name. Without one it is the interface of the default route.
    pub(crate) name: Option<String>,
    /// Whether it is in the container, not on the host.
    in_container: bool,
    /// The MTU of the link on it. Without one it is that of the parent.
    pub(crate) mtu: Option<u32>,
}

impl Master {
    pub(crate) fn new(conf: &NetConf) -> Result<Self> {
        let keys: Keys = conf.custom_as()?;
        let master = Self {
            plugin: conf.r#type.clone(),
            name: Some(keys.master).filter(|name| !name.is_empty()),
            in_container: keys.link_in_container,
            mtu: Some(keys.mtu).filter(|mtu| *mtu > 0),
        };
        match master.name.as_deref().and_then(|name| Some((name, interface_name_problem(name)?))) {
            Some((name, problem)) => Err(master.invalid(&format!("master: {name:?} {problem}"))),
            None => Ok(master),
        }
    }

    /// Finds the interface for ADD.
    pub(crate) fn find(&self, sandbox: &mut Sandbox) -> Result<Link> {
        match self.look_up(&mut self.netlink(sandbox)?)? {
            Some(link) => Ok(link),
            None => Err(self.invalid(&self.missing())),
        }
    }

    /// Fails if the MTU of the link is larger than that of its parent.
    pub(crate) fn require_mtu_fits(&self, master: &Link) -> Result<()> {
        match self.mtu.filter(|mtu| *mtu > master.mtu) {
            None => Ok(()),
            Some(mtu) => {
                let problem = format!(
                    "mtu {mtu} is larger than the {} of its master {}",
                    master.mtu, master.name
                );
                Err(self.invalid(&problem))
            }
        }
    }

    /// Creates a link in the container.
    pub(crate) fn add<'a>(
        &self,
        sandbox: &'a mut Sandbox,
        link: impl Into<NewLink<'a>>,
    ) -> rscni_linux::Result<Link> {
        if self.in_container {
            sandbox.netlink.add_link(link)
        } else {
            Netlink::open()?.add_link_in(&sandbox.netns, &mut sandbox.netlink, link)
        }
    }

    /// Fails CHECK if the parent is not the interface that the configuration names.
    pub(crate) fn check(&self, sandbox: &mut Sandbox, link: &Link) -> Result<()> {
        // The default route may use another interface by now, which does not change the attachment.
        if self.name.is_none() {
            return Ok(());
        }
        let master =
            self.look_up(&mut self.netlink(sandbox)?)?.ok_or_else(|| differs(self.missing()))?;
        // A link on a link of the same kind gets the parent of that one.
        let is_same_kind = master.kind == link.kind;
        let lower = if is_same_kind { master.peer_index } else { Some(master.index) };
        let is_here = link.peer_netnsid.is_none() == self.in_container;
        if link.peer_index == lower && (is_here || is_same_kind) {
            return Ok(());
        }
        Err(differs(format!(
            "interface {} in {} does not stand on {}",
            link.name, sandbox.path, master.name
        )))
    }

    /// Fails STATUS if the interface is missing. One in a container can only be checked in ADD.
    pub(crate) fn status(&self) -> Result<()> {
        if self.in_container {
            return Ok(());
        }
        match self.look_up(&mut Netlink::open()?)? {
            Some(master) => self.require_mtu_fits(&master),
            None => {
                Err(Error::PluginNotAvailable(format!("{}: {}", self.plugin, self.missing()))
                    .into())
            }
        }
    }

    /// Opens a socket in the namespace of the interface.
    fn netlink(&self, sandbox: &Sandbox) -> Result<Netlink> {
        Ok(if self.in_container { Netlink::open_in(&sandbox.netns)? } else { Netlink::open()? })
    }

    fn look_up(&self, netlink: &mut Netlink) -> Result<Option<Link>> {
        if let Some(name) = &self.name {
            return Ok(netlink.find_link(name)?);
        }
        for everything in [ipnet::Ipv4Net::default().into(), ipnet::Ipv6Net::default().into()] {
            let filter =
                RouteFilter { dst: Some(everything), table: Some(MAIN), ..RouteFilter::default() };
            let mut routes = netlink.routes(filter)?;
            routes.retain(|route| route.kind == RouteType::Unicast);
            let best = routes
                .iter()
                .filter(|route| route.oif.is_some())
                .min_by_key(|route| route.priority.unwrap_or(0));
            if let Some(index) = best.and_then(|route| route.oif) {
                return Ok(Some(netlink.link_by_index(index)?));
            }
        }
        Ok(None)
    }

    fn missing(&self) -> String {
        let place = if self.in_container { "in the container" } else { "on the host" };
        match &self.name {
            Some(name) => {
                format!("interface {name} not found {place}: set master to one that exists")
            }
            None => {
                format!("no default route {place}, whose interface would be used: set master")
            }
        }
    }

    /// An error about the configuration.
    pub(crate) fn invalid(&self, problem: &str) -> Failure {
        Error::InvalidNetworkConfig(format!("{}: {problem}", self.plugin)).into()
    }
}
