//! `cargo xtask counts`: counts the system calls, processes and threads of each operation, and fails when there are more
//! than `counts.json` allows. Such numbers do not depend on the machine's mood, so CI can hold on to them.
//!
//! The program is the development build, linked statically, so that the C library's loader is not counted. But for the
//! C library's start it makes the same system calls as the one for nodes (`--release` counts that), and is built in
//! seconds from what the tests have built already.
//!
//! What is allowed is counted by root: an ordinary user cannot read some files of `/proc/net`, and counts less.
//!
//! Two rules:
//!
//! - An operation may not make more calls than it did when the file was written.
//! - It may not make more with [`HELD`] other containers on the host than with one.

use std::{cmp::Ordering, collections::BTreeMap, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, ensure};
use nix::libc;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    call::{Attachment, Call},
    cases::{self, Case, Side},
    names,
    world::{Programs, World},
};
use crate::tracer::{self, Verdict, Watch};
use xtask::{dist, program};

/// How many other containers there are when it is counted whether they make a difference.
const HELD: u16 = 50;

/// What to count.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write what is counted into counts.json, as what is allowed from now on.
    #[arg(long)]
    write: bool,
    /// Count the program as it is built for nodes, to look at: counts.json holds what the development build does.
    #[arg(long, conflicts_with = "write")]
    release: bool,
}

/// What an operation takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Count {
    processes: u64,
    threads: u64,
    system_calls: u64,
    /// The same by name, to see what came.
    calls: BTreeMap<String, u64>,
}

/// Operations by name.
type Counts = BTreeMap<String, Count>;

/// Counts.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let is_root = program::is_root();
    ensure!(
        is_root || !options.write,
        "what is allowed is counted by root: an ordinary user counts less"
    );
    let rscni = if options.release {
        dist::build("rscni-cli", "rscni")?
    } else {
        dist::build_for_development("rscni-cli", "rscni")?
    };
    let programs =
        Programs { rscni, peer: Vec::new(), floor: None, empty: Vec::new(), runtime: None };
    let world = World::enter(&programs)?;
    let mut counted = Counts::new();
    let mut grown = Vec::new();
    counted.insert("VERSION".to_owned(), count(&world.version(Side::Ours))?.0);
    for case in cases::ALL.iter().chain(&cases::CHAINED) {
        count_case(&world, case, &mut counted, &mut grown)
            .with_context(|| format!("count {}", case.name))?;
    }
    if options.write {
        std::fs::write(file(), text(&counted)?)
            .with_context(|| format!("write {}", file().display()))?;
        println!("written: {}", file().display());
    }
    let allowed =
        std::fs::read_to_string(file()).with_context(|| format!("read {}", file().display()))?;
    let allowed: Counts =
        serde_json::from_str(&allowed).with_context(|| format!("read {}", file().display()))?;
    let changes = compare(&allowed, &counted);
    grown.extend(changes.grown);
    if is_root && !changes.shrunk.is_empty() {
        println!("{}", changes.shrunk.join("\n"));
        println!("fewer than counts.json allows: `cargo xtask counts --write` holds on to that");
    }
    for line in &grown {
        println!("{line}");
    }
    if !grown.is_empty() {
        println!("If that has to be: `cargo xtask counts --write`, and say why in the commit.");
        return Ok(ExitCode::FAILURE);
    }
    println!(
        "{} operations: no more system calls, processes or threads than counts.json allows",
        counted.len()
    );
    Ok(ExitCode::SUCCESS)
}

fn file() -> PathBuf {
    program::workspace_root().join("rigs/src/bench/counts.json")
}

