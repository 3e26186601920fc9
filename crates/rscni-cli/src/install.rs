//! `rscni install`: this program under the name of every plugin, in a directory that container runtimes may be using
//! at the same moment.
//!
//! The program is there once, as `rscni`; each plugin is a relative link to it. Both are made under
//! another name and then renamed over the old entry, so that whoever looks finds the old one or the
//! new one, and a plugin that is running is not disturbed. An entry under another name is a link to
//! the plugin's entry, which tells what it is.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    str::FromStr,
};

use rscni::Error;
use rscni_linux::make_directory;
use rscni_plugins::Certainty;
use rustix::fs::{FlockOperation, flock};

use crate::{PROGRAM, cnitool};

/// Begins every name under which something is made. With the directory's lock held, whatever is found under such a
/// name is what an install left that was cut off.
const TEMPORARY: &str = ".rscni-install-";

/// An entry under a name that is not the plugin's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alias {
    name: String,
    plugin: &'static str,
}

impl FromStr for Alias {
    type Err = String;

    /// Reads `NAME=PLUGIN`.
    ///
    /// # Errors
    /// If there is no such plugin, or the name is none for a file, or stands for another plugin.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, plugin) = text
            .split_once('=')
            .ok_or("must be of the form NAME=PLUGIN, such as buildkit-cni-bridge=bridge")?;
        let plugin = rscni_plugins::find(plugin).ok_or_else(|| {
            let known: Vec<_> = rscni_plugins::ALL.iter().map(|plugin| plugin.name).collect();
            format!("there is no plugin {plugin:?}; there are {}", known.join(", "))
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
    /// What the entry links to: the plugin's entry, if that is one of ours.
    ///
    /// # Errors
    /// [`Error::InvalidEnvValue`] if there is none and the name does not tell which plugin it is.
    fn target(&self, dir: &Path, names: &[&str]) -> Result<&str, Error> {
        let is_ours = |plugin: &str| {
            fs::read_link(dir.join(plugin)).is_ok_and(|target| target == Path::new(PROGRAM))
        };
        let is_told = || {
            rscni_plugins::resolve([Path::new(&self.name)])
                .is_some_and(|(plugin, _)| plugin.name == self.plugin)
        };
        let Self { name, plugin } = self;
        if names.contains(plugin) || is_ours(plugin) {
            Ok(plugin)
        } else if is_told() {
            Ok(PROGRAM)
        } else {
            Err(Error::InvalidEnvValue(format!(
                "--as {name}={plugin} is a link to the entry {plugin}, which --only leaves out: \
                 add {plugin} to --only, or choose a name that ends in -{plugin}"
            )))
        }
    }
}

/// Installs into `dir`, and says of each step what was done.
pub(crate) fn install(
    dir: &Path,
    only: Option<&[String]>,
    aliases: &[Alias],
    say: &mut dyn FnMut(String),
) -> Result<(), Error> {
    let names = selected(only)?;
    if let Some((one, other)) = contradiction(aliases) {
        return Err(Error::InvalidEnvValue(format!(
            "--as {0}={1} and --as {0}={2} contradict each other",
            one.name, one.plugin, other.plugin
        )));
    }
    make_directory(dir, 0o755).map_err(|e| failure("make the directory", dir, &e))?;
    let handle = File::open(dir).map_err(|e| failure("open", dir, &e))?;
    flock(&handle, FlockOperation::LockExclusive).map_err(|e| failure("lock", dir, &e.into()))?;
    let mut links: Vec<(&str, &str)> = names.iter().map(|name| (*name, PROGRAM)).collect();
    for alias in aliases {
        let link = (alias.name.as_str(), alias.target(dir, &names)?);
        // `bridge=bridge` is the entry that is there anyway.
        if link.0 != link.1 && !links.contains(&link) {
            links.push(link);
        }
    }
    for name in links.iter().map(|(name, _)| *name).chain([PROGRAM]) {
        refuse_directory(&dir.join(name))?;
    }
    remove_leftovers(dir, say)?;

    let program = dir.join(PROGRAM);
    replace(&program, copy_self)?;
    say(format!("{}: this program", program.display()));
    for (name, target) in links {
        let link = dir.join(name);
        let before = fs::symlink_metadata(&link);
        if fs::read_link(&link).is_ok_and(|it| it == Path::new(target)) {
            say(format!("{}: a link to {target} already", link.display()));
            continue;
        }
        replace(&link, |path| symlink(target, path))?;
        let instead = if before.is_ok() { ", in place of what was there" } else { "" };
        say(format!("{}: a link to {target}{instead}", link.display()));
    }
    handle.sync_all().map_err(|e| failure("write to the disk", dir, &e))
}

/// The entries to make.
fn selected(only: Option<&[String]>) -> Result<Vec<&'static str>, Error> {
    let all = || rscni_plugins::ALL.iter().map(|plugin| plugin.name).chain([cnitool::NAME]);
    let Some(only) = only else { return Ok(all().collect()) };
    let named = only.iter().filter(|name| !name.is_empty()).map(|name| {
        all().find(|known| known == name).ok_or_else(|| {
            let known = all().collect::<Vec<_>>().join(", ");
            Error::InvalidEnvValue(format!(
                "--only {name}: there is no such plugin inside; there are {known}"
            ))
        })
    });
    named.collect()
}

/// Two entries of one name for different plugins.
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
            "{} is a directory and is left alone: move it away, or install into another directory",
            path.display()
        ))),
        _ => Ok(()),
    }
}

fn remove_leftovers(dir: &Path, say: &mut dyn FnMut(String)) -> Result<(), Error> {
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    for entry in entries.map_err(|e| failure("list", dir, &e))? {
        if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
            let path = entry.path();
            fs::remove_file(&path).map_err(|e| failure("remove", &path, &e))?;
            say(format!("{}: removed, left by an install that was cut off", path.display()));
        }
    }
    Ok(())
}

/// Makes something under a temporary name beside `path`, and renames it over `path`.
fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), Error> {
    let mut name = std::ffi::OsString::from(TEMPORARY);
    name.push(path.file_name().unwrap_or_default());
    let temporary = path.with_file_name(name);
    make(&temporary).and_then(|()| fs::rename(&temporary, path)).map_err(|error| {
        // The first error is the one to tell; the next install removes what stays.
        let _ = fs::remove_file(&temporary);
        failure("write", path, &error)
    })
}

/// Copies this program. It is on the disk before it gets its name, and closed, since a file that is open for writing
/// cannot be run.
fn copy_self(path: &Path) -> io::Result<()> {
    let mut from = File::open("/proc/self/exe")?;
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o755).open(path)?;
    io::copy(&mut from, &mut to)?;
    to.set_permissions(Permissions::from_mode(0o755))?;
    to.sync_all()
}

/// What could not be done, and what to do about it.
fn failure(what: &str, path: &Path, error: &io::Error) -> Error {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; run it as a user who may write there, root for most directories"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "; the file system is read-only: choose the directory that your container runtime is configured with \
             (bin_dir) on a writable one"
        }
        io::ErrorKind::ExecutableFileBusy => {
            "; another program is writing or running that file: try again when it ends"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room there, nothing was replaced by a part"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "; it must be a directory, not a file"
        }
        _ => "",
    };
    let path: PathBuf = path.into();
    Error::IOFailure(format!("{what} {}: {error}{advice}", path.display()))
}
