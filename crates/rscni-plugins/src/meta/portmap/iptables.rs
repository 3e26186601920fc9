//! Host ports as iptables rules of the Go plugin: per container a chain in the table `nat`, which
//! rules in `CNI-HOSTPORT-DNAT` with up to 15 ports each jump to, and shared chains that mark and
//! masquerade.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use rscni_linux::nft::Nft;

use super::config::{Config, Mapping, Protocol};
use crate::{
    netfilter::{ContainerChains, Legacy, NAT, SavedRule, SavedTable, iptables_save},
    plugin::{Call, Result, best_effort, differs},
    state::{Owner, Purpose},
};

/// Jumps to the chains of containers.
const DNAT: &str = "CNI-HOSTPORT-DNAT";
/// Marks packets to masquerade.
const SET_MARK: &str = "CNI-HOSTPORT-SETMARK";
/// Masquerades packets with the mark.
const MASQ: &str = "CNI-HOSTPORT-MASQ";
/// The limit of `multiport`.
const PORTS_IN_A_RULE: usize = 15;
const LOCALHOST_V6: &str = "::1";
/// The maximum length of a comment of iptables.
const LONGEST: usize = 255;

pub(super) const CONTAINERS: ContainerChains = ContainerChains {
    parent: DNAT,
    prefix: "CNI-DN-",
    comment: "dnat ",
    purpose: |v4| Purpose::PublishedPort { v4 },
};
/// Further chains of containers of old releases of the Go plugin.
const OLD_CONTAINERS: ContainerChains = ContainerChains {
    parent: "CNI-HOSTPORT-SNAT",
    prefix: "CNI-SN-",
    comment: "snat ",
    ..CONTAINERS
};

/// The chains that all containers share.
const CHAINS: [&str; 3] = [DNAT, SET_MARK, MASQ];
const JUMPS: [(&str, &str); 3] = [("PREROUTING", DNAT), ("OUTPUT", DNAT), ("POSTROUTING", MASQ)];
/// The chains with rules that all containers share.
const WITH_SHARED_RULES: [&str; 5] = ["PREROUTING", "OUTPUT", "POSTROUTING", SET_MARK, MASQ];

fn chain(owner: Owner<'_>) -> String {
    CONTAINERS.name(owner.network, owner.container_id)
}

fn comment(owner: Owner<'_>) -> String {
    let mut comment = CONTAINERS.comment(owner);
    comment.truncate(LONGEST);
    iptables_save::comment(&comment)
}

/// Adds the chain and the jumps. Replaces those of an earlier ADD.
pub(super) fn add(owner: Owner<'_>, config: &Config, nets: &[IpNet]) -> Result<()> {
    let mut nft = Nft::open()?;
    remove(&mut nft, owner)?;
    for net in nets {
        let Some(table) = NAT.into_iter().find(|table| table.is_for(net.addr())) else { continue };
        let mut attempt = |legacy: Option<Legacy>| {
            let saved = match legacy {
                Some(legacy) => legacy.saved()?,
                None => table.saved(&mut nft, &CHAINS, &WITH_SHARED_RULES)?,
            };
            let shared = missing_shared(&saved, config).into_iter();
            table.restore(shared.chain(of_container(owner, config, *net)))
        };
        // `iptables-restore` fails as a whole if it uses the other kind of tables, or if another
        // call was faster with the shared chains.
        attempt(table.legacy()).or_else(|_| attempt(None))?;
    }
    Ok(())
}

/// Whether a rule of the chain has this mark, as text or as the four bytes of the kernel.
fn has_mark(saved: &SavedTable, chain: &str, mark: u32) -> bool {
    let (text, bytes) = (format!("{mark:#x}/{mark:#x}"), mark.to_ne_bytes());
    saved.rules_of(chain).any(|rule| rule.contains(text.as_bytes()) || rule.contains(&bytes))
}

