//! A directory with networks and plugins, and the binary called in it.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

/// The binary under test.
pub(crate) const RSCNI: &str = env!("CARGO_BIN_EXE_rscni");

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
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

/// Runs a command line on a terminal; what it prints on either stream comes back as stdout, with the terminal's line
/// ends made the usual ones.
pub(crate) fn on_terminal(command: &mut Command) -> Ran {
    let line: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    let mut script = Command::new("script");
    script
        .args(["--quiet", "--return", "--command", &line.join(" "), "/dev/null"])
        .env("TERM", "xterm");
    script
        .env_remove("NO_COLOR")
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = run(&mut script);
    Ran { stdout: ran.stdout.replace("\r\n", "\n"), ..ran }
}

fn quoted(word: &std::ffi::OsStr) -> String {
    format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''"))
}

/// Runs a command without any of this process's CNI variables.
pub(crate) fn run(command: &mut Command) -> Ran {
    for name in ["CNI_PATH", "CNI_ARGS", "CNI_IFNAME", "CNI_COMMAND", "NETCONFPATH", "CAP_ARGS"] {
        if !command.get_envs().any(|(set, _)| set == name) {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).output().unwrap().into()
}

pub(crate) struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// A namespace's file, the plugins `first` and `second`, which note how they are called, and the network `mynet`
    /// of both.
    pub(crate) fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["net.d", "bin", "calls"] {
            std::fs::create_dir(world.path(name)).unwrap();
        }
        std::fs::write(world.path("netns"), "").unwrap();
        world.plugin(
            "first",
            r#"[ "$CNI_COMMAND" = ADD ] && echo '{ "cniVersion": "1.0.0", "ips": [{ "address": "10.0.0.2/24" }] }'; :"#,
        );
        world.plugin(
            "second",
            r#"[ "$CNI_COMMAND" = ADD ] && echo '{ "cniVersion": "1.0.0", "ips": [{ "address": "10.0.0.3/24" }] }'; :"#,
        );
        world.network(
            "10-mynet.conflist",
            &json!({ "cniVersion": "1.0.0", "name": "mynet", "plugins": [
                { "type": "first", "own": { "z": 1, "a": 2 } }, { "type": "second", "capabilities": { "mac": true } }
            ] }),
        );
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn network(&self, file: &str, json: &Value) {
        std::fs::write(self.path("net.d").join(file), json.to_string()).unwrap();
    }

    /// A plugin that notes its variables and its configuration, and then does what `script` says.
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

    /// The calls of plugins so far, in their order.
    pub(crate) fn order(&self) -> Vec<String> {
        let noted = std::fs::read_to_string(self.path("calls/order")).unwrap_or_default();
        noted.lines().map(Into::into).collect()
    }

    /// The configuration that a plugin got.
    pub(crate) fn config(&self, call: &str) -> Value {
        serde_json::from_slice(
            &std::fs::read(self.path("calls").join(format!("{call}.json"))).unwrap(),
        )
        .unwrap()
    }

    /// The variables that a plugin got: container, namespace, interface, path, arguments.
    pub(crate) fn vars(&self, call: &str) -> String {
        std::fs::read_to_string(self.path("calls").join(format!("{call}.vars")))
            .unwrap()
            .trim_end()
            .to_owned()
    }

    /// `rscni ACTION NETWORK NETNS`, with more options behind.
    pub(crate) fn rscni(&self, action: &str, network: &str, options: &[&str]) -> Ran {
        run(&mut self.command(action, network, options))
    }

    /// `rscni` with these words, of which the first is a command that knows a cache.
    pub(crate) fn call(&self, words: &[&str]) -> Ran {
        run(&mut self.calling(words))
    }

    /// `rscni status` with these words behind.
    pub(crate) fn status(&self, words: &[&str]) -> Ran {
        let mut command = Command::new(RSCNI);
        command.arg("status").args(words).arg("--conf-dir").arg(self.path("net.d"));
        run(command.arg("--plugin-dir").arg(self.path("bin")))
    }

    /// The command of [`call`](Self::call).
    pub(crate) fn calling(&self, words: &[&str]) -> Command {
        let mut command = Command::new(RSCNI);
        command.args(words).arg("--cache-dir").arg(self.path("cache"));
        command.env("NETCONFPATH", self.path("net.d")).env("CNI_PATH", self.path("bin"));
        command
    }

    /// The command of [`rscni`](Self::rscni).
    pub(crate) fn command(&self, action: &str, network: &str, options: &[&str]) -> Command {
        let mut command = Command::new(RSCNI);
        command.args([action, network]).arg(self.path("netns")).args(options);
        command.arg("--conf-dir").arg(self.path("net.d")).arg("--plugin-dir").arg(self.path("bin"));
        command.arg("--cache-dir").arg(self.path("cache"));
        command
    }
}

/// Writes a program in another process: were it open in this one while another test starts something, the kernel
/// would refuse to run it (ETXTBSY).
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
