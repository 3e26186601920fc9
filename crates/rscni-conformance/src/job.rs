//! Workers, and the work that they are given.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde::{Deserialize, Serialize};

use crate::overdue::{self, Overdue};
use crate::report::{Entry, Report};
use crate::requirement::Requirement;
use crate::subject::Subject;
use crate::verdict::{Failure, not_applicable};
use crate::world::World;

/// What a worker is given on its stdin.
#[derive(Serialize, Deserialize)]
struct Job {
    subject: Subject,
    ids: Vec<String>,
}

/// What it says, a line each.
#[derive(Serialize, Deserialize)]
enum Said {
    /// It is in its namespaces, and calls the plugin in this version, which claims these.
    Ready { version: String, supported: Vec<String> },
    /// What a requirement came to, and whether a call was overdue.
    Done(Box<Entry>, bool),
    /// It cannot go on.
    Failed(String),
}

/// Holds the subject against these requirements. `worker` is a program that calls [`work`] when it is called with
/// these arguments; `on_entry` is told each verdict as it comes.
///
/// # Errors
///
/// If there can be no private host; the text says what to do.
pub fn run(
    subject: &Subject,
    requirements: &[&Requirement],
    worker: (&Path, &[&str]),
    on_entry: &mut dyn FnMut(&Entry),
) -> Result<Report, String> {
    let mut report = Report::of(subject);
    let mut left: Vec<&Requirement> = requirements.to_vec();
    let mut overdue = Overdue::default();
    while let Some(&next) = left.first() {
        if overdue.is_enough() {
            report.gave_up = true;
            for requirement in left.drain(..) {
                let entry = Entry::new(requirement, not_applicable(overdue::REASON));
                on_entry(&entry);
                report.entries.push(entry);
            }
            break;
        }
        let before = left.len();
        let job = Job { subject: subject.clone(), ids: left.iter().map(|r| r.id.to_owned()).collect() };
        let end = one_worker(&job, worker, &mut |said| match said {
            Said::Ready { version, supported } => (report.version, report.supported) = (version, supported),
            Said::Failed(why) => report.failed = Some(why),
            Said::Done(entry, was_overdue) => {
                overdue.note(&entry.result, was_overdue);
                left.retain(|requirement| requirement.id != entry.id);
                on_entry(&entry);
                report.entries.push(*entry);
            }
        })?;
        if let Some(why) = report.failed.take() {
            return Err(why);
        }
        if left.len() == before {
            let failure = Failure { expected: next.text.to_owned(), found: format!("the check {end}"), call: None };
            let entry = Entry::failed(next, failure);
            overdue.note(&entry.result, false);
            on_entry(&entry);
            report.entries.push(entry);
            left.remove(0);
        }
    }
    let place = |entry: &Entry| requirements.iter().position(|requirement| requirement.id == entry.id);
    report.entries.sort_by_key(place);
    Ok(report)
}

/// Has one worker do as much as it can, and says how it ended.
fn one_worker(job: &Job, worker: (&Path, &[&str]), on_said: &mut dyn FnMut(Said)) -> Result<String, String> {
    let (program, args) = worker;
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what} {}: {error}", program.display());
    let mut command = Command::new(program);
    // A group of its own, so that what it leaves running can be ended.
    command.args(args).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed("start", &error))?;
    if let Some(mut stdin) = child.stdin.take() {
        let job = serde_json::to_vec(job).map_err(|error| failed("tell", &error))?;
        stdin.write_all(&job).map_err(|error| failed("tell", &error))?;
    }
    for line in child.stdout.take().into_iter().flat_map(|stdout| BufReader::new(stdout).lines()) {
        let line = line.map_err(|error| failed("listen to", &error))?;
        on_said(serde_json::from_str(&line).map_err(|error| failed("understand", &error))?);
    }
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Its number is its group's until it has been waited for. Most leave nothing running in that.
        let _ = waitid(WaitId::Pid(group), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait().map_err(|error| failed("wait for", &error))?;
    Ok(format!("ended with {status}"))
}

/// The worker's side: takes a job from stdin, enters namespaces of its own, and tells the verdicts on stdout until
/// all is done or a plugin has spoilt the place.
///
/// # Errors
///
/// If the job cannot be read or nobody listens.
pub fn work() -> std::io::Result<()> {
    let mut job = Vec::new();
    std::io::stdin().lock().read_to_end(&mut job)?;
    let job: Job = serde_json::from_slice(&job)?;
    let world = match World::enter(job.subject) {
        Ok(world) => world,
        Err(why) => return say(&Said::Failed(why)),
    };
    let supported = world.supported.iter().map(|version| (*version).to_owned()).collect();
    say(&Said::Ready { version: world.version.to_owned(), supported })?;
    for requirement in crate::ALL.iter().filter(|requirement| job.ids.iter().any(|id| id == requirement.id)) {
        world.begin(requirement.id);
        let entry = Entry::new(requirement, (requirement.check)(&world, requirement.about));
        let is_fit = world.end();
        say(&Said::Done(Box::new(entry), world.is_overdue()))?;
        if !is_fit {
            break;
        }
    }
    Ok(())
}

fn say(said: &Said) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}
