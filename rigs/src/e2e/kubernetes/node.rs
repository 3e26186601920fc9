//! A node: containerd, kubelet and kube-proxy in namespaces that only the node's disks outlive.
//!
//! The first process of the node's process namespace is this program ([`run_first`]). Its end is
//! the power failure of the node: all processes, mounts and network namespaces go with it.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use nix::sys::signal::{SigSet, Signal};
use rscni_test::Container;
use rustix::{
    mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount},
    process::{WaitOptions, wait},
};
use serde_json::json;
use xtask::program;

use super::{
    CLUSTER, PROGRAMS, RIG,
    control_plane::PODS,
    images,
    lan::{self, Machine},
    site,
};
use crate::{
    daemon::{Daemon, until_ok},
    e2e::{cri::Cri, image, sandbox},
    mounts::mount,
};

/// Name of the hidden command of the first process.
pub(crate) const FIRST: &str = "e2e-kubernetes-node";

/// Arguments of the hidden command.
#[derive(clap::Args)]
pub(crate) struct FirstOptions {
    name: String,
}

/// Timeout of a start on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(180);

/// The directories of a node that are on its disks, and where the node has them.
const DISKS: [(&str, &str); 5] = [
    ("var-lib", "/var/lib"),
    ("var-log", "/var/log"),
    ("opt", "/opt"),
    ("etc-cni", "/etc/cni"),
    ("tmp", "/tmp"),
];

/// File that exists once the mounts of the node are complete.
const BOOTED: &str = "/run/booted";

/// A program of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Containerd,
    Kubelet,
    Proxy,
}

const PARTS: [Part; 3] = [Part::Containerd, Part::Kubelet, Part::Proxy];

/// A node that runs.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) machine: Machine,
    /// Group of the cluster below each hierarchy.
    cgroup: String,
    /// Its process holds the namespaces.
    namespaces: Daemon,
    daemons: Vec<(Part, Daemon)>,
}

impl Node {
    /// Name of a node, counted from 1.
    pub(super) fn name(index: u8) -> String {
        format!("n{index}")
    }

    /// Starts a node with empty disks. `cgroup` is the group of the cluster.
    pub(super) fn start(index: u8, cgroup: &str) -> Result<Self> {
        let name = Self::name(index);
        let disks = disks(&name);
        for (disk, _) in DISKS {
            fs::create_dir_all(disks.join(disk))?;
        }
        for directory in ["etc-cni/net.d", "opt/cni/bin"] {
            fs::create_dir_all(disks.join(directory))?;
        }
        fs::write(disks.join("containerd.toml"), containerd_configuration(&disks)?)?;
        let group = format!("/{cgroup}/{name}");
        fs::write(disks.join("kubelet.json"), kubelet_configuration(&group))?;
        fs::write(disks.join("proxy.json"), proxy_configuration(&name))?;
        make_cgroup(&[cgroup, &name])?;
        let mut node = Self {
            namespaces: boot(&name)?,
            machine: Machine::of_node(index),
            cgroup: cgroup.to_owned(),
            name,
            daemons: Vec::new(),
        };
        node.connect()?;
        node.start_part(Part::Containerd)?;
        images::import(&node, &images::directory())?;
        node.start_part(Part::Kubelet)?;
        node.start_part(Part::Proxy)?;
        Ok(node)
    }

    /// Ends everything that runs on the node, and boots it again with its disks.
    pub(super) fn reboot(&mut self) -> Result<()> {
        self.daemons.clear();
        self.namespaces.kill();
        for hierarchy in site::hierarchies()? {
            let group = hierarchy.join(&self.cgroup).join(&self.name);
            until_ok(TIMEOUT, || site::remove_cgroup(&group))?;
        }
        make_cgroup(&[&self.cgroup, &self.name])?;
        self.namespaces = boot(&self.name)?;
        // The old link disappears some time after its namespace.
        until_ok(TIMEOUT, || self.connect())?;
        PARTS.into_iter().try_for_each(|part| self.start_part(part))
    }

    /// Kills a program of the node.
    pub(super) fn kill(&mut self, part: Part) {
        self.daemons.retain(|(other, _)| *other != part);
    }

