//! Mounts for private mount namespaces.

use std::{ffi::CString, path::Path};

use anyhow::{Context, Result};
use rustix::mount::MountFlags;

/// Mounts a file system at an existing directory.
pub(crate) fn mount(kind: &str, target: &Path, options: &str) -> Result<()> {
    let data = CString::new(options).context("mount options with a NUL")?;
    rustix::mount::mount("none", target, kind, MountFlags::empty(), Some(data.as_c_str()))
        .with_context(|| format!("mount {kind} at {} ({options})", target.display()))
}

/// Mounts an overlay of `lower` at `target`. Changes go to directories in `scratch`.
pub(crate) fn mount_overlay(lower: &str, target: &Path, scratch: &Path) -> Result<()> {
    let [upper, work] = ["upper", "work"].map(|name| scratch.join(name));
    for directory in [&upper, &work] {
        fs_err::create_dir(directory)?;
    }
    let (upper, work) = (upper.display(), work.display());
    mount("overlay", target, &format!("lowerdir={lower},upperdir={upper},workdir={work}"))
}
