//! `cargo xtask e2e`: the plugins under a real container runtime, and beside the Go plugins. Needs
//! root.
//!
//! The parts run in one private node made of namespaces ([`sandbox`]), so the host's network,
//! containerd and CNI state are not touched:
//!
//! - [`container`]: Debian's containerd and runc start a container, which reaches its gateway.
//!   First on the Go plugins, to detect faults of the machine, then on ours.
//! - [`pods`]: pods over the CRI service, as kubelet starts them.
//! - [`handover`]: one set of plugins adds, the other checks and deletes.
//! - [`buildkit`]: `BuildKit` builds an image whose steps are attached to its bridge.
//!
//! [`kubernetes`] is a run of its own: a cluster whose pods are attached by the plugins.
//!
//! [`leftovers`] finds what an attachment has left behind, [`chain`] is the list of plugins,
//! [`image`] makes the containers' image, [`cni`] calls plugins as a runtime does, [`cri`] calls
//! the CRI service.

mod buildkit;
mod chain;
mod cni;
mod container;
mod containerd;
mod cri;
mod handover;
mod image;
pub(crate) mod kubernetes;
mod leftovers;
mod outside;
mod pods;
mod runtime;
mod sandbox;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use fs_err as fs;
use rscni_test::Snapshot;
use xtask::{
    dist,
    packages::{self, GO_PLUGINS_DIR},
    program,
    tally::Tally,
};

use self::containerd::Containerd;

/// Name of the hidden command.
pub(crate) const INSIDE: &str = "e2e-inside";

/// Parts and plugins.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    cluster: Option<Cluster>,
    /// The directory of the Go plugins to compare with.
    #[arg(long, value_name = "DIR", default_value = GO_PLUGINS_DIR)]
    go_plugins: PathBuf,
    /// Run only this part; can be given several times [default: all].
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
}

/// Another run, which takes longer.
#[derive(clap::Subcommand)]
enum Cluster {
    /// Run the plugins in a Kubernetes cluster, which is built with Go the first time.
    Kubernetes(kubernetes::Options),
}

/// A part of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Part {
    /// containers started by ctr
    Container,
    /// pods over containerd's CRI service
    Pods,
    /// handover from and to the Go plugins
    Handover,
    /// image builds
    Buildkit,
}

/// Arguments of the hidden command.
#[derive(clap::Args)]
pub(crate) struct InsideOptions {
    /// A directory for all files of the run.
    directory: PathBuf,
    plugins: PathBuf,
    go_plugins: PathBuf,
    buildkit: PathBuf,
    #[arg(long)]
    only: Vec<Part>,
}

/// A set of plugins, and its name in messages.
struct PluginSet {
    name: &'static str,
    directory: PathBuf,
}

/// Prepares the programs, and runs the parts in the private node.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if let Some(Cluster::Kubernetes(options)) = &options.cluster {
        return kubernetes::run(options);
    }
    if !program::is_root() {
        bail!("the end-to-end run starts containerd, and that needs root");
    }
    packages::ensure("the end-to-end run", packages::FOR_E2E)?;
    let directory = program::temporary_directory("e2e")?;
    let plugins = directory.path().join("plugins");
    dist::install(&dist::build_for_development()?, &plugins)?;
    let buildkit = buildkit::MODULE.build()?;
    let mut inside = sandbox::command(directory.path())?;
    inside.arg(INSIDE).arg(directory.path()).arg(plugins);
    inside.arg(fs::canonicalize(&options.go_plugins)?).arg(buildkit);
    for part in &options.only {
        let part = part.to_possible_value().context("no part is hidden")?;
        inside.arg("--only").arg(part.get_name());
    }
    program::foreground(&mut inside).context("the end-to-end run failed, see above")?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the parts in the private node.
pub(crate) fn run_inside(options: &InsideOptions) -> Result<ExitCode> {
    let sets = [&options.plugins, &options.go_plugins, &options.buildkit];
    let [tested, go, buildkit] = sandbox::enter(&options.directory, sets)?;
    let tested = PluginSet { name: "rscni", directory: tested };
    let go = PluginSet { name: "go", directory: go };
    let mut tally = Tally::default();
    container::write_network()?;
    pods::write_network()?;
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    let mut containerd = Containerd::start(&options.directory)?;
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
        buildkit::run(&buildkit, &tested, &options.directory, &mut tally)?;
    }
    report(&mut tally, "no plugin has left a zombie", leftovers::no_zombies(&tested));
    println!("end to end: {tally}");
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints a line for a case, and the reason of a failure.
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

/// A snapshot of the node that ignores lines with one of these texts.
fn snapshot_ignoring(texts: &[&str]) -> Result<Snapshot> {
    let snapshot = Snapshot::of_this_network()?;
    Ok(texts.iter().fold(snapshot, |snapshot, text| snapshot.ignoring(text)))
}
