//! A directory with networks and plugins, and ways to call the binary with it.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

/// The binary under test.
pub(crate) const RSCNI: &str = env!("CARGO_BIN_EXE_rscni");

/// The result of a command.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for CommandOutput {
    fn from(out: Output) -> Self {
        Self {
            status: out.status.code().unwrap_or(-1),
            stdout: String::from_utf8(out.stdout).unwrap(),
            stderr: String::from_utf8(out.stderr).unwrap(),
        }
    }
}

impl CommandOutput {
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.status, 0, "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Runs a command on a terminal. Both output streams are returned as stdout, with `\n` line ends.
pub(crate) fn on_terminal(command: &mut Command) -> CommandOutput {
    let line: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    let mut script = Command::new("script");
    script
        .args(["--quiet", "--return", "--command", &line.join(" "), "/dev/null"])
        .env("TERM", "xterm");
    script
        .env_remove("NO_COLOR")
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let out = run(&mut script);
    CommandOutput { stdout: out.stdout.replace("\r\n", "\n"), ..out }
}

fn quoted(word: &std::ffi::OsStr) -> String {
    format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''"))
}

/// Runs a command without the CNI variables of this process.
pub(crate) fn run(command: &mut Command) -> CommandOutput {
    for name in ["CNI_PATH", "CNI_ARGS", "CNI_IFNAME", "CNI_COMMAND", "NETCONFPATH", "CAP_ARGS"] {
        if !command.get_envs().any(|(set, _)| set == name) {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).output().unwrap().into()
}

pub(crate) struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    /// Creates a file as namespace, the plugins `first` and `second`, which record their calls, and
    /// the network `mynet` with both.
    pub(crate) fn new() -> Self {
        let fixture = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["net.d", "bin", "calls"] {
            std::fs::create_dir(fixture.path(name)).unwrap();
        }
        std::fs::write(fixture.path("netns"), "").unwrap();
        for (name, address) in [("first", "10.0.0.2/24"), ("second", "10.0.0.3/24")] {
            let result = json!({ "cniVersion": "1.0.0", "ips": [{ "address": address }] });
            fixture.plugin(name, &format!("[ \"$CNI_COMMAND\" = ADD ] && echo '{result}'; :"));
        }
        let plugins = json!([
            { "type": "first", "own": { "z": 1, "a": 2 } },
            { "type": "second", "capabilities": { "mac": true } },
        ]);
        fixture.mynet("1.0.0", &plugins);
        fixture
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn network(&self, file: &str, json: &Value) {
        std::fs::write(self.path("net.d").join(file), json.to_string()).unwrap();
    }

    /// Writes the network `mynet`.
    pub(crate) fn mynet(&self, version: &str, plugins: &Value) {
        let list = json!({ "cniVersion": version, "name": "mynet", "plugins": plugins });
        self.network("10-mynet.conflist", &list);
    }

    /// Creates a plugin that records its variables and configuration and then runs `script`.
    pub(crate) fn plugin(&self, name: &str, script: &str) {
        let calls = self.path("calls");
        let text = format!(
            "#!/bin/sh\nnote={}/$CNI_COMMAND-{name}\n\
             echo \"$CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_PATH $CNI_ARGS\" >$note.vars\n\
             cat >$note.json\necho \"$CNI_COMMAND {name}\" >>{}/order\n{script}\n",
            calls.display(),
            calls.display()
        );
        write_program(&self.path("bin").join(name), &text);
    }

    /// Returns the plugin calls so far, in their order.
    pub(crate) fn order(&self) -> Vec<String> {
        let noted = std::fs::read_to_string(self.path("calls/order")).unwrap_or_default();
        noted.lines().map(Into::into).collect()
    }

    /// Returns the configuration of a call.
    pub(crate) fn config(&self, call: &str) -> Value {
        serde_json::from_slice(
            &std::fs::read(self.path("calls").join(format!("{call}.json"))).unwrap(),
        )
        .unwrap()
    }

    /// Returns the variables of a call: container, namespace, interface, path, arguments.
    pub(crate) fn vars(&self, call: &str) -> String {
        std::fs::read_to_string(self.path("calls").join(format!("{call}.vars")))
            .unwrap()
            .trim_end()
            .to_owned()
    }

    /// Runs `rscni ACTION NETWORK NETNS OPTIONS`.
    pub(crate) fn rscni(&self, action: &str, network: &str, options: &[&str]) -> CommandOutput {
        run(&mut self.command(action, network, options))
    }

    /// Runs an `rscni` command that takes `--cache-dir`.
    pub(crate) fn call(&self, words: &[&str]) -> CommandOutput {
        run(&mut self.call_command(words))
    }

    /// Runs `rscni status`.
    pub(crate) fn status(&self, words: &[&str]) -> CommandOutput {
        let mut command = Command::new(RSCNI);
        command.arg("status").args(words).arg("--conf-dir").arg(self.path("net.d"));
        run(command.arg("--plugin-dir").arg(self.path("bin")))
    }

    /// Returns the command of [`call`](Self::call).
    pub(crate) fn call_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(RSCNI);
        command.args(words).arg("--cache-dir").arg(self.path("cache"));
        command.env("NETCONFPATH", self.path("net.d")).env("CNI_PATH", self.path("bin"));
        command
    }

    /// Returns the command of [`rscni`](Self::rscni).
    pub(crate) fn command(&self, action: &str, network: &str, options: &[&str]) -> Command {
        let mut command = Command::new(RSCNI);
        command.args([action, network]).arg(self.path("netns")).args(options);
        command.arg("--conf-dir").arg(self.path("net.d")).arg("--plugin-dir").arg(self.path("bin"));
        command.arg("--cache-dir").arg(self.path("cache"));
        command
    }
}

/// Writes a program from a child process.
///
/// A child of another test could inherit a descriptor of this process that is open for writing, and
/// executing the program would fail with ETXTBSY.
pub(crate) fn write_program(path: &Path, text: &str) {
    let mut child = Command::new("sh")
        .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}
