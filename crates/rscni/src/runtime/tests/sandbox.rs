//! Sandboxes with several networks.

use std::sync::Condvar;

use super::*;

/// Networks `a`, `b` and so on, each with one plugin of that name.
fn networks(names: &[&str]) -> Networks {
    let list = |name: &&str| {
        let plugins = json!([{ "type": name, "capabilities": { "mac": true } }]);
        let json = json!({ "cniVersion": "1.1.0", "name": name, "plugins": plugins });
        NetConfList::from_json(json.to_string().as_bytes()).unwrap()
    };
    Networks::of(names.iter().map(list))
}

fn sandbox() -> Sandbox {
    Sandbox::new("box", "/run/netns/box")
}

/// Returns the calls, in any order.
fn sorted(script: &Script) -> Vec<String> {
    let mut calls = script.calls();
    calls.sort();
    calls
}

fn plugins(script: &Script) -> Vec<String> {
    script.calls().iter().map(|call| call.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

struct Node {
    _dir: tempfile::TempDir,
    cache: Cache,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { cache: Cache::new(dir.path()), _dir: dir }
    }

    fn runtime<'a>(&self, script: &'a Script) -> Runtime<&'a Script> {
        Runtime::new(script, ["/x"]).with_cache(self.cache.clone())
    }

    /// Returns the networks in the cache.
    fn cached(&self) -> Vec<String> {
        let entries = self.cache.list().unwrap().entries;
        entries.into_iter().map(|entry| entry.network).collect()
    }
}

#[test]
fn each_network_gets_its_interface_and_the_options_of_the_sandbox() {
    let (node, script) = (Node::new(), Script::default());
    let networks = networks(&["a", "b"]).with_loopback().with_interface_prefix("net");
    let sandbox = sandbox().with_arg("K", "v").with_capability("mac", "02:00:00:00:00:01");
    let attached = node.runtime(&script).attach(&networks, &sandbox).unwrap();
    assert_eq!(attached.interfaces.keys().collect::<Vec<_>>(), ["lo", "net0", "net1"]);
    assert_eq!(attached.interfaces["net1"].ips[0].address.to_string(), "10.0.0.2/24");
    assert_eq!(
        attached.results.iter().map(|it| it.network.as_str()).collect::<Vec<_>>(),
        ["cni-loopback", "a", "b"]
    );
    {
        let calls = script.calls.lock().unwrap();
        let variable = |name: &str| calls.iter().map(|call| call.vars[name].clone()).collect();
        let (ifnames, args): (Vec<_>, Vec<_>) = (variable("CNI_IFNAME"), variable("CNI_ARGS"));
        assert_eq!(ifnames, ["lo", "net0", "net1"]);
        assert_eq!(args, ["K=v"; 3]);
        let config: Value = serde_json::from_slice(&calls[1].stdin).unwrap();
        assert_eq!(config["runtimeConfig"], json!({ "mac": "02:00:00:00:00:01" }));
    }
    assert_eq!(plugins(&script), ["ADD loopback", "ADD a", "ADD b"]);
    node.runtime(&script).check_all(&networks, &sandbox).unwrap();
    assert_eq!(plugins(&script), ["CHECK loopback", "CHECK a", "CHECK b"]);
    node.runtime(&script).detach(&networks, &sandbox).unwrap();
    assert_eq!(plugins(&script), ["DEL b", "DEL a", "DEL loopback"]);
    assert!(node.cached().is_empty());
}

/// Plugins whose ADDs wait for each other.
struct Meeting {
    expected: usize,
    arrived: Mutex<usize>,
    all_arrived: Condvar,
}

impl Exec for &Meeting {
    fn find(&self, plugin: &str, _: &[PathBuf]) -> Result<PathBuf, Error> {
        Ok(plugin.into())
    }

    fn exec(&self, _: &Invocation) -> io::Result<Outcome> {
        let mut arrived = self.arrived.lock().unwrap();
        *arrived += 1;
        self.all_arrived.notify_all();
        let wait = |arrived| {
            let is_waiting = |arrived: &mut usize| *arrived < self.expected;
            self.all_arrived.wait_timeout_while(arrived, Duration::from_secs(60), is_waiting)
        };
        if wait(arrived).unwrap().1.timed_out() {
            return Err(io::Error::other("the other calls have not started"));
        }
        let stdout = br#"{ "cniVersion": "1.1.0" }"#.to_vec();
        Ok(Outcome { exit: Exit::Status(0), stdout, stderr: Vec::new() })
    }
}

