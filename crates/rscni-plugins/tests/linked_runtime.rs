//! Networks of linked plugins, run by a program without plugin files.

use std::path::{Path, PathBuf};

use rscni::{
    Attachment, CNIResult, Error,
    invoke::OnThread,
    runtime::{AsyncRuntime, AttachmentParams, NetConfList, Runtime},
};
use rscni_plugins::Linked;
use rscni_test::{Container, Lab};

fn network() -> NetConfList {
    let list = br#"{
        "cniVersion": "1.1.0", "name": "net",
        "plugins": [
            {
                "type": "bridge", "isGateway": true,
                "ipam": { "type": "host-local", "subnet": "10.1.0.0/24" }
            }
        ]
    }"#;
    NetConfList::from_json(list).unwrap()
}

fn params(container: &Container) -> AttachmentParams {
    AttachmentParams::new(container.id(), container.path(), "eth0")
}

/// Returns the network namespace of this thread.
fn own_namespace() -> PathBuf {
    std::fs::read_link("/proc/thread-self/ns/net").unwrap()
}

fn assert_connected(lab: &Lab, container: &Container, result: &CNIResult) {
    let gateway = result.ips[0].gateway.unwrap();
    container.ping(gateway);
    lab.host().ping(result.ips[0].address.addr());
}

#[test]
fn bridge_and_host_local_need_no_file_and_move_no_thread() {
    rscni_test::run(|lab| {
        let namespace = own_namespace();
        let (runtime, network) = (Runtime::new(Linked, ["/nowhere"]), network());
        let [a, b] = ["a", "b"].map(|name| lab.container(name));
        runtime.status(&network).unwrap();
        assert_eq!(runtime.validate(&network), Ok(Vec::new()));
        for container in [&a, &b] {
            let result = runtime.add(&network, &params(container)).unwrap();
            assert_eq!(own_namespace(), namespace);
            assert_connected(lab, container, &result);
            runtime.check(&network, &params(container)).unwrap();
        }
        runtime
            .gc(&network, &[Attachment { container_id: b.id().into(), ifname: "eth0".into() }])
            .unwrap();
        assert_eq!(runtime.check(&network, &params(&a)).unwrap_err().code(), 3);
        runtime.check(&network, &params(&b)).unwrap();
        runtime.del(&network, &params(&b)).unwrap();
        assert_eq!(own_namespace(), namespace);
        assert!(!Path::new("/var/lib/cni/networks/net/10.1.0.3").exists());
        assert_eq!(runtime.cache().list().unwrap().entries, []);
    });
}

#[test]
fn a_runtime_that_does_not_block_calls_them_on_threads() {
    rscni_test::run(|lab| {
        let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let [a, b] = ["a", "b"].map(|name| lab.container(name));
        executor
            .block_on(async {
                let (runtime, network) =
                    (AsyncRuntime::new(OnThread(Linked), ["/nowhere"]), network());
                let [of_a, of_b] = [&a, &b].map(params);
                let (result_a, result_b) =
                    tokio::join!(runtime.add(&network, &of_a), runtime.add(&network, &of_b));
                assert_connected(lab, &a, &result_a.unwrap());
                assert_connected(lab, &b, &result_b.unwrap());
                runtime.check(&network, &of_a).await?;
                runtime.del(&network, &of_a).await?;
                runtime.del(&network, &of_b).await?;
                Ok::<(), Error>(())
            })
            .unwrap();
    });
}
