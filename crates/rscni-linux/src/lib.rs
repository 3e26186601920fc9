//! Linux networking for CNI plugins: network namespaces, rtnetlink, traffic control, nftables,
//! connection tracking, sysctl.
//!
//! The crate is synchronous, executes no program, and knows nothing of CNI. Operations have
//! the names of `ip`, `bridge`, `nft` and `sysctl`; errors name the action, its object and the
//! kernel's answer.
//!
//! ```no_run
//! use rscni_linux::{AddressFlags, LinkChange, Netlink, Netns, Route, Veth, announce};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let netns = Netns::open("/run/netns/blue")?;
//! let mut host = Netlink::open()?;
//! let mut container = Netlink::open_in(&netns)?;
//! let cni0 = host.link_by_name("cni0")?.index;
//! // One message: both ends, the peer in the container under its final name.
//! let veth = Veth { master: Some(cni0), up: true, ..Veth::new("veth1a2b", "eth0") };
//! host.add_veth(&Veth { peer_netns: Some(&netns), ..veth })?;
//! let eth0 = container.link_by_name("eth0")?;
//! // Three changes, one send, one answer.
//! let mut batch = container.batch();
//! batch.set_link(eth0.index, &LinkChange { up: Some(true), ..LinkChange::default() });
//! batch.add_address(eth0.index, "10.1.0.2/24".parse()?, AddressFlags::default());
//! batch.add_route(&Route::default_via("10.1.0.1".parse()?));
//! batch.commit()?;
//! announce(&netns, &eth0, &["10.1.0.2".parse()?])?;
//! # Ok(())
//! # }
//! ```
//!
//! # What to know
//!
//! **Sockets stay.** A [`Netlink`] or [`nft::Nft`] socket belongs to the namespace it was opened
//! in. Open one for the host and one for the container; after that no thread has to change its
//! namespace. [`Netns::enter`] moves the calling thread while its closure runs, and only if it can
//! return.
//!
//! **Few system calls.** A batch, or an nftables transaction, is one `send` and, if it succeeds,
//! one `recv`. Lookups do not list. A function that has to list documents that its cost grows.
//!
//! **A batch is not a transaction.** If the kernel refuses one request of a [`Batch`], it still
//! carries out the later ones; a caller that must leave nothing behind undoes all of them.
//! [`nft::Transaction`] is atomic.
//!
//! **Privileges.** `CAP_NET_ADMIN` in the user namespace that owns the network namespace,
//! `CAP_SYS_ADMIN` to enter or bind one, `CAP_NET_RAW` to announce. Root is not required: a user
//! namespace grants all of them.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod announce;
mod arp;
mod bpf;
mod closing;
pub mod conntrack;
mod directory;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod kernel_interface;
mod mac;
pub mod netlink;
mod netns;
pub mod nft;
pub mod offload;
mod packet;
pub mod sysctl;
mod tap;
mod termination;
mod udp;

pub use crate::{
    announce::{Announcer, announce},
    arp::Arp,
    conntrack::Conntrack,
    directory::make_directory,
    error::{Error, Result},
    mac::MacAddr,
    netlink::{
        Address, AddressFlags, Background, Batch, Bridge, BridgeInfo, BridgePort, BridgePortInfo,
        Dummy, Event, Family, Forwarding, Ifb, Ipvlan, IpvlanMode, Link, LinkChange, Macvlan,
        MacvlanInfo, MacvlanMode, Monitor, Neighbour, Netlink, NewAddress, NewLink, OperState,
        Request, Route, RouteFilter, RouteType, Rule, TunInfo, Veth, Vlan, VlanLink, VlanOwner,
        Vrf, Vxlan, VxlanInfo, tc,
    },
    netns::Netns,
    nft::Nft,
    tap::Tap,
    termination::Termination,
    udp::{RawUdp, udp_socket_in},
};
