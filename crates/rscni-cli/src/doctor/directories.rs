//! Checks that directories exist, that only root can change them, and that plugins can write state.

use std::{
    collections::HashSet,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Context, Report, quoted};

pub(super) fn check(context: &Context<'_>, report: &mut Report) {
    if !context.conf_dir.is_dir() {
        let what = format!("{} does not exist", context.conf_dir.display());
        let why = "runtimes read network configurations from it";
        let mend = format!("mkdir -p {}", quoted(context.conf_dir));
        report.error("conf-dir-missing", what, why, Some(mend));
    }
    for dir in context.plugin_path.iter().filter(|dir| !dir.is_dir()) {
        report.warning(
            "plugin-dir-missing",
            format!("{} does not exist", dir.display()),
            "runtimes execute plugins from it; only rscni itself works without it",
            Some(format!("rscni install {}", quoted(dir))),
        );
    }
    for path in privileged_paths(context) {
        if let Ok(metadata) = path.metadata() {
            check_owner(&path, metadata.mode(), metadata.uid(), report);
        }
    }
    let mut seen = Vec::new();
    for path in state_dirs(context) {
        let Some((at, metadata)) =
            path.ancestors().find_map(|path| Some((path, path.metadata().ok()?)))
        else {
            continue;
        };
        // Each file system is checked once.
        if !seen.contains(&metadata.dev()) {
            seen.push(metadata.dev());
            if let Ok(storage) = rustix::fs::statvfs(at) {
                check_space(at, &storage, report);
            }
        }
    }
}

/// Returns the directories in which plugins and runtimes keep state.
fn state_dirs(context: &Context<'_>) -> Vec<PathBuf> {
    let dirs = &context.node.dirs;
    let others = ["/var/lib/cni/networks", "/run/cni"].map(PathBuf::from);
    [context.cache_dir.to_owned()]
        .into_iter()
        .chain(others)
        .chain(dirs.directories().map(Path::to_owned))
        .collect()
}

fn check_space(path: &Path, storage: &rustix::fs::StatVfs, report: &mut Report) {
    /// Enough for a few calls.
    const BYTES: u64 = 256 << 10;
    const FILES: u64 = 16;
    let shown = path.display();
    if storage.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        let what = format!("{shown} is on a read-only file system");
        let why = "ADD fails, and DEL cannot release what is recorded there";
        let mend = format!("mount -o remount,rw \"$(stat -c %m {})\"", quoted(path));
        return report.error("storage-read-only", what, why, Some(super::as_root(&mend)));
    }
    let bytes = storage.f_bfree.saturating_mul(storage.f_frsize);
    // Totals of zero mean that the file system has no limit.
    let short = if bytes < BYTES && storage.f_blocks > 0 {
        format!("{} KiB", bytes >> 10)
    } else if storage.f_ffree < FILES && storage.f_files > 0 {
        format!("room for {} files", storage.f_ffree)
    } else {
        return;
    };
    let what = format!("the file system of {shown} has {short} left");
    let why = "ADD fails; `rscni gc --auto` removes the files of containers that no longer exist";
    report.error("storage-full", what, why, None);
}

/// Returns the paths that determine what root executes: write access to them is root access.
fn privileged_paths(context: &Context<'_>) -> Vec<PathBuf> {
    let mut paths = vec![
        context.conf_dir.to_owned(),
        context.cache_dir.to_owned(),
        context.cache_dir.join("results"),
    ];
    paths.extend(context.networks.networks.iter().map(|(file, _)| file.clone()));
    paths.extend(context.networks.broken.iter().map(|(file, _)| file.clone()));
    let dirs = &context.node.dirs;
    paths.push("/var/lib/cni/networks".into());
    paths.extend(dirs.directories().map(Path::to_owned));
    for dir in &context.plugin_path {
        paths.push(dir.clone());
        let types = context.plugins().flat_map(|(_, plugin)| context.types(plugin));
        paths.extend(types.map(|name| dir.join(name)));
    }
    let mut seen = HashSet::new();
    paths.retain(|path| seen.insert(path.clone()));
    paths
}

fn check_owner(path: &Path, mode: u32, owner: u32, report: &mut Report) {
    const OTHERS_WRITE: u32 = 0o002;
    let shown = path.display();
    if mode & OTHERS_WRITE != 0 {
        let what = format!("{shown} is writable by all users (mode {:o})", mode & 0o7777);
        let why = "any user can become root: root executes plugins, and a network names them";
        report.error("writable-by-all", what, why, Some(format!("chmod o-w {}", quoted(path))));
    }
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        let what = format!("{shown} belongs to user {owner}");
        let why = "that user can become root: root executes plugins, and a network names them";
        report.error("owner-not-root", what, why, Some(format!("chown root {}", quoted(path))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_permissions_are_reported_with_a_fix() {
        let mut report = Report::default();
        check_owner(Path::new("/a"), 0o40755, 0, &mut report);
        assert!(report.findings.is_empty());
        check_owner(Path::new("/a b"), 0o40757, 4_000_000_001, &mut report);
        let found: Vec<_> =
            report.findings.iter().map(|f| (f.id, f.mend.as_deref().unwrap())).collect();
        assert_eq!(
            found,
            [("writable-by-all", "chmod o-w '/a b'"), ("owner-not-root", "chown root '/a b'")]
        );
    }

    /// The namespaces of tests have only one user, so `chown` is replaced by a function that prints
    /// its arguments; `uml_security` runs the real one.
    #[test]
    fn chown_command_is_quoted_for_the_shell() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it's $HOME");
        std::fs::write(&path, "").unwrap();
        let mut report = Report::default();
        check_owner(&path, 0o40755, 4_000_000_001, &mut report);
        let mend = report.findings[0].mend.as_deref().unwrap();
        let script = format!("chown() {{ printf '%s|' \"$@\"; }}; {mend}");
        let output = std::process::Command::new("sh").args(["-ec", &script]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("root|{}|", path.display()));
    }
}
