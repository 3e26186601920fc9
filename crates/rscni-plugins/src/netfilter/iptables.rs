//! Rules as iptables keeps them: for configurations that ask for iptables, and for what the Go plugins made with it.
//!
//! Adding runs `iptables-restore --noflush` once per family ([`IpTable::restore`]). Looking and removing need no process
//! where iptables stands on nftables, as it does on today's distributions: its tables are nftables' tables `ip nat`,
//! `ip6 filter` and so on. Only where the old kernel tables are in use ([`Legacy`]) its own tools are run.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Write,
    net::IpAddr,
    process::{Command, Stdio},
};

use rscni::Error;
use rscni_linux::nft::{Family, Nft, Policy, RuleInfo, Table};

use crate::plugin::error::{BestEffort, Result};

/// A table of iptables or of ip6tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IpTable {
    pub(crate) v4: bool,
    name: &'static str,
}

impl IpTable {
    /// The table of that name in both families.
    pub(crate) const fn of_both_families(name: &'static str) -> [Self; 2] {
        [Self { v4: true, name }, Self { v4: false, name }]
    }

    /// Whether rules for that address belong here.
    pub(crate) fn is_for(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.v4
    }

    /// The same table as nftables shows it.
    fn table(self) -> Table {
        Table::new(if self.v4 { Family::Ip } else { Family::Ip6 }, self.name)
    }

    /// Whether nftables has a chain of iptables of that name.
    pub(crate) fn has_chain(self, nft: &mut Nft, chain: &str) -> Result<bool> {
        Ok(nft.chain(&self.table(), chain)?.is_some())
    }

    /// Whether a chain of iptables drops what no rule of it decides on, as nftables shows it.
    pub(crate) fn drops(self, nft: &mut Nft, chain: &str) -> Result<bool> {
        Ok(nft.chain(&self.table(), chain)?.is_some_and(|chain| chain.policy == Some(Policy::Drop)))
    }

    /// The names of all chains, as nftables shows them.
    pub(crate) fn chains(self, nft: &mut Nft) -> Result<Vec<String>> {
        Ok(nft.chains(&self.table())?.into_iter().map(|chain| chain.name).collect())
    }

    /// The rules of a chain that are wanted, as nftables shows them; none where there is no such chain.
    pub(crate) fn rules(
        self,
        nft: &mut Nft,
        chain: &str,
        is_wanted: impl Fn(&RuleInfo) -> bool,
    ) -> Result<Vec<RuleInfo>> {
        let mut rules = nft.rules(&self.table(), chain)?;
        rules.retain(is_wanted);
        Ok(rules)
    }

    /// Removes rules of a chain by their handles, in one transaction; by nftables only.
    pub(crate) fn remove_rules(self, nft: &mut Nft, chain: &str, handles: &[u64]) -> Result<()> {
        let table = self.table();
        let mut transaction = nft.transaction();
        for handle in handles {
            transaction.destroy_rule(&table, chain, *handle);
        }
        Ok(transaction.commit()?)
    }

