//! One trial: a fault at one call of an operation, the next calls of a runtime, and a check that
//! nothing is left.

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use rscni_test::{Container, Lab, Snapshot};
use serde_json::Value;
use xtask::program;

use super::{
    call::{Attachment, Caller, Ended},
    index,
    injection::{Fault, Injection, errors_of, is_right},
    leftovers,
};
use crate::tracer;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Add,
    Del,
}

const OPERATIONS: [(Operation, &str); 2] = [(Operation::Add, "add"), (Operation::Del, "del")];

/// The container's network namespace before DEL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Netns {
    Present,
    /// It has vanished, and its path does not exist.
    Gone,
    /// It has vanished, and the runtime does not pass its path.
    Unset,
}

const NAMESPACES: [(Netns, &str); 3] =
    [(Netns::Present, "there"), (Netns::Gone, "gone"), (Netns::Unset, "unset")];

/// A fault at a call of an operation. As text: `add:57:ENOSPC:there`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trial {
    pub(super) operation: Operation,
    pub(super) index: u64,
    pub(super) fault: Fault,
    pub(super) netns: Netns,
}

impl std::fmt::Display for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { index, fault, .. } = self;
        let operation = OPERATIONS.iter().find(|(it, _)| *it == self.operation);
        let netns = NAMESPACES.iter().find(|(it, _)| *it == self.netns);
        let (operation, netns) = (operation.map_or("", |it| it.1), netns.map_or("", |it| it.1));
        write!(f, "{operation}:{index}:{fault}:{netns}")
    }
}

impl std::str::FromStr for Trial {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not like add:57:ENOSPC:there");
        let parts: Vec<_> = text.split(':').collect();
        let [operation, index, fault, netns] = parts[..] else { return Err(wrong()) };
        let operation = OPERATIONS.iter().find(|(_, name)| *name == operation);
        let netns = NAMESPACES.iter().find(|(_, name)| *name == netns);
        Ok(Self {
            operation: operation.ok_or_else(wrong)?.0,
            index: index.parse().map_err(|_| wrong())?,
            fault: fault.parse()?,
            netns: netns.ok_or_else(wrong)?.0,
        })
    }
}

/// The outcome of a trial.
pub(super) enum Outcome {
    Passed,
    /// The operation had no such call this time, or another one, which cannot fail in this way.
    NotReached,
    /// The call that was hit, and the problems.
    Failed {
        call: String,
        problems: Vec<String>,
    },
}

/// A private network for trials, in which the list has had its first attachment, so that everything
/// that belongs to the network exists.
pub(super) struct TestBed<'a> {
    lab: &'a Lab,
    caller: Caller<'a>,
    container: Container,
    baseline: Snapshot,
    /// Whether CHECK succeeds after an ADD without a fault. With some of the Go plugins it does
    /// not.
    has_check: bool,
}

impl<'a> TestBed<'a> {
    pub(super) fn new(lab: &'a Lab, caller: Caller<'a>) -> Result<Self> {
        caller.list.set_up(lab)?;
        let container = lab.container("c");
        let baseline = Snapshot::default();
        let mut bed = Self { lab, caller, container, baseline, has_check: true };
        bed.set_baseline()?;
        Ok(bed)
    }

    /// Makes the state after a complete attachment the baseline.
    fn set_baseline(&mut self) -> Result<()> {
        let may_vanish = self.caller.list.may_vanish;
        if may_vanish {
            self.renew_namespace();
        }
        self.caller.list.restore_device(self.lab)?;
        let on = self.attachment(Netns::Present);
        let added = self.caller.add(&on, None)?;
        if let Some(ended) = added.failed {
            bail!("ADD fails without a fault: {}", ended.shown());
        }
        let result = added.results.last();
        let different = self.caller.check(&on, result.unwrap_or(&Value::Null))?;
        self.has_check = different.is_none();
        if let Some(reason) = different.filter(|_| !self.caller.is_peer) {
            bail!("CHECK fails without a fault: {reason}");
        }
        let failures = self.del(&on, self.prev_result(result, 0), None)?;
        if let Some(ended) = failures.first() {
            bail!("DEL fails without a fault: {}", ended.shown());
        }
        if may_vanish {
            self.renew_namespace();
        }
        self.baseline = leftovers::baseline(self.lab);
        Ok(())
    }

