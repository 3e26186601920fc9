//! A container runtime with linked plugins: containers with several networks, with packets.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
};

use rscni::{
    Bandwidth, PortMapping,
    invoke::OnThread,
    runtime::{AsyncRuntime, Attached, Networks, Runtime, Sandbox},
};
use rscni_plugins::Linked;
use rscni_test::{Container, Lab, Snapshot};

/// The default network: a bridge with published ports and limits.
const BRIDGE: &str = r#"{ "cniVersion": "1.1.0", "name": "bridged", "plugins": [
    { "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": { "type": "host-local", "subnet": "10.1.0.0/24" } },
    { "type": "portmap", "capabilities": { "portMappings": true } },
    { "type": "bandwidth", "capabilities": { "bandwidth": true } }
] }"#;

const PTP: &str = r#"{ "cniVersion": "1.0.0", "name": "routed", "plugins": [
    { "type": "ptp", "ipam": { "type": "host-local", "subnet": "10.2.0.0/24" } }
] }"#;

/// A network whose ADD always fails.
const FAILING: &str = r#"{ "cniVersion": "1.0.0", "name": "failing", "plugins": [
    {
        "type": "macvlan", "master": "absent",
        "ipam": { "type": "host-local", "subnet": "10.3.0.0/24" }
    }
] }"#;

/// Writes network configurations and returns their directory.
fn conf_dir(lab: &Lab, files: &[(&str, &str)]) -> PathBuf {
    let dir = lab.dir().join("net.d");
    fs::create_dir_all(&dir).unwrap();
    for (file, text) in files {
        fs::write(dir.join(file), text).unwrap();
    }
    dir
}

fn port() -> PortMapping {
    PortMapping { host_port: 8080, container_port: 80, ..PortMapping::default() }
}

fn runtime() -> Runtime<Linked> {
    Runtime::new(Linked, ["/nowhere"])
}

fn sandbox(container: &Container) -> Sandbox {
    Sandbox::new(container.id(), container.path()).with_pod("default", container.name(), "b4e1")
}

fn address(attached: &Attached, ifname: &str) -> IpAddr {
    attached.interfaces[ifname].ips[0].address.addr()
}

/// Asserts that packets pass between the host and the container over this interface.
#[track_caller]
fn assert_connected(lab: &Lab, container: &Container, attached: &Attached, ifname: &str) {
    container.ping(attached.interfaces[ifname].ips[0].gateway.unwrap());
    lab.host().ping(address(attached, ifname));
}

/// Attaches and detaches a container, so that the networks have what stays after the last DEL.
fn use_once(lab: &Lab, networks: &Networks) {
    let container = lab.container("first");
    let sandbox = sandbox(&container).with_port_mappings([port()]);
    runtime().attach(networks, &sandbox).unwrap();
    runtime().detach(networks, &sandbox).unwrap();
    lab.remove_namespace(&container);
}

/// Takes a snapshot of everything that attachments own.
fn snapshot(lab: &Lab) -> Snapshot {
    // Counters, lock files, and the address that the kernel adds when lo is set up.
    let others = ["last_reserved_ip", "/.index/", "/locks/", "address 127.0.0.1/8 on lo"];
    others.iter().fold(lab.snapshot(), |snapshot, text| snapshot.ignoring(text))
}

