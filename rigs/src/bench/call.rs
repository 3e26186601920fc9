//! A call of a program, to be timed or traced.
//!
//! Ours, the peer and the floor are started in exactly the same way: by `posix_spawn`, with a file
//! for each stream and the same variables. The time is measured by the parent, from the start of
//! the process to its end.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    path::Path,
    process::Output,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rscni_test::{Container, Plugin, Process};
use serde_json::Value;

use crate::tracer::{self, Traced, Watch};

/// A container to attach.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) container: Container,
    /// Distinguishes addresses and ports in configurations.
    pub(crate) number: u16,
}

/// A program with its arguments, variables and stdin.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    plugin: Plugin,
    command: &'static str,
    container: Option<Container>,
    config: Value,
    arguments: Vec<String>,
}

impl Call {
    /// A program that is not a plugin, with arguments separated by spaces.
    pub(crate) fn program(program: &Path, arguments: &str) -> Self {
        let arguments = arguments.split(' ').filter(|argument| !argument.is_empty());
        Self {
            plugin: Plugin::at(program),
            command: "",
            container: None,
            config: Value::Null,
            arguments: arguments.map(str::to_owned).collect(),
        }
    }

    /// A call of a plugin in `directory`.
    pub(crate) fn plugin(
        directory: &Path,
        command: &'static str,
        on: Option<&Attachment>,
        config: Value,
    ) -> Self {
        let plugin = config["type"].as_str().unwrap_or_default();
        Self {
            plugin: Plugin::at(directory.join(plugin)),
            command,
            container: on.map(|on| on.container.clone()),
            config,
            arguments: Vec::new(),
        }
    }

    /// Runs the program, which must succeed; returns its time and answer.
    pub(crate) fn timed(&self) -> Result<(Duration, Value)> {
        let mut time = Duration::ZERO;
        let answer = self.run(|process| {
            let mut stdin = tempfile::tempfile()?;
            let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
            stdin.write_all(process.stdin)?;
            stdin.rewind()?;
            let mut command = process.command();
            command.args(&self.arguments).stdin(stdin);
            command.stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
            let start = Instant::now();
            let mut child = command.spawn().context("start the program")?;
            let status = child.wait()?;
            time = start.elapsed();
            Ok(Output { status, stdout: read(&mut stdout)?, stderr: read(&mut stderr)? })
        })?;
        Ok((time, answer))
    }

    /// Runs the plugin under ptrace; it must succeed.
    pub(crate) fn traced(&self, watch: &mut dyn Watch) -> Result<(Traced, Value)> {
        let mut traced = Traced::default();
        let answer = self.run(|process| {
            traced = tracer::run_call(process, watch)?;
            Ok(traced.output())
        })?;
        Ok((traced, answer))
    }

    fn run(&self, start: impl FnOnce(&Process) -> Result<Output>) -> Result<Value> {
        let mut call = self.plugin.call(self.command).alone();
        if let Some(container) = &self.container {
            call = call.attachment(container, "eth0");
        }
        let outcome = call.config(&self.config).run_with(start)?;
        ensure!(outcome.exit_code() == Some(0), "{outcome}");
        let stdout = outcome.stdout();
        if stdout.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&stdout).with_context(|| format!("read the answer: {outcome}"))
    }
}

fn read(file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Call {
        let mut call = Call::program(Path::new("/bin/sh"), "-c");
        call.arguments.push(script.to_owned());
        call
    }

    #[test]
    fn a_program_that_fails_is_an_error_with_its_output() {
        let error = shell("echo cannot >&2; exit 3").timed().unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("cannot"), "{error}");
    }

    #[test]
    fn a_program_has_only_the_variables_of_the_call() {
        let (_, answer) = shell("printf '{\"home\": \"%s\"}' \"$HOME\"").timed().unwrap();
        assert_eq!(answer["home"], "");
    }
}
