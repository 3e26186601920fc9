//! `cargo xtask faults`: plugins are killed, fail, lose their power and are churned, and nothing may be left behind.
//!
//! Each list of [`worlds`] is tried in a process and a private network of its own ([`inside`]):
//!
//! - `kill` ([`trial`]): a SIGKILL at each system call of ADD and of DEL, then what a runtime does next.
//! - `errno` ([`trial`]): each system call fails with each error that it can have ([`injection`] has the list).
//! - `power` ([`power`]): the store is rebuilt from each prefix of the writes, with and without what was not synced.
//! - `churn` ([`churn`]): many containers come and go at once, with random kills; then GC.
//!
//! [`call`] calls plugins, [`leftovers`] says what is left, [`table`] shows what came out.

mod call;
mod churn;
mod injection;
mod inside;
mod leftovers;
mod power;
mod table;
mod trial;
mod worlds;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

pub(crate) use self::inside::{INSIDE, Options as InsideOptions, run as run_inside};
use self::table::{Count, Line};
use self::trial::Trial;
use crate::{dist, packages, program};

/// Where Debian has the Go plugins.
const PEER: &str = "/usr/lib/cni";
/// How many trials of a list and a kind they get, spread over all: each takes seconds.
const PEER_TRIALS: usize = 20;

/// What is done to the plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
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
    /// Try Debian's Go plugins too: kills and failing calls, a few for each list.
    #[arg(long)]
    peer: bool,
    /// Write the table into docs/faults.md.
    #[arg(long)]
    write: bool,
}

/// The sample that CI runs, always the same. What came out is handed to `on_line`.
pub(crate) fn run_sample(on_line: &mut dyn FnMut(&str)) -> Result<()> {
    let options = Options {
        plugin: Vec::new(),
        kind: Vec::new(),
        every: 101,
        seconds: 5,
        trial: None,
        peer: false,
        write: false,
    };
    let count = try_all(&options)?;
    on_line(&format!("faults: {} passed, {} failed", count.held, count.failed));
    ensure!(count.failed == 0, "{} trials failed", count.failed);
    Ok(())
}

/// The task.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    Ok(if try_all(options)?.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One process: a list, what is done to it, and to whose plugins.
#[derive(Clone)]
struct Job {
    world: String,
    kind: Kind,
    peer: bool,
}

/// Runs what the options ask for; gives how the trials of our plugins ended.
fn try_all(options: &Options) -> Result<Count> {
    packages::ensure("the faults", packages::FOR_TESTS)?;
    let directory = tempfile::tempdir().context("make a directory for the plugins")?;
    let rscni = dist::build_for_development("rscni-cli", "rscni")?;
    let plugins = directory.path().join("plugins");
    std::fs::create_dir(&plugins)?;
    program::capture(Command::new(&rscni).arg("install").arg(&plugins))?;
    let this_program = directory.path().join("xtask");
    program::copy_self(&this_program)?;
    let mut jobs = jobs(options)?;
    jobs.reverse();
    let jobs = Mutex::new(jobs);
    let lines = Mutex::new(Vec::new());
    let next = || jobs.lock().ok()?.pop();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(job) = next() {
                    let count = run_job(&job, options, &this_program, &plugins);
                    let line = Line { world: job.world, kind: job.kind, peer: job.peer, count };
                    println!("{line}");
                    lines.lock().expect("no job panics").push(line);
                }
            });
        }
    });
    let mut lines = lines.into_inner().expect("no job panics");
    lines.sort_by_key(|line| (line.peer, line.kind, worlds::NAMES.iter().position(|name| *name == line.world)));
    println!("\n{}", table::text(&lines));
    if options.write {
        table::write(&lines, &program::workspace_root().join("docs/faults.md"))?;
    }
    Ok(table::sum(&lines, false))
}

fn jobs(options: &Options) -> Result<Vec<Job>> {
    let has = |kind: Kind| options.kind.is_empty() || options.kind.contains(&kind);
    let wanted = |name: &str| options.plugin.is_empty() || options.plugin.iter().any(|wanted| wanted == name);
    for name in &options.plugin {
        worlds::World::named(name)?;
    }
    let mut jobs = Vec::new();
    for peer in [false, true].into_iter().filter(|peer| !peer || options.peer) {
        // The longest first.
        for name in worlds::NAMES.iter().rev().filter(|name| wanted(name)) {
            let world = worlds::World::named(name)?;
            let is_there = world.plugins().all(|plugin| Path::new(PEER).join(plugin).exists());
            for kind in [Kind::Churn, Kind::Power, Kind::Errno, Kind::Kill] {
                let applies = match kind {
                    // One trial says itself what it is.
                    Kind::Kill if options.trial.is_some() => false,
                    Kind::Kill | Kind::Errno => true,
                    Kind::Power => *name == "host-local",
                    Kind::Churn => *name == "chain",
                };
                if applies && has(kind) && (!peer || is_there && matches!(kind, Kind::Kill | Kind::Errno)) {
                    jobs.push(Job { world: (*name).to_owned(), kind, peer });
                }
            }
        }
    }
    Ok(jobs)
}

fn run_job(job: &Job, options: &Options, this_program: &Path, plugins: &Path) -> Count {
    let directory = if job.peer { PathBuf::from(PEER) } else { plugins.to_owned() };
    let at_most = if job.peer { PEER_TRIALS } else { usize::MAX };
    let kind = job.kind.to_possible_value().expect("no kind is hidden");
    let mut command = Command::new(this_program);
    command.arg(INSIDE).arg(directory).args(["--world", &job.world, "--kind", kind.get_name()]);
    command.args([
        "--every",
        &options.every.to_string(),
        "--at-most",
        &at_most.to_string(),
        "--seconds",
        &options.seconds.to_string(),
    ]);
    if let Some(trial) = &options.trial {
        command.args(["--trial", &trial.to_string()]);
    }
    let mut count = None;
    let is_told = !job.peer || options.trial.is_some();
    let watched = program::watched_quietly(&mut command, |line| match line.parse::<Count>() {
        Ok(counted) => count = Some(counted),
        Err(()) if !is_told => {}
        Err(()) => println!("{line}"),
    });
    count.filter(|_| watched.is_ok()).unwrap_or_else(|| {
        let why = watched.err().map(|error| format!("{error:#}")).unwrap_or_default();
        println!("  {} {}: ended before its end: {why}", job.world, kind.get_name());
        Count { failed: 1, ..Count::default() }
    })
}
