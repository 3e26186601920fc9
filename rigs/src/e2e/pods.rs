//! Pods that are started and stopped over containerd's CRI service, as kubelet does it: with host ports, with limits of
//! their traffic, through a restart of containerd, and when they vanish.

use std::{
    net::IpAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use rscni_test::{Namespace, Server, Snapshot};
use serde_json::Value;

use super::{
    PluginSet, chain,
    containerd::Containerd,
    cri::{Cri, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol},
    leftovers,
    outside::{self, Outside},
    report, sandbox,
};
use xtask::{program, tally::Tally};

const NETWORK: &str = "pods";
const NET: u8 = 89;

/// The ports of the node, and those of the pod that they lead to.
const TCP: (u16, u16) = (8080, 80);
const UDP: (u16, u16) = (5353, 53);

/// The limits into and out of the pod, in megabits per second.
const LIMITS: [u64; 2] = [40, 20];

/// How long a packet, or the end of a pod, may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes the network, which containerd reads when it starts.
pub(super) fn write_network() -> Result<()> {
    let list = Path::new(sandbox::POD_NETWORKS).join("10-pods.conflist");
    std::fs::write(&list, chain::list(NETWORK, NET).to_string())
        .with_context(|| format!("write {}", list.display()))
}

/// On the Go plugins first, so that a fault of the machine is not taken for one of ours.
pub(super) fn run(
    containerd: &mut Containerd,
    go: &PluginSet,
    tested: &PluginSet,
    tally: &mut Tally,
) -> Result<()> {
    let outside = Outside::new()?;
    for set in [go, tested] {
        leftovers::forget()?;
        outside::set_policy("ACCEPT")?;
        sandbox::use_plugins(&set.directory)?;
        let outcome = whole_life(&containerd.cri()?, &outside);
        let outcome = outcome.map_err(|error| anyhow!("{error:#}\n{}", containerd.last_words()));
        report(
            tally,
            &format!("pods with host ports and limits on the plugins of {}", set.name),
            outcome,
        );
    }
    let outcome = through_a_restart(containerd, &outside);
    report(tally, "a pod goes on through a restart of containerd, and leaves nothing", outcome);
    let outcome = vanished(&containerd.cri()?);
    report(tally, "a pod whose namespace has vanished leaves nothing", outcome);
    let outcome = collected(&containerd.cri()?, tested);
    report(tally, "a pod that nobody stops is collected by rscni gc", outcome);
    Ok(())
}

/// A pod that runs.
struct Pod {
    id: String,
    addresses: Vec<IpAddr>,
    container: rscni_test::Container,
}

impl Pod {
    /// As kubelet calls it for a pod of that name whose container has host ports, with annotations for its limits.
    fn start(cri: &Cri, name: &str, has_ports: bool) -> Result<Self> {
        let port = |protocol: Protocol, (host, container): (u16, u16)| PortMapping {
            protocol: protocol.into(),
            container_port: container.into(),
            host_port: host.into(),
            ..PortMapping::default()
        };
        let limit = |direction: &str, limit: u64| {
            (format!("kubernetes.io/{direction}-bandwidth"), format!("{limit}M"))
        };
        let id = cri.run_pod_sandbox(PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-of-{name}"),
                namespace: "default".to_owned(),
            }),
            hostname: name.to_owned(),
            port_mappings: if has_ports {
                vec![port(Protocol::Tcp, TCP), port(Protocol::Udp, UDP)]
            } else {
                Vec::new()
            },
            annotations: if has_ports {
                [limit("ingress", LIMITS[0]), limit("egress", LIMITS[1])].into()
            } else {
                [].into()
            },
        })?;
        let status = cri.pod_sandbox_status(&id)?;
        let container = rscni_test::Container::at(&id, status.netns);
        Ok(Self { id, addresses: status.addresses, container })
    }

    /// Ends it as kubelet does, which calls `StopPodSandbox` until it succeeds, and then often once more.
    fn stop(&self, cri: &Cri) -> Result<()> {
        cri.stop_pod_sandbox(&self.id)?;
        cri.stop_pod_sandbox(&self.id).context("the second time")?;
        cri.remove_pod_sandbox(&self.id)
    }

    /// Answers at the ports that host ports lead to.
    fn serve(&self) -> [Server; 2] {
        [self.container.serve_tcp(TCP.1), self.container.serve_udp(UDP.1)]
    }

    /// A way for packets that have no address yet. sbr leaves none, since it is meant for a second interface beside one
    /// that has it.
    fn add_default_routes(&self) -> Result<()> {
        let netns = self.container.path().file_name().unwrap_or_default();
        for gateway in [chain::gateway_v4(NET), chain::gateway_v6(NET)] {
            let route = format!("route add default via {gateway} dev eth0 onlink");
            program::capture(Command::new("ip").arg("-n").arg(netns).args(route.split(' ')))?;
        }
        Ok(())
    }

    /// Nobody but this pod answers at the host ports of `address`.
    fn is_reached(&self, from: &Namespace, address: &str) -> Result<()> {
        let answer = from.try_tcp(format!("{address}:{}", TCP.0), PATIENCE)?;
        ensure!(
            answer.server == self.container.name(),
            "{} answered at the TCP port of {address}",
            answer.server
        );
        let answer = from.try_udp(format!("{address}:{}", UDP.0), PATIENCE)?;
        ensure!(
            answer.server == self.container.name(),
            "{} answered at the UDP port of {address}",
            answer.server
        );
        Ok(())
    }
}

