//! Three nodes, a router, and a pod on each node.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
};

use rscni::runtime::{AttachmentParams, NetConfList, Runtime};
use rscni_plugins::Linked;
use rscni_test::{Container, Lab, Namespace};
use rscnid::podnet::{
    Backend, NodeInfo,
    daemon::{Daemon, Settings},
};

pub(crate) const FLANNEL_MAC: &str = "7e:5c:aa:04:11:02";

pub(crate) struct Cluster {
    dir: PathBuf,
    pub(crate) router: Container,
    pub(crate) nodes: Vec<Container>,
    pub(crate) pods: Vec<Container>,
    addresses: Vec<Vec<IpAddr>>,
    pub(crate) daemons: Vec<Option<Daemon>>,
    /// The Nodes of the API server.
    objects: Vec<NodeInfo>,
}

/// Runs `ip`, which must succeed, in a namespace.
pub(crate) fn ip(namespace: &Namespace, words: &str) -> String {
    namespace.run(|| sh(&format!("ip {words}")))
}

pub(crate) fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().expect("sh");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// The segment of a node: the third one is behind the router.
fn segment(number: usize) -> (u8, char) {
    if number == 2 { (1, 'b') } else { (0, 'a') }
}

pub(crate) fn node(number: usize) -> NodeInfo {
    let (segment, letter) = segment(number);
    let (high, low) = (244 + number / 255, number % 255);
    let nets = [format!("10.{high}.{low}.0/24"), format!("fd01:0:0:{number:x}::/64")];
    let last = number + 11;
    let mut addresses =
        vec![format!("192.168.{segment}.{last}"), format!("fd00:0:0:{letter}::{last}")];
    if number > 2 {
        addresses =
            vec![format!("192.168.0.{}", 20 + number % 200), format!("fd00:0:0:a::f{last}")];
    }
    let name = format!("node{number}");
    NodeInfo::read(
        &name,
        nets.iter().map(String::as_str),
        addresses.iter().map(String::as_str),
        &BTreeMap::new(),
    )
}

fn with_annotations(node: NodeInfo, annotations: &BTreeMap<String, String>) -> NodeInfo {
    let NodeInfo { tunnels, tunnel_only, faults, .. } =
        NodeInfo::read(&node.name, [], [], annotations);
    NodeInfo { tunnels, tunnel_only, faults, ..node }
}

pub(crate) fn settings(dir: &Path, number: usize) -> Settings {
    Settings {
        node: format!("node{number}"),
        backend: Backend::Auto,
        conflist: dir.join(format!("node{number}/10-rscni.conflist")),
        run_dir: dir.join(format!("node{number}/run")),
        leases: dir.join(format!("node{number}/networks")),
    }
}

/// Starts the daemon of a node in the calling thread's namespace.
pub(crate) fn synchronize(dir: &Path, number: usize, objects: Vec<NodeInfo>) -> Daemon {
    let mut daemon = Daemon::open(settings(dir, number)).expect("open sockets");
    daemon.replace(objects).expect("synchronize");
    daemon
}

impl Cluster {
    /// Creates the machines without daemons and pods.
    pub(crate) fn build(lab: &Lab) -> Self {
        let router = lab.container("router");
        let nodes: Vec<Container> = (0..3).map(|n| lab.container(&format!("node{n}"))).collect();
        let script = |namespace: &Namespace, text: &str| {
            namespace.run(|| sh(text));
        };
        script(
            &router,
            "ip link set lo up
            ip link add br0 type bridge; ip link set br0 up
            ip addr add 192.168.0.1/24 dev br0; ip addr add fd00:0:0:a::1/64 dev br0 nodad
            echo 1 > /proc/sys/net/ipv4/ip_forward
            echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
        );
        for (number, node) in nodes.iter().enumerate() {
            let (segment, letter) = segment(number);
            let port = format!("port{number}");
            let far = node.path().display();
            script(
                &router,
                &format!(
                    "ip link add {port} mtu 1500 type veth peer name eth0 netns {far}
                ip link set {port} up"
                ),
            );
            if number == 2 {
                script(
                    &router,
                    &format!(
                        "ip addr add 192.168.1.1/24 dev {port}
                    ip addr add fd00:0:0:b::1/64 dev {port} nodad"
                    ),
                );
            } else {
                script(&router, &format!("ip link set {port} master br0"));
            }
            let last = number + 11;
            script(
                node,
                &format!(
                    "ip link set lo up; ip link set eth0 up
                ip addr add 192.168.{segment}.{last}/24 dev eth0
                ip addr add fd00:0:0:{letter}::{last}/64 dev eth0 nodad
                ip route add default via 192.168.{segment}.1
                ip -6 route add default via fd00:0:0:{letter}::1
                echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter
                echo 1 > /proc/sys/net/ipv4/conf/default/rp_filter
                echo 1 > /proc/sys/net/ipv4/conf/eth0/rp_filter"
                ),
            );
        }
        let objects = (0..3).map(self::node).collect();
        Self {
            dir: lab.dir().to_owned(),
            router,
            nodes,
            pods: Vec::new(),
            addresses: Vec::new(),
            daemons: vec![None, None, None],
            objects,
        }
    }

