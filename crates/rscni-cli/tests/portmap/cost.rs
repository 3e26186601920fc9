//! What calls cost: what they send and receive, and nothing at all where there are no ports.

use std::os::unix::fs::PermissionsExt;

use rscni_test::{Lab, Plugin};
use serde_json::{Value, json};

use crate::published::{bridge, mapping, portmap, publish, web};

/// A plugin under `strace`, which writes the calls of these kinds into the file.
fn traced(lab: &Lab, calls: &str) -> (Plugin, std::path::PathBuf) {
    let (log, script) = (lab.dir().join("strace"), lab.dir().join("portmap"));
    let program = "/run/rscni-test/bin/portmap";
    let text =
        format!("#!/bin/sh\nexec strace -f -qq -e trace={calls} -o {} {program}\n", log.display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    (lab.plugin(script), log)
}

#[test]
fn without_ports_nothing_is_touched_and_no_socket_opened() {
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
            // strace begins with the program itself.
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
        // It makes what is there once for all.
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
