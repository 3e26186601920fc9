//! Network namespaces by name, in the directory where `ip netns` keeps them and everyone looks.

use std::{fs::File, io, path::Path};

use rscni::Error;
use rscni_linux::{Netns, make_directory};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    mount::{MountPropagationFlags, mount_bind_recursive, mount_change},
};

/// The directory of names.
///
/// cnitool's users write `/var/run`, and the container id depends on how it is written.
pub(crate) fn named_dir() -> &'static Path {
    Path::new(if Path::new("/var/run").exists() { "/var/run/netns" } else { "/run/netns" })
}

/// Whether a namespace exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    There,
    /// Nothing is there, or a file that a namespace was once mounted on.
    Gone,
    /// This process cannot look, for that reason.
    Unknown(String),
}

/// Looks whether there is a namespace.
pub(crate) fn presence(path: &Path) -> Presence {
    match Netns::open(path) {
        Ok(_) => Presence::There,
        Err(rscni_linux::Error::NotFound { .. } | rscni_linux::Error::Invalid { .. }) => {
            Presence::Gone
        }
        Err(error) => Presence::Unknown(error.to_string()),
    }
}

/// Whether a path names a process by its number, and that process is in the namespace that this is called in.
pub(crate) fn is_own_by_process(path: &Path) -> bool {
    let number =
        path.strip_prefix("/proc").ok().and_then(|rest| rest.iter().next()).unwrap_or_default();
    let is_number = !number.is_empty() && number.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let is_own = || Netns::open(path)?.is_same(&Netns::current()?);
    is_number && is_own().unwrap_or_default()
}

/// Makes a namespace under that name, and says whether there was none.
pub(crate) fn make_if_missing(path: &Path) -> Result<bool, Error> {
    if path.exists() {
        return Ok(false);
    }
    let Some(dir) =
        path.parent().filter(|dir| *dir == named_dir() || *dir == Path::new("/run/netns"))
    else {
        return Err(Error::InvalidNetns(format!(
            "{} does not exist, and --create-netns makes namespaces in {} only: give a name instead of a path",
            path.display(),
            named_dir().display()
        )));
    };
    prepare(dir).map_err(|e| {
        Error::IOFailure(format!("make {} a place for namespaces: {e}", dir.display()))
    })?;
    let made = Netns::create().and_then(|netns| netns.bind(path));
    made.map_err(|e| Error::IOFailure(e.to_string()))?;
    Ok(true)
}

/// Removes what was made, because of that error.
pub(crate) fn unmake(path: &Path, error: Error) -> Error {
    match Netns::unbind(path) {
        Ok(()) => error,
        Err(left) => error.context(format!(
            "{} was made for this and is left, since it cannot be removed ({left})",
            path.display()
        )),
    }
}

/// Makes the directory, and a mount point of it that is shared with other mount namespaces: a name that is removed
/// in one of them would otherwise live on in the others, and the namespace with it.
fn prepare(dir: &Path) -> io::Result<()> {
    make_directory(dir, 0o755)?;
    let handle = File::open(dir)?;
    // As `ip netns add` holds it: two at once would mount it twice.
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
