//! Pods over containerd's CRI service, as kubelet starts and stops them: with host ports and rate
//! limits, through a restart of containerd, and after the loss of their namespace.

use std::{net::IpAddr, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use rscni_test::{Container, Namespace, Server, Snapshot};
use serde_json::Value;
use xtask::{program, tally::Tally};

use super::{
    PluginSet, chain,
    containerd::Containerd,
    cri::{Cri, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol},
    leftovers,
    outside::{self, Outside},
    report, sandbox, snapshot_ignoring,
};
use crate::daemon::until_ok;

const NETWORK: &str = "pods";
const NET: u8 = 89;

/// Host ports, and the ports of the pod.
const TCP: (u16, u16) = (8080, 80);
const UDP: (u16, u16) = (5353, 53);

/// Rate limits into and out of the pod, in megabits per second.
const LIMITS: [u64; 2] = [40, 20];

/// Timeout of a packet, and of the end of a pod, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Writes the network list, which containerd reads at its start.
pub(super) fn write_network() -> Result<()> {
    let list = Path::new(sandbox::POD_NETWORKS).join("10-pods.conflist");
    Ok(fs_err::write(list, chain::list(NETWORK, NET).to_string())?)
}

/// Runs the cases, the first one also on the Go plugins to detect faults of the machine.
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
        let outcome = live(&containerd.cri()?, &outside);
        let outcome = outcome.map_err(|error| anyhow!("{error:#}\n{}", containerd.log()));
        let name = format!("pods with host ports and rate limits on the plugins of {}", set.name);
        report(tally, &name, outcome);
    }
    let outcome = through_a_restart(containerd, &outside);
    report(tally, "a pod survives a restart of containerd, and leaves nothing", outcome);
    let outcome = vanished(&containerd.cri()?);
    report(tally, "a pod whose namespace has vanished leaves nothing", outcome);
    let outcome = collected(&containerd.cri()?, tested);
    report(tally, "a stale pod is collected by rscni gc", outcome);
    Ok(())
}

/// A running pod.
struct Pod {
    id: String,
    addresses: Vec<IpAddr>,
    container: Container,
}

impl Pod {
    /// Starts a pod as kubelet does. One with host ports also has rate limits.
    fn start(cri: &Cri, name: &str, has_ports: bool) -> Result<Self> {
        let mut config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-of-{name}"),
                namespace: "default".to_owned(),
            }),
            hostname: name.to_owned(),
            ..PodSandboxConfig::default()
        };
        if has_ports {
            for (protocol, (host, container)) in [(Protocol::Tcp, TCP), (Protocol::Udp, UDP)] {
                config.port_mappings.push(PortMapping {
                    protocol: protocol.into(),
                    container_port: container.into(),
                    host_port: host.into(),
                    ..PortMapping::default()
                });
            }
            for (direction, limit) in ["ingress", "egress"].into_iter().zip(LIMITS) {
                let annotation = format!("kubernetes.io/{direction}-bandwidth");
                config.annotations.insert(annotation, format!("{limit}M"));
            }
        }
        let id = cri.run_pod_sandbox(config)?;
        let status = cri.pod_sandbox_status(&id)?;
        let container = Container::at(&id, status.netns);
        Ok(Self { id, addresses: status.addresses, container })
    }

    /// Stops the pod as kubelet does, which often calls `StopPodSandbox` again after it has
    /// succeeded.
    fn stop(&self, cri: &Cri) -> Result<()> {
        cri.stop_pod_sandbox(&self.id)?;
        cri.stop_pod_sandbox(&self.id).context("the second time")?;
        cri.remove_pod_sandbox(&self.id)
    }

    /// Answers at the pod's ports.
    fn serve(&self) -> [Server; 2] {
        [self.container.serve_tcp(TCP.1), self.container.serve_udp(UDP.1)]
    }

    /// Adds routes for packets without source address. sbr removes them, since it is made for a
    /// second interface.
    fn add_default_routes(&self) -> Result<()> {
        for gateway in chain::gateways(NET) {
            self.ip(&format!("route add default via {gateway} dev eth0 onlink"))?;
        }
        Ok(())
    }

    /// Runs `ip` in the pod's namespace.
    fn ip(&self, arguments: &str) -> Result<String> {
        let netns = self.container.path().file_name().unwrap_or_default();
        program::capture(Command::new("ip").arg("-n").arg(netns).args(arguments.split(' ')))
    }

    /// Deletes the namespace of the running pod, as a reboot does.
    fn lose_namespace(&self) -> Result<()> {
        let netns = self.container.path().file_name().unwrap_or_default();
        program::output_of(&format!("ip netns delete {}", netns.display())).map(drop)
    }

    /// Checks that this pod answers at the host ports of `address`.
    fn is_reached(&self, from: &Namespace, address: &str) -> Result<()> {
        let tcp = from.try_tcp(format!("{address}:{}", TCP.0), TIMEOUT)?;
        let udp = from.try_udp(format!("{address}:{}", UDP.0), TIMEOUT)?;
        for server in [tcp.server, udp.server] {
            ensure!(server == self.container.name(), "{server} answered at {address}");
        }
        Ok(())
    }
}

