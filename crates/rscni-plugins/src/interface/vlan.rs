//! `vlan`: an 802.1Q VLAN interface on a host interface.

use rscni::Error;
use rscni_linux::{Link, VlanLink};
use serde::Deserialize;

use crate::{
    attach::{Addresses, ContainerLink, Master, Sandbox, container_link::plugin},
    plugin::{Call, Failure, KernelFeature, Plugin, Result, differs},
};

pub(crate) const VLAN: Plugin = plugin::<Vlan>();

/// The keys of the Go plugin, except those of the parent, which are in [`Master`].
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    vlan_id: u16,
}

/// A validated configuration.
#[derive(Debug)]
struct Vlan {
    master: Master,
    id: u16,
}

const MAX_ID: u16 = 4094;

impl ContainerLink for Vlan {
    const NAME: &'static str = "vlan";
    const ABOUT: &'static str = "adds an 802.1Q VLAN interface on a host interface";
    const FEATURE: KernelFeature = KernelFeature::Vlan;
    const ADDRESSES: Addresses = Addresses::IpamOrNone;

    fn new(call: &Call<'_>) -> Result<Self> {
        let conf = call.conf;
        let id = conf.custom_as::<Keys>()?.vlan_id;
        let master = Master::new(conf)?;
        if master.name.is_none() {
            return Err(master.invalid("master is required: the interface whose VLAN it is"));
        }
        if id > MAX_ID {
            return Err(master.invalid(&format!("vlanId: {id} must be between 0 and {MAX_ID}")));
        }
        Ok(Self { master, id })
    }

    fn make(&self, sandbox: &mut Sandbox, ifname: &str) -> Result<Link> {
        let master = self.master.find(sandbox)?;
        self.master.require_mtu_fits(&master)?;
        let vlan = VlanLink {
            name: ifname.to_owned(),
            lower: master.index,
            id: self.id,
            mtu: self.master.mtu,
        };
        self.master.add(sandbox, &vlan).map_err(|error| match error {
            // An interface has one link for each VLAN.
            taken if taken.is_exists() => Failure(Error::TryAgainLater(format!(
                "VLAN {} of {} is in use by another container or the host: DEL that first \
                 ({taken})",
                self.id, master.name
            ))),
            error => error.into(),
        })
    }

    fn check(&self, sandbox: &mut Sandbox, link: &Link) -> Result<()> {
        match link.vlan_id.filter(|id| *id != self.id) {
            None => self.master.check(sandbox, link),
            Some(id) => Err(differs(format!(
                "interface {} is of VLAN {id}, ADD left {}",
                link.name, self.id
            ))),
        }
    }

    fn parent(&self) -> Option<&Master> {
        Some(&self.master)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::call::testing::with_keys;

    #[test]
    fn the_least_and_the_greatest_vlan_are_allowed() {
        for (keys, id) in [(json!({}), 0), (json!({ "vlanId": 4094 }), 4094)] {
            let mut keys = keys;
            keys["master"] = "ens0".into();
            assert_eq!(with_keys(keys, Vlan::new).unwrap().id, id);
        }
    }
}
