//! What the networks need of the kernel.
//!
//! What is loaded, built in or there to be loaded is found in files. What those do not tell is tried, in a namespace
//! made for that: there is no module then that trying could load.

use rscni_linux::tc::{Handle, Qdisc};
use rscni_linux::{
    Bridge, Dummy, Error, Ifb, Ipvlan, IpvlanMode, Macvlan, MacvlanMode, Netlink, Netns, Nft, Result, Veth, VlanLink,
    Vrf,
};
use serde_json::Value;

use super::{Patient, Report, is_on};

/// A feature of the kernel, the name of its module, the setting of its configuration, and the way to try it. Each way is
/// given a socket in the namespace, and a link to stand on.
struct Feature {
    name: &'static str,
    module: &'static str,
    setting: &'static str,
    try_it: fn(&mut Netlink, u32) -> Result<()>,
}

const FEATURES: &[Feature] = &[
    Feature {
        name: "veth",
        module: "veth",
        setting: "CONFIG_VETH",
        try_it: |netlink, _| netlink.add_veth(&Veth::new("a", "b")).map(drop),
    },
    Feature {
        name: "bridge",
        module: "bridge",
        setting: "CONFIG_BRIDGE",
        try_it: |netlink, _| netlink.add_bridge(&Bridge::new("a")).map(drop),
    },
    Feature {
        name: "vlan_filtering",
        // It is part of the bridge's module, or is not.
        module: "",
        setting: "CONFIG_BRIDGE_VLAN_FILTERING",
        try_it: |netlink, _| {
            netlink.add_bridge(&Bridge { vlan_filtering: Some(true), ..Bridge::new("a") })?;
            let bridge = netlink.link_by_name("a")?.index;
            netlink.vlans(bridge).map(drop)
        },
    },
    Feature {
        name: "nf_tables",
        module: "nf_tables",
        setting: "CONFIG_NF_TABLES",
        try_it: |_, _| Nft::open()?.tables().map(drop),
    },
    Feature {
        name: "macvlan",
        module: "macvlan",
        setting: "CONFIG_MACVLAN",
        try_it: |netlink, lower| {
            let macvlan = Macvlan { name: "a".into(), lower, mode: MacvlanMode::Bridge, ..Macvlan::default() };
            netlink.add_link(&macvlan).map(drop)
        },
    },
    Feature {
        name: "ipvlan",
        module: "ipvlan",
        setting: "CONFIG_IPVLAN",
        try_it: |netlink, lower| {
            netlink.add_link(&Ipvlan { name: "a".into(), lower, mode: IpvlanMode::L2, mtu: None }).map(drop)
        },
    },
    Feature {
        name: "vlan",
        module: "8021q",
        setting: "CONFIG_VLAN_8021Q",
        try_it: |netlink, lower| netlink.add_link(&VlanLink { name: "a".into(), lower, id: 5, mtu: None }).map(drop),
    },
    Feature {
        name: "vrf",
        module: "vrf",
        setting: "CONFIG_NET_VRF",
        try_it: |netlink, _| netlink.add_link(&Vrf::new("a", 10)).map(drop),
    },
    Feature {
        name: "dummy",
        module: "dummy",
        setting: "CONFIG_DUMMY",
        try_it: |netlink, _| netlink.add_link(&Dummy::new("a")).map(drop),
    },
    Feature {
        name: "ifb",
        module: "ifb",
        setting: "CONFIG_IFB",
        try_it: |netlink, _| netlink.add_link(&Ifb::new("a")).map(drop),
    },
    Feature {
        name: "htb",
        module: "sch_htb",
        setting: "CONFIG_NET_SCH_HTB",
        try_it: |netlink, lower| netlink.add_qdisc(lower, Handle::ROOT, Handle::new(1, 0), &Qdisc::Htb { default: 1 }),
    },
    Feature {
        name: "sch_ingress",
        module: "sch_ingress",
        setting: "CONFIG_NET_SCH_INGRESS",
        try_it: |netlink, lower| netlink.add_qdisc(lower, Handle::INGRESS, Handle::new(0xffff, 0), &Qdisc::Ingress),
    },
    Feature {
        name: "tun",
        module: "tun",
        setting: "CONFIG_TUN",
        try_it: |_, _| match std::fs::metadata("/dev/net/tun") {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::Invalid { what: "/dev/net/tun".into(), reason: error.to_string() }),
        },
    },
];