/// Returns the lines that add the missing shared chains and rules. `-N` fails if another call has
/// just created the chain, and so does not empty it.
fn missing_shared(saved: &SavedTable, config: &Config) -> Vec<String> {
    let own_mark = config.snat && config.set_mark_chain.is_none();
    let wanted = |chain: &str| chain == DNAT || own_mark;
    let chains = CHAINS.iter().filter(|chain| wanted(chain) && !saved.has_chain(chain));
    let mut lines: Vec<String> = chains.map(|chain| format!("-N {chain}")).collect();
    if own_mark {
        let mark = config.mark();
        let text = format!("{mark:#x}/{mark:#x}");
        let note = iptables_save::comment("CNI portfwd masquerade mark");
        for (chain, rule) in [
            (SET_MARK, format!("{note} -j MARK --set-xmark {text}")),
            (MASQ, format!("-m mark --mark {text} -j MASQUERADE")),
        ] {
            if !has_mark(saved, chain, mark) {
                lines.push(format!("-A {chain} {rule}"));
            }
        }
    }
    let is_missing = |from, to| !saved.rules_of(from).any(|rule| rule.jumps_to(to));
    for (from, to) in JUMPS.into_iter().filter(|(from, to)| wanted(to) && is_missing(from, to)) {
        lines.push(if to == MASQ {
            // Before the rules of `ipMasq`, which accept what stays in a subnet.
            let note = iptables_save::comment("CNI portfwd requiring masquerade");
            format!("-I {from} 1 {note} -j {to}")
        } else {
            format!("-A {from} -m addrtype --dst-type LOCAL -j {to}")
        });
    }
    lines
}

/// Returns the rules of a container as lines for `iptables-restore`.
fn of_container(owner: Owner<'_>, config: &Config, net: IpNet) -> Vec<String> {
    let chain = chain(owner);
    let v4 = net.addr().is_ipv4();
    let mut lines = vec![format!(":{chain} - [0:0]")];
    let conditions: Vec<String> = config.conditions(v4).iter().map(|word| quoted(word)).collect();
    let conditions = conditions.join(" ");
    for (protocol, ports) in jumps(&config.mappings) {
        let (note, protocol) = (comment(owner), protocol.name());
        lines.push(format!(
            "-A {DNAT} {note} -m multiport -p {protocol} --destination-ports {ports} {conditions} \
             -j {chain}"
        ));
    }
    let set_mark = quoted(config.set_mark_chain.as_deref().unwrap_or(SET_MARK));
    for mapping in config.mappings.iter().filter(|mapping| mapping.is_for(v4)) {
        let address = mapping.address().map(|address| format!(" -d {address}")).unwrap_or_default();
        let (protocol, port) = (mapping.protocol.name(), mapping.host_port);
        let base = format!("-A {chain} -p {protocol} --dport {port}{address}");
        let sources = sources(config, net);
        lines.extend(sources.iter().map(|source| format!("{base} -s {source} -j {set_mark}")));
        let to = SocketAddr::new(net.addr(), mapping.container_port);
        lines.push(format!("{base} -j DNAT --to-destination {to}"));
    }
    lines
}

/// Returns the source subnets to masquerade.
fn sources(config: &Config, net: IpNet) -> Vec<String> {
    let v4 = net.addr().is_ipv4();
    match (config.snat, config.masq_all) {
        (false, _) => Vec::new(),
        (true, true) => vec![if v4 { "0.0.0.0/0" } else { "::/0" }.to_owned()],
        (true, false) => {
            let localhost = if v4 { "127.0.0.1" } else { LOCALHOST_V6 };
            vec![net.trunc().to_string(), localhost.to_owned()]
        }
    }
}

/// Returns the host ports as `multiport` takes them. As in the Go plugin, they include those of the
/// other family.
fn jumps(mappings: &[Mapping]) -> Vec<(Protocol, String)> {
    let mut jumps = Vec::new();
    for protocol in Protocol::ALL {
        let mappings = mappings.iter().filter(|mapping| mapping.protocol == protocol);
        let ports: Vec<String> = mappings.map(|mapping| mapping.host_port.to_string()).collect();
        jumps.extend(ports.chunks(PORTS_IN_A_RULE).map(|ports| (protocol, ports.join(","))));
    }
    jumps
}

