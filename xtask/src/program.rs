//! Starts other programs and says what went wrong in terms of the command that was typed.
//!
//! It knows nothing of what the programs do; what their output means is left to the caller.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail};

/// The command as one would type it, for messages.
pub fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a program whose output is of interest only if it fails, and gives what it wrote to stdout. That is read by other
/// code, so it does not depend on the caller's locale.
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

/// Runs a `cargo` command with `--message-format=json`, and gives the executable that it built.
pub fn built(command: &mut Command) -> Result<PathBuf> {
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

/// Runs a program in the foreground: what it says is for the person who typed the task.
pub fn foreground(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start `{}`", shown(command)))?;
    succeeded(command, status)
}

/// Like [`foreground`], and hands each line of stdout to `on_line` after showing it.
pub fn watched(command: &mut Command, mut on_line: impl FnMut(&str)) -> Result<()> {
    watched_quietly(command, |line| {
        println!("{line}");
        on_line(line);
    })
}

/// The same, which leaves it to `on_line` whether a line is shown.
pub fn watched_quietly(command: &mut Command, mut on_line: impl FnMut(&str)) -> Result<()> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{}`", shown(command)))?;
    let stdout = child.stdout.take().expect("stdout was piped just above");
    each_line(stdout, &mut on_line)?;
    let status = child.wait().with_context(|| format!("wait for `{}`", shown(command)))?;
    succeeded(command, status)
}

/// Hands each line to `on_line` until the stream ends. A test may print any bytes, so they are not taken to be UTF-8.
pub fn each_line(stream: impl std::io::Read, on_line: &mut dyn FnMut(&str)) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        on_line(String::from_utf8_lossy(&line).trim_end());
    }
}

/// The cargo that started this task, in the workspace.
pub fn cargo() -> Command {
    let mut command = cargo_here();
    command.current_dir(workspace_root());
    command
}

/// The same, in the caller's directory.
pub fn cargo_here() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// git, in the workspace.
pub fn git() -> Command {
    let mut command = Command::new("git");
    command.current_dir(workspace_root());
    command
}

/// The directory of the workspace's Cargo.toml.
pub fn workspace_root() -> PathBuf {
    let xtask = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().expect("xtask is a folder of the workspace").to_path_buf()
}

/// Copies this program to `to`, to be started from there: building the tests may have replaced the file that it was
/// itself started from.
///
/// It is another process that writes the copy: were it open in this one while another thread starts a program, the kernel
/// would refuse to run it (ETXTBSY).
pub fn copy_self(to: &Path) -> Result<()> {
    let this_program = format!("/proc/{}/exe", std::process::id());
    capture(Command::new("cp").arg(this_program).arg(to))?;
    Ok(())
}

/// Whether the tasks may do what only root may do on the host.
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
    fn a_copy_runs_at_once_while_other_threads_start_programs() {
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
