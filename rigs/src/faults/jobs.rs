//! What is asked for, as processes: a list, what is done to it, to whose plugins, and which part of the trials.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    INSIDE, Kind, Options,
    table::Count,
    worlds::{CHURNED, NAMES, World},
};
use crate::uml;
use xtask::program;

/// How many trials of a list and a kind the Go plugins get, spread over all: each takes seconds.
const PEER_TRIALS: usize = 40;
/// Into how many parts all trials of a list are cut.
const PARTS: usize = 4;
/// How long one may take in User-Mode Linux.
const LIMIT: Duration = Duration::from_secs(3 * 3600);

/// The directories of the plugins.
pub(super) struct Sets {
    pub(super) ours: PathBuf,
    /// The Go plugins, if they are tried too.
    pub(super) peer: Option<PathBuf>,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) world: String,
    pub(super) kind: Kind,
    pub(super) peer: bool,
    /// Of the trials each `every`-th, or those of one length of time.
    every: usize,
    seconds: u64,
    part: usize,
    parts: usize,
}

/// All that the options ask for, the longest first.
pub(super) fn all(options: &Options, peer_plugins: Option<&Path>) -> Result<Vec<Job>> {
    let has = |kind: Kind| options.kind.is_empty() || options.kind.contains(&kind);
    let wanted = |name: &str| {
        options.plugin.is_empty() || options.plugin.iter().any(|wanted| wanted == name)
    };
    for name in &options.plugin {
        World::named(name)?;
    }
    let mut jobs = Vec::new();
    for peer in [false, true].into_iter().filter(|peer| options.only_peer == *peer || options.peer)
    {
        for name in NAMES.iter().rev().filter(|name| wanted(name)) {
            let world = World::named(name)?;
            let is_there = peer_plugins
                .is_some_and(|set| world.plugins().all(|plugin| set.join(plugin).exists()));
            for kind in [Kind::Churn, Kind::Power, Kind::Errno, Kind::Kill] {
                let applies = match kind {
                    // One trial says itself what it is.
                    Kind::Kill if options.trial.is_some() => false,
                    Kind::Errno | Kind::Kill => true,
                    Kind::Power => *name == "host-local",
                    Kind::Churn => CHURNED.contains(name) && !(peer && *name == "dhcp"),
                };
                // User-Mode Linux has no room for the registers that Go uses, and each of its trials takes seconds there.
                let can = !peer || is_there && !world.needs_uml();
                if !applies || !has(kind) || !can {
                    continue;
                }
                let is_whole = options.every == 1
                    && options.trial.is_none()
                    && matches!(kind, Kind::Kill | Kind::Errno);
                let parts = if is_whole { PARTS } else { 1 };
                jobs.extend((0..parts).map(|part| Job {
                    world: (*name).to_owned(),
                    kind,
                    peer,
                    every: if kind == Kind::Churn { 1 } else { options.every },
                    seconds: if kind == Kind::Churn { options.seconds } else { 0 },
                    part,
                    parts,
                }));
            }
        }
    }
    Ok(jobs)
}

impl Job {
    /// Runs it; shows what fails.
    pub(super) fn run(&self, options: &Options, this_program: &Path, sets: &Sets) -> Count {
        let mut count = None;
        let is_told = !self.peer || options.trial.is_some();
        let mut on_line = |line: &str| match line.parse::<Count>() {
            Ok(counted) => count = Some(counted),
            Err(()) if !is_told => {}
            Err(()) => println!("{line}"),
        };
        let arguments = self.arguments(options, sets);
        let outcome = if World::named(&self.world).is_ok_and(|world| world.needs_uml()) {
            let command: Vec<String> =
                std::iter::once(this_program.display().to_string()).chain(arguments).collect();
            let ended = uml::run_in(&command, Path::new("/"), None, LIMIT, &mut on_line);
            ended.and_then(|code| if code == 0 { Ok(()) } else { bail!("it ended with {code}") })
        } else {
            program::watched_quietly(Command::new(this_program).args(arguments), &mut on_line)
        };
        count.filter(|_| outcome.is_ok()).unwrap_or_else(|| {
            let why = outcome.err().map(|error| format!("{error:#}")).unwrap_or_default();
            println!("  {self}: ended before its end: {why}");
            Count { failed: 1, ..Count::default() }
        })
    }

    fn arguments(&self, options: &Options, sets: &Sets) -> Vec<String> {
        let directory = sets.peer.as_ref().filter(|_| self.peer).unwrap_or(&sets.ours);
        let at_most = if self.peer { PEER_TRIALS } else { usize::MAX };
        let mut arguments = vec![INSIDE.to_owned(), directory.display().to_string()];
        let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        add("--ours", sets.ours.display().to_string());
        add("--world", self.world.clone());
        add("--kind", self.kind.name());
        add("--every", self.every.to_string());
        add("--at-most", at_most.to_string());
        add("--part", format!("{}/{}", self.part, self.parts));
        add("--seconds", self.seconds.to_string());
        if let Some(trial) = &options.trial {
            add("--trial", trial.to_string());
        }
        arguments
    }
}

impl std::fmt::Display for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.world, self.kind.name())?;
        if self.parts > 1 {
            write!(f, ", part {} of {}", self.part + 1, self.parts)?;
        }
        if self.peer { f.write_str(" (Go)") } else { Ok(()) }
    }
}
