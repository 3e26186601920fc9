//! Tables of iptables, for configurations that ask for iptables, and for rules of the Go plugins.
//!
//! Adding runs `iptables-restore --noflush` once per family ([`IpTable::restore`]). Reading and
//! removing need no process where iptables is based on nftables, as on today's distributions: its
//! tables are the nftables tables `ip nat`, `ip6 filter` and so on. iptables' own tools are run
//! only if the legacy kernel tables are in use ([`Legacy`]).

use std::{fs::File, net::IpAddr};

use rscni::Error;
use rscni_linux::nft::{Family, Nft, Policy, Table};

use super::{
    iptables_legacy::Legacy,
    iptables_save::{SavedChain, SavedRule, SavedTable},
    nftable, program,
};
use crate::error::{Result, unless_absent};

/// A table of iptables or ip6tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IpTable {
    pub(crate) v4: bool,
    name: &'static str,
}

impl IpTable {
    pub(crate) const fn of_both_families(name: &'static str) -> [Self; 2] {
        [Self { v4: true, name }, Self { v4: false, name }]
    }

    pub(crate) fn is_for(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.v4
    }

    pub(crate) fn program(self) -> &'static str {
        if self.v4 { "iptables" } else { "ip6tables" }
    }

    fn table(self) -> Table {
        Table::new(if self.v4 { Family::Ip } else { Family::Ip6 }, self.name)
    }

    pub(crate) fn has_chain(self, nft: &mut Nft, chain: &str) -> Result<bool> {
        Ok(nft.chain(&self.table(), chain)?.is_some())
    }

    pub(crate) fn chains(self, nft: &mut Nft) -> Result<Vec<String>> {
        Ok(nft.chains(&self.table())?.into_iter().map(|chain| chain.name).collect())
    }

    /// Reads the existing ones of `chains`, and the rules of the chains `rules_of`, from nftables.
    pub(crate) fn saved(
        self,
        nft: &mut Nft,
        chains: &[&str],
        rules_of: &[&str],
    ) -> Result<SavedTable> {
        let mut saved = SavedTable::default();
        for name in chains {
            let found = nft.chain(&self.table(), name)?;
            saved.chains.extend(found.map(|chain| SavedChain {
                drops: chain.policy == Some(Policy::Drop),
                name: chain.name,
            }));
        }
        for chain in rules_of {
            if saved.has_chain(chain) || !chains.contains(chain) {
                let rules = nft.rules(&self.table(), chain)?;
                saved.rules.extend(rules.into_iter().map(|r| SavedRule::of_nftables(chain, r)));
            }
        }
        Ok(saved)
    }

    /// Removes the wanted rules of a chain from nftables in one transaction.
    pub(crate) fn remove_rules(
        self,
        nft: &mut Nft,
        chain: &str,
        is_wanted: impl Fn(&SavedRule) -> bool,
    ) -> Result<()> {
        let mut handles = Vec::new();
        for rule in nft.rules(&self.table(), chain)? {
            let handle = rule.handle;
            handles.extend(is_wanted(&SavedRule::of_nftables(chain, rule)).then_some(handle));
        }
        nftable::remove_rules(nft, &self.table(), handles.into_iter().map(|h| (chain, h)))
    }

    /// Removes a chain and the jumps to it in the chain `from` from nftables in one transaction.
    pub(super) fn remove_chain(self, nft: &mut Nft, from: &str, chain: &str) -> Result<()> {
        let table = self.table();
        if !self.has_chain(nft, chain)? {
            return Ok(());
        }
        let mut jumps = nft.rules(&table, from)?;
        jumps.retain(|rule| rule.jump_target.as_deref() == Some(chain));
        let mut transaction = nft.transaction();
        for jump in jumps {
            transaction.destroy_rule(&table, from, jump.handle);
        }
        transaction.flush_chain(&table, chain).del_chain(&table, chain);
        unless_absent(transaction.commit())
    }

    /// Returns the legacy table of this name, if it is in use in this namespace.
    pub(crate) fn legacy(self) -> Option<Legacy> {
        Legacy::open(self.v4, self.name)
    }

    /// Applies lines of `iptables-restore --noflush`, all or none. Existing rules stay, except that
    /// a line `:CHAIN` empties a chain that is not built in.
    pub(crate) fn restore(self, lines: impl IntoIterator<Item = String>) -> Result<()> {
        program::iptables_restore(&format!("{}-restore", self.program()), self.name, lines)
    }
}

pub(crate) fn is_chain_name(name: &str) -> bool {
    (1..=LONGEST_CHAIN).contains(&name.len())
        && !name.starts_with(['-', '!'])
        && !name.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, '"' | '\\'))
}

/// The maximum length of the name of a chain of iptables.
pub(crate) const LONGEST_CHAIN: usize = 28;

/// Checks that `iptables-restore` is installed.
///
/// # Errors
/// A text that says what to install.
pub(crate) fn find() -> std::result::Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .any(|dir| dir.join("iptables-restore").is_file())
        .then_some(())
        .ok_or_else(|| "there is no iptables-restore in PATH: install iptables".to_owned())
}

/// Blocks other calls on this host until the result is dropped, because iptables cannot add the
/// missing rules of a shared chain atomically.
///
/// The lock is on the network namespace itself: all calls that change its rules share it, and it
/// leaves no file.
pub(crate) fn lock() -> Result<File> {
    let path = "/proc/thread-self/ns/net";
    let locked = File::open(path).and_then(|namespace| {
        crate::state::state_file::lock(&namespace)?;
        Ok(namespace)
    });
    Ok(locked.map_err(|e| Error::IOFailure(format!("lock {path}: {e}")))?)
}
