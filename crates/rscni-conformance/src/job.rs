//! Workers, and the work that they are given.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

use serde::{Deserialize, Serialize};

use crate::{
    guard::guard,
    overdue::{self, Overdue},
    report::{Entry, Report},
    requirement::Requirement,
    subject::Subject,
    verdict::{Failure, not_applicable},
    world::World,
};

/// What one of these processes is given on its stdin, in a line.
#[derive(Serialize, Deserialize)]
enum Order {
    /// Start a worker, give it this, and see to it that nothing of it stays.
    Guard(Job),
    Work(Job),
}

#[derive(Serialize, Deserialize)]
struct Job {
    subject: Subject,
    ids: Vec<String>,
}

/// What they say, a line each.
#[derive(Serialize, Deserialize)]
enum Said {
    /// It is in its namespaces, and calls the plugin in this version, which claims these.
    Ready { version: String, supported: Vec<String> },
    /// What a requirement came to, and whether a call was overdue.
    Done(Box<Entry>, bool),
    /// It cannot go on.
    Failed(String),
    /// The guard: how the worker has ended.
    Ended(String),
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
        let job =
            Job { subject: subject.clone(), ids: left.iter().map(|r| r.id.to_owned()).collect() };
        let mut end = None;
        let guard = one_worker(job, worker, &mut |said| match said {
            Said::Ready { version, supported } => {
                (report.version, report.supported) = (version, supported);
            }
            Said::Failed(why) => report.failed = Some(why),
            Said::Ended(how) => end = Some(how),
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
            let end = end.map_or_else(
                || format!("guard ended with {guard}"),
                |how| format!("check ended with {how}"),
            );
            let failure =
                Failure { expected: next.text.to_owned(), found: format!("the {end}"), call: None };
            let entry = Entry::failed(next, failure);
            overdue.note(&entry.result, false);
            on_entry(&entry);
            report.entries.push(entry);
            left.remove(0);
        }
    }
    let place =
        |entry: &Entry| requirements.iter().position(|requirement| requirement.id == entry.id);
    report.entries.sort_by_key(place);
    Ok(report)
}

/// Has one worker do as much as it can, and says how its guard ended.
fn one_worker(
    job: Job,
    worker: (&Path, &[&str]),
    on_said: &mut dyn FnMut(Said),
) -> Result<ExitStatus, String> {
    let (program, args) = worker;
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        format!("{what} {}: {error}", program.display())
    };
    let mut command = Command::new(program);
    // A group of its own, so that who ends the run's group leaves it the time to tidy up.
    command.args(args).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut guard = command.spawn().map_err(|error| failed("start", &error))?;
    // Open until it has ended: where this process ends before, the guard notices.
    let mut stdin = guard.stdin.take();
    if let Some(stdin) = &mut stdin {
        write_line(stdin, &Order::Guard(job)).map_err(|error| failed("tell", &error))?;
    }
    for line in guard.stdout.take().into_iter().flat_map(|stdout| BufReader::new(stdout).lines()) {
        let line = line.map_err(|error| failed("listen to", &error))?;
        on_said(serde_json::from_str(&line).map_err(|error| failed("understand", &error))?);
    }
    let status = guard.wait();
    drop(stdin);
    status.map_err(|error| failed("wait for", &error))
}

/// What the processes do that [`run`] starts. The first is a guard; the second, which the guard starts, is the worker. It
/// enters namespaces of its own, and tells the verdicts on stdout until all is done or a plugin has spoilt the place.
///
/// # Errors
///
/// If the order cannot be read, or nobody listens to the worker.
pub fn work() -> std::io::Result<()> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    match serde_json::from_str(&line)? {
        Order::Guard(job) => {
            let end = guard(&as_line(&Order::Work(job))?)?;
            // Where the run has ended, nobody is to be told.
            let _ = say(&Said::Ended(end));
            Ok(())
        }
        Order::Work(job) => work_on(job),
    }
}

fn work_on(job: Job) -> std::io::Result<()> {
    let world = match World::enter(job.subject) {
        Ok(world) => world,
        Err(why) => return say(&Said::Failed(why)),
    };
    let supported = world.supported.iter().map(|version| (*version).to_owned()).collect();
    say(&Said::Ready { version: world.version.to_owned(), supported })?;
    for requirement in
        crate::ALL.iter().filter(|requirement| job.ids.iter().any(|id| id == requirement.id))
    {
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
    write_line(&mut std::io::stdout().lock(), said)
}

fn write_line(to: &mut dyn Write, what: &impl Serialize) -> std::io::Result<()> {
    to.write_all(&as_line(what)?)?;
    to.flush()
}

fn as_line(what: &impl Serialize) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    Ok(line)
}
