//! The garbage collection with real plugins and a model of the container runtime.

mod cri;
mod daemon;
mod node;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use node::{LEASES, Node, age_files, go_network, list, network, params};
use rscni::{
    Error,
    invoke::{Exec, Exit, Invocation, Outcome},
    runtime::{Cache, Runtime},
};
use rscni_plugins::LinkedFirst;
use serde_json::json;

#[test]
fn attachment_of_a_known_sandbox_is_never_touched() {
    rscni_test::run(|lab| {
        let node = Node::new(lab);
        let pods = network("pods", 1, &[]);
        let [ready, stopped] = ["a", "b"].map(|name| node.attach(&pods, name));
        node.remove_namespace(&stopped);
        node.runtime.knows(&[(ready.id(), true), (stopped.id(), false)]);
        age_files();
        let before = lab.snapshot();
        assert_eq!(node.pass().findings, []);
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn attachment_is_removed_after_its_namespace_and_sandbox_are_gone() {
    rscni_test::run(|lab| {
        let node = Node::new(lab);
        let pods = network("pods", 1, &[]);
        let [live, gone, unknown] = ["a", "b", "c"].map(|name| node.attach(&pods, name));
        node.remove_namespace(&gone);
        node.runtime.knows(&[(live.id(), true)]);
        let kept = [&live, &unknown].map(Node::owned_by);
        let report = node.pass();
        let mut kinds: Vec<_> = report.findings.iter().map(|it| (it.kind, it.is_removed)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert!(kinds.iter().all(|(_, is_removed)| *is_removed), "{report}");
        for kind in ["address", "element", "result"] {
            assert!(kinds.contains(&(kind, true)), "{kind}: {report}");
        }
        let address = |it: &&rscnid::gc::collector::Finding| it.kind == "address";
        let found = report.findings.iter().find(address).unwrap();
        assert_eq!(found.what, format!("{LEASES}/pods/10.1.0.3"));
        assert_eq!(found.owner, Some(("pods".into(), "ctr-b/eth0".into())));
        assert!(found.why.contains("namespace /run/netns/b gone"), "{}", found.why);
        assert_eq!(Node::owned_by(&gone), Vec::<String>::new());
        // The namespace of the unknown one exists: its ADD may not be recorded yet.
        assert_eq!([&live, &unknown].map(Node::owned_by), kept);
        live.ping("10.1.0.1");
        assert_eq!(node.pass().findings, []);
    });
}

#[test]
fn attachment_is_removed_with_the_list_of_its_add_after_the_list_was_replaced() {
    rscni_test::run(|lab| {
        let node = Node::new(lab);
        let dir = lab.dir().join("leases");
        let old = |subnet: &str| {
            let ipam = json!({ "type": "host-local", "subnet": subnet, "dataDir": dir });
            [json!({ "type": "ptp", "ipMasq": true, "ipam": ipam })]
        };
        let pods = [
            node.attach(&list("same", &old("10.2.0.0/24")), "a"),
            node.attach(&list("removed", &old("10.4.0.0/24")), "b"),
        ];
        fs::create_dir(&node.settings.conf_dir).unwrap();
        let new = network("same", 3, &[]);
        fs::write(node.settings.conf_dir.join("10.conflist"), new.source()).unwrap();
        let other = node.attach(&new, "c");
        for pod in &pods {
            node.remove_namespace(pod);
        }
        node.runtime.knows(&[(other.id(), true)]);
        let kept = Node::owned_by(&other);
        node.pass();
        assert_eq!(Node::owned(), kept);
        for lease in ["same/10.2.0.2", "removed/10.4.0.2"] {
            assert!(!dir.join(lease).exists(), "{lease}");
        }
    });
}

#[test]
fn killed_add_is_removed_after_the_grace_period_and_not_before() {
    rscni_test::run(|lab| {
        let mut node = Node::new(lab);
        let pods = network("pods", 1, &[]);
        let [killed, running] = ["a", "b"].map(|name| node.attach(&pods, name));
        // Neither the cache nor the runtime has it yet, or ever will.
        for pod in [&killed, &running] {
            Cache::default().remove("pods", &params(pod)).unwrap();
        }
        node.remove_namespace(&killed);
        let before = [Node::owned_by(&killed), Node::owned_by(&running)];
        assert!(before.iter().all(|owned| owned.iter().any(|it| it.contains("address"))));
        node.settings.grace = Duration::from_secs(3600);
        let mut collector = node.collector();
        for _ in 0..2 {
            let report = collector.pass(false).unwrap();
            let is_waiting =
                |it: &rscnid::gc::collector::Finding| !it.is_confirmed && !it.is_removed;
            assert!(!report.findings.is_empty() && report.findings.iter().all(is_waiting));
            assert_eq!([Node::owned_by(&killed), Node::owned_by(&running)], before);
        }
        node.settings.grace = Duration::ZERO;
        node.pass();
        assert_eq!(Node::owned_by(&killed), Vec::<String>::new());
        // Its interface is in a namespace.
        assert_eq!(Node::owned_by(&running), before[1]);
    });
}

#[test]
fn everything_of_an_earlier_boot_is_removed_at_once() {
    rscni_test::run(|lab| {
        let mut node = Node::new(lab);
        node.settings.grace = Duration::from_secs(3600);
        let pods = network("pods", 1, &[]);
        let [cached, uncached, new] = ["a", "b", "c"].map(|name| node.attach(&pods, name));
        Cache::default().remove("pods", &params(&uncached)).unwrap();
        // A reboot keeps the files, and nothing in the kernel.
        for pod in [&cached, &uncached, &new] {
            node.remove_namespace(pod);
        }
        let script = "nft flush ruleset; ip link del br1; \
                      for i in $(ip -o link show type ifb | cut -d: -f2); do ip link del $i; done";
        let done =
            lab.host().run(|| std::process::Command::new("sh").args(["-ec", script]).status());
        assert!(done.unwrap().success());
        age_files();
        let lease = Path::new(LEASES).join("pods/10.1.0.4");
        fs::write(lease, "ctr-c\r\neth0").unwrap();
        node.pass();
        for pod in [&cached, &uncached] {
            assert_eq!(Node::owned_by(pod), Vec::<String>::new());
        }
        // Its lease is of this boot.
        assert_eq!(Node::owned_by(&new).len(), 2);
    });
}

#[test]
fn traces_of_the_go_plugins_are_removed() {
    rscni_test::run(|lab| {
        let node = Node::new(lab);
        let pods = go_network("go", 1);
        let [live, gone] = ["a", "b"].map(|name| node.attach(&pods, name));
        Cache::default().remove("go", &params(&gone)).unwrap();
        node.remove_namespace(&gone);
        // Old releases wrote only the container; a power loss leaves empty files.
        let leases = Path::new(LEASES).join("go");
        fs::write(leases.join("10.1.0.77"), "old-container").unwrap();
        fs::write(leases.join("10.1.0.78"), "").unwrap();
        fs::write(leases.join("10.1.0.79"), "live-container").unwrap();
        node.runtime.knows(&[(live.id(), true), ("live-container", true)]);
        let chains = |owned: &[String]| owned.iter().filter(|it| it.contains("chain")).count();
        assert!(chains(&Node::owned_by(&gone)) >= 2, "{:?}", Node::owned());
        let mut kept = Node::owned_by(&live);
        node.pass();
        let mut left = Node::owned();
        assert!(left.iter().any(|it| it.contains("10.1.0.79 of live-container")), "{left:?}");
        left.retain(|it| !it.contains("live-container"));
        left.sort();
        kept.sort();
        assert_eq!(left, kept);
        assert!(chains(&left) >= 2);
    });
}

#[test]
fn nothing_is_removed_without_the_list_of_the_runtime() {
    rscni_test::run(|lab| {
        let mut node = Node::new(lab);
        let pods = network("pods", 1, &[]);
        let gone = node.attach(&pods, "a");
        node.remove_namespace(&gone);
        fs::write(Path::new(LEASES).join("pods/10.1.0.78"), "").unwrap();
        let before = lab.snapshot();
        node.runtime.fails(14);
        let error = format!("{:#}", node.collector().pass(false).unwrap_err());
        assert!(error.contains("cri.sock") && error.contains("gRPC status 14"), "{error}");
        node.settings.socket = lab.dir().join("none.sock");
        let error = format!("{:#}", node.collector().pass(false).unwrap_err());
        assert!(error.contains("none.sock") && error.contains("No such file"), "{error}");
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn nothing_is_removed_if_no_namespace_of_a_ready_sandbox_is_visible() {
    rscni_test::run(|lab| {
        let node = Node::new(lab);
        let pods = network("pods", 1, &[]);
        let [ready, other] = ["a", "b"].map(|name| node.attach(&pods, name));
        node.remove_namespace(&ready);
        node.remove_namespace(&other);
        node.runtime.knows(&[(ready.id(), true)]);
        let before = lab.snapshot();
        let error = node.collector().pass(false).unwrap_err().to_string();
        assert!(error.contains("mountPropagation"), "{error}");
        lab.assert_unchanged_since(&before);
    });
}

/// Calls linked plugins, and blocks in `slow` until the test lets it go on.
struct Slow {
    entered: mpsc::Sender<()>,
    released: std::sync::Mutex<mpsc::Receiver<()>>,
}

impl Exec for Slow {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        if plugin == "slow" { Ok("/slow".into()) } else { LinkedFirst.find(plugin, path) }
    }

    fn exec(&self, invocation: &Invocation) -> std::io::Result<Outcome> {
        if invocation.plugin != "slow" {
            return LinkedFirst.exec(invocation);
        }
        self.entered.send(()).unwrap();
        self.released.lock().unwrap().recv().unwrap();
        let config: serde_json::Value = serde_json::from_slice(&invocation.stdin).unwrap();
        let stdout = config["prevResult"].to_string().into_bytes();
        Ok(Outcome::new(Exit::Status(0), stdout))
    }
}

#[test]
fn attachment_is_kept_while_a_call_of_this_library_is_in_progress() {
    rscni_test::run(|lab| {
        let node = Node::new(lab);
        let pod = lab.container("a");
        let ipam = json!({ "type": "host-local", "subnet": "10.2.0.0/24" });
        let pods =
            list("pods", &[json!({ "type": "ptp", "ipam": ipam }), json!({ "type": "slow" })]);
        let (entered, has_entered) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let slow = Slow { entered, released: released.into() };
        thread::scope(|scope| {
            let params = params(&pod);
            let add = scope.spawn(move || {
                Runtime::new(slow, ["/none"]).add(&pods, &params).unwrap();
            });
            has_entered.recv().unwrap();
            // Now only the lock protects it.
            node.remove_namespace(&pod);
            let before = Node::owned_by(&pod);
            assert!(!before.is_empty());
            let report = node.pass();
            assert!(report.findings.iter().all(|it| it.is_confirmed && !it.is_removed), "{report}");
            assert!(Node::owned_by(&pod).iter().any(|it| it.contains("10.2.0.2")));
            release.send(()).unwrap();
            add.join().unwrap();
        });
    });
}

#[test]
fn foreign_plugins_are_called_with_del_and_linked_ones_win_over_files() {
    rscni_test::run(|lab| {
        let node = Node::new(lab);
        let log = lab.dir().join("calls");
        let script = |name: &str, text: &str| {
            let file = node.settings.plugin_dirs[0].join(name);
            fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let record =
            format!("echo $CNI_COMMAND $CNI_CONTAINERID \"[$CNI_NETNS]\" >> {}", log.display());
        script(
            "foreign",
            &format!("{record}\n[ $CNI_COMMAND != ADD ] || echo '{{\"cniVersion\":\"1.0.0\"}}'"),
        );
        script("bridge", &format!("{record}\nexit 1"));
        script("host-local", &format!("{record}\nexit 1"));
        let pods = network("pods", 1, &[json!({ "type": "foreign" })]);
        let gone = node.attach(&pods, "a");
        node.remove_namespace(&gone);
        node.pass();
        // The result of `foreign` has no addresses, so the plugins before it miss what they added.
        node.pass();
        assert_eq!(Node::owned(), Vec::<String>::new());
        let calls = fs::read_to_string(log).unwrap();
        assert_eq!(calls, "ADD ctr-a [/run/netns/a]\nDEL ctr-a []\n");
    });
}

#[test]
fn failing_del_is_reported_and_repeated() {
    rscni_test::run(|lab| {
        let node = Node::new(lab);
        let plugin = node.settings.plugin_dirs[0].join("foreign");
        fs::write(&plugin, "#!/bin/sh\necho '{\"cniVersion\":\"1.0.0\"}'\n").unwrap();
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
        let gone = node.attach(&list("pods", &[json!({ "type": "foreign" })]), "a");
        node.remove_namespace(&gone);
        fs::rename(&plugin, plugin.with_extension("off")).unwrap();
        for _ in 0..2 {
            let report = node.collector().pass(false).unwrap();
            assert_eq!(report.failures.len(), 1);
            let failure = &report.failures[0];
            assert!(
                failure.contains("ctr-a/eth0 from pods") && failure.contains("foreign"),
                "{failure}"
            );
            assert!(report.findings.iter().all(|it| !it.is_removed));
        }
        fs::rename(plugin.with_extension("off"), &plugin).unwrap();
        node.pass();
        assert_eq!(Node::owned(), Vec::<String>::new());
    });
}

#[test]
fn attachments_of_processes_and_of_networks_with_disable_gc_are_kept() {
    rscni_test::run(|lab| {
        let node = Node::new(lab);
        let [disabled, process] = ["a", "b"].map(|name| lab.container(name));
        let plugins = |subnet: &str| {
            let ipam = json!({ "type": "host-local", "subnet": subnet });
            [json!({ "type": "ptp", "ipam": ipam })]
        };
        let text = json!({ "cniVersion": "1.1.0", "name": "off", "disableGC": true,
            "plugins": plugins("10.2.0.0/24") });
        let off = rscni::runtime::NetConfList::from_json(text.to_string().as_bytes()).unwrap();
        node.plugins().add(&off, &params(&disabled)).unwrap();
        let mut of_process = params(&process);
        let mut child =
            process.run(|| std::process::Command::new("sleep").arg("600").spawn().unwrap());
        of_process.netns = Some(format!("/proc/{}/ns/net", child.id()).into());
        node.plugins().add(&list("pods", &plugins("10.4.0.0/24")), &of_process).unwrap();
        node.remove_namespace(&disabled);
        lab.remove_namespace(&process);
        let before = lab.snapshot();
        let outcome = node.collector().pass(false);
        let after = lab.changes_since(&before);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(outcome.unwrap().findings, []);
        assert_eq!(after, Vec::<String>::new());
        // Without the process, its namespace is gone.
        let report = node.pass();
        assert!(report.findings.iter().any(|it| it.is_removed), "{report}");
        assert_eq!(Node::owned_by(&process), Vec::<String>::new());
        assert!(!Node::owned_by(&disabled).is_empty());
    });
}
