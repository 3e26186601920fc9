//! Named network namespaces, in the directory of `ip netns`.

use std::{fs::File, io, path::Path};

use rscni::Error;
use rscni_linux::{Netns, make_directory};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    mount::{MountPropagationFlags, mount_bind_recursive, mount_change},
};

/// Returns the directory of named namespaces.
///
/// Users of cnitool write `/var/run`, and the container id depends on the spelling of the path.
pub(crate) fn named_dir() -> &'static Path {
    Path::new(if Path::new("/var/run").exists() { "/var/run/netns" } else { "/run/netns" })
}

/// Creates the named namespace if it does not exist. Returns whether it was created.
pub(crate) fn create_if_missing(path: &Path) -> Result<bool, Error> {
    if path.exists() {
        return Ok(false);
    }
    let Some(dir) =
        path.parent().filter(|dir| *dir == named_dir() || *dir == Path::new("/run/netns"))
    else {
        return Err(Error::InvalidNetns(format!(
            "{} does not exist, and --create-netns creates namespaces in {} only: give a name \
             instead of a path",
            path.display(),
            named_dir().display()
        )));
    };
    prepare(dir).map_err(|e| {
        Error::IOFailure(format!("prepare {} for network namespaces: {e}", dir.display()))
    })?;
    let created = Netns::create().and_then(|netns| netns.bind(path));
    created.map_err(|e| Error::IOFailure(e.to_string()))?;
    Ok(true)
}

/// Removes a namespace after the error, and returns the error.
pub(crate) fn remove_after(path: &Path, error: Error) -> Error {
    match Netns::unbind(path) {
        Ok(()) => error,
        Err(cause) => error.context(format!(
            "{} was created for this attachment and cannot be removed ({cause})",
            path.display()
        )),
    }
}

/// Creates the directory as a mount point that is shared with other mount namespaces.
///
/// Otherwise a name removed in one of them stays in the others and keeps the namespace alive.
fn prepare(dir: &Path) -> io::Result<()> {
    make_directory(dir, 0o755)?;
    let handle = File::open(dir)?;
    // `ip netns add` takes the same lock: two processes at once would mount the directory twice.
    flock(&handle, FlockOperation::LockExclusive)?;
    let share = || mount_change(dir, MountPropagationFlags::SHARED | MountPropagationFlags::REC);
    match share() {
        // Not a mount point yet.
        Err(Errno::INVAL) => {
            mount_bind_recursive(dir, dir)?;
            Ok(share()?)
        }
        shared => Ok(shared?),
    }
}
