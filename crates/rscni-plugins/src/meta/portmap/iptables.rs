//! Host ports as the Go plugin makes them with iptables: per container a chain in the table `nat`, which is reached from
//! `CNI-HOSTPORT-DNAT` by rules with up to 15 ports each, and chains that mark and masquerade for all of them.

use crate::plugin::Call;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use rscni_linux::nft::{Nft, RuleInfo};

use super::config::{Config, Mapping, Protocol};
use crate::{
    netfilter::iptables::{self, IpTable, jump_target},
    plugin::error::{BestEffort, Result, differs},
    state::owner::{Owner, Stale, go_hash},
};

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
const LOCALHOST_V6: &str = "::1";
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
            table.restore(
                shared(&there, config).into_iter().chain(of_container(owner, config, *net)),
            )
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
            there.chains =
                CHAINS.into_iter().filter(|c| saved.contains(&format!("\n:{c} "))).collect();
            let leads = |from: &str, to: &str| {
                let start = format!("-A {from} ");
                saved.lines().any(|line| line.starts_with(&start) && jump_target(line) == Some(to))
            };
            there.jumps = JUMPS.into_iter().filter(|(from, to)| leads(from, to)).collect();
            for line in saved.lines() {
                let chain = [SET_MARK, MASQ]
                    .into_iter()
                    .find(|chain| line.starts_with(&format!("-A {chain} ")));
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
            there
                .rules
                .extend(table.rules(nft, chain, |_| true)?.iter().map(|rule| (chain, bytes(rule))));
        }
        Ok(there)
    }

    /// Whether a rule of the chain is about this mark: it has its text or, as the kernel keeps it, its four bytes.
    fn has_mark(&self, chain: &str, mark: u32) -> bool {
        let (text, bytes) = (format!("{mark:#x}/{mark:#x}"), mark.to_ne_bytes());
        self.rules
            .iter()
            .any(|(of, rule)| *of == chain && (holds(rule, text.as_bytes()) || holds(rule, &bytes)))
    }
}

/// What is missing of what all containers share. A chain that another call has just made is an error, and not emptied.
fn shared(there: &There, config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    let own_mark = config.snat && config.set_mark_chain.is_none();
    let wanted = |chain: &str| chain == DNAT || own_mark;
    lines.extend(
        CHAINS
            .iter()
            .filter(|c| wanted(c) && !there.chains.contains(c))
            .map(|chain| format!("-N {chain}")),
    );
    if own_mark {
        let mark = config.mark();
        let (text, note) =
            (format!("{mark:#x}/{mark:#x}"), iptables::comment("CNI portfwd masquerade mark"));
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
    for mapping in config.mappings.iter().filter(|mapping| mapping.is_for(v4)) {
        let address = mapping.address().map(|address| format!(" -d {address}")).unwrap_or_default();
        let base = format!(
            "-A {chain} -p {} --dport {}{address}",
            mapping.protocol.name(),
            mapping.host_port
        );
        let sources = sources(config, net);
        lines.extend(sources.iter().map(|source| format!("{base} -s {source} -j {set_mark}")));
        let to = destination(net.addr(), mapping.container_port);
        lines.push(format!("{base} -j DNAT --to-destination {to}"));
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
            let localhost = if v4 { "127.0.0.1" } else { LOCALHOST_V6 };
            vec![net.trunc().to_string(), localhost.to_owned()]
        }
    }
}

/// The host ports as `multiport` takes them. As with the Go plugin those of the other family are among them.
fn jumps(mappings: &[Mapping]) -> Vec<(Protocol, String)> {
    let mut jumps = Vec::new();
    for protocol in [Protocol::Sctp, Protocol::Tcp, Protocol::Udp] {
        let ports: Vec<String> = mappings
            .iter()
            .filter(|m| m.protocol == protocol)
            .map(|m| m.host_port.to_string())
            .collect();
        jumps.extend(ports.chunks(PORTS_IN_A_RULE).map(|ports| (protocol, ports.join(","))));
    }
    jumps
}

/// A word as an argument in a line for `iptables-restore`.
fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

/// CHECK: the first thing that is missing.
pub(super) fn check(nft: &mut Nft, call: &Call<'_>, config: &Config, nets: &[IpNet]) -> Result<()> {
    let owner = call.owner();
    for net in nets {
        let Some(table) = NAT.into_iter().find(|table| table.is_for(net.addr())) else { continue };
        let found = Found::look(nft, table, owner)?;
        if let Some(missing) = found.missing(config, owner, *net) {
            let family = if table.v4 { "iptables" } else { "ip6tables" };
            return Err(differs(format!("host ports: {missing} ({family})")));
        }
    }
    Ok(())
}

/// What is there of a container.
struct Found {
    there: There,
    /// What its rules have in them, as [`There`] has it.
    rules: Vec<Vec<u8>>,
    jumps: usize,
}

