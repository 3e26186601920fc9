//! The Debian packages that the tasks and rigs need, and their installation.
//!
//! A package counts as installed if one of its witness files exists. A program from elsewhere, such
//! as containerd from Docker's packages, is used as it is. Root gets missing packages installed; an
//! ordinary user gets the command to type. rustfmt and clippy come with the toolchain.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::program;

/// A Debian package, and files of which each shows that it, or a replacement, is installed.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    name: &'static str,
    witnesses: &'static [&'static str],
}

const fn package(name: &'static str, witnesses: &'static [&'static str]) -> Package {
    Package { name, witnesses }
}

/// Directory of Debian's Go plugins.
pub const GO_PLUGINS_DIR: &str = "/usr/lib/cni";
const GO_PLUGINS: Package = package("containernetworking-plugins", &["/usr/lib/cni/bridge"]);
const IPTABLES: Package = package("iptables", &["/usr/sbin/iptables", "/sbin/iptables"]);
const NFTABLES: Package = package("nftables", &["/usr/sbin/nft", "/sbin/nft"]);
const IPROUTE2: Package = package("iproute2", &["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"]);
const UTIL_LINUX: Package = package("util-linux", &["/usr/bin/setpriv"]);
/// For counts of system calls.
pub const STRACE: Package = package("strace", &["/usr/bin/strace"]);
const DBUS: Package = package("dbus-daemon", &["/usr/bin/dbus-daemon"]);
const DNSMASQ: Package = package("dnsmasq-base", &["/usr/sbin/dnsmasq", "/sbin/dnsmasq"]);

/// For `cargo test`: the Go plugins for the handover, tools to inspect the network, a message bus,
/// a DHCP server.
pub const FOR_TESTS: &[Package] =
    &[GO_PLUGINS, IPTABLES, NFTABLES, IPROUTE2, UTIL_LINUX, STRACE, DBUS, DNSMASQ];

/// For User-Mode Linux. Its kernel calls modprobe of kmod for a missing link kind.
pub const FOR_UML: &[Package] = &[
    package("user-mode-linux", &["/usr/bin/linux.uml"]),
    package("kmod", &["/usr/sbin/modprobe", "/sbin/modprobe"]),
    IPROUTE2,
];

/// For upstream's test cases.
pub const FOR_UPSTREAM: &[Package] = &[
    package("iputils-ping", &["/usr/bin/ping", "/bin/ping"]),
    DNSMASQ,
    DBUS,
    IPTABLES,
    NFTABLES,
    IPROUTE2,
];

/// For the bench: the tools that the Go plugins call.
pub const FOR_BENCH: &[Package] = &[IPTABLES, NFTABLES];
const RUNC: Package = package("runc", &["/usr/sbin/runc", "/usr/bin/runc"]);
/// The package `busybox` has the same program as `busybox-static`, but linked dynamically, so the
/// witness is dpkg's file.
const BUSYBOX: Package = package("busybox-static", &["/var/lib/dpkg/info/busybox-static.list"]);

/// For the end-to-end run.
pub const FOR_E2E: &[Package] = &[
    package("containerd", &["/usr/bin/containerd"]),
    RUNC,
    BUSYBOX,
    GO_PLUGINS,
    IPTABLES,
    NFTABLES,
    IPROUTE2,
];

/// For the Kubernetes cluster. kube-proxy and kubelet call nft and mount, flanneld and the Go
/// plugins iptables.
pub const FOR_KUBERNETES: &[Package] = &[
    RUNC,
    BUSYBOX,
    package("openssl", &["/usr/bin/openssl"]),
    package("mount", &["/usr/bin/mount", "/bin/mount"]),
    UTIL_LINUX,
    IPTABLES,
    NFTABLES,
    IPROUTE2,
];

/// For Kubernetes' own end-to-end tests: tools that their pods call.
pub const FOR_UPSTREAM_KUBERNETES: &[Package] = &[
    package("bash", &["/usr/bin/bash", "/bin/bash"]),
    package("bind9-dnsutils", &["/usr/bin/dig"]),
    package("curl", &["/usr/bin/curl"]),
    package("libc-bin", &["/usr/bin/getent"]),
    package("netcat-openbsd", &["/usr/bin/nc", "/bin/nc"]),
    package("wget", &["/usr/bin/wget"]),
    IPROUTE2,
];

/// Makes sure that all `packages` are installed; messages name `purpose`.
pub fn ensure(purpose: &str, packages: &[Package]) -> Result<()> {
    let missing = missing(packages, |file| Path::new(file).exists());
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !program::is_root() {
        bail!("{}", instructions(purpose, &list));
    }
    println!("{purpose}: installing the Debian packages {list}");
    program::capture(apt_get().arg("update"))
        .and_then(|_| {
            // A package that conflicts with an installed one is an error, not a replacement.
            let options = ["install", "--yes", "--no-install-recommends", "--no-remove"];
            program::capture(apt_get().args(options).args(&missing))
        })
        .with_context(|| format!("install the Debian packages {list} for {purpose}"))?;
    Ok(())
}

fn missing(packages: &[Package], exists: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let is_missing = |package: &&Package| !package.witnesses.iter().any(|file| exists(file));
    packages.iter().filter(is_missing).map(|package| package.name).collect()
}

fn instructions(purpose: &str, list: &str) -> String {
    format!(
        "{purpose}: these Debian packages are missing: {list}\n\
         Type this, then start again:\n\n    \
         sudo apt-get update && sudo apt-get install -y --no-install-recommends {list}\n"
    )
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("--quiet=2").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_missing_if_none_of_its_witnesses_exists() {
        let missing =
            missing(FOR_E2E, |file| ["/usr/bin/runc", "/usr/bin/containerd"].contains(&file));
        assert!(!missing.contains(&"runc") && !missing.contains(&"containerd"));
        assert!(missing.contains(&"busybox-static"));
    }

    #[test]
    fn an_ordinary_user_gets_the_exact_command() {
        let message = instructions("User-Mode Linux", "user-mode-linux kmod");
        for part in [
            "User-Mode Linux: these Debian packages are missing: user-mode-linux kmod",
            "apt-get install -y --no-install-recommends user-mode-linux kmod",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}
