//! `ipvlan`: an interface on a host interface, with addresses of its own and the MAC address of its
//! parent.

use rscni::CNIResult;
use rscni_linux::{IpvlanMode, Link};
use serde::Deserialize;

use crate::{
    attach::{
        Addresses, ContainerLink, Master, Sandbox,
        container_link::{mode, plugin},
    },
    plugin::{Call, KernelFeature, Plugin, Result, differs},
};

pub(crate) const IPVLAN: Plugin = plugin::<Ipvlan>();

/// The keys of the Go plugin, except those of the parent, which are in [`Master`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Keys {
    mode: String,
}

/// A validated configuration.
#[derive(Debug)]
struct Ipvlan {
    master: Master,
    mode: IpvlanMode,
    /// The result of the previous plugin in the list.
    previous: Option<CNIResult>,
}

impl Ipvlan {
    /// Returns the configured parent, or else the only interface of the previous plugin.
    fn master(&self) -> Result<Master> {
        let mut master = self.master.clone();
        if let (None, Some(previous)) = (&master.name, &self.previous) {
            let [interface] = &previous.interfaces[..] else {
                let number = previous.interfaces.len();
                return Err(master.invalid(&format!(
                    "prevResult has {number} interfaces, not one to stand on: set master"
                )));
            };
            master.name = Some(interface.name.clone());
        }
        Ok(master)
    }
}

impl ContainerLink for Ipvlan {
    const NAME: &'static str = "ipvlan";
    const ABOUT: &'static str = "adds an ipvlan interface on a host interface";
    const FEATURE: KernelFeature = KernelFeature::Ipvlan;
    const ADDRESSES: Addresses = Addresses::IpamOrPrevious;

    fn new(call: &Call<'_>) -> Result<Self> {
        let conf = call.conf;
        let keys: Keys = conf.custom_as()?;
        Ok(Self {
            master: Master::new(conf)?,
            mode: mode(conf, &keys.mode)?.unwrap_or(IpvlanMode::L2),
            previous: conf.prev_result.clone(),
        })
    }

    fn make(&self, sandbox: &mut Sandbox, ifname: &str) -> Result<Link> {
        let master = self.master()?;
        let lower = master.find(sandbox)?.index;
        let ipvlan = rscni_linux::Ipvlan {
            name: ifname.to_owned(),
            lower,
            mode: self.mode,
            mtu: master.mtu,
        };
        Ok(master.add(sandbox, &ipvlan)?)
    }

    fn check(&self, sandbox: &mut Sandbox, link: &Link) -> Result<()> {
        match link.ipvlan_mode.filter(|mode| *mode != self.mode) {
            None => self.master.check(sandbox, link),
            Some(mode) => Err(differs(format!(
                "interface {} is in mode {mode}, ADD left {}",
                link.name, self.mode
            ))),
        }
    }

    fn parent(&self) -> Option<&Master> {
        Some(&self.master)
    }

    /// The other modes have neither ARP nor NDP.
    fn is_on_shared_segment(&self) -> bool {
        self.mode == IpvlanMode::L2
    }

    /// Without a name the parent can come from the previous plugin, which STATUS does not know.
    fn status(&self) -> Result<()> {
        if self.master.name.is_none() { Ok(()) } else { self.master.status() }
    }
}

#[cfg(test)]
mod tests {
    use rscni::Error;
    use serde_json::json;

    use super::*;
    use crate::plugin::call::testing::with_keys;

    #[test]
    fn the_parent_is_the_only_interface_of_the_previous_plugin_unless_named() {
        let previous = |names: &[&str]| {
            let interfaces: Vec<_> = names.iter().map(|name| json!({ "name": name })).collect();
            json!({ "interfaces": interfaces })
        };
        let master =
            |keys| with_keys(keys, Ipvlan::new).unwrap().master().map(|master| master.name);
        assert_eq!(master(json!({})).unwrap(), None);
        assert_eq!(master(json!({ "prevResult": previous(&["ens0"]) })).unwrap().unwrap(), "ens0");
        let both = json!({ "prevResult": previous(&["ens0"]), "master": "ens1" });
        assert_eq!(master(both).unwrap().unwrap(), "ens1");
        for interfaces in [&[][..], &["ens0", "ens1"]] {
            let error =
                Error::from(master(json!({ "prevResult": previous(interfaces) })).unwrap_err());
            assert_eq!(error.code(), 7);
            assert!(error.details().contains("set master"), "{error}");
        }
    }
}