/// ADD and DEL of a case: where there is nothing yet, where another container is, and where many are.
fn count_case(
    world: &World,
    case: &Case,
    counted: &mut Counts,
    grown: &mut Vec<String>,
) -> Result<()> {
    let container = |number| world.attachment_of(case, number);
    let (first, second) = (container(0), container(1));
    let pair = |on: &Attachment, add_name: &str, del_name: &str| -> Result<Counts> {
        let before = world.prepare(case, Side::Ours, on)?;
        let (add, answer) = count(&world.add(case, Side::Ours, on, &before)?)?;
        let (del, _) = count(&world.del(case, Side::Ours, on, &answer)?)?;
        world.restore(case, Side::Ours, on)?;
        Ok([(add_name, add), (del_name, del)]
            .map(|(name, count)| (format!("{}: {name}", case.name), count))
            .into())
    };
    let hold = |on: &Attachment| -> Result<()> {
        let before = world.prepare(case, Side::Ours, on)?;
        world.add(case, Side::Ours, on, &before)?.timed().map(drop)
    };
    counted.extend(pair(&first, "ADD of the first", "DEL of the last")?);
    hold(&first)?;
    let with_one = pair(&second, "ADD", "DEL")?;
    for n in 2..=HELD {
        hold(&container(n))?;
    }
    // Another one: a namespace in which something was attached before is not quite as it was.
    let with_many = pair(&container(HELD + 1), "ADD", "DEL")?;
    let more = compare(&with_one, &with_many).grown;
    grown.extend(
        more.into_iter().map(|line| format!("with {HELD} other containers instead of one: {line}")),
    );
    counted.extend(with_one);
    Ok(())
}

/// Runs a call, and counts what does not depend on luck.
fn count(call: &Call) -> Result<(Count, Value)> {
    let mut watch = Counting::default();
    let (traced, answer) = call.traced(&mut watch)?;
    let system_calls = watch.calls.values().sum();
    Ok((
        Count {
            processes: traced.processes,
            threads: traced.threads,
            system_calls,
            calls: watch.calls,
        },
        answer,
    ))
}

#[derive(Default)]
struct Counting {
    calls: BTreeMap<String, u64>,
}

impl Watch for Counting {
    fn entry(&mut self, call: &tracer::Call) -> Verdict {
        if !is_left_to_luck(call) {
            *self.calls.entry(names::of(call.number)).or_default() += 1;
        }
        Verdict::Pass
    }

    /// A call that the kernel begins anew is one call. It does so for sysctls of the network as long as somebody else,
    /// in any namespace, holds the lock of all networking.
    fn exit(&mut self, call: &tracer::Call, result: i64) {
        /// `ERESTARTSYS` and its kin, which no program ever sees.
        const BEGUN_ANEW: std::ops::RangeInclusive<i64> = -516..=-512;
        if BEGUN_ANEW.contains(&result) && !is_left_to_luck(call) {
            *self.calls.entry(names::of(call.number)).or_default() -= 1;
        }
    }
}

/// Whether two runs of the same program may differ in this call, or two builds or machines.
fn is_left_to_luck(call: &tracer::Call) -> bool {
    const MEMORY: [i64; 6] = [
        // The allocator's: they follow from thresholds, from lengths of texts, and from where the kernel puts things.
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
    ];
    const F_GETFD: u64 = libc::F_GETFD.cast_unsigned() as u64;
    const WAITING: [i64; 3] = [
        // Whether a thread has to wait for another one depends on which of them is faster.
        libc::SYS_futex,
        libc::SYS_sched_yield,
        // After a signal, such as that of a child that ended.
        libc::SYS_restart_syscall,
    ];
    // A development build asks whether a descriptor is open before it closes it.
    let is_asked = call.number == libc::SYS_fcntl && call.arguments[1] == F_GETFD;
    is_asked || MEMORY.contains(&call.number) || WAITING.contains(&call.number)
}

struct Changes {
    grown: Vec<String>,
    shrunk: Vec<String>,
}

/// What is more, and what is less, than is allowed.
fn compare(allowed: &Counts, counted: &Counts) -> Changes {
    let mut changes = Changes { grown: Vec::new(), shrunk: Vec::new() };
    for (operation, now) in counted {
        let Some(then) = allowed.get(operation) else {
            changes.grown.push(format!("{operation}: nothing is allowed yet"));
            continue;
        };
        for (what, then_number, now_number) in [
            ("processes", then.processes, now.processes),
            ("threads", then.threads, now.threads),
            ("system calls", then.system_calls, now.system_calls),
        ] {
            let list = match now_number.cmp(&then_number) {
                Ordering::Equal => continue,
                Ordering::Less => &mut changes.shrunk,
                Ordering::Greater => &mut changes.grown,
            };
            let names = if what == "system calls" {
                differences(&then.calls, &now.calls)
            } else {
                String::new()
            };
            list.push(format!(
                "{operation}: {now_number} {what}, allowed are {then_number}{names}"
            ));
        }
    }
    let gone = allowed.keys().filter(|operation| !counted.contains_key(*operation));
    changes
        .grown
        .extend(gone.map(|operation| format!("{operation}: is allowed, but not counted any more")));
    changes
}

