//! The program `rscnid`.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context;
use clap::{Parser, Subcommand};
use rscnid::{
    podnet::{Backend, daemon::Settings},
    run::run,
    status,
};

/// Node daemon of rscni: routes to the pods of other nodes, and the network list of this node.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the pod network of this node.
    Run {
        /// Name of this Node.
        #[arg(long, env = "NODE_NAME")]
        node: String,
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
        /// Write the log as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the desired state, the state of the kernel, and the difference.
    Status {
        /// Address of the daemon.
        #[arg(long, default_value = "127.0.0.1:9472")]
        address: SocketAddr,
    },
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Cli::parse().command {
        Command::Run { node, backend, conflist, run_dir, listen, json } => {
            let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false);
            if json {
                log.json().init();
            } else {
                log.init();
            }
            rustls_graviola::default_provider()
                .install_default()
                .ok()
                .context("another provider of cryptography is installed")?;
            let settings = Settings { node, backend, conflist, run_dir };
            runtime.block_on(async {
                let client = kube::Client::try_default()
                    .await
                    .context("find the API server; run in a pod, or set KUBECONFIG")?;
                run(client, settings, listen).await
            })
        }
        Command::Status { address } => {
            print!("{}", runtime.block_on(status::ask(address))?);
            Ok(())
        }
    }
}
