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

use crate::{
    requirement::{
        Level::{self, Must, Should},
        Requirement,
    },
    verdict::Checked,
    world::World,
};

/// The headings of the specification, version 1.1.0.
const FORMAT: &str = "Section 1: Configuration format";
const VERSIONS: &str = "Section 1: Version considerations";
const PARAMETERS: &str = "Section 2: Parameters";
const ERRORS: &str = "Section 2: Errors";
const ADD: &str = "Section 2: ADD";
const DEL: &str = "Section 2: DEL";
const CHECK: &str = "Section 2: CHECK";
const STATUS: &str = "Section 2: STATUS";
const GC: &str = "Section 2: GC";
const LIFECYCLE: &str = "Section 3: Lifecycle & Ordering";
const REQUEST: &str = "Section 3: Deriving request configuration";
const DELEGATION: &str = "Section 4: Plugin Delegation";
const SUCCESS: &str = "Section 5: ADD Success";
const VERSION_SUCCESS: &str = "Section 5: VERSION Success";
const ERROR: &str = "Section 5: Error";

type Check = fn(&World, &'static str) -> Checked;

const fn row(
    id: &'static str,
    level: Level,
    section: &'static str,
    text: &'static str,
    check: Check,
    about: &'static str,
) -> Requirement {
    Requirement { id, level, section, text, about, check }
}

/// All of them.
#[rustfmt::skip]
pub const ALL: &[Requirement] = &[
    row("config-malformed", Must, FORMAT, "A configuration that is not JSON is error 6.", config::not_json, ""),
    row("config-no-object", Must, FORMAT, "A configuration that is no object is error 6 or 7.", config::no_object, ""),
    row("config-empty", Must, FORMAT, "An empty stdin is error 5, 6 or 7.", config::empty, ""),
    row("config-without-name", Must, FORMAT, "A configuration without `name` is error 7.", config::without_name, ""),
    row("config-invalid-name", Must, FORMAT, "A network name with characters that it must not have is error 7.", config::invalid_name, ""),
    row("config-invalid-version", Must, FORMAT, "A `cniVersion` that is no version is error 1, 6 or 7.", config::invalid_version, ""),
    row("config-unknown-key", Should, FORMAT, "A key that the plugin does not know is ignored, or is error 2, which names it.", config::unknown_key, ""),

    row("version-unsupported", Must, VERSIONS, "A `cniVersion` that the plugin does not claim is error 1.", version::unsupported, ""),
    row("add-in-0.1.0", Must, VERSIONS, "ADD in 0.1.0, if VERSION claims it, has a result of that version.", version::add_in, "0.1.0"),
    row("add-in-0.2.0", Must, VERSIONS, "ADD in 0.2.0, if VERSION claims it, has a result of that version.", version::add_in, "0.2.0"),
    row("add-in-0.3.0", Must, VERSIONS, "ADD in 0.3.0, if VERSION claims it, has a result of that version.", version::add_in, "0.3.0"),
    row("add-in-0.3.1", Must, VERSIONS, "ADD in 0.3.1, if VERSION claims it, has a result of that version.", version::add_in, "0.3.1"),
    row("add-in-0.4.0", Must, VERSIONS, "ADD in 0.4.0, if VERSION claims it, has a result of that version.", version::add_in, "0.4.0"),
    row("add-in-1.0.0", Must, VERSIONS, "ADD in 1.0.0, if VERSION claims it, has a result of that version.", version::add_in, "1.0.0"),
    row("add-in-1.1.0", Must, VERSIONS, "ADD in 1.1.0, if VERSION claims it, has a result of that version.", version::add_in, "1.1.0"),
    row("del-in-each-version", Must, VERSIONS, "DEL succeeds in each version that VERSION claims, without an ADD before.", version::del_in_each, ""),

    row("command-unknown", Must, PARAMETERS, "A CNI_COMMAND that does not exist is error 4.", parameters::unknown_command, ""),
    row("add-needs-containerid", Must, PARAMETERS, "ADD without CNI_CONTAINERID is error 4, which names it.", parameters::missing, "ADD CNI_CONTAINERID"),
    row("add-needs-netns", Must, PARAMETERS, "ADD without CNI_NETNS is error 4, which names it.", parameters::missing, "ADD CNI_NETNS"),
    row("add-needs-ifname", Must, PARAMETERS, "ADD without CNI_IFNAME is error 4, which names it.", parameters::missing, "ADD CNI_IFNAME"),
    row("check-needs-containerid", Must, PARAMETERS, "CHECK without CNI_CONTAINERID is error 4, which names it.", parameters::missing, "CHECK CNI_CONTAINERID"),
    row("check-needs-netns", Must, PARAMETERS, "CHECK without CNI_NETNS is error 4, which names it.", parameters::missing, "CHECK CNI_NETNS"),
    row("check-needs-ifname", Must, PARAMETERS, "CHECK without CNI_IFNAME is error 4, which names it.", parameters::missing, "CHECK CNI_IFNAME"),
    row("del-needs-containerid", Must, PARAMETERS, "DEL without CNI_CONTAINERID is error 4, which names it.", parameters::missing, "DEL CNI_CONTAINERID"),
    row("del-needs-ifname", Must, PARAMETERS, "DEL without CNI_IFNAME is error 4, which names it.", parameters::missing, "DEL CNI_IFNAME"),
    row("gc-needs-path", Must, PARAMETERS, "GC without CNI_PATH is error 4, which names it.", parameters::missing, "GC CNI_PATH"),
    row("containerid-invalid", Must, PARAMETERS, "A container id that begins with none of [A-Za-z0-9], or has others than those and [_.-], is error 4.", parameters::container_id, ""),
    row("ifname-invalid", Must, PARAMETERS, "An interface name that is too long, `.`, `..`, or has `/`, `:` or a space is error 4.", parameters::ifname, ""),
    row("invalid-variable-named", Must, PARAMETERS, "The error for an invalid variable names the variable.", parameters::named, ""),
    row("netns-missing", Must, PARAMETERS, "ADD with a CNI_NETNS that does not exist is an error, and leaves nothing behind.", parameters::no_netns, ""),
    row("args-ignore-unknown", Should, PARAMETERS, "CNI_ARGS with IgnoreUnknown=1 may have keys that the plugin does not know.", parameters::ignore_unknown, ""),
    row("environment-alone", Should, PARAMETERS, "ADD and DEL need no variables but PATH and those of the protocol.", parameters::alone, ""),

    row("error-exit", Must, ERRORS, "A failure ends with a status other than 0.", errors::exit, ""),

    row("add-stdout", Must, ADD, "ADD prints one JSON object on stdout, and nothing else.", add::stdout, ""),
    row("add-interface", Should, ADD, "After ADD the container has the interface CNI_IFNAME.", add::interface, ""),
    row("add-existing-interface", Must, ADD, "ADD of an interface name that the container has is an error, and changes nothing.", add::existing, ""),
    row("add-second-interface", Must, ADD, "A container is attached once more under another interface name; DEL of that one spares the first.", add::second, ""),
    row("add-prev-result", Must, ADD, "A `prevResult` is passed on, with nothing missing.", add::prev_result, ""),

    row("del-interface", Should, DEL, "DEL removes the interface that ADD has made.", del::interface, ""),
    row("del-leaves-nothing", Should, DEL, "After DEL everything is as it was before ADD.", del::leaves_nothing, ""),
    row("del-silent", Should, DEL, "DEL that succeeds prints nothing on stdout.", del::silent, ""),
    row("del-twice", Must, DEL, "A second DEL succeeds.", del::twice, ""),
    row("del-without-add", Must, DEL, "DEL succeeds for a container that was never attached.", del::without_add, ""),
    row("del-without-netns", Must, DEL, "DEL succeeds without CNI_NETNS, and releases what the host has.", del::without_netns, ""),
    row("del-netns-gone", Must, DEL, "DEL succeeds after the namespace went, and releases what the host has.", del::netns_gone, ""),
    row("del-interface-gone", Must, DEL, "DEL succeeds after the interface was removed, and releases what the host has.", del::interface_gone, ""),
    row("del-without-result", Should, DEL, "DEL succeeds without `prevResult`, and leaves nothing behind.", del::without_result, ""),
    row("del-after-failed-add", Should, DEL, "DEL succeeds after an ADD that failed, and nothing of that is left.", del::after_failed_add, ""),
    row("del-spares-others", Must, DEL, "DEL changes nothing of another container's attachment.", del::spares_others, ""),

    row("check-succeeds", Must, CHECK, "CHECK succeeds right after ADD.", check::succeeds, ""),
    row("check-silent", Must, CHECK, "CHECK that succeeds prints nothing on stdout.", check::silent, ""),
    row("check-without-result", Must, CHECK, "CHECK without `prevResult` is an error, since it must consult that.", check::without_result, ""),
    row("check-interface-gone", Should, CHECK, "CHECK is an error after the interface was removed.", check::changed, "interface"),
    row("check-link-down", Should, CHECK, "CHECK is an error while the interface is down.", check::changed, "down"),
    row("check-address-gone", Should, CHECK, "CHECK is an error after an address of the result was removed.", check::changed, "address"),
    row("check-route-gone", Should, CHECK, "CHECK is an error after a route of the result was removed.", check::changed, "route"),
    row("check-after-del", Should, CHECK, "CHECK is an error after DEL, if ADD makes anything.", check::after_del, ""),
    row("check-before-0.4.0", Must, CHECK, "CHECK is error 1, or 4, in a version before 0.4.0, which has none.", version::not_before, "CHECK 0.4.0"),

    row("status-ready", Must, STATUS, "STATUS succeeds where ADD does.", status::ready, ""),
    row("status-silent", Should, STATUS, "STATUS that succeeds prints nothing on stdout.", status::silent, ""),
    row("status-before-1.1.0", Must, STATUS, "STATUS is error 1, or 4, in a version before 1.1.0, which has none.", version::not_before, "STATUS 1.1.0"),

    row("version-reply", Must, VERSION_SUCCESS, "VERSION needs no variable but CNI_COMMAND, and gives `cniVersion` and a list `supportedVersions`.", version::reply, ""),
    row("version-echo", Must, VERSION_SUCCESS, "The `cniVersion` of VERSION's reply is that of the input (from 1.0.0 on).", version::echo, ""),

    row("gc-keeps-valid", Must, GC, "GC changes nothing of an attachment that is in the list of valid ones.", gc::keeps_valid, ""),
    row("gc-removes-stale", Should, GC, "GC releases what an attachment holds that is not in the list, and whose namespace is gone.", gc::removes_stale, ""),
    row("gc-spares-other-networks", Must, GC, "GC of a network changes nothing of another one.", gc::spares_networks, ""),
    row("gc-twice", Should, GC, "A second GC succeeds, and changes nothing.", gc::twice, ""),
    row("gc-silent", Must, GC, "GC that succeeds prints nothing on stdout.", gc::silent, ""),
    row("gc-before-1.1.0", Must, GC, "GC is error 1, or 4, in a version before 1.1.0, which has none.", version::not_before, "GC 1.1.0"),

    row("concurrent-add", Must, LIFECYCLE, "16 containers are attached at once, each with addresses of its own.", concurrency::add, ""),
    row("concurrent-del", Must, LIFECYCLE, "16 containers are detached at once, and nothing is left of them.", concurrency::del, ""),

    row("reserved-keys", Must, REQUEST, "The keys `args`, `runtimeConfig` and `cni.dev/...` that runtimes insert are no error.", config::reserved_keys, ""),

    row("delegate-parameters", Must, DELEGATION, "The IPAM plugin gets the variables and the whole configuration of its caller.", delegation::parameters, ""),
    row("delegate-add-fails", Must, DELEGATION, "ADD is an error where the IPAM plugin's is.", delegation::add_fails, ""),
    row("delegate-undo", Should, DELEGATION, "After the IPAM plugin's ADD failed, its DEL is called.", delegation::undo, ""),
    row("delegate-check", Must, DELEGATION, "CHECK calls the IPAM plugin's, and passes its error on.", delegation::forwards, "CHECK 0.4.0"),
    row("delegate-del", Must, DELEGATION, "DEL calls the IPAM plugin's.", delegation::del, ""),
    row("delegate-del-fails", Should, DELEGATION, "DEL passes the IPAM plugin's error on.", delegation::forwards, "DEL 0.1.0"),
    row("delegate-gc", Must, DELEGATION, "GC calls the IPAM plugin's, and passes its error on.", delegation::forwards, "GC 1.1.0"),
    row("delegate-status", Must, DELEGATION, "STATUS calls the IPAM plugin's, and passes its error on.", delegation::forwards, "STATUS 1.1.0"),

    row("result-interfaces", Must, SUCCESS, "The result lists the interface CNI_IFNAME of the container.", result::lists, ""),
    row("result-sandbox", Should, SUCCESS, "The `sandbox` of the container's interfaces is CNI_NETNS.", result::sandbox, ""),
    row("result-interfaces-exist", Must, SUCCESS, "Each interface of the result is where its `sandbox` says.", result::exist, ""),
    row("result-mac", Must, SUCCESS, "The `mac` of each interface of the result is the kernel's.", result::mac, ""),
    row("result-mtu", Must, SUCCESS, "The `mtu` of each interface of the result is the kernel's (from 1.1.0 on).", result::mtu, ""),
    row("result-ip-interface", Must, SUCCESS, "Each address of the result says which interface it is on; of an IPAM plugin, none does.", result::ip_interface, ""),
    row("result-addresses", Must, SUCCESS, "Each address of the result is on its interface.", result::addresses, ""),
    row("result-routes", Must, SUCCESS, "Each route of the result is in the container.", result::routes, ""),
    row("result-dns", Should, SUCCESS, "The `dns` of the configuration is in the result.", result::dns, ""),

    row("error-reply", Should, ERROR, "A failure prints one JSON object with `code` and `msg` on stdout, and nothing else.", errors::reply, ""),
    row("error-version", Should, ERROR, "The `cniVersion` of an error reply is that of the configuration, in each version.", errors::version, ""),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_words_that_stand_for_one_requirement_and_sections_are_in_one_piece() {
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