/// What is there once the first pod of the network has come and gone, and with it what belongs to no pod.
fn between_pods(cri: &Cri) -> Result<Snapshot> {
    Pod::start(cri, "first", true)?.stop(cri)?;
    // containerd's own files and shims; where host-local goes on and what it has counted; the runtime's locks.
    let others = [
        "/run/containerd",
        "process ",
        "/last_reserved_ip.",
        "/networks/.index/",
        "/var/lib/cni/locks",
    ];
    Ok(others.iter().fold(Snapshot::of_this_network()?, |snapshot, text| snapshot.ignoring(text)))
}

/// A link whose namespace has ended goes a moment later, when the kernel gets to it.
fn nothing_left(before: &Snapshot) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let changes = before.changes_to(&Snapshot::of_this_network()?);
        if changes.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "left behind:\n{}", changes.join("\n"));
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn whole_life(cri: &Cri, outside: &Outside) -> Result<()> {
    let before = between_pods(cri)?;
    let [pod, other] =
        [("web", true), ("other", false)].map(|(name, has_ports)| Pod::start(cri, name, has_ports));
    let (pod, other) = (pod?, other?);
    let seen = while_it_runs(&pod, &other, outside);
    pod.stop(cri)?;
    other.stop(cri)?;
    seen.context("while the pods ran")?;
    nothing_left(&before).context("after the pods had been stopped")
}

fn while_it_runs(pod: &Pod, other: &Pod, outside: &Outside) -> Result<()> {
    ensure!(pod.addresses.len() == 2, "not an address of each family: {:?}", pod.addresses);
    let servers = pod.serve();
    // The answer has the pod's address and finds its way by that.
    let answer = outside.client().try_tcp(format!("{}:{}", Outside::NODE[0], TCP.0), PATIENCE);
    answer.context("another machine, with no routes in the pod but those of sbr")?;
    routed_by_source(pod)?;
    pod.add_default_routes()?;
    other.add_default_routes()?;
    for (from, who) in [
        (outside.client(), "another machine"),
        (outside.node(), "the node itself"),
        (&*other.container, "another pod"),
        (&*pod.container, "the pod itself"),
    ] {
        for address in Outside::NODE {
            pod.is_reached(from, address)
                .with_context(|| format!("{who}, by way of a host port at {address}"))?;
        }
        for address in &pod.addresses {
            from.try_ping(address, PATIENCE).with_context(|| format!("{who}, directly"))?;
        }
    }
    let local = format!("127.0.0.1:{}", TCP.0);
    outside.node().try_tcp(local, PATIENCE).context("the node itself, by way of localhost")?;
    drop(servers);
    limits_are_set()?;
    let set = pod.container.sysctl("net/core/somaxconn");
    ensure!(set == chain::SOMAXCONN, "net.core.somaxconn is {set}");
    outside::while_nothing_is_forwarded(|| {
        for address in Outside::CLIENT {
            let ping = pod.container.try_ping(address, PATIENCE);
            ping.with_context(|| {
                format!("{address} on a node that forwards only what the firewall plugin lets pass")
            })?;
        }
        Ok(())
    })
}

