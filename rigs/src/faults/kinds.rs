//! Kinds of things that failed trials have left or broken, for a summary.

use std::collections::{BTreeMap, BTreeSet};

/// Texts that identify the kind of a line, in the order of the table.
const KINDS: [(&str, &str); 17] = [
    ("the next ADD fails", "the next ADD fails"),
    ("DEL fails", "DEL fails"),
    ("is given", "an address given twice"),
    ("addresses can be given", "addresses lost for good"),
    ("is trusted and wrong", "a wrong index"),
    ("networks/", "a reserved address"),
    (": link ", "an interface"),
    (": qdisc ", "a queueing discipline"),
    (": address ", "an interface's address"),
    (": route ", "a route"),
    (": sysctl ", "a changed sysctl"),
    (": nft element ", "an nftables element"),
    (": nft rule ", "rules"),
    (": nft chain ", "chains"),
    (": nft ", "nftables tables or sets"),
    ("file /", "a file"),
    ("process ", "a process"),
];

fn of(line: &str) -> &'static str {
    KINDS.iter().find(|(text, _)| line.contains(text)).map_or("other", |(_, kind)| kind)
}

/// The kinds in these lines.
pub(super) fn of_all(lines: &[String]) -> BTreeSet<&'static str> {
    lines.iter().map(|line| of(line)).collect()
}

/// Number of lines of each kind.
pub(super) fn counted(lines: &[String]) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for line in lines {
        *counted.entry(of(line).to_owned()).or_default() += 1;
    }
    counted
}

/// All kinds in order.
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(_, kind)| *kind).chain(["other"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_kind() {
        assert_eq!(of("+ file /var/lib/cni/networks/net/10.7.0.2 (x)"), "a reserved address");
        assert_eq!(of("before DEL: + host: nft rule ip nat POSTROUTING: masquerade"), "rules");
        assert_eq!(of("+ host: nft chain ip nat CNI-1 ()"), "chains");
        assert_eq!(of("the next ADD fails: exit 1: a file /x exists"), "the next ADD fails");
        assert_eq!(of("something"), "other");
    }
}
