//! Calls the plugins of a list as a runtime does, with or without a fault.

use std::{
    io::{Seek, Write},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result};
use rscni_test::{Call, Plugin};
use serde_json::Value;

use super::{
    injection::Injection,
    lists::{List, Step},
};
use crate::tracer::{self, Traced};

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
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl From<Output> for Ended {
    fn from(Output { status, stdout, stderr }: Output) -> Self {
        let [stdout, stderr] =
            [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        Self { code: status.code(), stdout, stderr }
    }
}

impl Ended {
    pub(super) fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    pub(super) fn json(&self) -> Option<Value> {
        serde_json::from_str(&self.stdout).ok()
    }

    /// Code and output on one line, for a message.
    pub(super) fn shown(&self) -> String {
        let text = format!("{} {}", self.stdout, self.stderr);
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
            let ended = self.run(self.plugin(step).call("GC").config(&config), None)?;
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
        if let (Some(port), "portmap") = (on.host_port, step.plugin()) {
            config["runtimeConfig"]["portMappings"][0]["hostPort"] = port.into();
        }
        let plugin = self.plugin(step);
        let mut call = plugin.call(command).config(&config);
        call = call.env("CNI_CONTAINERID", &on.container_id).env("CNI_IFNAME", &self.list.ifname);
        if let Some(netns) = &on.netns {
            call = call.env("CNI_NETNS", netns);
        }
        self.run(call, injection)
    }

    fn plugin(&self, step: &Step) -> Plugin {
        Plugin::at(self.directory.join(step.plugin())).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    }

    /// Runs a call, traced if there is an injection.
    fn run(&self, call: Call<'_>, injection: Option<&mut Injection>) -> Result<Ended> {
        let outcome = call.alone().run_with(|process| {
            let Some(injection) = injection else {
                return output(process.command(), process.stdin);
            };
            let traced = match tracer::run_call(process, injection) {
                // Some Go plugins wait forever after a fault.
                Err(error) if self.is_peer => {
                    Traced { stderr: format!("{error:#}").into_bytes(), ..Traced::default() }
                }
                traced => traced?,
            };
            injection.next_program(traced.usage.system_calls);
            Ok(traced.output())
        })?;
        let (stdout, stderr) = (outcome.stdout(), outcome.stderr());
        Ok(Ended { code: outcome.exit_code(), stdout, stderr })
    }
}

/// Runs a program to its end.
pub(super) fn output(mut command: Command, stdin: &[u8]) -> Result<Output> {
    let mut input = tempfile::tempfile().context("make a temporary file")?;
    input.write_all(stdin)?;
    input.rewind()?;
    let output = command.stdin(input).output();
    output.with_context(|| format!("start {}", command.get_program().display()))
}
