//! Checks the networks with STATUS of their plugins.

use rscni::{invoke::Exec, runtime::NetConfList};

use super::{Context, Report, Severity};
use crate::network::TimedExec;

pub(super) fn check(context: &Context<'_>, report: &mut Report) {
    let exec = TimedExec::default();
    let runtime = context.runtime(&exec);
    let is_installed = |list: &NetConfList| {
        let mut names = list.plugins.iter().flat_map(|plugin| context.types(plugin));
        names.all(|name| (&exec).find(name, &context.plugin_path).is_ok())
    };
    let is_root = rustix::process::geteuid().is_root();
    for list in context.lists() {
        // Other checks have reported a missing plugin or invalid addresses.
        if !is_installed(list) || is_reported(list, report) {
            continue;
        }
        let Err(error) = runtime.status(list) else { continue };
        let what = error.details().to_owned();
        match error.code() {
            // An unsupported field or an invalid configuration.
            2 | 7 => {
                let why = "every ADD to the network fails until its configuration is fixed; \
                           without its file, runtimes use the next network";
                report.error("network-not-ready", what, why, context.disabling(list));
            }
            // The plugin is not available. Without root it may lack the permission to find out.
            50 | 51 if is_root => {
                let why = "its plugin reports that it cannot attach containers now";
                report.error("network-not-ready", what, why, None);
            }
            // The plugin did not answer, for instance because it does not know STATUS.
            _ => {}
        }
    }
}

/// Whether the findings have an error of this network.
fn is_reported(list: &NetConfList, report: &Report) -> bool {
    let name = format!("network {}: ", list.name);
    let mut findings = report.findings.iter();
    findings.any(|it| it.severity == Severity::Error && it.what.starts_with(&name))
}
