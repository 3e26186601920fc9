//! Masquerading as the Go plugins do it with iptables: per container a chain in the table `nat`, and in `POSTROUTING`
//! a jump to it for each address.

use ipnet::IpNet;
use rscni_linux::nft::Nft;

use crate::{
    netfilter::iptables::{self, IpTable, jump_target},
    plugin::error::Result,
    state::owner::{Owner, Stale, go_hash},
};

const POSTROUTING: &str = "POSTROUTING";

const NAT: [IpTable; 2] = IpTable::of_both_families("nat");

/// The chain of a container. The interface is not part of the name, as it never was.
fn chain(network: &str, container_id: &str) -> String {
    format!("CNI-{}", go_hash(&format!("{network}{container_id}"), 24))
}

fn comment(network: &str, container_id: &str) -> String {
    format!("{}{container_id}\"", comment_start(network))
}

fn comment_start(network: &str) -> String {
    format!("name: \"{network}\" id: \"")
}

/// Adds chain and jumps. What an earlier ADD left is replaced.
pub(super) fn add(owner: Owner<'_>, addresses: &[IpNet]) -> Result<()> {
    remove(&mut Nft::open()?, owner)?;
    for table in NAT {
        let nets: Vec<IpNet> =
            addresses.iter().copied().filter(|net| table.is_for(net.addr())).collect();
        if !nets.is_empty() {
            table.restore(lines(
                owner,
                &nets,
                if table.v4 { "224.0.0.0/4" } else { "ff00::/8" },
            ))?;
        }
    }
    Ok(())
}

/// The rules of a container, as `iptables-restore` reads them.
fn lines(owner: Owner<'_>, nets: &[IpNet], multicast: &str) -> Vec<String> {
    let chain = chain(owner.network, owner.container_id);
    let tail = iptables::comment(&comment(owner.network, owner.container_id));
    let mut lines = vec![format!(":{chain} - [0:0]")];
    lines.extend(nets.iter().map(|net| format!("-A {chain} -d {} {tail} -j ACCEPT", net.trunc())));
    lines.push(format!("-A {chain} ! -d {multicast} {tail} -j MASQUERADE"));
    lines.extend(
        nets.iter().map(|net| {
            format!("-A {POSTROUTING} -s {} {tail} -j {chain}", IpNet::from(net.addr()))
        }),
    );
    lines
}

/// Whether all of a container's addresses lead to its chain, and the chain has a rule for each and one more.
pub(super) fn is_there(nft: &mut Nft, owner: Owner<'_>, addresses: &[IpNet]) -> Result<bool> {
    let name = chain(owner.network, owner.container_id);
    for table in NAT {
        let wanted = addresses.iter().filter(|net| table.is_for(net.addr())).count();
        let is_enough =
            |jumps: usize, rules: usize| wanted == 0 || (jumps >= wanted && rules > wanted);
        let jumps =
            table.rules(nft, POSTROUTING, |rule| rule.jump_target.as_deref() == Some(&name))?.len();
        if is_enough(jumps, table.rules(nft, &name, |_| true)?.len()) {
            continue;
        }
        let Some(legacy) = table.legacy() else { return Ok(false) };
        let (saved, start) = (legacy.save()?, format!("-A {name} "));
        let jumps = saved.lines().filter(|line| jump_target(line) == Some(&name)).count();
        if !is_enough(jumps, saved.lines().filter(|line| line.starts_with(&start)).count()) {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn remove(nft: &mut Nft, owner: Owner<'_>) -> Result<()> {
    iptables::remove_chain(nft, NAT, &[POSTROUTING], &chain(owner.network, owner.container_id))
}

/// GC.
pub(super) fn remove_stale(nft: &mut Nft, stale: &Stale<'_>) -> Result<()> {
    let valid: Vec<String> =
        stale.valid_attachments().iter().map(|a| chain(stale.network(), &a.container_id)).collect();
    iptables::remove_stale_chains(
        nft,
        NAT,
        POSTROUTING,
        "CNI-",
        &comment_start(stale.network()),
        &valid,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner<'_> = Owner { network: "net", container_id: "id", ifname: "eth0" };

    #[test]
    fn rules_are_those_that_the_go_plugins_make() {
        let text = lines(OWNER, &["10.1.0.5/16".parse().unwrap()], "224.0.0.0/4").join("\n");
        // echo -n netid | sha512sum
        let expected = r#":CNI-30e7440e95deb2a63c98a3df - [0:0]
-A CNI-30e7440e95deb2a63c98a3df -d 10.1.0.0/16 -m comment --comment "name: \"net\" id: \"id\"" -j ACCEPT
-A CNI-30e7440e95deb2a63c98a3df ! -d 224.0.0.0/4 -m comment --comment "name: \"net\" id: \"id\"" -j MASQUERADE
-A POSTROUTING -s 10.1.0.5/32 -m comment --comment "name: \"net\" id: \"id\"" -j CNI-30e7440e95deb2a63c98a3df"#;
        assert_eq!(text, expected);
    }
}
