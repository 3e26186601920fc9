//! Conditions in the language of `nft`, which only that program understands. It is run where there are any.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use rscni::Error;
use rscni_linux::nft::Nft;

use super::names::{ENTRIES, Group, table};
use crate::plugin::error::Result;

/// Has packets that meet the conditions come to the group's chain, if they do not yet.
pub(super) fn enter(nft: &mut Nft, group: &Group, conditions: &[String]) -> Result<()> {
    let (table, chain) = (table(), group.chain(true));
    let mut lines = Vec::new();
    for entry in ENTRIES {
        if !nft.rules(&table, entry)?.iter().any(|rule| rule.jump_target.as_deref() == Some(&chain))
        {
            lines.push(format!("add rule {table} {entry} {}\n", group.entry_text(conditions)));
        }
    }
    if lines.is_empty() { Ok(()) } else { run(&lines.concat(), conditions) }
}

fn run(text: &str, conditions: &[String]) -> Result<()> {
    let failed = |what: String| Error::IOFailure(format!("nft: {what}"));
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| {
            failed(format!("{e}; conditions in its language need it: install nftables"))
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes()).map_err(|e| failed(e.to_string()))?;
    }
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::InvalidNetworkConfig(format!("portmap: conditions {conditions:?}: {}", said.trim()))
        .into())
}
