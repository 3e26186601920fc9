//! `cargo xtask demo`: a real network from one command.
//!
//! It builds `rscni`, moves into a private network (so it needs no root, and the machine's own network is not
//! touched), and does what an operator would: installs the plugins, writes a network configuration list, attaches two
//! containers, sends packets, looks, checks, and takes everything down. What it shows is asked of the kernel, see
//! [`topology`]; any step that fails ends it with an error.

mod topology;

use std::{
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rscni_test::{Container, Lab, Namespace, Unreachable};
use serde_json::Value;

use xtask::program;

/// The network configuration list, as an operator would put it into `/etc/cni/net.d`.
const LIST: &str = include_str!("demo.conflist");

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demo.
pub(crate) fn run() -> Result<ExitCode> {
    headline("build rscni");
    let mut cargo = program::cargo();
    let rscni = program::built(cargo.args([
        "build",
        "-p",
        "rscni-cli",
        "--message-format=json-render-diagnostics",
    ]))?;
    println!("{}", rscni.display());

    headline("make a private network, with two containers in it");
    let lab = rscni_test::enter_private_network()?;
    let containers = [lab.container("red"), lab.container("blue")];
    println!(
        "user, network and mount namespaces of their own; nothing on this machine's network is touched"
    );
    println!("containers: the network namespaces red and blue");
    let node = Node::set_up(&lab, &rscni)?;
    let before = lab.snapshot();

    headline("attach both to the network \"demo\"");
    println!("{LIST}");
    let mut addresses = Vec::new();
    for container in &containers {
        let result = node.rscni(&["add", "demo", container.name()])?;
        addresses.push(addresses_of(&result).with_context(|| format!("no addresses in {result}"))?);
        println!(
            "      {} has {}",
            container.name(),
            addresses.last().map_or_else(String::new, |all| all.join(", "))
        );
    }

    headline("what there is now");
    print!("{}", topology::draw(lab.host(), &containers)?);

    headline("packets");
    let [red, blue] = &containers;
    for (from, to, others) in [(red, "blue", &addresses[1]), (blue, "red", &addresses[0])] {
        for address in others {
            ping(from, address, to)?;
            tcp(from, address, if to == "blue" { blue } else { red })?;
        }
        for gateway in ["10.88.0.1", "fd88::1"] {
            ping(from, gateway, "the gateway")?;
        }
    }

    headline("check");
    for container in &containers {
        node.rscni(&["check", "demo", container.name()])?;
        println!("      as it was left");
    }

    headline("take it down");
    for container in &containers {
        node.rscni(&["del", "demo", container.name()])?;
    }

    headline("what the network keeps for its next container");
    for line in before.changes_to(&lab.snapshot()) {
        ensure!(!line.contains("veth"), "something of an attachment is left: {line}");
        println!("{line}");
    }
    println!("\nThere is no next one here, so this goes too.");
    remove_network(&lab)?;

    headline("what is left");
    let left = before.changes_to(&lab.snapshot());
    ensure!(left.is_empty(), "something is left:\n{}", left.join("\n"));
    println!("nothing: links, addresses, routes, rules, sysctls and files are as they were before");
    Ok(ExitCode::SUCCESS)
}

fn headline(text: &str) {
    println!("\n== {text}");
}

/// The node as an operator set it up: plugins in one directory, network lists in another.
struct Node {
    program: std::path::PathBuf,
    plugins: std::path::PathBuf,
    lists: std::path::PathBuf,
}

impl Node {
    fn set_up(lab: &Lab, program: &Path) -> Result<Self> {
        let node = Self {
            program: program.to_owned(),
            plugins: lab.dir().join("opt/cni/bin"),
            lists: lab.dir().join("etc/cni/net.d"),
        };
        std::fs::create_dir_all(&node.lists)?;
        std::fs::write(node.lists.join("demo.conflist"), LIST)?;
        std::fs::create_dir_all(&node.plugins)?;
        let plugins = node.plugins.clone();
        print!("{}", node.run(Command::new(&node.program).arg("install").arg(plugins))?);
        Ok(node)
    }

    /// Types a command of `rscni`, and gives what it printed.
    fn rscni(&self, arguments: &[&str]) -> Result<String> {
        println!("    $ rscni {}", arguments.join(" "));
        self.run(Command::new(self.plugins.join("rscni")).args(arguments))
    }

    fn run(&self, command: &mut Command) -> Result<String> {
        for variable in ["CAP_ARGS", "CNI_ARGS", "CNI_IFNAME"] {
            command.env_remove(variable);
        }
        program::capture(command.env("NETCONFPATH", &self.lists).env("CNI_PATH", &self.plugins))
    }
}

fn addresses_of(result: &str) -> Option<Vec<String>> {
    let result: Value = serde_json::from_str(result).ok()?;
    let address = |ip: &Value| Some(ip["address"].as_str()?.split('/').next()?.to_owned());
    result["ips"].as_array()?.iter().map(address).collect()
}

fn ping(from: &Container, address: &str, to: &str) -> Result<()> {
    told(
        from.try_ping(address, PATIENCE),
        &format!("{:<5} ping  {address:<12} ({to})", from.name()),
    )
}

fn tcp(from: &Container, address: &str, server: &Namespace) -> Result<()> {
    let serving = server.serve_tcp(0);
    let port = serving.port();
    let to = if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    };
    let exchange = from.try_tcp(to, PATIENCE).map(|_| ());
    told(
        exchange,
        &format!(
            "{:<5} TCP   {address:<12} ({}), 64 KiB there and back",
            from.name(),
            server.name()
        ),
    )
}

fn told(outcome: std::result::Result<(), Unreachable>, what: &str) -> Result<()> {
    match outcome {
        Ok(()) => println!("  ok  {what}"),
        Err(error) => bail!("{what}: {error}"),
    }
    Ok(())
}

/// Removes what stays after the last DEL: the bridge, the empty table, the last address of each range, forwarding.
fn remove_network(lab: &Lab) -> Result<()> {
    let mut host = lab.host().netlink();
    let bridge = host.link_by_name("demo0")?;
    host.del_link(bridge.index)?;
    let mut nft = rscni_linux::Nft::open()?;
    let mut transaction = nft.transaction();
    transaction.del_table(&rscni_linux::nft::Table::new(rscni_linux::nft::Family::Inet, "rscni"));
    transaction.commit()?;
    // Reservations, what is remembered of attachments, and the locks of both.
    for entry in std::fs::read_dir("/var/lib/cni")? {
        std::fs::remove_dir_all(entry?.path())?;
    }
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        rscni_linux::sysctl::set(key, "0")?;
    }
    Ok(())
}
