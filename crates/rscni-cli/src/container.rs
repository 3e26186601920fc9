//! Selects containers on command lines by id, by the beginning of a long id, or by Kubernetes pod.

use std::{fmt, path::Path, str::FromStr};

use rscni::{
    Error,
    name::check_container_id,
    runtime::{AttachmentParams, Cache, CacheEntry},
};
use rscni_plugins::inventory::{Presence, namespace};
use serde::Serialize;

use crate::node;

/// Digits of a long id that are shown and required, as in `docker ps`.
const SHORT: usize = 12;

/// Length of the ids of container runtimes: a SHA-256 in hexadecimal.
const LONG: usize = 64;

/// The Kubernetes pod of an attachment, from the runtime's `CNI_ARGS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Pod {
    /// Returns the pod of an attachment.
    ///
    /// Invalid pod names are ignored, since any program may have written `CNI_ARGS`.
    pub(crate) fn of(entry: &CacheEntry) -> Option<Self> {
        let value = |key: &str| {
            let pair = entry.params.args.iter().rfind(|(it, _)| it == key);
            pair.map(|(_, value)| value.clone()).filter(|value| is_name(value))
        };
        Some(Self { namespace: value("K8S_POD_NAMESPACE")?, name: value("K8S_POD_NAME")? })
    }
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Whether the text is a name as Kubernetes allows it (RFC 1123), in either case.
fn is_name(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let ends = [text.as_bytes().first(), text.as_bytes().last()];
    text.len() <= 253
        && text.bytes().all(is_inner)
        && ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
}

/// A container on a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selector {
    /// The id, or at least twelve digits of a long one.
    Id(String),
    /// The pod, `NAMESPACE/NAME`.
    Pod(Pod),
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((namespace, name)) = text.split_once('/') else {
            check_container_id(text).map_err(|error| error.details().to_owned())?;
            return Ok(Self::Id(text.to_owned()));
        };
        if !is_name(namespace) || !is_name(name) {
            return Err("a container is an id, or a pod as NAMESPACE/NAME".into());
        }
        Ok(Self::Pod(Pod { namespace: namespace.to_owned(), name: name.to_owned() }))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "container {id}"),
            Self::Pod(pod) => write!(f, "pod {pod}"),
        }
    }
}

impl Selector {
    /// Returns the selected attachments. An exact match takes precedence over abbreviated ids.
    pub(crate) fn select<'a>(
        &self,
        entries: impl IntoIterator<Item = &'a CacheEntry>,
    ) -> Vec<&'a CacheEntry> {
        let entries: Vec<_> = entries.into_iter().collect();
        let with = |matches: &dyn Fn(&CacheEntry) -> bool| -> Vec<&'a CacheEntry> {
            entries.iter().copied().filter(|entry| matches(entry)).collect()
        };
        match self {
            Self::Pod(pod) => with(&|entry| Pod::of(entry).as_ref() == Some(pod)),
            Self::Id(id) => {
                let exact = with(&|entry| entry.params.container_id == *id);
                if !exact.is_empty() || !is_abbreviation(id) {
                    return exact;
                }
                with(&|entry| {
                    is_long(&entry.params.container_id) && entry.params.container_id.starts_with(id)
                })
            }
        }
    }

    /// Returns the selected attachment to the network, or `None` if the cache does not have the id.
    ///
    /// # Errors
    /// [`Error::NotExist`] if the cache does not have the pod, [`Error::InvalidEnvValue`] if
    /// several containers match, and errors of the cache.
    pub(crate) fn find(
        &self,
        cache: &Cache,
        network: &str,
        ifname: &str,
    ) -> Result<Option<CacheEntry>, Error> {
        if let Self::Id(id) = self {
            let mut params = AttachmentParams::default();
            params.container_id.clone_from(id);
            ifname.clone_into(&mut params.ifname);
            // The operation itself reports a damaged entry.
            let entry = cache.load(network, &params).ok().flatten();
            if entry.is_some() || !is_abbreviation(id) {
                return Ok(entry);
            }
        }
        let listing = cache.list()?;
        let of_network = listing
            .entries
            .iter()
            .filter(|entry| entry.network == network && entry.params.ifname == ifname);
        let found = self.select(of_network);
        match (found.as_slice(), self) {
            ([entry], _) => Ok(Some((*entry).clone())),
            ([], Self::Id(_)) => Ok(None),
            ([], Self::Pod(_)) => Err(Error::NotExist(format!(
                "no attachment of {self} to network {network} as {ifname} in the cache; \
                 `rscni ls --all` lists the attachments"
            ))),
            (several, _) => {
                let ids: Vec<_> = several.iter().map(|entry| described(entry)).collect();
                Err(Error::InvalidEnvValue(format!(
                    "{self} matches several containers, give the id of one: {}",
                    ids.join(", ")
                )))
            }
        }
    }
}

/// Formats the container id, with a note if the namespace is gone.
fn described(entry: &CacheEntry) -> String {
    let gone = if namespace(entry) == Some(Presence::Gone) { " (gone)" } else { "" };
    format!("{}{gone}", entry.params.container_id)
}

