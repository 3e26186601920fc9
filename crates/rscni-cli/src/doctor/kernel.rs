//! What the networks need of the kernel.
//!
//! What is loaded, built in or there to be loaded is found in files. What those do not tell is tried, in a namespace
//! made for that, but not where trying would load a module.

use std::path::Path;

use rscni_linux::{
    Bridge, Dummy, Error, Ifb, Ipvlan, IpvlanMode, Macvlan, MacvlanMode, Netlink, Netns, Nft,
    Result, Veth, VlanLink, Vrf,
    tc::{Handle, Qdisc},
};
use rscni_plugins::KernelFeature;
use serde_json::Value;

use super::{Patient, Report};
use crate::node::plain_kind;

/// A feature of the kernel, the name of its module, the setting of its configuration, and the way to try it. Each way is
/// given a socket in the namespace, and a link to stand on.
struct Feature {
    feature: KernelFeature,
    name: &'static str,
    module: &'static str,
    setting: &'static str,
    /// Whether the module may be there without it.
    is_part: bool,
    try_it: fn(&mut Netlink, u32) -> Result<()>,
}

const FEATURES: &[Feature] = &[
    Feature {
        feature: KernelFeature::Veth,
        name: "veth",
        module: "veth",
        setting: "CONFIG_VETH",
        is_part: false,
        try_it: |netlink, _| netlink.add_veth(&Veth::new("a", "b")).map(drop),
    },
    Feature {
        feature: KernelFeature::Bridge,
        name: "bridge",
        module: "bridge",
        setting: "CONFIG_BRIDGE",
        is_part: false,
        try_it: |netlink, _| netlink.add_bridge(&Bridge::new("a")).map(drop),
    },
    Feature {
        feature: KernelFeature::VlanFiltering,
        name: "vlan_filtering",
        module: "bridge",
        setting: "CONFIG_BRIDGE_VLAN_FILTERING",
        is_part: true,
        try_it: |netlink, _| {
            netlink.add_bridge(&Bridge { vlan_filtering: Some(true), ..Bridge::new("a") })?;
            let bridge = netlink.link_by_name("a")?.index;
            netlink.vlans(bridge).map(drop)
        },
    },
    Feature {
        feature: KernelFeature::NfTables,
        name: "nf_tables",
        module: "nf_tables",
        setting: "CONFIG_NF_TABLES",
        is_part: false,
        try_it: |_, _| Nft::open()?.tables().map(drop),
    },
    Feature {
        feature: KernelFeature::Macvlan,
        name: "macvlan",
        module: "macvlan",
        setting: "CONFIG_MACVLAN",
        is_part: false,
        try_it: |netlink, lower| {
            let macvlan = Macvlan {
                name: "a".into(),
                lower,
                mode: MacvlanMode::Bridge,
                ..Macvlan::default()
            };
            netlink.add_link(&macvlan).map(drop)
        },
    },
    Feature {
        feature: KernelFeature::Ipvlan,
        name: "ipvlan",
        module: "ipvlan",
        setting: "CONFIG_IPVLAN",
        is_part: false,
        try_it: |netlink, lower| {
            netlink
                .add_link(&Ipvlan { name: "a".into(), lower, mode: IpvlanMode::L2, mtu: None })
                .map(drop)
        },
    },
    Feature {
        feature: KernelFeature::Vlan,
        name: "vlan",
        module: "8021q",
        setting: "CONFIG_VLAN_8021Q",
        is_part: false,
        try_it: |netlink, lower| {
            netlink.add_link(&VlanLink { name: "a".into(), lower, id: 5, mtu: None }).map(drop)
        },
    },
    Feature {
        feature: KernelFeature::Vrf,
        name: "vrf",
        module: "vrf",
        setting: "CONFIG_NET_VRF",
        is_part: false,
        try_it: |netlink, _| netlink.add_link(&Vrf::new("a", 10)).map(drop),
    },
    Feature {
        feature: KernelFeature::Dummy,
        name: "dummy",
        module: "dummy",
        setting: "CONFIG_DUMMY",
        is_part: false,
        try_it: |netlink, _| netlink.add_link(&Dummy::new("a")).map(drop),
    },
    Feature {
        feature: KernelFeature::Ifb,
        name: "ifb",
        module: "ifb",
        setting: "CONFIG_IFB",
        is_part: false,
        try_it: |netlink, _| netlink.add_link(&Ifb::new("a")).map(drop),
    },
    Feature {
        feature: KernelFeature::Htb,
        name: "htb",
        module: "sch_htb",
        setting: "CONFIG_NET_SCH_HTB",
        is_part: false,
        try_it: |netlink, lower| {
            netlink.add_qdisc(lower, Handle::ROOT, Handle::new(1, 0), &Qdisc::Htb { default: 1 })
        },
    },
    Feature {
        feature: KernelFeature::SchIngress,
        name: "sch_ingress",
        module: "sch_ingress",
        setting: "CONFIG_NET_SCH_INGRESS",
        is_part: false,
        try_it: |netlink, lower| {
            netlink.add_qdisc(lower, Handle::INGRESS, Handle::new(0xffff, 0), &Qdisc::Ingress)
        },
    },
    Feature {
        feature: KernelFeature::Tun,
        name: "tun",
        module: "tun",
        setting: "CONFIG_TUN",
        is_part: false,
        try_it: |_, _| match std::fs::metadata("/dev/net/tun") {
            Ok(_) => Ok(()),
            Err(error) => {
                Err(Error::Invalid { what: "/dev/net/tun".into(), reason: error.to_string() })
            }
        },
    },
];