    /// Removes a chain, and the jumps to it in the chains `from`, in one transaction; by nftables only.
    pub(crate) fn remove_chain(self, nft: &mut Nft, from: &[&str], chain: &str) -> Result<()> {
        let table = self.table();
        if !self.has_chain(nft, chain)? {
            return Ok(());
        }
        let mut jumps = Vec::new();
        for parent in from {
            let found =
                self.rules(nft, parent, |rule| rule.jump_target.as_deref() == Some(chain))?;
            jumps.extend(found.into_iter().map(|rule| (*parent, rule.handle)));
        }
        let mut transaction = nft.transaction();
        for (parent, handle) in jumps {
            transaction.destroy_rule(&table, parent, handle);
        }
        transaction.flush_chain(&table, chain).del_chain(&table, chain);
        match transaction.commit() {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The old kernel table of this name, if it is in use in this namespace.
    pub(crate) fn legacy(self) -> Option<Legacy> {
        let (list, program) = if self.v4 {
            ("ip_tables_names", "iptables-legacy")
        } else {
            ("ip6_tables_names", "ip6tables-legacy")
        };
        let names = std::fs::read_to_string(format!("/proc/net/{list}")).unwrap_or_default();
        names.lines().any(|name| name == self.name).then_some(Legacy { program, table: self.name })
    }

    /// Gives lines to `iptables-restore --noflush`, all at once: what is there stays, but a chain of the users that a
    /// line `:CHAIN` names is emptied.
    pub(crate) fn restore(self, lines: impl IntoIterator<Item = String>) -> Result<()> {
        let program = if self.v4 { "iptables-restore" } else { "ip6tables-restore" };
        restore(program, self.name, lines)
    }
}

/// The rules of a host whose iptables uses the old kernel tables, which only its own tools can read.
pub(crate) struct Legacy {
    program: &'static str,
    table: &'static str,
}

impl Legacy {
    /// The table, a line per rule.
    pub(crate) fn save(&self) -> Result<String> {
        let name = format!("{}-save", self.program);
        let output = Command::new(&name)
            .args(["-t", self.table])
            .stderr(Stdio::inherit())
            .output()
            .map_err(|e| {
                Error::IOFailure(format!("{name}: {e}; the host has rules that only it can read"))
            })?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Gives lines to the tool that changes the table, all at once.
    pub(crate) fn restore(&self, lines: impl IntoIterator<Item = String>) -> Result<()> {
        restore(&format!("{}-restore", self.program), self.table, lines)
    }

    /// Removes the chains that are wanted, judged by their name and the line of a jump to them in the chains `from`.
    pub(crate) fn remove_chains(
        &self,
        from: &[&str],
        is_wanted: impl Fn(&str, &str) -> bool,
    ) -> Result<()> {
        let saved = self.save()?;
        let is_from =
            |line: &str| from.iter().any(|chain| line.starts_with(&format!("-A {chain} ")));
        let jumps: Vec<(&str, &str)> = saved
            .lines()
            .filter(|line| is_from(line))
            .filter_map(|line| Some((jump_target(line)?, line)))
            .filter(|(chain, line)| is_wanted(chain, line))
            .collect();
        if jumps.is_empty() {
            return Ok(());
        }
        let chains: BTreeSet<&str> = jumps.iter().map(|(chain, _)| *chain).collect();
        let mut lines: Vec<String> =
            jumps.iter().map(|(_, line)| line.replacen("-A ", "-D ", 1)).collect();
        lines.extend(
            chains.into_iter().flat_map(|chain| [format!("-F {chain}"), format!("-X {chain}")]),
        );
        self.restore(lines)
    }
}

/// Whether iptables takes it for the name of a chain, and for nothing else.
pub(crate) fn is_chain_name(name: &str) -> bool {
    (1..=LONGEST_CHAIN).contains(&name.len())
        && !name.starts_with(['-', '!'])
        && !name.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, '"' | '\\'))
}

/// The longest name of a chain of iptables.
pub(crate) const LONGEST_CHAIN: usize = 28;

/// Looks for the program that adds rules.
///
/// # Errors
/// What to do where there is none.
pub(crate) fn find() -> std::result::Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&path).any(|dir| dir.join("iptables-restore").is_file());
    if is_there {
        Ok(())
    } else {
        Err("there is no iptables-restore in PATH: install iptables".to_owned())
    }
}

/// Keeps other calls on this host from adding to chains that all share, until it is dropped: iptables has no way to
/// add what is missing and nothing else.
///
/// The lock is on the network namespace itself, so it is the same for all who change its rules, and leaves no file.
pub(crate) fn lock() -> Result<File> {
    let path = "/proc/thread-self/ns/net";
    let locked = File::open(path).and_then(|namespace| {
        crate::state::state_file::lock(&namespace)?;
        Ok(namespace)
    });
    Ok(locked.map_err(|e| Error::IOFailure(format!("lock {path}: {e}")))?)
}

