//! The requirements, in the order of the specification.

mod add;
mod check;
mod concurrency;
mod config;
mod del;
mod delegation;
mod errors;
mod gc;
mod parameters;
mod result;
mod status;
mod version;

use crate::requirement::{
    Level::{Must, Should},
    Requirement,
};

/// Defines [`ALL`]: per section of the specification (version 1.1.0) the level, the id, the check
/// with its parameter, and the text of each requirement.
macro_rules! requirements {
    ($($section:literal {
        $($level:ident $id:literal ($check:path $(, $parameter:literal)?) $text:literal;)*
    })*) => {
        /// All requirements.
        pub const ALL: &[Requirement] = &[$($(Requirement {
            id: $id,
            level: $level,
            section: $section,
            text: $text,
            parameter: concat!($($parameter)?),
            check: $check,
        },)*)*];
    };
}

requirements! {
    "Section 1: Configuration format" {
        Must "config-malformed" (config::not_json) "A configuration that is not JSON is error 6.";
        Must "config-no-object" (config::no_object)
            "A configuration that is not an object is error 6 or 7.";
        Must "config-empty" (config::empty) "An empty stdin is error 5, 6 or 7.";
        Must "config-without-name" (config::without_name)
            "A configuration without `name` is error 7.";
        Must "config-invalid-name" (config::invalid_name)
            "A network name with invalid characters is error 7.";
        Must "config-invalid-version" (config::invalid_version)
            "An invalid `cniVersion` is error 1, 6 or 7.";
        Should "config-unknown-key" (config::unknown_key)
            "An unknown key is ignored, or is error 2, which names it.";
    }
    "Section 1: Version considerations" {
        Must "version-unsupported" (version::unsupported)
            "A `cniVersion` that the plugin does not support is error 1.";
        Must "add-in-0.1.0" (version::add_in, "0.1.0")
            "ADD in 0.1.0, if supported, returns a result of that version.";
        Must "add-in-0.2.0" (version::add_in, "0.2.0")
            "ADD in 0.2.0, if supported, returns a result of that version.";
        Must "add-in-0.3.0" (version::add_in, "0.3.0")
            "ADD in 0.3.0, if supported, returns a result of that version.";
        Must "add-in-0.3.1" (version::add_in, "0.3.1")
            "ADD in 0.3.1, if supported, returns a result of that version.";
        Must "add-in-0.4.0" (version::add_in, "0.4.0")
            "ADD in 0.4.0, if supported, returns a result of that version.";
        Must "add-in-1.0.0" (version::add_in, "1.0.0")
            "ADD in 1.0.0, if supported, returns a result of that version.";
        Must "add-in-1.1.0" (version::add_in, "1.1.0")
            "ADD in 1.1.0, if supported, returns a result of that version.";
        Must "del-in-each-version" (version::del_in_each)
            "DEL without an ADD succeeds in each supported version.";
    }
    "Section 2: Parameters" {
        Must "command-unknown" (parameters::unknown_command) "An unknown CNI_COMMAND is error 4.";
        Must "add-needs-containerid" (parameters::missing, "ADD CNI_CONTAINERID")
            "ADD without CNI_CONTAINERID is error 4, which names it.";
        Must "add-needs-netns" (parameters::missing, "ADD CNI_NETNS")
            "ADD without CNI_NETNS is error 4, which names it.";
        Must "add-needs-ifname" (parameters::missing, "ADD CNI_IFNAME")
            "ADD without CNI_IFNAME is error 4, which names it.";
        Must "check-needs-containerid" (parameters::missing, "CHECK CNI_CONTAINERID")
            "CHECK without CNI_CONTAINERID is error 4, which names it.";
        Must "check-needs-netns" (parameters::missing, "CHECK CNI_NETNS")
            "CHECK without CNI_NETNS is error 4, which names it.";
        Must "check-needs-ifname" (parameters::missing, "CHECK CNI_IFNAME")
            "CHECK without CNI_IFNAME is error 4, which names it.";
        Must "del-needs-containerid" (parameters::missing, "DEL CNI_CONTAINERID")
            "DEL without CNI_CONTAINERID is error 4, which names it.";
        Must "del-needs-ifname" (parameters::missing, "DEL CNI_IFNAME")
            "DEL without CNI_IFNAME is error 4, which names it.";
        Must "gc-needs-path" (parameters::missing, "GC CNI_PATH")
            "GC without CNI_PATH is error 4, which names it.";
        Must "containerid-invalid" (parameters::container_id)
            "A container id that does not match [A-Za-z0-9][A-Za-z0-9_.-]* is error 4.";
        Must "ifname-invalid" (parameters::ifname)
            "An interface name that is invalid in Linux is error 4.";
        Must "invalid-variable-named" (parameters::named)
            "The error for an invalid variable names the variable.";
        Must "netns-missing" (parameters::no_netns)
            "ADD with a CNI_NETNS that does not exist is an error and leaves nothing behind.";
        Should "args-ignore-unknown" (parameters::ignore_unknown)
            "Unknown keys in CNI_ARGS are accepted with IgnoreUnknown=1.";
        Should "environment-alone" (parameters::alone)
            "ADD and DEL only need PATH and the variables of the protocol.";
    }
    "Section 2: Errors" {
        Must "error-exit" (errors::exit) "A failed call exits with a status other than 0.";
    }
    "Section 2: ADD" {
        Must "add-stdout" (add::stdout) "ADD prints exactly one JSON object on stdout.";
        Should "add-interface" (add::interface)
            "After ADD the container has the interface CNI_IFNAME.";
        Must "add-existing-interface" (add::existing)
            "ADD with an existing interface name is an error and changes nothing.";
        Must "add-second-interface" (add::second)
            "A second interface can be attached to a container; its DEL keeps the first.";
        Must "add-prev-result" (add::prev_result) "ADD returns everything in `prevResult`.";
    }
    "Section 2: DEL" {
        Should "del-interface" (del::interface) "DEL removes the interface that ADD created.";
        Should "del-leaves-nothing" (del::leaves_nothing) "After DEL everything is as before ADD.";
        Should "del-silent" (del::silent) "A successful DEL prints nothing on stdout.";
        Must "del-twice" (del::twice) "A second DEL succeeds.";
        Must "del-without-add" (del::without_add)
            "DEL succeeds for a container that was never attached.";
        Must "del-without-netns" (del::without_netns)
            "DEL succeeds without CNI_NETNS and releases everything on the host.";
        Must "del-netns-gone" (del::netns_gone)
            "DEL succeeds after the namespace was removed and releases everything on the host.";
        Must "del-interface-gone" (del::interface_gone)
            "DEL succeeds after the interface was removed and releases everything on the host.";
        Should "del-without-result" (del::without_result)
            "DEL succeeds without `prevResult` and leaves nothing behind.";
        Should "del-after-failed-add" (del::after_failed_add)
            "DEL succeeds after a failed ADD and leaves nothing behind.";
        Must "del-spares-others" (del::spares_others)
            "DEL does not change the attachment of another container.";
    }
    "Section 2: CHECK" {
        Must "check-succeeds" (check::succeeds) "CHECK succeeds right after ADD.";
        Must "check-silent" (check::silent) "A successful CHECK prints nothing on stdout.";
        Must "check-without-result" (check::without_result)
            "CHECK without `prevResult` is an error.";
        Should "check-interface-gone" (check::damaged, "interface")
            "CHECK is an error after the interface was removed.";
        Should "check-link-down" (check::damaged, "down")
            "CHECK is an error while the interface is down.";
        Should "check-address-gone" (check::damaged, "address")
            "CHECK is an error after an address of the result was removed.";
        Should "check-route-gone" (check::damaged, "route")
            "CHECK is an error after a route of the result was removed.";
        Should "check-after-del" (check::after_del)
            "CHECK is an error after DEL, if ADD makes anything.";
        Must "check-before-0.4.0" (version::not_before, "CHECK 0.4.0")
            "CHECK is error 1 or 4 in a version before 0.4.0.";
    }
    "Section 2: STATUS" {
        Must "status-ready" (status::ready) "STATUS succeeds if ADD does.";
        Should "status-silent" (status::silent) "A successful STATUS prints nothing on stdout.";
        Must "status-before-1.1.0" (version::not_before, "STATUS 1.1.0")
            "STATUS is error 1 or 4 in a version before 1.1.0.";
    }
    "Section 5: VERSION Success" {
        Must "version-reply" (version::reply)
            "VERSION only needs CNI_COMMAND and returns `cniVersion` and `supportedVersions`.";
        Must "version-echo" (version::echo)
            "The reply to VERSION has the `cniVersion` of the input (from 1.0.0 on).";
    }
    "Section 2: GC" {
        Must "gc-keeps-valid" (gc::keeps_valid) "GC does not change a valid attachment.";
        Should "gc-removes-stale" (gc::removes_stale)
            "GC releases everything of a stale attachment whose namespace was removed.";
        Must "gc-spares-other-networks" (gc::spares_networks)
            "GC of a network does not change other networks.";
        Should "gc-twice" (gc::twice) "A second GC succeeds and changes nothing.";
        Must "gc-silent" (gc::silent) "A successful GC prints nothing on stdout.";
        Must "gc-before-1.1.0" (version::not_before, "GC 1.1.0")
            "GC is error 1 or 4 in a version before 1.1.0.";
    }
    "Section 3: Lifecycle & Ordering" {
        Must "concurrent-add" (concurrency::add)
            "16 containers can be attached concurrently, with different addresses.";
        Must "concurrent-del" (concurrency::del)
            "16 containers can be detached concurrently; nothing is left of them.";
    }
    "Section 3: Deriving request configuration" {
        Must "reserved-keys" (config::reserved_keys)
            "The keys `args`, `runtimeConfig` and `cni.dev/...` are accepted.";
    }
    "Section 4: Plugin Delegation" {
        Must "delegate-parameters" (delegation::parameters)
            "The IPAM plugin gets the variables and the whole configuration of its caller.";
        Must "delegate-add-fails" (delegation::add_fails)
            "ADD is an error if that of the IPAM plugin is.";
        Should "delegate-undo" (delegation::undo)
            "After a failed ADD of the IPAM plugin, its DEL is called.";
        Must "delegate-check" (delegation::forwards, "CHECK 0.4.0")
            "CHECK calls that of the IPAM plugin and passes on its error.";
        Must "delegate-del" (delegation::del) "DEL calls that of the IPAM plugin.";
        Should "delegate-del-fails" (delegation::forwards, "DEL 0.1.0")
            "DEL passes on the error of the IPAM plugin.";
        Must "delegate-gc" (delegation::forwards, "GC 1.1.0")
            "GC calls that of the IPAM plugin and passes on its error.";
        Must "delegate-status" (delegation::forwards, "STATUS 1.1.0")
            "STATUS calls that of the IPAM plugin and passes on its error.";
    }
    "Section 5: ADD Success" {
        Must "result-interfaces" (result::lists)
            "The result lists the container interface CNI_IFNAME.";
        Should "result-sandbox" (result::sandbox)
            "The `sandbox` of container interfaces is CNI_NETNS.";
        Must "result-interfaces-exist" (result::exist)
            "Each interface of the result exists in its `sandbox`.";
        Must "result-mac" (result::mac) "The `mac` of each interface is that of the kernel.";
        Must "result-mtu" (result::mtu)
            "The `mtu` of each interface is that of the kernel (from 1.1.0 on).";
        Must "result-ip-interface" (result::ip_interface)
            "Each address has the index of its interface; those of an IPAM plugin have none.";
        Must "result-addresses" (result::addresses) "Each address is on its interface.";
        Must "result-routes" (result::routes) "Each route of the result is in the container.";
        Should "result-dns" (result::dns) "The result contains the `dns` of the configuration.";
    }
    "Section 5: Error" {
        Should "error-reply" (errors::reply)
            "A failed call prints exactly one JSON object with `code` and `msg` on stdout.";
        Should "error-version" (errors::version)
            "An error reply has the `cniVersion` of the configuration, in each version.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_and_sections_contiguous() {
        let ids: BTreeSet<_> = ALL.iter().map(|requirement| requirement.id).collect();
        assert_eq!(ids.len(), ALL.len());
        assert!(ids.iter().all(|id| {
            id.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-.".contains(&c))
        }));
        let mut sections: Vec<_> = ALL.iter().map(|requirement| requirement.section).collect();
        sections.dedup();
        assert_eq!(sections.len(), sections.iter().collect::<BTreeSet<_>>().len());
    }
}
