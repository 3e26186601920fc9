//! One trial: an operation that is hit at one of its calls, what a runtime does then, and whether all is as it was.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use rscni_test::{Container, Lab, Snapshot};
use serde_json::Value;

use super::{
    call::{Attachment, Caller, Ended},
    index,
    injection::{Blow, Injection, errors_of, is_right},
    leftovers,
};
use crate::bench::names;
use xtask::program;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Add,
    Del,
}

/// What becomes of the container's network namespace before DEL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Netns {
    There,
    /// It vanishes, and its path leads nowhere.
    Gone,
    /// It vanishes, and the runtime no longer says where it was.
    Unset,
}

/// Which call of which operation is hit, and by what. As text: `add:57:ENOSPC:there`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trial {
    pub(super) operation: Operation,
    pub(super) index: u64,
    pub(super) blow: Blow,
    pub(super) netns: Netns,
}

impl std::fmt::Display for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let operation = if self.operation == Operation::Add { "add" } else { "del" };
        let netns = match self.netns {
            Netns::There => "there",
            Netns::Gone => "gone",
            Netns::Unset => "unset",
        };
        write!(f, "{operation}:{}:{}:{netns}", self.index, self.blow)
    }
}

impl std::str::FromStr for Trial {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not like add:57:ENOSPC:there");
        let parts: Vec<_> = text.split(':').collect();
        let [operation, index, blow, netns] = parts.as_slice() else { return Err(wrong()) };
        Ok(Self {
            operation: match *operation {
                "add" => Operation::Add,
                "del" => Operation::Del,
                _ => return Err(wrong()),
            },
            index: index.parse().map_err(|_| wrong())?,
            blow: blow.parse()?,
            netns: match *netns {
                "there" => Netns::There,
                "gone" => Netns::Gone,
                "unset" => Netns::Unset,
                _ => return Err(wrong()),
            },
        })
    }
}

/// How a trial went.
pub(super) enum Outcome {
    /// All is as it has to be.
    Held,
    /// The operation had no such call this time, or another one, which cannot fail like that.
    NotReached,
    /// The call that was hit, and what is not as it has to be.
    Failed { call: String, wrong: Vec<String> },
}

/// The place of the trials: a private network in which the list has had its first attachment, so that what belongs to
/// the network as a whole is there.
pub(super) struct Place<'a> {
    lab: &'a Lab,
    caller: Caller<'a>,
    container: Container,
    baseline: Snapshot,
    /// Whether CHECK agrees with an ADD that nothing has hit. Not all of the Go plugins' do.
    has_check: bool,
}

impl<'a> Place<'a> {
    pub(super) fn new(lab: &'a Lab, caller: Caller<'a>) -> Result<Self> {
        let world = caller.world;
        world.furnish(lab)?;
        let mut place = Self {
            lab,
            caller,
            container: lab.container("c"),
            baseline: Snapshot::default(),
            has_check: true,
        };
        place.rebase()?;
        Ok(place)
    }

    /// Takes what is there after a complete attachment as what belongs there.
    fn rebase(&mut self) -> Result<()> {
        if self.caller.world.may_vanish {
            self.renew();
        }
        self.caller.world.furnish(self.lab)?;
        let on = self.attachment(Netns::There);
        let added = self.caller.add(&on, None)?;
        if let Some(ended) = added.failed {
            bail!("ADD fails by itself: {}", ended.said());
        }
        let result = added.results.last();
        let different = self.caller.check(&on, result.unwrap_or(&Value::Null))?;
        self.has_check = different.is_none();
        if let Some(said) = different.filter(|_| !self.caller.is_peer) {
            bail!("CHECK fails by itself: {said}");
        }
        self.del_cleanly(&on, self.result(added.results.last(), 0))?;
        if self.caller.world.may_vanish {
            self.renew();
        }
        self.baseline = leftovers::baseline(self.lab);
        Ok(())
    }

