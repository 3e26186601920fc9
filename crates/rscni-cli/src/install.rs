//! `rscni install`: installs this program under the name of every plugin.
//!
//! The directory has one copy of the program, `rscni`, and a relative link to it for each plugin.
//! An entry under another name links to the plugin's entry, so that its target names the plugin.
//! Each file is created under a temporary name and renamed, so container runtimes never see a
//! partial one.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::Path,
    str::FromStr,
};

use rscni::Error;
use rscni_linux::make_directory;
use rscni_plugins::Certainty;
use rustix::fs::{FlockOperation, flock};

use crate::{PROGRAM, cnitool, plugin_names};

/// Prefix of temporary names. Under the directory's lock, a file with it is left by an interrupted
/// install.
const TEMPORARY: &str = ".rscni-install-";

/// An entry under another name than the plugin's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alias {
    name: String,
    plugin: &'static str,
}

impl FromStr for Alias {
    type Err = String;

    /// Parses `NAME=PLUGIN`.
    ///
    /// # Errors
    /// If the plugin does not exist, or the name is not a file name or stands for another plugin.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, plugin) = text
            .split_once('=')
            .ok_or("must be of the form NAME=PLUGIN, such as buildkit-cni-bridge=bridge")?;
        let plugin = rscni_plugins::find(plugin).ok_or_else(|| {
            format!("there is no plugin {plugin:?}; the plugins are {}", plugin_names())
        })?;
        let is_file_name = !name.is_empty()
            && !name.starts_with('.')
            && !name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
        if !is_file_name || name == PROGRAM || name == cnitool::NAME {
            return Err(format!("{name:?} cannot be the file name of a plugin"));
        }
        match rscni_plugins::resolve([Path::new(name)]) {
            Some((other, Certainty::Explicit)) if other.name != plugin.name => {
                Err(format!("the name {name} stands for the plugin {}", other.name))
            }
            _ => Ok(Self { name: name.to_owned(), plugin: plugin.name }),
        }
    }
}

impl Alias {
    /// Returns the target of the link: the plugin's entry if it is ours, else the program.
    ///
    /// # Errors
    /// [`Error::InvalidEnvValue`] if neither the target nor the name would identify the plugin.
    fn target(&self, dir: &Path, names: &[&str]) -> Result<&str, Error> {
        let is_ours = |plugin: &str| {
            fs::read_link(dir.join(plugin)).is_ok_and(|target| target == Path::new(PROGRAM))
        };
        let is_named = || {
            rscni_plugins::resolve([Path::new(&self.name)])
                .is_some_and(|(plugin, _)| plugin.name == self.plugin)
        };
        let Self { name, plugin } = self;
        if names.contains(plugin) || is_ours(plugin) {
            Ok(plugin)
        } else if is_named() {
            Ok(PROGRAM)
        } else {
            Err(Error::InvalidEnvValue(format!(
                "--as {name}={plugin} would link to the entry {plugin}, which --only excludes: \
                 add {plugin} to --only, or choose a name that ends in -{plugin}"
            )))
        }
    }
}

/// Installs into `dir` and reports each step.
pub(crate) fn install(
    dir: &Path,
    only: Option<&[String]>,
    aliases: &[Alias],
    report: &mut dyn FnMut(String),
) -> Result<(), Error> {
    let names = selected(only)?;
    if let Some((one, other)) = contradiction(aliases) {
        return Err(Error::InvalidEnvValue(format!(
            "--as {0}={1} and --as {0}={2} contradict each other",
            one.name, one.plugin, other.plugin
        )));
    }
    make_directory(dir, 0o755).map_err(|e| failure("create the directory", dir, &e))?;
    let handle = File::open(dir).map_err(|e| failure("open", dir, &e))?;
    flock(&handle, FlockOperation::LockExclusive).map_err(|e| failure("lock", dir, &e.into()))?;
    let mut links: Vec<(&str, &str)> = names.iter().map(|name| (*name, PROGRAM)).collect();
    for alias in aliases {
        let link = (alias.name.as_str(), alias.target(dir, &names)?);
        // `bridge=bridge` is the plugin's regular entry.
        if link.0 != link.1 && !links.contains(&link) {
            links.push(link);
        }
    }
    for name in links.iter().map(|(name, _)| *name).chain([PROGRAM]) {
        refuse_directory(&dir.join(name))?;
    }
    remove_leftovers(dir, report)?;

    let program = dir.join(PROGRAM);
    replace(&program, copy_self)?;
    report(format!("{}: this program", program.display()));
    for (name, target) in links {
        let link = dir.join(name);
        let before = fs::symlink_metadata(&link);
        if fs::read_link(&link).is_ok_and(|it| it == Path::new(target)) {
            report(format!("{}: already a link to {target}", link.display()));
            continue;
        }
        replace(&link, |path| symlink(target, path))?;
        let instead = if before.is_ok() { ", replaces another file" } else { "" };
        report(format!("{}: a link to {target}{instead}", link.display()));
    }
    handle.sync_all().map_err(|e| failure("write to the disk", dir, &e))
}

