//! Host ports as the Go plugin makes them with iptables: per container a chain in the table `nat`, which is reached from
//! `CNI-HOSTPORT-DNAT` by rules with up to 15 ports each, and chains that mark and masquerade for all of them.

use ipnet::IpNet;
use rscni_linux::nft::Nft;

use super::config::{Config, Mapping, Protocol};
use crate::failure::{AsFarAsPossible, Result, differs};
use crate::iptables::{self, IpTable, jump_target};
use crate::owner::{Owner, Stale, go_hash};

const NAT: [IpTable; 2] = IpTable::of_both_families("nat");
/// Where packets to the host are sent on.
const DNAT: &str = "CNI-HOSTPORT-DNAT";
/// Sets the mark of packets that are to be masqueraded.
const SET_MARK: &str = "CNI-HOSTPORT-SETMARK";
/// Masquerades packets with the mark.
const MASQ: &str = "CNI-HOSTPORT-MASQ";
/// Old releases of the Go plugin had chains for this too.
const OLD_SNAT: &str = "CNI-HOSTPORT-SNAT";
const CONTAINER: &str = "CNI-DN-";
const OLD_CONTAINER: &str = "CNI-SN-";
/// `multiport` takes no more.
const PORTS_IN_A_RULE: usize = 15;
/// The longest comment that iptables takes.
const LONGEST: usize = 255;

/// The chain of a container. The interface is not part of the name, as it never was.
fn chain(prefix: &str, network: &str, container_id: &str) -> String {
    format!("{prefix}{}", go_hash(&format!("{network}{container_id}"), 28 - prefix.len()))
}

fn comment_start(network: &str) -> String {
    format!("dnat name: \"{network}\" id: \"")
}

fn comment(owner: Owner<'_>) -> String {
    let mut comment = format!("{}{}\"", comment_start(owner.network), owner.container_id);
    comment.truncate(LONGEST);
    iptables::comment(&comment)
}

/// Adds chain and jumps. What an earlier ADD left is replaced.
pub(super) fn add(owner: Owner<'_>, config: &Config, nets: &[IpNet]) -> Result<()> {
    let mut nft = Nft::open()?;
    remove(&mut nft, owner)?;
    for net in nets {
        let Some(table) = NAT.into_iter().find(|table| table.is_for(net.addr())) else { continue };
        let mut attempt = |legacy: bool| {
            let there = There::look(&mut nft, table, legacy)?;
            table.restore(shared(&there, config).into_iter().chain(of_container(owner, config, *net)))
        };
        // What is there is seen in one kind of tables, and the program may be of the other; or another call was faster
        // with what all containers share. Then it refuses all, and is asked again.
        let first = table.legacy().is_some();
        attempt(first).or_else(|_| attempt(false))?;
    }
    Ok(())
}

/// What is there of what all containers share.
struct There {
    chains: Vec<&'static str>,
    /// Chains of the system that lead to ours.
    jumps: Vec<(&'static str, &'static str)>,
    /// What the rules of the chains that mark and masquerade have in them.
    rules: Vec<(&'static str, Vec<u8>)>,
}

const CHAINS: [&str; 3] = [DNAT, SET_MARK, MASQ];
const JUMPS: [(&str, &str); 3] = [("PREROUTING", DNAT), ("OUTPUT", DNAT), ("POSTROUTING", MASQ)];

impl There {
    fn look(nft: &mut Nft, table: IpTable, legacy: bool) -> Result<Self> {
        let mut there = Self { chains: Vec::new(), jumps: Vec::new(), rules: Vec::new() };
        if let Some(legacy) = table.legacy().filter(|_| legacy) {
            let saved = legacy.save()?;
            there.chains = CHAINS.into_iter().filter(|c| saved.contains(&format!("\n:{c} "))).collect();
            let leads = |from: &str, to: &str| {
                let start = format!("-A {from} ");
                saved.lines().any(|line| line.starts_with(&start) && jump_target(line) == Some(to))
            };
            there.jumps = JUMPS.into_iter().filter(|(from, to)| leads(from, to)).collect();
            for line in saved.lines() {
                let chain = [SET_MARK, MASQ].into_iter().find(|chain| line.starts_with(&format!("-A {chain} ")));
                there.rules.extend(chain.map(|chain| (chain, line.as_bytes().to_vec())));
            }
            return Ok(there);
        }
        for chain in CHAINS {
            if table.has_chain(nft, chain)? {
                there.chains.push(chain);
            }
        }
        for (from, to) in JUMPS {
            if !table.rules(nft, from, |rule| rule.jump_target.as_deref() == Some(to))?.is_empty() {
                there.jumps.push((from, to));
            }
        }
        for chain in [SET_MARK, MASQ] {
            for rule in table.rules(nft, chain, |_| true)? {
                let bytes = rule.expressions.iter().flat_map(|e| e.attributes.iter().copied()).collect();
                there.rules.push((chain, bytes));
            }
        }
        Ok(there)
    }

