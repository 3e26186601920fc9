//! `cargo xtask faults`: plugins are killed, fail, lose their power and are churned, and nothing may be left behind.
//!
//! Each list of [`worlds`] is tried in a process and a private network of its own ([`inside`]):
//!
//! - `kill` ([`trial`]): a SIGKILL at each system call of ADD and of DEL, then what a runtime does next.
//! - `errno` ([`trial`]): each system call fails with each error that it can have ([`injection`] has the list).
//! - `power` ([`power`]): the store is rebuilt from each prefix of the writes, with and without what was not synced.
//! - `churn` ([`churn`]): many containers come and go at once, with random kills; then GC.
//!
//! [`jobs`] makes processes of what is asked for, in User-Mode Linux where the kernel lacks a kind of link, and [`kept`]
//! remembers what came out of each. [`call`] calls plugins, [`dhcp`] is the server and the daemon of that list,
//! [`leftovers`] says what is left, [`index`] whether host-local's index is true, [`remains`] and [`table`] show what came
//! out.

mod call;
mod churn;
mod dhcp;
mod index;
mod injection;
mod inside;
mod jobs;
mod kept;
mod leftovers;
mod power;
mod remains;
mod table;
mod trial;
mod worlds;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub(crate) use self::inside::{INSIDE, Options as InsideOptions, run as run_inside};
use self::{
    jobs::{Job, Sets},
    kept::Kept,
    table::{Count, Line},
    trial::Trial,
};
use crate::pool;
use xtask::{dist, go, packages, program};

/// What is done to the plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// SIGKILL at a system call.
    Kill,
    /// A system call that fails.
    Errno,
    /// The power goes: what was not synced may be lost.
    Power,
    /// Many at once, with random kills.
    Churn,
}

impl Kind {
    fn name(self) -> String {
        let value = self.to_possible_value().expect("no kind is hidden");
        value.get_name().to_owned()
    }
}

/// What to try.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Try this plugin, or `chain`; may be given several times [default: all].
    #[arg(long, value_name = "NAME")]
    plugin: Vec<String>,
    /// Do this to them; may be given several times [default: all].
    #[arg(long, value_name = "KIND")]
    kind: Vec<Kind>,
    /// Of all trials, only each N-th.
    #[arg(long, value_name = "N", default_value_t = 1)]
    every: usize,
    /// How long to churn.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    seconds: u64,
    /// One trial, as a failure names it.
    #[arg(long, value_name = "TRIAL")]
    trial: Option<Trial>,
    /// Try the Go plugins too: some kills of each list, power losses, churn.
    #[arg(long)]
    peer: bool,
    /// The directory of the Go plugins [default: build them from their module].
    #[arg(long, value_name = "DIR")]
    go_plugins: Option<PathBuf>,
    /// Try the Go plugins alone.
    #[arg(long, conflicts_with_all = ["peer", "write"])]
    only_peer: bool,
    /// How many processes try at a time; mostly they wait for the kernel [default: four for each processor].
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Keep what comes out in this file, and do not run again what it has of the same programs.
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
    /// Write the table into docs/faults.md.
    #[arg(long)]
    write: bool,
    /// Try the sample that CI tries, always the same, with the development build.
    #[arg(long, conflicts_with_all = ["plugin", "kind", "trial", "peer", "only_peer", "keep", "write"])]
    sample: bool,
}

/// Runs the trials; the exit code says whether all of ours held.
pub(crate) fn run(mut options: Options) -> Result<ExitCode> {
    let rscni = if options.sample {
        (options.every, options.seconds) = (101, 5);
        dist::build_for_development("rscni-cli", "rscni")?
    } else {
        dist::build("rscni-cli", "rscni")?
    };
    let count = try_all(&options, &rscni)?;
    println!("faults: {} passed, {} failed", count.held, count.failed);
    Ok(if count.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs what the options ask for with this program; gives how the trials of our plugins ended.
fn try_all(options: &Options, rscni: &Path) -> Result<Count> {
    packages::ensure("the faults", packages::FOR_TESTS)?;
    packages::ensure("the faults", packages::FOR_UML)?;
    let directory = tempfile::tempdir().context("make a directory for the plugins")?;
    let plugins = directory.path().join("plugins");
    std::fs::create_dir(&plugins)?;
    program::capture(Command::new(rscni).arg("install").arg(&plugins))?;
    let this_program = directory.path().join("rigs");
    program::copy_self(&this_program)?;
    let peer = (options.peer || options.only_peer)
        .then(|| go::plugins(options.go_plugins.as_deref()))
        .transpose()?;
    let sets = Sets { ours: plugins, peer };
    let kept = Kept::open(options.keep.as_deref(), rscni, sets.peer.as_deref())?;
    let at_once = options.jobs.unwrap_or_else(|| 4 * pool::processors());
    let results = pool::share_out(jobs::all(options, sets.peer.as_deref())?, at_once, |job| {
        let count = kept.of(&job).unwrap_or_else(|| {
            let count = job.run(options, &this_program, &sets);
            kept.add(&job, &count);
            println!("{job}: {} held, {} failed", count.held, count.failed);
            count
        });
        Ok((job, count))
    })?;
    let lines = lines(results);
    for line in &lines {
        println!("{line}");
    }
    println!("\n{}", table::text(&lines));
    if options.write {
        table::write(&lines, options.every, &program::workspace_root().join("docs/faults.md"))?;
    }
    Ok(table::sum(&lines, false))
}

/// The parts of each list and kind together, in the order of the table.
fn lines(results: Vec<(Job, Count)>) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (job, count) in results {
        let same = |line: &&mut Line| {
            (&line.world, line.kind, line.peer) == (&job.world, job.kind, job.peer)
        };
        match lines.iter_mut().find(same) {
            Some(line) => line.count += &count,
            None => lines.push(Line { world: job.world, kind: job.kind, peer: job.peer, count }),
        }
    }
    lines.sort_by_key(|line| {
        (line.peer, line.kind, worlds::NAMES.iter().position(|name| *name == line.world))
    });
    lines
}
