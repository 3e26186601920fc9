//! Checks that running attachments are as ADD left them, with the plugins of this program.

use std::{
    io,
    path::{Path, PathBuf},
};

use rscni::{
    Error,
    invoke::{Exec, Invocation, Outcome},
};

use super::{Context, Report};
use crate::{
    container::netns_of,
    network::{TimedExec, is_this_program},
    node::{full_name, may_exist},
    repair::{checkable, success},
};

pub(super) fn check(context: &Context<'_>, report: &mut Report) {
    let is_root = rustix::process::geteuid().is_root();
    for entry in &context.node.listing.entries {
        // Another check reports attachments whose namespace is gone.
        if netns_of(entry) == Path::new("") || !may_exist(entry) {
            continue;
        }
        let Ok(list) = entry.list() else { continue };
        let exec = OwnPlugins::default();
        let runtime = context.runtime(&exec);
        let Err(error) = runtime.check(&checkable(list), &entry.params) else { continue };
        // Other codes say that the plugin could not check.
        if error.code() != CHANGED || !is_root {
            continue;
        }
        report.error(
            "attachment-damaged",
            format!(
                "{} is attached to {} and has changed since ADD: {}",
                full_name(entry),
                entry.network,
                error.details()
            ),
            "its packets may be dropped or leave with a wrong address; a flush of the host's rules \
             is a common cause",
            Some(context.repair(entry)),
        );
    }
}

/// The error code of this program's plugins for an attachment that CHECK found changed.
const CHANGED: u32 = 100;

/// Calls only the plugins of this program, since CHECK of others may change something.
#[derive(Default)]
struct OwnPlugins(TimedExec);

impl Exec for &OwnPlugins {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        (&self.0).find(plugin, path)
    }

    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        if is_this_program(&invocation.program) {
            return (&self.0).exec(invocation);
        }
        Ok(success())
    }
}
