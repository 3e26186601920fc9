//! Plugins as processes: start, write stdin, read the outputs, and kill after a timeout.
//!
//! A plugin with a time limit leads its own process group, so that its children are killed too.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid},
};

use crate::{
    TraceContext,
    invoke::{Exec, Exit, Inherits, Invocation, MAX_OUTPUT, Outcome},
};

/// Time between SIGTERM and SIGKILL.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// Polling interval where no event can be waited for.
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

/// Starts plugins as processes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process;

impl Exec for Process {
    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        let deadline = invocation.time_limit.and_then(|limit| Instant::now().checked_add(limit));
        let child = start(&mut command(invocation), deadline)?;
        let mut running = Running { child, is_group: invocation.time_limit.is_some() };
        let mut streams = Streams::of(&mut running.child, &invocation.stdin);
        let end = running.wait(&mut streams, deadline);
        if !matches!(end, Ok(End::Itself)) {
            running.terminate(&mut streams);
        }
        let status = running.child.wait()?;
        let exit = match end? {
            End::Itself => exit_of(status),
            End::TimedOut => Exit::TimedOut(invocation.time_limit.unwrap_or_default()),
            End::Flooded => Exit::Flooded,
        };
        let [stdout, stderr] = streams.outputs.map(|output| output.bytes);
        Ok(Outcome { exit, stdout, stderr })
    }
}

/// Builds the command with its environment.
pub(crate) fn command(invocation: &Invocation) -> Command {
    let mut command = Command::new(&invocation.program);
    // A trace given by the caller replaces the trace of this process completely.
    let is_traced = invocation.vars.contains_key("TRACEPARENT");
    let is_inherited = |name: &OsStr| match name.to_str() {
        Some(name) if name.starts_with("CNI_") => false,
        Some(name) if TraceContext::VARIABLES.contains(&name) => !is_traced,
        Some("PATH") => true,
        _ => invocation.inherits == Inherits::Everything,
    };
    command.env_clear().envs(std::env::vars_os().filter(|(name, _)| is_inherited(name)));
    command
        .envs(&invocation.vars)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if invocation.time_limit.is_some() {
        // Not otherwise: Ctrl-C signals only the terminal's foreground process group.
        command.process_group(0);
    }
    command
}

/// Starts a program; retries while an installer has it open for writing (`ETXTBSY`).
fn start(command: &mut Command, deadline: Option<Instant>) -> io::Result<Child> {
    for _ in 0..50 {
        match command.spawn() {
            Err(error)
                if is_being_installed(&error)
                    && deadline.is_none_or(|deadline| Instant::now() < deadline) =>
            {
                std::thread::sleep(Duration::from_millis(100));
            }
            started => return started,
        }
    }
    command.spawn()
}

/// Whether an installer still has the program open for writing.
pub(crate) fn is_being_installed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ExecutableFileBusy
}

pub(crate) fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Status(code),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    }
}

/// The reason why the wait for a plugin ended.
enum End {
    Itself,
    TimedOut,
    Flooded,
}

/// A plugin that is not reaped yet, so that its PID cannot have been reused.
struct Running {
    child: Child,
    is_group: bool,
}

impl Running {
    /// Waits until the plugin has exited and its output is read.
    fn wait(&self, streams: &mut Streams, deadline: Option<Instant>) -> io::Result<End> {
        // Short at first: a plugin that has closed its streams is about to exit.
        let mut pause = Duration::from_micros(50);
        loop {
            let is_silent = !streams.can_print();
            if streams.are_flooded() {
                return Ok(End::Flooded);
            }
            if is_silent && (self.has_ended()? || deadline.is_none() && streams.stdin.is_none()) {
                return Ok(End::Itself);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(End::TimedOut);
            }
            if is_silent {
                streams.pump(Some(left.map_or(pause, |left| left.min(pause))))?;
                pause = PAUSE.min(pause * 2);
            } else {
                streams.pump(left)?;
            }
        }
    }

    /// Sends SIGTERM, and SIGKILL after [`GRACE`].
    fn terminate(&self, streams: &mut Streams) {
        // If the signal cannot be delivered, the process has already exited.
        let _ = self.signal(Signal::TERM);
        let begin = Instant::now();
        while begin.elapsed() < GRACE && !streams.are_flooded() {
            if !streams.can_print() && self.has_ended().unwrap_or(true)
                || streams.pump(Some(PAUSE)).is_err()
            {
                break;
            }
        }
        let _ = self.signal(Signal::KILL);
        // Best effort: reads the last output from the pipes.
        let _ = streams.pump(Some(Duration::ZERO));
    }

    fn has_ended(&self) -> io::Result<bool> {
        has_ended(Pid::from_child(&self.child))
    }

    fn signal(&self, signal: Signal) -> rustix::io::Result<()> {
        let kill = if self.is_group { kill_process_group } else { kill_process };
        kill(Pid::from_child(&self.child), signal)
    }
}

/// Whether a child has exited, without reaping it.
pub(crate) fn has_ended(pid: Pid) -> io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::Pid(pid), options)?.is_some())
}

/// The pipes of a plugin, all non-blocking, since it may reply before it has read everything.
struct Streams<'a> {
    stdin: Option<File>,
    input: &'a [u8],
    outputs: [Output; 2],
}

/// An output stream of a plugin, while it is open, and the bytes read from it.
struct Output {
    pipe: Option<File>,
    bytes: Vec<u8>,
}

impl<'a> Streams<'a> {
    fn of(child: &mut Child, input: &'a [u8]) -> Self {
        let stdout = child.stdout.take().map(OwnedFd::from).map(non_blocking);
        let stderr = child.stderr.take().map(OwnedFd::from).map(non_blocking);
        let outputs = [stdout, stderr].map(|pipe| Output { pipe, bytes: Vec::new() });
        Self { stdin: child.stdin.take().map(OwnedFd::from).map(non_blocking), input, outputs }
    }

    fn can_print(&self) -> bool {
        self.outputs.iter().any(|output| output.pipe.is_some())
    }

    fn are_flooded(&self) -> bool {
        self.outputs.iter().any(|output| output.bytes.len() > MAX_OUTPUT)
    }

    /// Waits until a pipe is readable or writable, then reads and writes.
    fn pump(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let outputs = self.outputs.iter().filter_map(|output| output.pipe.as_ref());
        let mut fds: Vec<_> =
            outputs.map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)).collect();
        fds.extend(
            self.stdin.as_ref().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::OUT)),
        );
        // Treats an unrepresentable timeout as no timeout.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Err(error) if error != rustix::io::Errno::INTR => return Err(error.into()),
            _ => {}
        }
        self.feed()?;
        self.outputs.iter_mut().try_for_each(Output::read)
    }

    fn feed(&mut self) -> io::Result<()> {
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        match stdin.write(self.input) {
            Ok(count) => self.input = &self.input[count..],
            // A plugin may ignore its configuration.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.input = &[],
            Err(error) if is_transient(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        if self.input.is_empty() {
            self.stdin = None;
        }
        Ok(())
    }
}

impl Output {
    fn read(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        let mut buffer = vec![0; 64 << 10];
        match pipe.read(&mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(count) => self.bytes.extend_from_slice(&buffer[..count]),
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Makes our end of a pipe non-blocking.
fn non_blocking(pipe: OwnedFd) -> File {
    // This cannot fail on a pipe.
    let _ = rustix::io::ioctl_fionbio(&pipe, true);
    pipe.into()
}
