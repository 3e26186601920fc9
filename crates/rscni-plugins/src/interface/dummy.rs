//! `dummy`: an interface that leads nowhere, for addresses that are the container's own.

use rscni::{Args, NetConf};
use rscni_linux::Link;

use crate::{
    attach::container_link::{Addresses, ContainerLink, commands},
    attach::sandbox::Sandbox,
    plugin::commands::Commands,
    plugin::failure::Result,
};

/// The dummy plugin. It has no keys of its own.
pub(crate) const DUMMY: Commands = commands::<Dummy>();

#[derive(Debug)]
struct Dummy;

impl ContainerLink for Dummy {
    const KIND: &'static str = "dummy";
    const ADDRESSES: Addresses = Addresses::Ipam;

    fn new(_: &NetConf, _: &Args) -> Result<Self> {
        Ok(Self)
    }

    fn make(&self, sandbox: &mut Sandbox, ifname: &str) -> Result<Link> {
        Ok(sandbox.netlink.add_dummy(ifname)?)
    }

    fn check(&self, _: &mut Sandbox, _: &Link) -> Result<()> {
        Ok(())
    }

    fn is_among_strangers(&self) -> bool {
        false
    }
}