/// Quotes an argument for a line of `iptables-restore`.
fn quoted(word: &str) -> String {
    format!("\"{}\"", iptables_save::escaped(word))
}

/// CHECK: reports the first missing rule.
pub(super) fn check(nft: &mut Nft, call: &Call<'_>, config: &Config, nets: &[IpNet]) -> Result<()> {
    let owner = call.owner();
    let name = chain(owner);
    let chains = [&WITH_SHARED_RULES[..], &[DNAT, &name]].concat();
    for net in nets {
        let Some(table) = NAT.into_iter().find(|table| table.is_for(net.addr())) else { continue };
        let mut saved = table.saved(nft, &CHAINS, &chains)?;
        if saved.rules_of(&name).next().is_none()
            && let Some(legacy) = table.legacy()
        {
            saved = legacy.saved()?;
        }
        if let Some(missing) = missing(&saved, config, owner, *net) {
            return Err(differs(format!("host ports: {missing} ({})", table.program())));
        }
    }
    Ok(())
}

/// Returns the first difference from the rules that ADD makes.
fn missing(saved: &SavedTable, config: &Config, owner: Owner<'_>, net: IpNet) -> Option<String> {
    let name = &chain(owner);
    let start = format!("-A {name} ");
    let wanted = of_container(owner, config, net);
    let rules = || saved.rules_of(name);
    let present = rules().filter(|rule| !marks_localhost_v6(rule, config, net)).count();
    // The Go plugin and older versions have no rules for `::1`.
    let for_localhost = format!(" -s {LOCALHOST_V6} ");
    let is_wanted = |line: &&String| line.starts_with(&start) && !line.contains(&for_localhost);
    let wanted = wanted.iter().filter(is_wanted).count();
    if present < wanted {
        return Some(format!("{present} of {wanted} rules are in chain {name}"));
    }
    let mappings = || config.mappings.iter().filter(|m| m.is_for(net.addr().is_ipv4()));
    for mapping in mappings() {
        let port = mapping.container_port;
        let same = mappings().filter(|other| other.container_port == port).count();
        if rules().filter(|rule| leads_to(rule, net.addr(), port)).count() < same {
            let to = format!("{}, port {port}", net.addr());
            return Some(format!("{mapping} does not lead to {to} by chain {name}"));
        }
    }
    let present = saved.rules_of(DNAT).filter(|rule| rule.jumps_to(name)).count();
    let wanted = jumps(&config.mappings).len();
    if present < wanted {
        return Some(format!("{present} of {wanted} rules of {DNAT} lead to {name}"));
    }
    missing_shared(saved, config).first().map(|missing| format!("this is missing: {missing}"))
}

/// Whether a rule marks packets from `::1`. A rule for the host address `::1` contains that address
/// too, but also the subnet.
fn marks_localhost_v6(rule: &SavedRule, config: &Config, net: IpNet) -> bool {
    let IpNet::V6(subnet) = net else { return false };
    let set_mark = config.set_mark_chain.as_deref().unwrap_or(SET_MARK);
    let whole_bytes = usize::from(subnet.prefix_len() / 8).max(1);
    !config.masq_all
        && rule.contains(set_mark.as_bytes())
        && (rule.contains(format!("-s {LOCALHOST_V6}").as_bytes())
            || rule.contains(&Ipv6Addr::LOCALHOST.octets())
                && !rule.contains(&subnet.network().octets()[..whole_bytes]))
}

/// Whether a rule sends packets to this address and port, as text or as bytes of the kernel.
fn leads_to(rule: &SavedRule, address: IpAddr, port: u16) -> bool {
    let octets = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let text = format!("--to-destination {}", SocketAddr::new(address, port));
    rule.contains(text.as_bytes()) || rule.contains(&octets) && rule.contains(&port.to_be_bytes())
}