    /// The system calls of an operation.
    pub(super) fn calls(&self, operation: Operation) -> Result<Vec<(i64, u64)>> {
        let on = self.attachment(Netns::Present);
        let (mut add, mut del) = (Injection::default(), Injection::default());
        let added = self.caller.add(&on, Some(&mut add))?;
        if let Some(ended) = added.failed {
            bail!("ADD fails under the tracer: {}", ended.shown());
        }
        let result = self.prev_result(added.results.last(), 0);
        let failures = self.del(&on, result, Some(&mut del))?;
        ensure!(failures.is_empty(), "DEL fails under the tracer");
        Ok(if operation == Operation::Add { add.seen } else { del.seen })
    }

    pub(super) fn run(&mut self, trial: &Trial) -> Result<Outcome> {
        let mut injection = Injection::at(trial.index, trial.fault);
        let mut problems = Vec::new();
        match trial.operation {
            Operation::Add => self.hit_add(trial, &mut injection, &mut problems)?,
            Operation::Del => self.hit_del(trial, &mut injection, &mut problems)?,
        }
        if trial.netns != Netns::Present {
            self.renew_namespace();
        }
        problems.extend(self.left());
        self.attach_again(&mut problems)?;
        let Some((number, first)) = injection.hit else {
            let call = "no call".to_owned();
            return self.outcome(problems, call, Outcome::NotReached);
        };
        let call = format!("{}({first:#x}, ..)", tracer::name_of(number));
        self.outcome(problems, call, Outcome::Passed)
    }

    /// The outcome of a trial: `without` if there are no problems.
    fn outcome(
        &mut self,
        problems: Vec<String>,
        call: String,
        without: Outcome,
    ) -> Result<Outcome> {
        if problems.is_empty() {
            return Ok(without);
        }
        self.recover()?;
        Ok(Outcome::Failed { call, problems })
    }

    /// Hits ADD; then calls DEL, as a runtime does after a failed ADD or its own crash.
    fn hit_add(
        &mut self,
        trial: &Trial,
        injection: &mut Injection,
        problems: &mut Vec<String>,
    ) -> Result<()> {
        let on = self.attachment(Netns::Present);
        let added = self.caller.add(&on, Some(injection))?;
        problems.extend(index::disagreements());
        let result = added.results.last();
        match (&added.failed, trial.fault) {
            // Killed; or it ended before the kill; or there was no such call.
            (_, Fault::Kill) => {}
            (None, Fault::Error(_)) if !self.has_check => {}
            (None, Fault::Error(_)) => {
                let different = self.caller.check(&on, result.unwrap_or(&Value::Null))?;
                problems.extend(different.map(|it| format!("ADD succeeded, CHECK says {it}")));
            }
            (Some(ended), Fault::Error(errno)) => {
                let hit = injection.hit.unwrap_or_default();
                problems.extend(judge(ended, errno, hit, self.caller.is_peer));
                // A plugin that fails rolls back: nothing of it may be left before its DEL. One
                // that could not write its result is undone by DEL.
                if !is_reply(hit, self.caller.is_peer) {
                    let failures = self.caller.del(&on, added.results.len(), None, None)?;
                    add_failures(problems, "DEL of a plugin before it fails", &failures);
                    problems.extend(self.left().iter().map(|line| format!("before DEL: {line}")));
                }
            }
        }
        self.vanish(trial.netns);
        let result = self.prev_result(result, trial.index).filter(|_| added.failed.is_none());
        let failures = self.del(&self.attachment(trial.netns), result, None)?;
        add_failures(problems, "DEL fails", &failures);
        Ok(())
    }

