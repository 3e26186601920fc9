//! Kubernetes, etcd, containerd and `CoreDNS`, built from the Go modules in `go/`.
//!
//! `go.mod` and `go.sum` pin all versions. One module compiles the packages that the programs share
//! once. containerd has its own, as it needs a newer version of the API between it and kubelet.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use xtask::{digest::sha256, go, program};

/// Version of Kubernetes in `go.mod`. Clients refuse a server without version.
const VERSION: &str = "v1.36.3";

/// The names of the multicall program.
const NAMES: [&str; 6] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
];

/// Interval between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(15);

/// The programs of the cluster: `tool` are those that a `go.mod` lists as tools.
pub(super) fn cluster(cache: &Path) -> Result<PathBuf> {
    let title = format!("Kubernetes {VERSION}, containerd, etcd and CoreDNS");
    build(cache, "kubernetes", &title, |directory| {
        for (module, packages) in
            [("containerd", &["tool"][..]), ("", &["./kubernetes", "./etcd", "./coredns", "tool"])]
        {
            let mut go = command(module);
            go.arg("build").arg("-o").arg(directory.join(""));
            with_progress(go.args(FLAGS).args(packages))?;
        }
        NAMES
            .iter()
            .try_for_each(|name| Ok(fs::os::unix::fs::symlink("kubernetes", directory.join(name))?))
    })
}

/// The upstream end-to-end tests of the network, in the program `network`, with the files that
/// their images need.
pub(super) fn upstream_tests(cache: &Path) -> Result<PathBuf> {
    let title = format!("the end-to-end tests of Kubernetes {VERSION}");
    build(cache, "kubernetes-tests", &title, |directory| {
        let mut go = command("");
        // Vetting every package takes longer than the compilation.
        go.args(["test", "-c", "-vet=off", "-o"]).arg(directory.join("network"));
        with_progress(go.args(FLAGS).arg("./network"))?;
        let mut go = command("");
        go.arg("build").arg("-o").arg(directory.join("")).args(FLAGS);
        with_progress(go.arg("k8s.io/kubernetes/test/images/regression-issue-74839"))?;
        let mut list = command("");
        list.args(["list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"]);
        let sources = program::capture(&mut list)?;
        let certificates = Path::new(sources.trim()).join("test/images/agnhost/porter");
        for name in ["localhost.crt", "localhost.key"] {
            fs::write(directory.join(name), fs::read(certificates.join(name))?)?;
        }
        Ok(())
    })
}

const FLAGS: [&str; 6] = [
    "-v",
    "-trimpath",
    "-mod=readonly",
    "-buildvcs=false",
    // They need C libraries.
    "-tags=no_btrfs,no_devmapper,no_zfs",
    "-ldflags=-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3",
];

fn build(
    cache: &Path,
    name: &str,
    title: &str,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let toolchain = go::toolchain()?;
    let mut sources = Vec::new();
    add_files(&modules(), "", &mut sources)?;
    sources.sort_unstable();
    let hash = sha256(format!("{toolchain}\n{FLAGS:?}\n{}", sources.join("\n")).as_bytes());
    let name = format!("{name}-{VERSION}-{}", &hash[..8]);
    go::cached(cache, &name, &format!("{title} with {toolchain}"), build)
}

/// The directory of the Go modules.
fn modules() -> PathBuf {
    program::workspace_root().join("rigs/src/e2e/kubernetes/go")
}

/// Adds the files of a directory with their paths below the modules.
fn add_files(directory: &Path, prefix: &str, sources: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = format!("{prefix}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        if path.is_dir() {
            add_files(&path, &name, sources)?;
        } else {
            sources.push(format!("{name}\n{}", fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

fn command(module: &str) -> Command {
    let mut go = go::command(Path::new("go"));
    go.current_dir(modules().join(module)).env("CGO_ENABLED", "0");
    go
}

/// Runs a build, and prints how many modules it has downloaded and packages it has compiled. Other
/// lines of its output are shown if it fails.
fn with_progress(go: &mut Command) -> Result<()> {
    let shown = program::shown(go);
    let mut child = go
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{shown}`"))?;
    let (mut downloaded, mut compiled, mut errors) = (0_usize, 0_usize, Vec::new());
    let (start, mut last) = (Instant::now(), Instant::now());
    for line in BufReader::new(child.stderr.take().expect("stderr is piped")).lines() {
        let line = line.context("read the output of go")?;
        if line.starts_with("go: downloading ") {
            downloaded += 1;
        } else if is_package(&line) {
            compiled += 1;
        } else {
            errors.push(line);
        }
        if last.elapsed() >= PROGRESS {
            last = Instant::now();
            println!(
                "  {:.0?}: {downloaded} modules downloaded, {compiled} packages compiled",
                start.elapsed()
            );
        }
    }
    let status = child.wait().with_context(|| format!("wait for `{shown}`"))?;
    ensure!(status.success(), "`{shown}` failed ({status}):\n{}", errors.join("\n"));
    Ok(())
}

/// Whether `go build -v` names a package in a line.
fn is_package(line: &str) -> bool {
    !line.is_empty() && !line.starts_with('#') && !line.contains([' ', ':', '\t'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_the_module_is_the_one_that_the_programs_report() {
        let module = fs::read_to_string(modules().join("go.mod")).unwrap();
        assert!(module.contains(&format!("\tk8s.io/kubernetes {VERSION}\n")));
        assert!(FLAGS.iter().any(|flag| flag.ends_with(&format!("gitVersion={VERSION}"))));
    }

    #[test]
    fn lines_with_packages_differ_from_errors() {
        assert!(is_package("k8s.io/client-go/rest"));
        for line in ["# k8s.io/client-go/rest", "rest/config.go:7:2: undefined: x", ""] {
            assert!(!is_package(line), "{line}");
        }
    }
}
