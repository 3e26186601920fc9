//! Snapshots of the private network, and their differences.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display, Formatter, Write},
    io,
    path::{Path, PathBuf},
};

use rscni_linux::Netns;

use crate::{
    Namespace,
    changes::{Changes, in_brackets},
    inventory,
    lab::{NAMESPACES, OWN},
    netlink::hex,
    ruleset,
};

/// Everything in a [`Lab`](crate::Lab) that a plugin can leave behind, at one moment:
///
/// - the network namespaces by name, and in each of them and on the host
/// - links with their kind, state, MTU, address, master and alias; addresses; routes; policy rules;
///   permanent neighbours; queueing disciplines
/// - nftables tables, chains, rules, sets and elements, without counters
/// - sysctls
/// - files below `/run`, `/var/lib/cni`, `/etc/cni` and what is [watched](crate::Lab::watch), with
///   their content
/// - processes that a plugin started and that still run
///
/// Objects of the kernel are left out: local routes, link-local addresses, learnt neighbours.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub(crate) items: Items,
    pub(crate) ignored: Vec<String>,
}

/// Objects and their state: `host: link cni0` and `bridge up mtu 1500`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Items {
    pub(crate) found: BTreeMap<String, String>,
    /// Ends of veth pairs, unless both are in one namespace.
    pub(crate) ends: Vec<End>,
}

/// An end of a veth pair.
#[derive(Debug, Clone)]
pub(crate) struct End {
    /// Key of the link in [`Items`].
    pub(crate) link: String,
    pub(crate) index: u32,
    pub(crate) peer: u32,
}

impl End {
    pub(crate) fn namespace(&self) -> &str {
        self.link.split_once(": ").map_or("", |(namespace, _)| namespace)
    }
}

impl Items {
    pub(crate) fn add(&mut self, what: String, how: String) {
        let mut key = what;
        let plain = key.len();
        // The same rule may be there twice.
        for number in 2.. {
            if !self.found.contains_key(&key) {
                break;
            }
            key.truncate(plain);
            let _ = write!(key, " (number {number})");
        }
        self.found.insert(key, how);
    }
}

impl Snapshot {
    /// Takes a snapshot of this process's network namespace without a [`Lab`](crate::Lab), and of
    /// the namespaces in `/run/netns`.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to list something.
    pub fn of_this_network() -> io::Result<Self> {
        take(&Namespace::host(Netns::current().map_err(io::Error::other)?), &[])
    }

    /// Ignores objects that contain `text` in comparisons with this snapshot. Use it for what a
    /// plugin is meant to leave behind, such as its bridge or `ip_forward`.
    ///
    /// ```
    /// # rscni_test::run(|lab| {
    /// let before = lab.snapshot().ignoring("ip_forward");
    /// std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    /// lab.assert_unchanged_since(&before);
    /// # });
    /// ```
    #[must_use]
    pub fn ignoring(mut self, text: &str) -> Self {
        self.ignored.push(text.to_owned());
        self
    }

    /// Asserts that nothing differs from `before`.
    /// [`Lab::assert_unchanged_since`](crate::Lab::assert_unchanged_since) also waits for the
    /// kernel.
    ///
    /// # Panics
    ///
    /// If something differs, with one difference per line.
    #[track_caller]
    pub fn assert_same(&self, before: &Self) {
        Changes::between(before, self).assert_none();
    }

    /// Returns the differences: `+` added, `-` removed, `~` changed.
    ///
    /// ```no_run
    /// # rscni_test::run(|lab| {
    /// # let (plugin, a, config) = (lab.plugin("/p"), lab.container("a"), serde_json::json!({}));
    /// let before = lab.snapshot();
    /// plugin.add(&a, "eth0", &config).success();
    /// let changes = before.changes_to(&lab.snapshot());
    /// assert!(changes.iter().any(|line| line.starts_with("+ a: link eth0 (veth up")), "{changes:#?}");
    /// # });
    /// ```
    pub fn changes_to(&self, after: &Self) -> Vec<String> {
        Changes::between(self, after).lines()
    }
}

