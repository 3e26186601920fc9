//! `cargo xtask upstream`: the test cases of the Go plugins' project, run against programs.
//!
//! Upstream's cases call a plugin's functions in their own process. Here they run in a copy of
//! upstream's sources in which those functions start a program instead ([`sources`]), each suite in
//! a private network ([`suite`]): once with the plugins built from the same sources, once with
//! ours. Each case that passes with theirs must pass with ours ([`table`]), unless
//! `exceptions.json` gives a reason.
//!
//! It needs a Go toolchain, which downloads upstream's sources, so CI does not run it.
//! `docs/upstream.md` has the last result.

mod sources;
mod suite;
mod table;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use xtask::{dist, packages, program};

use sources::Sources;
use suite::{Kernel, Set};
use table::{Exceptions, Table};

pub(crate) use suite::{INSIDE, InsideOptions, run_inside};

/// Suites and toolchain.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A checkout of github.com/containernetworking/plugins [default: the variable
    /// `UPSTREAM_SOURCES`, else the Go module].
    #[arg(long, value_name = "DIR")]
    sources: Option<PathBuf>,
    /// The Go toolchain's program.
    #[arg(long, value_name = "PROGRAM", default_value = "go")]
    go: PathBuf,
    /// Run only the suites of these plugins.
    #[arg(long, value_name = "PLUGIN,...", value_delimiter = ',')]
    only: Vec<String>,
    /// Run inside User-Mode Linux, for link kinds that the running kernel lacks.
    #[arg(long)]
    uml: bool,
}

/// Runs the suites; the exit code says whether ours pass all cases that theirs pass.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let sources = Sources::find(options.sources.as_deref(), &options.go)?;
    packages::ensure("upstream's test cases", packages::FOR_UPSTREAM)?;
    if options.uml {
        packages::ensure("User-Mode Linux", packages::FOR_UML)?;
    }
    let exceptions = Exceptions::read()?;
    let directory = program::temporary_directory("upstream")?;
    let directory = directory.path();
    let ours = directory.join("plugins");
    dist::install(&dist::build_for_development()?, &ours)?;
    let packages = chosen(&sources, &options.only)?;
    println!("building {} and its plugins with {}", sources.version(), sources.go_version()?);
    let prepared = sources.prepare(directory, &packages, &ours)?;

    let kernel = if options.uml { Kernel::UserModeLinux } else { Kernel::Running };
    let mut table = Table::new(exceptions, kernel);
    for suite in &prepared.suites {
        let [theirs, ours] = [Set::Theirs, Set::Ours].map(|set| {
            println!("running {} with {set}", suite.plugin);
            suite::run(suite, &prepared, set, kernel, directory)
        });
        table.add(&suite.plugin, &theirs?, &ours?);
    }
    println!("\n{table}");
    Ok(if table.passes() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The packages of the suites to run.
fn chosen(sources: &Sources, only: &[String]) -> Result<Vec<sources::Package>> {
    let mut packages = sources.packages()?;
    let has = |name: &str| packages.iter().any(|package| package.plugin == name);
    if let Some(unknown) = only.iter().find(|name| !has(name)) {
        bail!("upstream has no tests for a plugin {unknown}");
    }
    packages.retain(|package| only.is_empty() || only.contains(&package.plugin));
    Ok(packages)
}