impl Found {
    fn look(nft: &mut Nft, table: IpTable, owner: Owner<'_>) -> Result<Self> {
        let name = chain(CONTAINER, owner.network, owner.container_id);
        let rules: Vec<Vec<u8>> = table.rules(nft, &name, |_| true)?.iter().map(bytes).collect();
        if let Some(legacy) = table.legacy().filter(|_| rules.is_empty()) {
            let saved = legacy.save()?;
            let of = |chain: &str| {
                let start = format!("-A {chain} ");
                saved.lines().filter(move |line| line.starts_with(&start))
            };
            return Ok(Self {
                there: There::look(nft, table, true)?,
                rules: of(&name).map(|line| line.as_bytes().to_vec()).collect(),
                jumps: of(DNAT).filter(|line| jump_target(line) == Some(&name)).count(),
            });
        }
        let jumps =
            table.rules(nft, DNAT, |rule| rule.jump_target.as_deref() == Some(&name))?.len();
        Ok(Self { there: There::look(nft, table, false)?, rules, jumps })
    }

    fn missing(&self, config: &Config, owner: Owner<'_>, net: IpNet) -> Option<String> {
        let name = chain(CONTAINER, owner.network, owner.container_id);
        let start = format!("-A {name} ");
        let wanted = of_container(owner, config, net);
        let is_for_localhost = |rule: &&Vec<u8>| marks_localhost_v6(rule, config, net);
        let there = self.rules.iter().filter(|rule| !is_for_localhost(rule)).count();
        // The Go plugin and older versions have no rules for `::1`.
        let for_localhost = format!(" -s {LOCALHOST_V6} ");
        let is_wanted = |line: &&String| line.starts_with(&start) && !line.contains(&for_localhost);
        let wanted = wanted.iter().filter(is_wanted).count();
        if there < wanted {
            return Some(format!("{there} of {wanted} rules are in chain {name}"));
        }
        let is_for = |mapping: &&Mapping| mapping.is_for(net.addr().is_ipv4());
        for mapping in config.mappings.iter().filter(is_for) {
            let leads_there = |rule: &&Vec<u8>| leads_to(rule, net.addr(), mapping.container_port);
            let same = config
                .mappings
                .iter()
                .filter(is_for)
                .filter(|m| m.container_port == mapping.container_port);
            if self.rules.iter().filter(leads_there).count() < same.count() {
                let to = format!("{}, port {}", net.addr(), mapping.container_port);
                return Some(format!("{mapping} does not lead to {to} by chain {name}"));
            }
        }
        let (there, wanted) = (self.jumps, jumps(&config.mappings).len());
        if there < wanted {
            return Some(format!("{there} of {wanted} rules of {DNAT} lead to {name}"));
        }
        shared(&self.there, config).first().map(|missing| format!("this is missing: {missing}"))
    }
}

/// Whether a rule marks packets from `::1`. One for the host address `::1` has that address too, and the subnet.
fn marks_localhost_v6(rule: &[u8], config: &Config, net: IpNet) -> bool {
    let IpNet::V6(subnet) = net else { return false };
    let set_mark = config.set_mark_chain.as_deref().unwrap_or(SET_MARK);
    let whole_bytes = usize::from(subnet.prefix_len() / 8).max(1);
    !config.masq_all
        && holds(rule, set_mark.as_bytes())
        && (holds(rule, format!("-s {LOCALHOST_V6}").as_bytes())
            || holds(rule, &Ipv6Addr::LOCALHOST.octets())
                && !holds(rule, &subnet.network().octets()[..whole_bytes]))
}

/// Whether a rule sends packets to this address and port: it has its text or, as the kernel keeps it, their bytes.
fn leads_to(rule: &[u8], address: IpAddr, port: u16) -> bool {
    let octets = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let text = format!("--to-destination {}", destination(address, port));
    holds(rule, text.as_bytes()) || holds(rule, &octets) && holds(rule, &port.to_be_bytes())
}

