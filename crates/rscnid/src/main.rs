//! The program `rscnid`.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use rscnid::{
    gc::{
        collector::{self, Collector},
        core::Evidence,
    },
    podnet::{Backend, daemon::Settings},
    run::{Parts, run},
    status,
};
use tokio::runtime::Runtime;

/// Node daemon of rscni: routes to the pods of other nodes, the network list of this node, and
/// garbage collection of attachments.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the parts that are not disabled.
    Run(Daemon),
    /// Remove what attachments left whose sandbox the container runtime does not know.
    Gc(Pass),
    /// Show the desired state, the state of the kernel, and the difference.
    Status {
        /// Address of the daemon.
        #[arg(long, default_value = "127.0.0.1:9472")]
        address: SocketAddr,
    },
}

/// A part of the daemon.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The network of pods: routes and the network list.
    Podnet,
    /// Garbage collection.
    Gc,
    /// Probes, metrics and `rscnid status`.
    Status,
}

#[derive(clap::Args)]
struct Daemon {
    /// Parts that do not run.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PARTS")]
    disable: Vec<Part>,
    /// Name of this Node; for podnet.
    #[arg(long, env = "NODE_NAME")]
    node: Option<String>,
    /// Way to other nodes.
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    /// Network list for the container runtime.
    #[arg(long, default_value = "/etc/cni/net.d/10-rscni.conflist")]
    conflist: PathBuf,
    /// Directory that a reboot empties, at the same path for the container runtime.
    #[arg(long, default_value = "/run/rscni")]
    run_dir: PathBuf,
    /// Address of /healthz, /readyz, /metrics and /status.
    #[arg(long, default_value = "127.0.0.1:9472")]
    listen: SocketAddr,
    /// Seconds between two passes of the garbage collection.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    gc_interval: u64,
    #[command(flatten)]
    gc: GcOptions,
    /// Write the log as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct Pass {
    /// Run one pass. `rscnid run` runs one periodically.
    #[arg(long, required = true)]
    once: bool,
    /// Change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: GcOptions,
}

#[derive(clap::Args)]
struct GcOptions {
    /// Socket of the container runtime.
    #[arg(long, default_value = "/run/containerd/containerd.sock")]
    runtime_socket: PathBuf,
    /// Cache of attachments.
    #[arg(long, default_value = "/var/lib/cni")]
    cache_dir: PathBuf,
    /// Network lists, which name directories of plugin state.
    #[arg(long, default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// Directories of plugins that are not part of this program, separated by ':'.
    #[arg(long, default_value = "/opt/cni/bin", env = "CNI_PATH", value_delimiter = ':')]
    plugin_dir: Vec<PathBuf>,
    /// Seconds for which an attachment must be stale before it is removed: longer than any ADD
    /// takes. kubelet waits four minutes for a sandbox.
    #[arg(long, default_value_t = 240, value_name = "SECONDS")]
    gc_grace: u64,
}

impl From<GcOptions> for collector::Settings {
    fn from(options: GcOptions) -> Self {
        Self {
            socket: options.runtime_socket,
            cache_dir: options.cache_dir,
            conf_dir: options.conf_dir,
            plugin_dirs: options.plugin_dir,
            grace: Duration::from_secs(options.gc_grace),
        }
    }
}

/// Replaces musl's allocator, which returns memory to the kernel after every Node.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Cli::parse().command {
        Command::Run(options) => options.run(&runtime).map(|()| ExitCode::SUCCESS),
        Command::Gc(options) => options.run(),
        Command::Status { address } => {
            print!("{}", runtime.block_on(status::ask(address))?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl Daemon {
    fn run(self, runtime: &Runtime) -> anyhow::Result<()> {
        init_log(self.json);
        let is_enabled = |part| !self.disable.contains(&part);
        let interval = Duration::from_secs(self.gc_interval);
        // The default of host-local, which the network list does not change.
        let leases = self.gc.cache_dir.join("networks");
        let gc = is_enabled(Part::Gc).then(|| (self.gc.into(), interval));
        let status = is_enabled(Part::Status).then_some(self.listen);
        if !is_enabled(Part::Podnet) {
            return runtime.block_on(run(Parts { podnet: None, gc, status }));
        }
        rustls_graviola::default_provider()
            .install_default()
            .ok()
            .context("another provider of cryptography is installed")?;
        let node =
            self.node.context("--node or NODE_NAME is required unless podnet is disabled")?;
        let settings = Settings {
            node,
            backend: self.backend,
            conflist: self.conflist,
            run_dir: self.run_dir,
            leases,
        };
        runtime.block_on(async {
            let client = kube::Client::try_default()
                .await
                .context("find the API server; run in a pod, or set KUBECONFIG")?;
            run(Parts { podnet: Some((client, settings)), gc, status }).await
        })
    }
}

impl Pass {
    /// Runs one pass. The exit status says whether everything could be inspected and removed.
    fn run(self) -> anyhow::Result<ExitCode> {
        init_log(false);
        let report = Collector::new(self.options.into(), Evidence::Files)?.pass(self.dry_run)?;
        if self.json {
            println!("{:#}", report.json());
        } else {
            print!("{report}");
            for failure in &report.failures {
                eprintln!("failed: {failure}");
            }
        }
        Ok(if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn init_log(is_json: bool) {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false);
    if is_json {
        log.json().init();
    } else {
        log.init();
    }
}
