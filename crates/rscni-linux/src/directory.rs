//! Directories whose mode is what their maker says.

use std::{
    fs::{DirBuilder, Permissions, remove_dir, set_permissions},
    io::{ErrorKind, Result},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

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
    match make_one(path, mode) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
                return Err(error);
            };
            make_directory(parent, 0o755)?;
            // Once: there are file systems that say of every directory that it cannot be, such as `/proc`.
            make_one(path, mode)
        }
        outcome => outcome,
    }
}

fn make_one(path: &Path, mode: u32) -> Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        // A umask takes away, it never adds: and what is the owner's it leaves to him.
        Ok(()) if mode & OTHERS == 0 => Ok(()),
        Ok(()) => set_permissions(path, Permissions::from_mode(mode)).inspect_err(|_| {
            // The first error is the one to tell.
            let _ = remove_dir(path);
        }),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_made_and_what_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mode =
            |path: &str| dir.path().join(path).metadata().unwrap().permissions().mode() & 0o777;
        make_directory(&dir.path().join("a/b/c"), 0o700).unwrap();
        assert_eq!(["a", "a/b", "a/b/c"].map(mode), [0o755, 0o755, 0o700]);
        make_directory(&dir.path().join("a/b"), 0o700).unwrap();
        assert_eq!(mode("a/b"), 0o755);
    }

    #[test]
    fn where_no_directory_can_be_made_it_says_so() {
        assert!(make_directory(Path::new("/proc/nothing/at/all"), 0o755).is_err());
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(make_directory(file.path(), 0o755).is_err());
        assert!(make_directory(&file.path().join("below"), 0o755).is_err());
    }
}
