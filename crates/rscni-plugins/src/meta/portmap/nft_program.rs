//! Conditions in the language of `nft`. Only that program understands them, so it is run for them.

use rscni::Error;
use rscni_linux::nft::Nft;

use super::names::{ENTRIES, Group, table};
use crate::{netfilter::program, plugin::Result};

/// Adds the rules that send packets which meet the conditions to the group's chain, if missing.
pub(super) fn enter(nft: &mut Nft, group: &Group, conditions: &[String]) -> Result<()> {
    let (table, chain) = (table(), group.chain(true));
    let mut lines = Vec::new();
    for entry in ENTRIES {
        let rules = nft.rules(&table, entry)?;
        if !rules.iter().any(|rule| rule.jump_target.as_deref() == Some(&chain)) {
            lines.push(format!("add rule {table} {entry} {}\n", group.entry_text(conditions)));
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    let hint = "conditions in its language need it: install nftables";
    program::run("nft", &["-f", "-"], &lines.concat(), hint)?.map_err(|stderr| {
        let problem = format!("portmap: conditions {conditions:?}: {stderr}");
        Error::InvalidNetworkConfig(problem).into()
    })
}
