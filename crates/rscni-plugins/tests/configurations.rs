//! Randomly generated networks: CHECK accepts what ADD created, and a failed ADD or a DEL leaves
//! nothing.

use std::{path::Path, sync::LazyLock};

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

/// The keys of the plugins by kind, with valid values and with invalid or unavailable ones. The
/// name of shared values stands for them.
static TABLES: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("configurations.json")).expect("read configurations.json")
});

/// Returns the plugins of a kind, each with its keys.
fn plugins_of(kind: &str) -> Vec<(&'static String, &'static Value)> {
    entries(&TABLES[kind]).collect()
}

fn entries(object: &'static Value) -> impl Iterator<Item = (&'static String, &'static Value)> {
    object.as_object().expect("an object").iter()
}

/// Returns a valid value in most cases, because only the first invalid key of a configuration
/// matters.
fn value(values: &'static Value) -> impl Strategy<Value = &'static Value> {
    let values = values.as_str().map_or(values, |shared| &TABLES["values"][shared]);
    let [right, wrong] = ["valid", "invalid"].map(|of| values[of].as_array().expect("a list"));
    (any::<Index>(), prop::bool::weighted(0.06)).prop_map(move |(index, is_wrong)| {
        index.get(if is_wrong || right.is_empty() { wrong } else { right })
    })
}

fn of(keys: &'static Value, often: f64) -> impl Strategy<Value = Map<String, Value>> {
    let values: Vec<_> =
        entries(keys).map(|(_, values)| prop::option::weighted(often, value(values))).collect();
    values.prop_map(move |chosen| {
        let entries = entries(keys).zip(chosen);
        entries.filter_map(|((key, _), value)| Some((key.clone(), value?.clone()))).collect()
    })
}

fn plugin((name, keys): (&'static String, &'static Value)) -> impl Strategy<Value = Value> {
    of(keys, 0.3).prop_map(move |mut conf| {
        conf.insert("type".into(), name.as_str().into());
        let capabilities =
            entries(&TABLES["capabilities"]).map(|(name, _)| (name.clone(), true.into()));
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
    let mut interfaces = plugins_of("interfaces");
    if has_more {
        interfaces.extend(plugins_of("rare_interfaces"));
    }
    let interface = prop::sample::select(interfaces).prop_flat_map(plugin);
    let chained: Vec<_> = plugins_of("chained")
        .into_iter()
        .map(|chained| prop::option::weighted(0.25, plugin(chained)))
        .collect();
    let versions =
        prop::sample::select(&["0.2.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "1.1.0"][..]);
    let ipam = prop::option::weighted(0.95, value(&TABLES["values"]["ipam"]));
    (interface, ipam, chained, versions, of(&TABLES["capabilities"], 0.2), any::<bool>()).prop_map(
        |(mut interface, ipam, chained, version, capability_args, is_gone)| {
            if let Some(ipam) = ipam {
                interface["ipam"] = ipam.clone();
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

/// Whether the kernel has the link kinds that common kernels lack and User-Mode Linux has.
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
