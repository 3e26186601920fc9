//! Masquerading with iptables, as the Go plugins do it: per container a chain in the table `nat`,
//! and per address a jump to it in `POSTROUTING`.

use ipnet::IpNet;
use rscni_linux::nft::Nft;

use super::family;
use crate::{
    netfilter::{ContainerChains, NAT, SavedTable, iptables_save},
    plugin::Result,
    state::{Owner, Purpose},
};

const POSTROUTING: &str = "POSTROUTING";

pub(crate) const CHAINS: ContainerChains = ContainerChains {
    parent: POSTROUTING,
    prefix: "CNI-",
    comment: "",
    purpose: |_| Purpose::Masquerade,
};

/// Adds the chain and the jumps. Replaces those of an earlier ADD.
pub(super) fn add(owner: Owner<'_>, addresses: &[IpNet]) -> Result<()> {
    CHAINS.remove(&mut Nft::open()?, owner)?;
    for table in NAT {
        let nets: Vec<IpNet> =
            addresses.iter().copied().filter(|net| table.is_for(net.addr())).collect();
        if !nets.is_empty() {
            table.restore(lines(owner, &nets, family::multicast(table.v4)))?;
        }
    }
    Ok(())
}

/// Returns the rules of a container as lines for `iptables-restore`.
fn lines(owner: Owner<'_>, nets: &[IpNet], multicast: &str) -> Vec<String> {
    let chain = CHAINS.name(owner.network, owner.container_id);
    let tail = iptables_save::comment(&CHAINS.comment(owner));
    let mut lines = vec![format!(":{chain} - [0:0]")];
    lines.extend(nets.iter().map(|net| format!("-A {chain} -d {} {tail} -j ACCEPT", net.trunc())));
    lines.push(format!("-A {chain} ! -d {multicast} {tail} -j MASQUERADE"));
    let sources = nets.iter().map(|net| IpNet::from(net.addr()));
    lines.extend(sources.map(|net| format!("-A {POSTROUTING} -s {net} {tail} -j {chain}")));
    lines
}

/// Whether all addresses jump to the container's chain, and the chain has a rule for each and the
/// one that masquerades.
pub(super) fn is_complete(nft: &mut Nft, owner: Owner<'_>, addresses: &[IpNet]) -> Result<bool> {
    let name = CHAINS.name(owner.network, owner.container_id);
    for table in NAT {
        let wanted = addresses.iter().filter(|net| table.is_for(net.addr())).count();
        let is_enough = |saved: &SavedTable| {
            saved.rules.iter().filter(|rule| rule.jumps_to(&name)).count() >= wanted
                && saved.rules_of(&name).count() > wanted
        };
        if wanted == 0 || is_enough(&table.saved(nft, &[], &[POSTROUTING, &name])?) {
            continue;
        }
        match table.legacy() {
            Some(legacy) if is_enough(&legacy.saved()?) => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner<'_> = Owner { network: "net", container_id: "id", ifname: "eth0" };

    #[test]
    fn rules_equal_those_of_the_go_plugins() {
        let text = lines(OWNER, &["10.1.0.5/16".parse().unwrap()], "224.0.0.0/4").join("\n");
        // echo -n netid | sha512sum
        let chain = "CNI-30e7440e95deb2a63c98a3df";
        let note = r#"-m comment --comment "name: \"net\" id: \"id\"""#;
        let expected = format!(
            ":{chain} - [0:0]
-A {chain} -d 10.1.0.0/16 {note} -j ACCEPT
-A {chain} ! -d 224.0.0.0/4 {note} -j MASQUERADE
-A POSTROUTING -s 10.1.0.5/32 {note} -j {chain}"
        );
        assert_eq!(text, expected);
    }
}
