//! A plugin of this crate as what it is: five functions.

use rscni::{Args, CNIResult, Cni, Error};

use crate::failure::Result;

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
