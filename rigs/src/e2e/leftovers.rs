//! Things of an attachment on the host, and whether they are gone.
//!
//! The bridge of a network and host-local's last address stay; they belong to the network.

use std::{net::IpAddr, path::Path};

use anyhow::{Result, ensure};
use fs_err as fs;
use xtask::program;

use super::PluginSet;

/// host-local's directories.
const NETWORKS: &str = "/var/lib/cni/networks";

/// The host side of one attachment.
pub(super) struct Host {
    network: String,
    container_id: String,
    addresses: Vec<IpAddr>,
}

impl Host {
    pub(super) fn new(network: &str, container_id: &str, addresses: Vec<IpAddr>) -> Self {
        Self { network: network.to_owned(), container_id: container_id.to_owned(), addresses }
    }

    /// Fails if a link, a reservation or a NAT entry is left; the message lists all of them.
    pub(super) fn nothing_left(&self) -> Result<()> {
        let mut left = self.links_and_addresses()?;
        left.extend(self.nat_entries()?);
        nothing(&left)
    }

    /// Like [`Self::nothing_left`], without the NAT entries.
    pub(super) fn nothing_left_but_nat(&self) -> Result<()> {
        nothing(&self.links_and_addresses()?)
    }

    /// host-local's reservations of the network.
    pub(super) fn address_files(&self) -> Result<Vec<String>> {
        let Ok(entries) = Path::new(NETWORKS).join(&self.network).read_dir() else {
            return Ok(Vec::new());
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.parse::<IpAddr>().is_ok() {
                files.push(format!("the address file {}", path.display()));
            }
        }
        Ok(files)
    }

    /// NAT rules and set elements that name the container: by its id, by its address, or by a chain
    /// of its own, which the Go plugins make with iptables. Rules for all containers may stay.
    pub(super) fn nat_entries(&self) -> Result<Vec<String>> {
        let mut entries = Vec::new();
        for command in ["nft list ruleset", "iptables-save -t nat", "ip6tables-save -t nat"] {
            let rules = program::output_of(command)?;
            let own = rules.lines().filter(|line| self.is_named_in(line));
            entries.extend(own.map(|line| format!("the NAT entry `{}`", line.trim())));
        }
        Ok(entries)
    }

    fn is_named_in(&self, line: &str) -> bool {
        let is_own_chain =
            line.contains("CNI-") && !SHARED_CHAINS.iter().any(|chain| line.contains(chain));
        let mut words = line.split(|c: char| !(c.is_ascii_hexdigit() || ".:".contains(c)));
        is_own_chain
            || line.contains(&self.container_id)
            || words.any(|word| word.parse().is_ok_and(|ip| self.addresses.contains(&ip)))
    }

    fn links_and_addresses(&self) -> Result<Vec<String>> {
        let mut left = self.address_files()?;
        let links = program::output_of("ip -o link show type veth")?;
        left.extend(links.lines().map(|link| format!("the link {link}")));
        Ok(left)
    }
}

/// Fails if a plugin of the set has left a zombie. Process 1 of the node does not reap orphans.
pub(super) fn no_zombies(set: &PluginSet) -> Result<()> {
    let plugins: Vec<_> =
        fs::read_dir(&set.directory)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc")? {
        // Not every entry is a process, and processes end.
        let Ok(stat) = fs::read_to_string(entry?.path().join("stat")) else { continue };
        let Some((name, rest)) = stat.split_once(" (").and_then(|(_, it)| it.rsplit_once(") "))
        else {
            continue;
        };
        if rest.starts_with('Z') && plugins.iter().any(|plugin| plugin == name) {
            left.push(format!("the zombie {stat}"));
        }
    }
    nothing(&left)
}

/// Chains that the Go plugins share among all containers.
const SHARED_CHAINS: [&str; 4] =
    ["CNI-HOSTPORT", "CNI-FORWARD", "CNI-ADMIN", "CNI-ISOLATION-STAGE"];

/// Removes host-local's directories and all NAT rules, so that a case does not depend on the one
/// before.
pub(super) fn forget() -> Result<()> {
    if Path::new(NETWORKS).exists() {
        fs::remove_dir_all(NETWORKS)?;
    }
    for iptables in ["iptables", "ip6tables"] {
        for operation in ["--flush", "--delete-chain"] {
            program::output_of(&format!("{iptables} -t nat {operation}"))?;
        }
    }
    program::output_of("nft flush ruleset").map(drop)
}

fn nothing(left: &[String]) -> Result<()> {
    ensure!(left.is_empty(), "left behind: {}", left.join("\nleft behind: "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_of_the_container_names_its_id_its_address_or_a_chain_of_its_own() {
        let addresses = ["10.1.0.2", "fd00::2"].map(|address| address.parse().unwrap());
        let host = Host::new("net", "default-web", addresses.into());
        for line in [
            r#"counter jump CNI-8ab3 comment "name: \"net\" id: \"other\"""#,
            r#"masquerade comment "default-web""#,
            "ip saddr 10.1.0.2 masquerade",
            "-A X -s fd00::2/128 -j MASQUERADE",
            "elements = { 10.1.0.2 }",
        ] {
            assert!(host.is_named_in(line), "{line}");
        }
        for line in [
            "ip saddr 10.1.0.20 masquerade",
            "ip6 saddr fd00::20",
            "chain POSTROUTING {",
            "-A CNI-HOSTPORT-MASQ",
            "counter jump CNI-ADMIN",
        ] {
            assert!(!host.is_named_in(line), "{line}");
        }
    }
}
