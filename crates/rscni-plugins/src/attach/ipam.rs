//! The client of the IPAM plugin that a configuration names.

use std::{io, path::PathBuf};

use rscni::{
    CNIResult, Error, NetConf, SpecVersion,
    invoke::{Delegate, Exec, Invocation, Outcome},
};

use crate::{
    plugin::{Call, IpamOrder, Kind, PluginExec, Result},
    state::Undo,
};

/// The IPAM plugin of a configuration.
#[derive(Clone, Copy)]
pub(crate) struct Ipam<'a> {
    call: Call<'a>,
    plugin: &'a str,
}

impl<'a> Ipam<'a> {
    /// The plugin in `ipam.type`. Without that key the link gets no addresses.
    pub(crate) fn of(call: &Call<'a>) -> Option<Self> {
        call.conf.ipam_type().map(|plugin| Self { call: *call, plugin })
    }

    /// The plugin that DEL and GC call before they remove the link, and the one that they call
    /// afterwards. At most one of the two exists.
    pub(crate) fn before_and_after_link(call: &Call<'a>) -> (Option<Self>, Option<Self>) {
        let Some(ipam) = Self::of(call) else { return (None, None) };
        let kind = call.exec.kind(ipam.plugin, &call.args.path);
        match kind.and_then(|kind| kind.ipam) {
            Some(IpamOrder::BeforeLink) => (Some(ipam), None),
            _ => (None, Some(ipam)),
        }
    }

    /// The plugin in `ipam.type`, for plugins that need one.
    pub(crate) fn required(call: &Call<'a>) -> Result<Self> {
        Self::of(call).ok_or_else(|| {
            Error::InvalidNetworkConfig(format!(
                "{} needs an IPAM plugin: set \"ipam\": {{ \"type\": … }}",
                call.conf.r#type
            ))
            .into()
        })
    }

    /// The same, but `"ipam": {}` means that the interface gets no address.
    pub(crate) fn required_unless_empty(call: &Call<'a>) -> Result<Option<Self>> {
        let is_empty = |ipam: &rscni::Ipam| ipam.r#type.is_empty() && ipam.custom.is_empty();
        if call.conf.ipam.as_ref().is_some_and(is_empty) {
            return Self::require_in_old_versions(call).map(|()| None);
        }
        Self::required(call).map(Some)
    }

    /// Rejects a configuration without an IPAM plugin in versions whose results begin with an
    /// address.
    ///
    /// The Go plugins and the runtimes on libcni fail there once the container interface is
    /// complete.
    pub(crate) fn require_in_old_versions(call: &Call<'_>) -> Result<()> {
        let conf = call.conf;
        if !conf.cni_version.has_legacy_result() || conf.ipam_type().is_some() {
            return Ok(());
        }
        Err(Error::InvalidNetworkConfig(format!(
            "results of cniVersion {} have an address: use 0.3.0 or newer, or set ipam",
            conf.cni_version
        ))
        .into())
    }

    fn delegate(&self) -> Delegate<'a> {
        self.call.delegate(self.plugin)
    }

    /// Whether the plugin is one of this program that is no IPAM plugin. Called in-process, it
    /// would read the same `ipam` and call itself without end.
    fn is_no_ipam(&self) -> bool {
        let (exec, path) = (self.call.exec, &self.call.args.path);
        let is_ipam = |kind: Kind| kind.ipam.is_some();
        // This lookup needs no system call for a plugin under its own name.
        !exec.kind(self.plugin, path).is_some_and(is_ipam)
            && exec.linked(self.plugin, path).is_some_and(|kind| !is_ipam(kind))
    }

    /// Rejects a plugin that [is no IPAM plugin](Self::is_no_ipam). ADD never called it, so DEL and
    /// GC have nothing to do.
    fn must_be_ipam(&self) -> Result<()> {
        if !self.is_no_ipam() {
            return Ok(());
        }
        Err(Error::InvalidNetworkConfig(format!(
            "ipam.type: {} gives no addresses: set host-local, dhcp, static or another IPAM plugin",
            self.plugin,
        ))
        .into())
    }

    /// Allocates addresses, at least one, for the interface with this index in the result.
    pub(crate) fn add(&self, undo: &mut Undo<'a>, interface: u32) -> Result<CNIResult> {
        let result = self.add_any(undo, interface)?;
        if result.ips.is_empty() {
            return Err(
                Error::InvalidNetworkConfig("the IPAM plugin gave no address".into()).into()
            );
        }
        Ok(result)
    }

    /// Allocates addresses for an interface that can do without.
    pub(crate) fn add_any(&self, undo: &mut Undo<'a>, interface: u32) -> Result<CNIResult> {
        self.must_be_ipam()?;
        let ipam = *self;
        undo.push(move || ipam.del());
        let outcome = self.add_newest().unwrap_or_else(|| self.delegate().add());
        if outcome.is_err() {
            // The IPAM plugin rolls back itself, and the address may be that of an earlier ADD.
            undo.cancel_last();
        }
        let mut result = outcome?;
        result.ips.iter_mut().for_each(|ip| ip.interface = Some(interface));
        Ok(result)
    }

    /// Calls ADD of the same plugin with the newest version, if it is linked in.
    ///
    /// Routes of a configuration can have a table, a metric or an MTU in every version, and the Go
    /// plugins pass them on; but replies have those only from 1.1.0 on. Between plugins of this
    /// program none gets lost. Up to 0.2.0 a result holds less than the newest, so it stays.
    fn add_newest(&self) -> Option<std::result::Result<CNIResult, Error>> {
        let Call { args, conf, exec } = self.call;
        let is_between = conf.cni_version.has_chaining() && conf.cni_version < SpecVersion::LATEST;
        if !is_between {
            return None;
        }
        // The configuration may use another name, under which no in-process plugin is found.
        let plugin = exec.linked(self.plugin, &args.path)?.name;
        let newest = NetConf { cni_version: SpecVersion::LATEST, ..conf.clone() };
        let config = serde_json::to_vec(&newest).ok()?;
        Some(Delegate::new(&OwnNames(exec), args, plugin).with_config(config).add())
    }

    pub(crate) fn del(&self) -> Result<()> {
        if self.is_no_ipam() { Ok(()) } else { Ok(self.delegate().del()?) }
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.must_be_ipam()?;
        Ok(self.delegate().check()?)
    }

    pub(crate) fn gc(&self) -> Result<()> {
        if self.is_no_ipam() { Ok(()) } else { Ok(self.delegate().gc()?) }
    }

    pub(crate) fn status(&self) -> Result<()> {
        self.must_be_ipam()?;
        Ok(self.delegate().status()?)
    }
}

/// The plugins of this program by their own names, whatever is installed under these.
struct OwnNames<'a>(&'a dyn PluginExec);

impl Exec for OwnNames<'_> {
    fn find(&self, plugin: &str, _: &[PathBuf]) -> std::result::Result<PathBuf, Error> {
        self.0.find(plugin, &[])
    }

    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        self.0.exec(invocation)
    }
}

/// DNS settings of the configuration override those of the IPAM plugin.
pub(crate) fn override_dns(result: &mut CNIResult, conf: &NetConf) {
    if conf.dns.is_some() {
        result.dns.clone_from(&conf.dns);
    }
}
