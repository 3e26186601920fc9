//! Directories with a mode that does not depend on the umask.

use std::{
    fs::{DirBuilder, Permissions, remove_dir, set_permissions},
    io::{ErrorKind, Result},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

/// The permissions of a mode for group and others.
const OTHERS: u32 = 0o077;

/// Creates a directory, and its missing parents with mode 755.
///
/// The umask does not change the modes. An existing directory, or a link to one, keeps its mode.
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
            // Only one retry: some file systems, such as `/proc`, report every new directory as not
            // found.
            make_one(path, mode)
        }
        outcome => outcome,
    }
}

fn make_one(path: &Path, mode: u32) -> Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        // The umask only clears bits, and usually none of the owner's.
        Ok(()) if mode & OTHERS == 0 => Ok(()),
        Ok(()) => set_permissions(path, Permissions::from_mode(mode)).inspect_err(|_| {
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
    fn missing_directories_are_created_and_existing_ones_keep_their_mode() {
        let dir = tempfile::tempdir().unwrap();
        let mode =
            |path: &str| dir.path().join(path).metadata().unwrap().permissions().mode() & 0o777;
        make_directory(&dir.path().join("a/b/c"), 0o700).unwrap();
        assert_eq!(["a", "a/b", "a/b/c"].map(mode), [0o755, 0o755, 0o700]);
        make_directory(&dir.path().join("a/b"), 0o700).unwrap();
        assert_eq!(mode("a/b"), 0o755);
    }

    #[test]
    fn impossible_directory_is_an_error() {
        assert!(make_directory(Path::new("/proc/nothing/at/all"), 0o755).is_err());
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(make_directory(file.path(), 0o755).is_err());
        assert!(make_directory(&file.path().join("below"), 0o755).is_err());
    }
}