    /// Starts a program, and waits until it is ready if another one needs it.
    pub(super) fn start_part(&mut self, part: Part) -> Result<()> {
        let (program, options) = match part {
            Part::Containerd => ("containerd", "-c DISKS/containerd.toml".to_owned()),
            Part::Kubelet => (
                "kubelet",
                format!(
                    "--config DISKS/kubelet.json --kubeconfig {CLUSTER}/{name}.conf \
                     --hostname-override {name} --node-ip {},{} -v 1",
                    self.machine.ipv4(),
                    self.machine.ipv6(),
                    name = self.name,
                ),
            ),
            Part::Proxy => ("kube-proxy", "--config DISKS/proxy.json".to_owned()),
        };
        let disks = disks(&self.name);
        // This namespace sees the end of `nsenter` and not that of its child.
        let mut command = self.command("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(Path::new(PROGRAMS).join(program));
        command.args(options.replace("DISKS", &disks.display().to_string()).split_whitespace());
        let name = format!("{program} of {}", self.name);
        let daemon = Daemon::start(&name, &mut command, disks.join(format!("{program}.log")))?;
        self.daemons.push((part, daemon));
        if part == Part::Containerd {
            until_ok(TIMEOUT, || self.cri().and_then(|cri| cri.version())).with_context(|| {
                format!("containerd of {} is not ready; {}", self.name, self.log(part))
            })?;
        }
        Ok(())
    }

    /// The end of a program's log.
    pub(super) fn log(&self, part: Part) -> String {
        let daemon = self.daemons.iter().find(|(other, _)| *other == part);
        daemon.map_or_else(|| format!("{part:?} does not run"), |(_, daemon)| daemon.log())
    }

    /// containerd's CRI service.
    pub(super) fn cri(&self) -> Result<Cri> {
        Cri::at(&self.path("/run/containerd/containerd.sock"))
    }

    /// A command in all namespaces of the node.
    pub(super) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(self.entrance().split(' ')).arg("--").arg(program.as_ref());
        command.env("PATH", format!("{PROGRAMS}:/usr/sbin:/usr/bin:/sbin:/bin"));
        command
    }

    /// Runs a command line on the node, whose words are separated by single spaces.
    pub(super) fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split(' ');
        let mut command = self.command(words.next().unwrap_or_default());
        program::capture(command.args(words))
    }

    /// A path of the node, seen from outside.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.namespaces.id()))
    }

    /// The node's network namespace.
    pub(super) fn network(&self) -> Container {
        Container::at(&self.name, format!("/proc/{}/ns/net", self.namespaces.id()))
    }

    /// Writes a script that enters the node, for a kept cluster.
    pub(super) fn write_entrance(&self) -> Result<()> {
        let script =
            format!("[ $# -gt 0 ] || set -- sh\nexec nsenter {} -- \"$@\"\n", self.entrance());
        Ok(fs::write(disks(&self.name).join("enter"), script)?)
    }

    /// The options of `nsenter`.
    fn entrance(&self) -> String {
        let process = self.namespaces.id();
        format!(
            "--target {process} --mount --net --uts --ipc \
             --pid=/proc/{process}/ns/pid_for_children"
        )
    }

    fn connect(&self) -> Result<()> {
        let process = self.namespaces.id();
        lan::connect(self.machine, &process.to_string(), &format!("--target {process} --net"))
    }
}

/// The directory of a node's disks, configurations and logs.
fn disks(name: &str) -> PathBuf {
    Path::new(CLUSTER).join(name)
}

/// Starts the first process of a node, and waits until the mounts are complete.
fn boot(name: &str) -> Result<Daemon> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]);
    command.args(["--mount-proc", "--propagation", "private", RIG, FIRST, name]);
    let log = disks(name).join("boot.log");
    let mut namespaces = Daemon::start(name, &mut command, log)?;
    let booted = PathBuf::from(format!("/proc/{}/root{BOOTED}", namespaces.id()));
    namespaces.wait_until(TIMEOUT, || {
        let name = fs::read_to_string(&booted)?;
        ensure!(!name.is_empty(), "its mounts are not complete");
        Ok(())
    })?;
    Ok(namespaces)
}

