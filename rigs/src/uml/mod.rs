//! `cargo xtask uml -- COMMAND ARGS`: runs a command inside User-Mode Linux, a Linux kernel that is
//! an ordinary program, and returns its exit code.
//!
//! It has link kinds and options that the running kernel may lack: dummy, 802.1Q, ipvlan, macvlan,
//! vrf, bridge VLAN filtering. It needs no root and no network. This module boots the kernel, shows
//! the output and enforces the time limit. [`mod@init`] is the first process inside, [`tests`]
//! finds and runs the test programs.
//!
//! # Inside
//!
//! - Debian's kernel 6.1 on one CPU; boot and shutdown take about three seconds.
//! - The host's files are at the same paths, mounted read-only (hostfs) below an overlay in memory.
//!   Changes are gone at the end.
//! - The command runs as root with every capability, in the directory and with the environment of
//!   the caller. For the host it remains the caller: files that the caller cannot read are
//!   unreadable inside too.
//! - The module of a link kind is loaded when first needed. User namespaces and veth work; nftables
//!   and iptables do not, since the kernel has no NAT.
//! - Test programs run as on a machine that runs containers: forwarding is on, and there is a named
//!   network namespace.
//! - The only device is `lo`, and it is up. The console is the command's output; there is no input.
//!
//! # Pitfalls
//!
//! - After a SIGKILL, User-Mode Linux leaves helper processes behind; after a SIGTERM it ends them.
//! - In a user namespace that maps only the caller, set-user-id programs of the host belong to
//!   `nobody`, and `mount`, `su` and others lose root inside. So it is started without a user
//!   namespace.
//! - It creates `~/.uml` unless `uml_dir=` is given.
//! - On a processor with AMX it ends at once, unless a filter hides the registers: see
//!   [`mod@start`].

mod init;
mod start;
mod tests;

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use fs_err as fs;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use xtask::{packages, program};

pub(crate) use init::{INIT, InitOptions, run as init};
pub(crate) use start::{START, StartOptions, run as start};
pub(crate) use tests::run as run_tests;

/// Time limit for a command that hangs.
const TIME_LIMIT: Duration = Duration::from_secs(900);

/// The command to run inside.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// A command to run inside, as a file in the directory that both sides see.
#[derive(Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) command: Vec<String>,
    pub(crate) directory: PathBuf,
    /// Directory whose changes remain on the host.
    pub(crate) writable: Option<PathBuf>,
    /// Whether the machine runs containers: forwarding is on, and there is a named network
    /// namespace.
    pub(crate) in_use: bool,
    pub(crate) limit: Duration,
    pub(crate) environment: BTreeMap<String, String>,
}

/// Names of files in the directory that both sides see.
const JOB: &str = "job.json";
const EXIT_CODE: &str = "exit-code";

/// Runs the command and ends with its exit code.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    packages::ensure("User-Mode Linux", packages::FOR_UML)?;
    let directory = std::env::current_dir().context("find the current directory")?;
    let job = Job::new(options.command.clone(), &directory);
    let code = job.run(&mut |line| println!("{line}"))?;
    Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
}

impl Job {
    pub(crate) fn new(command: Vec<String>, directory: &Path) -> Self {
        // Variables that are not UTF-8 cannot be part of the JSON.
        let variables = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        let mut environment: BTreeMap<String, String> = variables.collect();
        if !std::io::stdout().is_terminal() {
            // The console inside is a terminal, but the output outside is not.
            environment.insert("TERM".to_owned(), "dumb".to_owned());
        }
        let tunables = start::tunables().iter();
        environment.extend(tunables.map(|(name, value)| (name.to_string(), value.to_string())));
        Self {
            command,
            directory: directory.to_owned(),
            writable: None,
            in_use: false,
            limit: TIME_LIMIT,
            environment,
        }
    }

    /// Runs the command inside User-Mode Linux and returns its exit code. Each line of its output
    /// (stdout and stderr are one stream) goes to `on_line`.
    ///
    /// # Errors
    ///
    /// If the kernel ends without a result, or exceeds the time limit.
    pub(crate) fn run(&self, on_line: &mut dyn FnMut(&str)) -> Result<i32> {
        // The kernel's command line splits at spaces, so the path may not contain any.
        let shared = program::temporary_directory("uml")?;
        let shared = shared.path();
        program::copy_self(&shared.join("init"))?;
        for directory in [init::SCRATCH, "uml"] {
            fs::create_dir(shared.join(directory))?;
        }
        fs::write(shared.join(JOB), serde_json::to_vec(self)?)?;
        boot(shared, self.limit, on_line)?;
        let Ok(code) = fs::read_to_string(shared.join(EXIT_CODE)) else {
            bail!("User-Mode Linux ended before the command `{}` did", self.command.join(" "));
        };
        code.trim().parse().with_context(|| format!("read the exit code {code:?}"))
    }
}

fn boot(shared: &Path, limit: Duration, on_line: &mut dyn FnMut(&str)) -> Result<()> {
    let mut command = Command::new(shared.join("init"));
    let shared = shared.display();
    command
        .args([start::START, "setpriv"])
        // Ends the kernel if this process is killed.
        .args(["--pdeathsig", "TERM", "linux.uml"])
        .args(["mem=1G", "rootfstype=hostfs", "rootflags=/", "ro"])
        // No boot messages and no input, only the output of the command.
        .args(["con=null", "con0=null,fd:1", "ssl=null", "quiet", "loglevel=1"])
        .arg(format!("uml_dir={shared}/uml"))
        .arg(format!("init={shared}/init"))
        // Words that the kernel does not know become variables of init if they contain a `=`, else
        // arguments. They may not follow `--`: User-Mode Linux appends `root=`, which would become
        // an argument.
        .args(start::tunables().iter().take(1).map(|(name, value)| format!("{name}={value}")))
        .args([init::INIT, &shared.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // The kernel's notes about the host go to stderr, and look like errors.
        .stderr(Stdio::null());
    let mut child =
        command.spawn().with_context(|| format!("start `{}`", program::shown(&command)))?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let pid = Pid::from_child(&child);
    let (done, is_done) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let is_running =
            |limit| is_done.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
        let is_late = is_running(limit);
        if is_late {
            // Not SIGKILL at once: see the pitfalls of this module.
            let _ = kill_process(pid, Signal::TERM);
            if is_running(Duration::from_secs(10)) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        is_late
    });
    let read = program::each_line(stdout, on_line);
    let status = child.wait().context("wait for User-Mode Linux")?;
    drop(done);
    if watchdog.join().expect("the watchdog does not panic") {
        bail!("User-Mode Linux ran for more than {} seconds and was ended", limit.as_secs());
    }
    read.context("read the console of User-Mode Linux")?;
    if !status.success() {
        bail!("User-Mode Linux ended with {status}");
    }
    Ok(())
}
