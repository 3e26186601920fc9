//! `macspoofchk`: drops frames from a container's port with another source than its MAC address.
//!
//! The table `bridge rscni` has a set of filtered ports and a set of allowed pairs of port and MAC
//! address. One rule serves all ports. DEL also removes the chains of the Go plugin.

use rscni_linux::{
    MacAddr,
    nft::{
        BaseChain, Element, Family, Field, Hook, Nft, Rule, Set, Table, Transaction, Value,
        ValueType,
    },
};

use crate::{
    netfilter::{Elements, nftable},
    plugin::{Result, best_effort, differs},
    state::{Owner, Purpose, Resources, Stale},
};

const CHAIN: &str = "prerouting";
const PORTS: &str = "spoof_ports";
const ALLOWED: &str = "spoof_allowed";
/// Before other chains, as in the Go plugin.
const PRIORITY: i32 = -300;

fn table() -> Table {
    nftable::table(Family::Bridge)
}

fn skeleton(transaction: &mut Transaction<'_>) {
    let table = table();
    transaction
        .create_chain(&table, CHAIN, Some(&BaseChain::filter(Hook::Prerouting, PRIORITY)))
        .add_set(&table, &Set::new(PORTS, [ValueType::Ifname]))
        .add_set(&table, &Set::new(ALLOWED, [ValueType::Ifname, ValueType::EtherAddr]))
        .add_rule(&table, CHAIN, &rule());
}

fn rule() -> Rule {
    Rule::new()
        .in_set(&[Field::Iifname], PORTS)
        .not_in_set(&[Field::Iifname, Field::EtherSaddr], ALLOWED)
        .drop()
}

pub(super) fn describe(set: &str, key: &[u8]) -> Option<(String, Purpose)> {
    [PORTS, ALLOWED].contains(&set).then(|| (nftable::text(key), Purpose::MacSpoofFilter))
}

fn pair(port: &str, mac: MacAddr) -> Value {
    Value::concat([Value::ifname(port), Value::bytes(*mac.as_bytes())])
}

/// Lets only `mac` through `port`.
pub(super) fn add(owner: Owner<'_>, port: &str, mac: MacAddr) -> Result<()> {
    let table = table();
    let tag = owner.tag();
    nftable::commit(&mut Nft::open()?, &table, skeleton, |transaction| {
        let allowed = Element::new(pair(port, mac)).comment(&tag);
        nftable::put(transaction, &table, ALLOWED, &allowed);
        nftable::put(transaction, &table, PORTS, &Element::new(Value::ifname(port)).comment(&tag));
    })
}

/// Restores what [`check`] finds missing, including the rule in an empty chain.
pub(super) fn restore(owner: Owner<'_>, port: &str, mac: MacAddr) -> Result<()> {
    add(owner, port, mac)?;
    let (mut nft, table) = (Nft::open()?, table());
    if nft.rules(&table, CHAIN)?.is_empty() {
        let mut transaction = nft.transaction();
        transaction.add_rule(&table, CHAIN, &rule());
        transaction.commit()?;
    }
    Ok(())
}

/// Removes the elements of the attachment. The MAC address saves a search.
pub(super) fn remove(nft: &mut Nft, owner: Owner<'_>, mac: Option<MacAddr>) -> Result<()> {
    let (tag, port) = (owner.tag(), owner.veth_name());
    let pair = mac.map(|mac| pair(&port, mac));
    let mut found = nftable::get(nft, &table(), ALLOWED, pair, &tag)?;
    if found.is_empty() {
        found = elements(nft, &[ALLOWED]).find(&|by| by.is_owner(owner))?;
    }
    found.extend(nftable::get(nft, &table(), PORTS, [Value::ifname(&port)], &tag)?);
    best_effort([elements(nft, &[]).remove(found), remove_go_chains(nft, owner)])
}

/// Removes the elements of attachments that are no longer valid.
pub(super) fn remove_stale(stale: &Stale<'_>) -> Result<()> {
    elements(&mut Nft::open()?, &[PORTS, ALLOWED]).remove_of(&|by| stale.has(by))
}

fn elements<'a>(nft: &'a mut Nft, sets: &'a [&'a str]) -> Elements<'a, &'a str> {
    Elements { nft, table: table(), sets }
}

/// Returns the chains of the Go plugin in the table `bridge nat`: one for the port, and the one for
/// its MAC address to which the first jumps.
fn go_chains(owner: Owner<'_>) -> [String; 2] {
    let chain = format!("cni-br-iface-{}-{}", owner.container_id, owner.ifname);
    let mac = format!("{chain}-mac");
    [chain, mac]
}

fn go_table() -> Table {
    Table::new(Family::Bridge, "nat")
}

const GO_CHAIN: &str = "PREROUTING";

fn remove_go_chains(nft: &mut Nft, owner: Owner<'_>) -> Result<()> {
    let table = go_table();
    let mut chains = go_chains(owner).to_vec();
    for chain in go_chains(owner) {
        if nft.chain(&table, &chain)?.is_none() {
            chains.retain(|other| *other != chain);
        }
    }
    let mut jumps = nft.rules(&table, GO_CHAIN)?;
    jumps.retain(|rule| {
        rule.jump_target.as_deref().is_some_and(|target| chains.iter().any(|chain| chain == target))
    });
    let mut transaction = nft.transaction();
    for rule in jumps {
        transaction.destroy_rule(&table, GO_CHAIN, rule.handle);
    }
    for chain in &chains {
        transaction.flush_chain(&table, chain);
    }
    for chain in &chains {
        transaction.del_chain(&table, chain);
    }
    Ok(transaction.commit()?)
}

/// Fails CHECK if neither our sets nor the chains of the Go plugin filter the port.
pub(super) fn check(owner: Owner<'_>, port: &str, mac: Option<MacAddr>) -> Result<()> {
    let mut nft = Nft::open()?;
    let table = table();
    let is_guarded = nft.get_element(&table, PORTS, &Value::ifname(port))?.is_some();
    let may_pass = match mac {
        Some(mac) => nft.get_element(&table, ALLOWED, &pair(port, mac))?.is_some(),
        None => false,
    };
    if is_guarded && may_pass && !nft.rules(&table, CHAIN)?.is_empty() {
        return Ok(());
    }
    let [go_chain, _] = go_chains(owner);
    if nft
        .rules(&go_table(), GO_CHAIN)?
        .iter()
        .any(|rule| rule.jump_target.as_deref() == Some(&*go_chain))
    {
        return Ok(());
    }
    Err(differs(format!(
        "the check for spoofed hardware addresses on {port} (macspoofchk) is missing"
    )))
}