fn destination(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// The attributes of all that a rule is made of.
fn bytes(rule: &RuleInfo) -> Vec<u8> {
    rule.expressions.iter().flat_map(|expression| expression.attributes.iter().copied()).collect()
}

fn holds(rule: &[u8], part: &[u8]) -> bool {
    rule.windows(part.len()).any(|window| window == part)
}

pub(super) fn remove(nft: &mut Nft, owner: Owner<'_>) -> Result<()> {
    let mut all = BestEffort::default();
    for (prefix, from) in [(CONTAINER, DNAT), (OLD_CONTAINER, OLD_SNAT)] {
        all.step(iptables::remove_chain(
            nft,
            NAT,
            &[from],
            &chain(prefix, owner.network, owner.container_id),
        ));
    }
    all.finish()
}

/// GC.
pub(super) fn remove_stale(nft: &mut Nft, stale: &Stale<'_>) -> Result<()> {
    let valid: Vec<String> = stale
        .valid_attachments()
        .iter()
        .map(|a| chain(CONTAINER, stale.network(), &a.container_id))
        .collect();
    iptables::remove_stale_chains(
        nft,
        NAT,
        DNAT,
        CONTAINER,
        &comment_start(stale.network()),
        &valid,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::call::testing::with_call;
    use rscni::Args;
    use serde_json::{Value, json};

    const OWNER: Owner<'_> = Owner { network: "net", container_id: "id", ifname: "eth0" };

    fn lines_of(keys: &Value, net: &str) -> String {
        let mut json = json!({ "name": "net", "type": "portmap", "backend": "iptables" });
        json.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let conf = serde_json::from_value(json).unwrap();
        let config = with_call(Args::default(), conf, Config::new).unwrap();
        of_container(OWNER, &config, net.parse().unwrap()).join("\n")
    }

    #[test]
    fn rules_are_those_that_the_go_plugin_makes() {
        let mappings = json!([
            { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
            { "hostPort": 53, "containerPort": 54, "protocol": "udp", "hostIP": "192.0.2.1" },
            { "hostPort": 8081, "containerPort": 81, "protocol": "TCP", "hostIP": "2001:db8::1" },
        ]);
        let keys = json!({ "runtimeConfig": { "portMappings": mappings }, "conditionsV4": ["!", "-s", "192.0.2.9"] });
        // echo -n netid | sha512sum
        let expected = r#":CNI-DN-30e7440e95deb2a63c98a - [0:0]
-A CNI-HOSTPORT-DNAT -m comment --comment "dnat name: \"net\" id: \"id\"" -m multiport -p tcp --destination-ports 8080,8081 "!" "-s" "192.0.2.9" -j CNI-DN-30e7440e95deb2a63c98a
-A CNI-HOSTPORT-DNAT -m comment --comment "dnat name: \"net\" id: \"id\"" -m multiport -p udp --destination-ports 53 "!" "-s" "192.0.2.9" -j CNI-DN-30e7440e95deb2a63c98a
-A CNI-DN-30e7440e95deb2a63c98a -p tcp --dport 8080 -s 10.1.0.0/16 -j "CNI-HOSTPORT-SETMARK"
-A CNI-DN-30e7440e95deb2a63c98a -p tcp --dport 8080 -s 127.0.0.1 -j "CNI-HOSTPORT-SETMARK"
-A CNI-DN-30e7440e95deb2a63c98a -p tcp --dport 8080 -j DNAT --to-destination 10.1.0.5:80
-A CNI-DN-30e7440e95deb2a63c98a -p udp --dport 53 -d 192.0.2.1 -s 10.1.0.0/16 -j "CNI-HOSTPORT-SETMARK"
-A CNI-DN-30e7440e95deb2a63c98a -p udp --dport 53 -d 192.0.2.1 -s 127.0.0.1 -j "CNI-HOSTPORT-SETMARK"
-A CNI-DN-30e7440e95deb2a63c98a -p udp --dport 53 -d 192.0.2.1 -j DNAT --to-destination 10.1.0.5:54"#;
        assert_eq!(lines_of(&keys, "10.1.0.5/16"), expected);
        let six = lines_of(&keys, "fd01::5/64");
        assert!(six.contains("--dport 8081 -d 2001:db8::1 -s fd01::/64 -j"), "{six}");
        assert!(
            six.ends_with("--dport 8081 -d 2001:db8::1 -j DNAT --to-destination [fd01::5]:81"),
            "{six}"
        );
        assert!(!six.contains("127.0.0.1") && !six.contains("--dport 53"), "{six}");
    }

    #[test]
    fn keys_change_who_is_marked_and_by_whom() {
        let with = |extra: &Value| {
            let mut keys = json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 1, "containerPort": 2 }] } });
            keys.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            lines_of(&keys, "10.1.0.5/16")
        };
        assert!(!with(&json!({ "snat": false })).contains("MARK"));
        assert!(
            with(&json!({ "externalSetMarkChain": "KUBE-MARK-MASQ" }))
                .contains("-j \"KUBE-MARK-MASQ\"")
        );
        let all = with(&json!({ "masqAll": true }));
        assert!(all.contains("-s 0.0.0.0/0 -j") && !all.contains("127.0.0.1"), "{all}");
    }

    #[test]
    fn fifteen_ports_go_into_a_rule() {
        let mappings: Vec<Value> =
            (1..=16).map(|port| json!({ "hostPort": port, "containerPort": 1 })).collect();
        let lines =
            lines_of(&json!({ "runtimeConfig": { "portMappings": mappings } }), "10.1.0.5/16");
        assert!(
            lines.contains("--destination-ports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15  -j"),
            "{lines}"
        );
        assert!(lines.contains("--destination-ports 16  -j"), "{lines}");
    }
}
