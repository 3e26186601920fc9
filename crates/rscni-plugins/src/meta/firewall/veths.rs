//! `ingressPolicy` for the host interface of one container's veth pair, as after the plugin ptp.
//!
//! The elements and rules of a bridge stay after the last attachment. Those of a veth are removed
//! with its attachment, so DEL and GC must find them by the owner. With nftables, the element that
//! isolates the veth has the owner tag. The rules of iptables are those of the Go plugin and name
//! no owner, so a set that no rule looks up records the veths with such rules.

use rscni_linux::nft::{Element, ElementInfo, Nft, Set, Value, ValueType};

use super::{backend::table, ingress, iptables, nftables::BRIDGES};
use crate::{
    netfilter::nftable,
    plugin::{BestEffort, Result},
    state::{Owner, Stale},
};

const WITH_RULES: &str = "firewall-iptables-links";

/// Records that a veth of this owner has rules of iptables.
pub(super) fn add_record(nft: &mut Nft, owner: Owner<'_>, veth: &str) -> Result<()> {
    let (table, tag) = (table(), owner.tag());
    nftable::commit(
        nft,
        &table,
        |transaction| {
            transaction.create_set(&table, &Set::new(WITH_RULES, [ValueType::Ifname]));
        },
        |transaction| {
            let element = Element::new(Value::ifname(veth)).comment(&tag);
            nftable::put(transaction, &table, WITH_RULES, &element);
        },
    )
}

/// Removes the policy of the attachment's veth. `veth` is its name in the result of ADD; without a
/// result, the elements are searched.
pub(super) fn remove(nft: &mut Nft, owner: Owner<'_>, veth: Option<&str>) -> Result<()> {
    let tag = owner.tag();
    let mut find = |set: &str| match veth {
        None => nftable::find(nft, &table(), set, |other| other == tag),
        Some(veth) => nftable::get(nft, &table(), set, [Value::ifname(veth)], &tag),
    };
    let (isolated, with_rules) = (find(BRIDGES)?, find(WITH_RULES)?);
    let mut all = BestEffort::default();
    if let Some(veth) = veth.filter(|_| with_rules.is_empty())
        && ingress::is_veth(veth)?
    {
        // The Go plugin adds rules without a record.
        all.step(iptables::remove_interfaces(nft, &[veth.to_owned()]));
    }
    all.step(remove_elements(nft, isolated, with_rules));
    all.finish()
}

/// GC.
pub(super) fn remove_stale(nft: &mut Nft, stale: &Stale<'_>) -> Result<()> {
    let isolated = nftable::find(nft, &table(), BRIDGES, |tag| stale.has_tag(tag))?;
    let with_rules = nftable::find(nft, &table(), WITH_RULES, |tag| stale.has_tag(tag))?;
    remove_elements(nft, isolated, with_rules)
}

/// Removes elements, and those in [`WITH_RULES`] after their rules.
fn remove_elements(
    nft: &mut Nft,
    isolated: Vec<ElementInfo>,
    with_rules: Vec<ElementInfo>,
) -> Result<()> {
    let names: Vec<String> = with_rules.iter().map(|element| nftable::text(&element.key)).collect();
    let mut all = BestEffort::default();
    let outcome = iptables::remove_interfaces(nft, &names);
    let done = if outcome.is_ok() { with_rules } else { Vec::new() };
    all.step(outcome);
    let elements: Vec<_> =
        nftable::in_set(BRIDGES, isolated).chain(nftable::in_set(WITH_RULES, done)).collect();
    all.step(nftable::remove_elements(nft, &table(), &elements));
    all.finish()
}