#[test]
fn all_networks_are_attached_at_the_same_time_if_configured() {
    let node = Node::new();
    let meeting = Meeting { expected: 3, arrived: Mutex::default(), all_arrived: Condvar::new() };
    let runtime = Runtime::new(&meeting, ["/x"]).with_cache(node.cache.clone());
    let attached = runtime.attach(&networks(&["a", "b", "c"]).in_parallel(), &sandbox()).unwrap();
    let order: Vec<_> = attached.results.iter().map(|it| (&*it.network, &*it.ifname)).collect();
    assert_eq!(order, [("a", "eth0"), ("b", "eth1"), ("c", "eth2")]);
}

#[test]
fn a_failure_in_parallel_rolls_back_the_other_networks() {
    let (node, script) = (Node::new(), Script::failing(&[("ADD", "b")]));
    let networks = networks(&["a", "b", "c"]).in_parallel();
    let failures = node.runtime(&script).attach(&networks, &sandbox()).unwrap_err();
    let texts: Vec<_> = failures.iter().map(Error::details).collect();
    assert_eq!(texts, ["network b: ADD of b (plugin 1 of 1): b cannot"]);
    let calls = plugins(&script);
    // The ADDs and the rollback of b itself run at the same time as the others.
    let of = |command: &str| {
        let mut of: Vec<_> = calls.iter().filter(|call| call.starts_with(command)).collect();
        of.sort();
        of.into_iter().map(String::as_str).collect::<Vec<_>>()
    };
    assert_eq!(of("ADD"), ["ADD a", "ADD b", "ADD c"]);
    assert_eq!(of("DEL"), ["DEL a", "DEL b", "DEL c"]);
    assert_eq!(calls[calls.len() - 2..], ["DEL c", "DEL a"]);
    assert!(node.cached().is_empty());
}

#[test]
fn networks_are_attached_in_order_up_to_the_first_failure() {
    let (node, script) = (Node::new(), Script::failing(&[("ADD", "b")]));
    let networks = networks(&["a", "b", "c"]);
    node.runtime(&script).attach(&networks, &sandbox()).unwrap_err();
    assert_eq!(plugins(&script), ["ADD a", "ADD b", "DEL b", "DEL a"]);
    assert!(node.cached().is_empty());
}

#[test]
fn a_rollback_keeps_attachments_that_already_existed() {
    let (node, script) = (Node::new(), Script::default());
    node.runtime(&script).attach(&networks(&["a"]), &sandbox()).unwrap();
    let script = Script::failing(&[("ADD", "b")]);
    node.runtime(&script).attach(&networks(&["a", "b"]), &sandbox()).unwrap_err();
    assert!(!sorted(&script).iter().any(|call| call.starts_with("DEL a")));
    assert_eq!(node.cached(), ["a"]);
}

#[test]
fn all_errors_of_an_attach_and_its_rollback_are_reported_in_order() {
    let fails = [("ADD", "c"), ("ADD", "b"), ("DEL", "a")];
    let (node, script) = (Node::new(), Script::failing(&fails));
    let networks = networks(&["a", "b", "c"]).in_parallel();
    let failures = node.runtime(&script).attach(&networks, &sandbox()).unwrap_err();
    let texts: Vec<_> = failures.iter().map(Error::details).collect();
    assert_eq!(
        texts,
        [
            "network b: ADD of b (plugin 1 of 1): b cannot",
            "network c: ADD of c (plugin 1 of 1): c cannot",
            "rollback: network a: DEL of a (plugin 1 of 1): a cannot",
        ]
    );
}

#[test]
fn check_detach_and_status_continue_past_errors() {
    let fails = [("CHECK", "a"), ("CHECK", "b"), ("STATUS", "a"), ("DEL", "c"), ("DEL", "b")];
    let (node, script) = (Node::new(), Script::failing(&fails));
    let (runtime, networks) = (node.runtime(&script), networks(&["a", "b", "c"]));
    runtime.attach(&networks, &sandbox()).unwrap();
    script.calls();
    let failures = [
        (runtime.check_all(&networks, &sandbox()), vec!["CHECK of a", "CHECK of b"]),
        (runtime.status_all(&networks), vec!["STATUS of a"]),
        (runtime.detach(&networks, &sandbox()), vec!["DEL of c", "DEL of b"]),
    ];
    for (failures, expected) in failures {
        let failures = failures.unwrap_err();
        assert_eq!(failures.iter().count(), expected.len(), "{failures}");
        for (error, part) in failures.iter().zip(expected) {
            assert!(error.details().contains(part), "{error}");
        }
    }
    assert_eq!(
        plugins(&script),
        [
            "CHECK a", "CHECK b", "CHECK c", "STATUS a", "STATUS b", "STATUS c", "DEL c", "DEL b",
            "DEL a"
        ]
    );
    assert_eq!(node.cached(), ["b", "c"]);
}

