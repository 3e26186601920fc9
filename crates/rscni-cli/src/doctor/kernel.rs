//! Checks that the kernel has the features that the networks need.
//!
//! Files tell which modules are loaded, built in or available. What they do not tell is tried in a
//! temporary namespace, unless that would load a module.

use std::path::Path;

use rscni_linux::{
    Bridge, Dummy, Error, Ifb, Ipvlan, IpvlanMode, Macvlan, MacvlanMode, Netlink, Netns, Nft,
    Result, Veth, VlanLink, Vrf,
    tc::{Handle, Qdisc},
};
use rscni_plugins::KernelFeature;
use serde_json::Value;

use super::{Context, Report};
use crate::node::plain_kind;

/// A feature of the kernel.
struct Feature {
    kernel: KernelFeature,
    module: &'static str,
    /// Its option in the kernel configuration.
    setting: &'static str,
    /// Whether the module may be built without the feature.
    is_optional: bool,
    /// Uses the feature, given a socket in the namespace and a lower link.
    try_it: fn(&mut Netlink, u32) -> Result<()>,
}

impl Feature {
    const fn new(
        feature: KernelFeature,
        module: &'static str,
        setting: &'static str,
        try_it: fn(&mut Netlink, u32) -> Result<()>,
    ) -> Self {
        Self { kernel: feature, module, setting, is_optional: false, try_it }
    }
}

const FEATURES: &[Feature] = &[
    Feature::new(KernelFeature::Veth, "veth", "CONFIG_VETH", |netlink, _| {
        netlink.add_veth(&Veth::new("a", "b")).map(drop)
    }),
    Feature::new(KernelFeature::Bridge, "bridge", "CONFIG_BRIDGE", |netlink, _| {
        netlink.add_bridge(&Bridge::new("a")).map(drop)
    }),
    Feature {
        is_optional: true,
        ..Feature::new(
            KernelFeature::VlanFiltering,
            "bridge",
            "CONFIG_BRIDGE_VLAN_FILTERING",
            |netlink, _| {
                netlink.add_bridge(&Bridge { vlan_filtering: Some(true), ..Bridge::new("a") })?;
                let bridge = netlink.link_by_name("a")?.index;
                netlink.vlans(bridge).map(drop)
            },
        )
    },
    Feature::new(KernelFeature::NfTables, "nf_tables", "CONFIG_NF_TABLES", |_, _| {
        Nft::open()?.tables().map(drop)
    }),
    Feature::new(KernelFeature::Macvlan, "macvlan", "CONFIG_MACVLAN", |netlink, lower| {
        let (name, mode) = ("a".into(), MacvlanMode::Bridge);
        netlink.add_link(&Macvlan { name, lower, mode, ..Macvlan::default() }).map(drop)
    }),
    Feature::new(KernelFeature::Ipvlan, "ipvlan", "CONFIG_IPVLAN", |netlink, lower| {
        let (name, mode) = ("a".into(), IpvlanMode::L2);
        netlink.add_link(&Ipvlan { name, lower, mode, mtu: None }).map(drop)
    }),
    Feature::new(KernelFeature::Vlan, "8021q", "CONFIG_VLAN_8021Q", |netlink, lower| {
        netlink.add_link(&VlanLink { name: "a".into(), lower, id: 5, mtu: None }).map(drop)
    }),
    Feature::new(KernelFeature::Vrf, "vrf", "CONFIG_NET_VRF", |netlink, _| {
        netlink.add_link(&Vrf::new("a", 10)).map(drop)
    }),
    Feature::new(KernelFeature::Dummy, "dummy", "CONFIG_DUMMY", |netlink, _| {
        netlink.add_link(&Dummy::new("a")).map(drop)
    }),
    Feature::new(KernelFeature::Ifb, "ifb", "CONFIG_IFB", |netlink, _| {
        netlink.add_link(&Ifb::new("a")).map(drop)
    }),
    Feature::new(KernelFeature::Htb, "sch_htb", "CONFIG_NET_SCH_HTB", |netlink, lower| {
        netlink.add_qdisc(lower, Handle::ROOT, Handle::new(1, 0), &Qdisc::Htb { default: 1 })
    }),
    Feature::new(
        KernelFeature::SchIngress,
        "sch_ingress",
        "CONFIG_NET_SCH_INGRESS",
        |netlink, lower| {
            netlink.add_qdisc(lower, Handle::INGRESS, Handle::new(0xffff, 0), &Qdisc::Ingress)
        },
    ),
    Feature::new(KernelFeature::Tun, "tun", "CONFIG_TUN", |_, _| {
        let what = "/dev/net/tun".to_owned();
        let metadata = std::fs::metadata(&what).map(drop);
        metadata.map_err(|error| Error::Invalid { what, reason: error.to_string() })
    }),
];

