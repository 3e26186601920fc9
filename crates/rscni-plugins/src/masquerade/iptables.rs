//! Masquerading as the Go plugins do it with iptables: per container a chain in the table `nat`, and in `POSTROUTING`
//! a jump to it for each address.
//!
//! Adding runs `iptables-restore --noflush` once per family. Looking and removing need no process where iptables
//! stands on nftables, as it does on today's distributions: its chains are in the tables `ip nat` and `ip6 nat`. Only
//! where the old kernel tables are in use ([`Legacy`]) its own tools are run.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use ipnet::IpNet;
use rscni::{CNIResult, Error};
use rscni_linux::nft::{Family, Nft, RuleInfo, Table};

use super::go_hash;
use crate::failure::{AsFarAsPossible, Result};
use crate::owner::{Owner, Stale};

const POSTROUTING: &str = "POSTROUTING";

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

/// The families, with the program, the table, and the addresses that are left alone.
const FAMILIES: [(bool, &str, Family, &str); 2] =
    [(true, "iptables", Family::Ip, "224.0.0.0/4"), (false, "ip6tables", Family::Ip6, "ff00::/8")];

fn table(family: Family) -> Table {
    Table::new(family, "nat")
}

/// Adds chain and jumps. What an earlier ADD left is replaced.
pub(super) fn add(owner: Owner<'_>, result: &CNIResult) -> Result<()> {
    remove(&mut Nft::open()?, owner)?;
    for (v4, program, _, multicast) in FAMILIES {
        let nets: Vec<IpNet> = result.ips.iter().map(|ip| ip.address).filter(|n| n.addr().is_ipv4() == v4).collect();
        if !nets.is_empty() {
            restore(&format!("{program}-restore"), &rules(owner, &nets, multicast))?;
        }
    }
    Ok(())
}

/// The rules of a container, as `iptables-restore` reads them.
fn rules(owner: Owner<'_>, nets: &[IpNet], multicast: &str) -> String {
    let chain = chain(owner.network, owner.container_id);
    let comment = comment(owner.network, owner.container_id).replace('"', "\\\"");
    let tail = format!("-m comment --comment \"{comment}\"");
    let mut lines = vec!["*nat".to_owned(), format!(":{chain} - [0:0]")];
    lines.extend(nets.iter().map(|net| format!("-A {chain} -d {} {tail} -j ACCEPT", net.trunc())));
    lines.push(format!("-A {chain} ! -d {multicast} {tail} -j MASQUERADE"));
    lines.extend(nets.iter().map(|net| format!("-A {POSTROUTING} -s {} {tail} -j {chain}", IpNet::from(net.addr()))));
    lines.extend(["COMMIT".to_owned(), String::new()]);
    lines.join("\n")
}

