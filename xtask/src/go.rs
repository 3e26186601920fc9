//! Programs of other projects, built from their Go modules.
//!
//! A module is pinned to a version, and Go checks what it downloads against the checksum database. A module is built
//! as the main module, so its own `go.mod` decides the versions of everything else. The programs are kept in a cache
//! folder outside of the workspace ([`cache`]), for the next run and for other checkouts.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use crate::{digest::sha256, program};

/// A Go module at a version, and what to build of it.
pub struct Module {
    /// Its path, as in an import.
    pub path: &'static str,
    /// With the `v`.
    pub version: &'static str,
    /// Patterns of the packages whose programs are built.
    pub packages: &'static [&'static str],
    /// Build tags.
    pub tags: &'static [&'static str],
    /// Variables that the linker sets, as `-X` takes them.
    pub variables: &'static [&'static str],
}

/// The reference plugins, as Go programs.
pub const PLUGINS: Module = Module {
    path: "github.com/containernetworking/plugins",
    version: "v1.10.0",
    packages: &["./plugins/main/...", "./plugins/ipam/...", "./plugins/meta/..."],
    tags: &[],
    variables: &[
        "github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=v1.10.0",
    ],
};

/// Where the Go plugins are that ours are compared with: those named, or the ones that are built from [`PLUGINS`].
pub fn plugins(named: Option<&Path>) -> Result<PathBuf> {
    let Some(named) = named else { return PLUGINS.build() };
    let directory =
        named.canonicalize().with_context(|| format!("find the Go plugins {}", named.display()))?;
    ensure!(directory.join("bridge").is_file(), "{} has no plugin bridge", directory.display());
    Ok(directory)
}

impl Module {
    /// The directory with its programs. They are built the first time.
    ///
    /// # Errors
    ///
    /// If there is no Go toolchain, if the module cannot be downloaded, or if it does not build.
    pub fn build(&self) -> Result<PathBuf> {
        let go = toolchain()?;
        let place = cache()?.join("go");
        fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
        let directory = place.join(self.name(&go));
        // Two tasks may need the same programs at the same time.
        let lock = File::create(place.join("lock"))
            .with_context(|| format!("create a lock in {}", place.display()))?;
        flock(&lock, FlockOperation::LockExclusive)
            .with_context(|| format!("lock {}", place.display()))?;
        if !directory.exists() {
            let start = Instant::now();
            println!("building {} {} with {go}", self.path, self.version);
            self.build_into(&directory)
                .with_context(|| format!("build {} {}", self.path, self.version))?;
            println!("{}: built in {:.0?}", directory.display(), start.elapsed());
        }
        Ok(directory)
    }

    /// Where its source is, in Go's module cache.
    pub fn source(&self, mut go: Command) -> Result<PathBuf> {
        go.args(["mod", "download", "-json"]).arg(format!("{}@{}", self.path, self.version));
        // Not in the workspace: Go looks for a `go.mod` in every parent.
        go.current_dir("/");
        let answer = program::capture(&mut go)?;
        let answer: Value = serde_json::from_str(&answer).context("read what Go downloaded")?;
        let directory = answer["Dir"].as_str().context("Go does not say where the module is")?;
        Ok(directory.into())
    }

    /// The name of its directory in the cache. Another version, toolchain or way to build is another directory.
    fn name(&self, go: &str) -> String {
        let how =
            [self.packages, self.tags, self.variables].map(|words| words.join(" ")).join("\n");
        let hash = sha256(format!("{go}\n{how}").as_bytes());
        let name = self.path.split('/').skip(1).collect::<Vec<_>>().join("-");
        format!("{name}-{}-{}", self.version, &hash[..8])
    }

    fn build_into(&self, directory: &Path) -> Result<()> {
        let unfinished = directory.with_extension("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        fs::create_dir(&unfinished).with_context(|| format!("make {}", unfinished.display()))?;
        let variables: String =
            self.variables.iter().flat_map(|variable| [" -X ", variable]).collect();
        let mut build = go();
        build
            .args(["build", "-trimpath", "-mod=readonly", "-buildvcs=false"])
            .arg(format!("-tags={}", self.tags.join(",")))
            .arg(format!("-ldflags=-s -w{variables}"))
            .arg("-o")
            // With a slash at its end it is a directory for Go.
            .arg(unfinished.join(""))
            .args(self.packages)
            .current_dir(self.source(go())?)
            .env("CGO_ENABLED", "0");
        program::capture(&mut build)?;
        fs::rename(&unfinished, directory)
            .with_context(|| format!("rename {} to {}", unfinished.display(), directory.display()))
    }
}

fn go() -> Command {
    command(Path::new("go"))
}

/// The Go toolchain's program, without settings of the caller that would change what is built.
pub fn command(program: &Path) -> Command {
    let mut go = Command::new(program);
    go.env("GOWORK", "off").env_remove("GOFLAGS").env_remove("GOOS").env_remove("GOARCH");
    go
}

/// The version of the toolchain.
fn toolchain() -> Result<String> {
    let version = program::capture(go().args(["env", "GOVERSION"]).current_dir("/"));
    let version = version.map_err(|error| {
        anyhow!("a Go toolchain is needed (https://go.dev/dl), with `go` in PATH: {error:#}")
    })?;
    Ok(version.trim().to_owned())
}

/// The folder for what is built once per machine: `RSCNI_CACHE`, or `rscni` in the user's cache folder.
pub fn cache() -> Result<PathBuf> {
    let variable =
        |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("RSCNI_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("rscni")))
        .or_else(|| Some(variable("HOME")?.join(".cache/rscni")))
        .context(
            "find the user's cache folder: neither RSCNI_CACHE, XDG_CACHE_HOME nor HOME is set",
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_toolchain_or_tag_is_another_directory() {
        let one = PLUGINS.name("go1.26.8");
        assert!(one.starts_with("containernetworking-plugins-v1.10.0-"), "{one}");
        assert_eq!(one, PLUGINS.name("go1.26.8"));
        assert_ne!(one, PLUGINS.name("go1.27.0"));
        assert_ne!(one, Module { version: "v1.9.1", ..PLUGINS }.name("go1.26.8"));
        assert_ne!(one, Module { tags: &["no_btrfs"], ..PLUGINS }.name("go1.26.8"));
    }

    #[test]
    fn a_directory_without_plugins_is_rejected() {
        let empty = tempfile::tempdir().unwrap();
        let error = plugins(Some(empty.path())).unwrap_err().to_string();
        assert!(error.contains("has no plugin bridge"), "{error}");
    }
}
