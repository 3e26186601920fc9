//! `tap`: an interface whose packets a program in the container reads and writes, such as a VMM.

mod selinux;

use rscni::Error;
use rscni_linux::{Link, LinkChange, MacAddr};
use serde::Deserialize;

use crate::{
    attach::{Addresses, ContainerLink, Sandbox, container_link::plugin, mac::requested_mac},
    plugin::{Call, Context, Failure, KernelFeature, Plugin, Result, differs},
};

pub(crate) const TAP: Plugin = plugin::<Tap>();

/// The keys of the Go plugin.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    multi_queue: bool,
    mtu: u32,
    mac: Option<String>,
    owner: Option<u32>,
    group: Option<u32>,
    selinux_context: String,
    bridge: String,
}

/// A validated configuration.
#[derive(Debug)]
struct Tap {
    multi_queue: bool,
    mtu: Option<u32>,
    mac: Option<MacAddr>,
    owner: Option<u32>,
    group: Option<u32>,
    selinux_context: Option<String>,
    /// The bridge in the container whose port it becomes.
    bridge: Option<String>,
}

impl Tap {
    /// Sets what cannot be set when a tap is created.
    fn set(&self, sandbox: &mut Sandbox, link: &Link, bridge: Option<&Link>) -> Result<Link> {
        let change = LinkChange {
            mtu: self.mtu,
            mac: self.mac,
            master: bridge.map(|bridge| bridge.index),
            ..LinkChange::default()
        };
        sandbox.netlink.set_link(link.index, &change)?;
        Ok(sandbox.netlink.link_by_index(link.index)?)
    }
}

impl ContainerLink for Tap {
    const NAME: &'static str = "tap";
    const ABOUT: &'static str =
        "adds a tap interface for a program in the container, such as a VMM";
    const FEATURE: KernelFeature = KernelFeature::Tun;
    const KIND: &'static str = "tun";
    const ADDRESSES: Addresses = Addresses::IpamOrNone;

    fn new(call: &Call<'_>) -> Result<Self> {
        let keys: Keys = call.conf.custom_as()?;
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        if keys.selinux_context.contains(char::is_control) {
            let problem = format!(
                "tap: selinuxContext: {:?} is not a label: remove control characters",
                keys.selinux_context
            );
            return Err(Error::InvalidNetworkConfig(problem).into());
        }
        Ok(Self {
            multi_queue: keys.multi_queue,
            mtu: Some(keys.mtu).filter(|mtu| *mtu > 0),
            mac: requested_mac(call, keys.mac)?,
            owner: keys.owner,
            group: keys.group,
            selinux_context: given(keys.selinux_context),
            bridge: given(keys.bridge),
        })
    }

    fn make(&self, sandbox: &mut Sandbox, ifname: &str) -> Result<Link> {
        let bridge = match &self.bridge {
            None => None,
            Some(name) => Some(sandbox.netlink.find_link(name)?.ok_or_else(|| {
                let problem =
                    format!("tap: bridge {name} not found in the container: create it before ADD");
                Failure(Error::InvalidNetworkConfig(problem))
            })?),
        };
        let tap = rscni_linux::Tap {
            name: ifname.to_owned(),
            multi_queue: self.multi_queue,
            owner: self.owner,
            group: self.group,
        };
        match &self.selinux_context {
            None => tap.add_in(&sandbox.netns)?,
            Some(context) => {
                selinux::add(&tap, &sandbox.netns, context).context("selinuxContext")?;
            }
        }
        // The tap exists. If reading it failed, try once more.
        let link = sandbox
            .netlink
            .link_by_name(ifname)
            .or_else(|_| sandbox.netlink.link_by_name(ifname))?;
        self.set(sandbox, &link, bridge.as_ref()).inspect_err(|_| {
            // The first error is the one to report.
            let _ = sandbox.netlink.del_link(link.index);
        })
    }

    fn is_this_kind(link: &Link) -> bool {
        link.tun.is_some_and(|tun| tun.tap)
    }

    fn check(&self, sandbox: &mut Sandbox, link: &Link) -> Result<()> {
        let is = link.tun.unwrap_or_default();
        let show = |id: Option<u32>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
        for (what, is, wanted) in [("owner", is.owner, self.owner), ("group", is.group, self.group)]
        {
            if wanted.is_some() && is != wanted {
                let problem =
                    format!("tap {} has {what} {}, ADD left {}", link.name, show(is), show(wanted));
                return Err(differs(problem));
            }
        }
        for (what, is, wanted) in
            [("multiQueue", is.multi_queue, self.multi_queue), ("persist", is.persist, true)]
        {
            if is != wanted {
                return Err(differs(format!(
                    "tap {} has {what} {is}, ADD left {wanted}",
                    link.name
                )));
            }
        }
        let Some(name) = &self.bridge else { return Ok(()) };
        match sandbox.netlink.find_link(name)? {
            Some(bridge) if link.master == Some(bridge.index) => Ok(()),
            Some(_) => Err(differs(format!(
                "{} in {} is not a port of bridge {name}",
                link.name, sandbox.path
            ))),
            None => Err(differs(format!("bridge {name} is missing in {}", sandbox.path))),
        }
    }

    fn mtu(&self) -> Option<u32> {
        self.mtu
    }

    fn is_on_shared_segment(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::call::testing::with_keys;

    #[test]
    fn defaults_are_those_of_the_go_plugin() {
        let empty =
            json!({ "mtu": 0, "mac": "", "selinuxContext": "", "bridge": "", "owner": null });
        for keys in [json!({}), empty] {
            let tap = with_keys(keys, Tap::new).unwrap();
            assert!(
                !tap.multi_queue
                    && tap.mac.is_none()
                    && tap.selinux_context.is_none()
                    && tap.bridge.is_none()
            );
            assert_eq!((tap.mtu, tap.owner, tap.group), (None, None, None));
        }
        assert_eq!(with_keys(json!({ "owner": 0, "group": 0 }), Tap::new).unwrap().owner, Some(0));
    }
}
