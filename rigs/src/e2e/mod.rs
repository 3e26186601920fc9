//! `cargo xtask e2e`: the plugins under a real container runtime, and beside the Go plugins. Needs root.
//!
//! Four parts, in one private node made of namespaces ([`sandbox`]), so that the host's network, its containerd and
//! its CNI state are never touched:
//!
//! - [`container`]: Debian's containerd and runc start a container on the plugins, and it reaches its gateway.
//!   First on the Go plugins, so that a fault of the machine is not taken for one of ours, then on ours.
//! - [`pods`]: the same over its CRI service, as kubelet uses it.
//! - [`handover`]: what one set of plugins added, the other checks and deletes.
//! - [`buildkit`]: `BuildKit` builds an image whose steps are attached to its bridge.
//!
//! What has to be gone at the end of each is known to [`leftovers`]; [`chain`] is the list of plugins, [`image`] makes
//! the containers' image, [`cni`] calls plugins as a runtime does; [`cri`] speaks to the CRI service, over [`grpc`].

mod buildkit;
mod chain;
mod cni;
mod container;
mod containerd;
mod cri;
mod grpc;
mod handover;
mod image;
mod leftovers;
mod outside;
mod pods;
mod runtime;
mod sandbox;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use self::containerd::Containerd;
use xtask::{packages, packages::GO_PLUGINS_DIR, program, tally::Tally};

/// The name of the hidden task.
pub(crate) const INSIDE: &str = "e2e-inside";

/// Which plugins to run with.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The directory of the plugins under test [default: build the workspace's binary and install it].
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// The directory of the Go plugins to compare with.
    #[arg(long, value_name = "DIR", default_value = GO_PLUGINS_DIR)]
    go_plugins: PathBuf,
    /// The directory with buildkitd and buildctl [default: build them from their module].
    #[arg(long, value_name = "DIR")]
    buildkit: Option<PathBuf>,
    /// Run this part only; may be given several times [default: all].
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
}

/// A part of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Part {
    /// containers started by ctr
    Container,
    /// pods over containerd's CRI service
    Pods,
    /// from and to the Go plugins
    Handover,
    /// image builds
    Buildkit,
}

/// What the inside needs to know.
#[derive(clap::Args)]
pub(crate) struct InsideOptions {
    /// A directory for everything that the run writes.
    directory: PathBuf,
    plugins: PathBuf,
    go_plugins: PathBuf,
    buildkit: PathBuf,
    #[arg(long)]
    only: Vec<Part>,
}

/// A set of plugins, under the name that messages give it.
#[derive(Clone)]
struct PluginSet {
    name: &'static str,
    directory: PathBuf,
}

/// The task.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if !program::is_root() {
        bail!("the end-to-end run starts containerd, and that needs root");
    }
    packages::ensure("the end-to-end run", packages::FOR_E2E)?;
    let directory = tempfile::Builder::new()
        .prefix("rscni-e2e-")
        .tempdir_in("/tmp")
        .context("make a directory for the end-to-end run in /tmp")?;
    let plugins = match &options.plugins {
        Some(plugins) => plugins.clone(),
        None => build_and_install(directory.path())?,
    };
    let buildkit = match &options.buildkit {
        Some(buildkit) => buildkit.clone(),
        None => buildkit::MODULE.build()?,
    };
    let mut inside = sandbox::command(directory.path())?;
    inside.arg(INSIDE).arg(directory.path());
    for programs in [&plugins, &options.go_plugins, &buildkit] {
        inside.arg(absolute(programs)?);
    }
    for part in &options.only {
        let part = part.to_possible_value().context("no part is hidden")?;
        inside.arg("--only").arg(part.get_name());
    }
    program::foreground(&mut inside).context("the end-to-end run failed, see above")?;
    Ok(ExitCode::SUCCESS)
}

/// Builds the binary and lets it install itself, as an operator would.
pub(crate) fn build_and_install(directory: &Path) -> Result<PathBuf> {
    let mut cargo = program::cargo();
    let rscni = program::built(cargo.args([
        "build",
        "-p",
        "rscni-cli",
        "--message-format=json-render-diagnostics",
    ]))?;
    let plugins = directory.join("plugins");
    std::fs::create_dir(&plugins).with_context(|| format!("make {}", plugins.display()))?;
    program::capture(std::process::Command::new(&rscni).arg("install").arg(&plugins))?;
    if !plugins.join("bridge").exists() {
        bail!("`{} install` put no plugin `bridge` into {}", rscni.display(), plugins.display());
    }
    Ok(plugins)
}

fn absolute(directory: &Path) -> Result<PathBuf> {
    directory.canonicalize().with_context(|| format!("find the directory {}", directory.display()))
}

/// All parts, in the private node.
pub(crate) fn run_inside(options: &InsideOptions) -> Result<ExitCode> {
    let sets = [&options.plugins, &options.go_plugins, &options.buildkit];
    let node = sandbox::enter(&options.directory, sets)?;
    let [tested, go] = &node.plugins;
    let tested = PluginSet { name: "rscni", directory: tested.clone() };
    let go = PluginSet { name: "go", directory: go.clone() };
    let mut tally = Tally::default();
    container::write_network()?;
    pods::write_network()?;
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    let mut containerd = Containerd::start(&node.directory)?;
    if wanted(Part::Container) {
        container::run(&containerd, &go, &tested, &mut tally)?;
    }
    if wanted(Part::Handover) {
        handover::run(&go, &tested, &mut tally);
    }
    if wanted(Part::Pods) {
        pods::run(&mut containerd, &go, &tested, &mut tally)?;
    }
    if wanted(Part::Buildkit) {
        buildkit::run(&node.buildkit, &tested, &node.directory, &mut tally)?;
    }
    println!("end to end: {tally}");
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One line per case, and below it why it failed.
fn report(tally: &mut Tally, case: &str, outcome: Result<()>) {
    match outcome {
        Ok(()) => {
            tally.passed += 1;
            println!("ok      {case}");
        }
        Err(error) => {
            tally.failed += 1;
            println!("FAILED  {case}");
            for line in format!("{error:#}").lines() {
                println!("          {line}");
            }
        }
    }
}
