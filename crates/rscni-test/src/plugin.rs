//! Calls a plugin as a container runtime does: a process, variables, a configuration on stdin.
//!
//! Whether the answer is what the test expects is up to [`Outcome`].

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io::{Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{Container, Outcome, outcome::End, run::PRIVATE_VARIABLES};

/// A busy machine takes its time, and so does a kernel that takes many networks apart, which holds its lock for links.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// How long what was killed may take to let go of its output; who has left its process group may hold on to it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A plugin that can be called. Made by [`Lab::plugin`](crate::Lab::plugin) and [`Lab::install`](crate::Lab::install),
/// and by [`Plugin::at`] where it needs no private network.
#[derive(Debug, Clone)]
pub struct Plugin {
    program: PathBuf,
    path: Vec<PathBuf>,
    variables: BTreeMap<String, OsString>,
    time_limit: Duration,
    /// Shared with its copies.
    overdue: Arc<AtomicUsize>,
}

impl Plugin {
    /// The plugin in this file, to be called where the test is: for one that touches no network, and for calls that
    /// it has to refuse. It finds others in the directory of the file.
    ///
    /// ```no_run
    /// # use rscni_test::{Container, Plugin};
    /// # use serde_json::json;
    /// let config = json!({ "cniVersion": "1.1.0", "name": "net", "type": "my-plugin" });
    /// let nowhere = Container::at("c1", "/nowhere/netns");
    /// Plugin::at("/opt/cni/bin/my-plugin").add(&nowhere, "eth0", &config).error(8).mentions("/nowhere/netns");
    /// ```
    ///
    /// # Panics
    ///
    /// If there is no such file.
    #[track_caller]
    pub fn at(program: impl AsRef<Path>) -> Self {
        let program = program.as_ref();
        assert!(program.is_file(), "plugin {}: there is no such file", program.display());
        Self {
            program: program.to_owned(),
            path: program.parent().map(Path::to_owned).into_iter().collect(),
            variables: BTreeMap::new(),
            time_limit: TIME_LIMIT,
            overdue: Arc::default(),
        }
    }

    /// The same, which looks for others in `directory` too.
    pub(crate) fn finding_others_in(mut self, directory: PathBuf) -> Self {
        self.path.push(directory);
        self
    }

    /// The file that is executed.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Has it find other plugins in these directories (`CNI_PATH`) and no others.
    #[must_use]
    pub fn cni_path<P: Into<PathBuf>>(mut self, directories: impl IntoIterator<Item = P>) -> Self {
        self.path = directories.into_iter().map(Into::into).collect();
        self
    }

    /// Sets a variable for all calls, such as `CNI_ARGS`.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.variables.insert(name.to_owned(), value.as_ref().to_owned());
        self
    }

    /// Changes how long a call may take before the plugin is killed and the call failed; two minutes
    /// otherwise.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// How many calls the time limit has ended so far, of this plugin and of its copies with other settings.
    pub fn overdue_calls(&self) -> usize {
        self.overdue.load(Ordering::SeqCst)
    }

    /// ADD: attach `container` to the network as `ifname`.
    pub fn add(&self, container: &Container, ifname: &str, config: &Value) -> Outcome {
        self.call("ADD").attachment(container, ifname).config(config).run()
    }

    /// CHECK: `config` holds the result of ADD as `prevResult`, see [`Reply::follow`](crate::Reply::follow).
    pub fn check(&self, container: &Container, ifname: &str, config: &Value) -> Outcome {
        self.call("CHECK").attachment(container, ifname).config(config).run()
    }

    /// DEL: detach `container` again.
    pub fn del(&self, container: &Container, ifname: &str, config: &Value) -> Outcome {
        self.call("DEL").attachment(container, ifname).config(config).run()
    }

    /// GC: `config` lists the attachments that are to stay as `cni.dev/valid-attachments`.
    pub fn gc(&self, config: &Value) -> Outcome {
        self.call("GC").config(config).run()
    }

    /// STATUS: whether the plugin is ready for ADD.
    pub fn status(&self, config: &Value) -> Outcome {
        self.call("STATUS").config(config).run()
    }

    /// VERSION: which versions of the specification the plugin speaks.
    pub fn version(&self) -> Outcome {
        self.call("VERSION").config(&json!({ "cniVersion": "1.1.0" })).run()
    }

    /// A call to be put together piece by piece, for tests of what a runtime should not do.
    pub fn call(&self, command: &str) -> Call<'_> {
        let mut variables = self.variables.clone();
        variables.insert("CNI_COMMAND".to_owned(), command.into());
        variables
            .insert("CNI_PATH".to_owned(), std::env::join_paths(&self.path).unwrap_or_default());
        Call { plugin: self, variables, stdin: Vec::new(), alone: false }
    }
}

/// A call of a plugin that is being put together. Variables that are not set are not there.
#[derive(Debug, Clone)]
#[must_use = "call `run`"]
pub struct Call<'a> {
    plugin: &'a Plugin,
    variables: BTreeMap<String, OsString>,
    stdin: Vec<u8>,
    alone: bool,
}

