//! A defect for each requirement: a script that calls a plugin of ours and does one thing wrong.

use std::{
    collections::BTreeSet,
    fmt::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Functions of the scripts. `$config` is the plugin's stdin; `real` calls the plugin or the next
/// defect. A defect that continues after `real` calls it in a subshell, since the next one may
/// exit.
const PRELUDE: &str = r#"#!/bin/sh
config=$(cat)
next=0
real() { next=$((next + 1)); "defect$next"; }
is() { [ "$CNI_COMMAND" = "$1" ]; }
has() { case $config in *"$1"*) return 0;; esac; return 1; }
in_version() { has "\"cniVersion\":\"$1\""; }
complete() { [ -n "$CNI_CONTAINERID" ] && [ -n "$CNI_IFNAME" ] && [ -n "$CNI_NETNS" ]; }
sampled() { case $CNI_CONTAINERID in add-interface-*|delegate-*|result-*) return 0;; esac; return 1; }
fail() { printf '{"cniVersion":"1.1.0","code":%s,"msg":"a defect"}' "$1"; exit 1; }
change() { config=$(printf %s "$config" | sed "$1"); }
edited() { out=$(real); status=$?; printf %s "$out" | sed "$1"; exit $status; }
inside() { nsenter --net="$CNI_NETNS" "$@" 2>/dev/null; }
alone() {
    case $CNI_CONTAINERID in concurrent-*) ;; *) return;; esac
    mkdir /run/busy 2>/dev/null || fail 11
    sleep 0.2; (real); status=$?; rmdir /run/busy; exit $status
}
"#;

