//! Starts other programs. Errors name the command as one would type it.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// The command as one would type it, for messages.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Runs a program and returns its stdout. Its output is shown only if it fails. The locale is C,
/// since other code reads the output.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start `{}`", shown(command)))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}):\n{}{}", shown(command), output.status, stdout, stderr);
    }
    Ok(stdout)
}

/// The option with which cargo prints its messages as JSON.
pub const JSON_MESSAGES: &str = "--message-format=json-render-diagnostics";

/// Builds a program with a cargo command that has the option [`JSON_MESSAGES`], and returns its
/// path.
pub fn build(command: &mut Command) -> Result<PathBuf> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start `{}`", shown(command)))?;
    succeeded(command, output.status)?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| Some(message["executable"].as_str()?.into()))
        .with_context(|| format!("`{}` built no program", shown(command)))
}

/// Runs a command line whose words are separated by single spaces, as [`capture`] does.
pub fn output_of(line: &str) -> Result<String> {
    let mut words = line.split(' ');
    capture(Command::new(words.next().unwrap_or_default()).args(words))
}

/// Runs a program in the foreground.
pub fn foreground(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start `{}`", shown(command)))?;
    succeeded(command, status)
}

/// Runs a program and passes each line of its stdout to `on_line`.
pub fn watched(command: &mut Command, on_line: &mut dyn FnMut(&str)) -> Result<()> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{}`", shown(command)))?;
    each_line(child.stdout.take().expect("stdout is piped"), on_line)?;
    let status = child.wait().with_context(|| format!("wait for `{}`", shown(command)))?;
    succeeded(command, status)
}

/// Passes each line to `on_line` until the stream ends. A test may print any bytes, so invalid
/// UTF-8 is replaced.
pub fn each_line(stream: impl std::io::Read, on_line: &mut dyn FnMut(&str)) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line)? > 0 {
        on_line(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    Ok(())
}

/// The cargo that started this task, in the caller's directory.
pub fn cargo_here() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The cargo that started this task, in the workspace.
pub fn cargo() -> Command {
    let mut command = cargo_here();
    command.current_dir(workspace_root());
    command
}

/// The directory of the workspace's Cargo.toml.
pub fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is in the workspace").into()
}

/// Makes a directory `/tmp/rscni-NAME-…`, deleted when the value is dropped. `TMPDIR` is ignored:
/// its path may contain spaces, or not exist in a private namespace.
pub fn temporary_directory(name: &str) -> Result<TempDir> {
    let directory = tempfile::Builder::new().prefix(&format!("rscni-{name}-")).tempdir_in("/tmp");
    directory.context("make a directory in /tmp")
}

/// Copies the running program to `to`. A build may have replaced the file that it was started from.
///
/// Another process writes the copy. If it were open for writing in this process while another
/// thread starts a program, the kernel would refuse to execute it (ETXTBSY).
pub fn copy_self(to: &Path) -> Result<()> {
    capture(Command::new("cp").arg(format!("/proc/{}/exe", std::process::id())).arg(to)).map(drop)
}

/// Whether the effective user is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn succeeded(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_can_be_executed_at_once_while_other_threads_start_programs() {
        let directory = tempfile::tempdir().unwrap();
        let copy_and_run = |name: String| {
            let copy = directory.path().join(name);
            copy_self(&copy).unwrap();
            capture(Command::new(&copy).arg("--help")).unwrap();
            std::fs::remove_file(copy).unwrap();
        };
        std::thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || {
                    (0..5).for_each(|round| copy_and_run(format!("{thread}-{round}")));
                });
            }
        });
    }
}
