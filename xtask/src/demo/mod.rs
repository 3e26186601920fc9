//! `cargo xtask demo`: a real network from one command.
//!
//! It builds `rscni`, moves into a private network and acts as an operator: it installs the
//! plugins, writes a network configuration list, attaches two containers, sends packets, runs
//! CHECK, and takes everything down. It needs no root and does not touch the machine's own network.
//! The topology that it shows is read from the kernel ([`topology`]). A step that fails ends it
//! with an error.

mod topology;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use rscni_test::{Container, Lab, Namespace};
use serde_json::Value;
use xtask::{dist, program};

/// The network configuration list, as an operator would put it into `/etc/cni/net.d`.
const LIST: &str = include_str!("demo.conflist");

/// Timeout for an answer on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the demo.
pub(crate) fn run() -> Result<ExitCode> {
    headline("build rscni");
    let rscni = dist::build_for_development()?;
    println!("{}", rscni.display());

    headline("make a private network, with two containers in it");
    let lab = rscni_test::enter_private_network()?;
    let containers = [lab.container("red"), lab.container("blue")];
    println!(
        "user, network and mount namespaces of their own; this machine's network is not touched"
    );
    println!("containers: the network namespaces red and blue");
    let node = Node::set_up(&lab, &rscni)?;
    let before = lab.snapshot();

    headline("attach both to the network \"demo\"");
    println!("{LIST}");
    let mut addresses = Vec::new();
    for container in &containers {
        let result = node.rscni(&["add", "demo", container.name()])?;
        let own = addresses_of(&result).with_context(|| format!("no addresses in {result}"))?;
        println!("      {} has {}", container.name(), own.join(", "));
        addresses.push(own);
    }

    headline("the network now");
    print!("{}", topology::draw(lab.host(), &containers)?);

    headline("packets");
    let [red, blue] = &containers;
    for (from, to, others) in [(red, blue, &addresses[1]), (blue, red, &addresses[0])] {
        for address in others {
            ping(from, address, to.name())?;
            tcp(from, address, to)?;
        }
        for gateway in ["10.88.0.1", "fd88::1"] {
            ping(from, gateway, "the gateway")?;
        }
    }

    headline("check");
    for container in &containers {
        node.rscni(&["check", "demo", container.name()])?;
        println!("      unchanged since ADD");
    }

    headline("take it down");
    for container in &containers {
        node.rscni(&["del", "demo", container.name()])?;
    }

    headline("kept by the network for its next container");
    for line in before.changes_to(&lab.snapshot()) {
        ensure!(!line.contains("veth"), "left by an attachment: {line}");
        println!("{line}");
    }
    println!("\nThere is no next container here, so the demo removes this too.");
    remove_network(&lab)?;

    headline("left behind");
    let left = before.changes_to(&lab.snapshot());
    ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    println!("nothing: links, addresses, routes, rules, sysctls and files are as before");
    Ok(ExitCode::SUCCESS)
}

fn headline(text: &str) {
    println!("\n== {text}");
}

/// A node as an operator sets it up: plugins in one directory, network lists in another.
struct Node {
    plugins: PathBuf,
    lists: PathBuf,
}

impl Node {
    fn set_up(lab: &Lab, rscni: &Path) -> Result<Self> {
        let [plugins, lists] = ["opt/cni/bin", "etc/cni/net.d"].map(|path| lab.dir().join(path));
        fs::create_dir_all(&lists)?;
        fs::write(lists.join("demo.conflist"), LIST)?;
        print!("{}", dist::install(rscni, &plugins)?);
        Ok(Self { plugins, lists })
    }

    /// Shows and runs a command of `rscni`, and returns its output.
    fn rscni(&self, arguments: &[&str]) -> Result<String> {
        println!("    $ rscni {}", arguments.join(" "));
        let mut command = Command::new(self.plugins.join("rscni"));
        command.args(arguments).env("NETCONFPATH", &self.lists).env("CNI_PATH", &self.plugins);
        for variable in ["CAP_ARGS", "CNI_ARGS", "CNI_IFNAME"] {
            command.env_remove(variable);
        }
        program::capture(&mut command)
    }
}

fn addresses_of(result: &str) -> Option<Vec<String>> {
    let result: Value = serde_json::from_str(result).ok()?;
    let address = |ip: &Value| Some(ip["address"].as_str()?.split('/').next()?.to_owned());
    result["ips"].as_array()?.iter().map(address).collect()
}

fn ping(from: &Container, address: &str, to: &str) -> Result<()> {
    let what = format!("{:<5} ping  {address:<12} ({to})", from.name());
    from.try_ping(address, TIMEOUT).with_context(|| what.clone())?;
    println!("  ok  {what}");
    Ok(())
}

fn tcp(from: &Container, address: &str, to: &Namespace) -> Result<()> {
    let (from_name, to_name) = (from.name(), to.name());
    let what = format!("{from_name:<5} TCP   {address:<12} ({to_name}), 64 KiB there and back");
    let server = to.serve_tcp(0);
    let socket = std::net::SocketAddr::new(address.parse()?, server.port());
    from.try_tcp(socket, TIMEOUT).with_context(|| what.clone())?;
    println!("  ok  {what}");
    Ok(())
}

/// Removes what a network keeps after its last DEL: bridge, table, last address of each range,
/// forwarding.
fn remove_network(lab: &Lab) -> Result<()> {
    let mut host = lab.host().netlink();
    let bridge = host.link_by_name("demo0")?;
    host.del_link(bridge.index)?;
    let mut nft = rscni_linux::Nft::open()?;
    let mut transaction = nft.transaction();
    transaction.del_table(&rscni_linux::nft::Table::new(rscni_linux::nft::Family::Inet, "rscni"));
    transaction.commit()?;
    // host-local's store, the result cache, and the locks of both.
    for entry in fs::read_dir("/var/lib/cni")? {
        fs::remove_dir_all(entry?.path())?;
    }
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        rscni_linux::sysctl::set(key, "0")?;
    }
    Ok(())
}