    /// The calls of each operation, for a plan: what is called, with the namespace there or not.
    pub(super) fn calls(&self, operation: Operation) -> Result<Vec<(i64, u64)>> {
        let on = self.attachment(Netns::There);
        let (mut add, mut del) = (Injection::none(), Injection::none());
        let added = self.caller.add(&on, Some(&mut add))?;
        ensure!(
            added.failed.is_none(),
            "ADD fails under the tracer: {}",
            added.failed.map_or_else(String::new, |e| e.said())
        );
        let result = self.result(added.results.last(), 0);
        let failures = self.caller.del(&on, self.steps(), result, Some(&mut del))?;
        ensure!(failures.is_empty(), "DEL fails under the tracer");
        Ok(if operation == Operation::Add { add.seen } else { del.seen })
    }

    pub(super) fn run(&mut self, trial: &Trial) -> Result<Outcome> {
        let mut injection = Injection::at(trial.index, trial.blow);
        let mut wrong = Vec::new();
        match trial.operation {
            Operation::Add => self.add_hit(trial, &mut injection, &mut wrong)?,
            Operation::Del => self.del_hit(trial, &mut injection, &mut wrong)?,
        }
        if trial.netns != Netns::There {
            self.renew();
        }
        wrong.extend(self.left());
        self.attach_again(&mut wrong)?;
        if !wrong.is_empty() {
            self.recover()?;
            let (number, first) = injection.hit.unwrap_or_default();
            let call = injection.hit.map_or_else(
                || "no call".to_owned(),
                |_| format!("{}({first:#x}, ..)", names::of(number)),
            );
            return Ok(Outcome::Failed { call, wrong });
        }
        Ok(if injection.hit.is_some() { Outcome::Held } else { Outcome::NotReached })
    }

    /// ADD is hit; then DEL, as a runtime calls it after an ADD that failed or a crash of its own.
    fn add_hit(
        &mut self,
        trial: &Trial,
        injection: &mut Injection,
        wrong: &mut Vec<String>,
    ) -> Result<()> {
        let on = self.attachment(Netns::There);
        let added = self.caller.add(&on, Some(injection))?;
        wrong.extend(index::disagreements());
        let result = added.results.last();
        match (&added.failed, trial.blow) {
            // Killed, and the kernel was faster than the program: or there was no such call.
            (_, Blow::Kill) => {}
            (None, Blow::Error(_)) if !self.has_check => {}
            (None, Blow::Error(_)) => {
                let different = self.caller.check(&on, result.unwrap_or(&Value::Null))?;
                wrong.extend(different.map(|said| format!("ADD succeeded, CHECK says {said}")));
            }
            (Some(ended), Blow::Error(errno)) => {
                let hit = injection.hit.unwrap_or_default();
                wrong.extend(judge(ended, errno, hit, self.caller.is_peer));
                // A plugin that fails has taken its own part back: without its DEL nothing of it may be there. One that could
                // not tell that it has succeeded is to be undone by DEL.
                if !is_reply(hit, self.caller.is_peer) {
                    for failure in self.caller.del(&on, added.results.len(), None, None)? {
                        wrong.push(format!("DEL of a plugin before it fails: {}", failure.said()));
                    }
                    let left = self.left();
                    wrong.extend(left.into_iter().map(|line| format!("before DEL: {line}")));
                }
            }
        }
        self.vanish(trial.netns);
        let result = self.result(result, trial.index).filter(|_| added.failed.is_none());
        let failures =
            self.caller.del(&self.attachment(trial.netns), self.steps(), result, None)?;
        wrong.extend(failures.iter().map(|ended| format!("DEL fails: {}", ended.said())));
        Ok(())
    }

    /// DEL of a complete attachment is hit; then it is called once more.
    fn del_hit(
        &mut self,
        trial: &Trial,
        injection: &mut Injection,
        wrong: &mut Vec<String>,
    ) -> Result<()> {
        let on = self.attachment(Netns::There);
        let added = self.caller.add(&on, None)?;
        if let Some(ended) = added.failed {
            wrong.push(format!("ADD before it fails: {}", ended.said()));
            return Ok(());
        }
        self.vanish(trial.netns);
        let on = self.attachment(trial.netns);
        let result = self.result(added.results.last(), trial.index);
        let failures = self.caller.del(&on, self.steps(), result, Some(injection))?;
        wrong.extend(index::disagreements());
        if let Blow::Error(errno) = trial.blow {
            let hit = injection.hit.unwrap_or_default();
            wrong.extend(
                failures.iter().filter_map(|ended| judge(ended, errno, hit, self.caller.is_peer)),
            );
            if failures.is_empty() {
                // What DEL of the container's own namespace left in it would go with that.
                let vanished = trial.netns != Netns::There;
                if vanished {
                    self.renew();
                }
                let left = self.left();
                wrong.extend(left.into_iter().map(|line| format!("DEL succeeded: {line}")));
                if vanished {
                    self.vanish(trial.netns);
                }
            }
        }
        let failures = self.caller.del(&on, self.steps(), result, None)?;
        wrong
            .extend(failures.iter().map(|ended| format!("the second DEL fails: {}", ended.said())));
        Ok(())
    }

