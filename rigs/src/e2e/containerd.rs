//! Debian's containerd with its own directories, and its clients `ctr` and the CRI service.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use fs_err as fs;
use xtask::program;

use super::{cri::Cri, image, sandbox};
use crate::daemon::{Daemon, until_ok};

/// A running containerd that has the image.
pub(super) struct Containerd {
    directory: PathBuf,
    daemon: Daemon,
}

/// containerd's namespaces for `ctr` and for the CRI service.
const NAMESPACES: [&str; 2] = ["default", "k8s.io"];

/// Timeout of the start and the end on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

impl Containerd {
    /// Starts containerd, and imports the image.
    pub(super) fn start(directory: &Path) -> Result<Self> {
        let directory = directory.join("containerd");
        fs::create_dir(&directory)?;
        fs::write(directory.join("config.toml"), config(&directory))?;
        let mut this = Self { daemon: spawn(&directory)?, directory };
        this.wait_until_ready()?;
        let archive = this.directory.join("image.tar");
        image::write(&archive)?;
        for namespace in NAMESPACES {
            let mut import = this.ctr();
            import.args(["--namespace", namespace, "image", "import", "--snapshotter", "native"]);
            program::capture(import.arg(&archive)).with_context(|| this.log())?;
        }
        Ok(this)
    }

    /// Stops and starts containerd. Containers continue to run.
    pub(super) fn restart(&mut self) -> Result<()> {
        self.daemon.stop(TIMEOUT)?;
        self.daemon = spawn(&self.directory)?;
        self.wait_until_ready()
    }

    /// Its CRI service, once it can start pods.
    pub(super) fn cri(&self) -> Result<Cri> {
        let cri = Cri::at(&self.socket())?;
        until_ok(TIMEOUT, || cri.ready())
            .with_context(|| format!("the CRI service is not ready; {}", self.log()))?;
        Ok(cri)
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("containerd.sock")
    }

    /// `ctr`, connected to this containerd.
    pub(super) fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.socket());
        command
    }

    /// The end of its log, for the message of a failure.
    pub(super) fn log(&self) -> String {
        self.daemon.log()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let mut version = self.ctr();
        version.arg("version");
        self.daemon.wait_until(TIMEOUT, || program::capture(&mut version)).map(drop)
    }
}

fn spawn(directory: &Path) -> Result<Daemon> {
    let mut command = Command::new("containerd");
    command.arg("--config").arg(directory.join("config.toml"));
    Daemon::start("containerd", &mut command, directory.join("log"))
}

/// Disables plugins that depend on the machine. The snapshotter `native` copies, so it works on
/// every file system.
fn config(directory: &Path) -> String {
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
