//! A plugin of this crate as what it is: five functions.

use rscni::{Args, CNIResult, Cni, Error};

use crate::plugin::failure::Result;

/// The five commands of a plugin, whose errors become the protocol's here.
#[derive(Debug)]
pub(crate) struct Commands {
    pub(crate) add: fn(&Args) -> Result<CNIResult>,
    pub(crate) del: fn(&Args) -> Result<()>,
    pub(crate) check: fn(&Args) -> Result<()>,
    pub(crate) gc: fn(&Args) -> Result<()>,
    pub(crate) status: fn(&Args) -> Result<()>,
}

impl Cni for Commands {
    fn add(&self, args: Args) -> std::result::Result<CNIResult, Error> {
        Ok((self.add)(&args)?)
    }

    fn del(&self, args: Args) -> std::result::Result<(), Error> {
        Ok((self.del)(&args)?)
    }

    fn check(&self, args: Args) -> std::result::Result<(), Error> {
        Ok((self.check)(&args)?)
    }

    fn gc(&self, args: Args) -> std::result::Result<(), Error> {
        Ok((self.gc)(&args)?)
    }

    fn status(&self, args: Args) -> std::result::Result<(), Error> {
        Ok((self.status)(&args)?)
    }
}

/// The five commands of an IPAM plugin. Its errors say whose they are, since the caller is often told them by the plugin
/// that asked for addresses.
#[derive(Debug)]
pub(crate) struct IpamCommands {
    pub(crate) name: &'static str,
    pub(crate) add: fn(&Args) -> std::result::Result<CNIResult, Error>,
    pub(crate) del: fn(&Args) -> std::result::Result<(), Error>,
    pub(crate) check: fn(&Args) -> std::result::Result<(), Error>,
    pub(crate) gc: fn(&Args) -> std::result::Result<(), Error>,
    pub(crate) status: fn(&Args) -> std::result::Result<(), Error>,
}

impl Cni for IpamCommands {
    fn add(&self, args: Args) -> std::result::Result<CNIResult, Error> {
        (self.add)(&args).map_err(|error| error.context(self.name))
    }

    fn del(&self, args: Args) -> std::result::Result<(), Error> {
        (self.del)(&args).map_err(|error| error.context(self.name))
    }

    fn check(&self, args: Args) -> std::result::Result<(), Error> {
        (self.check)(&args).map_err(|error| error.context(self.name))
    }

    fn gc(&self, args: Args) -> std::result::Result<(), Error> {
        (self.gc)(&args).map_err(|error| error.context(self.name))
    }

    fn status(&self, args: Args) -> std::result::Result<(), Error> {
        (self.status)(&args).map_err(|error| error.context(self.name))
    }
}
