//! The cost of calls. Without ports there is none.

use rscni_test::{Lab, Plugin};
use serde_json::{Value, json};

use crate::{
    published::{bridge, mapping, portmap, publish, web},
    support::write_strace,
};

/// Returns portmap under `strace`, and the log of these system calls.
fn traced(lab: &Lab, calls: &str) -> (Plugin, std::path::PathBuf) {
    let (script, log) = write_strace(lab, "portmap", calls);
    (lab.plugin(script), log)
}

#[test]
fn without_ports_no_socket_is_opened() {
    rscni_test::run(|lab| {
        let link = bridge(lab).attach(lab, "a");
        let before = lab.snapshot();
        for mappings in [json!([]), json!(null)] {
            let network = portmap(lab, &link.network, &json!({}), &mappings);
            let (plugin, log) = traced(lab, "socket,execve,clone,clone3,fork,vfork");
            let config = link.reply.follow(&network.config);
            let result = plugin.add(&link, "eth0", &config).success();
            assert_eq!(result.json(), link.reply.json());
            plugin.check(&link, "eth0", &config).success();
            plugin.del(&link, "eth0", &config).success();
            let calls = std::fs::read_to_string(&log).unwrap();
            // The log begins with the program itself.
            assert!(
                calls.lines().all(|line| line.contains("execve(\"/run/rscni-test/bin/portmap\"")),
                "{calls}"
            );
        }
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn calls_cost_the_same_with_one_port_or_a_thousand() {
    rscni_test::run(|lab| {
        let network = bridge(lab);
        // The first attachment creates the shared rules.
        publish(lab, &network, "first", &json!({}), &json!([mapping(1, "tcp")]));
        let link = network.attach(lab, "a");
        let config = link.reply.follow(&portmap(lab, &network, &json!({}), &web()).config);
        let (plugin, log) = traced(lab, "sendto,sendmsg,recvfrom,recvmsg");
        let cost = || {
            ["ADD", "CHECK", "DEL"].map(|command| {
                plugin.call(command).attachment(&link, "eth0").config(&config).run().success();
                std::fs::read_to_string(&log).unwrap().lines().count()
            })
        };
        let one = cost();
        assert!(one.iter().all(|messages| *messages > 1), "{one:?}");
        let many: Vec<Value> = (10_000..11_000).map(|port| mapping(port, "tcp")).collect();
        let many = publish(lab, &network, "many", &json!({}), &many.into());
        assert_eq!(cost(), one);
        many.check().success();
        many.ports.del().success();
    });
}

#[test]
fn many_ports_of_one_container_all_lead_there() {
    rscni_test::run(|lab| {
        let mappings: Vec<Value> = (10_000..11_000).map(|port| mapping(port, "tcp")).collect();
        let a = publish(lab, &bridge(lab), "a", &json!({}), &mappings.into());
        let server = a.serve_tcp(80);
        for port in [10_000, 10_500, 10_999] {
            lab.host().tcp(format!("127.0.0.1:{port}")).assert_by(&server);
            a.tcp(format!("10.1.0.1:{port}")).assert_by(&server);
        }
    });
}
