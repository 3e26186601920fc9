//! Calls the plugins of a list as a runtime does, watched or not.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    injection::Injection,
    worlds::{Step, World},
};
use crate::tracer;

/// Who is attached, as a call names it.
#[derive(Debug, Clone)]
pub(super) struct Attachment {
    pub(super) container_id: String,
    /// None for a DEL after the namespace is gone.
    pub(super) netns: Option<PathBuf>,
    /// The port of the host that leads to it, where it is not the list's.
    pub(super) host_port: Option<u16>,
}

/// How a plugin ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// None if a signal ended it.
    pub(super) code: Option<i32>,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Ended {
    pub(super) fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    pub(super) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.stdout).ok()
    }

    /// What it said, for a message.
    pub(super) fn said(&self) -> String {
        let text = [&self.stdout[..], &self.stderr[..]].map(String::from_utf8_lossy).join(" ");
        let code = self.code.map_or_else(|| "killed".to_owned(), |code| format!("exit {code}"));
        format!("{code}: {}", text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// How a list's ADD ended: the results of the plugins that succeeded, and the end of the one that did not.
pub(super) struct Added {
    pub(super) results: Vec<Value>,
    pub(super) failed: Option<Ended>,
}

/// Calls plugins in this directory.
pub(super) struct Caller<'a> {
    pub(super) directory: &'a Path,
    pub(super) world: &'a World,
    /// Whether they are the Go plugins, which rely on DEL of a complete attachment to get its result. Ours have to do without.
    pub(super) is_peer: bool,
}

impl Caller<'_> {
    /// ADD of each plugin in order, up to the first that fails.
    pub(super) fn add(
        &self,
        on: &Attachment,
        mut injection: Option<&mut Injection>,
    ) -> Result<Added> {
        let mut results = Vec::new();
        for step in &self.world.steps {
            let watch = injection.as_deref_mut().filter(|_| step.hit);
            let ended = self.call(step, "ADD", on, results.last(), watch)?;
            match ended.json().filter(|_| ended.succeeded()) {
                Some(result) => results.push(result),
                None => return Ok(Added { results, failed: Some(ended) }),
            }
        }
        Ok(Added { results, failed: None })
    }

    /// CHECK of each plugin with the list's result; what the first says that finds a difference.
    pub(super) fn check(&self, on: &Attachment, result: &Value) -> Result<Option<String>> {
        for step in &self.world.steps {
            let ended = self.call(step, "CHECK", on, Some(result), None)?;
            if !ended.succeeded() {
                return Ok(Some(ended.said()));
            }
        }
        Ok(None)
    }

    /// DEL of the first `count` plugins in reverse order, past failures; gives those. A kill ends it as it ends a
    /// runtime that is no more.
    pub(super) fn del(
        &self,
        on: &Attachment,
        count: usize,
        result: Option<&Value>,
        mut injection: Option<&mut Injection>,
    ) -> Result<Vec<Ended>> {
        let mut failures = Vec::new();
        for step in self.world.steps[..count].iter().rev() {
            let watch = injection.as_deref_mut().filter(|_| step.hit);
            let ended = self.call(step, "DEL", on, result, watch)?;
            if !ended.succeeded() {
                failures.push(ended);
            }
            if injection.as_ref().is_some_and(|injection| injection.killed()) {
                break;
            }
        }
        Ok(failures)
    }

    /// GC of each plugin, with no attachment valid.
    pub(super) fn gc(&self) -> Result<Vec<Ended>> {
        let mut failures = Vec::new();
        for step in &self.world.steps {
            let mut config = step.config.clone();
            // The command is of this version.
            config["cniVersion"] = "1.1.0".into();
            config["cni.dev/valid-attachments"] = Value::Array(Vec::new());
            let mut command = self.command(step, "GC");
            let ended = run(&mut command, &config, None, self.is_peer)?;
            if !ended.succeeded() {
                failures.push(ended);
            }
        }
        Ok(failures)
    }

    fn call(
        &self,
        step: &Step,
        command: &str,
        on: &Attachment,
        result: Option<&Value>,
        injection: Option<&mut Injection>,
    ) -> Result<Ended> {
        let mut config = step.config.clone();
        if let Some(result) = result {
            config["prevResult"] = result.clone();
        }
        if let (Some(port), "portmap") = (on.host_port, step.plugin) {
            config["runtimeConfig"]["portMappings"][0]["hostPort"] = port.into();
        }
        let mut command = self.command(step, command);
        let ifname = if step.plugin == "loopback" { "lo" } else { "eth0" };
        command.env("CNI_CONTAINERID", &on.container_id).env("CNI_IFNAME", ifname);
        if let Some(netns) = &on.netns {
            command.env("CNI_NETNS", netns);
        }
        run(&mut command, &config, injection, self.is_peer)
    }

    fn command(&self, step: &Step, command: &str) -> Command {
        let mut call = tracer::command(self.directory.join(step.plugin));
        call.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        call.env("CNI_COMMAND", command).env("CNI_PATH", self.directory);
        // In User-Mode Linux glibc may have to leave registers alone that are not kept.
        call.envs(std::env::vars_os().filter(|(name, _)| name == "GLIBC_TUNABLES"));
        call
    }
}

/// Runs it, under the tracer if it is watched.
fn run(
    command: &mut Command,
    config: &Value,
    injection: Option<&mut Injection>,
    is_peer: bool,
) -> Result<Ended> {
    let stdin = serde_json::to_vec(config)?;
    if let Some(injection) = injection {
        let traced = match tracer::run(command, &stdin, injection) {
            // Some wait for ever for what they were not told.
            Err(error) if is_peer => {
                return Ok(Ended {
                    code: None,
                    stdout: Vec::new(),
                    stderr: format!("{error:#}").into_bytes(),
                });
            }
            traced => traced?,
        };
        injection.next_program(traced.calls);
        return Ok(Ended { code: traced.code, stdout: traced.stdout, stderr: traced.stderr });
    }
    // The same command, without the shell that would stop for the tracer.
    let mut plain = Command::new(command.get_args().nth(2).context("the program of a call")?);
    plain.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Ok(unwatched(plain, &stdin)?.into())
}

/// Runs it to its end.
pub(super) fn unwatched(mut command: Command, stdin: &[u8]) -> Result<std::process::Output> {
    use std::io::{Seek, Write};
    let mut input = tempfile::tempfile().context("make a temporary file")?;
    input.write_all(stdin)?;
    input.rewind()?;
    let program = command.get_program().to_owned();
    command.stdin(input).output().with_context(|| format!("start {}", program.display()))
}

impl From<std::process::Output> for Ended {
    fn from(output: std::process::Output) -> Self {
        Self { code: output.status.code(), stdout: output.stdout, stderr: output.stderr }
    }
}
