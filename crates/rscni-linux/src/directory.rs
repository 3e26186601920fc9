//! Directories whose mode is what their maker says.

use std::fs::{DirBuilder, Permissions, remove_dir, set_permissions};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// What a mode gives to others than the owner.
const OTHERS: u32 = 0o077;

/// Makes a directory, and those that it is in (with mode 755), where they are not there yet.
///
/// The modes do not depend on the umask. One that is there, or a link to one, stays as it is.
///
/// # Errors
///
/// As [`std::fs::create_dir_all`].
pub fn make_directory(path: &Path, mode: u32) -> Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        // A umask takes away, it never adds: and what is the owner's it leaves to him.
        Ok(()) if mode & OTHERS == 0 => Ok(()),
        Ok(()) => set_permissions(path, Permissions::from_mode(mode)).inspect_err(|_| {
            // The first error is the one to tell.
            let _ = remove_dir(path);
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
                return Err(error);
            };
            make_directory(parent, 0o755)?;
            make_directory(path, mode)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}
