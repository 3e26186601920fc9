//! Daemons that a rig starts: containerd, buildkitd, dnsmasq, and the daemon of dhcp.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use fs_err as fs;
use rustix::process::{Pid, Signal, kill_process};

/// Calls `attempt` until it succeeds. After the timeout, returns its last error.
pub(crate) fn until_ok<T>(timeout: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let is_over = Instant::now() >= deadline;
        match attempt() {
            Err(_) if !is_over => std::thread::sleep(Duration::from_millis(20)),
            outcome => return outcome,
        }
    }
}

/// A running daemon, killed when the value is dropped. Its output goes to a file.
pub(crate) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

/// Lines of the log that a failure shows. An error of a Go program comes with a stack of calls.
const LAST_LINES: usize = 30;

impl Daemon {
    /// Starts a daemon, and appends its output to the log.
    pub(crate) fn start(name: &str, command: &mut Command, log: PathBuf) -> Result<Self> {
        let output = fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let output = output.into_parts().0;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Waits until `attempt` succeeds. A daemon that ends meanwhile is an error.
    pub(crate) fn wait_until<T>(
        &mut self,
        timeout: Duration,
        mut attempt: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let ready = until_ok(timeout, || match self.child.try_wait()? {
            Some(status) => Ok(Err(status)),
            None => attempt().map(Ok),
        });
        match ready {
            Ok(Ok(ready)) => Ok(ready),
            Ok(Err(status)) => bail!("{} ended at its start ({status}); {}", self.name, self.log()),
            Err(error) => Err(error.context(format!("{} is not ready; {}", self.name, self.log()))),
        }
    }

    /// Ends the daemon as a service manager does, with SIGTERM.
    pub(crate) fn stop(&mut self, timeout: Duration) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        }
        until_ok(timeout, || self.child.try_wait()?.context("it is still running"))
            .with_context(|| format!("stop {}; {}", self.name, self.log()))?;
        Ok(())
    }

    /// Kills the daemon and waits for its end.
    pub(crate) fn kill(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The end of the log, for the message of a failure.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = &lines[lines.len().saturating_sub(LAST_LINES)..];
        format!("the log of {} ends:\n  {}\n", self.name, end.join("\n  "))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command that the kernel kills when the thread that started it ends.
pub(crate) fn bound_to_thread(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program.as_ref());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_ends_at_its_start_is_an_error_with_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo cannot; exit 3"]);
        let log = directory.path().join("log");
        let mut daemon = Daemon::start("the shell", &mut command, log).unwrap();
        let never = || -> Result<()> { bail!("never") };
        let error = daemon.wait_until(Duration::from_secs(60), never).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("cannot"), "{error}");
    }

    #[test]
    fn the_last_attempt_is_made_after_the_timeout() {
        assert_eq!(until_ok(Duration::ZERO, || Ok(7)).unwrap(), 7);
        let error = until_ok(Duration::ZERO, || -> Result<()> { bail!("no") }).unwrap_err();
        assert_eq!(error.to_string(), "no");
    }
}
