//! The owner of links, elements and files on the host.
//!
//! A link has a name derived from network, container id and interface name, and an alias that
//! spells them out. An element of nftables has the same text as its comment. So DEL needs only its
//! arguments, and GC can tell the owner of everything.

use rscni_linux::MacAddr;
use sha2::{Digest, Sha256, Sha512};

/// An attachment as the owner of what it created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner<'a> {
    pub(crate) network: &'a str,
    pub(crate) container_id: &'a str,
    pub(crate) ifname: &'a str,
}

/// The start of a link's alias, before the tag.
const ALIAS: &str = "rscni ";

/// The maximum length of a tag. nftables shows comments of up to 128 bytes.
const LONGEST: usize = 120;

impl Owner<'_> {
    /// Returns the owner tag: the three names, or hashes of them if they are too long.
    ///
    /// A tag is unambiguous: names contain no spaces, and no network name begins with `#`.
    pub(crate) fn tag(&self) -> String {
        let tag = format!("{} {} {}", self.network, self.container_id, self.ifname);
        if tag.len() <= LONGEST {
            return tag;
        }
        format!("{} {}", hashed_network(self.network), hash(&[self.container_id, self.ifname], 32))
    }

    /// Returns 32 hexadecimal digits that identify the owner where its names are too long, as in
    /// file names.
    pub(crate) fn digest(&self) -> String {
        hash(&[self.network, self.container_id, self.ifname], 32)
    }

    pub(crate) fn alias(&self) -> String {
        format!("{ALIAS}{}", self.tag())
    }

    /// Returns the tag in a link's alias, if the alias is one of ours.
    pub(crate) fn tag_of_alias(alias: &str) -> Option<&str> {
        alias.strip_prefix(ALIAS)
    }

    /// Whether an alias names another owner. Aliases of other programs name none.
    pub(crate) fn is_contradicted_by(&self, alias: Option<&str>) -> bool {
        alias.is_some_and(|alias| alias.starts_with(ALIAS) && alias != self.alias())
    }

    /// Returns the name of the host side of this owner's veth pair.
    pub(crate) fn veth_name(&self) -> String {
        derived_name("veth", &[self.network, self.container_id, self.ifname])
    }

    /// Returns the MAC address of a host interface of this owner. `kind` distinguishes its
    /// interfaces.
    pub(crate) fn mac(&self, kind: &str) -> MacAddr {
        derived_mac(&[kind, self.network, self.container_id, self.ifname])
    }
}

/// Parses a tag. Returns `None` if it contains hashes.
pub(crate) fn untagged(tag: &str) -> Option<Owner<'_>> {
    let mut names = tag.split(' ');
    let (network, container_id, ifname) = (names.next()?, names.next()?, names.next()?);
    (!network.starts_with('#') && names.next().is_none()).then_some(Owner {
        network,
        container_id,
        ifname,
    })
}

/// Whether a tag names an attachment of this container. `ifnames` lists its interfaces, for tags
/// that contain hashes.
pub(crate) fn is_of_container(
    tag: &str,
    container_id: &str,
    ifnames: impl FnOnce() -> Vec<String>,
) -> bool {
    match (untagged(tag), tag.strip_prefix('#').and_then(|tag| tag.split_once(' '))) {
        (Some(owner), _) => owner.container_id == container_id,
        (None, Some((_, attachment))) => {
            ifnames().iter().any(|ifname| hash(&[container_id, ifname], 32) == attachment)
        }
        (None, None) => false,
    }
}

/// Derives an interface name: a prefix of four letters and a hash, 15 bytes in all.
pub(crate) fn derived_name(prefix: &str, parts: &[&str]) -> String {
    format!("{prefix}{}", hash(parts, 11))
}

