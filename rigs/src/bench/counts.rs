//! `cargo xtask counts`: counts the system calls, processes and threads of each operation, and
//! fails when there are more than `counts.json` allows. Unlike times, counts do not vary between
//! machines, so CI checks them.
//!
//! The program is the development build, linked statically so that the loader of the C library is
//! not counted. Except at the start of the C library it makes the same system calls as the binary
//! for nodes (`--release` counts that), and it is built in seconds.
//!
//! counts.json is written by root: an ordinary user cannot read some files of `/proc/net`, and
//! counts less.
//!
//! An operation fails if it makes more calls than allowed, or more with [`HELD`] other containers
//! than with one.

use std::{cmp::Ordering, collections::BTreeMap, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use nix::libc;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xtask::{dist, program};

use super::{
    call::{Attachment, Call},
    cases::{self, Case, Side},
    host::{BenchHost, Programs},
};
use crate::tracer::{self, Verdict, Watch};

/// Other containers with which the counts are compared.
const HELD: u16 = 50;

/// Options of the count.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write the counts into counts.json, as allowed from now on.
    #[arg(long)]
    write: bool,
    /// Count the binary for nodes, for information: counts.json is about the development build.
    #[arg(long, conflicts_with = "write")]
    release: bool,
}

/// Counts of an operation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Count {
    processes: u64,
    threads: u64,
    system_calls: u64,
    /// System calls by name.
    calls: BTreeMap<String, u64>,
}

/// Operations by name.
type Counts = BTreeMap<String, Count>;