#[test]
fn a_container_is_detached_from_what_the_cache_knows() {
    let (node, script) = (Node::new(), Script::default());
    let runtime = node.runtime(&script);
    let networks = networks(&["a", "b"]).with_loopback();
    runtime.attach(&networks, &sandbox().with_arg("K", "v")).unwrap();
    runtime.attach(&networks, &Sandbox::new("box-2", "/run/netns/other")).unwrap();
    script.calls();
    runtime.detach_all("box").unwrap();
    for call in script.calls.lock().unwrap().iter() {
        let [id, args] = ["CNI_CONTAINERID", "CNI_ARGS"].map(|name| &call.vars[name]);
        assert_eq!((id.to_str(), args.to_str()), (Some("box"), Some("K=v")));
    }
    assert_eq!(
        script.calls(),
        ["DEL b 10.0.0.2/24", "DEL a 10.0.0.1/24", "DEL loopback 10.0.0.0/24"]
    );
    let left = node.cache.list().unwrap().entries;
    assert!(left.len() == 3 && left.iter().all(|entry| entry.params.container_id == "box-2"));
    runtime.detach_all("box").unwrap();
    assert!(script.calls().is_empty());
}

#[test]
fn entries_that_cannot_be_detached_are_reported_and_do_not_stop_others() {
    let (node, script) = (Node::new(), Script::default());
    let runtime = node.runtime(&script);
    runtime.attach(&networks(&["a", "b"]), &sandbox()).unwrap();
    let mut entry = node.cache.load("a", &sandbox().params("eth0")).unwrap().unwrap();
    entry.config = Vec::new();
    node.cache.store(&entry).unwrap();
    let broken = node.cache.file("broken", &sandbox().params("eth9")).unwrap();
    std::fs::write(&broken, "{").unwrap();
    script.calls();
    let failures = runtime.detach_all("box").unwrap_err();
    let texts: Vec<_> = failures.iter().map(Error::details).collect();
    assert_eq!(texts.len(), 2, "{failures}");
    assert!(texts[0].contains("a-box-eth0") && texts[0].contains("call DEL"), "{}", texts[0]);
    assert!(texts[1].contains("broken-box-eth9"), "{}", texts[1]);
    assert_eq!(plugins(&script), ["DEL b"]);
    assert_eq!(node.cached(), ["a"]);
}

#[test]
fn an_observer_receives_every_call() {
    struct Log;
    impl Exec for Log {
        fn find(&self, plugin: &str, _: &[PathBuf]) -> Result<PathBuf, Error> {
            Ok(plugin.into())
        }
        fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
            let (status, stdout) = match invocation.vars["CNI_COMMAND"].to_str() {
                Some("STATUS") => return Err(io::Error::other("gone")),
                Some("ADD") => (1, br#"{ "code": 7, "msg": "no" }"#.to_vec()),
                _ => (0, Vec::new()),
            };
            std::thread::sleep(Duration::from_millis(2));
            Ok(Outcome { exit: Exit::Status(status), stdout, stderr: b"words".into() })
        }
    }
    let (node, seen) = (Node::new(), std::sync::Arc::new(Mutex::new(Vec::new())));
    let log = seen.clone();
    let runtime =
        Runtime::new(Log, ["/x"]).with_cache(node.cache.clone()).with_observer(move |call| {
            let attachment = call.container_id().zip(call.ifname());
            log.lock().unwrap().push(format!(
                "{} {} {attachment:?} {} {:?} {}",
                call.command().unwrap(),
                call.plugin(),
                String::from_utf8_lossy(call.stderr()),
                call.error().map(|error| error.code()),
                call.duration >= Duration::from_millis(2) || call.outcome.is_err()
            ));
        });
    runtime.attach(&networks(&["a"]), &sandbox()).unwrap_err();
    runtime.status_all(&networks(&["a"])).unwrap_err();
    runtime.version("a").unwrap_err();
    assert_eq!(
        *seen.lock().unwrap(),
        [
            r#"ADD a Some(("box", "eth0")) words Some(7) true"#,
            r#"DEL a Some(("box", "eth0")) words None true"#,
            "STATUS a None  Some(5) true",
            "VERSION a None words None true",
        ]
    );
}
