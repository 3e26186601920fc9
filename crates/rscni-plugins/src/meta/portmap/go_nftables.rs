//! Rules of the Go plugin's nftables backend: in the tables `cni_hostport`, one per mapping and for
//! masquerading, whose comment is the container id alone.

use ipnet::IpNet;
use rscni_linux::nft::{Family, Nft, RuleInfo, Table};

use super::config::Config;
use crate::{netfilter::nftable, plugin::Result};

/// The chains with rules of containers.
const CHAINS: [&str; 3] = [HOSTPORTS, "hostip_hostports", MASQUERADING];
const HOSTPORTS: &str = "hostports";
const MASQUERADING: &str = "masquerading";

fn table(v4: bool) -> Table {
    Table::new(if v4 { Family::Ip } else { Family::Ip6 }, "cni_hostport")
}

fn rules_of(
    nft: &mut Nft,
    table: &Table,
    chain: &str,
    container_id: &str,
) -> Result<Vec<RuleInfo>> {
    let mut rules = nft.rules(table, chain)?;
    rules.retain(|rule| rule.comment.as_deref() == Some(container_id));
    Ok(rules)
}

/// Removes the rules of a container in all networks: as for the Go plugin's own DEL, the comment
/// does not name the network.
pub(super) fn remove(nft: &mut Nft, container_id: &str) -> Result<()> {
    let tables = nft.tables()?;
    for table in [table(true), table(false)].into_iter().filter(|table| tables.contains(table)) {
        let mut found = Vec::new();
        for chain in CHAINS {
            let rules = rules_of(nft, &table, chain, container_id)?;
            found.extend(rules.iter().map(|rule| (chain, rule.handle)));
        }
        nftable::remove_rules(nft, &table, found)?;
    }
    Ok(())
}

/// Whether there are as many rules as the mappings need.
pub(super) fn exist(
    nft: &mut Nft,
    container_id: &str,
    config: &Config,
    nets: &[IpNet],
) -> Result<bool> {
    for v4 in nets.iter().map(|net| net.addr().is_ipv4()) {
        let mut count = |chain| rules_of(nft, &table(v4), chain, container_id).map(|all| all.len());
        let masqueraded = match (config.snat, config.masq_all) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => 1 + usize::from(v4),
        };
        let mappings = config.mappings.iter().filter(|mapping| mapping.is_for(v4)).count();
        if count(HOSTPORTS)? < mappings || count(MASQUERADING)? < masqueraded {
            return Ok(false);
        }
    }
    Ok(true)
}
