//! What kinds of things a trial that failed has left or broken, for a summary of many.

use std::collections::{BTreeMap, BTreeSet};

/// What a line must have for the kind, in the order in which the table names them.
const KINDS: [(&str, &str); 17] = [
    ("the next ADD fails", "the next ADD fails"),
    ("DEL fails", "DEL fails"),
    ("is given", "an address given twice"),
    ("addresses can be given", "addresses lost for good"),
    ("is believed and wrong", "a wrong index"),
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

/// The kinds of what is in these lines.
pub(super) fn kinds(wrong: &[String]) -> BTreeSet<&'static str> {
    wrong
        .iter()
        .map(|line| {
            KINDS.iter().find(|(text, _)| line.contains(text)).map_or("other", |(_, kind)| kind)
        })
        .collect()
}

/// How many of these lines are of which kind.
pub(super) fn counted(wrong: &[String]) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for kind in wrong.iter().flat_map(|line| kinds(std::slice::from_ref(line))) {
        *counted.entry(kind.to_owned()).or_default() += 1;
    }
    counted
}

/// All kinds, in order.
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(_, kind)| *kind).chain(["other"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_called_by_its_kind() {
        let left = |line: &str| kinds(&[line.to_owned()]).into_iter().collect::<Vec<_>>();
        assert_eq!(left("+ file /var/lib/cni/networks/net/10.7.0.2 (x)"), ["a reserved address"]);
        assert_eq!(left("before DEL: + host: nft rule ip nat POSTROUTING: masquerade"), ["rules"]);
        assert_eq!(left("+ host: nft chain ip nat CNI-1 ()"), ["chains"]);
        assert_eq!(left("the next ADD fails: exit 1: a file /x exists"), ["the next ADD fails"]);
        assert_eq!(left("something"), ["other"]);
    }
}