/// Removes the chains of the container and the jumps to them.
pub(super) fn remove(nft: &mut Nft, owner: Owner<'_>) -> Result<()> {
    best_effort([CONTAINERS, OLD_CONTAINERS].map(|chains| chains.remove(nft, owner)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::config::tests::read, *};

    const OWNER: Owner<'_> = Owner { network: "net", container_id: "id", ifname: "eth0" };

    fn lines_of(mut keys: Value, net: &str) -> String {
        keys["backend"] = "iptables".into();
        of_container(OWNER, &read(&keys).unwrap(), net.parse().unwrap()).join("\n")
    }

    #[test]
    fn rules_equal_those_of_the_go_plugin() {
        let mappings = json!([
            { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
            { "hostPort": 53, "containerPort": 54, "protocol": "udp", "hostIP": "192.0.2.1" },
            { "hostPort": 8081, "containerPort": 81, "protocol": "TCP", "hostIP": "2001:db8::1" },
        ]);
        let keys = json!({
            "runtimeConfig": { "portMappings": mappings },
            "conditionsV4": ["!", "-s", "192.0.2.9"],
        });
        // echo -n netid | sha512sum
        let chain = "CNI-DN-30e7440e95deb2a63c98a";
        let note = r#"-m comment --comment "dnat name: \"net\" id: \"id\"" -m multiport"#;
        let (conditions, mark) = (r#""!" "-s" "192.0.2.9""#, r#"-j "CNI-HOSTPORT-SETMARK""#);
        let udp = format!("-A {chain} -p udp --dport 53 -d 192.0.2.1");
        let expected = format!(
            ":{chain} - [0:0]
-A CNI-HOSTPORT-DNAT {note} -p tcp --destination-ports 8080,8081 {conditions} -j {chain}
-A CNI-HOSTPORT-DNAT {note} -p udp --destination-ports 53 {conditions} -j {chain}
-A {chain} -p tcp --dport 8080 -s 10.1.0.0/16 {mark}
-A {chain} -p tcp --dport 8080 -s 127.0.0.1 {mark}
-A {chain} -p tcp --dport 8080 -j DNAT --to-destination 10.1.0.5:80
{udp} -s 10.1.0.0/16 {mark}
{udp} -s 127.0.0.1 {mark}
{udp} -j DNAT --to-destination 10.1.0.5:54"
        );
        assert_eq!(lines_of(keys.clone(), "10.1.0.5/16"), expected);
        let six = lines_of(keys, "fd01::5/64");
        assert!(six.contains("--dport 8081 -d 2001:db8::1 -s fd01::/64 -j"), "{six}");
        let end = "--dport 8081 -d 2001:db8::1 -j DNAT --to-destination [fd01::5]:81";
        assert!(six.ends_with(end), "{six}");
        assert!(!six.contains("127.0.0.1") && !six.contains("--dport 53"), "{six}");
    }

    #[test]
    fn keys_change_the_marked_sources_and_the_chain() {
        let with = |key: &str, value: Value| {
            let mappings = json!([{ "hostPort": 1, "containerPort": 2 }]);
            let keys = json!({ "runtimeConfig": { "portMappings": mappings }, key: value });
            lines_of(keys, "10.1.0.5/16")
        };
        assert!(!with("snat", json!(false)).contains("MARK"));
        let external = with("externalSetMarkChain", json!("KUBE-MARK-MASQ"));
        assert!(external.contains("-j \"KUBE-MARK-MASQ\""));
        let all = with("masqAll", json!(true));
        assert!(all.contains("-s 0.0.0.0/0 -j") && !all.contains("127.0.0.1"), "{all}");
    }

    #[test]
    fn a_rule_has_at_most_fifteen_ports() {
        let mappings: Vec<Value> =
            (1..=16).map(|port| json!({ "hostPort": port, "containerPort": 1 })).collect();
        let keys = json!({ "runtimeConfig": { "portMappings": mappings } });
        let lines = lines_of(keys, "10.1.0.5/16");
        let first = "--destination-ports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15  -j";
        assert!(lines.contains(first), "{lines}");
        assert!(lines.contains("--destination-ports 16  -j"), "{lines}");
    }
}
