//! The error for an invalid value of each documented key contains the path of the key, the value,
//! and what is expected.

use std::collections::BTreeMap;

use rscni::Request;
use serde_json::{Value, json};

/// A key and two invalid values: one of the wrong type, and one of the right type. The second is
/// empty if every value of the type is valid, or depends on the host.
type Case = (&'static str, &'static str, &'static str);

/// The keys of a plugin, in an otherwise valid configuration.
struct Keys {
    plugin: &'static str,
    base: &'static str,
    cases: &'static [Case],
}

const HOST_LOCAL: &str = r#"{ "ipam": { "type": "host-local", "subnet": "10.1.0.0/24" } }"#;
const MASTER: &str =
    r#"{ "master": "spare", "ipam": { "type": "host-local", "subnet": "10.1.0.0/24" } }"#;
const PREVIOUS: &str = r#"{ "prevResult": { "cniVersion": "1.1.0",
    "interfaces": [{ "name": "eth0", "sandbox": "/run/netns/box" }],
    "ips": [{ "interface": 0, "address": "10.1.0.2/24" }] } }"#;
const VRF: &str =
    r#"{ "vrfname": "blue", "prevResult": { "cniVersion": "1.1.0", "interfaces": [] } }"#;

const ALL: &[Keys] = &[
    Keys {
        plugin: "bridge",
        base: HOST_LOCAL,
        cases: &[
            ("bridge", "5", r#""a-name-that-is-too-long""#),
            ("isGateway", r#""yes""#, ""),
            ("isDefaultGateway", "1", ""),
            ("forceAddress", "[]", ""),
            ("ipMasq", r#""yes""#, ""),
            ("ipMasqBackend", "5", r#""pf""#),
            ("ipMasqFamilies", r#""ipv4""#, "[]"),
            ("mtu", r#""large""#, "-1"),
            ("mtu", "[1]", "1500.5"),
            ("hairpinMode", "0", ""),
            ("promiscMode", r#""""#, ""),
            ("vlan", r#""5""#, "4095"),
            ("vlanTrunk", "5", ""),
            ("vlanTrunk[0].id", r#""5""#, "0"),
            ("vlanTrunk[0].minID", "true", "9"),
            ("vlanTrunk[0].maxID", "[]", "4095"),
            ("preserveDefaultVlan", "{}", ""),
            ("macspoofchk", "2", ""),
            ("enabledad", r#""true""#, ""),
            ("disableContainerInterface", "[true]", ""),
            ("portIsolation", "0", ""),
            ("runtimeConfig.mac", "5", r#""01:00:5e:00:00:01""#),
            ("args.cni.mac", "5", r#""x""#),
            ("CNI_ARGS: MAC", "", r#""00:00:00:00:00:00""#),
            ("ipam", "[]", ""),
            ("ipam.type", "5", ""),
            ("dns", r#""10.0.0.1""#, ""),
            ("dns.nameservers", r#""10.0.0.1""#, ""),
        ],
    },
    Keys {
        plugin: "ptp",
        base: HOST_LOCAL,
        cases: &[
            ("ipMasq", "1", ""),
            ("ipMasqBackend", "{}", r#""pf""#),
            ("ipMasqFamilies", "true", "[]"),
            ("mtu", r#""1500""#, "4294967296"),
            ("ipam", r#""host-local""#, ""),
            ("dns", "[]", ""),
            ("dns.search", r#""a""#, ""),
        ],
    },
    Keys {
        plugin: "macvlan",
        base: MASTER,
        cases: &[
            ("master", "5", r#""a/b""#),
            ("mode", "5", r#""x""#),
            ("mtu", r#""1500""#, "-1"),
            ("mac", "5", r#""x""#),
            ("linkInContainer", "1", ""),
            ("bcqueuelen", r#""9""#, "-1"),
            ("runtimeConfig.mac", "{}", r#""x""#),
            ("args.cni.mac", "[]", r#""x""#),
            ("CNI_ARGS: MAC", "", r#""x""#),
            ("ipam", "5", ""),
            ("dns", "5", ""),
        ],
    },
    Keys {
        plugin: "ipvlan",
        base: MASTER,
        cases: &[
            ("master", "[]", r#""a b""#),
            ("mode", "{}", r#""l4""#),
            ("mtu", "true", "-1"),
            ("linkInContainer", "1", ""),
            ("ipam", "5", ""),
            ("dns", "5", ""),
        ],
    },
    Keys {
        plugin: "vlan",
        base: MASTER,
        cases: &[
            ("master", "5", r#""..""#),
            ("vlanId", r#""5""#, "4095"),
            ("mtu", "{}", "-1"),
            ("linkInContainer", r#""no""#, ""),
            ("ipam", "5", ""),
            ("dns", "5", ""),
        ],
    },
    Keys {
        plugin: "tap",
        base: "{}",
        cases: &[
            ("multiQueue", "1", ""),
            ("owner", r#""root""#, "-1"),
            ("group", "[]", "4294967296"),
            ("mtu", r#""x""#, "-1"),
            ("mac", "5", r#""x""#),
            ("bridge", "5", ""),
            ("selinuxContext", "5", r#""a\nb""#),
            ("runtimeConfig.mac", "5", r#""x""#),
            ("args.cni.mac", "5", r#""x""#),
            ("CNI_ARGS: MAC", "", r#""x""#),
            ("ipam", "5", ""),
            ("dns", "5", ""),
        ],
    },
    Keys { plugin: "dummy", base: HOST_LOCAL, cases: &[("ipam", "5", ""), ("dns", "5", "")] },
    Keys {
        plugin: "host-device",
        base: r#"{ "device": "spare" }"#,
        cases: &[
            ("useInterfaceNetwork", r#""yes""#, ""),
            ("device", "5", r#""a/b""#),
            ("hwaddr", "5", ""),
            ("kernelpath", "5", ""),
            ("pciBusID", "5", r#""x""#),
            ("runtimeConfig.deviceID", "5", r#""a/b""#),
            ("DPDKMode", "1", ""),
            ("ipam", "5", ""),
            ("dns", "5", ""),
        ],
    },
    Keys {
        plugin: "host-device",
        base: "{}",
        cases: &[("hwaddr", "5", r#""x""#), ("kernelpath", "5", r#""/etc""#)],
    },
    Keys {
        plugin: "host-local",
        base: HOST_LOCAL,
        cases: &[
            ("ipam.type", "5", ""),
            ("ipam.ranges", "5", ""),
            ("ipam.ranges[0]", "5", "[]"),
            ("ipam.ranges[0][0]", "5", ""),
            ("ipam.ranges[0][0].subnet", "5", r#""10.0.0.0/33""#),
            ("ipam.ranges[0][0].subnet", "[]", r#""10.010.0.0/24""#),
            ("ipam.subnet", "5", r#""10.1.0.1/24""#),
            ("ipam.rangeStart", "5", r#""10.2.0.1""#),
            ("ipam.rangeEnd", "[]", r#""10.1.0.09""#),
            ("ipam.gateway", "{}", r#""x""#),
            ("ipam.routes", "5", ""),
            ("ipam.routes[0].dst", "5", r#""10.01.0.0/24""#),
            ("ipam.resolvConf", "5", ""),
            ("ipam.dataDir", "5", ""),
            ("ipam.reclaimAfterReboot", r#""yes""#, ""),
            ("ipam.allowOutsideRange", "1", ""),
            ("runtimeConfig.ipRanges", "5", ""),
            ("runtimeConfig.ipRanges[0][0].subnet", "5", r#""10.1.0.0""#),
            ("runtimeConfig.ips", "5", ""),
            ("runtimeConfig.ips[0]", "5", r#""10.1.0.05""#),
            ("args.cni.ips", r#""10.1.0.5""#, ""),
            ("args.cni.ips[0]", "5", r#""10.01.0.5/24""#),
            ("CNI_ARGS: IP", "", r#""10.1.0.05""#),
        ],
    },
    Keys {
        plugin: "static",
        base: r#"{ "ipam": { "type": "static", "addresses": [{ "address": "10.1.0.2/24" }] } }"#,
        cases: &[
            ("ipam.type", "5", ""),
            ("ipam.addresses", "5", ""),
            ("ipam.addresses[0].address", "5", r#""10.1.0.2""#),
            ("ipam.addresses[0].address", "[]", r#""10.01.0.2/24""#),
            ("ipam.addresses[0].gateway", "5", r#""010.1.0.1""#),
            ("ipam.routes", "{}", ""),
            ("ipam.routes[0].dst", "5", r#""10.0.0.0""#),
            ("ipam.routes[0].gw", "5", r#""10.0.0.01""#),
            ("ipam.routes[0].mtu", r#""x""#, "-1"),
            ("ipam.routes[0].advmss", "[]", "-1"),
            ("ipam.routes[0].priority", "{}", "-1"),
            ("ipam.routes[0].table", "true", "4294967296"),
            ("ipam.routes[0].scope", r#""link""#, "256"),
            ("ipam.dns", "[]", ""),
            ("ipam.dns.search", r#""a""#, ""),
            ("runtimeConfig.ips", "5", ""),
            ("runtimeConfig.ips[0]", "5", r#""10.1.0.05/24""#),
            ("args.cni.ips", "5", ""),
            ("args.cni.ips[0]", "5", r#""10.1.0.5""#),
            ("CNI_ARGS: IP", "", r#""10.1.0.05/24""#),
            ("CNI_ARGS: GATEWAY", "", r#""10.1.0.01""#),
        ],
    },
    Keys {
        plugin: "dhcp",
        base: r#"{ "ipam": { "type": "dhcp" } }"#,
        cases: &[
            ("ipam.type", "5", ""),
            ("ipam.daemonSocketPath", "5", r#""a\u0000b""#),
            ("ipam.request", "5", ""),
            ("ipam.request[0].option", "5", r#""x""#),
            ("ipam.request[0].skipDefault", "1", ""),
            ("ipam.provide", "{}", ""),
            ("ipam.provide[0].option", "5", r#""x""#),
            ("ipam.provide[0].value", "5", ""),
            ("ipam.provide[0].fromArg", "5", ""),
            ("ipam.priority", r#""x""#, "-1"),
        ],
    },
    Keys {
        plugin: "portmap",
        base: PREVIOUS,
        cases: &[
            ("backend", "5", r#""pf""#),
            ("snat", "1", ""),
            ("masqAll", "1", ""),
            ("markMasqBit", r#""5""#, "32"),
            ("externalSetMarkChain", "5", r#""a b""#),
            ("conditionsV4", r#""ip""#, ""),
            ("conditionsV4[0]", "5", r#""010.0.0.1""#),
            ("conditionsV6", "5", ""),
            ("conditionsV6[0]", "5", r#""a;b""#),
            ("runtimeConfig.portMappings", "5", ""),
            ("runtimeConfig.portMappings[0]", "5", ""),
            ("runtimeConfig.portMappings[0].hostPort", r#""80""#, "65536"),
            ("runtimeConfig.portMappings[0].containerPort", "[]", "0"),
            ("runtimeConfig.portMappings[0].protocol", "6", r#""icmp""#),
            ("runtimeConfig.portMappings[0].hostIP", "5", r#""010.0.0.1""#),
        ],
    },
    Keys {
        plugin: "bandwidth",
        base: PREVIOUS,
        cases: &[
            ("ingressRate", r#""8k""#, "1"),
            ("ingressBurst", "[]", "-1"),
            ("egressRate", "{}", "-1"),
            ("egressBurst", "true", "8.5"),
            ("unshapedSubnets", "5", ""),
            ("unshapedSubnets[0]", "5", r#""10.010.0.0/24""#),
            ("shapedSubnets", r#""10.0.0.0/8""#, ""),
            ("shapedSubnets[0]", "5", r#""10.0.0.0""#),
            ("runtimeConfig.bandwidth", "5", ""),
            ("runtimeConfig.bandwidth.ingressRate", r#""8k""#, "1"),
            ("runtimeConfig.bandwidth.egressBurst", r#""8k""#, "-1"),
        ],
    },
    Keys {
        plugin: "firewall",
        base: PREVIOUS,
        cases: &[
            ("backend", "5", ""),
            ("ingressPolicy", "5", r#""closed""#),
            ("iptablesAdminChainName", "5", r#""a b""#),
            ("firewalldZone", "5", r#""a\nb""#),
        ],
    },
    Keys {
        plugin: "tuning",
        base: PREVIOUS,
        cases: &[
            ("sysctl", "5", ""),
            ("sysctl.kernel/hostname", "5", ""),
            ("mac", "5", r#""x""#),
            ("promisc", "1", ""),
            ("mtu", r#""x""#, "-1"),
            ("allmulti", "1", ""),
            ("txQLen", r#""x""#, "-1"),
            ("dataDir", "5", ""),
            ("args.cni.sysctl", "5", ""),
            ("args.cni.mac", "5", r#""x""#),
            ("args.cni.promisc", "1", ""),
            ("args.cni.mtu", r#""x""#, "-1"),
            ("args.cni.allmulti", "1", ""),
            ("args.cni.txQLen", r#""x""#, "-1"),
            ("runtimeConfig.mac", "5", r#""x""#),
            ("CNI_ARGS: MAC", "", r#""x""#),
        ],
    },
    Keys {
        plugin: "sbr",
        base: PREVIOUS,
        cases: &[
            ("table", r#""x""#, "0"),
            ("gateways", r#""10.1.0.1""#, ""),
            ("gateways[0]", "5", r#""10.1.0.01""#),
            ("addSourceHints", "1", ""),
        ],
    },
    Keys {
        plugin: "vrf",
        base: VRF,
        cases: &[("vrfname", "5", r#""a-name-that-is-too-long""#), ("table", r#""x""#, "-1")],
    },
    Keys {
        plugin: "flannel",
        base: "{}",
        cases: &[
            ("subnetFile", "5", r#""a\u0000b""#),
            ("dataDir", "5", r#""a\u0000b""#),
            ("delegate", "5", ""),
            ("delegate.type", "5", ""),
            ("ipam", "5", ""),
            ("ipam.type", "5", ""),
            ("runtimeConfig", "5", ""),
        ],
    },
];

/// A component of a path such as `ranges[0].subnet`: a key or an index.
enum Step {
    Key(String),
    Index(usize),
}

/// Splits a path. A name after `/` is one component.
fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in path.split('.') {
        let mut names = part.split('[');
        steps.extend(names.next().filter(|name| !name.is_empty()).map(|key| Step::Key(key.into())));
        steps.extend(names.map(|index| Step::Index(index.trim_end_matches(']').parse().unwrap())));
    }
    steps
}

/// Sets the value at a path, and creates objects and lists of one entry on the way.
fn set(place: &mut Value, steps: &[Step], value: Value) {
    match steps.split_first() {
        None => *place = value,
        Some((Step::Key(key), rest)) => {
            if !place.is_object() {
                *place = json!({});
            }
            set(&mut place[key], rest, value);
        }
        Some((Step::Index(index), rest)) => {
            if !place.is_array() {
                *place = json!([]);
            }
            let list = place.as_array_mut().unwrap();
            list.resize(list.len().max(index + 1), Value::Null);
            set(&mut list[*index], rest, value);
        }
    }
}

/// Adds other keys without which a value is not read.
fn complete(config: &mut Value, path: &str) {
    let neighbours: &[(&str, Value)] = &[
        ("vlanTrunk[0].minID", json!({ "minID": 5, "maxID": 8 })),
        ("vlanTrunk[0].maxID", json!({ "minID": 5, "maxID": 8 })),
        ("ipam.routes[0].", json!({ "dst": "10.9.0.0/16" })),
        ("runtimeConfig.portMappings[0].", json!({ "hostPort": 80, "containerPort": 80 })),
        ("ipam.addresses[0].gateway", json!({ "address": "10.1.0.2/24" })),
    ];
    for (start, neighbour) in neighbours.iter().filter(|(start, _)| path.starts_with(start)) {
        let list = start.split_once("[0]").unwrap().0;
        set(config, &steps(&format!("{list}[0]")), neighbour.clone());
    }
    for (prefix, key) in [("", "ingress"), ("", "egress"), ("runtimeConfig.bandwidth.", "ingress")]
    {
        if path == format!("{prefix}{key}Rate") {
            set(config, &steps(&format!("{prefix}{key}Burst")), json!(80_000));
        }
    }
    if path.starts_with("unshapedSubnets") || path.starts_with("shapedSubnets") {
        set(config, &steps("ingressRate"), json!(80_000));
        set(config, &steps("ingressBurst"), json!(80_000));
    }
}

/// Returns the reply of a plugin to ADD.
fn add(plugin: &str, config: &Value, cni_args: Option<String>) -> Value {
    let mut vars: BTreeMap<String, std::ffi::OsString> = BTreeMap::from([
        ("CNI_COMMAND".into(), "ADD".into()),
        ("CNI_CONTAINERID".into(), "box".into()),
        ("CNI_NETNS".into(), "/run/netns/box".into()),
        ("CNI_IFNAME".into(), "eth0".into()),
        ("CNI_PATH".into(), "/nowhere".into()),
    ]);
    vars.extend(cni_args.map(|args| ("CNI_ARGS".to_owned(), args.into())));
    let request = Request::new(vars, config.to_string().into_bytes());
    let reply = rscni_plugins::find(plugin).expect("there is such a plugin").reply(&request);
    serde_json::from_slice(&reply.stdout).expect("a reply")
}

/// Calls a plugin with an invalid value of a key. Returns what the error lacks.
fn problem(keys: &Keys, path: &str, value: &Value) -> Option<String> {
    let mut config = json!({ "cniVersion": "1.1.0", "name": "net", "type": keys.plugin });
    let base: Value = serde_json::from_str(keys.base).unwrap();
    for (key, value) in base.as_object().unwrap() {
        config[key] = value.clone();
    }
    let mut cni_args = None;
    if let Some(variable) = path.strip_prefix("CNI_ARGS: ") {
        cni_args = Some(format!("IgnoreUnknown=1;{variable}={}", value.as_str().unwrap()));
        if variable == "GATEWAY" {
            cni_args = cni_args.map(|args| args + ";IP=10.1.0.2/24");
        }
    } else {
        complete(&mut config, path);
        set(&mut config, &steps(path), value.clone());
    }
    let reply = add(keys.plugin, &config, cni_args);
    let details = reply["details"].as_str().unwrap_or_default();
    let path_of_vlan_range = path.replace("minID", "m").replace("maxID", "m");
    let names = details.contains(path)
        // A range that ends before it begins names both keys.
        || path != path_of_vlan_range && details.contains("vlanTrunk[0].m")
        // The delegate reports errors in `delegate`.
        || details.contains(&path.replace("delegate.", "delegate: "));
    let shown = value.to_string();
    let is_named = details.contains(&shown)
        || details.contains(shown.trim_matches('"'))
        || value.as_str().is_some_and(|text| details.contains(&format!("{text:?}")));
    let is_code = [4, 6, 7].iter().any(|code| reply["code"] == *code);
    let is_fine = names && is_named && is_code && !details.contains(" line ");
    (!is_fine).then(|| format!("{}: {path} = {value}: {reply}", keys.plugin))
}

#[test]
fn every_documented_key_is_named_with_its_path_and_value() {
    rscni_test::run(|lab| {
        lab.container("box");
        let before = lab.snapshot();
        let mut problems = Vec::new();
        for keys in ALL {
            for (path, wrong_type, wrong_value) in keys.cases {
                for text in [wrong_type, wrong_value].into_iter().filter(|text| !text.is_empty()) {
                    let value: Value = serde_json::from_str(text).unwrap();
                    problems.extend(problem(keys, path, &value));
                }
            }
        }
        assert!(problems.is_empty(), "{}", problems.join("\n"));
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn two_wrong_keys_are_both_named() {
    rscni_test::run(|lab| {
        lab.container("box");
        for (plugin, config, paths) in [
            (
                "bridge",
                json!({ "mtu": "x", "isGateway": 1, "hairpinMode": [] }),
                vec!["mtu", "isGateway", "hairpinMode"],
            ),
            ("bridge", json!({ "ipMasq": 1, "dns": 5 }), vec!["ipMasq", "dns"]),
            (
                "host-local",
                json!({ "ipam": { "ranges": 5, "routes": "x", "rangeStart": 5 } }),
                vec!["ipam.ranges", "ipam.routes", "ipam.rangeStart"],
            ),
            (
                "portmap",
                json!({ "runtimeConfig": { "portMappings": 5, "mac": 6 }, "prevResult": {} }),
                vec!["runtimeConfig.portMappings", "runtimeConfig.mac"],
            ),
            (
                "tuning",
                json!({ "args": { "cni": { "mtu": "x", "promisc": 1 } } }),
                vec!["args.cni.mtu", "args.cni.promisc"],
            ),
        ] {
            let mut config = config;
            for (key, value) in [("cniVersion", "1.1.0"), ("name", "net"), ("type", plugin)] {
                config[key] = value.into();
            }
            let reply = add(plugin, &config, None);
            let details = reply["details"].as_str().unwrap();
            for path in paths {
                assert!(details.contains(&format!("{path}: ")), "{path}: {details}");
            }
        }
    });
}

/// Returns the keys in the tables of a plugin's page.
fn documented(plugin: &str) -> Vec<String> {
    let page = format!("{}/../../docs/plugins/{plugin}.md", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(page).expect("read the page");
    let mut is_keys = false;
    let mut keys = Vec::new();
    for line in text.lines() {
        if line.starts_with("| key | type |") {
            is_keys = true;
        } else if !line.starts_with('|') {
            is_keys = false;
        } else if is_keys && !line.starts_with("|-") {
            let cell = line.split('|').nth(1).unwrap();
            keys.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    keys
}

/// Keys that the plugin does not check itself.
const ELSEWHERE: &[(&str, &str)] = &[
    // Its content is passed on.
    ("flannel", "runtimeConfig"),
];

#[test]
fn the_table_has_every_documented_key() {
    let mut missing = Vec::new();
    for plugin in rscni_plugins::ALL {
        let cases = ALL.iter().filter(|keys| keys.plugin == plugin.name);
        let paths: Vec<_> = cases
            .flat_map(|keys| keys.cases.iter().map(|(path, ..)| path.replace("[0]", "[]")))
            .collect();
        for key in documented(plugin.name) {
            let is_there = paths.iter().any(|path| path.contains(key.trim_start_matches('.')));
            if !is_there && !ELSEWHERE.contains(&(plugin.name, key.as_str())) {
                missing.push(format!("{}: {key}", plugin.name));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
