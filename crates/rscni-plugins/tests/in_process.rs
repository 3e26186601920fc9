//! The plugins linked into a runtime: no plugin is installed anywhere, and no process is started.

use rscni::runtime::{AttachmentParams, Cache, NetConfList, Runtime};
use rscni_plugins::Linked;
use rscni_test::{Container, Lab};

const LIST: &str = r#"{
    "cniVersion": "1.0.0", "name": "net", "plugins": [{
        "type": "bridge", "isDefaultGateway": true, "ipMasq": true,
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "fd01::/64" }]] }
    }]
}"#;

fn runtime(lab: &Lab) -> Runtime<Linked> {
    let nowhere: [&str; 0] = [];
    Runtime::new(Linked, nowhere).with_cache(Cache::new(lab.dir()))
}

fn params(container: &Container) -> AttachmentParams {
    AttachmentParams::new(container.id(), container.path(), "eth0")
}

/// What this thread's network namespace is.
fn own_netns() -> std::path::PathBuf {
    std::fs::read_link("/proc/thread-self/ns/net").unwrap()
}

#[test]
fn a_network_runs_from_any_thread_without_moving_it() {
    rscni_test::run(|lab| {
        let list = NetConfList::from_json(LIST.as_bytes()).unwrap();
        let containers = ["a", "b"].map(|name| lab.container(name));
        let own = own_netns();
        let threads = containers.each_ref().map(|container| {
            let (list, own) = (&list, &own);
            move || {
                let runtime = runtime(lab);
                let result = runtime.add(list, &params(container)).unwrap();
                assert_eq!(own_netns(), *own, "ADD moved the thread");
                result.ips[0].address.addr()
            }
        });
        let addresses =
            std::thread::scope(|scope| threads.map(|thread| scope.spawn(thread)).map(|thread| thread.join().unwrap()));

        let [a, b] = &containers;
        a.ping("10.1.0.1");
        a.ping(addresses[1]);
        b.ping("fd01::1");
        for container in &containers {
            runtime(lab).check(&list, &params(container)).unwrap();
            runtime(lab).del(&list, &params(container)).unwrap();
            assert_eq!(own_netns(), own, "DEL moved the thread");
            assert!(container.netlink().find_link("eth0").unwrap().is_none());
        }
    });
}

#[test]
fn a_plugin_that_is_not_linked_in_is_looked_for_and_named() {
    rscni_test::run(|lab| {
        let list = NetConfList::from_json(LIST.replace("\"bridge\"", "\"bridgge\"").as_bytes()).unwrap();
        let error = runtime(lab).add(&list, &params(&lab.container("a"))).unwrap_err();
        assert!(error.code() == 7 && error.details().contains("bridgge"), "{error}");
    });
}
