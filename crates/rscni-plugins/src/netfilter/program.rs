//! External programs that read their instructions from stdin.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use rscni::Error;

use crate::error::Result;

/// Runs a program with `input` on stdin. If it fails, the inner error is its stderr.
///
/// # Errors
/// If it cannot be run; `hint` says what to do if it cannot be started.
pub(crate) fn run(
    program: &str,
    args: &[&str],
    input: &str,
    hint: &str,
) -> Result<std::result::Result<(), String>> {
    let failed = |what: String| Error::IOFailure(format!("{program}: {what}"));
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(format!("{e}; {hint}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(|e| failed(e.to_string()))?;
    }
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    Ok(if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    })
}

/// Applies lines with `iptables-restore --noflush` or its variant `program`, all or none.
pub(super) fn iptables_restore(
    program: &str,
    table: &str,
    lines: impl IntoIterator<Item = String>,
) -> Result<()> {
    let lines: String = lines.into_iter().map(|line| line + "\n").collect();
    let hint = "install iptables, or set the backend to nftables";
    run(program, &["--noflush", "--wait"], &format!("*{table}\n{lines}COMMIT\n"), hint)?
        .map_err(|stderr| Error::IOFailure(format!("{program}: {stderr}")).into())
}