/// Derives the MAC address of an interface that stays on the host.
///
/// ADD sets the address at creation because udev replaces addresses that the kernel chose
/// (`MACAddressPolicy=persistent`). A bridge without an address of its own takes the lowest one of
/// its ports; the first byte keeps that from being ours if it has an uplink.
pub(crate) fn derived_mac(parts: &[&str]) -> MacAddr {
    let digest = digest(parts);
    MacAddr([0xfe, digest[0], digest[1], digest[2], digest[3], digest[4]])
}

/// Returns the start of the tags of a network whose owners have names that are too long.
pub(crate) fn hashed_network(network: &str) -> String {
    format!("#{}", hash(&[network], 16))
}

/// The first `digits` of the hexadecimal SHA-256 of the parts.
fn hash(parts: &[&str], digits: usize) -> String {
    hexadecimal(&digest(parts), digits)
}

fn digest(parts: &[&str]) -> [u8; 32] {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update(part.as_bytes());
        sha.update([0]);
    }
    sha.finalize().into()
}

/// Returns the hash in names that the Go plugins use: the first digits of a SHA-512.
pub(crate) fn go_hash(text: &str, digits: usize) -> String {
    hexadecimal(&Sha512::digest(text), digits)
}

/// The first `digits` of bytes, written in hexadecimal.
fn hexadecimal(bytes: &[u8], digits: usize) -> String {
    let halves = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    halves.take(digits).filter_map(|half| char::from_digit(half.into(), 16)).collect()
}

/// See [`fuzzing`](crate::fuzzing::saved).
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(owner) = untagged(&text) {
        let tag = owner.tag();
        assert!(tag == text || text.len() > LONGEST && tag.starts_with('#'));
        assert_eq!(Owner::tag_of_alias(&owner.alias()), Some(&*tag));
        assert!(!owner.is_contradicted_by(Some(&owner.alias())));
        assert!(owner.veth_name().len() == 15 && owner.digest().len() == 32);
    }
    let tag = Owner::tag_of_alias(&text);
    assert_eq!(tag.is_some(), text.starts_with(ALIAS));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner<'a>(network: &'a str, container_id: &'a str) -> Owner<'a> {
        Owner { network, container_id, ifname: "eth0" }
    }

    #[test]
    fn names_fit_the_kernel_and_differ_between_owners() {
        let long = "x".repeat(200);
        for (network, id) in [("net", "a"), ("net", &*long), (&*long, "a")] {
            let owner = owner(network, id);
            assert_eq!(owner.veth_name().len(), 15);
            assert!(owner.tag().len() <= LONGEST);
            assert_eq!(
                untagged(&owner.tag()),
                Some(owner).filter(|owner| owner.network.len() + owner.container_id.len() < 100)
            );
        }
        // Names are separated before they are hashed.
        assert_ne!(owner("ab", "c").veth_name(), owner("a", "bc").veth_name());
    }

    #[test]
    fn derived_addresses_are_local_unicast_and_differ_between_interfaces() {
        let mut seen = std::collections::HashSet::new();
        for id in 0..2000 {
            let id = format!("ctr-{id}");
            for kind in ["veth", "ifb"] {
                let mac = owner("net", &id).mac(kind);
                assert_eq!(mac, owner("net", &id).mac(kind));
                // Locally administered and unicast.
                assert_eq!(mac.0[0] & 0b11, 0b10);
                assert!(seen.insert(mac.0), "{mac} of {id} ({kind}) is taken");
            }
        }
    }

    #[test]
    fn a_tag_tells_its_container() {
        let (long, names) = ("x".repeat(120), || vec!["lo".to_owned(), "eth0".to_owned()]);
        for network in ["net", &long] {
            let tag = owner(network, "a").tag();
            assert!(is_of_container(&tag, "a", names));
            assert!(!is_of_container(&tag, "b", names));
        }
        assert!(!is_of_container(&owner(&long, "a").tag(), "a", || vec!["net1".to_owned()]));
        assert!(!is_of_container("no tag", "tag", names));
    }
}