    /// Hits DEL of a complete attachment; then calls it again.
    fn hit_del(
        &mut self,
        trial: &Trial,
        injection: &mut Injection,
        problems: &mut Vec<String>,
    ) -> Result<()> {
        let added = self.caller.add(&self.attachment(Netns::Present), None)?;
        if let Some(ended) = added.failed {
            problems.push(format!("ADD before it fails: {}", ended.shown()));
            return Ok(());
        }
        self.vanish(trial.netns);
        let on = self.attachment(trial.netns);
        let result = self.prev_result(added.results.last(), trial.index);
        let failures = self.del(&on, result, Some(injection))?;
        problems.extend(index::disagreements());
        if let Fault::Error(errno) = trial.fault {
            let hit = injection.hit.unwrap_or_default();
            let judge = |ended| judge(ended, errno, hit, self.caller.is_peer);
            problems.extend(failures.iter().filter_map(judge));
            if failures.is_empty() {
                // Also in a namespace that has vanished, nothing may be left at its path.
                let vanished = trial.netns != Netns::Present;
                if vanished {
                    self.renew_namespace();
                }
                problems.extend(self.left().iter().map(|line| format!("DEL succeeded: {line}")));
                if vanished {
                    self.vanish(trial.netns);
                }
            }
        }
        let failures = self.del(&on, result, None)?;
        add_failures(problems, "the second DEL fails", &failures);
        Ok(())
    }

    /// Attaches and detaches the same container again.
    fn attach_again(&mut self, problems: &mut Vec<String>) -> Result<()> {
        self.caller.list.restore_device(self.lab)?;
        let on = self.attachment(Netns::Present);
        let added = self.caller.add(&on, None)?;
        add_failures(problems, "the next ADD fails", added.failed.as_slice());
        let failures = self.del(&on, added.results.last(), None)?;
        add_failures(problems, "the DEL after the next ADD fails", &failures);
        if problems.is_empty() {
            let left = self.left();
            problems.extend(left.iter().map(|line| format!("after the next ADD and DEL: {line}")));
        }
        Ok(())
    }

    fn left(&self) -> Vec<String> {
        leftovers::since(self.lab, &self.baseline)
    }

    /// After a failure: removes what is left, or else makes it part of the baseline, so that it
    /// does not affect the next trial.
    fn recover(&mut self) -> Result<()> {
        self.del(&self.attachment(Netns::Present), None, None)?;
        self.caller.gc()?;
        // A rule in the baseline would be missed when a later DEL of the same address removes it.
        // User-Mode Linux has no nftables.
        let _ = program::output_of("nft flush ruleset");
        self.set_baseline().context("recover after a trial that failed")
    }

    fn del(
        &self,
        on: &Attachment,
        result: Option<&Value>,
        injection: Option<&mut Injection>,
    ) -> Result<Vec<Ended>> {
        self.caller.del(on, self.caller.list.steps.len(), result, injection)
    }

    /// `prevResult` for a DEL of a complete attachment: in every second trial there is none.
    fn prev_result<'r>(&self, result: Option<&'r Value>, index: u64) -> Option<&'r Value> {
        result.filter(|_| self.caller.is_peer || index % 2 == 1)
    }

    fn attachment(&self, netns: Netns) -> Attachment {
        let path = (netns != Netns::Unset).then(|| self.container.path().to_owned());
        Attachment { container_id: self.container.id().to_owned(), netns: path, host_port: None }
    }

    fn vanish(&self, netns: Netns) {
        if netns != Netns::Present {
            self.lab.remove_namespace(&self.container);
        }
    }

    /// Makes a new namespace at the same path.
    fn renew_namespace(&mut self) {
        if self.container.exists() {
            self.lab.remove_namespace(&self.container);
        } else if self.container.path().exists() {
            // A file of the plugin, which is reported as left behind.
            let _ = std::fs::remove_file(self.container.path());
        }
        self.container = self.lab.container("c");
    }
}

fn add_failures(problems: &mut Vec<String>, what: &str, failures: &[Ended]) {
    problems.extend(failures.iter().map(|ended| format!("{what}: {}", ended.shown())));
}

/// The descriptor that our plugins reserve for the reply before they open any other.
const RESERVED: u64 = 3;

/// Whether the call writes the reply.
fn is_reply((call, first): (i64, u64), is_peer: bool) -> bool {
    let is_stdout = first == 1 || first == RESERVED && !is_peer;
    is_stdout && matches!(call, nix::libc::SYS_write | nix::libc::SYS_writev)
}