/// One object per line. Sysctls are left out, since there are hundreds.
impl Display for Snapshot {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (what, how) in &self.items.found {
            if !what.contains(": sysctl ") {
                writeln!(f, "{what}{}", in_brackets(how))?;
            }
        }
        Ok(())
    }
}

/// Lists everything. Files that vanish during the listing are left out.
pub(crate) fn take(host: &Namespace, watched: &[PathBuf]) -> io::Result<Snapshot> {
    let mut items = Items::default();
    list_network(host, &mut items)?;
    let mut named: Vec<_> = std::fs::read_dir(NAMESPACES)?.collect::<Result<_, _>>()?;
    named.sort_by_key(std::fs::DirEntry::file_name);
    for entry in named {
        let name = entry.file_name().to_string_lossy().into_owned();
        match Netns::open(entry.path()) {
            Ok(_) => {
                items.add(format!("namespace {name}"), String::new());
                list_network(&Namespace::named(&name, entry.path()), &mut items)?;
            }
            Err(_) => {
                items.add(format!("file {}", entry.path().display()), "no namespace".to_owned());
            }
        }
    }
    let state = ["/run", "/var/run", "/var/lib/cni", "/etc/cni"].map(Path::new).into_iter();
    let mut seen = BTreeSet::new();
    for root in state.chain(watched.iter().map(PathBuf::as_path)) {
        list_files(root, true, &mut seen, &mut items);
    }
    list_processes(&mut items);
    Ok(Snapshot { items, ignored: Vec::new() })
}

fn list_network(namespace: &Namespace, items: &mut Items) -> io::Result<()> {
    let listed = namespace.open().and_then(|netns| {
        netns.enter(|| {
            inventory::list(namespace.name(), items)?;
            ruleset::list(namespace.name(), items)
        })
    });
    match listed {
        Ok(listed) => listed.map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", namespace.name()))
        }),
        Err(error) => Err(io::Error::other(error)),
    }
}

fn list_files(path: &Path, is_root: bool, seen: &mut BTreeSet<PathBuf>, items: &mut Items) {
    // `/var/run` may be a name for `/run`, and a watched directory may be below either.
    let Ok(real) = std::fs::canonicalize(path) else {
        return;
    };
    let own = !is_root && [NAMESPACES, OWN].iter().any(|own| Path::new(own) == real);
    if own || !seen.insert(real) {
        return;
    }
    let mut entries: Vec<_> = std::fs::read_dir(path).into_iter().flatten().flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    if entries.is_empty() && !is_root {
        items.add(format!("directory {}", path.display()), String::new());
    }
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type());
        let what = format!("file {}", path.display());
        match kind {
            Ok(kind) if kind.is_dir() => list_files(&path, false, seen, items),
            Ok(kind) if kind.is_file() => {
                let content = std::fs::read(&path).unwrap_or_default();
                let binary =
                    |bytes: &[u8]| format!("binary, {} bytes: {}", bytes.len(), hex(bytes));
                items
                    .add(what, String::from_utf8(content).unwrap_or_else(|e| binary(e.as_bytes())));
            }
            Ok(kind) if kind.is_symlink() => {
                let to = std::fs::read_link(&path).unwrap_or_default();
                items.add(what, format!("link to {}", to.display()));
            }
            Ok(_) => items.add(what, "socket or device".to_owned()),
            Err(_) => {}
        }
    }
}

/// Lists the processes of our user namespace, which were started from here.
fn list_processes(items: &mut Items) {
    let user_namespace = |process: &Path| std::fs::read_link(process.join("ns/user")).ok();
    let Some(own) = user_namespace(Path::new("/proc/self")) else {
        return;
    };
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if id.is_none_or(|id: u32| id == std::process::id())
            || user_namespace(&entry.path()).as_ref() != Some(&own)
        {
            continue;
        }
        // A zombie has no command line.
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let command = command.trim_end_matches('\0').replace('\0', " ");
        if !command.is_empty() {
            items.add(format!("process {command}"), String::new());
        }
    }
}
