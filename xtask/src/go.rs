//! Programs of other projects, built from their Go modules.
//!
//! A module is pinned to a version, and Go checks the download against its checksum database. The
//! module is built as the main module, so its own `go.mod` decides all versions. The programs stay
//! in a cache directory outside the workspace ([`cache`]), for the next run and for other
//! checkouts.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, anyhow, ensure};
use fs_err as fs;
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use crate::{digest::sha256, program};

/// A Go module at a version, and how to build it.
pub struct Module {
    /// Import path.
    pub path: &'static str,
    /// Version, with the `v`.
    pub version: &'static str,
    /// Patterns of the packages whose programs are built.
    pub packages: &'static [&'static str],
    /// Build tags.
    pub tags: &'static [&'static str],
    /// Variables that the linker sets, in the syntax of `-X`.
    pub variables: &'static [&'static str],
    /// Directories of packages that are replaced by empty ones, since they need C or modules that
    /// are not available.
    pub omitted: &'static [&'static str],
}

/// The Go plugins.
pub const PLUGINS: Module = Module {
    path: "github.com/containernetworking/plugins",
    version: "v1.10.0",
    packages: &["./plugins/main/...", "./plugins/ipam/...", "./plugins/meta/..."],
    tags: &[],
    variables: &[
        "github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=v1.10.0",
    ],
    omitted: &[],
};

/// The directory of the Go plugins to compare with: `named`, or the ones built from [`PLUGINS`].
pub fn plugins(named: Option<&Path>) -> Result<PathBuf> {
    let Some(named) = named else { return PLUGINS.build() };
    let directory = fs::canonicalize(named)?;
    ensure!(directory.join("bridge").is_file(), "{} has no plugin bridge", directory.display());
    Ok(directory)
}

impl Module {
    /// Builds the programs unless they are cached, and returns their directory.
    ///
    /// # Errors
    ///
    /// If there is no Go toolchain, or if the module cannot be downloaded or built.
    pub fn build(&self) -> Result<PathBuf> {
        let go = toolchain()?;
        let title = format!("{} {} with {go}", self.path, self.version);
        cached(&cache()?, &self.name(&go), &title, |directory| self.build_into(directory))
    }

    /// The directory of its source in Go's module cache.
    pub fn source(&self, mut go: Command) -> Result<PathBuf> {
        go.args(["mod", "download", "-json"]).arg(format!("{}@{}", self.path, self.version));
        // Not in the workspace: Go looks for a `go.mod` in every parent.
        let answer: Value = serde_json::from_str(&program::capture(go.current_dir("/"))?)
            .context("read the answer of `go mod download`")?;
        Ok(answer["Dir"].as_str().context("`go mod download` names no directory")?.into())
    }

    /// The name of its directory in the cache, different for each version, toolchain and way to
    /// build.
    fn name(&self, go: &str) -> String {
        let options = [self.packages, self.tags, self.variables].map(|words| words.join(" "));
        let omitted = self.omitted.join(" ");
        let hash = sha256(format!("{go}\n{}{omitted}", options.join("\n")).as_bytes());
        let name = self.path.split('/').skip(1).collect::<Vec<_>>().join("-");
        format!("{name}-{}-{}", self.version, &hash[..8])
    }

    fn build_into(&self, directory: &Path) -> Result<()> {
        let source = self.source(go())?;
        if self.omitted.is_empty() {
            return self.build_in(&source, directory);
        }
        let copy = directory.join("source");
        self.copy_without_omitted(&source, &copy)?;
        self.build_in(&copy, directory)?;
        Ok(fs::remove_dir_all(copy)?)
    }

    fn build_in(&self, source: &Path, directory: &Path) -> Result<()> {
        let variables: String =
            self.variables.iter().flat_map(|variable| [" -X ", variable]).collect();
        let mut build = go();
        build
            .args(["build", "-trimpath", "-mod=readonly", "-buildvcs=false"])
            .arg(format!("-tags={}", self.tags.join(",")))
            .arg(format!("-ldflags=-s -w{variables}"))
            .arg("-o")
            // The slash at the end makes it a directory for Go.
            .arg(directory.join(""))
            .args(self.packages)
            .current_dir(source)
            .env("CGO_ENABLED", "0");
        program::capture(&mut build).map(drop)
    }

