//! `rscni install`: this program under the name of every plugin, in a directory that container runtimes may be using
//! at the same moment.
//!
//! The program is there once, as `rscni`; each plugin is a relative link to it. Both are made under another name and
//! then renamed over the old entry, so that whoever looks finds the old one or the new one, and a plugin that is
//! running is not disturbed.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use rscni::Error;
use rscni_linux::make_directory;
use rustix::fs::{FlockOperation, flock};

use crate::cnitool;

/// The program's own name in the directory.
const PROGRAM: &str = "rscni";

/// Begins every name under which something is made. With the directory's lock held, whatever is found under such a
/// name is what an install left that was cut off.
const TEMPORARY: &str = ".rscni-install-";

/// Installs into `dir`, and says of each step what was done.
pub(crate) fn install(
    dir: &Path,
    only: Option<&[String]>,
    say: &mut dyn FnMut(String),
) -> Result<(), Error> {
    let names = selected(only)?;
    make_directory(dir, 0o755).map_err(|e| failure("make the directory", dir, &e))?;
    let handle = File::open(dir).map_err(|e| failure("open", dir, &e))?;
    flock(&handle, FlockOperation::LockExclusive).map_err(|e| failure("lock", dir, &e.into()))?;
    for name in names.iter().chain(&[PROGRAM]) {
        refuse_directory(&dir.join(name))?;
    }
    remove_leftovers(dir, say)?;

    let program = dir.join(PROGRAM);
    replace(&program, copy_self)?;
    say(format!("{}: this program", program.display()));
    for name in names {
        let link = dir.join(name);
        let before = fs::symlink_metadata(&link);
        if fs::read_link(&link).is_ok_and(|target| target == Path::new(PROGRAM)) {
            say(format!("{}: a link to {PROGRAM} already", link.display()));
            continue;
        }
        replace(&link, |path| symlink(PROGRAM, path))?;
        let instead = if before.is_ok() { ", in place of what was there" } else { "" };
        say(format!("{}: a link to {PROGRAM}{instead}", link.display()));
    }
    handle.sync_all().map_err(|e| failure("write to the disk", dir, &e))
}

/// The entries to make.
fn selected(only: Option<&[String]>) -> Result<Vec<&'static str>, Error> {
    let all = || rscni_plugins::ALL.iter().map(|plugin| plugin.name).chain([cnitool::NAME]);
    let Some(only) = only else { return Ok(all().collect()) };
    let named = only.iter().map(|name| {
        all().find(|known| known == name).ok_or_else(|| {
            let known = all().collect::<Vec<_>>().join(", ");
            Error::InvalidEnvValue(format!(
                "--only {name}: there is no such plugin inside; there are {known}"
            ))
        })
    });
    named.collect()
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
