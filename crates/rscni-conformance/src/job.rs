//! The run: starts workers and collects their verdicts.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

use serde::{Deserialize, Serialize};

use crate::{
    guard::guard,
    host::PrivateHost,
    report::{Entry, Report},
    requirement::Requirement,
    subject::Subject,
    timeouts::{self, TimeoutCounter},
    verdict::{Failure, not_applicable},
};

/// The line on the stdin of a guard or a worker.
#[derive(Serialize, Deserialize)]
enum Order {
    /// Guard a worker that gets this job.
    Guard(Job),
    Work(Job),
}

#[derive(Serialize, Deserialize)]
struct Job {
    subject: Subject,
    ids: Vec<String>,
}

/// A line on the stdout of a guard or a worker.
#[derive(Serialize, Deserialize)]
enum Message {
    /// The worker is in its namespaces: the version of its calls, and the plugin's versions.
    Ready { version: String, supported: Vec<String> },
    /// The result of a requirement, and whether a call timed out.
    Done(Box<Entry>, bool),
    /// The worker cannot continue.
    Failed(String),
    /// The guard reports how the worker ended.
    Ended(String),
}

/// Checks the subject for these requirements. `worker` is a program with arguments that calls
/// [`work`]; `on_entry` gets each verdict when it is known.
///
/// # Errors
///
/// If the private host cannot be created; the text says what to do.
pub fn run(
    subject: &Subject,
    requirements: &[&Requirement],
    worker: (&Path, &[&str]),
    on_entry: &mut dyn FnMut(&Entry),
) -> Result<Report, String> {
    let mut report = Report::of(subject);
    let mut left: Vec<&Requirement> = requirements.to_vec();
    let mut timeouts = TimeoutCounter::default();
    while let Some(&next) = left.first() {
        if timeouts.is_exceeded() {
            report.gave_up = true;
            for requirement in left.drain(..) {
                let entry = Entry::new(requirement, not_applicable(timeouts::REASON));
                on_entry(&entry);
                report.entries.push(entry);
            }
            break;
        }
        let before = left.len();
        let job =
            Job { subject: subject.clone(), ids: left.iter().map(|r| r.id.to_owned()).collect() };
        let mut end = None;
        let mut failed = None;
        let guard = run_worker(job, worker, &mut |message| match message {
            Message::Ready { version, supported } => {
                (report.version, report.supported) = (version, supported);
            }
            Message::Failed(reason) => failed = Some(reason),
            Message::Ended(status) => end = Some(status),
            Message::Done(entry, timed_out) => {
                timeouts.count(&entry.result, timed_out);
                left.retain(|requirement| requirement.id != entry.id);
                on_entry(&entry);
                report.entries.push(*entry);
            }
        })?;
        if let Some(reason) = failed {
            return Err(reason);
        }
        if left.len() == before {
            let found = match end {
                Some(status) => format!("the check ended with {status}"),
                None => format!("the guard ended with {guard}"),
            };
            let failure = Failure { expected: next.text.to_owned(), found, call: None };
            let entry = Entry::failed(next, failure);
            timeouts.count(&entry.result, false);
            on_entry(&entry);
            report.entries.push(entry);
            left.remove(0);
        }
    }
    let position =
        |entry: &Entry| requirements.iter().position(|requirement| requirement.id == entry.id);
    report.entries.sort_by_key(position);
    Ok(report)
}

/// Runs a worker until it ends, and returns the exit status of its guard.
fn run_worker(
    job: Job,
    worker: (&Path, &[&str]),
    on_message: &mut dyn FnMut(Message),
) -> Result<ExitStatus, String> {
    let (program, args) = worker;
    let failed = |action: &str, error: &dyn std::fmt::Display| {
        format!("cannot {action} {}: {error}", program.display())
    };
    let mut command = Command::new(program);
    // In its own process group, so that a signal to the run's group does not kill the guard.
    command.args(args).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut guard = command.spawn().map_err(|error| failed("start", &error))?;
    // Kept open until the guard has exited, since its end tells the guard that the run has ended.
    let mut stdin = guard.stdin.take();
    if let Some(stdin) = &mut stdin {
        write_line(stdin, &Order::Guard(job)).map_err(|error| failed("write to", &error))?;
    }
    for line in guard.stdout.take().into_iter().flat_map(|stdout| BufReader::new(stdout).lines()) {
        let line = line.map_err(|error| failed("read from", &error))?;
        let message = serde_json::from_str(&line);
        on_message(message.map_err(|error| failed("read a message of", &error))?);
    }
    let status = guard.wait();
    drop(stdin);
    status.map_err(|error| failed("wait for", &error))
}

/// Does the work of a process that [`run`] starts: a guard, or the worker that a guard starts.
///
/// A worker enters its own namespaces and prints its verdicts, until all requirements are checked
/// or the plugin has left something behind.
///
/// # Errors
///
/// If the order cannot be read, or the verdicts cannot be written.
pub fn work() -> std::io::Result<()> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    match serde_json::from_str(&line)? {
        Order::Guard(job) => {
            let end = guard(&as_line(&Order::Work(job))?)?;
            // Best effort: the run may have ended.
            let _ = send(&Message::Ended(end));
            Ok(())
        }
        Order::Work(job) => work_on(job),
    }
}

fn work_on(job: Job) -> std::io::Result<()> {
    let host = match PrivateHost::enter(job.subject) {
        Ok(host) => host,
        Err(reason) => return send(&Message::Failed(reason)),
    };
    let supported = host.supported.iter().map(|version| (*version).to_owned()).collect();
    send(&Message::Ready { version: host.version.to_owned(), supported })?;
    for requirement in
        crate::ALL.iter().filter(|requirement| job.ids.iter().any(|id| id == requirement.id))
    {
        host.begin(requirement.id);
        let entry = Entry::new(requirement, (requirement.check)(&host, requirement.parameter));
        let is_clean = host.end();
        send(&Message::Done(Box::new(entry), host.has_timed_out()))?;
        if !is_clean {
            break;
        }
    }
    Ok(())
}

fn send(message: &Message) -> std::io::Result<()> {
    write_line(&mut std::io::stdout().lock(), message)
}

fn write_line(to: &mut dyn Write, value: &impl Serialize) -> std::io::Result<()> {
    to.write_all(&as_line(value)?)?;
    to.flush()
}

fn as_line(value: &impl Serialize) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}