/// Returns the id as tables show it.
pub(crate) fn shortened(id: &str) -> &str {
    if is_long(id) { &id[..SHORT] } else { id }
}

/// Whether an attachment is that of the loopback interface, which every container has.
pub(crate) fn is_loopback(entry: &CacheEntry) -> bool {
    let is_loopback = |plugin: &str| node::plain_kind(plugin) == "loopback";
    let of_plugins = || {
        entry
            .list()
            .ok()
            .is_some_and(|list| list.plugins.iter().all(|plugin| is_loopback(plugin.plugin_type())))
    };
    entry.params.ifname == "lo" || of_plugins()
}

/// Networks that runtimes define without a file: the loopback network of containerd, CRI-O and
/// other users of go-cni, and the bridges of Nomad and `BuildKit`.
const BUILT_IN_NETWORKS: [&str; 3] = ["cni-loopback", "nomad", "buildkit"];

/// Whether the runtime itself defines the attachment's network.
pub(crate) fn is_of_runtime(entry: &CacheEntry) -> bool {
    BUILT_IN_NETWORKS.contains(&entry.network.as_str()) || is_loopback(entry)
}

/// Returns the path of the attachment's namespace, or an empty path if unknown.
pub(crate) fn netns_of(entry: &CacheEntry) -> &Path {
    entry.params.netns.as_deref().unwrap_or(Path::new(""))
}

fn is_long(id: &str) -> bool {
    id.len() == LONG && is_hex(id)
}

fn is_abbreviation(id: &str) -> bool {
    (SHORT..LONG).contains(&id.len()) && is_hex(id)
}

fn is_hex(id: &str) -> bool {
    id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use rscni::{CNIResult, runtime::NetConfList};

    use super::*;

    fn entry(id: &str, args: &[(&str, &str)]) -> CacheEntry {
        let list =
            br#"{ "cniVersion": "1.0.0", "name": "net", "plugins": [{ "type": "bridge" }] }"#;
        let mut params = AttachmentParams::new(id, "/run/netns/a", "eth0");
        params.args = args.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        CacheEntry::new(&NetConfList::from_json(list).unwrap(), &params, &CNIResult::default())
    }

    fn of_pod(id: &str, namespace: &str, name: &str) -> CacheEntry {
        entry(id, &[("K8S_POD_NAMESPACE", namespace), ("K8S_POD_NAME", name)])
    }

    #[test]
    fn pod_names_must_be_valid_in_kubernetes() {
        let pod = |entry: &CacheEntry| Pod::of(entry).map(|pod| pod.to_string());
        assert_eq!(pod(&of_pod("a", "kube-system", "dns-1.x")), Some("kube-system/dns-1.x".into()));
        let twice = [("K8S_POD_NAMESPACE", "a"), ("K8S_POD_NAME", "b"), ("K8S_POD_NAME", "c")];
        assert_eq!(pod(&entry("a", &twice)), Some("a/c".into()));
        assert_eq!(pod(&entry("a", &[("K8S_POD_NAME", "b")])), None);
        for bad in ["", "a/b", "\u{1b}[2J", "a\nb", "-a", "a.", "..", "ä", &"x".repeat(254)] {
            assert_eq!(pod(&of_pod("a", "default", bad)), None, "{bad:?}");
            assert_eq!(pod(&of_pod("a", bad, "web")), None, "{bad:?}");
        }
    }

    #[test]
    fn selector_is_an_id_or_a_pod() {
        assert_eq!("web-1".parse(), Ok(Selector::Id("web-1".into())));
        let pod = Pod { namespace: "default".into(), name: "web".into() };
        assert_eq!("default/web".parse(), Ok(Selector::Pod(pod)));
        for bad in ["", "/", "default/", "/web", "a/b/c", "../there", "a b", "-a"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_long_ids_can_be_abbreviated() {
        let long = |digit: &str| format!("0123456789ab{}", digit.repeat(52));
        let entries = [
            entry(&long("c"), &[]),
            entry(&long("d"), &[]),
            entry("0123456789abcc", &[]),
            of_pod("web", "default", "web"),
            of_pod("web2", "default", "web"),
        ];
        let ids = |text: &str| -> Vec<String> {
            let selector: Selector = text.parse().unwrap();
            let found = selector.select(&entries);
            found.iter().map(|entry| entry.params.container_id.clone()).collect()
        };
        assert_eq!(ids("0123456789ab"), [long("c"), long("d")]);
        assert_eq!(ids("0123456789abc"), [long("c")]);
        assert_eq!(ids("0123456789abcc"), ["0123456789abcc"]);
        assert_eq!(ids("0123456789a"), [""; 0]);
        assert_eq!(ids("web"), ["web"]);
        assert_eq!(ids("default/web"), ["web", "web2"]);
        assert_eq!(shortened(&long("c")), "0123456789ab");
        assert_eq!(shortened("cnitool-77383ca0a0715733ca6f"), "cnitool-77383ca0a0715733ca6f");
    }
}
