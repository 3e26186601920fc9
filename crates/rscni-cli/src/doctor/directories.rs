//! Directories: are they there, can nobody but root change what is in them, and can the plugins write into theirs.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Patient, Report, quoted};

pub(super) fn check(patient: &Patient<'_>, report: &mut Report) {
    if !patient.conf_dir.is_dir() {
        let what = format!("{} is not there", patient.conf_dir.display());
        let mend = format!("mkdir -p {}", quoted(patient.conf_dir));
        report.error(
            "conf-dir-missing",
            what,
            "runtimes read network configurations from it",
            Some(mend),
        );
    }
    for dir in patient.plugin_path.iter().filter(|dir| !dir.is_dir()) {
        report.warning(
            "plugin-dir-missing",
            format!("{} is not there", dir.display()),
            "runtimes start plugins from it; this program's own work for rscni alone without it",
            Some(format!("rscni install {}", quoted(dir))),
        );
    }
    for path in trusted(patient) {
        if let Ok(metadata) = path.metadata() {
            inspect(&path, metadata.mode(), metadata.uid(), report);
        }
    }
    let mut seen = Vec::new();
    for path in written(patient) {
        let Some((at, metadata)) =
            path.ancestors().find_map(|path| Some((path, path.metadata().ok()?)))
        else {
            continue;
        };
        // Once for each file system.
        if !seen.contains(&metadata.dev()) {
            seen.push(metadata.dev());
            if let Ok(storage) = rustix::fs::statvfs(at) {
                weigh(at, &storage, report);
            }
        }
    }
}

/// Where plugins and runtimes keep what they must not lose.
fn written(patient: &Patient<'_>) -> Vec<PathBuf> {
    let dirs = &patient.node.dirs;
    let others = ["/var/lib/cni/networks", "/run/cni"].map(PathBuf::from);
    [patient.cache_dir.to_owned()]
        .into_iter()
        .chain(others)
        .chain(dirs.directories().map(Path::to_owned))
        .collect()
}

fn weigh(path: &Path, storage: &rustix::fs::StatVfs, report: &mut Report) {
    /// What a few calls need.
    const BYTES: u64 = 256 << 10;
    const FILES: u64 = 16;
    let shown = path.display();
    if storage.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        let what = format!("{shown} is on a file system that nobody can write to");
        let why = "an ADD fails there, and a DEL cannot give back what is kept there";
        let mend = format!("mount -o remount,rw \"$(stat -c %m {})\"", quoted(path));
        return report.error("storage-read-only", what, why, Some(super::as_root(&mend)));
    }
    let bytes = storage.f_bfree.saturating_mul(storage.f_frsize);
    // Where files are not counted there is no end of them.
    let short = if bytes < BYTES && storage.f_blocks > 0 {
        format!("{} KiB", bytes >> 10)
    } else if storage.f_ffree < FILES && storage.f_files > 0 {
        format!("room for {} files", storage.f_ffree)
    } else {
        return;
    };
    let what = format!("the file system of {shown} has {short} left");
    let why = "an ADD fails there; `rscni gc --auto` gives back what containers that are gone hold, the rest is others'";
    report.error("storage-full", what, why, None);
}

/// What root acts on: whoever can change it can become root.
fn trusted(patient: &Patient<'_>) -> Vec<PathBuf> {
    let mut paths = vec![
        patient.conf_dir.to_owned(),
        patient.cache_dir.to_owned(),
        patient.cache_dir.join("results"),
    ];
    paths.extend(patient.networks.networks.iter().map(|(file, _)| file.clone()));
    paths.extend(patient.networks.broken.iter().map(|(file, _)| file.clone()));
    let dirs = &patient.node.dirs;
    paths.push("/var/lib/cni/networks".into());
    paths.extend(dirs.directories().map(Path::to_owned));
    for dir in &patient.plugin_path {
        paths.push(dir.clone());
        let types = patient.plugins().flat_map(|(_, plugin)| patient.types(plugin));
        paths.extend(types.map(|name| dir.join(name)));
    }
    let mut each: Vec<PathBuf> = Vec::new();
    for path in paths {
        if !each.contains(&path) {
            each.push(path);
        }
    }
    each
}

fn inspect(path: &Path, mode: u32, owner: u32, report: &mut Report) {
    const OTHERS_WRITE: u32 = 0o002;
    let shown = path.display();
    if mode & OTHERS_WRITE != 0 {
        let what = format!("{shown} can be changed by everyone (mode {:o})", mode & 0o7777);
        let why =
            "what is in it is done by root: a list can start any program, a program is started";
        report.error("writable-by-all", what, why, Some(format!("chmod o-w {}", quoted(path))));
    }
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        let what = format!("{shown} belongs to user {owner}");
        let why = "that user can have root do anything: a list can start any program, a program is started";
        report.error("owner-not-root", what, why, Some(format!("chown root {}", quoted(path))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_can_change_is_told_with_what_takes_it_from_them() {
        let mut report = Report::default();
        inspect(Path::new("/a"), 0o40755, 0, &mut report);
        assert!(report.findings.is_empty());
        inspect(Path::new("/a b"), 0o40757, 4_000_000_001, &mut report);
        let found: Vec<_> =
            report.findings.iter().map(|f| (f.id, f.mend.as_deref().unwrap())).collect();
        assert_eq!(
            found,
            [("writable-by-all", "chmod o-w '/a b'"), ("owner-not-root", "chown root '/a b'")]
        );
    }

    /// A file of somebody else needs a second user, whom the namespaces of an ordinary user's tests do not have: see
    /// `uml_security`. Here the command is run with a `chown` that notes what it is to do.
    #[test]
    fn the_shell_reads_the_command_that_gives_a_file_to_root() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it's $HOME");
        std::fs::write(&path, "").unwrap();
        let mut report = Report::default();
        inspect(&path, 0o40755, 4_000_000_001, &mut report);
        let mend = report.findings[0].mend.as_deref().unwrap();
        let noting = format!("chown() {{ printf '%s|' \"$@\"; }}; {mend}");
        let output = std::process::Command::new("sh").args(["-ec", &noting]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("root|{}|", path.display()));
    }
}
