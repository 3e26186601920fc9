//! A plugin for each requirement that does not meet it: one of ours, behind a script of a shell that does one thing wrong.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What the scripts have: `$config` is the plugin's stdin, `real` is the plugin.
const PRELUDE: &str = r#"#!/bin/sh
config=$(cat)
real() { printf %s "$config" | REAL; }
is() { [ "$CNI_COMMAND" = "$1" ]; }
has() { case $config in *"$1"*) return 0;; esac; return 1; }
in_version() { has "\"cniVersion\":\"$1\""; }
complete() { [ -n "$CNI_CONTAINERID" ] && [ -n "$CNI_IFNAME" ] && [ -n "$CNI_NETNS" ]; }
fail() { printf '{"cniVersion":"1.1.0","code":%s,"msg":"a defect"}' "$1"; exit 1; }
edited() { out=$(real); status=$?; printf %s "$out" | sed "$1"; exit $status; }
inside() { nsenter --net="$CNI_NETNS" "$@" 2>/dev/null; }
alone() { mkdir /run/busy 2>/dev/null || fail 11; sleep 0.2; real; status=$?; rmdir /run/busy; exit $status; }
"#;

/// A requirement, the plugin, and what it does wrong.
type Defect = (&'static str, &'static str, &'static str);

/// Where a defect would be in the way of the attachments that each requirement begins with, it spares those (`first-*`).
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
    ("add-in-0.2.0", "host-local", r#"in_version 0.2.0 && is ADD && edited 's/"cniVersion":"0.2.0"/"cniVersion":"0.1.0"/'; real"#),
    ("add-in-0.3.0", "host-local", r#"in_version 0.3.0 && is ADD && edited 's/"version":"4",*//'; real"#),
    ("add-in-0.3.1", "host-local", r#"in_version 0.3.1 && is ADD && edited 's/"version":"6"/"version":6/'; real"#),
    ("add-in-0.4.0", "host-local", r#"in_version 0.4.0 && is ADD && edited 's/\(10\.1\.[0-9.]*\)\/16/\1/'; real"#),
    ("add-in-1.0.0", "host-local", r#"in_version 1.0.0 && is ADD && edited 's/"address":"10/"version":"4",&/'; real"#),
    ("add-in-1.1.0", "host-local", r#"in_version 1.1.0 && is ADD && edited 's/"dst":"192.0.2.0\/24"/"dst":"192.0.2.0"/'; real"#),
    ("del-in-each-version", "host-local", r#"in_version 0.2.0 && is DEL && fail 1; real"#),

    ("command-unknown", "host-local", r#"is FROBNICATE && exit 0; real"#),
    ("add-needs-containerid", "host-local", r#"is ADD && [ -z "$CNI_CONTAINERID" ] && export CNI_CONTAINERID=one; real"#),
    ("add-needs-netns", "host-local", r#"is ADD && [ -z "$CNI_NETNS" ] && export CNI_NETNS=/run/netns/first; real"#),
    ("add-needs-ifname", "host-local", r#"is ADD && [ -z "$CNI_IFNAME" ] && export CNI_IFNAME=eth0; real"#),
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

    ("error-exit", "host-local", "real; exit 0"),

    ("add-stdout", "host-local", r#"is ADD && [ -n "$CNI_CONTAINERID" ] && echo garbage; real"#),
    ("add-interface", "bridge", r#"real && is ADD && inside ip link del eth0"#),
    ("add-existing-interface", "bridge", r#"is ADD && inside ip link del eth0; real"#),
    ("add-second-interface", "bridge", r#"[ "$CNI_IFNAME" = cnf1 ] && is DEL && inside ip link set eth0 down; real"#),
    ("add-prev-result", "tuning", r#"is ADD && edited 's/"address":"10/"address":"11/'; real"#),

    ("del-interface", "bridge", r#"is DEL && case $CNI_CONTAINERID in first-*) ;; *) exit 0;; esac; real"#),
    ("del-leaves-nothing", "host-local", r#"is DEL && echo left > "/run/left-$CNI_CONTAINERID"; real"#),
    ("del-silent", "host-local", r#"is DEL && echo '[]'; real"#),
    ("del-twice", "bridge", r#"is DEL && ! inside ip link show eth0 >/dev/null && fail 5; real"#),
    ("del-without-add", "bridge", r#"is DEL && ! inside ip link show eth0 >/dev/null && fail 5; real"#),
    ("del-without-netns", "host-local", r#"is DEL && [ -n "$CNI_CONTAINERID" ] && [ -n "$CNI_IFNAME" ] && [ -z "$CNI_NETNS" ] && exit 1; real"#),
    ("del-netns-gone", "host-local", r#"is DEL && [ -n "$CNI_NETNS" ] && [ "$CNI_NETNS" != /run/netns/nowhere ] && ! [ -e "$CNI_NETNS" ] && exit 1; real"#),
    ("del-interface-gone", "bridge", r#"is DEL && [ "$CNI_NETNS" = /run/netns/mortal ] && ! inside ip link show eth0 >/dev/null && exit 0; real"#),
    ("del-without-result", "host-local", r#"is DEL && ! has prevResult && exit 0; real"#),
    ("del-after-failed-add", "bridge", r#"is ADD && [ "$CNI_NETNS" = /run/netns/nowhere ] && echo draft > /run/draft; real"#),
    ("del-spares-others", "bridge", r#"is DEL && case $CNI_CONTAINERID in *-b) CNI_NETNS=/run/netns/first; inside ip link set eth0 mtu 1400;; esac; real"#),

    ("check-succeeds", "host-local", r#"is CHECK && fail 100; real"#),
    ("check-silent", "host-local", r#"is CHECK && echo '[]'; real"#),
    ("check-without-result", "host-local", r#"is CHECK && complete && in_version 1.1.0 && ! has prevResult && exit 0; real"#),
    ("check-interface-gone", "bridge", r#"is CHECK && exit 0; real"#),
    ("check-link-down", "bridge", r#"is CHECK && exit 0; real"#),
    ("check-address-gone", "ptp", r#"is CHECK && exit 0; real"#),
    ("check-route-gone", "ptp", r#"is CHECK && exit 0; real"#),
    ("check-after-del", "host-local", r#"is CHECK && complete && has prevResult && exit 0; real"#),
    ("check-before-0.4.0", "host-local", r#"is CHECK && in_version 0.3.1 && exit 0; real"#),

    ("status-ready", "host-local", r#"is STATUS && in_version 1.1.0 && exit 1; real"#),
    ("status-silent", "host-local", r#"is STATUS && echo '[]'; real"#),
    ("status-before-1.1.0", "host-local", r#"is STATUS && in_version 1.0.0 && exit 0; real"#),

    ("version-reply", "host-local", r#"is VERSION && edited 's/"0.1.0"/"0.1"/'; real"#),
    ("version-echo", "host-local", r#"is VERSION && config='{}'; real"#),

    ("gc-keeps-valid", "host-local", r#"is GC && config=$(printf %s "$config" | sed 's/\("cni.dev.valid-attachments":\)\[[^]]*\]/\1[]/'); real"#),
    ("gc-removes-stale", "host-local", r#"is GC && [ -n "$CNI_PATH" ] && in_version 1.1.0 && exit 0; real"#),
    ("gc-spares-other-networks", "host-local", r#"is GC && config=$(printf %s "$config" | sed s/another-network/conformance/); real"#),
    ("gc-twice", "host-local", r#"is GC && { [ -e /run/collected ] && fail 5; echo > /run/collected; }; real"#),
    ("gc-silent", "host-local", r#"is GC && echo '[]'; real"#),
    ("gc-before-1.1.0", "host-local", r#"is GC && in_version 1.0.0 && exit 0; real"#),

    ("concurrent-add", "host-local", r#"is ADD && alone; real"#),
    ("concurrent-del", "host-local", r#"is DEL && alone; real"#),

    ("reserved-keys", "host-local", r#"has '"cni.dev/conformance"' && fail 2; real"#),

    ("delegate-parameters", "bridge", r#"unset CNI_ARGS; real"#),
    ("delegate-add-fails", "bridge", r#"is ADD && has conformance-ipam && { out=$(real) || out='{"cniVersion":"1.1.0"}'; echo "$out"; exit 0; }; real"#),
    ("delegate-undo", "bridge", r#"is ADD && has conformance-ipam && { out=$(printf %s "$config" | "${CNI_PATH%%:*}/conformance-ipam") || { echo "$out"; exit 1; }; }; real"#),
    ("delegate-check", "bridge", r#"is CHECK && exit 0; real"#),
    ("delegate-del", "bridge", r#"is DEL && has conformance-ipam && exit 0; real"#),
    ("delegate-del-fails", "bridge", r#"is DEL && { real >/dev/null; exit 0; }; real"#),
    ("delegate-gc", "bridge", r#"is GC && exit 0; real"#),
    ("delegate-status", "bridge", r#"is STATUS && { real >/dev/null; exit 0; }; real"#),

    ("result-interfaces", "bridge", r#"is ADD && edited 's/"sandbox":"[^"]*"/"sandbox":""/'; real"#),
    ("result-sandbox", "bridge", r#"is ADD && edited 's/"sandbox":"[^"]*"/"sandbox":"container"/'; real"#),
    ("result-interfaces-exist", "bridge", r#"is ADD && edited 's/"name":"br0"/"name":"br9"/'; real"#),
    ("result-mac", "bridge", r#"is ADD && edited 's/"mac":"[^"]*"/"mac":"02:00:00:00:00:99"/g'; real"#),
    ("result-mtu", "bridge", r#"is ADD && edited 's/"mtu":1500/"mtu":1400/'; real"#),
    ("result-ip-interface", "bridge", r#"is ADD && edited 's/"interface":[0-9]/"interface":7/'; real"#),
    ("result-addresses", "bridge", r#"is ADD && edited 's/"address":"10\.1/"address":"10.2/'; real"#),
    ("result-routes", "bridge", r#"is ADD && edited 's/"dst":"0\.0\.0\.0\/0"/"dst":"203.0.113.0\/24"/'; real"#),
    ("result-dns", "bridge", r#"is ADD && edited 's/"domain"/"host"/'; real"#),

    ("error-reply", "host-local", r#"out=$(real) || exit 1; printf %s "$out""#),
    ("error-version", "host-local", r#"edited 's/"cniVersion":"0.3.0","code"/"cniVersion":"1.1.0","code"/'"#),
];

/// Installs the plugin with its defect, and gives the directory that it is in.
pub(crate) fn install(defect: &Defect, dir: &Path) -> PathBuf {
    let (id, plugin, wrong) = defect;
    let broken = dir.join(id);
    std::fs::create_dir(&broken).unwrap();
    let file = broken.join(plugin);
    let prelude = PRELUDE.replace("REAL", &dir.join(plugin).display().to_string());
    std::fs::write(&file, format!("{prelude}{wrong}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    broken
}

/// The defect that a requirement finds.
pub(crate) fn of(id: &str) -> &'static Defect {
    DEFECTS.iter().find(|(found, ..)| *found == id).unwrap()
}
