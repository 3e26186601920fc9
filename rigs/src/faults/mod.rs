//! `cargo xtask faults`: plugins are killed, their system calls fail, the power goes, containers
//! are churned; nothing may be left behind.
//!
//! Each list of [`lists`] is tried in a process and a private network of its own ([`inside`]):
//!
//! - `kill` ([`trial`]): a SIGKILL at each system call of ADD and of DEL, then the next calls of a
//!   runtime.
//! - `errno` ([`trial`]): each system call fails with each of its errors ([`injection`] has the
//!   list).
//! - `power` ([`power`]): the store is rebuilt from each prefix of the writes, with and without
//!   unsynced data.
//! - `churn` ([`churn`]): many containers are attached and detached at once, with random kills;
//!   then GC.
//!
//! [`jobs`] makes the processes, in User-Mode Linux where the kernel lacks a link kind, and
//! [`results`] saves their results. [`call`] calls plugins, [`dhcp`] is the server and the daemon
//! of that list, [`leftovers`] finds things left behind, [`index`] checks host-local's index,
//! [`kinds`] and [`table`] show the results.

mod call;
mod churn;
mod dhcp;
mod index;
mod injection;
mod inside;
mod jobs;
mod kinds;
mod leftovers;
mod lists;
mod power;
mod results;
mod table;
mod trial;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use xtask::{dist, go, packages, program};

pub(crate) use self::inside::{INSIDE, Options as InsideOptions, run as run_inside};
use self::{
    jobs::{Job, Sets},
    results::ResultsFile,
    table::{Count, Line},
    trial::Trial,
};
use crate::pool;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// a SIGKILL at a system call
    Kill,
    /// a system call that fails
    Errno,
    /// a power loss; unsynced data may be lost
    Power,
    /// many containers at once, with random kills
    Churn,
}

impl Kind {
    fn name(self) -> String {
        let value = self.to_possible_value().expect("no kind is hidden");
        value.get_name().to_owned()
    }
}

/// Lists, faults and programs.
#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "they are options of a command line")]
pub(crate) struct Options {
    /// Try this plugin, or `chain`; can be given several times [default: all].
    #[arg(long, value_name = "NAME")]
    plugin: Vec<String>,
    /// Try this kind of fault; can be given several times [default: all].
    #[arg(long, value_name = "KIND")]
    kind: Vec<Kind>,
    /// Try only each N-th trial.
    #[arg(long, value_name = "N", default_value_t = 1)]
    every: usize,
    /// Time of churn.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    seconds: u64,
    /// Repeat one trial, as a failure names it.
    #[arg(long, value_name = "TRIAL")]
    trial: Option<Trial>,
    /// Try the Go plugins too: some kills and errors of each list, power losses, churn.
    #[arg(long)]
    peer: bool,
    /// The directory of the Go plugins [default: build them from their module].
    #[arg(long, value_name = "DIR")]
    go_plugins: Option<PathBuf>,
    /// Try only the Go plugins.
    #[arg(long, conflicts_with_all = ["peer", "write"])]
    only_peer: bool,
    /// Save results in this file, and skip jobs that it has of the same programs.
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
    /// Write the table into docs/faults.md.
    #[arg(long)]
    write: bool,
    /// Try the sample of CI, always the same, with the development build.
    #[arg(long, exclusive = true)]
    sample: bool,
}

/// Runs the trials; the exit code says whether all of ours passed.
pub(crate) fn run(mut options: Options) -> Result<ExitCode> {
    packages::ensure("the faults", packages::FOR_TESTS)?;
    packages::ensure("the faults", packages::FOR_UML)?;
    let rscni = if options.sample {
        (options.every, options.seconds) = (101, 5);
        dist::build_static_for_development()?
    } else {
        dist::build("rscni-cli", "rscni")?
    };
    let count = run_jobs(&options, &rscni)?;
    println!("faults: {} passed, {} failed", count.passed, count.failed);
    Ok(if count.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the jobs of the options with this program; returns the sum of ours.
fn run_jobs(options: &Options, rscni: &Path) -> Result<Count> {
    let directory = tempfile::tempdir().context("make a directory for the plugins")?;
    let ours = directory.path().join("plugins");
    dist::install(rscni, &ours)?;
    let this_program = directory.path().join("rigs");
    program::copy_self(&this_program)?;
    let peer = (options.peer || options.only_peer)
        .then(|| go::plugins(options.go_plugins.as_deref()))
        .transpose()?;
    let sets = Sets { ours, peer };
    let results = ResultsFile::open(options.keep.as_deref(), rscni, sets.peer.as_deref())?;
    let jobs = jobs::all(options, sets.peer.as_deref())?;
    // Mostly they wait for the kernel.
    let counts = pool::run(jobs, 4 * pool::processors(), |job| {
        let count = results.of(&job).unwrap_or_else(|| {
            let count = job.run(options, &this_program, &sets);
            results.add(&job, &count);
            println!("{job}: {} passed, {} failed", count.passed, count.failed);
            count
        });
        Ok((job, count))
    })?;
    let lines = lines(counts);
    for line in &lines {
        println!("{line}");
    }
    println!("\n{}", table::summary(&lines));
    if options.write {
        table::write(&lines, options.every, &program::workspace_root().join("docs/faults.md"))?;
    }
    Ok(table::sum(&lines, false))
}

/// Adds up the parts of each list and kind, in the order of the table.
fn lines(counts: Vec<(Job, Count)>) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (Job { list, kind, peer, .. }, count) in counts {
        let same = |line: &&mut Line| (&line.list, line.kind, line.peer) == (&list, kind, peer);
        match lines.iter_mut().find(same) {
            Some(line) => line.count += &count,
            None => lines.push(Line { list, kind, peer, count }),
        }
    }
    lines.sort_by_key(|line| (line.peer, line.kind, line.list.clone()));
    lines
}