/// The problem with the error reply of a plugin, if there is one. Error replies of the Go plugins
/// lack `cniVersion`.
fn judge(ended: &Ended, errno: Errno, hit: (i64, u64), is_peer: bool) -> Option<String> {
    let (call, _) = hit;
    if is_reply(hit, is_peer) && ended.code.is_some_and(|code| code != 0) {
        // The reply itself could not be written.
        return None;
    }
    let reply = match ended.json() {
        Some(reply) if ended.code.is_some_and(|code| code != 0) => reply,
        _ => return Some(format!("no error reply of the spec: {}", ended.shown())),
    };
    let is_complete = (is_peer || reply["cniVersion"].is_string()) && reply["msg"].is_string();
    match reply["code"].as_u64() {
        Some(code) if is_complete && is_right(code, errno, call) => None,
        Some(code) if is_complete => {
            Some(format!("code {code} is not right for {errno:?}: {}", ended.shown()))
        }
        _ => Some(format!("an incomplete error reply: {}", ended.shown())),
    }
}

/// Every kill: at each call of ADD and of DEL, with and without the namespace.
pub(super) fn kills(add: usize, del: usize, may_vanish: bool) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (operation, calls) in [(Operation::Add, add), (Operation::Del, del)] {
        for index in 0..calls as u64 {
            let trial = Trial { operation, index, fault: Fault::Kill, netns: Netns::Present };
            trials.push(trial);
            if may_vanish {
                trials.push(Trial { netns: gone(index), ..trial });
            }
        }
    }
    trials
}

/// Every error at each call that can return it. The namespace exists in two of three trials.
pub(super) fn errors(add: &[(i64, u64)], del: &[(i64, u64)], may_vanish: bool) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (operation, calls) in [(Operation::Add, add), (Operation::Del, del)] {
        for (index, (number, _)) in (0u64..).zip(calls) {
            for errno in errors_of(*number) {
                let vanishes = may_vanish && trials.len() % 3 == 2;
                let netns = if vanishes { gone(index) } else { Netns::Present };
                trials.push(Trial { operation, index, fault: Fault::Error(*errno), netns });
            }
        }
    }
    trials
}

fn gone(index: u64) -> Netns {
    if index.is_multiple_of(2) { Netns::Gone } else { Netns::Unset }
}

#[cfg(test)]
mod tests {
    use nix::libc;

    use super::*;

    #[test]
    fn a_trial_is_parsed_from_its_display() {
        let trials =
            kills(3, 2, true).into_iter().chain(errors(&[(libc::SYS_openat, 0)], &[], true));
        for trial in trials {
            assert_eq!(trial.to_string().parse(), Ok(trial));
        }
        assert_eq!(
            "add:57:ENOSPC:there".parse::<Trial>().unwrap().to_string(),
            "add:57:ENOSPC:there"
        );
        assert!("add:1:kill".parse::<Trial>().is_err());
        assert!("add:x:kill:there".parse::<Trial>().is_err());
    }

    #[test]
    fn every_call_is_hit_with_and_without_the_namespace() {
        assert_eq!(kills(10, 5, true).len(), 30);
        assert_eq!(kills(10, 5, false).len(), 15);
        assert!(errors(&[(libc::SYS_getpid, 0)], &[(libc::SYS_exit_group, 0)], true).is_empty());
    }

    #[test]
    fn a_failure_needs_a_complete_reply_with_a_right_code() {
        let ended =
            |code, stdout: &str| Ended { code, stdout: stdout.into(), stderr: String::new() };
        let judge = |code, stdout: &str, hit, is_peer| {
            judge(&ended(code, stdout), Errno::EIO, hit, is_peer).is_none()
        };
        let complete = r#"{"cniVersion":"1.0.0","code":5,"msg":"read"}"#;
        let at = (libc::SYS_linkat, 7);
        assert!(judge(Some(1), complete, at, false));
        assert!(!judge(Some(0), complete, at, false));
        assert!(!judge(None, complete, at, false));
        assert!(!judge(Some(1), "", at, false));
        assert!(!judge(Some(1), &complete.replace("cniVersion", "version"), at, false));
        assert!(judge(Some(1), r#"{"code":5,"msg":"read"}"#, at, true));
        assert!(!judge(Some(1), &complete.replace('5', "7"), at, false));
        for (descriptor, is_peer) in [(1, false), (3, false), (1, true)] {
            assert!(judge(Some(1), "", (libc::SYS_write, descriptor), is_peer));
        }
        assert!(!judge(Some(1), "", (libc::SYS_write, 3), true));
    }
}