    /// Copies the source, as Go's module cache is read-only.
    fn copy_without_omitted(&self, source: &Path, copy: &Path) -> Result<()> {
        let mut cp = Command::new("cp");
        cp.args(["--recursive", "--no-preserve=mode"]).arg(source).arg(copy);
        program::capture(&mut cp).context("copy the source")?;
        for package in self.omitted {
            let directory = copy.join(package);
            fs::remove_dir_all(&directory)?;
            fs::create_dir(&directory)?;
            let name = package.rsplit('/').next().unwrap_or_default();
            fs::write(directory.join("empty.go"), format!("package {name}\n"))?;
        }
        Ok(())
    }
}

/// Returns the directory `name` of the programs in the cache. If it does not exist, `build` fills
/// it.
///
/// # Errors
///
/// If the cache is not writable, or if the build fails.
pub fn cached(
    cache: &Path,
    name: &str,
    title: &str,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let programs = cache.join("go");
    fs::create_dir_all(&programs)?;
    let directory = programs.join(name);
    // Two tasks may need the same programs at the same time.
    let lock = fs::File::create(programs.join(format!("{name}.lock")))?;
    flock(&lock, FlockOperation::LockExclusive)
        .with_context(|| format!("lock {}", directory.display()))?;
    if !directory.exists() {
        let start = Instant::now();
        println!("building {title}");
        let unfinished = programs.join(format!("{name}.unfinished"));
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        fs::create_dir(&unfinished)?;
        build(&unfinished).with_context(|| format!("build {title}"))?;
        fs::rename(&unfinished, &directory)?;
        println!("{}: built in {:.0?}", directory.display(), start.elapsed());
    }
    Ok(directory)
}

fn go() -> Command {
    command(Path::new("go"))
}

/// The Go toolchain's program, without settings of the caller that change the build.
pub fn command(program: &Path) -> Command {
    let mut go = Command::new(program);
    go.env("GOWORK", "off").env_remove("GOFLAGS").env_remove("GOOS").env_remove("GOARCH");
    go
}

/// Version of the toolchain.
///
/// # Errors
///
/// If there is none.
pub fn toolchain() -> Result<String> {
    let version = program::capture(go().args(["env", "GOVERSION"]).current_dir("/"));
    let version = version.map_err(|error| {
        anyhow!("a Go toolchain is needed (https://go.dev/dl), with `go` in PATH: {error:#}")
    })?;
    Ok(version.trim().to_owned())
}

/// The directory for programs that are built once per machine: `RSCNI_CACHE`, or `rscni` in the
/// user's cache directory.
pub fn cache() -> Result<PathBuf> {
    let variable =
        |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("RSCNI_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("rscni")))
        .or_else(|| Some(variable("HOME")?.join(".cache/rscni")))
        .context("none of RSCNI_CACHE, XDG_CACHE_HOME and HOME is set")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_toolchain_and_tag_has_its_own_directory() {
        let one = PLUGINS.name("go1.26.8");
        assert!(one.starts_with("containernetworking-plugins-v1.10.0-"), "{one}");
        assert_eq!(one, PLUGINS.name("go1.26.8"));
        assert_ne!(one, PLUGINS.name("go1.27.0"));
        assert_ne!(one, Module { version: "v1.9.1", ..PLUGINS }.name("go1.26.8"));
        assert_ne!(one, Module { tags: &["no_btrfs"], ..PLUGINS }.name("go1.26.8"));
        assert_ne!(one, Module { omitted: &["pkg/ns"], ..PLUGINS }.name("go1.26.8"));
    }

    #[test]
    fn a_directory_without_plugins_is_rejected() {
        let empty = tempfile::tempdir().unwrap();
        let error = plugins(Some(empty.path())).unwrap_err().to_string();
        assert!(error.contains("has no plugin bridge"), "{error}");
    }
}
