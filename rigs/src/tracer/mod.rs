//! Runs a program under ptrace, with all threads and processes that it starts, and shows each
//! system call to a [`Watch`]: at entry, where the call can be let through, failed or answered with
//! a SIGKILL for all processes, and at exit, with its result.
//!
//! A shell stops itself and then executes the program, so the trace begins with the program's first
//! call. It needs no root: a process may trace its descendants.
//!
//! ```text
//! let mut command = tracer::command("/opt/cni/bin/bridge");
//! let traced = tracer::run(command.envs(variables), b"{ .. }", &mut Watching)?;
//! ```

mod names;
mod process;
mod registers;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
mod tracees;

use std::{
    ffi::OsStr,
    fs::File,
    io::{Read, Seek, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, ExitStatus, Output},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{errno::Errno, libc, unistd::Pid};
use serde::Serialize;
use xtask::program;

pub(crate) use self::names::name_of;

/// Time limit for a program. After it the program is killed with all that it started, which is an
/// error.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A system call of the traced program or of its descendants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    /// Number of calls that all threads and processes began before it.
    pub(crate) index: u64,
    pub(crate) thread: Pid,
    /// `nix::libc::SYS_openat`, ….
    pub(crate) number: i64,
    /// Pointers are of the traced program.
    pub(crate) arguments: [u64; 6],
}

/// Decision about a call at its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The kernel executes it.
    Pass,
    /// The kernel does not execute it, and the program gets this error.
    Fail(Errno),
    /// Every traced thread and process gets a SIGKILL.
    Kill,
}

/// An observer of a program's calls.
pub(crate) trait Watch {
    /// A call is about to begin.
    fn entry(&mut self, _call: &Call) -> Verdict {
        Verdict::Pass
    }

    /// A call has ended with `result`: its value, or the negative number of an error. Calls that do
    /// not return (`exit_group`, a successful `execve` of another program, calls interrupted by a
    /// SIGKILL) have no exit.
    fn exit(&mut self, _call: &Call, _result: i64) {}
}

/// The outcome of a traced program.
#[derive(Debug, Default)]
pub(crate) struct Traced {
    /// Exit code of the program. `None` after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) usage: Usage,
}

impl Traced {
    /// Exit status and output.
    pub(crate) fn output(&self) -> Output {
        let status = ExitStatus::from_raw(self.code.map_or(libc::SIGKILL, |code| code << 8));
        Output { status, stdout: self.stdout.clone(), stderr: self.stderr.clone() }
    }
}

/// Resources of a program with its descendants.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    /// System calls from the program's first one on.
    pub(crate) system_calls: u64,
    /// Processes, including the program's own.
    pub(crate) processes: u64,
    /// Threads, without the first one of each process.
    pub(crate) threads: u64,
    /// Page faults that needed no disk.
    pub(crate) page_faults: u64,
    /// Peak resident memory of the largest process, in KiB.
    pub(crate) peak_memory: u64,
    /// Anonymous memory of the largest process at its end, in KiB.
    pub(crate) own_memory: u64,
}

/// A command for [`run`]. Arguments and variables can be added.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""]).arg(program);
    command
}

/// Runs a [`command`] to its end, with `stdin` as its input. The calling thread must have no other
/// children, since it waits for any child.
///
/// # Errors
///
/// If tracing fails. A program that fails is no error.
pub(crate) fn run(command: &mut Command, stdin: &[u8], watch: &mut dyn Watch) -> Result<Traced> {
    run_within(TIMEOUT, command, stdin, watch)
}

/// Runs the process of a plugin's call, as [`run`] does.
pub(crate) fn run_call(process: &rscni_test::Process, watch: &mut dyn Watch) -> Result<Traced> {
    let mut command = command(process.program);
    run(command.env_clear().envs(&process.environment), process.stdin, watch)
}

fn run_within(
    timeout: Duration,
    command: &mut Command,
    stdin: &[u8],
    watch: &mut dyn Watch,
) -> Result<Traced> {
    ensure!(
        registers::SUPPORTED,
        "system calls can be traced on x86_64 only: see rigs/src/tracer/registers.rs"
    );
    let shown = program::shown(command);
    // Files, since a pipe could block its writer.
    let mut files = [tempfile::tempfile()?, tempfile::tempfile()?, tempfile::tempfile()?];
    files[0].write_all(stdin)?;
    files[0].rewind()?;
    let [input, mut stdout, mut stderr] = files;
    let child = command
        .stdin(input)
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        // A group of its own, which the time limit kills.
        .process_group(0)
        .spawn()
        .with_context(|| format!("start `{shown}`"))?;
    let first = Pid::from_raw(i32::try_from(child.id())?);
    let mut traced =
        tracees::run(first, timeout, watch).with_context(|| format!("trace `{shown}`"))?;
    let read = |file: &mut File, bytes: &mut Vec<u8>| {
        file.rewind()?;
        file.read_to_end(bytes)
    };
    read(&mut stdout, &mut traced.stdout)?;
    read(&mut stderr, &mut traced.stderr)?;
    Ok(traced)
}
