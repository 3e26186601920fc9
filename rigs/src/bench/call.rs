//! A call of a program as a value: it can be timed, and it can be traced.
//!
//! Ours, the peer and the floor are started in exactly the same way: by `posix_spawn`, with a file to read from, a file
//! to write to and the same variables. The time is that from the start to the end of the process, as whoever started
//! it sees it.

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

/// Whom a plugin is called for.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) id: String,
    pub(crate) netns: PathBuf,
    /// What tells its addresses and ports from those of others, where a configuration names them.
    pub(crate) number: u16,
}

/// A program with everything that it is given.
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

    /// A plugin, as a runtime calls it: in `directory` it finds the others.
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

    /// Runs it; it has to succeed. Gives how long it took, and what it answered.
    pub(crate) fn timed(&self) -> Result<(Duration, Value)> {
        let mut command = Command::new(&self.program);
        let [stdin, mut stdout, mut stderr] = self.files()?;
        self.furnish(&mut command)
            .stdin(stdin)
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?);
        let start = Instant::now();
        let mut child = command.spawn().with_context(|| format!("start {}", self.shown()))?;
        let status = child.wait().with_context(|| format!("wait for {}", self.shown()))?;
        let time = start.elapsed();
        Ok((time, self.answer(status, &read(&mut stdout)?, &read(&mut stderr)?)?))
    }

    /// Runs it under ptrace; it has to succeed.
    pub(crate) fn traced(&self, watch: &mut dyn Watch) -> Result<(Traced, Value)> {
        let mut command = tracer::command(&self.program);
        let traced = tracer::run(self.furnish(&mut command), self.stdin.as_bytes(), watch)?;
        let status = ExitStatus::from_raw(traced.code.map_or(9, |code| code << 8));
        let answer = self.answer(status, &traced.stdout, &traced.stderr)?;
        Ok((traced, answer))
    }

    fn furnish<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .args(&self.arguments)
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
    }

    fn files(&self) -> Result<[File; 3]> {
        let mut files = [tempfile::tempfile()?, tempfile::tempfile()?, tempfile::tempfile()?];
        files[0].write_all(self.stdin.as_bytes())?;
        files[0].rewind()?;
        Ok(files)
    }

    fn answer(&self, status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Result<Value> {
        ensure!(
            status.success(),
            "{} failed ({status}):\n{}{}",
            self.shown(),
            String::from_utf8_lossy(stdout),
            String::from_utf8_lossy(stderr)
        );
        if stdout.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(stdout).with_context(|| format!("the answer of {}", self.shown()))
    }

    fn shown(&self) -> String {
        let command = self
            .variables
            .iter()
            .find(|(name, _)| *name == "CNI_COMMAND")
            .map(|(_, value)| value.as_str());
        let words = self.arguments.iter().map(String::as_str).chain(command);
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

    #[test]
    fn a_program_that_fails_is_an_error_with_what_it_said_and_no_sample() {
        let arguments = ["-c".to_owned(), "echo cannot >&2; exit 3".to_owned()];
        let error =
            Call::program(Path::new("/bin/sh"), &arguments).timed().unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("cannot"), "{error}");
    }

    #[test]
    fn what_it_answers_is_given_and_its_variables_are_only_those_of_the_call() {
        let arguments = ["-c".to_owned(), "printf '{\"home\": \"%s\"}' \"$HOME\"".to_owned()];
        let (_, answer) = Call::program(Path::new("/bin/sh"), &arguments).timed().unwrap();
        assert_eq!(answer["home"], "");
    }
}