/// A snapshot after the first pod of the network has come and gone. It contains what belongs to the
/// network.
fn between_pods(cri: &Cri) -> Result<Snapshot> {
    Pod::start(cri, "first", true)?.stop(cri)?;
    // Files and shims of containerd, host-local's last address and index, the runtime's locks.
    snapshot_ignoring(&[
        "/run/containerd",
        "process ",
        "/last_reserved_ip.",
        "/networks/.index/",
        "/var/lib/cni/locks",
    ])
}

/// The kernel removes a link some time after its namespace has ended.
fn nothing_left(before: &Snapshot) -> Result<()> {
    until_ok(TIMEOUT, || {
        let left = before.changes_to(&Snapshot::of_this_network()?);
        ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
        Ok(())
    })
}

fn live(cri: &Cri, outside: &Outside) -> Result<()> {
    let before = between_pods(cri)?;
    let pod = Pod::start(cri, "web", true)?;
    let other = Pod::start(cri, "other", false)?;
    let checked = while_it_runs(&pod, &other, outside);
    pod.stop(cri)?;
    other.stop(cri)?;
    checked.context("while the pods ran")?;
    nothing_left(&before).context("after the pods were stopped")
}

fn while_it_runs(pod: &Pod, other: &Pod, outside: &Outside) -> Result<()> {
    ensure!(pod.addresses.len() == 2, "not an address of each family: {:?}", pod.addresses);
    let servers = pod.serve();
    // The answer has the pod's source address, which selects its route.
    let answer = outside.client().try_tcp(format!("{}:{}", Outside::NODE[0], TCP.0), TIMEOUT);
    answer.context("another machine, with only the routes of sbr in the pod")?;
    for family in ["-4", "-6"] {
        let rules = pod.ip(&format!("{family} rule show"))?;
        let own = pod.addresses.iter().find(|address| address.is_ipv4() == (family == "-4"));
        let own = own.context("no address of the family")?;
        let rule = format!("from {own} lookup 1");
        ensure!(rules.contains(&rule), "no rule for packets from {own}:\n{rules}");
    }
    pod.add_default_routes()?;
    other.add_default_routes()?;
    for (from, name) in [
        (outside.client(), "another machine"),
        (outside.node(), "the node itself"),
        (&*other.container, "another pod"),
        (&*pod.container, "the pod itself"),
    ] {
        for address in Outside::NODE {
            pod.is_reached(from, address)
                .with_context(|| format!("{name}, by a host port at {address}"))?;
        }
        for address in &pod.addresses {
            from.try_ping(address, TIMEOUT).with_context(|| format!("{name}, directly"))?;
        }
    }
    let local = format!("127.0.0.1:{}", TCP.0);
    outside.node().try_tcp(local, TIMEOUT).context("the node itself, by localhost")?;
    drop(servers);
    limits_are_set()?;
    let set = pod.container.sysctl("net/core/somaxconn");
    ensure!(set == chain::SOMAXCONN, "net.core.somaxconn is {set}");
    outside::while_nothing_is_forwarded(|| {
        for address in Outside::CLIENT {
            pod.container.try_ping(address, TIMEOUT).with_context(|| {
                format!("{address}, on a node that forwards only with rules of the firewall plugin")
            })?;
        }
        Ok(())
    })
}

/// Checks that there is a token bucket for each direction.
fn limits_are_set() -> Result<()> {
    let qdiscs: Value = serde_json::from_str(&program::output_of("tc -j qdisc show")?)?;
    let buckets = qdiscs.as_array().into_iter().flatten().filter(|qdisc| qdisc["kind"] == "tbf");
    let mut rates: Vec<u64> =
        buckets.filter_map(|bucket| bucket["options"]["rate"].as_u64()).collect();
    rates.sort_unstable_by(|a, b| b.cmp(a));
    // Bytes per second.
    let expected = LIMITS.map(|limit| limit * 1_000_000 / 8);
    ensure!(rates == expected, "the token buckets have the rates {rates:?}, not {expected:?}");
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

/// After a reboot the namespace is gone, and containerd calls DEL without it.
fn vanished(cri: &Cri) -> Result<()> {
    let before = between_pods(cri)?;
    let pod = Pod::start(cri, "vanished", true)?;
    pod.lose_namespace()?;
    pod.stop(cri)?;
    nothing_left(&before)
}

/// Runs GC for the network. containerd's own DEL then finds nothing, and succeeds.
fn collected(cri: &Cri, tested: &PluginSet) -> Result<()> {
    let before = between_pods(cri)?;
    let running = Pod::start(cri, "running", false)?;
    let stale = Pod::start(cri, "stale", true)?;
    stale.lose_namespace()?;
    let mut gc = Command::new(tested.directory.join("rscni"));
    gc.args(["gc", NETWORK, "--auto", "--conf-dir", sandbox::POD_NETWORKS]);
    let removed = program::capture(gc.args(["--plugin-dir", sandbox::PLUGINS]))?;
    let is_right = removed.contains(&stale.id) && !removed.contains(&running.id);
    ensure!(is_right, "rscni gc printed:\n{removed}");
    running.add_default_routes()?;
    let ping = running.container.try_ping(Outside::NODE[0], TIMEOUT);
    ping.context("from the running pod")?;
    running.stop(cri)?;
    // containerd has its own network for `lo`, which only containerd removes.
    nothing_left(&before.clone().ignoring("/results/cni-loopback-"))
        .context("before containerd stops the pod")?;
    stale.stop(cri)?;
    nothing_left(&before)
}
