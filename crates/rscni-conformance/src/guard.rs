//! The guard of a worker, which cleans up after it.
//!
//! A guard is a process between the run and a worker. The end of its stdin tells it that the run
//! has ended, even if that was killed. Processes that the worker or a plugin leaves running become
//! children of the guard, which kills them.

use std::{
    io::{Read, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use crate::orphans::Orphans;

/// Starts this program as a worker, writes `order` to its stdin and copies its stdout. Returns how
/// the worker ended, after everything left of it is killed.
///
/// # Errors
///
/// If the worker cannot be started.
pub(crate) fn guard(order: &[u8]) -> std::io::Result<String> {
    let _orphans = Orphans::adopt();
    let mut command = Command::new(std::env::current_exe()?);
    // In its own process group, since a plugin may send signals to its group.
    command
        .args(std::env::args_os().skip(1))
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut worker = command.spawn()?;
    let (stdin, stdout) = (worker.stdin.take(), worker.stdout.take());
    let worker = Arc::new(Mutex::new(worker));
    kill_at_end_of_stdin(Arc::clone(&worker));
    if let Some(mut stdin) = stdin {
        // If the worker has already exited, its missing output is noticed later.
        let _ = stdin.write_all(order);
    }
    if stdout.is_some_and(|stdout| copy_to_stdout(stdout).is_err()) {
        // The run has ended.
        let _ = kill(&worker);
    }
    let status = worker.lock().unwrap_or_else(PoisonError::into_inner).wait()?;
    Ok(status.to_string())
}

fn copy_to_stdout(mut from: impl Read) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    std::io::copy(&mut from, &mut stdout)?;
    stdout.flush()
}

fn kill_at_end_of_stdin(worker: Arc<Mutex<Child>>) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        kill(&worker)
    });
}

/// Kills the worker unless it is already reaped.
fn kill(worker: &Mutex<Child>) -> std::io::Result<()> {
    worker.lock().unwrap_or_else(PoisonError::into_inner).kill()
}
