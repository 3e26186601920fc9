//! `cargo xtask e2e kubernetes`: a Kubernetes cluster whose pods are attached by the plugins. Needs
//! root.
//!
//! - [`programs`] builds Kubernetes, etcd, containerd and `CoreDNS` from Go modules.
//! - [`site`] has the directory, processes and control groups of the cluster, and removes them.
//! - [`lan`] is the network between the machines, [`control_plane`] and [`node`] are the machines,
//!   [`cluster`] is all of them.
//! - [`pod_network`] makes the nodes ready for pods.
//! - [`flannel`] runs flanneld on a node instead.
//! - [`measure`] compares the plugins with the Go plugins. [`upstream`] runs Kubernetes' own tests.
//! - [`scenarios`] are the tests. They use [`kubectl`], [`pods`], [`leaks`] and
//!   [`replaced`].
//!
//! In the cluster's namespaces, `/mnt` has everything that the machines need.

mod cluster;
mod control_plane;
mod flannel;
mod images;
mod kubectl;
mod lan;
mod leaks;
mod measure;
pub(crate) mod node;
mod pod_network;
mod pods;
mod programs;
mod replaced;
mod scenarios;
mod site;
mod traffic;
mod upstream;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use fs_err as fs;
use rustix::mount::{mount_bind, mount_bind_recursive};
use xtask::{dist, go, packages, program, tally::Tally};

use self::{cluster::Cluster, pod_network::Network, scenarios::Scenario, site::Site};
use super::report;
use crate::mounts::{mount, mount_overlay};

/// Name of the hidden command.
pub(crate) const INSIDE: &str = "e2e-kubernetes-inside";

/// Paths in the cluster's namespaces: the cluster's directory, its programs, and this program.
const CLUSTER: &str = "/mnt/cluster";
const PROGRAMS: &str = "/mnt/programs";
const RIG: &str = "/mnt/cluster/rigs";

/// Directory of the Go plugins in the cluster's directory.
const GO_PLUGINS: &str = "go-plugins";

/// Name of the node daemon. A copy in the cluster's directory runs without a pod.
const RSCNID: &str = "rscnid";

/// The debug plugins: names of packages and programs.
const DEBUG_PLUGINS: [&str; 2] = ["rscni-debug", "async-rscni-debug"];

/// Time limit for a run that hangs.
const TIME_LIMIT: Duration = Duration::from_secs(2400);

/// The cluster and its scenarios.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Option<Action>,
    /// Number of nodes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=5))]
    nodes: u8,
    #[command(flatten)]
    scenarios: scenarios::Selection,
    /// Leave the cluster running.
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    cache: Cache,
    /// Instead of the scenarios, measure the network of pods with these and the Go plugins.
    #[arg(long)]
    measure: bool,
    /// Instead of the scenarios, run Kubernetes' own end-to-end tests with this pod network.
    #[arg(
        long,
        value_name = "NETWORK",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "rscnid",
        conflicts_with = "measure"
    )]
    upstream: Option<Network>,
}

