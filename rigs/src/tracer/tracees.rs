//! The loop that waits for the next traced thread that stops, and resumes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc::{self, RecvTimeoutError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    sys::{
        ptrace::{self, Event, Options},
        signal::{Signal, kill, killpg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{Call, Traced, Verdict, Watch, process, registers};

/// Traces the stopped shell `first`, leader of a process group, from the point where it executes
/// the program.
pub(super) fn run(first: Pid, timeout: Duration, watch: &mut dyn Watch) -> Result<Traced> {
    let (done, wait) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let watchdog = scope.spawn(move || {
            let late = wait.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout);
            if late {
                let _ = killpg(first, Signal::SIGKILL);
            }
            late
        });
        let outcome = Tracees::new(first, watch).run();
        drop(done);
        let late = watchdog.join().expect("the watchdog does not panic");
        ensure!(!late, "it took longer than {} seconds and was killed", timeout.as_secs());
        outcome
    })
}

/// State of a thread between two stops.
#[derive(Default)]
struct Thread {
    /// Whether the next stop at a call is its exit. `PTRACE_GET_SYSCALL_INFO` would tell, but
    /// User-Mode Linux lacks it.
    in_call: bool,
    /// The call in progress, and the error that replaces its result.
    call: Option<(Call, Option<Errno>)>,
}

struct Tracees<'a> {
    first: Pid,
    watch: &'a mut dyn Watch,
    threads: BTreeMap<Pid, Thread>,
    /// All threads so far. The end of a short-lived child may be seen before the event of its
    /// parent.
    known: BTreeSet<Pid>,
    /// Whether the shell has executed the program.
    started: bool,
    killed: bool,
    faults: BTreeMap<Pid, u64>,
    faults_of_shell: u64,
    traced: Traced,
}

/// `__WALL` includes threads; `__WNOTHREAD` excludes children of other threads of this program.
const ANY_TRACEE: WaitPidFlag = WaitPidFlag::__WALL.union(WaitPidFlag::__WNOTHREAD);

impl<'a> Tracees<'a> {
    fn new(first: Pid, watch: &'a mut dyn Watch) -> Self {
        let mut traced = Traced::default();
        traced.usage.processes = 1;
        Self {
            first,
            watch,
            threads: BTreeMap::new(),
            known: BTreeSet::new(),
            started: false,
            killed: false,
            faults: BTreeMap::new(),
            faults_of_shell: 0,
            traced,
        }
    }

    fn run(mut self) -> Result<Traced> {
        if let Err(error) = self.trace() {
            self.end();
            return Err(error);
        }
        let faults: u64 = self.faults.values().sum();
        self.traced.usage.page_faults = faults.saturating_sub(self.faults_of_shell);
        Ok(self.traced)
    }

    fn trace(&mut self) -> Result<()> {
        match waitpid(self.first, Some(WaitPidFlag::WUNTRACED))? {
            WaitStatus::Stopped(..) => {}
            other => bail!("the shell did not stop before it executes the program: {other:?}"),
        }
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_TRACEEXIT
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(self.first, options).context("ptrace is not allowed here")?;
        self.add(self.first);
        while !self.threads.is_empty() {
            let status = match waitpid(None, Some(ANY_TRACEE)) {
                Err(Errno::EINTR) => continue,
                status => status?,
            };
            match self.stopped(status) {
                // The thread was killed while it was stopped. Its end is reported next.
                Err(error) if error.downcast_ref() == Some(&Errno::ESRCH) => {}
                outcome => outcome?,
            }
        }
        ensure!(self.started, "the program could not be executed");
        Ok(())
    }

    /// Kills all processes after a failure.
    fn end(&mut self) {
        self.add(self.first);
        self.kill_all();
        while let Ok(status) = waitpid(None, Some(ANY_TRACEE)) {
            let has_ended = matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
            if let Some(thread) = status.pid().filter(|_| !has_ended) {
                let _ = ptrace::cont(thread, Signal::SIGKILL);
            }
        }
    }

