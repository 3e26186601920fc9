//! What the Go plugin makes with its nftables backend: in tables `cni_hostport` of each family a rule per mapping and
//! for masquerading, whose comment is the container id alone.

use ipnet::IpNet;
use rscni_linux::nft::{Family, Nft, Table};

use super::config::Config;
use crate::plugin::error::Result;

/// The chains that have rules of containers.
const CHAINS: [&str; 3] = [HOSTPORTS, "hostip_hostports", MASQUERADING];
const HOSTPORTS: &str = "hostports";
const MASQUERADING: &str = "masquerading";

fn table(v4: bool) -> Table {
    Table::new(if v4 { Family::Ip } else { Family::Ip6 }, "cni_hostport")
}

/// Removes the rules of a container. The network is not part of the comment, as it is not for the Go plugin's own DEL.
pub(super) fn remove(nft: &mut Nft, container_id: &str) -> Result<()> {
    let tables = nft.tables()?;
    for table in [table(true), table(false)].into_iter().filter(|table| tables.contains(table)) {
        let mut found = Vec::new();
        for chain in CHAINS {
            let rules = nft.rules(&table, chain)?;
            let of_container =
                rules.iter().filter(|rule| rule.comment.as_deref() == Some(container_id));
            found.extend(of_container.map(|rule| (chain, rule.handle)));
        }
        let mut transaction = nft.transaction();
        for (chain, handle) in found {
            transaction.destroy_rule(&table, chain, handle);
        }
        transaction.commit()?;
    }
    Ok(())
}

/// Whether there are as many rules as the mappings need.
pub(super) fn is_there(
    nft: &mut Nft,
    container_id: &str,
    config: &Config,
    nets: &[IpNet],
) -> Result<bool> {
    for net in nets {
        let v4 = net.addr().is_ipv4();
        let mut count = |chain: &str| -> Result<usize> {
            let rules = nft.rules(&table(v4), chain)?;
            Ok(rules.iter().filter(|rule| rule.comment.as_deref() == Some(container_id)).count())
        };
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
