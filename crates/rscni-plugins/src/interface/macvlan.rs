//! `macvlan`: an interface on a host interface, with a MAC address of its own.

use rscni_linux::{Link, MacAddr, MacvlanMode};
use serde::Deserialize;

use crate::{
    attach::{
        Addresses, ContainerLink, Master, Sandbox,
        container_link::{mode, plugin},
        mac::requested_mac,
    },
    plugin::{Call, KernelFeature, Plugin, Result, differs},
};

pub(crate) const MACVLAN: Plugin = plugin::<Macvlan>();

/// The keys of the Go plugin, except those of the parent, which are in [`Master`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Keys {
    mode: String,
    mac: Option<String>,
    bcqueuelen: u32,
}

/// A validated configuration.
#[derive(Debug)]
struct Macvlan {
    master: Master,
    mode: MacvlanMode,
    mac: Option<MacAddr>,
    bcqueuelen: Option<u32>,
}

impl ContainerLink for Macvlan {
    const NAME: &'static str = "macvlan";
    const ABOUT: &'static str = "adds a macvlan interface on a host interface";
    const FEATURE: KernelFeature = KernelFeature::Macvlan;
    const ADDRESSES: Addresses = Addresses::IpamOrNone;

    fn new(call: &Call<'_>) -> Result<Self> {
        let keys: Keys = call.conf.custom_as()?;
        Ok(Self {
            master: Master::new(call.conf)?,
            mode: mode(call.conf, &keys.mode)?.unwrap_or(MacvlanMode::Bridge),
            mac: requested_mac(call, keys.mac)?,
            bcqueuelen: Some(keys.bcqueuelen).filter(|length| *length > 0),
        })
    }

    fn make(&self, sandbox: &mut Sandbox, ifname: &str) -> Result<Link> {
        let master = self.master.find(sandbox)?;
        self.master.require_mtu_fits(&master)?;
        let macvlan = rscni_linux::Macvlan {
            name: ifname.to_owned(),
            lower: master.index,
            mode: self.mode,
            bcqueuelen: self.bcqueuelen,
            mtu: self.master.mtu,
            mac: self.mac,
        };
        Ok(self.master.add(sandbox, &macvlan)?)
    }

    fn check(&self, sandbox: &mut Sandbox, link: &Link) -> Result<()> {
        let is = link.macvlan.unwrap_or_default();
        if is.mode != self.mode {
            return Err(differs(format!(
                "interface {} is in mode {}, ADD left {}",
                link.name, is.mode, self.mode
            )));
        }
        if let Some(wanted) = self.bcqueuelen.filter(|wanted| *wanted != is.bcqueuelen) {
            let problem = format!(
                "interface {} has bcqueuelen {}, ADD left {wanted}",
                link.name, is.bcqueuelen
            );
            return Err(differs(problem));
        }
        self.master.check(sandbox, link)
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
    fn defaults_are_those_of_the_go_plugin() {
        for keys in
            [json!({}), json!({ "master": "", "mode": "", "mtu": 0, "mac": "", "bcqueuelen": 0 })]
        {
            let config = with_keys(keys, Macvlan::new).unwrap();
            assert_eq!((config.master.name, config.master.mtu, config.mac), (None, None, None));
            assert_eq!((config.mode, config.bcqueuelen), (MacvlanMode::Bridge, None));
        }
    }
}