#[test]
fn a_container_has_loopback_and_two_networks_with_its_options() {
    rscni_test::run(|lab| {
        let dir = conf_dir(lab, &[("10-bridged.conflist", BRIDGE), ("20-routed.conflist", PTP)]);
        let networks = Networks::all_in(dir).with_loopback().with_interface_prefix("net");
        let (container, runtime) = (lab.container("web"), runtime());
        let limits =
            Bandwidth { ingress_rate: 80_000_000, ingress_burst: 800_000, ..Bandwidth::default() };
        let sandbox = sandbox(&container).with_port_mappings([port()]).with_bandwidth(limits);
        runtime.status_all(&networks).unwrap();
        let attached = runtime.attach(&networks, &sandbox).unwrap();

        container.ping("127.0.0.1");
        assert_connected(lab, &container, &attached, "net0");
        assert_connected(lab, &container, &attached, "net1");
        let [net0, net1] = ["net0", "net1"].map(|ifname| &attached.interfaces[ifname]);
        assert_eq!((net0.network.as_str(), net1.network.as_str()), ("bridged", "routed"));
        assert_eq!(net0.sandbox.as_deref(), container.path().to_str());
        let link = container.netlink().link_by_name("net0").unwrap();
        assert_eq!(net0.mac.as_ref(), link.mac.map(|mac| mac.to_string()).as_ref());

        let server = container.serve_tcp(80);
        lab.host().tcp("10.1.0.1:8080").assert_by(&server);
        let qdiscs = Command::new("tc").args(["qdisc", "show"]).output().unwrap();
        let qdiscs = String::from_utf8(qdiscs.stdout).unwrap();
        assert!(qdiscs.contains("tbf") && qdiscs.contains("rate 80Mbit"), "{qdiscs}");

        runtime.check_all(&networks, &sandbox).unwrap();
        runtime.detach(&networks, &sandbox).unwrap();
        for ifname in ["net0", "net1"] {
            assert!(container.netlink().find_link(ifname).unwrap().is_none());
        }
        assert_eq!(runtime.cache().list().unwrap().entries, []);
    });
}

#[test]
fn a_network_that_fails_rolls_back_the_others() {
    rscni_test::run(|lab| {
        let files = [("10-bridged.conflist", BRIDGE), ("20-routed.conflist", PTP)];
        let dir = conf_dir(lab, &files);
        use_once(lab, &Networks::all_in(&dir));
        conf_dir(lab, &[("30-failing.conflist", FAILING)]);
        let container = lab.container("web");
        for networks in [Networks::all_in(&dir), Networks::all_in(&dir).in_parallel()] {
            let before = snapshot(lab);
            let failures = runtime().attach(&networks, &sandbox(&container)).unwrap_err();
            assert!(failures.to_string().contains("network failing: ADD of macvlan"), "{failures}");
            assert_eq!(failures.iter().count(), 1, "{failures}");
            lab.assert_unchanged_since(&before);
        }
    });
}

#[test]
fn a_container_is_detached_after_its_configurations_and_its_namespace_are_gone() {
    rscni_test::run(|lab| {
        let files = [("10-bridged.conflist", BRIDGE), ("20-routed.conflist", PTP)];
        let dir = conf_dir(lab, &files);
        let mut networks = Networks::all_in(&dir).with_loopback();
        use_once(lab, &networks);
        let [web, db] = ["web", "db"].map(|name| lab.container(name));
        let attached = runtime().attach(&networks, &sandbox(&db)).unwrap();
        let before = snapshot(lab).ignoring("web");
        for is_gone in [false, true] {
            let sandbox = sandbox(&web).with_port_mappings([port()]);
            runtime().attach(&networks, &sandbox).unwrap();
            fs::remove_dir_all(&dir).unwrap();
            assert!(networks.reload_if_changed());
            assert_eq!(runtime().detach(&networks, &sandbox).unwrap_err().iter().count(), 1);
            if is_gone {
                lab.remove_namespace(&web);
            }
            runtime().detach_all(web.id()).unwrap();
            lab.assert_unchanged_since(&before);
            assert_eq!(runtime().cache().list_of(web.id()).unwrap().entries, []);
            conf_dir(lab, &files);
            assert!(networks.reload_if_changed());
        }
        assert!(lab.host().try_tcp("10.1.0.1:8080", std::time::Duration::ZERO).is_err());
        for ifname in ["eth0", "eth1"] {
            assert_connected(lab, &db, &attached, ifname);
        }
    });
}