    pub(crate) fn start(lab: &Lab) -> Self {
        let mut cluster = Self::build(lab);
        cluster.run();
        cluster.attach(lab);
        cluster
    }

    /// Starts the daemons, and passes on what they publish.
    pub(crate) fn run(&mut self) {
        for number in 0..3 {
            self.restart(number);
        }
        self.publish();
    }

    /// Starts the daemon of a node.
    pub(crate) fn restart(&mut self, number: usize) -> &Daemon {
        let objects = self.objects.clone();
        let daemon = self.nodes[number].run(|| synchronize(&self.dir, number, objects));
        self.daemons[number].insert(daemon)
    }

    /// Gives the annotations of each daemon to all, until they no longer change.
    pub(crate) fn publish(&mut self) {
        for _ in 0..2 {
            for number in 0..3 {
                let daemon = self.daemons[number].as_ref().expect("a daemon");
                let object = self.objects[number].clone();
                let object = match daemon.annotations() {
                    Some(annotations) => with_annotations(object, &annotations),
                    None => object,
                };
                self.set_object(&object);
            }
        }
        (0..3).for_each(|number| self.notice(number));
    }

    /// The Node of the API server.
    pub(crate) fn object(&self, number: usize) -> NodeInfo {
        self.objects[number].clone()
    }

    /// Changes a Node of the API server, which gives it to the daemons that run.
    pub(crate) fn set_object(&mut self, object: &NodeInfo) {
        let same = self.objects.iter_mut().find(|it| it.name == object.name).expect("a Node");
        *same = object.clone();
        self.each(|daemon| daemon.set(object.clone()).expect("take a Node"));
    }

    pub(crate) fn daemon(&self, number: usize) -> &Daemon {
        self.daemons[number].as_ref().expect("a daemon")
    }

    /// The problems that the daemon of a node reports.
    pub(crate) fn problems(&self, number: usize) -> Vec<String> {
        self.daemon(number).problems().map(|problem| problem.to_string()).collect()
    }

    pub(crate) fn each(&mut self, act: impl Fn(&mut Daemon) + Sync) {
        for (node, daemon) in self.nodes.iter().zip(&mut self.daemons) {
            if let Some(daemon) = daemon {
                node.run(|| act(daemon));
            }
        }
    }

    /// Lets a daemon read its notifications.
    pub(crate) fn notice(&mut self, number: usize) {
        self.try_notice(number).expect("restore what was lost");
    }

    pub(crate) fn try_notice(&mut self, number: usize) -> io::Result<()> {
        let daemon = self.daemons[number].as_mut().expect("a daemon");
        self.nodes[number].run(|| daemon.notice())
    }

    pub(crate) fn add_nodes(&mut self, numbers: Range<usize>) {
        for number in numbers {
            let object = node(number);
            self.each(|daemon| daemon.set(object.clone()).expect("take a Node"));
        }
    }

    pub(crate) fn remove_node(&mut self, number: usize) {
        self.each(|daemon| daemon.remove(&format!("node{number}")).expect("forget a Node"));
    }

    /// Attaches a pod on each node with the network list of its daemon.
    pub(crate) fn attach(&mut self, lab: &Lab) {
        for (number, node) in self.nodes.iter().enumerate() {
            let pod = lab.container(&format!("pod{number}"));
            let list = self.dir.join(format!("node{number}/10-rscni.conflist"));
            let list = NetConfList::from_file(Path::new(&list)).expect("the network list");
            let params = AttachmentParams::new(pod.id(), pod.path(), "eth0");
            let runtime = || Runtime::new(Linked, ["/nowhere"]).add(&list, &params);
            let result = node.run(runtime).expect("attach a pod");
            self.addresses.push(result.ips.iter().map(|ip| ip.address.addr()).collect());
            self.pods.push(pod);
        }
    }

    pub(crate) fn pod_addresses(&self, number: usize) -> Vec<IpAddr> {
        self.addresses[number].clone()
    }
}