/// The place of the programs.
#[derive(clap::Args)]
struct Cache {
    /// The directory for programs that are built once [default: that of the other rigs].
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

impl Cache {
    fn directory(&self) -> Result<PathBuf> {
        self.cache.as_ref().map_or_else(go::cache, |named| Ok(std::path::absolute(named)?))
    }
}

#[derive(Subcommand)]
enum Action {
    /// Build the programs of the cluster, and nothing else.
    Build(Cache),
    /// Remove clusters that were kept.
    Down,
}

/// Arguments of the hidden command.
#[derive(clap::Args)]
pub(crate) struct InsideOptions {
    directory: PathBuf,
    programs: PathBuf,
    #[arg(long)]
    nodes: u8,
    #[arg(long)]
    keep: bool,
    #[arg(long)]
    measure: bool,
    /// The directory of the upstream tests.
    #[arg(long)]
    upstream: Option<PathBuf>,
    #[arg(long, default_value = "rscnid")]
    network: Network,
    #[command(flatten)]
    scenarios: scenarios::Selection,
}

/// Builds the programs, and runs the scenarios in a new cluster.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if let Some(Action::Build(cache)) = &options.action {
        go::toolchain()?;
        programs::cluster(&cache.directory()?)?;
        go::plugins(None)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !program::is_root() {
        bail!(
            "the Kubernetes cluster needs root, for namespaces and control groups; type:\n\n    \
             sudo --preserve-env=PATH cargo xtask e2e kubernetes\n"
        );
    }
    if matches!(options.action, Some(Action::Down)) {
        site::remove_all()?;
        return Ok(ExitCode::SUCCESS);
    }
    go::toolchain()?;
    packages::ensure("the Kubernetes cluster", packages::FOR_KUBERNETES)?;
    if options.measure {
        packages::ensure("the measurement", &[packages::STRACE])?;
    }
    let cache = options.cache.directory()?;
    let programs = programs::cluster(&cache)?;
    let go_plugins = go::plugins(None)?;
    let tests = if options.upstream.is_some() {
        packages::ensure("the upstream tests", packages::FOR_UPSTREAM_KUBERNETES)?;
        Some(programs::upstream_tests(&cache)?)
    } else {
        None
    };
    let runs_flannel = match options.upstream {
        Some(network) => network == Network::Flannel,
        None => !options.measure && options.scenarios.includes(Scenario::Flannel),
    };
    let flannel = if runs_flannel { flannel::build()? } else { Vec::new() };
    let (image, _) = xtask::image::build()?;
    let mut built = Vec::new();
    for name in DEBUG_PLUGINS {
        built.push((name, dist::build(name, name)?));
    }
    let rscnid = dist::build(RSCNID, RSCNID)?;
    let site = Site::new(options.keep)?;
    fs::copy(rscnid, site.directory().join(RSCNID))?;
    let plugins = site.directory().join("plugins");
    fs::create_dir(&plugins)?;
    for (name, program) in built {
        fs::copy(program, plugins.join(name))?;
    }
    let directory = site.directory().join(flannel::DIRECTORY);
    fs::create_dir(&directory)?;
    for (name, program) in flannel {
        fs::copy(program, directory.join(name))?;
    }
    let images = site.directory().join(images::DIRECTORY);
    fs::create_dir(&images)?;
    fs::copy(image, images.join("rscni.tar"))?;
    // The workspace may be hidden in the cluster's namespaces.
    copy(&go_plugins, &site.directory().join(GO_PLUGINS))?;
    copy(&program::workspace_root().join("deploy"), &site.directory().join("deploy"))?;
    let rig = site.directory().join("rigs");
    program::copy_self(&rig)?;
    let nodes = options.nodes.to_string();
    let path = |path: &Path| path.to_str().map(str::to_owned).context("a path is not UTF-8");
    let (directory, programs) = (path(site.directory())?, path(&programs)?);
    let tests = tests.as_deref().map(path).transpose()?;
    let mut arguments = vec![INSIDE, &directory, &programs, "--nodes", &nodes];
    let scenarios = options.scenarios.arguments();
    arguments.extend(scenarios.iter().map(String::as_str));
    if options.keep {
        arguments.push("--keep");
    }
    if options.measure {
        arguments.push("--measure");
    }
    if let Some(tests) = &tests {
        arguments.extend(["--upstream", tests]);
    }
    if options.upstream == Some(Network::Flannel) {
        arguments.extend(["--network", "flannel"]);
    }
    let passed = site.run(&rig, &arguments)?;
    if options.keep {
        site.write_entrances()?;
        println!(
            "the cluster stays:\n  \
             {directory}/kubectl get pods -A      kubectl\n  \
             {directory}/node n1                  a shell in a node\n  \
             cargo xtask e2e kubernetes down      removes it"
        );
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Copies the files of a directory into a new one.
fn copy(source: &Path, target: &Path) -> Result<()> {
    fs::create_dir(target)?;
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        fs::copy(entry.path(), target.join(entry.file_name()))?;
    }
    Ok(())
}

/// Runs the scenarios in the cluster's namespaces.
pub(crate) fn run_inside(options: &InsideOptions) -> Result<ExitCode> {
    if !rustix::process::getpid().is_init() {
        bail!("{INSIDE} is started by `cargo xtask e2e kubernetes` and does nothing elsewhere");
    }
    site::accept_signals()?;
    if !options.keep {
        std::thread::spawn(|| {
            std::thread::sleep(TIME_LIMIT);
            println!("FAILED  not done after {} seconds", TIME_LIMIT.as_secs());
            // The end of the first process ends all others.
            std::process::exit(1);
        });
    }
    mount_directories(options)?;
    let mut tally = Tally::default();
    let name = options.directory.file_name().and_then(|name| name.to_str());
    println!("starting a cluster with {} nodes", options.nodes);
    let mut cluster = Cluster::start(options.nodes, name.context("the directory has a name")?)?;
    // flanneld ends with this value.
    let _flannel = options.network.install(&cluster)?;
    cluster.wait_until_ready()?;
    println!("  all nodes are Ready");
    if options.measure {
        measure::run(&cluster)?;
    } else if options.upstream.is_some() {
        upstream::run(&cluster, &mut tally)?;
    } else {
        scenarios::run(&mut cluster, &options.scenarios, &mut tally);
    }
    println!("Kubernetes: {tally}");
    if options.keep {
        stay(&cluster, tally)?;
    }
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Hands the cluster to the user, and never returns.
fn stay(cluster: &Cluster, tally: Tally) -> Result<()> {
    cluster.nodes().try_for_each(node::Node::write_entrance)?;
    let nothing = fs::OpenOptions::new().write(true).open("/dev/null")?;
    // The one that started this program may wait for the end of its output.
    rustix::stdio::dup2_stdout(&nothing)?;
    rustix::stdio::dup2_stderr(&nothing)?;
    site::finish(Path::new(CLUSTER), tally.failed == 0)?;
    loop {
        std::thread::park();
    }
}

/// Mounts `/mnt`, and hides directories of the machine from the cluster.
fn mount_directories(options: &InsideOptions) -> Result<()> {
    // The sources may be in `/mnt`, so it is hidden last.
    let mnt = options.directory.join("mnt");
    fs::create_dir(&mnt)?;
    mount("tmpfs", &mnt, "mode=755")?;
    let plugins = options.directory.join("plugins");
    let mut directories = vec![
        (&options.directory, "cluster"),
        (&options.programs, "programs"),
        (&plugins, "plugins"),
    ];
    directories.extend(options.upstream.as_ref().map(|tests| (tests, "tests")));
    for (source, name) in directories {
        let target = mnt.join(name);
        fs::create_dir(&target)?;
        mount_bind(source, &target).with_context(|| format!("bind {}", source.display()))?;
    }
    mount_bind_recursive(&mnt, "/mnt").context("bind /mnt")?;
    mount("tmpfs", Path::new("/run"), "mode=755")?;
    let etc = Path::new("/mnt/etc");
    fs::create_dir(etc)?;
    mount_overlay("/etc", Path::new("/etc"), etc)?;
    Ok(fs::create_dir_all("/etc/cni")?)
}
