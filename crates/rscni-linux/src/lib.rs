//! The Linux kernel's networking as a CNI plugin needs it: network namespaces, rtnetlink, nftables, sysctl.

mod error;
mod mac;
pub mod netlink;
mod netns;
pub mod nft;

pub use crate::{
    error::{Error, Result},
    mac::MacAddr,
    netlink::{
        Address, AddressFlags, Batch, Bridge, BridgeInfo, BridgePort, BridgePortInfo, Dummy,
        Family, Link, LinkChange, Neighbour, Netlink, NewLink, OperState, Request, Route,
        RouteFilter, RouteType, Veth, Vlan, VlanOwner,
    },
    netns::Netns,
    nft::Nft,
};
