//! Calls of plugins as a container runtime makes them.
//!
//! [`Outcome`] compares the answer with what the test expects.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
    io::{Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{Container, Outcome, outcome::End, run::PRIVATE_VARIABLES};

/// Default time limit. It is long for busy machines, and because the kernel holds its lock for
/// links while it removes networks.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// Time for a killed process to close its output. A process that left the group may keep it open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A plugin that can be called. Made by [`Lab::plugin`](crate::Lab::plugin) and
/// [`Lab::install`](crate::Lab::install), and by [`Plugin::at`] where it needs no private network.
#[derive(Debug, Clone)]
pub struct Plugin {
    program: PathBuf,
    path: Vec<PathBuf>,
    variables: BTreeMap<String, OsString>,
    time_limit: Duration,
    /// Shared with its copies.
    overdue: Arc<AtomicUsize>,
    linked: Option<Linked>,
}

/// A function that answers calls.
#[derive(Clone)]
struct Linked(Arc<dyn Fn(&Process<'_>) -> Output + Send + Sync>);

impl fmt::Debug for Linked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a function")
    }
}

impl Plugin {
    /// Returns the plugin in this file, for calls that do not change a network. It finds other
    /// plugins in the directory of the file.
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
            linked: None,
        }
    }

    /// Returns a plugin in the test's own process: `answer` gets each call, instead of a program.
    /// A test can thus have the two halves of a plugin, such as a shim and its daemon, and debug,
    /// count or fail them. There is no time limit.
    ///
    /// ```
    /// use std::ffi::OsStr;
    /// use std::{os::unix::process::ExitStatusExt, process::{ExitStatus, Output}};
    /// use rscni_test::Plugin;
    ///
    /// let shim = Plugin::linked("my-shim", |call| {
    ///     // Here a shim asks the daemon, which runs in a thread of the test.
    ///     let command = call.environment[OsStr::new("CNI_COMMAND")].clone();
    ///     let stdout = if command == "VERSION" {
    ///         &br#"{"cniVersion":"1.1.0","supportedVersions":["1.1.0"]}"#[..]
    ///     } else {
    ///         &[]
    ///     };
    ///     Output { status: ExitStatus::from_raw(0), stdout: stdout.to_vec(), stderr: Vec::new() }
    /// });
    /// assert_eq!(shim.version().success()["supportedVersions"][0], "1.1.0");
    /// ```
    pub fn linked(
        name: &str,
        answer: impl Fn(&Process<'_>) -> Output + Send + Sync + 'static,
    ) -> Self {
        Self {
            program: name.into(),
            path: Vec::new(),
            variables: BTreeMap::new(),
            time_limit: TIME_LIMIT,
            overdue: Arc::default(),
            linked: Some(Linked(Arc::new(answer))),
        }
    }

    /// Adds `directory` to the directories of other plugins.
    pub(crate) fn finding_others_in(mut self, directory: PathBuf) -> Self {
        self.path.push(directory);
        self
    }

    /// Program file.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Sets the directories of other plugins (`CNI_PATH`).
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

    /// Sets the time limit of a call, after which the plugin is killed and the call fails. The
    /// default is two minutes.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Number of calls that reached the time limit so far, of this plugin and its copies.
    pub fn overdue_calls(&self) -> usize {
        self.overdue.load(Ordering::SeqCst)
    }

    /// ADD: attach `container` to the network as `ifname`.
    pub fn add(&self, container: &Container, ifname: &str, config: &Value) -> Outcome {
        self.call("ADD").attachment(container, ifname).config(config).run()
    }

    /// CHECK: `config` holds the result of ADD as `prevResult`, see
    /// [`Reply::follow`](crate::Reply::follow).
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

    /// Returns a call without variables, for tests of what a runtime should not do.
    pub fn call(&self, command: &str) -> Call<'_> {
        let mut variables = self.variables.clone();
        variables.insert("CNI_COMMAND".to_owned(), command.into());
        variables
            .insert("CNI_PATH".to_owned(), std::env::join_paths(&self.path).unwrap_or_default());
        Call { plugin: self, variables, stdin: Vec::new(), alone: false }
    }
}

