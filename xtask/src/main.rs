//! The project's own tasks, as `cargo xtask TASK`.
//!
//! This file only names the tasks; each has a module of its own:
//!
//! - [`conformance`]: `cargo xtask conformance`, every plugin, and the Go plugins, against the specification.
//! - [`demo`]: `cargo xtask demo`, a network with two containers to look at.
//! - [`mod@bench`]: `cargo xtask bench`, what a call costs; and `cargo xtask counts`, the guard of counts.
//! - [`check`]: `cargo xtask test`, everything that CI checks, step by step.
//! - [`e2e`]: the end-to-end run with containerd, runc and the Go plugins.
//! - [`faults`]: kill the plugins and have their system calls fail, at every place, and look for what is left.
//! - [`fuzz`]: run the fuzzers.
//! - [`supply`]: licences, sources and versions of the dependencies.
//! - [`uml`]: run a program inside User-Mode Linux.
//! - [`upstream`]: the Go plugins' own test cases, run against our programs.
//!
//! [`packages`] installs the Debian packages that a task needs, [`go`] builds programs from Go modules, [`program`] starts other programs, [`tracer`] watches
//! their system calls, and [`tally`] counts the tests that they report. [`page`] puts tables into the documentation,
//! [`digest`] hashes, [`pool`] shares work out among threads.

mod bench;
mod check;
mod conformance;
mod demo;
mod digest;
mod dist;
mod e2e;
mod faults;
mod fuzz;
mod go;
mod packages;
mod page;
mod pool;
mod program;
mod supply;
mod tally;
mod tracer;
mod uml;
mod upstream;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own tasks", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build a network in a private place, send packets through it, look at it, take it down.
    Demo,
    /// Measure what a call costs, beside the Go plugins and the least that the kernel needs.
    Bench(bench::Options),
    /// Count the system calls and processes of each operation, and fail if there are more than before.
    Counts(bench::counts::Options),
    /// Hold every plugin against the specification, ours and the Go plugins, and compare.
    Conformance(conformance::Options),
    /// Build the one static binary, as it goes onto nodes.
    Dist,
    /// Write down which functions the plugins run, for the linker to put together.
    Order,
    /// Check everything that CI checks: format, lint, docs, tests, User-Mode Linux, end to end.
    Test(check::Options),
    /// Run containers with containerd and runc on the plugins, and hand over to and from the Go plugins (root).
    E2e(e2e::Options),
    /// Kill the plugins and have their system calls fail, at every place; nothing may be left behind.
    Faults(faults::Options),
    /// Run the fuzzers, which need a nightly toolchain and cargo-fuzz.
    Fuzz(fuzz::Options),
    /// Run a command inside User-Mode Linux, which has the link kinds that the running kernel may lack.
    Uml(uml::Options),
    /// Run the Go plugins' own test cases against our programs, and compare.
    Upstream(upstream::Options),
    /// What becomes User-Mode Linux.
    #[command(hide = true, name = uml::START)]
    UmlStart(uml::StartOptions),
    /// The first process inside User-Mode Linux.
    #[command(hide = true, name = uml::INIT)]
    UmlInit(uml::InitOptions),
    /// The end-to-end run, once it has its private namespaces.
    #[command(hide = true, name = e2e::INSIDE)]
    E2eInside(e2e::InsideOptions),
    /// The trials of one list, in a process of their own.
    #[command(hide = true, name = faults::INSIDE)]
    FaultsInside(faults::InsideOptions),
    /// A suite of upstream's, once it is inside User-Mode Linux.
    #[command(hide = true, name = upstream::INSIDE)]
    UpstreamInside(upstream::InsideOptions),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Demo => demo::run(),
        Task::Bench(options) => bench::run(&options),
        Task::Counts(options) => bench::counts::run(&options),
        Task::Conformance(options) => conformance::run(&options),
        Task::Dist => dist::run(),
        Task::Order => bench::order::run(),
        Task::Test(options) => check::run(&options),
        Task::E2e(options) => e2e::run(&options),
        Task::Faults(options) => faults::run(&options),
        Task::FaultsInside(options) => faults::run_inside(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Uml(options) => uml::run(&options),
        Task::UmlStart(options) => uml::start(&options),
        Task::UmlInit(options) => uml::init(&options),
        Task::E2eInside(options) => e2e::run_inside(&options),
        Task::Upstream(options) => upstream::run(&options),
        Task::UpstreamInside(options) => upstream::run_inside(&options),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