/// Sets up the node, and reaps processes until it is killed.
pub(crate) fn run_first(options: &FirstOptions) -> Result<std::process::ExitCode> {
    if !rustix::process::getpid().is_init() {
        bail!("{FIRST} is started by `cargo xtask e2e kubernetes` and does nothing elsewhere");
    }
    let mut child_ended = SigSet::empty();
    child_ended.add(Signal::SIGCHLD);
    child_ended.thread_block().context("block SIGCHLD")?;
    rustix::system::sethostname(options.name.as_bytes()).context("set the host name")?;
    let disks = disks(&options.name);
    for (disk, target) in DISKS {
        let disk = disks.join(disk);
        mount_bind(&disk, target)
            .with_context(|| format!("bind {} to {target}", disk.display()))?;
    }
    mount("tmpfs", Path::new("/run"), "mode=755")?;
    sandbox::renew_sys(Path::new("/run/cgroup"))?;
    // kubelet finds each hierarchy once.
    unmount("/run/cgroup", UnmountFlags::DETACH).context("unmount /run/cgroup")?;
    hide_settings()?;
    // Volumes with propagation need it.
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    mount_change("/", shared).context("share the mounts")?;
    fs::create_dir("/run/netns")?;
    fs::write(BOOTED, &options.name)?;
    loop {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        child_ended.wait().context("wait for SIGCHLD")?;
    }
}

/// Settings of the machine that kubelet changes.
const SETTINGS: [&str; 6] = [
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];

/// Mounts files of the node over settings of the machine. A boot has an id of its own, by which
/// kubelet notices it.
fn hide_settings() -> Result<()> {
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let mut settings = vec![("kernel/random/boot_id", id)];
    for name in SETTINGS {
        settings.push((name, fs::read_to_string(format!("/proc/sys/{name}"))?));
    }
    for (name, value) in settings {
        let file = format!("/run/setting-{}", name.replace('/', "-"));
        fs::write(&file, value)?;
        mount_bind(&file, format!("/proc/sys/{name}")).with_context(|| format!("hide {name}"))?;
    }
    Ok(())
}

/// Makes a group in each hierarchy. Version 1 gives a new group no processors and no memory.
fn make_cgroup(path: &[&str]) -> Result<()> {
    for hierarchy in site::hierarchies()? {
        let mut group = hierarchy;
        for name in path {
            let parent = group.clone();
            group.push(name);
            fs::create_dir_all(&group)?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let is_version_1 = !parent.join("cgroup.subtree_control").exists();
                if is_version_1 && group.join(file).exists() {
                    fs::write(group.join(file), fs::read(parent.join(file))?)?;
                }
            }
        }
    }
    Ok(())
}

/// The snapshotter `native` copies; overlayfs does not work on another overlay.
fn containerd_configuration(disks: &Path) -> Result<String> {
    const OVERLAY: i64 = 0x794c_7630;
    let is_overlay = rustix::fs::statfs(disks)?.f_type == OVERLAY;
    let snapshotter = if is_overlay { "native" } else { "overlayfs" };
    let mut text = String::from("version = 3\n");
    for (table, lines) in [
        ("metrics", r#"address = "127.0.0.1:1338""#.to_owned()),
        (r#"plugins."io.containerd.cri.v1.images""#, format!("snapshotter = \"{snapshotter}\"")),
        (
            r#"plugins."io.containerd.cri.v1.images".pinned_images"#,
            format!("sandbox = \"{}\"", image::NAME),
        ),
        (
            r#"plugins."io.containerd.cri.v1.runtime""#,
            "restrict_oom_score_adj = true\ndisable_apparmor = true".to_owned(),
        ),
        (
            r#"plugins."io.containerd.cri.v1.runtime".cni"#,
            "bin_dirs = [\"/opt/cni/bin\"]\nconf_dir = \"/etc/cni/net.d\"\nmax_conf_num = 1"
                .to_owned(),
        ),
        (r#"plugins."io.containerd.nri.v1.nri""#, "disable = true".to_owned()),
    ] {
        writeln!(text, "[{table}]\n{lines}")?;
    }
    Ok(text)
}

fn kubelet_configuration(cgroup: &str) -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "clusterDNS": ["10.96.0.53"],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "failCgroupV1": false,
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        // It tolerates that sysctls and the log of the kernel are not the node's.
        "featureGates": {"KubeletInUserNamespace": true},
        "makeIPTablesUtilChains": false,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "50Mi"},
        "maxPods": 250,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "shutdownGracePeriod": "0s",
    })
    .to_string()
}

fn proxy_configuration(node: &str) -> String {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node,
        "clientConnection": {"kubeconfig": format!("{CLUSTER}/proxy.conf")},
        "clusterCIDR": PODS.join(","),
        // These settings are the machine's.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    })
    .to_string()
}
