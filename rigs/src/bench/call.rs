//! A call of a program, to be timed or traced.
//!
//! Ours, the peer and the floor are started in exactly the same way: by `posix_spawn`, with a file
//! for each stream and the same variables. The time is measured by the parent, from the start of
//! the process to its end.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::tracer::{self, Traced, Watch};

/// A container to attach.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) id: String,
    pub(crate) netns: PathBuf,
    /// Distinguishes addresses and ports in configurations.
    pub(crate) number: u16,
}

/// A program with its arguments, variables and stdin.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    program: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
    stdin: String,
}

impl Call {
    pub(crate) fn program(program: &Path, arguments: &[String]) -> Self {
        Self {
            program: program.to_owned(),
            arguments: arguments.to_vec(),
            variables: vec![("PATH", std::env::var("PATH").unwrap_or_default())],
            stdin: String::new(),
        }
    }

    /// A call of a plugin in `directory`, as a runtime makes it.
    pub(crate) fn plugin(
        directory: &Path,
        plugin: &str,
        command: &str,
        on: Option<&Attachment>,
        config: &Value,
    ) -> Self {
        let mut call = Self::program(&directory.join(plugin), &[]);
        call.variables.push(("CNI_COMMAND", command.to_owned()));
        call.variables.push(("CNI_PATH", directory.display().to_string()));
        if let Some(on) = on {
            call.variables.push(("CNI_CONTAINERID", on.id.clone()));
            call.variables.push(("CNI_NETNS", on.netns.display().to_string()));
            call.variables.push(("CNI_IFNAME", "eth0".to_owned()));
        }
        call.stdin = config.to_string();
        call
    }

    /// Runs the program, which must succeed; returns its time and answer.
    pub(crate) fn timed(&self) -> Result<(Duration, Value)> {
        let mut files = [tempfile::tempfile()?, tempfile::tempfile()?, tempfile::tempfile()?];
        files[0].write_all(self.stdin.as_bytes())?;
        files[0].rewind()?;
        let [stdin, mut stdout, mut stderr] = files;
        let mut command = Command::new(&self.program);
        self.prepare(&mut command)
            .stdin(stdin)
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?);
        let start = Instant::now();
        let mut child = command.spawn().with_context(|| format!("start {}", self.shown()))?;
        let status = child.wait().with_context(|| format!("wait for {}", self.shown()))?;
        let time = start.elapsed();
        Ok((time, self.answer(status, &read(&mut stdout)?, &read(&mut stderr)?)?))
    }

    /// Runs the program under ptrace; it must succeed.
    pub(crate) fn traced(&self, watch: &mut dyn Watch) -> Result<(Traced, Value)> {
        let mut command = tracer::command(&self.program);
        let traced = tracer::run(self.prepare(&mut command), self.stdin.as_bytes(), watch)?;
        let status = ExitStatus::from_raw(traced.code.map_or(9, |code| code << 8));
        let answer = self.answer(status, &traced.stdout, &traced.stderr)?;
        Ok((traced, answer))
    }

    fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let variables = self.variables.iter().map(|(name, value)| (name, value));
        command.args(&self.arguments).env_clear().envs(variables)
    }

    fn answer(&self, status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Result<Value> {
        let [out, err] = [stdout, stderr].map(String::from_utf8_lossy);
        ensure!(status.success(), "{} failed ({status}):\n{out}{err}", self.shown());
        if stdout.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(stdout).with_context(|| format!("the answer of {}", self.shown()))
    }

    fn shown(&self) -> String {
        let is_command = |(name, _): &&(&str, String)| *name == "CNI_COMMAND";
        let command = self.variables.iter().find(is_command).map(|(_, value)| value);
        let words = self.arguments.iter().chain(command);
        words.fold(self.program.display().to_string(), |shown, word| shown + " " + word)
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
        Call::program(Path::new("/bin/sh"), &["-c".to_owned(), script.to_owned()])
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
