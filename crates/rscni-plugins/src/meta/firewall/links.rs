//! `ingressPolicy` for the host's end of one container's veth pair, as behind the plugin ptp.
//!
//! What a bridge needs stays after the last attachment. What a link needs goes with its attachment,
//! so DEL and GC must find it by the owner. With nftables the element that keeps the link apart has
//! the owner's tag. The rules of iptables are those of the Go plugin and have no owner, so the
//! links that have such rules are noted in a set that no rule looks at.

use rscni_linux::nft::{Element, ElementInfo, Family, Nft, Set, Table, Value, ValueType};

use super::{config, forward, iptables};
use crate::{
    netfilter::nftable,
    plugin::error::{BestEffort, Result},
    state::owner::{Owner, Stale},
};

/// The links that have rules of iptables.
const WITH_RULES: &str = "firewall-iptables-links";

fn table() -> Table {
    nftable::table(Family::Inet)
}

/// Notes that a link of this owner has rules of iptables.
pub(super) fn note(nft: &mut Nft, owner: Owner<'_>, link: &str) -> Result<()> {
    let (table, tag) = (table(), owner.tag());
    nftable::commit(
        nft,
        &table,
        |transaction| {
            transaction.create_set(&table, &Set::new(WITH_RULES, [ValueType::Ifname]));
        },
        |transaction| {
            let element = Element::new(Value::ifname(link)).comment(&tag);
            nftable::put(transaction, &table, WITH_RULES, &element);
        },
    )
}

/// Removes the policy of the attachment's link. `link` is its name by the result of the ADD;
/// without a result the elements are searched.
pub(super) fn remove(nft: &mut Nft, owner: Owner<'_>, link: Option<&str>) -> Result<()> {
    let tag = owner.tag();
    let mut find = |set: &str| match link {
        None => nftable::find(nft, &table(), set, &tag, &[]),
        Some(link) => {
            let element = nft.get_element(&table(), set, &Value::ifname(link))?;
            let is_own = |e: &ElementInfo| e.comment.as_deref() == Some(&tag);
            Ok(element.filter(is_own).into_iter().collect())
        }
    };
    let (apart, with_rules) = (find(forward::BRIDGES)?, find(WITH_RULES)?);
    let mut all = BestEffort::default();
    // The Go plugin notes nothing.
    let of_go = match link {
        Some(link) if with_rules.is_empty() && config::is_veth(link)? => vec![link.to_owned()],
        _ => Vec::new(),
    };
    all.step(iptables::remove_links(nft, &of_go));
    all.step(remove_elements(nft, apart, with_rules));
    all.finish()
}

/// GC.
pub(super) fn remove_stale(nft: &mut Nft, stale: &Stale<'_>) -> Result<()> {
    let apart = nftable::find_stale(nft, &table(), forward::BRIDGES, stale)?;
    let with_rules = nftable::find_stale(nft, &table(), WITH_RULES, stale)?;
    remove_elements(nft, apart, with_rules)
}

/// Removes elements, those in [`WITH_RULES`] after their rules.
fn remove_elements(
    nft: &mut Nft,
    apart: Vec<ElementInfo>,
    with_rules: Vec<ElementInfo>,
) -> Result<()> {
    let table = table();
    let names: Vec<String> = with_rules.iter().map(|element| name(&element.key)).collect();
    let mut all = BestEffort::default();
    let outcome = iptables::remove_links(nft, &names);
    let mut transaction = nft.transaction();
    for (set, elements) in
        [(forward::BRIDGES, apart), (WITH_RULES, if outcome.is_ok() { with_rules } else { vec![] })]
    {
        for element in elements {
            transaction.destroy_element(&table, set, &Element::new(Value::bytes(element.key)));
        }
    }
    all.step(outcome);
    all.step(if transaction.is_empty() { Ok(()) } else { transaction.commit() });
    all.finish()
}

/// The name of an interface as the key of an element.
fn name(key: &[u8]) -> String {
    let end = key.iter().position(|byte| *byte == 0).unwrap_or(key.len());
    String::from_utf8_lossy(&key[..end]).into_owned()
}
