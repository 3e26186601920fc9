//! Asking the IPAM plugin that a configuration names.

use rscni::invoke::Delegate;
use rscni::{Args, CNIResult, Error, NetConf};

use crate::failure::Result;
use crate::linked::Linked;

/// The IPAM plugin of a configuration.
pub(crate) struct Ipam<'a>(Delegate<'a>);

impl<'a> Ipam<'a> {
    /// The plugin named in `ipam.type`; none where there is no such key, which means a link without addresses.
    pub(crate) fn of(conf: &'a NetConf, args: &'a Args) -> Option<Self> {
        conf.ipam_type().map(|plugin| Self(Delegate::new(&Linked, args, plugin)))
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

    /// Reserves addresses. There is at least one in the result; nothing is held when this fails.
    pub(crate) fn add(&self) -> Result<CNIResult> {
        let result = self.0.add()?;
        if result.ips.is_empty() {
            self.del()?;
            return Err(Error::InvalidNetworkConfig("the IPAM plugin gave no address".into()).into());
        }
        Ok(result)
    }

    pub(crate) fn del(&self) -> Result<()> {
        Ok(self.0.del()?)
    }

    pub(crate) fn check(&self) -> Result<()> {
        Ok(self.0.check()?)
    }

    pub(crate) fn gc(&self) -> Result<()> {
        Ok(self.0.gc()?)
    }

    pub(crate) fn status(&self) -> Result<()> {
        Ok(self.0.status()?)
    }
}
