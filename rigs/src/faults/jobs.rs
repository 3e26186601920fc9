//! The trials as processes: a list, a kind of fault, a set of plugins, and a part of the trials.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use xtask::program;

use super::{
    INSIDE, Kind, Options,
    lists::{self, CHURNED, List},
    table::Count,
};
use crate::uml;

/// Trials of the Go plugins for each list and kind. Each takes seconds.
const PEER_TRIALS: usize = 40;
/// Parts of the trials of a list.
const PARTS: usize = 4;
/// Time limit of a part in User-Mode Linux.
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
    pub(super) list: String,
    pub(super) kind: Kind,
    pub(super) peer: bool,
    /// Only each `every`-th trial.
    every: usize,
    /// Time of churn.
    seconds: u64,
    part: usize,
    parts: usize,
}

/// All jobs of the options, the longest first.
pub(super) fn all(options: &Options, peer_plugins: Option<&Path>) -> Result<Vec<Job>> {
    for name in &options.plugin {
        List::named(name)?;
    }
    let mut names = lists::names();
    names.retain(|name| options.plugin.is_empty() || options.plugin.contains(name));
    let mut kinds = vec![Kind::Churn, Kind::Power, Kind::Errno, Kind::Kill];
    kinds.retain(|kind| options.kind.is_empty() || options.kind.contains(kind));
    let mut jobs = Vec::new();
    for peer in [false, true].into_iter().filter(|peer| options.only_peer == *peer || options.peer)
    {
        for name in names.iter().rev() {
            let list = List::named(name)?;
            let exists =
                |set: &Path| list.steps.iter().all(|step| set.join(step.plugin()).exists());
            // User-Mode Linux does not save the registers that Go uses, and each trial of the Go
            // plugins takes seconds there.
            if peer && (list.needs_uml || !peer_plugins.is_some_and(exists)) {
                continue;
            }
            for &kind in &kinds {
                let applies = match kind {
                    // A single trial names its fault itself.
                    Kind::Kill => options.trial.is_none(),
                    Kind::Errno => true,
                    Kind::Power => name == "host-local",
                    Kind::Churn => CHURNED.contains(&&**name) && !(peer && name == "dhcp"),
                };
                if !applies {
                    continue;
                }
                let is_complete = options.every == 1 && options.trial.is_none();
                let has_parts = is_complete && matches!(kind, Kind::Kill | Kind::Errno);
                let parts = if has_parts { PARTS } else { 1 };
                let is_churn = kind == Kind::Churn;
                jobs.extend((0..parts).map(|part| Job {
                    list: name.clone(),
                    kind,
                    peer,
                    every: if is_churn { 1 } else { options.every },
                    seconds: if is_churn { options.seconds } else { 0 },
                    part,
                    parts,
                }));
            }
        }
    }
    Ok(jobs)
}

impl Job {
    /// Runs the job, and prints its failures.
    pub(super) fn run(&self, options: &Options, this_program: &Path, sets: &Sets) -> Count {
        let mut count = None;
        let is_shown = !self.peer || options.trial.is_some();
        let mut on_line = |line: &str| match line.parse::<Count>() {
            Ok(counted) => count = Some(counted),
            Err(()) if is_shown => println!("{line}"),
            Err(()) => {}
        };
        let arguments = self.arguments(options, sets);
        let outcome = if List::named(&self.list).is_ok_and(|list| list.needs_uml) {
            let command = [this_program.display().to_string()].into_iter().chain(arguments);
            let job = uml::Job { limit: LIMIT, ..uml::Job::new(command.collect(), Path::new("/")) };
            let ended = job.run(&mut on_line);
            ended.and_then(|code| if code == 0 { Ok(()) } else { bail!("it ended with {code}") })
        } else {
            program::watched(Command::new(this_program).args(arguments), &mut on_line)
        };
        count.filter(|_| outcome.is_ok()).unwrap_or_else(|| {
            let reason = outcome.err().map(|error| format!("{error:#}")).unwrap_or_default();
            println!("  {self}: it did not finish: {reason}");
            Count { failed: 1, ..Count::default() }
        })
    }

    fn arguments(&self, options: &Options, sets: &Sets) -> Vec<String> {
        let directory = sets.peer.as_ref().filter(|_| self.peer).unwrap_or(&sets.ours);
        let at_most = if self.peer { PEER_TRIALS } else { usize::MAX };
        let mut arguments = vec![INSIDE.to_owned(), directory.display().to_string()];
        let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        add("--ours", sets.ours.display().to_string());
        add("--list", self.list.clone());
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
        write!(f, "{} {}", self.list, self.kind.name())?;
        if self.parts > 1 {
            write!(f, ", part {} of {}", self.part + 1, self.parts)?;
        }
        if self.peer { f.write_str(" (Go)") } else { Ok(()) }
    }
}