#[test]
fn a_broken_first_file_does_not_make_the_second_network_the_default() {
    rscni_test::run(|lab| {
        let dir = conf_dir(lab, &[("10-broken.conflist", "{"), ("20-routed.conflist", PTP)]);
        let container = lab.container("web");
        let mut networks = Networks::first_in(&dir).with_loopback();
        let before = snapshot(lab);
        let failures = runtime().attach(&networks, &sandbox(&container)).unwrap_err();
        assert!(failures.to_string().contains("net.d/10-broken.conflist"), "{failures}");
        lab.assert_unchanged_since(&before);
        conf_dir(lab, &[("10-broken.conflist", BRIDGE)]);
        assert!(networks.reload_if_changed());
        let attached = runtime().attach(&networks, &sandbox(&container)).unwrap();
        assert_eq!(attached.interfaces["eth0"].network, "bridged");
        assert_connected(lab, &container, &attached, "eth0");
    });
}

#[test]
fn twenty_containers_are_attached_and_detached_in_parallel() {
    rscni_test::run(|lab| {
        let dir = conf_dir(lab, &[("10-bridged.conflist", BRIDGE), ("20-routed.conflist", PTP)]);
        let networks = Networks::all_in(dir).with_loopback();
        use_once(lab, &networks);
        let containers: Vec<_> = (0..20).map(|n| lab.container(&format!("c{n}"))).collect();
        let before = snapshot(lab);
        let calls = Arc::new(Mutex::new(0));
        let counter = calls.clone();
        let runtime = runtime().with_observer(move |call| {
            assert_eq!(call.error(), None);
            *counter.lock().unwrap() += 1;
        });
        let attached: Vec<_> = std::thread::scope(|scope| {
            let attach = |container| {
                let (runtime, networks) = (&runtime, &networks);
                scope.spawn(move || runtime.attach(networks, &sandbox(container)).unwrap())
            };
            let threads: Vec<_> = containers.iter().map(attach).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let plugins = 20 * (1 + 3 + 1);
        assert_eq!(*calls.lock().unwrap(), plugins);
        for ifname in ["eth0", "eth1"] {
            let addresses: BTreeSet<_> = attached.iter().map(|it| address(it, ifname)).collect();
            assert_eq!(addresses.len(), containers.len());
        }
        for (container, attached) in containers.iter().zip(&attached) {
            assert_connected(lab, container, attached, "eth0");
            assert_connected(lab, container, attached, "eth1");
        }
        containers[0].ping(address(&attached[19], "eth0"));
        std::thread::scope(|scope| {
            for container in &containers {
                let runtime = &runtime;
                scope.spawn(move || runtime.detach_all(container.id()).unwrap());
            }
        });
        assert_eq!(*calls.lock().unwrap(), 2 * plugins);
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn an_async_runtime_attaches_containers_concurrently() {
    rscni_test::run(|lab| {
        let dir = conf_dir(lab, &[("10-bridged.conflist", BRIDGE), ("20-routed.conflist", PTP)]);
        let networks = Networks::all_in(&dir).with_loopback();
        use_once(lab, &networks);
        let [a, b] = ["a", "b"].map(|name| lab.container(name));
        let before = snapshot(lab);
        let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        executor.block_on(async {
            let runtime = AsyncRuntime::new(OnThread(Linked), ["/nowhere"]);
            let [of_a, of_b] = [&a, &b].map(sandbox);
            let (in_a, in_b) =
                tokio::join!(runtime.attach(&networks, &of_a), runtime.attach(&networks, &of_b));
            for (container, attached) in [(&a, in_a.unwrap()), (&b, in_b.unwrap())] {
                assert_connected(lab, container, &attached, "eth0");
                assert_connected(lab, container, &attached, "eth1");
            }
            runtime.check_all(&networks, &of_a).await.unwrap();
            runtime.detach(&networks, &of_a).await.unwrap();
            fs::remove_dir_all(&dir).unwrap();
            runtime.detach_all(b.id()).await.unwrap();
        });
        lab.assert_unchanged_since(&before);
    });
}