/// Removes a chain and the jumps to it in the chains `from`, in both families, from nftables and from the old tables.
pub(crate) fn remove_chain(
    nft: &mut Nft,
    tables: [IpTable; 2],
    from: &[&str],
    name: &str,
) -> Result<()> {
    let mut all = BestEffort::default();
    for table in tables {
        all.step(table.remove_chain(nft, from, name));
        if let Some(legacy) = table.legacy() {
            all.step(legacy.remove_chains(from, |chain, _| chain == name));
        }
    }
    all.finish()
}

/// GC: removes the chains whose jump in the chain `from` has a comment that begins so, unless they are `valid`. A chain's
/// name is a hash, so it is the comment that tells whose it is.
pub(crate) fn remove_stale_chains(
    nft: &mut Nft,
    tables: [IpTable; 2],
    from: &str,
    prefix: &str,
    comment: &str,
    valid: &[String],
) -> Result<()> {
    let is_stale =
        |chain: &str| chain.starts_with(prefix) && !valid.iter().any(|valid| valid == chain);
    let escaped = escaped(comment);
    let mut all = BestEffort::default();
    for table in tables {
        let found = table.rules(nft, from, |rule| {
            rule.jump_target.as_deref().is_some_and(is_stale) && has_comment(rule, comment)
        })?;
        for chain in found.into_iter().filter_map(|rule| rule.jump_target) {
            all.step(table.remove_chain(nft, &[from], &chain));
        }
        if let Some(legacy) = table.legacy() {
            all.step(
                legacy.remove_chains(&[from], |chain, line| {
                    is_stale(chain) && line.contains(&escaped)
                }),
            );
        }
    }
    all.finish()
}

/// Whether a rule of iptables has a comment that begins so: iptables keeps it as the data of a match.
fn has_comment(rule: &RuleInfo, start: &str) -> bool {
    let holds = |bytes: &[u8]| bytes.windows(start.len()).any(|window| window == start.as_bytes());
    rule.comment.as_deref().is_some_and(|comment| comment.starts_with(start))
        || rule.expressions.iter().any(|expression| holds(&expression.attributes))
}

/// A comment as an argument in a line for `iptables-restore`.
pub(crate) fn comment(text: &str) -> String {
    format!("-m comment --comment \"{}\"", escaped(text))
}

/// Text as it stands between the quotes of a comment in the lines of `iptables-save` and `iptables-restore`.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', r#"\""#)
}

/// Where a rule of `iptables-save` jumps to. What stands between quotes, such as a comment, says nothing of it.
pub(crate) fn jump_target(line: &str) -> Option<&str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let mut words = line.split(|c| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match c {
            '\\' => is_escaped = !was_escaped,
            '"' if !was_escaped => is_quoted = !is_quoted,
            _ => {}
        }
        c == ' ' && !is_quoted
    });
    words.find(|word| *word == "-j")?;
    words.next()
}

/// Gives rules to a program of iptables, all at once.
fn restore(program: &str, table: &str, lines: impl IntoIterator<Item = String>) -> Result<()> {
    let failed = |what: String| Error::IOFailure(format!("{program}: {what}"));
    let mut text = format!("*{table}\n");
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    text.push_str("COMMIT\n");
    let mut child = Command::new(program)
        .args(["--noflush", "--wait"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(format!("{e}; install iptables, or set the backend to nftables")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes()).map_err(|e| failed(e.to_string()))?;
    }
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()).into())
}

/// See [`fuzzing`](crate::fuzzing::saved).
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(target) = jump_target(&text) {
        assert!(text.contains(&format!("-j {target}")));
    }
    assert_eq!(jump_target(&format!("-A FORWARD {} -j CNI-1", comment(&text))), Some("CNI-1"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_of_a_jump_is_found() {
        let line = r#"-A POSTROUTING -s 10.1.0.5/32 -m comment --comment "x" -j CNI-1"#;
        assert_eq!(jump_target(line), Some("CNI-1"));
        assert_eq!(jump_target("-A POSTROUTING -s 10.0.0.1/32"), None);
        let comment = comment(r#"was -j CNI-2, \ and " -j CNI-3 before"#);
        assert_eq!(jump_target(&format!("-A POSTROUTING {comment} -j ACCEPT")), Some("ACCEPT"));
    }
}
