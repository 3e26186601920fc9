//! Calls the plugins of a list as a runtime does, with or without a fault.

use std::{
    io::{Seek, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    injection::Injection,
    lists::{List, Step},
};
use crate::tracer;

/// An attachment, as a call names it.
#[derive(Debug, Clone)]
pub(super) struct Attachment {
    pub(super) container_id: String,
    /// `None` for a DEL after the namespace is gone.
    pub(super) netns: Option<PathBuf>,
    /// The host port, if it is not that of the list.
    pub(super) host_port: Option<u16>,
}

/// Exit code and output of a program.
#[derive(Debug)]
pub(super) struct Ended {
    /// `None` after a signal.
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

    /// Code and output on one line, for a message.
    pub(super) fn shown(&self) -> String {
        let text = [&self.stdout[..], &self.stderr[..]].map(String::from_utf8_lossy).join(" ");
        let code = self.code.map_or_else(|| "killed".to_owned(), |code| format!("exit {code}"));
        format!("{code}: {}", text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// The outcome of a list's ADD: results of the plugins that succeeded, and the end of the one that
/// failed.
pub(super) struct Added {
    pub(super) results: Vec<Value>,
    pub(super) failed: Option<Ended>,
}

/// Calls the plugins of a list in a directory.
pub(super) struct Caller<'a> {
    pub(super) directory: &'a Path,
    pub(super) list: &'a List,
    /// Whether they are the Go plugins, whose DEL of a complete attachment needs `prevResult`. Ours
    /// does not.
    pub(super) is_peer: bool,
}

impl Caller<'_> {
    /// Calls ADD of each plugin in order, up to the first failure.
    pub(super) fn add(
        &self,
        on: &Attachment,
        mut injection: Option<&mut Injection>,
    ) -> Result<Added> {
        let mut results = Vec::new();
        for step in &self.list.steps {
            let watch = injection.as_deref_mut().filter(|_| step.hit);
            let ended = self.call(step, "ADD", on, results.last(), watch)?;
            match ended.json().filter(|_| ended.succeeded()) {
                Some(result) => results.push(result),
                None => return Ok(Added { results, failed: Some(ended) }),
            }
        }
        Ok(Added { results, failed: None })
    }

    /// Calls CHECK of each plugin with the list's result; returns the first failure.
    pub(super) fn check(&self, on: &Attachment, result: &Value) -> Result<Option<String>> {
        for step in &self.list.steps {
            let ended = self.call(step, "CHECK", on, Some(result), None)?;
            if !ended.succeeded() {
                return Ok(Some(ended.shown()));
            }
        }
        Ok(None)
    }

    /// Calls DEL of the first `count` plugins in reverse order, also after failures, which it
    /// returns. After a kill it calls no further plugin, as the runtime is considered dead too.
    pub(super) fn del(
        &self,
        on: &Attachment,
        count: usize,
        result: Option<&Value>,
        mut injection: Option<&mut Injection>,
    ) -> Result<Vec<Ended>> {
        let mut failures = Vec::new();
        for step in self.list.steps[..count].iter().rev() {
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

    /// Calls GC of each plugin, with no valid attachment; returns the failures.
    pub(super) fn gc(&self) -> Result<Vec<Ended>> {
        let mut failures = Vec::new();
        for step in &self.list.steps {
            let mut config = step.config.clone();
            // The first version with GC.
            config["cniVersion"] = "1.1.0".into();
            config["cni.dev/valid-attachments"] = Value::Array(Vec::new());
            let ended = self.run(self.command(step, "GC"), &config, None)?;
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
        self.run(command, &config, injection)
    }

    fn command(&self, step: &Step, command: &str) -> Command {
        let mut call = tracer::command(self.directory.join(step.plugin));
        call.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        call.env("CNI_COMMAND", command).env("CNI_PATH", self.directory);
        // In User-Mode Linux, glibc may not use registers that are not saved.
        call.envs(std::env::vars_os().filter(|(name, _)| name == "GLIBC_TUNABLES"));
        call
    }

    /// Runs a command of the tracer, traced if there is an injection.
    fn run(
        &self,
        mut command: Command,
        config: &Value,
        injection: Option<&mut Injection>,
    ) -> Result<Ended> {
        let stdin = serde_json::to_vec(config)?;
        let Some(injection) = injection else {
            // Without the shell that stops for the tracer.
            let program = command.get_args().nth(2).context("the program of a call")?;
            let mut plain = Command::new(program);
            let variables = command.get_envs();
            plain.env_clear().envs(variables.filter_map(|(name, value)| Some((name, value?))));
            return untraced(plain, &stdin);
        };
        let traced = match tracer::run(&mut command, &stdin, injection) {
            // Some Go plugins wait forever after a fault.
            Err(error) if self.is_peer => {
                let stderr = format!("{error:#}").into_bytes();
                return Ok(Ended { code: None, stdout: Vec::new(), stderr });
            }
            traced => traced?,
        };
        injection.next_program(traced.usage.system_calls);
        Ok(Ended { code: traced.code, stdout: traced.stdout, stderr: traced.stderr })
    }
}

/// Runs a program to its end.
pub(super) fn untraced(mut command: Command, stdin: &[u8]) -> Result<Ended> {
    let mut input = tempfile::tempfile().context("make a temporary file")?;
    input.write_all(stdin)?;
    input.rewind()?;
    let output = command.stdin(input).output();
    let output = output.with_context(|| format!("start {}", command.get_program().display()))?;
    Ok(Ended { code: output.status.code(), stdout: output.stdout, stderr: output.stderr })
}