impl Call<'_> {
    /// Sets `CNI_CONTAINERID`, `CNI_NETNS` and `CNI_IFNAME`.
    pub fn attachment(self, container: &Container, ifname: &str) -> Self {
        self.env("CNI_CONTAINERID", container.id())
            .env("CNI_NETNS", container.path())
            .env("CNI_IFNAME", ifname)
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.variables.insert(name.to_owned(), value.as_ref().to_owned());
        self
    }

    /// Leaves a variable out, such as `CNI_NETNS` of a DEL.
    pub fn without(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    /// Gives the plugin none of this process's variables but `PATH`, only those of the call.
    ///
    /// Those stay that tell glibc and Go's runtime which registers the processor has: User-Mode Linux may need them.
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Gives the configuration on stdin.
    pub fn config(self, config: &Value) -> Self {
        self.stdin(config.to_string())
    }

    /// Gives these bytes on stdin, whatever they are.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Starts the plugin in the calling thread's network namespace and waits for it to end and to let go of its
    /// output, as a runtime does.
    ///
    /// # Panics
    ///
    /// If the program cannot be started.
    #[track_caller]
    pub fn run(self) -> Outcome {
        let program = &self.plugin.program;
        match self.try_run() {
            Ok(outcome) => outcome,
            Err(error) => panic!("start plugin {}: {error}", program.display()),
        }
    }

    /// The same where it is not certain that the program can be started.
    ///
    /// # Errors
    ///
    /// What the system says of a program that it cannot start.
    pub fn try_run(self) -> std::io::Result<Outcome> {
        let program = &self.plugin.program;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            let unwanted =
                self.alone && !["PATH", "GLIBC_TUNABLES", "GODEBUG"].contains(&&*name_text);
            if unwanted || name_text.starts_with("CNI_") || name_text.starts_with(PRIVATE_VARIABLES)
            {
                command.env_remove(&name);
            }
        }
        // A process group, so that what a plugin has started can be killed with it.
        command.envs(&self.variables).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (end, stdout, stderr) =
            finish(command.spawn()?, self.stdin.clone(), self.plugin.time_limit);
        if matches!(end, End::Overdue(_)) {
            self.plugin.overdue.fetch_add(1, Ordering::SeqCst);
        }
        Ok(Outcome {
            program: program.clone(),
            variables: self.variables,
            stdin: self.stdin,
            stdout,
            stderr,
            end,
        })
    }
}

/// What a thread has read from a pipe so far, and whether it has come to the end.
#[derive(Default)]
struct Collected {
    bytes: Vec<u8>,
    complete: bool,
}

fn finish(mut child: Child, stdin: Vec<u8>, limit: Duration) -> (End, Vec<u8>, Vec<u8>) {
    let deadline = Instant::now() + limit;
    if let Some(mut pipe) = child.stdin.take() {
        // A plugin need not read it all; what it makes of that is in its reply.
        std::thread::spawn(move || pipe.write_all(&stdin));
    }
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let complete = || lock(&stdout).complete && lock(&stderr).complete;
    let mut status = None;
    let end = loop {
        if status.is_none() {
            status = child.try_wait().ok().flatten();
        }
        match status {
            Some(status) if complete() => break End::Exited(status),
            _ if Instant::now() >= deadline => {
                kill(&child);
                // What was printed before is in the pipes, and is part of what a test is told.
                let begin = Instant::now();
                while !complete() && begin.elapsed() < LAST_WORDS {
                    std::thread::sleep(Duration::from_millis(1));
                }
                break overdue(status, limit);
            }
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    if status.is_none() {
        let _ = child.wait();
    }
    let taken = |from: &Mutex<Collected>| std::mem::take(&mut lock(from).bytes);
    (end, taken(&stdout), taken(&stderr))
}

fn overdue(status: Option<ExitStatus>, limit: Duration) -> End {
    match status {
        None => End::Overdue(format!("still running after {limit:?}; killed")),
        Some(status) => End::Overdue(format!(
            "{status}, but after {limit:?} something it started still held its stdout or stderr, which a runtime \
             would wait for; killed"
        )),
    }
}

fn kill(child: &Child) {
    let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(group) = group {
        // It may have ended just now.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

/// As much of its output is kept: a plugin that writes without end is not to take all memory until its time is over.
const KEPT: usize = 16 << 20;

fn collect(pipe: Option<impl Read + Send + 'static>) -> Arc<Mutex<Collected>> {
    let collected = Arc::new(Mutex::new(Collected::default()));
    let shared = Arc::clone(&collected);
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        if let Some(mut pipe) = pipe {
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                let mut shared = lock(&shared);
                let room = KEPT - shared.bytes.len();
                shared.bytes.extend(&buffer[..length.min(room)]);
            }
        }
        lock(&shared).complete = true;
    });
    collected
}

fn lock(collected: &Mutex<Collected>) -> std::sync::MutexGuard<'_, Collected> {
    collected.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
