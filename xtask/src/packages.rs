//! The Debian packages that the tasks need, and how they come onto the machine.
//!
//! A package counts as there when one of its witness files is: so a program that came from elsewhere (say,
//! containerd from Docker's own packages) is used as it is, and nothing is replaced. As root what is missing is
//! installed; an ordinary user is told the command to type. Rust's own components (rustfmt, clippy) come with
//! the toolchain and are left to rustup.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::program;

/// A Debian package, and files that show that it, or a stand-in for it, is there.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    name: &'static str,
    witnesses: &'static [&'static str],
}

/// Where Debian has the Go plugins.
pub const GO_PLUGINS_DIR: &str = "/usr/lib/cni";
const GO_PLUGINS: Package =
    Package { name: "containernetworking-plugins", witnesses: &["/usr/lib/cni/bridge"] };
const IPTABLES: Package =
    Package { name: "iptables", witnesses: &["/usr/sbin/iptables", "/sbin/iptables"] };
const NFTABLES: Package = Package { name: "nftables", witnesses: &["/usr/sbin/nft", "/sbin/nft"] };
const IPROUTE2: Package =
    Package { name: "iproute2", witnesses: &["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"] };
const UTIL_LINUX: Package = Package { name: "util-linux", witnesses: &["/usr/bin/setpriv"] };
const STRACE: Package = Package { name: "strace", witnesses: &["/usr/bin/strace"] };

const DBUS: Package = Package { name: "dbus-daemon", witnesses: &["/usr/bin/dbus-daemon"] };
const DNSMASQ: Package =
    Package { name: "dnsmasq-base", witnesses: &["/usr/sbin/dnsmasq", "/sbin/dnsmasq"] };

/// What `cargo test` needs: the plugins to hand over to and from, tools to look with, a message bus, a DHCP server.
pub const FOR_TESTS: &[Package] =
    &[GO_PLUGINS, IPTABLES, NFTABLES, IPROUTE2, UTIL_LINUX, STRACE, DBUS, DNSMASQ];

/// What a run in User-Mode Linux needs. The kernel in there calls kmod's modprobe for a link kind it lacks.
pub const FOR_UML: &[Package] = &[
    Package { name: "user-mode-linux", witnesses: &["/usr/bin/linux.uml"] },
    Package { name: "kmod", witnesses: &["/usr/sbin/modprobe", "/sbin/modprobe"] },
    IPROUTE2,
];

/// What upstream's test cases call.
pub const FOR_UPSTREAM: &[Package] = &[
    Package { name: "iputils-ping", witnesses: &["/usr/bin/ping", "/bin/ping"] },
    Package { name: "dnsmasq-base", witnesses: &["/usr/sbin/dnsmasq"] },
    DBUS,
    IPTABLES,
    NFTABLES,
    IPROUTE2,
];

/// What the bench needs: what the Go plugins call.
pub const FOR_BENCH: &[Package] = &[IPTABLES, NFTABLES];

/// What the end-to-end run needs.
pub const FOR_E2E: &[Package] = &[
    Package { name: "containerd", witnesses: &["/usr/bin/containerd"] },
    Package { name: "runc", witnesses: &["/usr/sbin/runc", "/usr/bin/runc"] },
    // A witness of its own: the package `busybox` has the same program, but linked to a C library.
    Package { name: "busybox-static", witnesses: &["/var/lib/dpkg/info/busybox-static.list"] },
    GO_PLUGINS,
    IPTABLES,
    NFTABLES,
    IPROUTE2,
];

/// Makes sure that all of `packages` are there; what they are for goes into the message.
pub fn ensure(what_for: &str, packages: &[Package]) -> Result<()> {
    let missing = missing(packages, |file| Path::new(file).exists());
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !program::is_root() {
        bail!("{}", what_to_type(what_for, &list));
    }
    println!("{what_for}: installing the Debian packages {list}");
    program::capture(apt_get().arg("update"))
        .and_then(|_| {
            // A package that would push out one of the machine's own is not worth it: stop and say so.
            program::capture(
                apt_get()
                    .args(["install", "--yes", "--no-install-recommends", "--no-remove"])
                    .args(&missing),
            )
        })
        .with_context(|| format!("install the Debian packages {list} for {what_for}"))?;
    Ok(())
}

fn missing(packages: &[Package], exists: impl Fn(&str) -> bool) -> Vec<&'static str> {
    packages
        .iter()
        .filter(|package| !package.witnesses.iter().any(|file| exists(file)))
        .map(|package| package.name)
        .collect()
}

fn what_to_type(what_for: &str, list: &str) -> String {
    format!(
        "{what_for}: these Debian packages are missing: {list}\n\
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
    fn a_package_is_missing_only_when_none_of_its_witnesses_is_there() {
        let only_docker_s_runc =
            |file: &str| file == "/usr/bin/runc" || file == "/usr/bin/containerd";
        let missing = missing(FOR_E2E, only_docker_s_runc);
        assert!(!missing.contains(&"runc") && !missing.contains(&"containerd"));
        assert!(missing.contains(&"busybox-static"));
    }

    #[test]
    fn an_ordinary_user_is_told_the_exact_command() {
        let message = what_to_type("User-Mode Linux", "user-mode-linux kmod");
        assert!(
            message.contains(
                "User-Mode Linux: these Debian packages are missing: user-mode-linux kmod"
            )
        );
        assert!(
            message.contains("apt-get install -y --no-install-recommends user-mode-linux kmod")
        );
    }
}