/// Returns the names of the entries to install.
fn selected(only: Option<&[String]>) -> Result<Vec<&'static str>, Error> {
    let all = || rscni_plugins::ALL.iter().map(|plugin| plugin.name).chain([cnitool::NAME]);
    let Some(only) = only else { return Ok(all().collect()) };
    let named = only.iter().filter(|name| !name.is_empty()).map(|name| {
        all().find(|known| known == name).ok_or_else(|| {
            Error::InvalidEnvValue(format!(
                "--only {name}: there is no such entry; the entries are {}, {}",
                plugin_names(),
                cnitool::NAME
            ))
        })
    });
    named.collect()
}

/// Returns two aliases that give one name to different plugins.
fn contradiction(aliases: &[Alias]) -> Option<(&Alias, &Alias)> {
    let pairs = aliases
        .iter()
        .enumerate()
        .flat_map(|(at, one)| aliases[at + 1..].iter().map(move |other| (one, other)));
    pairs.into_iter().find(|(one, other)| one.name == other.name && one.plugin != other.plugin)
}

fn refuse_directory(path: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(Error::IOFailure(format!(
            "{} is a directory: move it away, or install into another directory",
            path.display()
        ))),
        _ => Ok(()),
    }
}

fn remove_leftovers(dir: &Path, report: &mut dyn FnMut(String)) -> Result<(), Error> {
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    for entry in entries.map_err(|e| failure("list", dir, &e))? {
        if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
            let path = entry.path();
            fs::remove_file(&path).map_err(|e| failure("remove", &path, &e))?;
            report(format!("{}: removed, left by an interrupted install", path.display()));
        }
    }
    Ok(())
}

/// Creates a file under a temporary name and renames it to `path`.
fn replace(path: &Path, create: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), Error> {
    let mut name = std::ffi::OsString::from(TEMPORARY);
    name.push(path.file_name().unwrap_or_default());
    let temporary = path.with_file_name(name);
    create(&temporary).and_then(|()| fs::rename(&temporary, path)).map_err(|error| {
        // The next install removes the file if this fails.
        let _ = fs::remove_file(&temporary);
        failure("write", path, &error)
    })
}

/// Copies this program. The copy is synced and closed before it is renamed, since a file that is
/// open for writing cannot be executed.
fn copy_self(path: &Path) -> io::Result<()> {
    let mut from = File::open("/proc/self/exe")?;
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o755).open(path)?;
    io::copy(&mut from, &mut to)?;
    to.set_permissions(Permissions::from_mode(0o755))?;
    to.sync_all()
}

/// Returns an error that says how to fix its cause.
fn failure(action: &str, path: &Path, error: &io::Error) -> Error {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => "; run it as a user with write permission, usually root",
        io::ErrorKind::ReadOnlyFilesystem => {
            "; the file system is read-only: choose a directory on a writable one and configure it \
             in your container runtime (bin_dir)"
        }
        io::ErrorKind::ExecutableFileBusy => {
            "; another program is writing or running that file: try again when it ends"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space, existing files were not changed"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "; it must be a directory, not a file"
        }
        _ => "",
    };
    Error::IOFailure(format!("{action} {}: {error}{advice}", path.display()))
}
