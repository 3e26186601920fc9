//! Differences between two snapshots, and which of them the kernel is still working on.

use std::collections::BTreeSet;

use crate::snapshot::{End, Snapshot};

/// The objects that differ between two snapshots.
pub(crate) struct Changes<'a> {
    before: &'a Snapshot,
    after: &'a Snapshot,
    /// Keys of the objects, with a line about each.
    found: Vec<(&'a str, String)>,
}

impl<'a> Changes<'a> {
    pub(crate) fn between(before: &'a Snapshot, after: &'a Snapshot) -> Self {
        let mut changes = Self { before, after, found: Vec::new() };
        let keys: BTreeSet<_> = before.items.found.keys().chain(after.items.found.keys()).collect();
        for what in keys {
            let line = match changes.states(what) {
                (Some(then), Some(now)) if then == now => continue,
                (Some(then), Some(now)) => {
                    let [then, now] = different_parts(then, now);
                    format!("~ {what}: was {then}, is {now}")
                }
                (None, Some(now)) => format!("+ {what}{}", in_brackets(now)),
                // A plugin may leave a process that ends by itself.
                (Some(_), None) if what.starts_with("process ") => continue,
                (Some(then), None) => format!("- {what}{}", in_brackets(then)),
                (None, None) => continue,
            };
            let mut ignored = before.ignored.iter().chain(&after.ignored);
            if !changes.is_consequence(what) && !ignored.any(|text| line.contains(text)) {
                changes.found.push((what, line));
            }
        }
        changes
    }

    /// The differences, one per line.
    pub(crate) fn lines(self) -> Vec<String> {
        self.found.into_iter().map(|(_, line)| line).collect()
    }

    #[track_caller]
    pub(crate) fn assert_none(self) {
        let lines = self.lines();
        assert!(
            lines.is_empty(),
            "the network has changed (+ added, - removed, ~ changed):\n  {}",
            lines.join("\n  ")
        );
    }

    /// States of an object before and after.
    fn states(&self, what: &str) -> (Option<&'a str>, Option<&'a str>) {
        let state = |snapshot: &'a Snapshot| snapshot.items.found.get(what).map(String::as_str);
        (state(self.before), state(self.after))
    }

    /// Whether a difference follows from another one: the sysctls of an added or removed link,
    /// everything in an added or removed namespace, and the sysctls that the kernel sets with
    /// forwarding.
    fn is_consequence(&self, what: &str) -> bool {
        let Some((namespace, thing)) = what.split_once(": ") else {
            return false;
        };
        let namespaces = self.states(&format!("namespace {namespace}"));
        if matches!(namespaces, (Some(_), None) | (None, Some(_))) {
            return true;
        }
        let Some(setting) = thing.strip_prefix("sysctl ") else {
            return false;
        };
        let mut parts = setting.split('/');
        let (Some("net"), Some(family), Some("conf"), Some(interface), Some(name)) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        let special = ["all", "default"].contains(&interface);
        let links = self.states(&format!("{namespace}: link {interface}"));
        if !special && !matches!(links, (Some(_), Some(_))) {
            return true;
        }
        let switch = match family {
            "ipv4" => format!("{namespace}: sysctl net/ipv4/ip_forward"),
            _ => format!("{namespace}: sysctl net/ipv6/conf/all/forwarding"),
        };
        let follows = name == "forwarding" || setting == "net/ipv4/conf/all/accept_redirects";
        let (then, now) = self.states(&switch);
        follows && what != switch && then != now
    }

    /// Whether the kernel may remove the differences without any further action. That is so if it
    /// [removes](Self::is_going) at least one of them, and each of the others can be a consequence:
    /// addresses and routes of a link go with the link, rules and files do not.
    pub(crate) fn are_going(&self) -> bool {
        self.found.iter().any(|(what, _)| self.is_going(what))
            && self.found.iter().all(|(what, _)| self.is_going(what) || depends_on_links(what))
    }

    /// Whether the kernel removes the object in the background:
    ///
    /// - a veth whose peer is in a namespace without a name: after the name is removed, the kernel
    ///   destroys the namespace and its links, and with them their peers
    /// - promiscuous mode of a parent whose macvlan links go with their namespace
    /// - a process, which takes a moment to end
    fn is_going(&self, what: &str) -> bool {
        match self.states(what) {
            (None, Some(_)) => what.starts_with("process ") || self.has_lost_its_peer(what),
            (Some(then), Some(now)) if what.contains(": link ") => {
                then != now && without_promiscuity(then) == without_promiscuity(now)
            }
            _ => false,
        }
    }

    fn has_lost_its_peer(&self, what: &str) -> bool {
        let ends = &self.after.items.ends;
        let is_pair = |a: &End, b: &End| {
            (a.index, a.peer) == (b.peer, b.index) && a.namespace() != b.namespace()
        };
        let mut own = ends.iter().filter(|end| end.link == what);
        own.any(|end| !ends.iter().any(|other| is_pair(end, other)))
    }
}