/// Whether all of a container's addresses lead to its chain, and the chain has a rule for each and one more.
pub(super) fn is_there(nft: &mut Nft, owner: Owner<'_>, result: &CNIResult) -> Result<bool> {
    let name = chain(owner.network, owner.container_id);
    for (v4, _, family, _) in FAMILIES {
        let wanted = result.ips.iter().filter(|ip| ip.address.addr().is_ipv4() == v4).count();
        let is_enough = |jumps: usize, rules: usize| wanted == 0 || (jumps >= wanted && rules > wanted);
        let jumps = jumps(nft, family, |rule| rule.jump_target.as_deref() == Some(&name))?.len();
        if is_enough(jumps, nft.rules(&table(family), &name)?.len()) {
            continue;
        }
        let Some(legacy) = Legacy::in_use(v4) else { return Ok(false) };
        let (saved, start) = (legacy.save()?, format!("-A {name} "));
        let jumps = saved.lines().filter(|line| jump_target(line) == Some(&name)).count();
        if !is_enough(jumps, saved.lines().filter(|line| line.starts_with(&start)).count()) {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn remove(nft: &mut Nft, owner: Owner<'_>) -> Result<()> {
    let name = chain(owner.network, owner.container_id);
    let mut all = AsFarAsPossible::default();
    for (v4, _, family, _) in FAMILIES {
        all.step(remove_chain(nft, family, &name));
        if let Some(legacy) = Legacy::in_use(v4) {
            all.step(legacy.remove(|chain, _| chain == name));
        }
    }
    all.finish()
}

/// GC. The chain's name is a hash, so it is the comment that tells whose it is.
pub(super) fn remove_stale(nft: &mut Nft, stale: &Stale<'_>) -> Result<()> {
    let valid: Vec<String> =
        stale.valid_attachments().iter().map(|a| chain(stale.network(), &a.container_id)).collect();
    let start = comment_start(stale.network());
    let is_stale = |chain: &str| chain.starts_with("CNI-") && !valid.iter().any(|valid| valid == chain);
    let mut all = AsFarAsPossible::default();
    for (v4, _, family, _) in FAMILIES {
        let found =
            jumps(nft, family, |rule| rule.jump_target.as_deref().is_some_and(is_stale) && has_comment(rule, &start))?;
        for chain in found.into_iter().filter_map(|rule| rule.jump_target) {
            all.step(remove_chain(nft, family, &chain));
        }
        if let Some(legacy) = Legacy::in_use(v4) {
            let escaped = start.replace('"', "\\\"");
            all.step(legacy.remove(|chain, line| is_stale(chain) && line.contains(&escaped)));
        }
    }
    all.finish()
}

/// The rules of `POSTROUTING` that are wanted; none where there is no such table.
fn jumps(nft: &mut Nft, family: Family, is_wanted: impl Fn(&RuleInfo) -> bool) -> Result<Vec<RuleInfo>> {
    let mut rules = nft.rules(&table(family), POSTROUTING)?;
    rules.retain(is_wanted);
    Ok(rules)
}

/// Whether a rule of iptables has a comment that begins so: iptables keeps it as the data of a match.
fn has_comment(rule: &RuleInfo, start: &str) -> bool {
    let holds = |bytes: &[u8]| bytes.windows(start.len()).any(|window| window == start.as_bytes());
    rule.comment.as_deref().is_some_and(|comment| comment.starts_with(start))
        || rule.expressions.iter().any(|expression| holds(&expression.attributes))
}

/// Removes a chain and the jumps to it, in one transaction.
fn remove_chain(nft: &mut Nft, family: Family, name: &str) -> Result<()> {
    let table = table(family);
    if nft.chain(&table, name)?.is_none() {
        return Ok(());
    }
    let jumps = jumps(nft, family, |rule| rule.jump_target.as_deref() == Some(name))?;
    let mut transaction = nft.transaction();
    for rule in jumps {
        transaction.destroy_rule(&table, POSTROUTING, rule.handle);
    }
    transaction.flush_chain(&table, name).del_chain(&table, name);
    match transaction.commit() {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

/// The rules of a host whose iptables uses the old kernel tables, which only its own tools can read.
struct Legacy {
    program: &'static str,
}

impl Legacy {
    /// The kernel lists the old tables that are in use in this namespace.
    fn in_use(v4: bool) -> Option<Self> {
        let (list, program) =
            if v4 { ("ip_tables_names", "iptables-legacy") } else { ("ip6_tables_names", "ip6tables-legacy") };
        let names = std::fs::read_to_string(format!("/proc/net/{list}")).unwrap_or_default();
        names.lines().any(|name| name == "nat").then_some(Self { program })
    }

    /// The table `nat`, a line per rule.
    fn save(&self) -> Result<String> {
        let name = format!("{}-save", self.program);
        let output = Command::new(&name)
            .args(["-t", "nat"])
            .stderr(Stdio::inherit())
            .output()
            .map_err(|e| Error::IOFailure(format!("{name}: {e}; the host has rules that only it can read")))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Removes the chains that are wanted, judged by their name and the line of a jump to them.
    fn remove(&self, is_wanted: impl Fn(&str, &str) -> bool) -> Result<()> {
        let saved = self.save()?;
        let jumps: Vec<(&str, &str)> = saved
            .lines()
            .filter(|line| line.starts_with("-A POSTROUTING "))
            .filter_map(|line| Some((jump_target(line)?, line)))
            .filter(|(chain, line)| is_wanted(chain, line))
            .collect();
        if jumps.is_empty() {
            return Ok(());
        }
        let chains: BTreeSet<&str> = jumps.iter().map(|(chain, _)| *chain).collect();
        let mut lines = vec!["*nat".to_owned()];
        lines.extend(jumps.iter().map(|(_, line)| line.replacen("-A ", "-D ", 1)));
        lines.extend(chains.into_iter().flat_map(|chain| [format!("-F {chain}"), format!("-X {chain}")]));
        lines.extend(["COMMIT".to_owned(), String::new()]);
        restore(&format!("{}-restore", self.program), &lines.join("\n"))
    }
}

/// Where a rule of `iptables-save` jumps to.
fn jump_target(line: &str) -> Option<&str> {
    line.split(" -j ").nth(1)?.split(' ').next()
}

/// Gives rules to iptables, all at once.
fn restore(program: &str, rules: &str) -> Result<()> {
    let failed = |what: String| Error::IOFailure(format!("{program}: {what}"));
    let mut child = Command::new(program)
        .args(["--noflush", "--wait"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(format!("{e}; install iptables, or set ipMasqBackend to nftables")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes()).map_err(|e| failed(e.to_string()))?;
    }
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner<'_> = Owner { network: "net", container_id: "id", ifname: "eth0" };

    #[test]
    fn rules_are_those_that_the_go_plugins_make() {
        let text = rules(OWNER, &["10.1.0.5/16".parse().unwrap()], "224.0.0.0/4");
        // echo -n netid | sha512sum
        let expected = r#"*nat
:CNI-30e7440e95deb2a63c98a3df - [0:0]
-A CNI-30e7440e95deb2a63c98a3df -d 10.1.0.0/16 -m comment --comment "name: \"net\" id: \"id\"" -j ACCEPT
-A CNI-30e7440e95deb2a63c98a3df ! -d 224.0.0.0/4 -m comment --comment "name: \"net\" id: \"id\"" -j MASQUERADE
-A POSTROUTING -s 10.1.0.5/32 -m comment --comment "name: \"net\" id: \"id\"" -j CNI-30e7440e95deb2a63c98a3df
COMMIT
"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn the_target_of_a_jump_is_found() {
        let line = r#"-A POSTROUTING -s 10.1.0.5/32 -m comment --comment "x" -j CNI-1"#;
        assert_eq!(jump_target(line), Some("CNI-1"));
        assert_eq!(jump_target("-A POSTROUTING -s 10.0.0.1/32"), None);
    }
}