    /// The same container is attached once more, as if nothing had been.
    fn attach_again(&mut self, wrong: &mut Vec<String>) -> Result<()> {
        self.caller.world.furnish(self.lab)?;
        let on = self.attachment(Netns::There);
        let added = self.caller.add(&on, None)?;
        if let Some(ended) = &added.failed {
            wrong.push(format!("the next ADD fails: {}", ended.said()));
        }
        let failures = self.caller.del(&on, self.steps(), added.results.last(), None)?;
        wrong.extend(
            failures
                .iter()
                .map(|ended| format!("the DEL after the next ADD fails: {}", ended.said())),
        );
        if wrong.is_empty() {
            let left = self.left();
            wrong
                .extend(left.into_iter().map(|line| format!("after the next ADD and DEL: {line}")));
        }
        Ok(())
    }

    /// What is left.
    fn left(&self) -> Vec<String> {
        leftovers::since(self.lab, &self.baseline, self.caller.is_peer)
    }

    /// After a failure: what is left goes, or else becomes part of what was there, so that the next trial is judged by
    /// itself.
    fn recover(&mut self) -> Result<()> {
        let on = self.attachment(Netns::There);
        self.caller.del(&on, self.steps(), None, None)?;
        self.caller.gc()?;
        // A rule that is left would be missed when a later DEL of the same address takes it. User-Mode Linux has none.
        let _ = program::capture(Command::new("nft").args(["flush", "ruleset"]));
        self.rebase().context("go on after a trial that failed")
    }

    /// What a DEL of a complete attachment is told of it: in every second trial nothing.
    fn result<'r>(&self, result: Option<&'r Value>, index: u64) -> Option<&'r Value> {
        result.filter(|_| self.caller.is_peer || index % 2 == 1)
    }

    fn del_cleanly(&self, on: &Attachment, result: Option<&Value>) -> Result<()> {
        match self.caller.del(on, self.steps(), result, None)?.first() {
            None => Ok(()),
            Some(ended) => bail!("DEL fails by itself: {}", ended.said()),
        }
    }

    fn steps(&self) -> usize {
        self.caller.world.steps.len()
    }

    fn attachment(&self, netns: Netns) -> Attachment {
        let path = (netns != Netns::Unset).then(|| self.container.path().to_owned());
        Attachment { container_id: self.container.id().to_owned(), netns: path, host_port: None }
    }

    fn vanish(&self, netns: Netns) {
        if netns != Netns::There {
            self.lab.remove_namespace(&self.container);
        }
    }

    /// A new namespace at the same path, with nothing in it.
    fn renew(&mut self) {
        if self.container.exists() {
            self.lab.remove_namespace(&self.container);
        } else if self.container.path().exists() {
            // What a plugin has put there, which is found as something that is left.
            let _ = std::fs::remove_file(self.container.path());
        }
        self.container = self.lab.container("c");
    }
}

/// The descriptor that our plugins reserve for the reply, before they open any other.
const RESERVED: u64 = 3;

/// Whether the call writes the reply.
fn is_reply((call, first): (i64, u64), is_peer: bool) -> bool {
    let is_stdout = first == 1 || first == RESERVED && !is_peer;
    is_stdout && matches!(call, nix::libc::SYS_write | nix::libc::SYS_writev)
}

