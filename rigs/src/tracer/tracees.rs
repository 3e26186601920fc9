//! The loop that waits for whichever traced thread stops next, and lets it go on.

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

/// Traces the stopped shell `first`, which is the leader of a process group, from where it becomes the program.
pub(super) fn run(first: Pid, patience: Duration, watch: &mut dyn Watch) -> Result<Traced> {
    let (done, wait) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let watchdog = scope.spawn(move || {
            let late = wait.recv_timeout(patience) == Err(RecvTimeoutError::Timeout);
            if late {
                let _ = killpg(first, Signal::SIGKILL);
            }
            late
        });
        let outcome = Tracees::new(first, watch).run();
        drop(done);
        let late = watchdog.join().expect("the watchdog does not panic");
        ensure!(!late, "it took longer than {} seconds and was killed", patience.as_secs());
        outcome
    })
}

/// Where a thread is, as far as it matters at its next stop.
#[derive(Default)]
struct Thread {
    /// Whether its next stop at a call is the exit. `PTRACE_GET_SYSCALL_INFO` would say so too, but User-Mode Linux does
    /// not have it.
    in_call: bool,
    /// The call that it is in, and the error that the program is to see at its exit.
    call: Option<(Call, Option<Errno>)>,
}

struct Tracees<'a> {
    first: Pid,
    watch: &'a mut dyn Watch,
    threads: BTreeMap<Pid, Thread>,
    /// All that there have been: the exit of a short-lived child may be seen before its parent's news of it.
    known: BTreeSet<Pid>,
    /// Whether the shell has become the program.
    started: bool,
    killed: bool,
    peaks: BTreeMap<Pid, u64>,
    own: BTreeMap<Pid, u64>,
    faults: BTreeMap<Pid, u64>,
    faults_of_shell: u64,
    traced: Traced,
}

impl<'a> Tracees<'a> {
    fn new(first: Pid, watch: &'a mut dyn Watch) -> Self {
        let traced = Traced {
            code: None,
            stdout: Vec::new(),
            stderr: Vec::new(),
            calls: 0,
            processes: 1,
            threads: 0,
            page_faults: 0,
            peak_memory: 0,
            own_memory: 0,
        };
        Self {
            first,
            watch,
            threads: BTreeMap::new(),
            known: BTreeSet::new(),
            started: false,
            killed: false,
            peaks: BTreeMap::new(),
            own: BTreeMap::new(),
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
        self.traced.page_faults =
            self.faults.values().sum::<u64>().saturating_sub(self.faults_of_shell);
        self.traced.own_memory = self.own.values().copied().max().unwrap_or_default();
        self.traced.peak_memory = self.peaks.values().copied().max().unwrap_or_default();
        Ok(self.traced)
    }

    fn trace(&mut self) -> Result<()> {
        match waitpid(self.first, Some(WaitPidFlag::WUNTRACED))? {
            WaitStatus::Stopped(..) => {}
            other => bail!("the shell that was to start it did not stop: {other:?}"),
        }
        ptrace::seize(
            self.first,
            Options::PTRACE_O_TRACESYSGOOD
                | Options::PTRACE_O_TRACEFORK
                | Options::PTRACE_O_TRACEVFORK
                | Options::PTRACE_O_TRACECLONE
                | Options::PTRACE_O_TRACEEXEC
                | Options::PTRACE_O_TRACEEXIT
                | Options::PTRACE_O_EXITKILL,
        )
        .context("ptrace is not allowed here")?;
        self.add(self.first);
        while !self.threads.is_empty() {
            // `__WALL`: threads too. `__WNOTHREAD`: not the children of this program's other threads.
            let status = match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
                Err(Errno::EINTR) => continue,
                status => status?,
            };
            match self.stopped(status) {
                // A thread that was killed while it was stopped: its end is reported next.
                Err(error) if error.downcast_ref() == Some(&Errno::ESRCH) => {}
                outcome => outcome?,
            }
        }
        ensure!(self.started, "the program could not be executed");
        Ok(())
    }

    /// Leaves nothing behind of what cannot be traced.
    fn end(&mut self) {
        self.add(self.first);
        self.kill_all();
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
            if let (Some(thread), false) =
                (status.pid(), matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)))
            {
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
            // A signal on its way to the program.
            WaitStatus::Stopped(thread, signal) => {
                self.add(thread);
                ptrace::syscall(thread, signal)?;
            }
            WaitStatus::Continued(_) | WaitStatus::StillAlive => {}
        }
        Ok(())
    }

    fn add(&mut self, thread: Pid) -> bool {
        let is_new = self.known.insert(thread);
        if is_new {
            self.threads.insert(thread, Thread::default());
            if self.killed {
                let _ = kill(thread, Signal::SIGKILL);
            }
        }
        is_new
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
                    self.traced.threads += 1;
                } else {
                    self.traced.processes += 1;
                }
            }
            EXEC => {
                // Another thread than the first one of a process takes over the first one's number.
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
            _ => {
                self.add(thread);
            }
        }
        Ok(())
    }

    /// A thread is about to end. What its process has used is known only as long as there is a thread.
    fn account(&mut self, thread: Pid) {
        let Some(process) = process::of_thread(thread) else { return };
        if let Some(peak) = process::peak_memory(thread) {
            self.peaks.entry(process).and_modify(|known| *known = peak.max(*known)).or_insert(peak);
        }
        if let Some(own) = process::own_memory(thread) {
            self.own.entry(process).and_modify(|known| *known = own.max(*known)).or_insert(own);
        }
        if let Some(faults) = process::page_faults(process) {
            self.faults
                .entry(process)
                .and_modify(|known| *known = faults.max(*known))
                .or_insert(faults);
        }
    }

    /// A thread is at the entry or the exit of a call.
    fn call(&mut self, thread: Pid) -> Result<()> {
        let state = self.threads.entry(thread).or_default();
        state.in_call = !state.in_call;
        if !self.started {
            return Ok(());
        }
        if state.in_call {
            let registers::Entry { number, arguments } = registers::entry(thread)?;
            let call = Call { index: self.traced.calls, thread, number, arguments };
            self.traced.calls += 1;
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
            // Of a process that is gone already there is nothing to kill.
            let _ = kill(*thread, Signal::SIGKILL);
        }
    }
}