pub(super) fn check(context: &Context<'_>, report: &mut Report) {
    for feature in FEATURES {
        let mut users: Vec<&str> = Vec::new();
        for (list, plugin) in context.plugins() {
            let needs_it =
                |name| needs(context.kind(name), plugin.as_map()).contains(&feature.kernel);
            if context.types(plugin).into_iter().any(needs_it) {
                users.push(&list.name);
            }
        }
        users.dedup();
        if users.is_empty() {
            continue;
        }
        let users = users.join(", ");
        match feature.exists() {
            Ok(true) => {}
            Ok(false) => report.error(
                "kernel-feature-missing",
                format!(
                    "the kernel has no {}, which {users} needs: {} is off",
                    feature.kernel.name(),
                    feature.setting
                ),
                "every ADD to these networks fails; install the package with the kernel's \
                 modules, or a kernel with that setting",
                None,
            ),
            Err(why) => {
                let what = format!(
                    "{}, which {users} needs, cannot be tested: {why}",
                    feature.kernel.name()
                );
                report.ok("kernel-feature-unknown", what);
            }
        }
    }
}

/// Returns the features that a plugin needs with these keys.
fn needs(plugin: &str, keys: &serde_json::Map<String, Value>) -> Vec<KernelFeature> {
    rscni_plugins::find(plugin).map(|plugin| plugin.kernel_features(keys)).unwrap_or_default()
}

/// The index of `lo` in every namespace.
const LOOPBACK: u32 = 1;

impl Feature {
    /// Returns whether the kernel has the feature, or why that cannot be determined.
    fn exists(&self) -> std::result::Result<bool, String> {
        if let Some(exists) = self.in_files()? {
            return Ok(exists);
        }
        let netns = Netns::create().map_err(|error| error.to_string())?;
        let tried = netns.enter(|| {
            let mut netlink = Netlink::open()?;
            // Optional features need no lower link, and creating it could load the veth module.
            let veth = Veth::new("lower", "other");
            let lower = if self.is_optional { None } else { netlink.add_veth(&veth).ok() };
            let lower = lower.map_or(LOOPBACK, |lower| lower.index);
            (self.try_it)(&mut netlink, lower)
        });
        match tried {
            Ok(Err(error)) if error.is_permission() => Err(error.to_string()),
            Ok(outcome) => Ok(outcome.is_ok()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Looks the module up in files.
    ///
    /// Returns `None` if there is no list of modules, or the module may lack the feature.
    fn in_files(&self) -> std::result::Result<Option<bool>, String> {
        let is_loaded = Path::new("/sys/module").join(self.module).exists();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let lists = ["modules.builtin", "modules.dep"];
        let lists = lists.map(|list| {
            std::fs::read_to_string(format!("/lib/modules/{}/{list}", release.trim())).ok()
        });
        let module = format!("/{}.ko", self.module);
        // Lines of `modules.dep` are `FILE: DEPENDENCIES`.
        let has = |list: &str| {
            list.lines().any(|line| line.split(':').next().unwrap_or_default().contains(&module))
        };
        let [builtin, dep] = &lists;
        let is_builtin = builtin.as_deref().is_some_and(has);
        if self.is_optional {
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

/// Whether a plugin makes the host a router for its containers.
pub(super) fn routes(plugin: &rscni::runtime::PluginConf) -> bool {
    rscni_plugins::find(plain_kind(plugin.plugin_type()))
        .is_some_and(|found| found.routes(plugin.as_map()))
}
