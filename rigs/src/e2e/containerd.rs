//! Debian's containerd, started on directories of its own; `ctr` and the CRI service to talk to it.
//!
//! It runs until the private node ends.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{cri::Cri, image, sandbox};
use xtask::program;

/// A running containerd that has the image.
pub(super) struct Containerd {
    directory: PathBuf,
    daemon: Child,
}

/// containerd's namespaces: that of `ctr`, and that of the CRI service.
const NAMESPACES: [&str; 2] = ["default", "k8s.io"];

impl Containerd {
    /// Starts it, waits until it answers, and imports the image.
    pub(super) fn start(directory: &Path) -> Result<Self> {
        let directory = directory.join("containerd");
        fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        let config = directory.join("config.toml");
        fs::write(&config, config_of(&directory))
            .with_context(|| format!("write {}", config.display()))?;
        let daemon = spawn(&directory)?;
        let mut this = Self { directory, daemon };
        this.wait_until_it_answers()?;
        let archive = this.directory.join("image.tar");
        image::write(&archive)?;
        for namespace in NAMESPACES {
            let mut import = this.ctr();
            import
                .args(["--namespace", namespace, "image", "import", "--snapshotter", "native"])
                .arg(&archive);
            program::capture(&mut import).with_context(|| this.last_words())?;
        }
        Ok(this)
    }

    /// Ends it and starts it again. Containers go on meanwhile.
    pub(super) fn restart(&mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .context("end containerd")?;
        self.daemon.wait().context("wait for containerd")?;
        self.daemon = spawn(&self.directory)?;
        self.wait_until_it_answers()
    }

    /// Its CRI service, as soon as that can start pods.
    pub(super) fn cri(&self) -> Result<Cri> {
        let cri = Cri::connect(&self.socket())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match cri.ready() {
                Ok(()) => return Ok(cri),
                Err(error) if Instant::now() > deadline => {
                    return Err(error
                        .context(format!("the CRI service is not ready; {}", self.last_words())));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("containerd.sock")
    }

    /// `ctr`, talking to this containerd.
    pub(super) fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.socket());
        command
    }

    /// The end of its log, for the message of a failure.
    pub(super) fn last_words(&self) -> String {
        let log = fs::read_to_string(self.directory.join(LOG)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = &lines[lines.len().saturating_sub(8)..];
        format!("containerd's log ends:\n  {}\n", end.join("\n  "))
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.daemon.try_wait().context("wait for containerd")? {
                bail!("containerd ended at its start ({status}); {}", self.last_words());
            }
            match program::capture(self.ctr().arg("version")) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(
                        error.context(format!("containerd does not answer; {}", self.last_words()))
                    );
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

const LOG: &str = "log";

fn spawn(directory: &Path) -> Result<Child> {
    let log = directory.join(LOG);
    let log = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("open {}", log.display()))?;
    Command::new("containerd")
        .arg("--config")
        .arg(directory.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start containerd")
}

/// What is not needed is left out, so that the start does not depend on what the machine has. The snapshotter `native`
/// copies, and so works on every file system.
fn config_of(directory: &Path) -> String {
    format!(
        r#"version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt",
    "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{directory}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
stream_server_address = "127.0.0.1"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{pod_networks}"
"#,
        directory = directory.display(),
        image = image::NAME,
        plugins = sandbox::PLUGINS,
        pod_networks = sandbox::POD_NETWORKS,
    )
}