pub(super) fn check(patient: &Patient<'_>, report: &mut Report) {
    for feature in FEATURES {
        let mut users: Vec<&str> = Vec::new();
        for (list, plugin) in patient.plugins() {
            if super::types(plugin).iter().any(|name| needs(name, plugin.as_map()).contains(&feature.name)) {
                users.push(&list.name);
            }
        }
        users.dedup();
        if users.is_empty() {
            continue;
        }
        let wanted_by = users.join(", ");
        match feature.is_there() {
            Ok(true) => {}
            Ok(false) => report.error(
                "kernel-feature-missing",
                format!("the kernel has no {}, which {wanted_by} needs: {} is off", feature.name, feature.setting),
                "every ADD to these networks fails; a kernel with that setting is needed, or the package of its modules",
                None,
            ),
            Err(why) => {
                report.ok("kernel-feature-unknown", format!("{} for {wanted_by} is not known: {why}", feature.name));
            }
        }
    }
}

/// The features that a plugin needs, by its name and keys.
fn needs(plugin: &str, keys: &serde_json::Map<String, Value>) -> Vec<&'static str> {
    let text = |key: &str| keys.get(key).and_then(Value::as_str).unwrap_or_default();
    let number = |key: &str| keys.get(key).and_then(Value::as_i64).unwrap_or_default();
    let is_true = |key: &str| keys.get(key).and_then(Value::as_bool).unwrap_or_default();
    let nft = |wanted: bool| if wanted { Some("nf_tables") } else { None };
    match plugin {
        "bridge" => {
            let masquerades = is_true("ipMasq") && text("ipMasqBackend") != "iptables";
            let trunk = keys.get("vlanTrunk").and_then(Value::as_array).is_some_and(|trunk| !trunk.is_empty());
            let vlans = (number("vlan") != 0 || trunk).then_some("vlan_filtering");
            ["veth", "bridge"].into_iter().chain(vlans).chain(nft(masquerades || is_true("macspoofchk"))).collect()
        }
        "ptp" => ["veth"].into_iter().chain(nft(is_true("ipMasq") && text("ipMasqBackend") != "iptables")).collect(),
        "portmap" | "firewall" => nft(text("backend") != "iptables").into_iter().collect(),
        "bandwidth" => vec!["ifb", "htb", "sch_ingress"],
        "macvlan" => vec!["macvlan"],
        "ipvlan" => vec!["ipvlan"],
        "vlan" => vec!["vlan"],
        "vrf" => vec!["vrf"],
        "dummy" => vec!["dummy"],
        "tap" => vec!["tun"],
        _ => Vec::new(),
    }
}

impl Feature {
    /// Whether the kernel has it; or why that cannot be known.
    fn is_there(&self) -> std::result::Result<bool, String> {
        if !self.module.is_empty() && self.is_in_files() {
            return Ok(true);
        }
        let netns = Netns::create().map_err(|error| error.to_string())?;
        let tried = netns.enter(|| {
            let mut netlink = Netlink::open()?;
            let lower = netlink.add_veth(&Veth::new("lower", "other")).map_or(1, |lower| lower.index);
            (self.try_it)(&mut netlink, lower)
        });
        match tried {
            Ok(Err(error)) if error.is_permission() => Err(error.to_string()),
            Ok(outcome) => Ok(outcome.is_ok()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn is_in_files(&self) -> bool {
        if std::path::Path::new("/sys/module").join(self.module).exists() {
            return true;
        }
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let name = format!("/{}.ko", self.module);
        ["modules.builtin", "modules.dep"].iter().any(|list| {
            let list = std::fs::read_to_string(format!("/lib/modules/{}/{list}", release.trim())).unwrap_or_default();
            // A line begins with the module's own file; what it needs stands behind a colon.
            list.lines().any(|line| line.split(':').next().unwrap_or_default().contains(&name))
        })
    }
}

/// Whether a plugin of a list makes the host a router for its containers.
pub(super) fn routes(plugin: &rscni::runtime::PluginConf) -> bool {
    match plugin.plugin_type() {
        "ptp" | "flannel" => true,
        "bridge" => ["isGateway", "isDefaultGateway", "ipMasq"].into_iter().any(|key| is_on(plugin, key)),
        _ => false,
    }
}
