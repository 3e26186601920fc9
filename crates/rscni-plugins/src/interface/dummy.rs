//! `dummy`: an interface that is connected to nothing, for local addresses of the container.

use rscni_linux::Link;

use crate::{
    attach::{Addresses, ContainerLink, Sandbox, container_link::plugin},
    plugin::{Call, KernelFeature, Plugin, Result},
};

/// It has no keys of its own.
pub(crate) const DUMMY: Plugin = plugin::<Dummy>();

#[derive(Debug)]
struct Dummy;

impl ContainerLink for Dummy {
    const NAME: &'static str = "dummy";
    const ABOUT: &'static str =
        "adds an interface that is connected to nothing, for local addresses";
    const FEATURE: KernelFeature = KernelFeature::Dummy;
    const ADDRESSES: Addresses = Addresses::Ipam;

    fn new(_: &Call<'_>) -> Result<Self> {
        Ok(Self)
    }

    fn make(&self, sandbox: &mut Sandbox, ifname: &str) -> Result<Link> {
        Ok(sandbox.netlink.add_dummy(ifname)?)
    }

    fn check(&self, _: &mut Sandbox, _: &Link) -> Result<()> {
        Ok(())
    }

    fn is_on_shared_segment(&self) -> bool {
        false
    }
}