/// Whether the object can go together with a link.
fn depends_on_links(what: &str) -> bool {
    let thing = what.split_once(": ").map_or("", |(_, thing)| thing);
    ["link ", "address ", "route ", "neighbour ", "qdisc "].iter().any(|of| thing.starts_with(of))
}

/// The state of a link without its counts of promiscuous users.
fn without_promiscuity(state: &str) -> Vec<&str> {
    let mut words: Vec<_> = state.split(' ').collect();
    if let Some(at) = words.iter().position(|word| *word == "promiscuity") {
        words.drain(at..(at + 2).min(words.len()));
    }
    words.retain(|word| !["promisc", "allmulti"].contains(word));
    words
}

/// Length of a state that is shown completely.
const ENOUGH: usize = 160;

pub(crate) fn in_brackets(how: &str) -> String {
    // The bytes of a file are of use in comparisons only.
    let how = how.split_once(": ").map_or(how, |(start, _)| match start {
        binary if binary.starts_with("binary, ") => binary,
        _ => how,
    });
    if how.is_empty() { String::new() } else { format!(" ({})", part(how, 0)) }
}

/// Formats two states. Long ones are shown from shortly before their first difference.
fn different_parts(then: &str, now: &str) -> [String; 2] {
    const CONTEXT: usize = 30;
    let is_long = [then, now].iter().any(|state| state.chars().count() > ENOUGH);
    let same = then.chars().zip(now.chars()).take_while(|(then, now)| then == now).count();
    let start = if is_long { same.saturating_sub(CONTEXT) } else { 0 };
    [part(then, start), part(now, start)]
}

fn part(state: &str, start: usize) -> String {
    let shown: String = state.chars().skip(start).take(ENOUGH).collect();
    let before = if start == 0 { "" } else { "..." };
    let after = if state.chars().count() > start + ENOUGH { "..." } else { "" };
    format!("{before}{}{after}", shown.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(objects: &[(&str, &str)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (what, how) in objects {
            snapshot.items.add((*what).to_owned(), (*how).to_owned());
        }
        snapshot
    }

    /// Whether the kernel is removing the differences to a network without these objects.
    fn are_going(added: &[(&str, &str)], ends: &[(&str, u32, u32)]) -> bool {
        let mut after = snapshot(added);
        let end = |(link, index, peer): &(&str, u32, u32)| End {
            link: (*link).to_owned(),
            index: *index,
            peer: *peer,
        };
        after.items.ends = ends.iter().map(end).collect();
        Changes::between(&Snapshot::default(), &after).are_going()
    }

    const VETH: (&str, &str) = ("host: link veth1", "veth up");

    #[test]
    fn a_veth_without_peer_goes_with_its_addresses_and_routes() {
        let alone = [("host: link veth1", 2, 2)];
        assert!(are_going(&[VETH, ("host: address 10.1.0.1/24 on veth1", "")], &alone));
        assert!(are_going(&[VETH, ("process sleep 1", "")], &alone));
    }

    #[test]
    fn a_link_whose_peer_is_there_stays() {
        let pair = [("host: link veth1", 7, 2), ("a: link eth0", 2, 7)];
        assert!(!are_going(&[VETH, ("a: link eth0", "veth up")], &pair));
        assert!(!are_going(&[VETH], &[]));
        assert!(!are_going(&[], &[]));
    }

    #[test]
    fn rules_files_and_sysctls_stay_whatever_else_goes() {
        for what in [
            "host: nft rule ip t c: accept",
            "file /run/x",
            "directory /run/x",
            "namespace a",
            "host: sysctl net/ipv4/ip_forward",
            "host: IPv4 policy rule 100:",
        ] {
            assert!(!are_going(&[VETH, (what, "")], &[("host: link veth1", 7, 2)]), "{what}");
        }
    }

    #[test]
    fn a_parent_leaves_promiscuous_mode_later() {
        let before = snapshot(&[("host: link up0", "veth up mtu 1500")]);
        for (state, is_going) in [
            ("veth up promisc allmulti mtu 1500 promiscuity 1", true),
            ("veth up mtu 1400 promiscuity 1", false),
        ] {
            let after = snapshot(&[("host: link up0", state)]);
            assert_eq!(Changes::between(&before, &after).are_going(), is_going, "{state}");
        }
    }

    #[test]
    fn bytes_of_a_file_are_counted() {
        assert_eq!(in_brackets("binary, 3 bytes: ff00ff"), " (binary, 3 bytes)");
        assert_eq!(in_brackets("key: value"), " (key: value)");
    }

    #[test]
    fn long_states_are_shown_where_they_differ() {
        let state = |end: &str| "x".repeat(1000) + end;
        let [then, now] = different_parts(&state("old"), &state("new"));
        assert_eq!(then, format!("...{}old", "x".repeat(30)));
        assert_eq!(now, format!("...{}new", "x".repeat(30)));
        assert_eq!(part(&state(""), 0), "x".repeat(160) + "...");
    }
}
