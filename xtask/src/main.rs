//! The project's own tasks, as `cargo xtask TASK`.
//!
//! `demo`, `test`, `dist`, `image` and `api` are here. All others are test rigs: a package of its
//! own, `rscni-rigs`, so that a contributor who wants to see the demo does not build what they
//! need.

mod api;
mod check;
mod demo;

use std::{ffi::OsString, os::unix::process::CommandExt, process::ExitCode};

use anyhow::{Context, Result};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use xtask::{dist, image, rigs};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "The project's own tasks",
    version
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build a private network with two containers, send packets through it, show it, take it down.
    Demo,
    /// Build the static binary for nodes.
    Dist,
    /// Build the container image of the pod network, with both static programs.
    Image,
    /// Compare the public API of the libraries with its record; fail if it differs.
    Api {
        /// Write the record.
        #[arg(long)]
        write: bool,
    },
    /// Run everything that CI checks: format, lint, docs, tests, User-Mode Linux, end to end.
    Test(check::Options),
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> Result<ExitCode> {
    let typed: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(arguments) = rigs::arguments(&typed) {
        return Err(rigs::command(arguments).exec()).context("start cargo");
    }
    let matches = command().get_matches();
    match Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).task {
        Task::Demo => demo::run(),
        Task::Dist => dist::run(),
        Task::Image => image::run(),
        Task::Api { write } => api::run(write).map(|()| ExitCode::SUCCESS),
        Task::Test(options) => check::run(&options),
    }
}

/// The command line with the rigs, so that the help lists them.
fn command() -> clap::Command {
    let rigs = rigs::RIGS.map(|(name, about)| clap::Command::new(name).about(about));
    Cli::command().subcommands(rigs)
}
