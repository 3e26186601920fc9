//! The test rigs, which `cargo xtask RIG` builds and starts.
//!
//! - [`mod@bench`]: cost of a call, beside the Go plugins and bare netlink; and the guard of
//!   counts.
//! - [`conformance`]: every plugin, and the Go plugins, checked against the specification.
//! - [`e2e`]: the plugins under containerd, runc and `BuildKit`; handover to and from the Go
//!   plugins.
//! - [`faults`]: plugins are killed, and their system calls fail; nothing may be left behind.
//! - [`fuzz`]: the fuzzers.
//! - [`supply`]: licences, sources and versions of the dependencies; [`packages`] of our crates.
//! - [`uml`]: commands and tests inside User-Mode Linux.
//! - [`upstream`]: the Go plugins' own test cases, run against our programs.
//!
//! [`tracer`] watches the system calls of a program, [`daemon`] starts daemons, [`mounts`] mounts
//! file systems, [`pool`] is a pool of threads, [`page`] makes Markdown tables. Code that the tasks
//! need too is in the library `xtask`.

mod bench;
mod conformance;
mod daemon;
mod e2e;
mod faults;
mod fuzz;
mod mounts;
mod packages;
mod page;
mod pool;
mod supply;
mod tracer;
mod uml;
mod upstream;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use xtask::rigs::RIGS;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    rig: Rig,
}

/// The descriptions are in [`RIGS`].
#[derive(Subcommand)]
enum Rig {
    Bench(bench::Options),
    Counts(bench::counts::Options),
    Conformance(conformance::Options),
    E2e(e2e::Options),
    Faults(faults::Options),
    Fuzz(fuzz::Options),
    Uml(uml::Options),
    Upstream(upstream::Options),
    /// The step `supply` of `cargo xtask test`.
    #[command(hide = true)]
    Supply,
    /// The step `uml` of `cargo xtask test`.
    #[command(hide = true)]
    UmlTests,
    /// Becomes User-Mode Linux.
    #[command(hide = true, name = uml::START)]
    UmlStart(uml::StartOptions),
    /// The first process inside User-Mode Linux.
    #[command(hide = true, name = uml::INIT)]
    UmlInit(uml::InitOptions),
    /// The end-to-end run, once it has its private namespaces.
    #[command(hide = true, name = e2e::INSIDE)]
    E2eInside(e2e::InsideOptions),
    /// A Kubernetes cluster, once it has its private namespaces.
    #[command(hide = true, name = e2e::kubernetes::INSIDE)]
    KubernetesInside(e2e::kubernetes::InsideOptions),
    /// The first process of a node.
    #[command(hide = true, name = e2e::kubernetes::node::FIRST)]
    KubernetesNode(e2e::kubernetes::node::FirstOptions),
    /// The trials of one list, in a process of their own.
    #[command(hide = true, name = faults::INSIDE)]
    FaultsInside(faults::InsideOptions),
    /// A suite of upstream's, once it is inside User-Mode Linux.
    #[command(hide = true, name = upstream::INSIDE)]
    UpstreamInside(upstream::InsideOptions),
}

fn main() -> ExitCode {
    let matches = command().get_matches();
    let outcome = match Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).rig {
        Rig::Bench(options) => bench::run(&options),
        Rig::Counts(options) => bench::counts::run(&options),
        Rig::Conformance(options) => conformance::run(&options),
        Rig::E2e(options) => e2e::run(&options),
        Rig::E2eInside(options) => e2e::run_inside(&options),
        Rig::KubernetesInside(options) => e2e::kubernetes::run_inside(&options),
        Rig::KubernetesNode(options) => e2e::kubernetes::node::run_first(&options),
        Rig::Faults(options) => faults::run(options),
        Rig::FaultsInside(options) => faults::run_inside(&options),
        Rig::Fuzz(options) => fuzz::run(&options),
        Rig::Supply => supply::check(),
        Rig::Uml(options) => uml::run(&options),
        Rig::UmlTests => uml::run_tests(),
        Rig::UmlStart(options) => uml::start(&options),
        Rig::UmlInit(options) => uml::init(&options),
        Rig::Upstream(options) => upstream::run(&options),
        Rig::UpstreamInside(options) => upstream::run_inside(&options),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn command() -> clap::Command {
    RIGS.iter().fold(Cli::command(), |cli, (name, about)| {
        cli.mut_subcommand(name, |rig| rig.about(*about))
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_rig_that_the_help_lists_exists() {
        super::command().debug_assert();
    }
}
