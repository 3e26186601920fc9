//! What an attachment owns on the host, and whether it is gone.
//!
//! The bridge of a network stays, as does host-local's record of the last address; neither belongs to the container.

use std::{net::IpAddr, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};

use xtask::program;

/// host-local's directories.
const NETWORKS: &str = "/var/lib/cni/networks";

/// The host's side of one attachment.
pub(super) struct Host {
    network: String,
    container_id: String,
    addresses: Vec<IpAddr>,
}

impl Host {
    pub(super) fn new(network: &str, container_id: &str, addresses: Vec<IpAddr>) -> Self {
        Self { network: network.to_owned(), container_id: container_id.to_owned(), addresses }
    }

    /// Every kind of thing, with all that is left in one message.
    pub(super) fn nothing_left(&self) -> Result<()> {
        let mut left = self.links_and_addresses()?;
        left.extend(self.nat_entries()?);
        nothing(&left)
    }

    /// Like [`Self::nothing_left`], for a handover in which the NAT entries need not go.
    pub(super) fn nothing_left_but_nat(&self) -> Result<()> {
        nothing(&self.links_and_addresses()?)
    }

    /// The files in which host-local notes the addresses it gave out.
    pub(super) fn address_files(&self) -> Result<Vec<String>> {
        let directory = PathBuf::from(NETWORKS).join(&self.network);
        let Ok(entries) = directory.read_dir() else {
            return Ok(Vec::new());
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.with_context(|| format!("list {}", directory.display()))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.parse::<IpAddr>().is_ok() {
                files.push(format!("the address file {}", path.display()));
            }
        }
        Ok(files)
    }

    /// Lines of the NAT rules and sets that name the container: by its id, by its address, or by a chain of its own
    /// as the Go plugins make with iptables. What serves all containers may stay.
    pub(super) fn nat_entries(&self) -> Result<Vec<String>> {
        let mut rules = program::capture(Command::new("nft").args(["list", "ruleset"]))?;
        for save in ["iptables-save", "ip6tables-save"] {
            rules.push_str(&program::capture(Command::new(save).args(["-t", "nat"]))?);
        }
        Ok(rules
            .lines()
            .filter(|line| self.is_named_in(line))
            .map(|line| format!("the NAT entry `{}`", line.trim()))
            .collect())
    }

    fn is_named_in(&self, line: &str) -> bool {
        let is_own_chain =
            line.contains("CNI-") && !SHARED_CHAINS.iter().any(|chain| line.contains(chain));
        let mut words =
            line.split(|letter: char| !(letter.is_ascii_hexdigit() || ".:".contains(letter)));
        is_own_chain
            || line.contains(&self.container_id)
            || words.any(|word| word.parse().is_ok_and(|ip| self.addresses.contains(&ip)))
    }

    fn links_and_addresses(&self) -> Result<Vec<String>> {
        let mut left = self.address_files()?;
        let links =
            program::capture(Command::new("ip").args(["-o", "link", "show", "type", "veth"]))?;
        left.extend(links.lines().map(|link| format!("the link {link}")));
        Ok(left)
    }
}

/// Chains that the Go plugins make once for all containers.
const SHARED_CHAINS: [&str; 4] =
    ["CNI-HOSTPORT", "CNI-FORWARD", "CNI-ADMIN", "CNI-ISOLATION-STAGE"];

/// Empties host-local's directories and the NAT tables of the private node, so that a case does not answer for the one
/// before it.
pub(super) fn forget() -> Result<()> {
    match std::fs::remove_dir_all(NETWORKS) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context("empty host-local");
        }
        _ => {}
    }
    for iptables in ["iptables", "ip6tables"] {
        for what in ["--flush", "--delete-chain"] {
            program::capture(Command::new(iptables).args(["-t", "nat", what]))?;
        }
    }
    program::capture(Command::new("nft").args(["flush", "ruleset"]))?;
    Ok(())
}

fn nothing(left: &[String]) -> Result<()> {
    ensure!(left.is_empty(), "left behind: {}", left.join("\nleft behind: "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_the_container_s_if_it_names_its_id_its_address_or_a_chain_of_its_own() {
        let host = Host::new(
            "net",
            "default-web",
            vec!["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        );
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