    fn stopped(&mut self, status: WaitStatus) -> Result<()> {
        match status {
            WaitStatus::Exited(thread, code) => self.remove(thread, Some(code)),
            WaitStatus::Signaled(thread, ..) => self.remove(thread, None),
            WaitStatus::PtraceSyscall(thread) => {
                self.call(thread)?;
                ptrace::syscall(thread, None)?;
            }
            WaitStatus::PtraceEvent(thread, _, event) => {
                self.event(thread, event)?;
                ptrace::syscall(thread, None)?;
            }
            // A signal that is delivered to the program.
            WaitStatus::Stopped(thread, signal) => {
                self.add(thread);
                ptrace::syscall(thread, signal)?;
            }
            WaitStatus::Continued(_) | WaitStatus::StillAlive => {}
        }
        Ok(())
    }

    fn add(&mut self, thread: Pid) {
        if self.known.insert(thread) {
            self.threads.insert(thread, Thread::default());
            if self.killed {
                let _ = kill(thread, Signal::SIGKILL);
            }
        }
    }

    fn remove(&mut self, thread: Pid, code: Option<i32>) {
        self.threads.remove(&thread);
        if thread == self.first {
            self.traced.code = code;
        }
    }

    fn event(&mut self, thread: Pid, event: i32) -> Result<()> {
        const FORK: i32 = Event::PTRACE_EVENT_FORK as i32;
        const VFORK: i32 = Event::PTRACE_EVENT_VFORK as i32;
        const CLONE: i32 = Event::PTRACE_EVENT_CLONE as i32;
        const EXEC: i32 = Event::PTRACE_EVENT_EXEC as i32;
        const EXIT: i32 = Event::PTRACE_EVENT_EXIT as i32;
        match event {
            FORK | VFORK | CLONE => {
                let child = Pid::from_raw(i32::try_from(ptrace::getevent(thread)?)?);
                self.add(child);
                if event == CLONE && process::of_thread(child).is_some_and(|of| of != child) {
                    self.traced.usage.threads += 1;
                } else {
                    self.traced.usage.processes += 1;
                }
            }
            EXEC => {
                // A thread that is not the first of its process takes over the id of the first one.
                let before = Pid::from_raw(i32::try_from(ptrace::getevent(thread)?)?);
                if before != thread {
                    self.threads.remove(&before);
                }
                // The exit of `execve` comes next.
                self.threads.insert(thread, Thread { in_call: true, call: None });
                if thread == self.first && !self.started {
                    self.started = true;
                    self.faults_of_shell = process::page_faults(thread).unwrap_or_default();
                }
            }
            EXIT => self.account(thread),
            _ => self.add(thread),
        }
        Ok(())
    }

    /// Reads the resources of a thread's process. That is possible only while it has a thread.
    fn account(&mut self, thread: Pid) {
        let Some(process) = process::of_thread(thread) else { return };
        let usage = &mut self.traced.usage;
        usage.peak_memory = usage.peak_memory.max(process::peak_memory(thread).unwrap_or_default());
        usage.own_memory = usage.own_memory.max(process::own_memory(thread).unwrap_or_default());
        let faults = self.faults.entry(process).or_default();
        *faults = process::page_faults(process).unwrap_or_default().max(*faults);
    }

    /// Handles the entry or the exit of a call.
    fn call(&mut self, thread: Pid) -> Result<()> {
        let state = self.threads.entry(thread).or_default();
        state.in_call = !state.in_call;
        if !self.started {
            return Ok(());
        }
        if state.in_call {
            let (number, arguments) = registers::entry(thread)?;
            let index = self.traced.usage.system_calls;
            let call = Call { index, thread, number, arguments };
            self.traced.usage.system_calls += 1;
            let mut error = None;
            match self.watch.entry(&call) {
                Verdict::Pass => {}
                Verdict::Fail(errno) => {
                    registers::skip(thread)?;
                    error = Some(errno);
                }
                Verdict::Kill => self.kill_all(),
            }
            if let Some(state) = self.threads.get_mut(&thread) {
                state.call = Some((call, error));
            }
        } else if let Some((call, error)) = state.call.take() {
            if let Some(error) = error {
                registers::set_error(thread, error)?;
            }
            self.watch.exit(&call, registers::result(thread)?);
        }
        Ok(())
    }

    fn kill_all(&mut self) {
        self.killed = true;
        for thread in self.threads.keys() {
            // An error means that it has already ended.
            let _ = kill(*thread, Signal::SIGKILL);
        }
    }
}