/// Requirement, plugin, and script.
pub(crate) type Defect = (&'static str, &'static str, &'static str);

/// A defect spares the attachments that each requirement begins with (`first-*`) if it would break
/// them.
#[allow(clippy::needless_raw_string_hashes, reason = "all of them have one form")]
#[rustfmt::skip]
pub(crate) const DEFECTS: &[Defect] = &[
    ("config-malformed", "host-local", r#"[ "$config" = "{" ] && fail 7; real"#),
    ("config-no-object", "host-local", r#"[ "$config" = "[1]" ] && fail 5; real"#),
    ("config-empty", "host-local", r#"[ -z "$config" ] && is ADD && fail 999; real"#),
    ("config-without-name", "host-local", r#"is ADD && ! has '"name":' && fail 6; real"#),
    ("config-invalid-name", "host-local", r#"has '"name":"a:b"' && fail 6; real"#),
    ("config-invalid-version", "host-local", r#"has '"cniVersion":1' && fail 999; real"#),
    ("config-unknown-key", "host-local", r#"has rscniConformanceUnknownKey && fail 7; real"#),

    ("version-unsupported", "host-local", r#"in_version 99.0.0 && fail 7; real"#),
    ("add-in-0.1.0", "host-local", r#"in_version 0.1.0 && is ADD && edited 's/"ip4"/"ips"/'; real"#),
    ("add-in-0.2.0", "host-local", r#"in_version 0.2.0 && complete && is ADD && edited 's/"cniVersion":"0.2.0"/"cniVersion":"0.1.0"/'; real"#),
    ("add-in-0.3.0", "host-local", r#"in_version 0.3.0 && is ADD && edited 's/"version":"4",*//'; real"#),
    ("add-in-0.3.1", "host-local", r#"in_version 0.3.1 && is ADD && edited 's/"version":"6"/"version":6/'; real"#),
    ("add-in-0.4.0", "host-local", r#"in_version 0.4.0 && is ADD && edited 's/\(10\.1\.[0-9.]*\)\/16/\1/'; real"#),
    ("add-in-1.0.0", "host-local", r#"in_version 1.0.0 && is ADD && edited 's/"address":"10/"version":"4",&/'; real"#),
    ("add-in-1.1.0", "host-local", r#"in_version 1.1.0 && is ADD && edited 's/"dst":"0.0.0.0\/0"/"dst":"0.0.0.0"/'; change 's/"dst":"0.0.0.0"/"dst":"0.0.0.0\/0"/'; real"#),
    ("del-in-each-version", "host-local", r#"in_version 0.2.0 && is DEL && fail 1; real"#),

    ("command-unknown", "host-local", r#"is FROBNICATE && exit 0; real"#),
    ("add-needs-containerid", "host-local", r#"is ADD && [ -z "${CNI_CONTAINERID+set}" ] && edited 's/"code":4/"code":5/'; real"#),
    ("add-needs-netns", "host-local", r#"is ADD && [ -z "$CNI_NETNS" ] && export CNI_NETNS=/run/netns/first; real"#),
    ("add-needs-ifname", "host-local", r#"is ADD && [ -z "${CNI_IFNAME+set}" ] && export CNI_IFNAME=eth0; real"#),
    ("check-needs-containerid", "host-local", r#"is CHECK && [ -z "$CNI_CONTAINERID" ] && fail 5; real"#),
    ("check-needs-netns", "host-local", r#"is CHECK && [ -z "$CNI_NETNS" ] && fail 4; real"#),
    ("check-needs-ifname", "host-local", r#"is CHECK && [ -z "$CNI_IFNAME" ] && exit 0; real"#),
    ("del-needs-containerid", "host-local", r#"is DEL && [ -z "$CNI_CONTAINERID" ] && exit 0; real"#),
    ("del-needs-ifname", "host-local", r#"is DEL && [ -z "$CNI_IFNAME" ] && exit 0; real"#),
    ("gc-needs-path", "host-local", r#"is GC && [ -z "$CNI_PATH" ] && exit 0; real"#),
    ("containerid-invalid", "host-local", r#"[ "$CNI_CONTAINERID" = a:b ] && fail 5; real"#),
    ("ifname-invalid", "host-local", r#"[ "$CNI_IFNAME" = sixteen-letters- ] && CNI_IFNAME=sixteen; real"#),
    ("invalid-variable-named", "host-local", r#"[ "$CNI_IFNAME" = a/b ] && fail 4; real"#),
    ("netns-missing", "bridge", r#"is ADD && [ "$CNI_NETNS" = /run/netns/nowhere ] && CNI_NETNS=/run/netns/first; real"#),
    ("args-ignore-unknown", "host-local", r#"is ADD && [ -n "$CNI_ARGS" ] && exit 1; real"#),
    ("environment-alone", "host-local", r#"[ -n "$HOME" ] || exit 1; real"#),

    ("error-exit", "host-local", r#"(real); exit 0"#),

    ("add-stdout", "host-local", r#"is ADD && [ -n "$CNI_CONTAINERID" ] && echo garbage; real"#),
    ("add-interface", "bridge", r#"is ADD && sampled && { (real) || exit; inside ip link del eth0; exit 0; }; real"#),
    ("add-existing-interface", "bridge", r#"is ADD && inside ip link del "$CNI_IFNAME"; real"#),
    ("add-second-interface", "bridge", r#"[ "$CNI_IFNAME" = cnf1 ] && is DEL && inside ip link set eth0 down; real"#),
    ("add-prev-result", "tuning", r#"is ADD && edited 's/"address":"10/"address":"11/'; real"#),

    ("del-interface", "bridge", r#"is DEL && [ "$CNI_CONTAINERID" = del-interface-a ] && exit 0; real"#),
    ("del-leaves-nothing", "host-local", r#"is DEL && [ "$CNI_CONTAINERID" = first-3 ] && echo left > /run/left; real"#),
    ("del-silent", "host-local", r#"is DEL && echo '[]'; real"#),
    ("del-twice", "bridge", r#"is DEL && has prevResult && [ -e "$CNI_NETNS" ] && [ "$CNI_NETNS" != /run/netns/mortal ] && ! inside ip link show eth0 >/dev/null && fail 5; real"#),
    ("del-without-add", "bridge", r#"is DEL && [ "$CNI_CONTAINERID" = del-without-add-a ] && ! inside ip link show eth0 >/dev/null && fail 5; real"#),
    ("del-without-netns", "host-local", r#"is DEL && [ -n "$CNI_CONTAINERID" ] && [ -n "$CNI_IFNAME" ] && [ -z "$CNI_NETNS" ] && exit 1; real"#),
    ("del-netns-gone", "host-local", r#"is DEL && [ -n "$CNI_NETNS" ] && [ "$CNI_NETNS" != /run/netns/nowhere ] && ! [ -e "$CNI_NETNS" ] && exit 1; real"#),
    ("del-interface-gone", "bridge", r#"is DEL && [ "$CNI_NETNS" = /run/netns/mortal ] && [ -e "$CNI_NETNS" ] && ! inside ip link show eth0 >/dev/null && exit 0; real"#),
    ("del-without-result", "host-local", r#"is DEL && complete && ! has prevResult && exit 0; real"#),
    ("del-after-failed-add", "bridge", r#"is ADD && [ "$CNI_NETNS" = /run/netns/nowhere ] && echo draft > /run/draft; real"#),
    ("del-spares-others", "bridge", r#"is DEL && case $CNI_CONTAINERID in *-b) CNI_NETNS=/run/netns/first; inside ip link set eth0 mtu 1400;; esac; real"#),

    ("check-succeeds", "host-local", r#"is CHECK && has prevResult && fail 100; real"#),
    ("check-silent", "host-local", r#"is CHECK && echo '[]'; real"#),
    ("check-without-result", "host-local", r#"is CHECK && complete && in_version 1.1.0 && ! has prevResult && exit 0; real"#),
    ("check-interface-gone", "bridge", r#"is CHECK && has prevResult && ! inside ip link show eth0 >/dev/null && exit 0; real"#),
    ("check-link-down", "bridge", r#"is CHECK && inside ip link show eth0 | grep -q "state DOWN" && exit 0; real"#),
    ("check-address-gone", "ptp", r#"is CHECK && inside ip link show eth0 | grep -q "state UP" && ! inside ip -4 address show eth0 | grep -q inet && exit 0; real"#),
    ("check-route-gone", "ptp", r#"is CHECK && ! has conformance-ipam && inside ip link show eth0 | grep -q "state UP" && inside ip -4 address show eth0 | grep -q inet && ! inside ip -4 route show default | grep -q via && exit 0; real"#),
    ("check-after-del", "host-local", r#"is CHECK && complete && has prevResult && exit 0; real"#),
    ("check-before-0.4.0", "host-local", r#"is CHECK && in_version 0.3.1 && exit 0; real"#),

    ("status-ready", "host-local", r#"is STATUS && in_version 1.1.0 && exit 1; real"#),
    ("status-silent", "host-local", r#"is STATUS && echo '[]'; real"#),
    ("status-before-1.1.0", "host-local", r#"is STATUS && in_version 1.0.0 && exit 0; real"#),

    ("version-reply", "host-local", r#"is VERSION && edited 's/"0.1.0"/"0.1",&/'; real"#),
    ("version-echo", "host-local", r#"is VERSION && config='{}'; real"#),

    ("gc-keeps-valid", "host-local", r#"is GC && change 's/\("cni.dev.valid-attachments":\)\[[^]]*\]/\1[]/'; real"#),
    ("gc-removes-stale", "host-local", r#"is GC && grep -qs gc-removes-stale- /var/lib/cni/networks/conformance/* && exit 0; real"#),
    ("gc-spares-other-networks", "host-local", r#"is GC && change s/another-network/conformance/; real"#),
    ("gc-twice", "host-local", r#"mark=/run/rscni-test/collected; is ADD || is DEL && rm -f $mark; is GC && in_version 1.1.0 && [ -n "$CNI_PATH" ] && { [ -e $mark ] && rm $mark && fail 5; echo > $mark; }; real"#),
    ("gc-silent", "host-local", r#"is GC && echo '[]'; real"#),
    ("gc-before-1.1.0", "host-local", r#"is GC && in_version 1.0.0 && exit 0; real"#),

    ("concurrent-add", "host-local", r#"is ADD && alone; real"#),
    ("concurrent-del", "host-local", r#"is DEL && alone; real"#),

    ("reserved-keys", "host-local", r#"has '"cni.dev/conformance"' && fail 2; real"#),

    ("delegate-parameters", "bridge", r#"unset CNI_ARGS; real"#),
    ("delegate-add-fails", "bridge", r#"is ADD && has conformance-ipam && { out=$(real) || out='{"cniVersion":"1.1.0"}'; echo "$out"; exit 0; }; real"#),
    ("delegate-undo", "bridge", r#"is ADD && has conformance-ipam && { out=$(printf %s "$config" | "${CNI_PATH%%:*}/conformance-ipam") || { echo "$out"; exit 1; }; }; real"#),
    ("delegate-check", "bridge", r#"is CHECK && has conformance-ipam && exit 0; real"#),
    ("delegate-del", "bridge", r#"is DEL && has conformance-ipam && exit 0; real"#),
    ("delegate-del-fails", "bridge", r#"is DEL && has conformance-ipam && { (real) >/dev/null; exit 0; }; real"#),
    ("delegate-gc", "bridge", r#"is GC && has conformance-ipam && exit 0; real"#),
    ("delegate-status", "bridge", r#"is STATUS && has conformance-ipam && { (real) >/dev/null; exit 0; }; real"#),

    ("result-interfaces", "bridge", r#"is ADD && sampled && edited 's/"sandbox":"[^"]*"/"sandbox":""/'; real"#),
    ("result-sandbox", "bridge", r#"is ADD && sampled && edited 's/"sandbox":"[^"]*"/"sandbox":"container"/'; real"#),
    ("result-interfaces-exist", "bridge", r#"is ADD && sampled && edited 's/"name":"br0"/"name":"br9"/'; real"#),
    ("result-mac", "bridge", r#"is ADD && sampled && edited 's/"mac":"[^"]*"/"mac":"02:00:00:00:00:99"/g'; real"#),
    ("result-mtu", "bridge", r#"is ADD && sampled && edited 's/"mtu":1500/"mtu":1400/'; real"#),
    ("result-ip-interface", "bridge", r#"is ADD && sampled && edited 's/"interface":[0-9]/"interface":7/'; real"#),
    ("result-addresses", "bridge", r#"is ADD && sampled && edited 's/"address":"10\.1/"address":"10.2/'; real"#),
    ("result-routes", "bridge", r#"is ADD && sampled && edited 's/"dst":"0\.0\.0\.0\/0"/"dst":"203.0.113.0\/24"/'; real"#),
    ("result-dns", "bridge", r#"is ADD && edited 's/"domain"/"host"/'; real"#),

    ("error-reply", "host-local", r#"edited 's/"msg":"\([^"]*\)"/"msg":"","details":"\1"/'"#),
    ("error-version", "host-local", r#"edited 's/"cniVersion":"0.3.0","code"/"cniVersion":"1.1.0","code"/'"#),
];

/// Requirements that a defect fails besides its own. These defects are not combined with others,
/// nor are those with an empty list, because they prevent other checks.
const BESIDES: &[(&str, &[&str])] = &[
    ("command-unknown", &["invalid-variable-named"]),
    ("add-interface", &["result-interfaces-exist", "result-addresses", "result-routes"]),
    ("add-prev-result", &["result-addresses"]),
    ("del-without-result", &["del-after-failed-add"]),
    ("del-after-failed-add", &["netns-missing"]),
    (
        "check-succeeds",
        &[
            "add-second-interface",
            "del-spares-others",
            "check-silent",
            "gc-keeps-valid",
            "gc-spares-other-networks",
        ],
    ),
    ("check-interface-gone", &["check-after-del"]),
    ("concurrent-add", &[]),
    ("status-ready", &[]),
    ("delegate-del", &["delegate-del-fails"]),
    ("result-interfaces", &["result-interfaces-exist", "result-addresses"]),
    ("result-addresses", &[]),
];

/// Returns the requirements that a defect fails.
fn broken_by(defect: &Defect) -> Vec<&'static str> {
    let besides = BESIDES.iter().find(|(id, _)| *id == defect.0).map(|(_, others)| *others);
    [&[defect.0], besides.unwrap_or_default()].concat()
}

/// A plugin with several defects at a time.
pub(crate) type Group = Vec<&'static Defect>;

/// Returns the defects of a plugin in groups, which takes less time than one by one. A defect that
/// fails several requirements is alone.
pub(crate) fn groups(plugin: &str) -> Vec<Group> {
    let of_plugin = DEFECTS.iter().filter(|(_, of, _)| *of == plugin);
    let (alone, others): (Group, Group) =
        of_plugin.partition(|(id, ..)| BESIDES.iter().any(|(of, _)| of == id));
    let count = others.len().div_ceil(MAX_GROUP);
    let group = |first| others.iter().skip(first).step_by(count).copied().collect();
    alone.into_iter().map(|defect| vec![defect]).chain((0..count).map(group)).collect()
}

/// Maximum number of defects in a group.
const MAX_GROUP: usize = 10;

/// Returns the requirements that these defects fail.
pub(crate) fn broken_by_all(group: &Group) -> BTreeSet<&'static str> {
    group.iter().flat_map(|defect| broken_by(defect)).collect()
}

/// Returns the requirements of these defects.
pub(crate) fn ids(group: &Group) -> Vec<&'static str> {
    group.iter().map(|(id, ..)| *id).collect()
}

/// Installs the plugin with these defects in a new directory and returns the directory.
pub(crate) fn install(defects: &[&Defect], dir: &Path) -> PathBuf {
    let plugin = defects[0].1;
    let mut script = PRELUDE.to_owned();
    let real = format!("printf %s \"$config\" | {}", dir.join(plugin).display());
    for (wrong, number) in defects.iter().map(|(_, _, wrong)| *wrong).chain([&*real]).zip(1..) {
        writeln!(script, "defect{number}() {{\n{wrong}\n}}").unwrap();
    }
    script.push_str("real\n");
    // Removed with its parent directory.
    let broken = tempfile::tempdir_in(dir).unwrap().keep();
    let file = broken.join(plugin);
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    broken
}

/// Returns the defect of a requirement.
pub(crate) fn of(id: &str) -> &'static Defect {
    DEFECTS.iter().find(|(found, ..)| *found == id).unwrap()
}
