//! Whether the networks' plugins would take a container, as far as they say so when they are asked (STATUS).

use rscni::{invoke::Exec, runtime::NetConfList};

use super::{Patient, Report, Severity};
use crate::network::Watched;

pub(super) fn check(patient: &Patient<'_>, report: &mut Report) {
    let watched = Watched::default();
    let runtime = patient.runtime(&watched);
    let is_there = |list: &NetConfList| {
        let mut names = list.plugins.iter().flat_map(|plugin| patient.types(plugin));
        names.all(|name| (&watched).find(name, &patient.plugin_path).is_ok())
    };
    let is_root = rustix::process::geteuid().is_root();
    for list in patient.lists() {
        // Why it is not, other checks have told: a plugin is missing, or the addresses are not as they should be.
        if !is_there(list) || is_told(list, report) {
            continue;
        }
        let Err(error) = runtime.status(list) else { continue };
        let what = error.details().to_owned();
        match error.code() {
            // A key that is not supported, a configuration that is not valid.
            2 | 7 => {
                let why = "every ADD to the network fails until this is right; without it others have their turn";
                report.error("network-not-ready", what, why, patient.disabling(list));
            }
            // The plugin is not available. To somebody without root's rights it may say so for want of these.
            50 | 51 if is_root => {
                let why = "its plugin says itself that no container can be attached to it now";
                report.error("network-not-ready", what, why, None);
            }
            // It could not be asked: it is older than STATUS, for instance.
            _ => {}
        }
    }
}

/// Whether an error of this network is among the findings.
fn is_told(list: &NetConfList, report: &Report) -> bool {
    let name = format!("network {}: ", list.name);
    report
        .findings
        .iter()
        .any(|finding| finding.severity == Severity::Error && finding.what.starts_with(&name))
}
