//! Runs a program under ptrace, with all threads and processes that it starts, and shows each of its system calls to
//! a [`Watch`]: at entry, where the call can be let through, failed or answered with a SIGKILL for everything, and at
//! exit, with its result.
//!
//! The program is started by a shell that stops itself first and then becomes the program, so what is seen begins
//! with the program's own first call. It needs no root: one may trace what one has started.
//!
//! ```text
//! let mut command = tracer::command("/opt/cni/bin/bridge");
//! let traced = tracer::run(command.envs(variables), b"{ .. }", &mut Watching)?;
//! ```

mod process;
mod registers;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
mod tracees;

use std::{
    ffi::OsStr,
    fs::File,
    io::{Read, Seek, Write},
    os::unix::process::CommandExt,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{errno::Errno, unistd::Pid};

use xtask::program;

/// How long a program may take. What takes longer is killed, with all that it started, and is an error.
const PATIENCE: Duration = Duration::from_secs(60);

/// A system call of the traced program or of what it started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    /// How many calls were begun before it, by all threads and processes together.
    pub(crate) index: u64,
    /// The thread that makes it.
    pub(crate) thread: Pid,
    /// Which: `nix::libc::SYS_openat`, ….
    pub(crate) number: i64,
    /// Its arguments; pointers are of the traced program.
    pub(crate) arguments: [u64; 6],
}

/// What is to become of a call that is about to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The kernel does it.
    Pass,
    /// The kernel does nothing, and the program sees this error.
    Fail(Errno),
    /// The kernel does nothing any more: every thread and process that is traced gets a SIGKILL.
    Kill,
}

/// Sees the calls of a program.
pub(crate) trait Watch {
    /// A call is about to begin.
    fn entry(&mut self, _call: &Call) -> Verdict {
        Verdict::Pass
    }

    /// A call has ended with `result`: what it gives, or the negative number of an error. Calls that do not return
    /// (`exit_group`, a successful `execve` of a further program, what a SIGKILL interrupts) have no exit.
    fn exit(&mut self, _call: &Call, _result: i64) {}
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Traced {
    /// The exit code of the program. `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// System calls that were begun, from the program's first one on.
    pub(crate) calls: u64,
    /// Processes that were started, the program's own included.
    pub(crate) processes: u64,
    /// Threads that were started beside the first one of each process.
    pub(crate) threads: u64,
    /// Page faults of all processes that needed no disk.
    pub(crate) page_faults: u64,
    /// The most memory that one of the processes had at a time, in KiB.
    pub(crate) peak_memory: u64,
    /// The most that one of the processes had of its own when it ended, in KiB: without the pages of files.
    pub(crate) own_memory: u64,
}

/// A command that can be given to [`run`]: arguments and variables are added to it as to any other.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""]).arg(program);
    command
}

/// Runs a [`command`] to its end, with `stdin` to read from. The calling thread must have no other children, as it
/// waits for whichever of them does something.
///
/// An error means that tracing failed; how the program ended, and whether that is good, is for the caller to judge.
pub(crate) fn run(command: &mut Command, stdin: &[u8], watch: &mut dyn Watch) -> Result<Traced> {
    run_within(PATIENCE, command, stdin, watch)
}

fn run_within(
    patience: Duration,
    command: &mut Command,
    stdin: &[u8],
    watch: &mut dyn Watch,
) -> Result<Traced> {
    ensure!(
        registers::KNOWN,
        "system calls can be traced on x86_64 only: see rigs/src/tracer/registers.rs"
    );
    let shown = program::shown(command);
    let mut input = file()?;
    input.write_all(stdin)?;
    input.rewind()?;
    let (mut stdout, mut stderr) = (file()?, file()?);
    let child = command
        .stdin(input)
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        // Of its own, so that a time limit finds all of it.
        .process_group(0)
        .spawn()
        .with_context(|| format!("start `{shown}`"))?;
    let first = Pid::from_raw(i32::try_from(child.id())?);
    let mut traced =
        tracees::run(first, patience, watch).with_context(|| format!("trace `{shown}`"))?;
    for (file, bytes) in [(&mut stdout, &mut traced.stdout), (&mut stderr, &mut traced.stderr)] {
        file.rewind()?;
        file.read_to_end(bytes)?;
    }
    Ok(traced)
}

/// A stream as a file, which never keeps its writer waiting.
fn file() -> Result<File> {
    tempfile::tempfile().context("make a temporary file")
}
