//! Plugins under file names other than their own.
//!
//! Distributions install plugins as `buildkit-cni-bridge` or `cnv-bridge`, and an operator may
//! choose any name. A Go plugin is one program each and ignores its file name. This program has
//! them all, so the name must tell which one is meant.

use std::{
    ffi::OsStr,
    iter::successors,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use rscni::invoke::find_plugin;

use crate::{plugin::Plugin, registry::find};

/// Prefixes under which distributions install the reference plugins: `BuildKit`, and `OpenShift`
/// Virtualization.
const KNOWN_PREFIXES: [&str; 2] = ["buildkit-cni-", "cnv-"];

/// The kernel gives up after as many symbolic links.
const MAX_LINKS: usize = 40;

/// The certainty that a program file stands for a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Its name is that of the plugin, has a known prefix, or the file is a link to one of that
    /// name.
    Explicit,
    /// Its name ends in that of the plugin, after a prefix that is not known.
    Guessed,
}

/// Returns the plugin that a program file stands for.
///
/// `names` are the paths by which the program was started, the most trustworthy first. In this
/// order: the file's name, its name after a known prefix, the names of the links that it leads to,
/// its name after any prefix.
pub fn resolve<'a>(
    names: impl IntoIterator<Item = &'a Path> + Clone,
) -> Option<(&'static Plugin, Certainty)> {
    let explicit = names
        .clone()
        .into_iter()
        .find_map(|path| by_name(path).or_else(|| by_known_prefix(path)).or_else(|| by_link(path)));
    explicit.map(|entry| (entry, Certainty::Explicit)).or_else(|| {
        let guessed = names.into_iter().find_map(by_any_prefix);
        guessed.map(|entry| (entry, Certainty::Guessed))
    })
}

/// Returns the name of the plugin of this crate that `plugin`, the `type` of a configuration,
/// stands for when it is looked for in `path`. Other plugins keep their name.
///
/// A link to `dhcp` counts as dhcp, whichever implementation it leads to.
pub fn kind<'a>(plugin: &'a str, path: &[PathBuf]) -> &'a str {
    self::plugin(plugin, path).map_or(plugin, |found| found.name)
}

/// Returns the plugin that [`kind`] names.
pub(crate) fn plugin(plugin: &str, path: &[PathBuf]) -> Option<&'static Plugin> {
    find(plugin).or_else(|| after_known_prefix(plugin)).or_else(|| {
        let program = find_plugin(plugin, path).ok()?;
        let is_ours = || is_this_program(&program) || is_named_as_this_program(&program);
        by_link(&program).or_else(|| by_any_prefix(&program).filter(|_| is_ours()))
    })
}

/// Whether a file is a copy of this program, by its name after following links.
pub fn is_named_as_this_program(program: &Path) -> bool {
    program.canonicalize().is_ok_and(|real| file_name(&real) == Some("rscni"))
}

fn by_name(path: &Path) -> Option<&'static Plugin> {
    find(file_name(path)?)
}

fn by_known_prefix(path: &Path) -> Option<&'static Plugin> {
    after_known_prefix(file_name(path)?)
}

fn after_known_prefix(name: &str) -> Option<&'static Plugin> {
    KNOWN_PREFIXES.iter().find_map(|prefix| find(name.strip_prefix(prefix)?))
}

/// Only a path with a slash is followed: any other was looked up in a directory that is not known
/// here.
fn by_link(path: &Path) -> Option<&'static Plugin> {
    targets(path).find_map(|target| by_name(&target).or_else(|| by_known_prefix(&target)))
}

/// The longest name of a plugin wins: `edge-host-local` is host-local.
///
/// The last target of a link may be the program itself, whose name, such as `rscni-static`, names
/// no plugin.
fn by_any_prefix(path: &Path) -> Option<&'static Plugin> {
    let suffix = |path: &Path| {
        let name = file_name(path)?;
        let mut hyphens = name.match_indices('-').filter(|(at, _)| *at > 0);
        hyphens.find_map(|(at, _)| find(&name[at + 1..]))
    };
    suffix(path).or_else(|| {
        let is_program = |path: &Path| file_name(path).is_some_and(|it| it.starts_with("rscni"));
        let mut entries = targets(path).filter(|target| target.is_symlink() || !is_program(target));
        entries.find_map(|entry| suffix(&entry))
    })
}

/// Returns the paths that a symbolic link leads to, one link after the other.
fn targets(path: &Path) -> impl Iterator<Item = PathBuf> {
    let next = |path: &Path| {
        let target = path.read_link().ok()?;
        Some(path.parent().unwrap_or(Path::new("")).join(target))
    };
    let has_slash = path.as_os_str().as_encoded_bytes().contains(&b'/');
    let first = if has_slash { next(path) } else { None };
    successors(first, move |path| next(path)).take(MAX_LINKS)
}

