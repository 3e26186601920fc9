//! The choice of the backend.

use std::net::IpAddr;

use rscni_linux::nft::Nft;

use super::{
    backend::Backend,
    config::Config,
    firewalld::Firewalld,
    ingress::{HostInterface, IngressPolicy},
    iptables::{self, WantedRules},
    nftables, veths,
};
use crate::{plugin::Result, state::Owner};

/// The backend of a call.
pub(super) struct Selection {
    pub(super) backend: Backend,
    /// A connection, if the backend is firewalld.
    pub(super) firewalld: Option<Firewalld>,
    /// Whether the policies of bridges are rules of iptables.
    pub(super) policies_by_iptables: bool,
}

impl Selection {
    /// Selects `backend`, if given. By default firewalld if it is running, as in the Go plugin;
    /// else iptables if the host has its rules, because only they can accept what its chains drop;
    /// else nftables.
    pub(super) fn new(backend: Option<Backend>, config: &Config, nft: &mut Nft) -> Result<Self> {
        let firewalld = match backend {
            Some(Backend::Firewalld) => Some(Firewalld::required()?),
            Some(_) => None,
            None => Firewalld::if_running(),
        };
        let backend = match backend {
            Some(backend) => backend,
            None if firewalld.is_some() => Backend::Firewalld,
            None if config.admin_chain.is_some() || iptables::is_in_use(nft)? => Backend::Iptables,
            None => Backend::Nftables,
        };
        let policies_by_iptables = match backend {
            Backend::Nftables => false,
            Backend::Iptables => true,
            // The Go plugin always has them in iptables. Bridges are isolated from each other only
            // if all policies are in the same place.
            Backend::Firewalld => iptables::has_policies(nft)?,
        };
        Ok(Self { backend, firewalld, policies_by_iptables })
    }

    /// Applies the policy to the bridge or veth, except for the rules of iptables.
    pub(super) fn add_policy(
        &self,
        nft: &mut Nft,
        owner: Owner<'_>,
        ingress: &IngressPolicy<'_>,
    ) -> Result<()> {
        match ingress.interface {
            HostInterface::Veth(veth) if self.policies_by_iptables => {
                veths::add_record(nft, owner, veth)
            }
            HostInterface::Bridge(_) if self.policies_by_iptables => Ok(()),
            _ => nftables::add_policy(nft, owner, ingress),
        }
    }

    /// Returns the rules of iptables that the attachment needs.
    pub(super) fn wanted<'a>(
        &self,
        config: &'a Config,
        addresses: &'a [IpAddr],
        ingress: Option<&IngressPolicy<'a>>,
        is_strict: bool,
    ) -> WantedRules<'a> {
        let accepted = (self.backend == Backend::Iptables)
            .then(|| (addresses, config.admin_chain.as_deref().unwrap_or(iptables::ADMIN)));
        let policy = ingress.filter(|_| self.policies_by_iptables);
        let policy = policy.map(|ingress| (ingress.policy, ingress.interface));
        WantedRules { accepted, policy, addresses, is_strict }
    }
}
