//! The legacy kernel tables of iptables, which only its own tools can read.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
};

use rscni::Error;

use super::{
    iptables_save::{SavedRule, SavedTable},
    program,
};
use crate::error::Result;

pub(crate) struct Legacy {
    program: &'static str,
    table: &'static str,
}

impl Legacy {
    /// Returns the legacy table of this name, if it is in use in this namespace.
    pub(super) fn open(v4: bool, table: &'static str) -> Option<Self> {
        let (list, program) = if v4 {
            ("ip_tables_names", "iptables-legacy")
        } else {
            ("ip6_tables_names", "ip6tables-legacy")
        };
        let names = std::fs::read_to_string(format!("/proc/net/{list}")).unwrap_or_default();
        names.lines().any(|name| name == table).then_some(Self { program, table })
    }

    pub(crate) fn saved(&self) -> Result<SavedTable> {
        let name = format!("{}-save", self.program);
        let output = Command::new(&name)
            .args(["-t", self.table])
            .stderr(Stdio::inherit())
            .output()
            .map_err(|e| {
                Error::IOFailure(format!("{name}: {e}; the host has rules that only it can read"))
            })?;
        Ok(SavedTable::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Applies lines of `iptables-restore`, all or none.
    pub(crate) fn restore(&self, lines: impl IntoIterator<Item = String>) -> Result<()> {
        program::iptables_restore(&format!("{}-restore", self.program), self.table, lines)
    }

    pub(crate) fn remove_rules(&self, is_wanted: impl Fn(&SavedRule) -> bool) -> Result<()> {
        let rules = self.saved()?.rules;
        let lines: Vec<String> =
            rules.iter().filter(|rule| is_wanted(rule)).map(deletion).collect();
        if lines.is_empty() { Ok(()) } else { self.restore(lines) }
    }

    /// Removes the chains that wanted jumps in the chain `from` lead to, and these jumps.
    pub(super) fn remove_chains(
        &self,
        from: &str,
        is_wanted: impl Fn(&SavedRule) -> bool,
    ) -> Result<()> {
        let mut jumps = self.saved()?.rules;
        jumps.retain(|rule| rule.jump_target.is_some() && rule.chain == from && is_wanted(rule));
        if jumps.is_empty() {
            return Ok(());
        }
        let chains: BTreeSet<&String> = jumps.iter().flat_map(|rule| &rule.jump_target).collect();
        let removals = chains.into_iter().flat_map(|c| [format!("-F {c}"), format!("-X {c}")]);
        self.restore(jumps.iter().map(deletion).chain(removals))
    }
}

/// Returns the line for `iptables-restore` that deletes a rule.
fn deletion(rule: &SavedRule) -> String {
    String::from_utf8_lossy(&rule.data).replacen("-A ", "-D ", 1)
}
