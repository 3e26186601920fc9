//! What the Go plugins make with `ipMasqBackend: nftables`: a rule per address in a chain of their own table, with a
//! comment that begins with a hash of the network and one of interface and container.

use rscni::Attachment;
use rscni_linux::nft::{Family, Nft, RuleInfo, Table};

use crate::{
    plugin::error::Result,
    state::owner::{Owner, Stale, go_hash},
};

const CHAIN: &str = "masq_checks";

fn table() -> Table {
    Table::new(Family::Inet, "cni_plugins_masquerade")
}

/// How the comments of one network begin.
fn network_prefix(network: &str) -> String {
    go_hash(network, 16)
}

/// How the comments of one attachment begin.
fn prefix(network: &str, container_id: &str, ifname: &str) -> String {
    format!("{}-{}", network_prefix(network), go_hash(&format!("{ifname}:{container_id}"), 16))
}

fn rules_with(nft: &mut Nft, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<RuleInfo>> {
    let mut rules = nft.rules(&table(), CHAIN)?;
    rules.retain(|rule| rule.comment.as_deref().is_some_and(&is_wanted));
    Ok(rules)
}

fn remove_rules(nft: &mut Nft, rules: &[RuleInfo]) -> Result<()> {
    let mut transaction = nft.transaction();
    for rule in rules {
        transaction.destroy_rule(&table(), CHAIN, rule.handle);
    }
    Ok(transaction.commit()?)
}

fn rules_of(nft: &mut Nft, owner: Owner<'_>) -> Result<Vec<RuleInfo>> {
    let prefix = prefix(owner.network, owner.container_id, owner.ifname);
    rules_with(nft, |comment| comment.starts_with(&prefix))
}

pub(super) fn is_there(nft: &mut Nft, owner: Owner<'_>) -> Result<bool> {
    Ok(!rules_of(nft, owner)?.is_empty())
}

pub(super) fn remove(nft: &mut Nft, owner: Owner<'_>) -> Result<()> {
    let rules = rules_of(nft, owner)?;
    remove_rules(nft, &rules)
}

pub(super) fn remove_stale(nft: &mut Nft, stale: &Stale<'_>) -> Result<()> {
    let network = network_prefix(stale.network());
    let of = |a: &Attachment| prefix(stale.network(), &a.container_id, &a.ifname);
    let valid: Vec<String> = stale.valid_attachments().iter().map(of).collect();
    let is_stale = |comment: &str| {
        comment.strip_prefix(&network).is_some_and(|rest| rest.starts_with('-'))
            && !valid.iter().any(|prefix| comment.starts_with(prefix))
    };
    let rules = rules_with(nft, is_stale)?;
    remove_rules(nft, &rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_a_hash_of_the_network_and_one_of_interface_and_container() {
        // echo -n net | sha512sum; echo -n eth0:id | sha512sum
        assert_eq!(prefix("net", "id", "eth0"), GO_PREFIX);
    }

    const GO_PREFIX: &str = "a4861f4ae9f7d238-9de139b3fbb6a326";
}
