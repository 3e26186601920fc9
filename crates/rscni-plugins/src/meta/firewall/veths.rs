//! `ingressPolicy` for the host interface of one container's veth pair, as after the plugin ptp.
//!
//! The elements and rules of a bridge stay after the last attachment. Those of a veth are removed
//! with its attachment, so DEL and GC must find them by the owner. With nftables, the element that
//! isolates the veth has the owner tag. The rules of iptables are those of the Go plugin and name
//! no owner, so a set that no rule looks up records the veths with such rules.

use rscni_linux::nft::{Element, Nft, Set, Value, ValueType};

use super::{backend::table, ingress, iptables, nftables::BRIDGES};
use crate::{
    netfilter::{Elements, Found, nftable},
    plugin::{BestEffort, Result},
    state::{OwnedBy, Owner, Resources},
};

const WITH_RULES: &str = "firewall-iptables-links";
const SETS: [&str; 2] = [BRIDGES, WITH_RULES];

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
    let Some(veth) = veth else { return Policies(nft).remove_of(&|by| by.is_owner(owner)) };
    let (tag, mut found) = (owner.tag(), Vec::new());
    for set in SETS {
        found.extend(nftable::get(nft, &table(), set, [Value::ifname(veth)], &tag)?);
    }
    let mut all = BestEffort::default();
    if found.iter().all(|(set, _)| set != WITH_RULES) && ingress::is_veth(veth)? {
        // The Go plugin adds rules without a record.
        all.step(iptables::remove_interfaces(nft, &[veth.to_owned()]));
    }
    all.step(Policies(nft).remove(found));
    all.finish()
}

pub(super) struct Policies<'a>(pub(super) &'a mut Nft);

impl Policies<'_> {
    fn elements(&mut self) -> Elements<'_, &'static str> {
        Elements { nft: self.0, table: table(), sets: &SETS }
    }
}

impl Resources for Policies<'_> {
    type Resource = Found;

    fn list(&mut self) -> Result<Vec<(OwnedBy, Found)>> {
        self.elements().list()
    }

    /// Removes the elements in [`WITH_RULES`] after their rules.
    fn remove(mut self, mut found: Vec<Found>) -> Result<()> {
        let with_rules = found.iter().filter(|(set, _)| set == WITH_RULES);
        let names: Vec<_> = with_rules.map(|(_, element)| nftable::text(&element.key)).collect();
        let outcome = iptables::remove_interfaces(self.0, &names);
        found.retain(|(set, _)| set != WITH_RULES || outcome.is_ok());
        let mut all = BestEffort::default();
        all.step(outcome);
        all.step(self.elements().remove(found));
        all.finish()
    }
}
