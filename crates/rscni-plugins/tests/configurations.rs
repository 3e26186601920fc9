//! Randomly generated networks: CHECK accepts what ADD created, and a failed ADD or a DEL leaves
//! nothing.

use std::path::Path;

use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{TestError, TestRng, TestRunner},
};
use rscni::{
    SpecVersion,
    runtime::{AttachmentParams, NetConfList, Runtime},
};
use rscni_linux::{LinkChange, MacAddr, Netlink, Netns, Veth, sysctl};
use rscni_plugins::Linked;
use rscni_test::{Container, Lab};
use serde_json::{Map, Value, json};

/// The number of cases, unless `PROPTEST_CASES` sets it. With that variable the cases are random.
const CASES: u32 = 12;

/// Values of a key: valid ones, and invalid or unavailable ones.
type Values = (&'static [&'static str], &'static [&'static str]);
/// Keys with their values.
type Keys = &'static [(&'static str, Values)];

const FLAG: Values = (&["true", "false"], &[r#""yes""#]);
const MAC: Values = (&[r#""02:00:00:00:00:07""#, r#""""#], &[r#""01:00:5e:00:00:01""#, r#""x""#]);
const MTU: Values = (&["0", "1280", "1400", "9000"], &["68", "65535", "65536", "-1"]);
const BACKEND: Values =
    (&[r#""nftables""#, r#""nftables""#, r#""iptables""#], &[r#""""#, r#""x""#]);
const DNS: Values = (&["{}", r#"{ "nameservers": ["10.0.0.53"], "search": ["a.b"] }"#], &["[]"]);
const SUBNETS: Values =
    (&[r#"["10.9.0.0/16"]"#, r#"["fd09::/64", "10.8.0.0/16"]"#, "[]"], &[r#"["10.9.0.0/33"]"#]);
const RATE: Values = (&["0", "8000", "8000000"], &["8", "-1", "18446744073709551615"]);
const BURST: Values = (&["80000", "8000000"], &["0", "8", "34359738368"]);
const MASTER: Values = (&[r#""spare""#], &[r#""absent""#, r#""lo""#]);
const IPAM: Values = (
    &[
        r#"{ "type": "host-local", "subnet": "10.1.0.0/24" }"#,
        r#"{ "type": "host-local", "ranges": [[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "fd01::/64" }]] }"#,
        r#"{ "type": "host-local", "ranges": [[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "fd01::/64" }]],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] }"#,
        r#"{ "type": "host-local", "subnet": "10.1.0.0/30", "routes": [{ "dst": "10.2.0.0/16", "gw": "10.1.0.1" }] }"#,
        r#"{ "type": "host-local", "subnet": "10.1.0.0/24", "gateway": "10.1.0.254",
            "routes": [{ "dst": "10.2.0.0/16", "mtu": 1300, "priority": 7, "table": 77, "advmss": 1000 }] }"#,
        r#"{ "type": "host-local", "subnet": "10.1.0.0/24", "routes": [{ "dst": "10.3.0.0/16", "scope": 253 }] }"#,
        r#"{ "type": "static", "addresses": [{ "address": "10.1.0.5/24", "gateway": "10.1.0.1" }] }"#,
        r#"{ "type": "static", "addresses": [{ "address": "10.1.0.5/24", "gateway": "10.1.0.1" },
            { "address": "10.4.0.5/24", "gateway": "10.4.0.1" }, { "address": "10.1.0.6/24", "gateway": "10.1.0.1" }] }"#,
        r#"{ "type": "static", "addresses": [{ "address": "10.1.0.5/32", "gateway": "10.1.0.1" },
            { "address": "fd01::5/128", "gateway": "fd01::1" }] }"#,
        r#"{ "type": "static", "addresses": [{ "address": "fd01::5/64", "gateway": "fe80::1" }],
            "routes": [{ "dst": "::/0" }] }"#,
    ],
    &[
        r#"{ "type": "host-local", "subnet": "10.1.0.0/24", "routes": [{ "dst": "10.2.0.0/16", "gw": "192.0.2.1" }] }"#,
        r#"{ "type": "static", "addresses": [{ "address": "10.1.0.5/24" }, { "address": "10.4.0.5/24" }] }"#,
        r#"{ "type": "static", "addresses": [{ "address": "10.1.0.5/32" }, { "address": "fd01::5/128" }] }"#,
        r#"{ "type": "static", "addresses": [{ "address": "10.1.0.5/24", "gateway": "10.7.0.1" }] }"#,
        r#"{ "type": "static", "addresses": [{ "address": "10.1.0.0/24" }, { "address": "10.1.0.0/24" }] }"#,
        r#"{ "type": "static" }"#,
        r#"{ "type": "nobody" }"#,
        "{}",
    ],
);

const INTERFACES: &[(&str, Keys)] = &[
    (
        "bridge",
        &[
            ("bridge", (&[r#""cni1""#], &[r#""lo""#, r#""a-name-that-is-too-long""#, r#""""#])),
            ("isGateway", FLAG),
            ("isDefaultGateway", FLAG),
            ("forceAddress", FLAG),
            ("ipMasq", FLAG),
            ("ipMasqBackend", BACKEND),
            ("mtu", MTU),
            ("hairpinMode", FLAG),
            ("promiscMode", FLAG),
            ("vlan", (&["0", "100"], &["1", "4094", "4095", "-1"])),
            (
                "vlanTrunk",
                (
                    &["[]"],
                    &[
                        r#"[{ "id": 5 }]"#,
                        r#"[{ "minID": 1, "maxID": 4094 }]"#,
                        r#"[{ "minID": 9 }]"#,
                    ],
                ),
            ),
            ("preserveDefaultVlan", FLAG),
            ("macspoofchk", FLAG),
            ("disableContainerInterface", (&["false"], &["true"])),
            ("portIsolation", FLAG),
            ("mac", MAC),
            ("dns", DNS),
        ],
    ),
    ("ptp", &[("ipMasq", FLAG), ("ipMasqBackend", BACKEND), ("mtu", MTU), ("dns", DNS)]),
    (
        "tap",
        &[
            ("multiQueue", FLAG),
            ("owner", (&["0"], &["1000", "-1", "4294967295"])),
            ("group", (&["0"], &["1000"])),
            ("mtu", MTU),
            ("mac", MAC),
            ("bridge", (&[r#""""#], &[r#""lo""#, r#""absent""#])),
            ("dns", DNS),
        ],
    ),
    (
        "host-device",
        &[
            ("device", (&[r#""spare""#], &[r#""absent""#, r#""lo""#])),
            (
                "hwaddr",
                (
                    &[r#""02:00:00:00:00:99""#, r#""0200.0000.0099""#],
                    &[r#""02-00-00-00-00-98""#, r#""x""#],
                ),
            ),
            ("kernelpath", (&[r#""/sys/devices/virtual/net/spare""#], &[r#""/sys/devices/../x""#])),
            ("DPDKMode", (&["false"], &["true"])),
        ],
    ),
    ("loopback", &[]),
];

/// Plugins with link kinds that common kernels lack and User-Mode Linux has.
const MORE: &[(&str, Keys)] = &[
    (
        "macvlan",
        &[
            ("master", MASTER),
            ("mode", (&[r#""bridge""#, r#""private""#, r#""vepa""#, r#""passthru""#], &[r#""x""#])),
            ("mtu", MTU),
            ("mac", MAC),
            ("bcqueuelen", (&["0", "200"], &["-1"])),
            ("linkInContainer", (&["false"], &["true"])),
            ("dns", DNS),
        ],
    ),
    (
        "ipvlan",
        &[
            ("master", MASTER),
            ("mode", (&[r#""l2""#, r#""l3""#, r#""l3s""#], &[r#""x""#])),
            ("mtu", MTU),
            ("linkInContainer", (&["false"], &["true"])),
        ],
    ),
    (
        "vlan",
        &[
            ("master", MASTER),
            ("vlanId", (&["0", "5", "4094"], &["4095", "-1"])),
            ("mtu", MTU),
            ("linkInContainer", (&["false"], &["true"])),
        ],
    ),
    ("dummy", &[("dns", DNS)]),
];

const CHAINED: &[(&str, Keys)] = &[
    (
        "portmap",
        &[
            ("backend", BACKEND),
            ("snat", FLAG),
            ("masqAll", FLAG),
            ("markMasqBit", (&["0", "13", "31"], &["32", "-1"])),
            ("externalSetMarkChain", (&[], &[r#""KUBE-MARK-MASQ""#, r#""a b""#])),
            (
                "conditionsV4",
                (
                    &[r#"["ip", "saddr", "!=", "192.0.2.1"]"#],
                    &[r#"["!", "-s", "192.0.2.1"]"#, r#"["x"]"#],
                ),
            ),
        ],
    ),
    (
        "bandwidth",
        &[
            ("ingressRate", RATE),
            ("ingressBurst", BURST),
            ("egressRate", RATE),
            ("egressBurst", BURST),
            ("unshapedSubnets", SUBNETS),
            ("shapedSubnets", SUBNETS),
        ],
    ),
    (
        "firewall",
        &[
            ("backend", BACKEND),
            ("ingressPolicy", (&[r#""open""#, r#""same-bridge""#, r#""isolated""#], &[r#""x""#])),
            ("iptablesAdminChainName", (&[r#""ADMIN""#], &[r#""a b""#])),
        ],
    ),
    (
        "tuning",
        &[
            ("mac", MAC),
            ("mtu", MTU),
            ("promisc", FLAG),
            ("allmulti", FLAG),
            ("txQLen", (&["0", "500"], &["-1"])),
            (
                "sysctl",
                (
                    &[
                        r#"{ "net.ipv4.conf.IFNAME.arp_filter": "1" }"#,
                        r#"{ "net.ipv4.conf.IFNAME.rp_filter": "2" }"#,
                    ],
                    &[
                        r#"{ "net.ipv4.conf.IFNAME.arp_filter": "1", "net.ipv4.conf.eth0.log_martians": "x" }"#,
                        r#"{ "kernel.hostname": "x" }"#,
                        r#"{ "net.ipv4.conf.absent.arp_filter": "1" }"#,
                    ],
                ),
            ),
        ],
    ),
    (
        "sbr",
        &[
            ("table", (&["100"], &["0", "254", "4294967296"])),
            ("gateways", (&[r#"["10.1.0.1"]"#, r#"["10.1.0.1", "fd01::1"]"#], &[r#"["x"]"#])),
            ("addSourceHints", FLAG),
        ],
    ),
    (
        "vrf",
        &[
            ("vrfname", (&[r#""blue""#], &[r#""eth0""#, r#""a-name-that-is-too-long""#])),
            ("table", (&["0", "10"], &["-1", "254"])),
        ],
    ),
];

/// The runtime's values for capabilities, which all plugins here claim.
const CAPABILITIES: Keys = &[
    (
        "portMappings",
        (
            &[
                r#"[{ "hostPort": 8080, "containerPort": 80 }]"#,
                r#"[{ "hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "10.1.0.1" },
                    { "hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": "::" }]"#,
            ],
            &[
                r#"[{ "hostPort": 0, "containerPort": 80 }]"#,
                r#"[{ "hostPort": 1, "containerPort": 1 }, { "hostPort": 1, "containerPort": 2 }]"#,
            ],
        ),
    ),
    (
        "bandwidth",
        (
            &[r#"{ "ingressRate": 8000, "ingressBurst": 80000 }"#, "{}"],
            &[r#"{ "ingressRate": 8000 }"#],
        ),
    ),
    ("mac", MAC),
    (
        "ips",
        (&[r#"["10.1.0.9/24"]"#, "[]"], &[r#"["10.1.0.9", "fd01::9"]"#, r#"["192.0.2.1/24"]"#]),
    ),
    (
        "ipRanges",
        (&[r#"[[{ "subnet": "10.5.0.0/24" }]]"#], &[r#"[[{ "subnet": "10.5.0.1/24" }]]"#]),
    ),
];

/// Returns a valid value in most cases, because only the first invalid key of a configuration
/// matters.
fn value((right, wrong): Values) -> impl Strategy<Value = &'static str> {
    (any::<Index>(), prop::bool::weighted(0.06)).prop_map(move |(index, is_wrong)| {
        *index.get(if is_wrong || right.is_empty() { wrong } else { right })
    })
}

fn of(keys: Keys, often: f64) -> impl Strategy<Value = Map<String, Value>> {
    let entries: Vec<_> =
        keys.iter().map(|(_, values)| prop::option::weighted(often, value(*values))).collect();
    entries.prop_map(move |chosen| {
        let entries = keys.iter().zip(chosen).filter_map(|((key, _), value)| Some((*key, value?)));
        entries.map(|(key, value)| (key.to_owned(), serde_json::from_str(value).unwrap())).collect()
    })
}

fn plugin((name, keys): (&'static str, Keys)) -> impl Strategy<Value = Value> {
    of(keys, 0.3).prop_map(move |mut conf| {
        conf.insert("type".into(), name.into());
        let capabilities = CAPABILITIES.iter().map(|(name, _)| ((*name).to_owned(), true.into()));
        conf.insert("capabilities".into(), capabilities.collect::<Map<_, _>>().into());
        conf.into()
    })
}

#[derive(Clone, Debug)]
struct Case {
    list: Value,
    capability_args: Map<String, Value>,
    /// The container's namespace is gone before DEL.
    is_gone: bool,
}

fn case(has_more: bool) -> impl Strategy<Value = Case> {
    let mut interfaces = INTERFACES.to_vec();
    if has_more {
        interfaces.extend(MORE);
    }
    let interface = prop::sample::select(interfaces).prop_flat_map(plugin);
    let chained: Vec<_> =
        CHAINED.iter().map(|chained| prop::option::weighted(0.25, plugin(*chained))).collect();
    let versions =
        prop::sample::select(&["0.2.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "1.1.0"][..]);
    let ipam = prop::option::weighted(0.95, value(IPAM));
    (interface, ipam, chained, versions, of(CAPABILITIES, 0.2), any::<bool>()).prop_map(
        |(mut interface, ipam, chained, version, capability_args, is_gone)| {
            if let Some(ipam) = ipam {
                interface["ipam"] = serde_json::from_str(ipam).unwrap();
            }
            // A real device would be returned by the kernel; this virtual one is destroyed with the
            // namespace.
            let is_gone = is_gone && interface["type"] != "host-device";
            let plugins: Vec<_> =
                [interface].into_iter().chain(chained.into_iter().flatten()).collect();
            Case {
                list: json!({ "cniVersion": version, "name": "net", "plugins": plugins }),
                capability_args,
                is_gone,
            }
        },
    )
}

/// Differences that remain between attachments although nothing is left: the last address and the
/// index of host-local, the kernel's state of a `lo` that was up, its rule for VRFs, which the
/// first VRF adds, and the container's sysctls.
const CHANGES: &[&str] = &[
    "/last_reserved_ip.",
    "/.index/",
    "address 127.0.0.1/8 on lo",
    "address ::1/128 on lo",
    "policy rule 1000:",
    "second: sysctl ",
];

fn holds(lab: &Lab, case: &Case) -> Result<(), TestCaseError> {
    // An invalid list is rejected before anything is done.
    let Ok(list) = NetConfList::from_json(case.list.to_string().as_bytes()) else { return Ok(()) };
    // The first attachment leaves what belongs to the network, such as the bridge.
    attach_and_detach(lab, &lab.container("first"), &list, case)?;
    let container = lab.container("second");
    let before = CHANGES.iter().fold(lab.snapshot(), |snapshot, text| snapshot.ignoring(text));
    let before = if case.is_gone { before.ignoring("namespace second") } else { before };
    let has_added = attach_and_detach(lab, &container, &list, case)?;
    let changes = lab.changes_since(&before);
    prop_assert!(
        changes.is_empty(),
        "{} has left\n{}",
        if has_added { "DEL" } else { "ADD" },
        changes.join("\n")
    );
    Ok(())
}

/// Whether the kernel has the link kinds of [`MORE`].
fn has_more() -> bool {
    let mut netlink = Netlink::open().unwrap();
    netlink.add_dummy("probe").is_ok_and(|link| netlink.del_link(link.index).is_ok())
}

/// Adds a device for host-device.
fn add_spare() {
    let mut netlink = Netlink::open().unwrap();
    let mac = MacAddr([2, 0, 0, 0, 0, 0x99]);
    netlink
        .add_link(&Veth { mac: Some(mac), up: true, ..Veth::new("spare", "spare-peer") })
        .unwrap();
    // The carrier that host-device waits for. The kernel would add a link-local address at any
    // time.
    sysctl::set("net/ipv6/conf/spare-peer/disable_ipv6", "1").unwrap();
    let peer = netlink.link_by_name("spare-peer").unwrap();
    netlink.set_link(peer.index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
}

/// Returns whether ADD succeeded.
fn attach_and_detach(
    lab: &Lab,
    container: &Container,
    list: &NetConfList,
    case: &Case,
) -> Result<bool, TestCaseError> {
    let runtime = Runtime::new(Linked, ["/nowhere"]);
    let mut params = AttachmentParams::new(container.id(), container.path(), "eth0");
    params.capability_args.clone_from(&case.capability_args);
    let added = runtime.add(list, &params);
    if let Err(error) = &added {
        prop_assert!(error.code() != 999 && !error.msg().is_empty(), "ADD: {error}");
    }
    if added.is_ok() && list.cni_version >= SpecVersion::V0_4_0 {
        let checked = runtime.check(list, &params);
        prop_assert!(checked.is_ok(), "CHECK after ADD: {}", checked.unwrap_err());
    }
    if case.is_gone {
        lab.remove_namespace(container);
    }
    for _ in 0..if added.is_ok() { 2 } else { 0 } {
        let deleted = runtime.del(list, &params);
        prop_assert!(deleted.is_ok(), "DEL: {}", deleted.unwrap_err());
    }
    Ok(added.is_ok())
}

/// Removes what a case may leave, rightly or not.
fn tidy() {
    for name in ["first", "second"] {
        let _ = Netns::unbind(Path::new("/run/netns").join(name));
    }
    // The directory of host-local, and the cache of the runtime.
    for entry in std::fs::read_dir("/var/lib/cni").unwrap() {
        std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    let mut netlink = Netlink::open().unwrap();
    for link in netlink.links().unwrap().into_iter().filter(|link| link.name != "lo") {
        // The other end of a veth pair is removed with it.
        let _ = netlink.del_link(link.index);
    }
}

#[test]
fn add_makes_what_check_finds_and_del_leaves_nothing() {
    rscni_test::run(|lab| {
        let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
        let config = ProptestConfig {
            failure_persistence: None,
            max_shrink_time: 120_000,
            ..ProptestConfig::with_cases(cases.unwrap_or(CASES))
        };
        let algorithm = config.rng_algorithm;
        let mut runner = match cases {
            Some(_) => TestRunner::new(config),
            None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(algorithm)),
        };
        let outcome = runner.run(&case(has_more()), |case| {
            add_spare();
            let outcome = holds(lab, &case);
            tidy();
            outcome
        });
        match outcome {
            Ok(()) => {}
            Err(TestError::Fail(why, case)) => {
                panic!("{why}\n{:#}\n{:?}", case.list, (case.capability_args, case.is_gone))
            }
            Err(TestError::Abort(why)) => panic!("{why}"),
        }
    });
}