/// What is wrong with the reply of a plugin that failed because of an error. No error reply of a Go plugin has `cniVersion`.
fn judge(ended: &Ended, errno: Errno, hit: (i64, u64), is_peer: bool) -> Option<String> {
    let (call, _) = hit;
    if is_reply(hit, is_peer) && ended.code.is_some_and(|code| code != 0) {
        // The reply itself could not be written.
        return None;
    }
    let reply = match ended.json() {
        Some(reply) if ended.code.is_some_and(|code| code != 0) => reply,
        _ => return Some(format!("no error reply of the spec: {}", ended.said())),
    };
    let whole = (is_peer || reply["cniVersion"].is_string()) && reply["msg"].is_string();
    match reply["code"].as_u64() {
        Some(code) if whole && is_right(code, errno, call) => None,
        Some(code) if whole => {
            Some(format!("code {code} is not right for {errno:?}: {}", ended.said()))
        }
        _ => Some(format!("an error reply that lacks something: {}", ended.said())),
    }
}

/// Every kill: at each call of ADD and of DEL, with the namespace there and without it.
pub(super) fn kills(add: usize, del: usize, may_vanish: bool) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (operation, calls) in [(Operation::Add, add), (Operation::Del, del)] {
        for index in 0..calls as u64 {
            trials.push(Trial { operation, index, blow: Blow::Kill, netns: Netns::There });
            if may_vanish {
                trials.push(Trial { operation, index, blow: Blow::Kill, netns: gone(index) });
            }
        }
    }
    trials
}

/// Every error at each call that can give it. The namespace is there for two of three.
pub(super) fn errors(add: &[(i64, u64)], del: &[(i64, u64)], may_vanish: bool) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (operation, calls) in [(Operation::Add, add), (Operation::Del, del)] {
        for (index, (number, _)) in (0u64..).zip(calls) {
            for errno in errors_of(*number) {
                let netns =
                    if may_vanish && trials.len() % 3 == 2 { gone(index) } else { Netns::There };
                trials.push(Trial { operation, index, blow: Blow::Error(*errno), netns });
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
    fn a_trial_is_read_as_it_is_written() {
        let trials =
            kills(3, 2, true).into_iter().chain(errors(&[(libc::SYS_openat, 0)], &[], true));
        for trial in trials {
            assert_eq!(trial.to_string().parse(), Ok(trial));
        }
        assert!(
            "add:1:kill".parse::<Trial>().is_err() && "add:x:kill:there".parse::<Trial>().is_err()
        );
    }

    #[test]
    fn every_call_is_hit_with_and_without_the_namespace() {
        assert_eq!(kills(10, 5, true).len(), 30);
        assert_eq!(kills(10, 5, false).len(), 15);
        assert!(errors(&[(libc::SYS_getpid, 0)], &[(libc::SYS_exit_group, 0)], true).is_empty());
    }

    #[test]
    fn a_failure_needs_a_whole_reply_with_a_right_code() {
        let ended = |code, stdout: &str| Ended { code, stdout: stdout.into(), stderr: Vec::new() };
        let whole = r#"{"cniVersion":"1.0.0","code":5,"msg":"read"}"#;
        let at = (libc::SYS_linkat, 7);
        assert_eq!(judge(&ended(Some(1), whole), Errno::EIO, at, false), None);
        assert!(judge(&ended(Some(0), whole), Errno::EIO, at, false).is_some());
        assert!(judge(&ended(None, whole), Errno::EIO, at, false).is_some());
        assert!(judge(&ended(Some(1), ""), Errno::EIO, at, false).is_some());
        assert!(
            judge(&ended(Some(1), &whole.replace("cniVersion", "version")), Errno::EIO, at, false)
                .is_some()
        );
        assert_eq!(
            judge(&ended(Some(1), r#"{"code":5,"msg":"read"}"#), Errno::EIO, at, true),
            None
        );
        assert!(judge(&ended(Some(1), &whole.replace('5', "7")), Errno::EIO, at, false).is_some());
        for (descriptor, is_peer) in [(1, false), (3, false), (1, true)] {
            let reply = (libc::SYS_write, descriptor);
            assert_eq!(judge(&ended(Some(1), ""), Errno::EIO, reply, is_peer), None);
        }
        assert!(judge(&ended(Some(1), ""), Errno::EIO, (libc::SYS_write, 3), true).is_some());
    }
}
