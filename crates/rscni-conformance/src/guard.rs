//! The guard of a worker: however the run ends, nothing of it stays.
//!
//! A guard is a process between the run and each worker. It is told by the end of its stdin that the run has ended, also
//! where that was killed. What a worker or a plugin leaves running becomes the guard's child, and is ended.

use std::{
    io::{Read, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use crate::orphans::Orphans;

/// Starts this program once more as the worker, gives it `order` on stdin, and passes on what it says. Once it has
/// ended, and all that was left of it too, this says how.
///
/// # Errors
///
/// If there can be no worker.
pub(crate) fn guard(order: &[u8]) -> std::io::Result<String> {
    let _orphans = Orphans::adopt();
    let mut command = Command::new(std::env::current_exe()?);
    // A group of its own: what somebody in there sends to his group is not for the guard.
    command
        .args(std::env::args_os().skip(1))
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut worker = command.spawn()?;
    let (stdin, stdout) = (worker.stdin.take(), worker.stdout.take());
    let worker = Arc::new(Mutex::new(worker));
    end_with_the_run(Arc::clone(&worker));
    if let Some(mut stdin) = stdin {
        // One that has ended already says nothing, which is noticed.
        let _ = stdin.write_all(order);
    }
    if stdout.is_some_and(|stdout| pass_on(stdout).is_err()) {
        // Nobody listens.
        let _ = kill(&worker);
    }
    let status = worker.lock().unwrap_or_else(PoisonError::into_inner).wait()?;
    Ok(status.to_string())
}

fn pass_on(mut from: impl Read) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    std::io::copy(&mut from, &mut stdout)?;
    stdout.flush()
}

/// Ends the worker when stdin ends.
fn end_with_the_run(worker: Arc<Mutex<Child>>) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        kill(&worker)
    });
}

/// One that has been waited for is left alone.
fn kill(worker: &Mutex<Child>) -> std::io::Result<()> {
    worker.lock().unwrap_or_else(PoisonError::into_inner).kill()
}