fn file_name(path: &Path) -> Option<&str> {
    path.file_name().and_then(OsStr::to_str)
}

/// The file of the running program.
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";

pub(crate) fn is_this_program(program: &Path) -> bool {
    // The program of a process stays the same when its file is renamed or removed.
    static THIS: LazyLock<Option<(u64, u64)>> = LazyLock::new(|| identity(Path::new(THIS_PROGRAM)));
    program == Path::new(THIS_PROGRAM) || THIS.is_some_and(|this| identity(program) == Some(this))
}

fn identity(program: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(program).map(|m| (m.dev(), m.ino())).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::{
        Certainty::{Explicit, Guessed},
        *,
    };

    fn resolved(names: &[&Path]) -> Option<(&'static str, Certainty)> {
        resolve(names.iter().copied()).map(|(entry, certainty)| (entry.name, certainty))
    }

    #[test]
    fn a_name_resolves_by_itself_or_after_a_prefix() {
        for (name, expected) in [
            ("bridge", Some(("bridge", Explicit))),
            ("/opt/cni/bin/host-local", Some(("host-local", Explicit))),
            ("buildkit-cni-host-local", Some(("host-local", Explicit))),
            ("cnv-bridge", Some(("bridge", Explicit))),
            ("edge-host-local", Some(("host-local", Guessed))),
            ("edge-host-device", Some(("host-device", Guessed))),
            ("a-vlan", Some(("vlan", Guessed))),
            ("my-cnv-ipvlan", Some(("ipvlan", Guessed))),
            ("host-local-bridge", Some(("bridge", Guessed))),
            ("rscni", None),
            ("rscni-linux-amd64", None),
            ("mybridge", None),
            ("cnv-", None),
            ("bridge-", None),
            ("-bridge", None),
            ("", None),
            ("bridge.old", None),
            ("edge-local", None),
        ] {
            assert_eq!(resolved(&[Path::new(name)]), expected, "{name:?}");
        }
    }

    #[test]
    fn a_link_resolves_by_the_names_that_it_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("rscni-static"), "").unwrap();
        std::fs::write(at("edge-vlan"), "").unwrap();
        for (name, target) in [
            ("bridge", "rscni-static"),
            ("uplink", "bridge"),
            ("edge-static", "./uplink"),
            ("second", "edge-ptp"),
            ("edge-ptp", "rscni-static"),
            ("program", "rscni-static"),
            ("third", "edge-vlan"),
            ("self", "self"),
            ("dangling", "nothing"),
        ] {
            symlink(target, at(name)).unwrap();
        }
        for (name, expected) in [
            ("uplink", Some(("bridge", Explicit))),
            // A link that an operator made counts more than the end of the name.
            ("edge-static", Some(("bridge", Explicit))),
            ("second", Some(("ptp", Guessed))),
            ("third", Some(("vlan", Guessed))),
            ("program", None),
            ("self", None),
            ("dangling", None),
        ] {
            assert_eq!(resolved(&[&at(name)]), expected, "{name}");
        }
    }

    #[test]
    fn the_path_of_the_program_decides_if_argv_0_does_not() {
        let program = Path::new("/opt/cni/bin/bridge");
        assert_eq!(resolved(&[Path::new("x"), program]), Some(("bridge", Explicit)));
        assert_eq!(resolved(&[Path::new("edge-ptp"), program]), Some(("bridge", Explicit)));
        assert_eq!(resolved(&[Path::new("ptp"), program]), Some(("ptp", Explicit)));
    }

    #[test]
    fn the_kind_of_a_plugin_is_its_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = [dir.path().to_owned()];
        std::fs::copy("/bin/true", dir.path().join("dhcp")).unwrap();
        std::fs::copy("/bin/true", dir.path().join("ovs-bridge")).unwrap();
        symlink("dhcp", dir.path().join("leases")).unwrap();
        symlink("/proc/self/exe", dir.path().join("edge-static")).unwrap();
        for (plugin, expected) in [
            ("dhcp", "dhcp"),
            ("cnv-dhcp", "dhcp"),
            ("leases", "dhcp"),
            ("edge-static", "static"),
            // A plugin of another project, and one that is not installed.
            ("ovs-bridge", "ovs-bridge"),
            ("edge-ptp", "edge-ptp"),
            ("../dhcp", "../dhcp"),
        ] {
            assert_eq!(kind(plugin, &path), expected, "{plugin}");
        }
    }
}
