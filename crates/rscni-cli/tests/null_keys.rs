//! A key that is null counts as absent, because some programs write null for missing values.

mod support;

use rscni_test::Lab;
use rstest::rstest;
use serde_json::{Value, json};

use support::{Network, V4, host_local};

/// Returns the output of STATUS: nothing, or an error reply.
fn status(lab: &Lab, plugin: &str, keys: &Value) -> String {
    // `Network::with` would remove keys that are null.
    let mut network = Network::new(lab, plugin, &json!({}));
    network.config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    network.status().stdout()
}

#[rstest]
#[case::bridge("bridge", json!({}), &[
    "bridge", "isGateway", "isDefaultGateway", "forceAddress", "ipMasq", "ipMasqBackend", "ipMasqFamilies", "mtu", "hairpinMode",
    "promiscMode", "vlan", "vlanTrunk", "preserveDefaultVlan", "macspoofchk", "enabledad", "disableContainerInterface",
    "portIsolation", "ipam", "dns", "runtimeConfig", "args", "capabilities",
])]
#[case::ptp("ptp", json!({ "ipam": host_local(&[V4]) }), &["ipMasq", "ipMasqBackend", "ipMasqFamilies", "mtu", "dns", "runtimeConfig"])]
#[case::macvlan("macvlan", json!({ "master": "lo" }), &[
    "mode", "mtu", "mac", "linkInContainer", "bcqueuelen", "runtimeConfig", "args", "ipam", "dns",
])]
#[case::ipvlan("ipvlan", json!({ "master": "lo", "ipam": host_local(&[V4]) }), &["mode", "mtu", "linkInContainer", "dns"])]
#[case::vlan("vlan", json!({ "master": "lo", "ipam": host_local(&[V4]) }), &["vlanId", "mtu", "linkInContainer", "dns"])]
#[case::host_device("host-device", json!({ "device": "lo" }), &[
    "hwaddr", "kernelpath", "pciBusID", "DPDKMode", "ipam", "dns", "runtimeConfig",
])]
#[case::tap("tap", json!({}), &[
    "multiQueue", "owner", "group", "mtu", "mac", "bridge", "selinuxContext", "runtimeConfig", "args", "ipam", "dns",
])]
#[case::dummy("dummy", json!({ "ipam": host_local(&[V4]) }), &["dns", "runtimeConfig", "args"])]
#[case::loopback("loopback", json!({}), &["ipam", "dns", "runtimeConfig", "args", "capabilities"])]
#[case::portmap("portmap", json!({}), &[
    "backend", "snat", "masqAll", "markMasqBit", "externalSetMarkChain", "conditionsV4", "conditionsV6", "runtimeConfig",
])]
#[case::bandwidth("bandwidth", json!({}), &[
    "ingressRate", "ingressBurst", "egressRate", "egressBurst", "unshapedSubnets", "shapedSubnets", "runtimeConfig",
])]
#[case::firewall("firewall", json!({}), &["backend", "ingressPolicy", "iptablesAdminChainName", "firewalldZone"])]
#[case::tuning("tuning", json!({}), &[
    "sysctl", "mac", "promisc", "mtu", "allmulti", "txQLen", "dataDir", "args", "runtimeConfig",
])]
#[case::sbr("sbr", json!({}), &["table", "gateways", "addSourceHints"])]
#[case::vrf("vrf", json!({ "vrfname": "blue" }), &["table"])]
#[case::flannel("flannel", json!({}), &["subnetFile", "dataDir", "delegate", "ipam", "runtimeConfig"])]
fn every_optional_key_may_be_null(
    #[case] plugin: &str,
    #[case] keys: Value,
    #[case] optional: &[&str],
) {
    rscni_test::run(|lab| {
        let expected = status(lab, plugin, &keys);
        let mut all = keys.clone();
        for key in optional {
            let mut one = keys.clone();
            one[key] = Value::Null;
            assert_eq!(status(lab, plugin, &one), expected, "{key}");
            all[key] = Value::Null;
        }
        assert_eq!(status(lab, plugin, &all), expected);
    });
}