pub(super) fn check(patient: &Patient<'_>, report: &mut Report) {
    for feature in FEATURES {
        let mut users: Vec<&str> = Vec::new();
        for (list, plugin) in patient.plugins() {
            if patient
                .types(plugin)
                .iter()
                .any(|name| needs(patient.kind(name), plugin.as_map()).contains(&feature.feature))
            {
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
fn needs(plugin: &str, keys: &serde_json::Map<String, Value>) -> Vec<KernelFeature> {
    rscni_plugins::find(plugin).map(|plugin| plugin.kernel_features(keys)).unwrap_or_default()
}

/// `lo` is the first link of every namespace.
const LOOPBACK: u32 = 1;

impl Feature {
    /// Whether the kernel has it; or why that cannot be known.
    fn is_there(&self) -> std::result::Result<bool, String> {
        if let Some(is_there) = self.in_files()? {
            return Ok(is_there);
        }
        let netns = Netns::create().map_err(|error| error.to_string())?;
        let tried = netns.enter(|| {
            let mut netlink = Netlink::open()?;
            // Parts of modules need none, and may be tried where veth would be loaded for it.
            let lower = if self.is_part {
                None
            } else {
                netlink.add_veth(&Veth::new("lower", "other")).ok()
            };
            let lower = lower.map_or(LOOPBACK, |lower| lower.index);
            (self.try_it)(&mut netlink, lower)
        });
        match tried {
            Ok(Err(error)) if error.is_permission() => Err(error.to_string()),
            Ok(outcome) => Ok(outcome.is_ok()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What files say. Nothing where the kernel has no modules that could be loaded, or the module is there and may have
    /// the feature or not.
    fn in_files(&self) -> std::result::Result<Option<bool>, String> {
        let is_loaded = Path::new("/sys/module").join(self.module).exists();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let lists = ["modules.builtin", "modules.dep"];
        let lists = lists.map(|list| {
            std::fs::read_to_string(format!("/lib/modules/{}/{list}", release.trim())).ok()
        });
        let module = format!("/{}.ko", self.module);
        // A line begins with the module's own file; what it needs stands behind a colon.
        let has = |list: &str| {
            list.lines().any(|line| line.split(':').next().unwrap_or_default().contains(&module))
        };
        let [builtin, dep] = &lists;
        let is_builtin = builtin.as_deref().is_some_and(has);
        if self.is_part {
            let may_be_loaded = !is_loaded && !is_builtin && dep.as_deref().is_some_and(has);
            return if may_be_loaded {
                Err(format!("trying would load {}", self.module))
            } else {
                Ok(None)
            };
        }
        if is_loaded || is_builtin {
            return Ok(Some(true));
        }
        Ok(dep.as_deref().map(has))
    }
}

/// Whether a plugin of a list makes the host a router for its containers.
pub(super) fn routes(plugin: &rscni::runtime::PluginConf) -> bool {
    rscni_plugins::find(plain_kind(plugin.plugin_type()))
        .is_some_and(|found| found.routes(plugin.as_map()))
}
