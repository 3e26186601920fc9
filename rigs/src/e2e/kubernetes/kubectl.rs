//! The client of the API server.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::program;

/// The program with its configuration.
pub(super) const WITH_CONFIG: &str = "/mnt/programs/kubectl --kubeconfig /mnt/cluster/admin.conf \
                                      --cache-dir /mnt/cluster/kubectl-cache";

fn command() -> Command {
    let mut words = WITH_CONFIG.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

/// Runs `kubectl` with a line of arguments, separated by single spaces, and returns its output.
pub(super) fn run(line: &str) -> Result<String> {
    program::capture(command().args(line.split(' ')))
}

/// Changes the status of a Node.
pub(super) fn patch_status(node: &str, patch: &Value) -> Result<()> {
    let mut kubectl = command();
    kubectl.args(["patch", "node", node, "--subresource=status", "--type=merge", "--patch"]);
    program::capture(kubectl.arg(patch.to_string())).map(drop)
}

/// Gets objects as JSON.
pub(super) fn get(what: &str) -> Result<Value> {
    let text = run(&format!("get {what} -o json"))?;
    serde_json::from_str(&text).with_context(|| format!("read the JSON of {what}"))
}

/// Creates or changes objects.
pub(super) fn apply(objects: &[Value]) -> Result<()> {
    with_input("apply", &serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects}))
}

/// Replaces an object.
pub(super) fn replace(object: &Value) -> Result<()> {
    with_input("replace", object)
}

fn with_input(action: &str, object: &Value) -> Result<()> {
    let mut kubectl = command();
    kubectl.args([action, "-f", "-"]);
    let mut child = kubectl
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start kubectl")?;
    child
        .stdin
        .take()
        .expect("stdin is piped")
        .write_all(object.to_string().as_bytes())
        .context("write to kubectl")?;
    let output = child.wait_with_output().context("wait for kubectl")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "kubectl {action} failed ({}): {errors}\n{object}",
        output.status
    );
    Ok(())
}
