//! Asking the IPAM plugin that a configuration names.

use rscni::{Args, CNIResult, Error, NetConf, SpecVersion, invoke::Delegate};

use crate::{
    linked::{InProcess, Linked},
    plugin::failure::Result,
    registry::alias,
};

/// Those of this crate's plugins that are IPAM plugins. They ask no other.
const GIVE_ADDRESSES: [&str; 3] = ["host-local", "dhcp", "static"];

/// The IPAM plugin of a configuration.
pub(crate) struct Ipam<'a> {
    delegate: Delegate<'a>,
    args: &'a Args,
    conf: &'a NetConf,
    plugin: &'a str,
}

impl<'a> Ipam<'a> {
    /// The plugin named in `ipam.type`; none where there is no such key, which means a link without addresses.
    pub(crate) fn of(conf: &'a NetConf, args: &'a Args) -> Option<Self> {
        conf.ipam_type().map(|plugin| Self {
            delegate: Delegate::new(&Linked, args, plugin),
            args,
            conf,
            plugin,
        })
    }

    /// The same plugin at the place that DEL and GC have to ask it: before the link goes, or after it. One of the two is
    /// none.
    ///
    /// An address is free only when nobody uses it any more. But what a DHCP server has leased is given back to it
    /// through the link.
    pub(crate) fn before_and_after_link(
        conf: &'a NetConf,
        args: &'a Args,
    ) -> (Option<Self>, Option<Self>) {
        let ipam = Self::of(conf, args);
        let is_dhcp =
            ipam.as_ref().is_some_and(|ipam| alias::kind(ipam.plugin, &args.path) == "dhcp");
        if is_dhcp { (ipam, None) } else { (None, ipam) }
    }

    /// The plugin named in `ipam.type`, for plugins that cannot do without.
    pub(crate) fn required(conf: &'a NetConf, args: &'a Args) -> Result<Self> {
        Self::of(conf, args).ok_or_else(|| {
            Error::InvalidNetworkConfig(format!(
                "{} needs an IPAM plugin: set \"ipam\": {{ \"type\": … }}",
                conf.r#type
            ))
            .into()
        })
    }

    /// The same for plugins that can do without if the configuration says so: `"ipam": {}` is none.
    pub(crate) fn required_unless_empty(conf: &'a NetConf, args: &'a Args) -> Result<Option<Self>> {
        let is_empty = |ipam: &rscni::Ipam| ipam.r#type.is_empty() && ipam.custom.is_empty();
        if conf.ipam.as_ref().is_some_and(is_empty) {
            return Self::require_in_old_versions(conf).map(|()| None);
        }
        Self::required(conf, args).map(Some)
    }

    /// Refuses a configuration without an IPAM plugin in versions whose results begin with an address.
    ///
    /// The Go plugins and the runtimes on libcni fail there once the container's interface is complete.
    pub(crate) fn require_in_old_versions(conf: &NetConf) -> Result<()> {
        if !conf.cni_version.has_legacy_result() || conf.ipam_type().is_some() {
            return Ok(());
        }
        Err(Error::InvalidNetworkConfig(format!(
            "results of cniVersion {} have an address: use 0.3.0 or newer, or set ipam",
            conf.cni_version
        ))
        .into())
    }

    /// Whether it is one of ours that gives no addresses, and would be called in-process. It would read the same `ipam`
    /// and ask itself, without end.
    fn is_no_ipam(&self) -> bool {
        !GIVE_ADDRESSES.contains(&self.plugin)
            && Linked::entry(self.plugin, &self.args.path)
                .is_some_and(|entry| !GIVE_ADDRESSES.contains(&entry.name))
    }

    /// Refuses one that [gives no addresses](Self::is_no_ipam). As it was never asked, DEL and GC have nothing to do.
    fn must_be_ipam(&self) -> Result<()> {
        if !self.is_no_ipam() {
            return Ok(());
        }
        let problem = format!(
            "ipam.type: {} gives no addresses: set {} or ",
            self.plugin,
            GIVE_ADDRESSES.join(", ")
        );
        Err(Error::InvalidNetworkConfig(problem + "another IPAM plugin").into())
    }

    /// Reserves addresses. There is at least one in the result; nothing is held when this fails.
    pub(crate) fn add(&self) -> Result<CNIResult> {
        let result = self.add_any()?;
        if result.ips.is_empty() {
            self.del()?;
            return Err(
                Error::InvalidNetworkConfig("the IPAM plugin gave no address".into()).into()
            );
        }
        Ok(result)
    }

    /// ADD for an interface that can do without an address of IPAM.
    pub(crate) fn add_any(&self) -> Result<CNIResult> {
        self.must_be_ipam()?;
        let newest = self.newest();
        Ok(newest.as_ref().unwrap_or(&self.delegate).add()?)
    }

    /// The same plugin, asked in the newest version, if it is linked in.
    ///
    /// Routes of a configuration can have a table, a metric or an MTU in every version, and the Go plugins pass them
    /// on; but replies have those only from 1.1.0 on. Between plugins of this program none gets lost. Up to 0.2.0 a
    /// result holds less than the newest can say, so there it stays as it is.
    fn newest(&self) -> Option<Delegate<'a>> {
        let is_between =
            self.conf.cni_version.has_chaining() && self.conf.cni_version < SpecVersion::LATEST;
        if !is_between {
            return None;
        }
        // It may have another name in the configuration, by which it is not found in-process.
        let plugin = Linked::entry(self.plugin, &self.args.path)?.name;
        let newest = NetConf { cni_version: SpecVersion::LATEST, ..self.conf.clone() };
        let config = serde_json::to_vec(&newest).ok()?;
        Some(Delegate::new(&InProcess, self.args, plugin).with_config(config))
    }

    pub(crate) fn del(&self) -> Result<()> {
        if self.is_no_ipam() { Ok(()) } else { Ok(self.delegate.del()?) }
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.must_be_ipam()?;
        Ok(self.delegate.check()?)
    }

    pub(crate) fn gc(&self) -> Result<()> {
        if self.is_no_ipam() { Ok(()) } else { Ok(self.delegate.gc()?) }
    }

    pub(crate) fn status(&self) -> Result<()> {
        self.must_be_ipam()?;
        Ok(self.delegate.status()?)
    }
}
