//! A node with pods, a container runtime and the collector.

use std::{
    fs::{self, File},
    path::Path,
    time::{Duration, SystemTime},
};

use rscni::runtime::{AttachmentParams, Cache, NetConfList, Runtime};
use rscni_plugins::{
    LinkedFirst,
    inventory::{Inventory, StateDirs},
};
use rscni_test::{Container, Lab, eventually};
use rscnid::gc::{
    collector::{Collector, Report, Settings},
    core::Evidence,
};
use serde_json::{Value, json};

use crate::cri::FakeRuntime;

pub(crate) const LEASES: &str = "/var/lib/cni/networks";

pub(crate) struct Node<'l> {
    pub(crate) lab: &'l Lab,
    pub(crate) runtime: FakeRuntime,
    pub(crate) settings: Settings,
}

/// A network as the daemon writes it, with a host port and more plugins.
pub(crate) fn network(name: &str, number: u8, more: &[Value]) -> NetConfList {
    let subnet = format!("10.{number}.0.0/24");
    let mut plugins = vec![
        json!({ "type": "bridge", "bridge": format!("br{number}"), "isGateway": true,
                "ipMasq": true, "ipam": { "type": "host-local", "subnet": subnet } }),
        json!({ "type": "portmap", "capabilities": { "portMappings": true } }),
        json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } }),
        json!({ "type": "firewall" }),
    ];
    plugins.extend_from_slice(more);
    list(name, &plugins)
}

/// A network with all rules in the form of the Go plugins.
pub(crate) fn go_network(name: &str, number: u8) -> NetConfList {
    let subnet = format!("10.{number}.0.0/24");
    let ipam = json!({ "type": "host-local", "subnet": subnet });
    let bridge = json!({ "type": "bridge", "bridge": format!("br{number}"), "isGateway": true,
        "ipMasq": true, "ipMasqBackend": "iptables", "ipam": ipam });
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true },
        "backend": "iptables" });
    list(name, &[bridge, portmap])
}

pub(crate) fn list(name: &str, plugins: &[Value]) -> NetConfList {
    let list = json!({ "cniVersion": "1.1.0", "name": name, "plugins": plugins });
    NetConfList::from_json(list.to_string().as_bytes()).unwrap()
}

pub(crate) fn params(pod: &Container) -> AttachmentParams {
    let mut params = AttachmentParams::new(pod.id(), pod.path(), "eth0");
    let ports = json!([{ "hostPort": 8000 + u16::from(pod.id().bytes().last().unwrap()),
                         "containerPort": 80, "protocol": "tcp" }]);
    let rates = json!({ "ingressRate": 800_000, "ingressBurst": 1_600_000,
                        "egressRate": 800_000, "egressBurst": 1_600_000 });
    params.capability_args.insert("portMappings".into(), ports);
    params.capability_args.insert("bandwidth".into(), rates);
    params
}

impl<'l> Node<'l> {
    pub(crate) fn new(lab: &'l Lab) -> Self {
        let runtime = FakeRuntime::start(lab.dir());
        let plugins = lab.dir().join("plugins");
        fs::create_dir_all(&plugins).unwrap();
        let settings = Settings {
            socket: runtime.socket.clone(),
            cache_dir: "/var/lib/cni".into(),
            conf_dir: lab.dir().join("net.d"),
            plugin_dirs: vec![plugins],
            grace: Duration::ZERO,
        };
        lab.watch("/var/lib/cni");
        Self { lab, runtime, settings }
    }

    pub(crate) fn attach(&self, list: &NetConfList, name: &str) -> Container {
        let pod = self.lab.container(name);
        self.plugins().add(list, &params(&pod)).unwrap();
        pod
    }

    /// Removes the namespace of a pod, and waits until the kernel has removed its veth pair.
    pub(crate) fn remove_namespace(&self, pod: &Container) {
        self.lab.remove_namespace(pod);
        let is_veth = |what: &String| what.contains("(veth)");
        eventually("end of the veth pair", || {
            (!Self::owned_by(pod).iter().any(is_veth)).then_some(())
        });
    }

    pub(crate) fn plugins(&self) -> Runtime<LinkedFirst> {
        Runtime::new(LinkedFirst, &self.settings.plugin_dirs)
    }

    pub(crate) fn collector(&self) -> Collector {
        Collector::new(self.settings.clone(), Evidence::Observation).unwrap()
    }

    /// Runs a pass in which everything can be inspected and removed.
    pub(crate) fn pass(&self) -> Report {
        let report = self.collector().pass(false).unwrap();
        assert_eq!(report.failures, Vec::<String>::new());
        report
    }

    /// Returns everything that attachments own, as text.
    pub(crate) fn owned() -> Vec<String> {
        let cached = Cache::default().list().unwrap();
        assert!(cached.broken.is_empty(), "{:?}", cached.broken);
        let cached = cached
            .entries
            .iter()
            .map(|entry| format!("result {} of {}", entry.network, entry.params.container_id));
        let inventory = Inventory::list(&StateDirs::default());
        assert!(inventory.failures.is_empty(), "{:?}", inventory.failures);
        cached.chain(inventory.items.iter().map(ToString::to_string)).collect()
    }

    pub(crate) fn owned_by(pod: &Container) -> Vec<String> {
        let mut owned = Self::owned();
        owned.retain(|what| what.contains(pod.id()));
        owned
    }
}

/// Lets the files of leases and results seem older than this boot.
pub(crate) fn age_files() {
    let before = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let age = |file: &Path| File::options().write(true).open(file).unwrap().set_modified(before);
    let entries = |dir: &Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    for file in entries(Path::new("/var/lib/cni/results")) {
        age(&file).unwrap();
    }
    for network in entries(Path::new(LEASES)).filter(|path| !path.ends_with(".index")) {
        entries(&network).for_each(|file| age(&file).unwrap());
    }
}