    /// Whether a rule of the chain is about this mark: it has its text or, as the kernel keeps it, its four bytes.
    fn has_mark(&self, chain: &str, mark: u32) -> bool {
        let (text, bytes) = (format!("{mark:#x}/{mark:#x}"), mark.to_ne_bytes());
        let holds = |rule: &[u8], part: &[u8]| rule.windows(part.len()).any(|window| window == part);
        self.rules.iter().any(|(of, rule)| *of == chain && (holds(rule, text.as_bytes()) || holds(rule, &bytes)))
    }
}

/// What is missing of what all containers share. A chain that another call has just made is an error, and not emptied.
fn shared(there: &There, config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    let own_mark = config.snat && config.set_mark_chain.is_none();
    let wanted = |chain: &str| chain == DNAT || own_mark;
    lines.extend(CHAINS.iter().filter(|c| wanted(c) && !there.chains.contains(c)).map(|chain| format!("-N {chain}")));
    if own_mark {
        let mark = config.mark();
        let (text, note) = (format!("{mark:#x}/{mark:#x}"), iptables::comment("CNI portfwd masquerade mark"));
        for (chain, rule) in [
            (SET_MARK, format!("{note} -j MARK --set-xmark {text}")),
            (MASQ, format!("-m mark --mark {text} -j MASQUERADE")),
        ] {
            if !there.has_mark(chain, mark) {
                lines.push(format!("-A {chain} {rule}"));
            }
        }
    }
    for (from, to) in JUMPS.iter().filter(|jump| wanted(jump.1) && !there.jumps.contains(jump)) {
        lines.push(if *to == MASQ {
            // Before the rules of `ipMasq`, which accept what stays in a subnet.
            format!("-I {from} 1 {} -j {to}", iptables::comment("CNI portfwd requiring masquerade"))
        } else {
            format!("-A {from} -m addrtype --dst-type LOCAL -j {to}")
        });
    }
    lines
}

/// The rules of a container, as `iptables-restore` reads them.
fn of_container(owner: Owner<'_>, config: &Config, net: IpNet) -> Vec<String> {
    let chain = chain(CONTAINER, owner.network, owner.container_id);
    let v4 = net.addr().is_ipv4();
    let mut lines = vec![format!(":{chain} - [0:0]")];
    let conditions: Vec<String> = config.conditions(v4).iter().map(|word| quoted(word)).collect();
    let conditions = conditions.join(" ");
    for (protocol, ports) in jumps(&config.mappings) {
        let (note, protocol) = (comment(owner), protocol.name());
        lines.push(format!(
            "-A {DNAT} {note} -m multiport -p {protocol} --destination-ports {ports} {conditions} -j {chain}"
        ));
    }
    let set_mark = quoted(config.set_mark_chain.as_deref().unwrap_or(SET_MARK));
    let to = if v4 { format!("{}", net.addr()) } else { format!("[{}]", net.addr()) };
    for mapping in config.mappings.iter().filter(|mapping| mapping.is_for(v4)) {
        let address = mapping.address().map(|address| format!(" -d {address}")).unwrap_or_default();
        let base = format!("-A {chain} -p {} --dport {}{address}", mapping.protocol.name(), mapping.host_port);
        let sources = sources(config, net);
        lines.extend(sources.iter().map(|source| format!("{base} -s {source} -j {set_mark}")));
        lines.push(format!("{base} -j DNAT --to-destination {to}:{}", mapping.container_port));
    }
    lines
}

/// The nets from which packets are masqueraded.
fn sources(config: &Config, net: IpNet) -> Vec<String> {
    let v4 = net.addr().is_ipv4();
    match (config.snat, config.masq_all) {
        (false, _) => Vec::new(),
        (true, true) => vec![if v4 { "0.0.0.0/0".to_owned() } else { "::/0".to_owned() }],
        (true, false) => {
            let localhost = v4.then(|| "127.0.0.1".to_owned());
            [Some(net.trunc().to_string()), localhost].into_iter().flatten().collect()
        }
    }
}

/// The host ports as `multiport` takes them. As with the Go plugin those of the other family are among them.
fn jumps(mappings: &[Mapping]) -> Vec<(Protocol, String)> {
    let mut jumps = Vec::new();
    for protocol in [Protocol::Sctp, Protocol::Tcp, Protocol::Udp] {
        let ports: Vec<String> =
            mappings.iter().filter(|m| m.protocol == protocol).map(|m| m.host_port.to_string()).collect();
        jumps.extend(ports.chunks(PORTS_IN_A_RULE).map(|ports| (protocol, ports.join(","))));
    }
    jumps
}

/// A word as an argument in a line for `iptables-restore`.
fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

/// CHECK: the first thing that is missing.
pub(super) fn check(nft: &mut Nft, owner: Owner<'_>, config: &Config, nets: &[IpNet]) -> Result<()> {
    let name = chain(CONTAINER, owner.network, owner.container_id);
    for net in nets {
        let Some(table) = NAT.into_iter().find(|table| table.is_for(net.addr())) else { continue };
        let is_of = |line: &String| line.starts_with(&format!("-A {name} "));
        let wanted = of_container(owner, config, *net).iter().filter(|line| is_of(line)).count();
        let wanted_jumps = jumps(&config.mappings).len();
        let mut found = (
            There::look(nft, table, false)?,
            table.rules(nft, &name, |_| true)?.len(),
            table.rules(nft, DNAT, |rule| rule.jump_target.as_deref() == Some(&name))?.len(),
        );
        if let Some(legacy) = table.legacy().filter(|_| found.1 == 0) {
            let saved = legacy.save()?;
            let count = |start: String| saved.lines().filter(move |line| line.starts_with(&start));
            found = (
                There::look(nft, table, true)?,
                count(format!("-A {name} ")).count(),
                count(format!("-A {DNAT} ")).filter(|line| jump_target(line) == Some(&name)).count(),
            );
        }
        let (there, rules, jumps) = found;
        let family = if table.v4 { "iptables" } else { "ip6tables" };
        if rules < wanted {
            return Err(differs(format!("host ports: {rules} of {wanted} rules are in chain {name} of {family}")));
        }
        if jumps < wanted_jumps {
            let what = format!("{jumps} of {wanted_jumps} rules of {DNAT} lead to {name} of {family}");
            return Err(differs(format!("host ports: {what}")));
        }
        if let Some(missing) = shared(&there, config).first() {
            return Err(differs(format!("host ports: {family} lacks {missing}")));
        }
    }
    Ok(())
}

pub(super) fn remove(nft: &mut Nft, owner: Owner<'_>) -> Result<()> {
    let mut all = AsFarAsPossible::default();
    for (prefix, from) in [(CONTAINER, DNAT), (OLD_CONTAINER, OLD_SNAT)] {
        all.step(iptables::remove_chain(nft, NAT, &[from], &chain(prefix, owner.network, owner.container_id)));
    }
    all.finish()
}

/// GC. The chain's name is a hash, so it is the comment that tells whose it is.
pub(super) fn remove_stale(nft: &mut Nft, stale: &Stale<'_>) -> Result<()> {
    let valid: Vec<String> =
        stale.valid_attachments().iter().map(|a| chain(CONTAINER, stale.network(), &a.container_id)).collect();
    let start = comment_start(stale.network());
    let is_stale = |chain: &str| chain.starts_with(CONTAINER) && !valid.iter().any(|valid| valid == chain);
    let mut all = AsFarAsPossible::default();
    for table in NAT {
        let found = table.rules(nft, DNAT, |rule| {
            rule.jump_target.as_deref().is_some_and(is_stale) && iptables::has_comment(rule, &start)
        })?;
        for chain in found.into_iter().filter_map(|rule| rule.jump_target) {
            all.step(table.remove_chain(nft, &[DNAT], &chain));
        }
        if let Some(legacy) = table.legacy() {
            let escaped = iptables::escaped(&start);
            all.step(legacy.remove_chains(&[DNAT], |chain, line| is_stale(chain) && line.contains(&escaped)));
        }
    }
    all.finish()
}
