//! `ipMasq`: packets that leave a container's subnet get the host's address as their source.
//!
//! By default, this adds elements to the table `inet rscni` over netlink ([`elements`]). With
//! `ipMasqBackend: iptables`, it adds the rules of the Go plugins ([`iptables`]). Removal covers
//! both, and the nftables rules of the Go plugins ([`go_nftables`]), because an attachment may be
//! older than the node's plugins. Invalid packets, which NAT ignores, are dropped ([`invalid`]).

mod elements;
mod family;
mod go_nftables;
mod invalid;
mod iptables;

use ipnet::IpNet;
use rscni_linux::nft::Nft;
use serde::Deserialize;

pub(crate) use self::{elements::describe, iptables::CHAINS};
use crate::{
    plugin::{Result, best_effort, differs},
    state::{Owner, Stale},
};

/// `ipMasqBackend`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backend {
    /// nftables, over netlink. The default.
    #[default]
    Nftables,
    /// iptables, for hosts whose other tools expect its rules.
    Iptables,
}

/// An entry of `ipMasqFamilies`.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Family {
    Ipv4,
    Ipv6,
}

/// `ipMasqFamilies`: the families whose addresses are masqueraded. The Go plugins have no such key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<Family>")]
pub(crate) struct Families {
    v4: bool,
    v6: bool,
}

impl Default for Families {
    fn default() -> Self {
        Self { v4: true, v6: true }
    }
}

impl TryFrom<Vec<Family>> for Families {
    type Error = &'static str;

    fn try_from(list: Vec<Family>) -> std::result::Result<Self, Self::Error> {
        if list.is_empty() {
            return Err("must name ipv4, ipv6, or both; set ipMasq to false for neither");
        }
        Ok(Self { v4: list.contains(&Family::Ipv4), v6: list.contains(&Family::Ipv6) })
    }
}

impl Families {
    pub(crate) fn filter(self, mut addresses: Vec<IpNet>) -> Vec<IpNet> {
        addresses.retain(|net| if net.addr().is_ipv4() { self.v4 } else { self.v6 });
        addresses
    }
}

/// The masquerading of one attachment.
#[derive(Clone, Copy)]
pub(crate) struct Masquerade<'a> {
    owner: Owner<'a>,
    backend: Backend,
}

impl<'a> Masquerade<'a> {
    pub(crate) fn new(owner: Owner<'a>, backend: Backend) -> Self {
        Self { owner, backend }
    }

    /// Masquerades packets from these addresses to other subnets.
    pub(crate) fn add(self, addresses: &[IpNet]) -> Result<()> {
        if addresses.is_empty() {
            return Ok(());
        }
        match self.backend {
            Backend::Nftables => elements::add(&mut Nft::open()?, self.owner, addresses),
            Backend::Iptables => {
                iptables::add(self.owner, addresses)?;
                invalid::add_subnets(&mut Nft::open()?, addresses)
            }
        }
    }

    /// Removes what any backend added for this attachment. The addresses, if known, save a search.
    /// They may be of families that are not masqueraded.
    pub(crate) fn remove(self, nft: &mut Nft, known: Option<&[IpNet]>) -> Result<()> {
        best_effort([
            elements::remove(nft, self.owner, known),
            go_nftables::remove(nft, self.owner),
            iptables::CHAINS.remove(nft, self.owner),
        ])
    }

    /// CHECK: each of these addresses is masqueraded, by any backend.
    pub(crate) fn check(self, addresses: &[IpNet]) -> Result<()> {
        if addresses.is_empty() {
            return Ok(());
        }
        let mut nft = Nft::open()?;
        let Some(missing) = elements::missing(&mut nft, self.owner, addresses)? else {
            return invalid::check(&mut nft);
        };
        if go_nftables::exist(&mut nft, self.owner)?
            || iptables::is_complete(&mut nft, self.owner, addresses)?
        {
            return Ok(());
        }
        Err(differs(format!("masquerading of {missing} is missing")))
    }

    /// Restores what [`check`](Self::check) finds missing.
    pub(crate) fn restore(self, addresses: &[IpNet]) -> Result<()> {
        if self.check(addresses).is_ok() {
            return Ok(());
        }
        self.add(addresses)?;
        let mut nft = Nft::open()?;
        invalid::restore(&mut nft)?;
        match self.backend {
            Backend::Nftables if self.check(addresses).is_err() => {
                elements::restore_rules(&mut nft)
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn remove_stale(stale: &Stale<'_>) -> Result<()> {
        let nft = &mut Nft::open()?;
        best_effort([
            elements::remove_of(nft, &|by| stale.has(by)),
            go_nftables::remove_stale(nft, stale),
            iptables::CHAINS.remove_stale(nft, stale),
        ])
    }
}