/// There is a token bucket for each direction.
fn limits_are_set() -> Result<()> {
    let qdiscs: Value =
        serde_json::from_str(&program::capture(Command::new("tc").args(["-j", "qdisc", "show"]))?)?;
    let buckets = qdiscs.as_array().into_iter().flatten().filter(|qdisc| qdisc["kind"] == "tbf");
    let mut rates: Vec<u64> =
        buckets.filter_map(|bucket| bucket["options"]["rate"].as_u64()).collect();
    rates.sort_unstable_by(|a, b| b.cmp(a));
    // Bytes per second.
    let expected = LIMITS.map(|limit| limit * 1_000_000 / 8);
    ensure!(
        rates == expected,
        "the node's token buckets have the rates {rates:?}, not {expected:?}"
    );
    Ok(())
}

/// Packets from an address of the pod have a routing table of their own.
fn routed_by_source(pod: &Pod) -> Result<()> {
    let netns = pod.container.path().file_name().unwrap_or_default();
    let mut rules = String::new();
    for family in ["-4", "-6"] {
        rules += &program::capture(
            Command::new("ip").arg("-n").arg(netns).args([family, "rule", "show"]),
        )?;
    }
    for address in &pod.addresses {
        ensure!(
            rules.contains(&format!("from {address} lookup 1")),
            "no rule for packets from {address}:\n{rules}"
        );
    }
    Ok(())
}

fn through_a_restart(containerd: &mut Containerd, outside: &Outside) -> Result<()> {
    let cri = containerd.cri()?;
    let before = between_pods(&cri)?;
    let pod = Pod::start(&cri, "lasting", true)?;
    containerd.restart()?;
    let cri = containerd.cri()?;
    pod.add_default_routes()?;
    let servers = pod.serve();
    let reached = pod.is_reached(outside.client(), Outside::NODE[0]);
    drop(servers);
    pod.stop(&cri)?;
    reached.context("after the restart")?;
    nothing_left(&before)
}

/// What a reboot of the node does, or somebody by hand: the namespace goes, and then containerd calls DEL without it.
fn vanished(cri: &Cri) -> Result<()> {
    let before = between_pods(cri)?;
    let pod = Pod::start(cri, "vanished", true)?;
    lose(&pod)?;
    pod.stop(cri)?;
    nothing_left(&before)
}

fn lose(pod: &Pod) -> Result<()> {
    let netns = pod.container.path().file_name().unwrap_or_default();
    program::capture(Command::new("ip").args(["netns", "delete"]).arg(netns)).map(drop)
}

/// GC of the network, after which containerd's own DEL finds nothing, and succeeds.
fn collected(cri: &Cri, tested: &PluginSet) -> Result<()> {
    let before = between_pods(cri)?;
    let [kept, lost] = ["kept", "lost"].map(|name| Pod::start(cri, name, name == "lost"));
    let (kept, lost) = (kept?, lost?);
    lose(&lost)?;
    let mut gc = Command::new(tested.directory.join("rscni"));
    gc.args([
        "gc",
        NETWORK,
        "--auto",
        "--conf-dir",
        sandbox::POD_NETWORKS,
        "--plugin-dir",
        sandbox::PLUGINS,
    ]);
    let removed = program::capture(&mut gc)?;
    ensure!(removed.contains(&lost.id) && !removed.contains(&kept.id), "rscni gc said:\n{removed}");
    kept.add_default_routes()?;
    kept.container.try_ping(Outside::NODE[0], PATIENCE).context("the pod that was to stay")?;
    kept.stop(cri)?;
    // containerd has a network of its own for `lo`, which only it removes.
    nothing_left(&before.clone().ignoring("/results/cni-loopback-"))
        .context("before containerd stops the pod")?;
    lost.stop(cri)?;
    nothing_left(&before)
}