/// A call of a plugin before it runs. Unset variables are absent.
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

    /// Removes a variable, such as `CNI_NETNS` of a DEL.
    pub fn without(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    /// Passes only `PATH` and the variables of the call.
    ///
    /// Tunables of glibc and Go are passed too, because User-Mode Linux may need them.
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Sets the configuration on stdin.
    pub fn config(self, config: &Value) -> Self {
        self.stdin(config.to_string())
    }

    /// Sets the bytes on stdin.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Starts the plugin in the calling thread's network namespace. Waits until it has exited and
    /// closed its output, as a runtime does.
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

    /// Runs the plugin, where it is not certain that the program can be started.
    ///
    /// # Errors
    ///
    /// If the program cannot be started.
    pub fn try_run(self) -> std::io::Result<Outcome> {
        if let Some(Linked(answer)) = &self.plugin.linked {
            return self.run_with(|process| Ok(answer(process)));
        }
        let limit = self.plugin.time_limit;
        let overdue = &self.plugin.overdue;
        self.finish(|process| {
            let mut command = process.command();
            // A process group, so that what a plugin has started can be killed with it.
            command.process_group(0);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let ended = finish(command.spawn()?, process.stdin.to_vec(), limit);
            if matches!(ended.0, End::Overdue(_)) {
                overdue.fetch_add(1, Ordering::SeqCst);
            }
            Ok(ended)
        })
    }

    /// Runs the plugin with `start`, which may wrap the process, trace it or measure its time.
    /// `start` gives the process its stdin, waits for it and returns its output. The time limit is
    /// up to it.
    ///
    /// ```
    /// # use rscni_test::Plugin;
    /// let mut time = Default::default();
    /// let outcome = Plugin::at("/bin/true").call("DEL").alone().run_with(|process| {
    ///     let start = std::time::Instant::now();
    ///     let output = process.command().output();
    ///     time = start.elapsed();
    ///     output
    /// });
    /// outcome.unwrap().success();
    /// ```
    ///
    /// # Errors
    ///
    /// Errors of `start`.
    pub fn run_with<E>(
        self,
        start: impl FnOnce(&Process<'_>) -> Result<Output, E>,
    ) -> Result<Outcome, E> {
        self.finish(|process| {
            let output = start(process)?;
            Ok((End::Exited(output.status), output.stdout, output.stderr))
        })
    }

    fn finish<E>(
        self,
        start: impl FnOnce(&Process<'_>) -> Result<(End, Vec<u8>, Vec<u8>), E>,
    ) -> Result<Outcome, E> {
        let process = Process {
            program: &self.plugin.program,
            environment: self.environment(),
            stdin: &self.stdin,
        };
        let (end, stdout, stderr) = start(&process)?;
        let program = self.plugin.program.clone();
        let (variables, stdin) = (self.variables, self.stdin);
        Ok(Outcome { program, variables, stdin, stdout, stderr, end })
    }

    /// The variables of this process that the plugin inherits, and those of the call.
    fn environment(&self) -> BTreeMap<OsString, OsString> {
        let is_passed_on = |(name, _): &(OsString, OsString)| {
            let name = name.to_string_lossy();
            let is_kept = !self.alone || ["PATH", "GLIBC_TUNABLES", "GODEBUG"].contains(&&*name);
            is_kept && !name.starts_with("CNI_") && !name.starts_with(PRIVATE_VARIABLES)
        };
        let own = self.variables.iter().map(|(name, value)| (name.into(), value.clone()));
        std::env::vars_os().filter(is_passed_on).chain(own).collect()
    }
}

/// The process of a call before it is started.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Process<'a> {
    /// The program.
    pub program: &'a Path,
    /// The complete environment.
    pub environment: BTreeMap<OsString, OsString>,
    /// The bytes for its stdin.
    pub stdin: &'a [u8],
}

impl Process<'_> {
    /// Returns a command that starts the program with this environment. Its streams are not set.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.env_clear().envs(&self.environment);
        command
    }
}

/// Output that a thread has read from a pipe so far, and whether it is complete.
#[derive(Default)]
struct Collected {
    bytes: Vec<u8>,
    complete: bool,
}

fn finish(mut child: Child, stdin: Vec<u8>, limit: Duration) -> (End, Vec<u8>, Vec<u8>) {
    let deadline = Instant::now() + limit;
    if let Some(mut pipe) = child.stdin.take() {
        // A plugin need not read everything.
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
                // Output before the kill is still in the pipes.
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
        // The process may have just exited.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

/// Maximum output that is kept, for plugins that write without end.
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
