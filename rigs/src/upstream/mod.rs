//! `cargo xtask upstream`: the test cases of the Go plugins' own project, run against programs.
//!
//! Upstream's cases call a plugin's functions in their own process. Here they run in a copy of upstream's sources in
//! which those functions start a program instead ([`sources`]), each suite in a private network ([`suite`]): once with
//! the plugins built from the same sources, once with ours. Every case that passes with theirs has to pass with ours
//! ([`table`]); what is excepted from that stands in `exceptions.json`, with the reason.
//!
//! It needs a Go toolchain, which downloads upstream's sources, so CI does not run it. `docs/upstream.md` has its last result.

mod sources;
mod suite;
mod table;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};

use crate::e2e;
use sources::Sources;
use suite::{Place, Set, Suite};
use table::{Exceptions, Table};
use xtask::packages;

pub(crate) use suite::{INSIDE, InsideOptions, run_inside};

/// What to run, and with what.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A checkout of github.com/containernetworking/plugins [default: the variable `UPSTREAM_SOURCES`, else the module].
    #[arg(long, value_name = "DIR")]
    sources: Option<PathBuf>,
    /// The Go toolchain's program.
    #[arg(long, value_name = "PROGRAM", default_value = "go")]
    go: PathBuf,
    /// The directory of the plugins under test [default: build the workspace's binary and install it].
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Only the suites of these plugins.
    #[arg(long, value_name = "PLUGIN,...", value_delimiter = ',')]
    only: Vec<String>,
    /// Run them inside User-Mode Linux, for link kinds that the running kernel lacks.
    #[arg(long)]
    uml: bool,
}

/// The task.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let sources = Sources::find(options.sources.as_deref(), &options.go)?;
    packages::ensure("upstream's test cases", packages::FOR_UPSTREAM)?;
    if options.uml {
        packages::ensure("User-Mode Linux", packages::FOR_UML)?;
    }
    let exceptions = Exceptions::read()?;
    let directory = tempfile::Builder::new()
        .prefix("rscni-upstream-")
        .tempdir_in("/tmp")
        .context("make a directory for upstream's tests in /tmp")?;
    let directory = directory.path();
    let ours = match &options.plugins {
        Some(plugins) => {
            plugins.canonicalize().with_context(|| format!("find {}", plugins.display()))?
        }
        None => e2e::build_and_install(directory)?,
    };
    let suites = chosen(&sources, &options.only)?;
    println!("building {} and its plugins with {}", sources.version(), sources.go_version()?);
    let prepared = sources.prepare(directory, &suites, &ours)?;

    let place = if options.uml { Place::UserModeLinux } else { Place::RunningKernel };
    let mut table = Table::new(exceptions, place);
    for suite in &prepared.suites {
        let [theirs, ours] = [Set::Theirs, Set::Ours].map(|set| {
            println!("running {} with {set}", suite.plugin);
            suite::run(suite, &prepared, set, place, directory)
        });
        table.add(&suite.plugin, &theirs?, &ours?);
    }
    println!("\n{table}");
    Ok(if table.is_as_it_should_be() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The packages of the suites to run.
fn chosen(sources: &Sources, only: &[String]) -> Result<Vec<sources::Package>> {
    let mut packages = sources.packages()?;
    if let Some(unknown) =
        only.iter().find(|name| !packages.iter().any(|package| package.plugin == **name))
    {
        bail!("upstream has no tests for a plugin {unknown}");
    }
    if !only.is_empty() {
        packages.retain(|package| only.contains(&package.plugin));
    }
    Ok(packages)
}

/// What is ready to run.
struct Prepared {
    suites: Vec<Suite>,
    /// Programs that the cases use beside plugins.
    tools: PathBuf,
    theirs: PathBuf,
    ours: PathBuf,
}

impl Prepared {
    fn plugins(&self, set: Set) -> &Path {
        match set {
            Set::Theirs => &self.theirs,
            Set::Ours => &self.ours,
        }
    }
}
