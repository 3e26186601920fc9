//! Debian's containerd, started on directories of its own, and `ctr` to talk to it.
//!
//! It runs until the private node ends; nothing here stops it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::image;
use crate::program;

/// A running containerd that has the image.
pub(super) struct Containerd {
    socket: PathBuf,
    log: PathBuf,
}

impl Containerd {
    /// Starts it, waits until it answers, and imports the image.
    pub(super) fn start(directory: &Path) -> Result<Self> {
        let directory = directory.join("containerd");
        fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        let this = Self { socket: directory.join("containerd.sock"), log: directory.join("log") };
        let config = directory.join("config.toml");
        fs::write(&config, this.config(&directory)).with_context(|| format!("write {}", config.display()))?;
        let log = File::create(&this.log).with_context(|| format!("create {}", this.log.display()))?;
        let mut daemon = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start containerd")?;
        this.wait_until_it_answers(&mut daemon)?;
        let archive = directory.join("image.tar");
        image::write(&archive)?;
        program::capture(this.ctr().args(["image", "import", "--snapshotter", "native"]).arg(&archive))
            .with_context(|| this.last_words())?;
        Ok(this)
    }

    /// `ctr`, talking to this containerd.
    pub(super) fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket);
        command
    }

    /// The end of its log, for the message of a failure.
    pub(super) fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = &lines[lines.len().saturating_sub(8)..];
        format!("containerd's log ends:\n  {}\n", end.join("\n  "))
    }

    /// What is not needed is left out, so that the start does not depend on what the machine has. The snapshotter
    /// is chosen with each command: `native` copies, and so works on every file system.
    fn config(&self, directory: &Path) -> String {
        format!(
            "version = 2\n\
             root = \"{directory}/root\"\n\
             state = \"{directory}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.aufs\", \
             \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.devmapper\", \
             \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.internal.v1.opt\", \
             \"io.containerd.tracing.processor.v1.otlp\"]\n\
             [grpc]\n  address = \"{socket}\"\n",
            directory = directory.display(),
            socket = self.socket.display(),
        )
    }

    fn wait_until_it_answers(&self, daemon: &mut Child) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = daemon.try_wait().context("wait for containerd")? {
                bail!("containerd ended at its start ({status}); {}", self.last_words());
            }
            match program::capture(self.ctr().arg("version")) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("containerd does not answer; {}", self.last_words())));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}