/// Counts and compares; the exit code says whether the counts are allowed.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let is_root = program::is_root();
    ensure!(
        is_root || !options.write,
        "counts.json is written by root: an ordinary user counts less"
    );
    let rscni = if options.release {
        dist::build("rscni-cli", "rscni")?
    } else {
        dist::build_static_for_development()?
    };
    let host = BenchHost::enter(&Programs { rscni, ..Programs::default() })?;
    let mut counted = Counts::new();
    let mut grown = Vec::new();
    counted.insert("VERSION".to_owned(), count(&host.version(Side::Ours))?.0);
    for case in cases::ALL.iter().chain(&cases::CHAINED) {
        count_case(&host, case, &mut counted, &mut grown)
            .with_context(|| format!("count {}", case.name))?;
    }
    let file = file();
    if options.write {
        fs::write(&file, text(&counted)?)?;
        println!("written: {}", file.display());
    }
    let allowed: Counts = serde_json::from_str(&fs::read_to_string(&file)?)
        .with_context(|| format!("read {}", file.display()))?;
    let changes = compare(&allowed, &counted);
    grown.extend(changes.grown);
    if is_root && !changes.shrunk.is_empty() {
        println!("{}", changes.shrunk.join("\n"));
        println!("fewer than counts.json allows: `cargo xtask counts --write` lowers the limits");
    }
    for line in &grown {
        println!("{line}");
    }
    if !grown.is_empty() {
        println!(
            "If that is necessary: `cargo xtask counts --write`, with the reason in the commit."
        );
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

/// Counts ADD and DEL of a case: with no other container, with one, and with many.
fn count_case(
    host: &BenchHost,
    case: &Case,
    counted: &mut Counts,
    grown: &mut Vec<String>,
) -> Result<()> {
    let container = |number| host.attachment_of(case, number);
    let (first, second) = (container(0), container(1));
    let pair = |on: &Attachment, add_name: &str, del_name: &str| -> Result<Counts> {
        let before = host.prepare(case, Side::Ours, on)?;
        let (add, answer) = count(&host.add(case, Side::Ours, on, &before)?)?;
        let (del, _) = count(&host.del(case, Side::Ours, on, &answer)?)?;
        host.restore(case, Side::Ours, on)?;
        let pair = [(add_name, add), (del_name, del)];
        Ok(pair.map(|(name, count)| (format!("{}: {name}", case.name), count)).into())
    };
    let attach = |on: &Attachment| -> Result<()> {
        let before = host.prepare(case, Side::Ours, on)?;
        host.add(case, Side::Ours, on, &before)?.timed().map(drop)
    };
    counted.extend(pair(&first, "ADD of the first", "DEL of the last")?);
    attach(&first)?;
    let with_one = pair(&second, "ADD", "DEL")?;
    for n in 2..=HELD {
        attach(&container(n))?;
    }
    // In a new namespace: one that had an attachment before is not in its initial state.
    let with_many = pair(&container(HELD + 1), "ADD", "DEL")?;
    let more = compare(&with_one, &with_many).grown;
    grown.extend(
        more.into_iter().map(|line| format!("with {HELD} other containers instead of one: {line}")),
    );
    counted.extend(with_one);
    Ok(())
}

/// Runs a call, and returns its counts and answer.
fn count(call: &Call) -> Result<(Count, Value)> {
    let mut watch = Counting::default();
    let (traced, answer) = call.traced(&mut watch)?;
    let count = Count {
        processes: traced.usage.processes,
        threads: traced.usage.threads,
        system_calls: watch.calls.values().sum(),
        calls: watch.calls,
    };
    Ok((count, answer))
}

#[derive(Default)]
struct Counting {
    calls: BTreeMap<String, u64>,
}

impl Watch for Counting {
    fn entry(&mut self, call: &tracer::Call) -> Verdict {
        if !is_left_to_luck(call) {
            *self.calls.entry(tracer::name_of(call.number)).or_default() += 1;
        }
        Verdict::Pass
    }

    /// A call that the kernel restarts counts once. It restarts writes to network sysctls while
    /// another process, in any namespace, holds the kernel's lock of all networking.
    fn exit(&mut self, call: &tracer::Call, result: i64) {
        /// `ERESTARTSYS` and similar, which no program sees.
        const RESTARTED: std::ops::RangeInclusive<i64> = -516..=-512;
        if RESTARTED.contains(&result) && !is_left_to_luck(call) {
            *self.calls.entry(tracer::name_of(call.number)).or_default() -= 1;
        }
    }
}

/// Whether the number of these calls differs between runs, builds or machines.
fn is_left_to_luck(call: &tracer::Call) -> bool {
    const F_GETFD: u64 = libc::F_GETFD.cast_unsigned() as u64;
    const ANY: [i64; 9] = [
        // The allocator's: they depend on thresholds, on lengths of texts, and on addresses that
        // the kernel chooses.
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        // Whether a thread waits for another one depends on which is faster.
        libc::SYS_futex,
        libc::SYS_sched_yield,
        // After a signal, such as that of a child that ended.
        libc::SYS_restart_syscall,
    ];
    // A development build checks whether a descriptor is open before it closes it.
    let is_check = call.number == libc::SYS_fcntl && call.arguments[1] == F_GETFD;
    is_check || ANY.contains(&call.number)
}

#[derive(Default)]
struct Changes {
    grown: Vec<String>,
    shrunk: Vec<String>,
}

/// Operations that make more calls, and operations that make fewer, than allowed.
fn compare(allowed: &Counts, counted: &Counts) -> Changes {
    let mut changes = Changes::default();
    for (operation, now) in counted {
        let Some(then) = allowed.get(operation) else {
            changes.grown.push(format!("{operation}: nothing is allowed yet"));
            continue;
        };
        for (what, then_number, now_number, calls) in [
            ("processes", then.processes, now.processes, String::new()),
            ("threads", then.threads, now.threads, String::new()),
            (
                "system calls",
                then.system_calls,
                now.system_calls,
                differences(&then.calls, &now.calls),
            ),
        ] {
            let list = match now_number.cmp(&then_number) {
                Ordering::Equal => continue,
                Ordering::Less => &mut changes.shrunk,
                Ordering::Greater => &mut changes.grown,
            };
            list.push(format!(
                "{operation}: {now_number} {what}, allowed are {then_number}{calls}"
            ));
        }
    }
    let gone = allowed.keys().filter(|operation| !counted.contains_key(*operation));
    let gone = gone.map(|operation| format!("{operation}: is allowed, but not counted any more"));
    changes.grown.extend(gone);
    changes
}

/// `: +1 openat, -2 read`
fn differences(then: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> String {
    let mut changes: BTreeMap<&str, i64> = BTreeMap::new();
    for (calls, sign) in [(then, -1), (now, 1)] {
        for (name, count) in calls {
            *changes.entry(name).or_default() += sign * count.cast_signed();
        }
    }
    changes.retain(|_, change| *change != 0);
    let changes: Vec<_> =
        changes.iter().map(|(name, change)| format!("{change:+} {name}")).collect();
    format!(": {}", changes.join(", "))
}

/// One line for each operation, for readable diffs.
fn text(counts: &Counts) -> Result<String> {
    let mut lines = Vec::new();
    for (name, count) in counts {
        let [name, count] = [serde_json::to_string(name)?, serde_json::to_string(count)?];
        lines.push(format!("  {name}: {count}"));
    }
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
    fn a_call_that_the_kernel_restarts_counts_once() {
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
    fn the_same_number_of_other_calls_is_no_change() {
        let changes =
            compare(&counts("ADD", 1, &[("open", 2)]), &counts("ADD", 1, &[("openat", 2)]));
        assert!(changes.grown.is_empty() && changes.shrunk.is_empty());
    }

    #[test]
    fn additional_calls_and_processes_are_named() {
        let then = counts("ADD", 1, &[("openat", 2), ("read", 2)]);
        let changes = compare(&then, &counts("ADD", 2, &[("openat", 4), ("read", 1)]));
        let expected = [
            "ADD: 2 processes, allowed are 1",
            "ADD: 5 system calls, allowed are 4: +2 openat, -1 read",
        ];
        assert_eq!(changes.grown, expected);
        assert!(changes.shrunk.is_empty());
    }

    #[test]
    fn fewer_calls_are_reported_but_allowed() {
        let changes = compare(&counts("ADD", 1, &[("read", 2)]), &counts("ADD", 1, &[("read", 1)]));
        assert!(changes.grown.is_empty());
        assert_eq!(changes.shrunk, ["ADD: 1 system calls, allowed are 2: -1 read"]);
    }

    #[test]
    fn an_operation_that_is_not_both_allowed_and_counted_fails() {
        let changes = compare(&counts("ADD", 1, &[]), &counts("DEL", 1, &[]));
        let expected = ["DEL: nothing is allowed yet", "ADD: is allowed, but not counted any more"];
        assert_eq!(changes.grown, expected);
    }

    #[test]
    fn the_file_has_a_line_for_each_operation_and_is_read_back() {
        let counts = counts("ADD", 1, &[("read", 2)]);
        let text = text(&counts).unwrap();
        assert_eq!(serde_json::from_str::<Counts>(&text).unwrap(), counts);
        assert_eq!(text.lines().count(), 3);
    }
}
