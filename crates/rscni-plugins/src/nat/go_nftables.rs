//! Rules of the Go plugins with `ipMasqBackend: nftables`: one per address in a chain of their own
//! table. The comment is a hash of the network, and one of the interface and container.

use rscni::Attachment;
use rscni_linux::nft::{Family, Nft, RuleInfo, Table};

use crate::{
    netfilter::nftable,
    plugin::Result,
    state::{Owner, Stale, go_hash},
};

const CHAIN: &str = "masq_checks";

fn table() -> Table {
    Table::new(Family::Inet, "cni_plugins_masquerade")
}

/// Returns the start of the comments of one network.
fn network_prefix(network: &str) -> String {
    go_hash(network, 16)
}

/// Returns the start of the comments of one attachment.
fn prefix(network: &str, container_id: &str, ifname: &str) -> String {
    format!("{}-{}", network_prefix(network), go_hash(&format!("{ifname}:{container_id}"), 16))
}

fn rules_with(nft: &mut Nft, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<RuleInfo>> {
    let mut rules = nft.rules(&table(), CHAIN)?;
    rules.retain(|rule| rule.comment.as_deref().is_some_and(&is_wanted));
    Ok(rules)
}

fn remove_with(nft: &mut Nft, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
    let rules = rules_with(nft, is_wanted)?;
    nftable::remove_rules(nft, &table(), rules.iter().map(|rule| (CHAIN, rule.handle)))
}

fn is_own(owner: Owner<'_>) -> impl Fn(&str) -> bool {
    let prefix = prefix(owner.network, owner.container_id, owner.ifname);
    move |comment| comment.starts_with(&prefix)
}

pub(super) fn exist(nft: &mut Nft, owner: Owner<'_>) -> Result<bool> {
    Ok(!rules_with(nft, is_own(owner))?.is_empty())
}

/// Removes the rules of the attachment.
pub(super) fn remove(nft: &mut Nft, owner: Owner<'_>) -> Result<()> {
    remove_with(nft, is_own(owner))
}

pub(super) fn remove_stale(nft: &mut Nft, stale: &Stale<'_>) -> Result<()> {
    let network = network_prefix(stale.network);
    let of = |a: &Attachment| prefix(stale.network, &a.container_id, &a.ifname);
    let valid: Vec<String> = stale.valid.iter().map(of).collect();
    remove_with(nft, |comment| {
        comment.strip_prefix(&network).is_some_and(|rest| rest.starts_with('-'))
            && !valid.iter().any(|prefix| comment.starts_with(prefix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_hashes_the_network_and_the_interface_with_the_container() {
        // echo -n net | sha512sum; echo -n eth0:id | sha512sum
        assert_eq!(prefix("net", "id", "eth0"), "a4861f4ae9f7d238-9de139b3fbb6a326");
    }
}