/// `: +1 openat, -2 read`
fn differences(then: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> String {
    let of = |calls: &BTreeMap<String, u64>, name: &str| {
        calls.get(name).copied().unwrap_or_default().cast_signed()
    };
    let mut names: Vec<&String> = then.keys().chain(now.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let changed: Vec<String> = names
        .into_iter()
        .map(|name| (of(now, name) - of(then, name), name))
        .filter(|(change, _)| *change != 0)
        .map(|(change, name)| format!("{change:+} {name}"))
        .collect();
    format!(": {}", changed.join(", "))
}

/// A line for each operation, so that a change of one is a change of one line.
fn text(counts: &Counts) -> Result<String> {
    let lines: Vec<String> = counts
        .iter()
        .map(|(name, count)| {
            Ok(format!("  {}: {}", serde_json::to_string(name)?, serde_json::to_string(count)?))
        })
        .collect::<Result<_>>()?;
    Ok(format!("{{\n{}\n}}\n", lines.join(",\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(operation: &str, processes: u64, calls: &[(&str, u64)]) -> Counts {
        let calls: BTreeMap<String, u64> =
            calls.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let count = Count { processes, threads: 0, system_calls: calls.values().sum(), calls };
        Counts::from([(operation.to_owned(), count)])
    }

    #[test]
    fn a_call_that_the_kernel_begins_anew_is_one_call() {
        let call = tracer::Call {
            index: 0,
            thread: nix::unistd::Pid::this(),
            number: libc::SYS_write,
            arguments: [0; 6],
        };
        let mut watch = Counting::default();
        for result in [-513, -513, 1] {
            watch.entry(&call);
            watch.exit(&call, result);
        }
        assert_eq!(watch.calls, BTreeMap::from([("write".to_owned(), 1)]));
    }

    #[test]
    fn what_is_as_allowed_is_no_change_even_if_it_is_made_of_other_calls() {
        let changes =
            compare(&counts("ADD", 1, &[("open", 2)]), &counts("ADD", 1, &[("openat", 2)]));
        assert!(changes.grown.is_empty() && changes.shrunk.is_empty());
    }

    #[test]
    fn one_call_more_is_named_and_one_process_more_is_too() {
        let then = counts("ADD", 1, &[("openat", 2), ("read", 2)]);
        let changes = compare(&then, &counts("ADD", 2, &[("openat", 4), ("read", 1)]));
        assert_eq!(
            changes.grown,
            [
                "ADD: 2 processes, allowed are 1",
                "ADD: 5 system calls, allowed are 4: +2 openat, -1 read"
            ]
        );
        assert!(changes.shrunk.is_empty());
    }

    #[test]
    fn one_call_less_is_told_but_is_no_growth() {
        let changes = compare(&counts("ADD", 1, &[("read", 2)]), &counts("ADD", 1, &[("read", 1)]));
        assert!(changes.grown.is_empty());
        assert_eq!(changes.shrunk, ["ADD: 1 system calls, allowed are 2: -1 read"]);
    }

    #[test]
    fn an_operation_that_only_one_of_them_knows_fails() {
        let changes = compare(&counts("ADD", 1, &[]), &counts("DEL", 1, &[]));
        assert_eq!(
            changes.grown,
            ["DEL: nothing is allowed yet", "ADD: is allowed, but not counted any more"]
        );
    }

    #[test]
    fn what_is_written_is_read_as_the_same_and_has_a_line_for_each_operation() {
        let counts = counts("ADD", 1, &[("read", 2)]);
        let text = text(&counts).unwrap();
        assert_eq!(serde_json::from_str::<Counts>(&text).unwrap(), counts);
        assert_eq!(text.lines().count(), 3);
    }
}