/// Null within objects and lists, with an equal configuration.
#[rstest]
#[case::port_mapping("portmap",
    json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 1, "containerPort": 2, "protocol": null, "hostIP": null }] } }),
    json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 1, "containerPort": 2 }] } })
)]
#[case::port_mapping_of_containerd("portmap",
    json!({ "runtimeConfig": { "portMappings": [{ "HostPort": 1, "ContainerPort": 2, "Protocol": "udp", "HostIP": null }] } }),
    json!({ "runtimeConfig": { "portMappings": [{ "HostPort": 1, "ContainerPort": 2, "Protocol": "udp" }] } })
)]
#[case::port_without_a_number("portmap",
    json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 1, "containerPort": null }] } }),
    json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 1 }] } })
)]
#[case::no_port_mappings("portmap", json!({ "runtimeConfig": { "portMappings": null } }), json!({}))]
#[case::bandwidth("bandwidth",
    json!({ "runtimeConfig": { "bandwidth": {
        "ingressRate": 8000, "ingressBurst": 8000, "egressRate": null, "egressBurst": null
    } } }),
    json!({ "runtimeConfig": { "bandwidth": { "ingressRate": 8000, "ingressBurst": 8000 } } })
)]
#[case::no_bandwidth("bandwidth", json!({ "runtimeConfig": { "bandwidth": null } }), json!({}))]
#[case::mac("bridge", json!({ "runtimeConfig": { "mac": null }, "args": { "cni": { "mac": null } } }), json!({}))]
#[case::args("bridge", json!({ "args": { "cni": null } }), json!({}))]
#[case::dns("bridge", json!({ "dns": { "nameservers": null, "domain": null, "search": null, "options": null } }), json!({}))]
#[case::trunk("bridge",
    json!({ "vlanTrunk": [{ "id": 5, "minID": null, "maxID": null }] }), json!({ "vlanTrunk": [{ "id": 5 }] })
)]
#[case::tuning("tuning",
    json!({ "args": { "cni": { "sysctl": null, "mac": null, "promisc": null, "mtu": null, "allmulti": null, "txQLen": null } } }),
    json!({})
)]
#[case::device("host-device",
    json!({ "device": "lo", "runtimeConfig": { "deviceID": null } }), json!({ "device": "lo" })
)]
#[case::host_local("ptp",
    json!({ "ipam": {
        "type": "host-local", "routes": null, "resolvConf": null, "dataDir": null, "reclaimAfterReboot": null,
        "subnet": null, "rangeStart": null, "rangeEnd": null, "gateway": null,
        "ranges": [[{ "subnet": V4, "rangeStart": null, "rangeEnd": null, "gateway": null }]],
    }, "runtimeConfig": { "ipRanges": null, "ips": null }, "args": { "cni": { "ips": null } } }),
    json!({ "ipam": host_local(&[V4]) })
)]
#[case::ranges_of_the_runtime("ptp",
    json!({ "ipam": { "type": "host-local" }, "runtimeConfig": {
        "ipRanges": [[{ "subnet": V4, "rangeStart": null, "rangeEnd": null, "gateway": null }]]
    } }),
    json!({ "ipam": { "type": "host-local" }, "runtimeConfig": { "ipRanges": [[{ "subnet": V4 }]] } })
)]
#[case::fixed("ptp",
    json!({ "ipam": {
        "type": "static", "dns": null, "addresses": [{ "address": "10.1.0.5/24", "gateway": null }],
        "routes": [{
            "dst": "0.0.0.0/0", "gw": null, "mtu": null, "advmss": null, "priority": null, "table": null, "scope": null
        }]
    }, "runtimeConfig": { "ips": null } }),
    json!({ "ipam": {
        "type": "static", "addresses": [{ "address": "10.1.0.5/24" }], "routes": [{ "dst": "0.0.0.0/0" }]
    } })
)]
#[case::dhcp("ptp",
    json!({ "ipam": {
        "type": "dhcp", "daemonSocketPath": null, "priority": null,
        "request": [{ "option": null, "skipDefault": null }], "provide": [{ "option": "12", "value": "x", "fromArg": null }],
    } }),
    json!({ "ipam": { "type": "dhcp", "request": [{}], "provide": [{ "option": "12", "value": "x" }] } })
)]
#[case::dhcp_lists("ptp",
    json!({ "ipam": { "type": "dhcp", "request": null, "provide": null } }), json!({ "ipam": { "type": "dhcp" } })
)]
#[case::delegate("flannel", json!({ "delegate": { "type": null } }), json!({ "delegate": {} }))]
fn null_within_a_key_counts_as_absent(
    #[case] plugin: &str,
    #[case] keys: Value,
    #[case] same: Value,
) {
    rscni_test::run(|lab| assert_eq!(status(lab, plugin, &keys), status(lab, plugin, &same)));
}

#[test]
fn a_port_without_a_host_ip_is_published_on_all_addresses() {
    rscni_test::run(|lab| {
        let link = Network::bridge(lab, &[V4], &json!({})).attach(lab, "a");
        let mappings =
            json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": null }]);
        let portmap =
            Network::new(lab, "portmap", &json!({ "runtimeConfig": { "portMappings": mappings } }));
        let ports = portmap.after(&link);
        let server = link.serve_tcp(80);
        lab.host().tcp("10.1.0.1:8080").assert_by(&server);
        ports.check().success();
        ports.del().success();
    });
}
