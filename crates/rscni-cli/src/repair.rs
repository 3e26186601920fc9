//! `rscni repair`: restores what running attachments have lost, such as rules after `nft flush
//! ruleset`.
//!
//! Each attachment is checked with its configuration and result in the cache. A plugin of this
//! program that finds something missing restores it and is checked again. Intact attachments are
//! not changed.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::Mutex,
};

use rscni::{
    Error,
    invoke::{Exec, Exit, Invocation, Outcome},
    runtime::{CacheEntry, NetConfList},
};

use crate::{
    container::{Selector, netns_of},
    doctor::quoted,
    list::{may_be_of, unreadable},
    network::{TimedExec, is_this_program},
    node::{full_name, may_exist, plain_kind},
    options::RuntimeOptions,
    output,
    table::printable,
};

/// Arguments of `repair`.
#[derive(clap::Args)]
pub(crate) struct Repair {
    /// Only attachments to this network
    network: Option<String>,
    /// Only attachments of these containers: ids, the first twelve digits of long ids, or pods as
    /// NAMESPACE/NAME
    container: Vec<Selector>,
    /// Print what is missing and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    options: RuntimeOptions,
}

/// The state of a missing thing after the repair.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Repaired {
    /// It was restored.
    Yes,
    /// It is still missing, since this is a dry run.
    DryRun,
    /// It could not be restored; the text is empty or a cause in parentheses.
    No(String),
}

/// Something that a plugin found missing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Missing {
    plugin: String,
    what: String,
    repaired: Repaired,
}

impl Repair {
    /// Repairs the attachments and prints them. The exit status says whether all are intact.
    pub(crate) fn run(&self) -> Result<ExitCode, Error> {
        let cache = self.options.cache.cache();
        let listing = cache.list()?;
        let is_of_network = |entry: &&CacheEntry| {
            self.network.as_ref().is_none_or(|network| entry.network == *network)
        };
        let mut entries: Vec<&CacheEntry> = listing.entries.iter().filter(is_of_network).collect();
        if !self.container.is_empty() {
            let of = |selector: &Selector| selector.select(entries.iter().copied());
            entries = self.container.iter().flat_map(of).collect();
        }
        let mut is_intact = true;
        for (file, error) in &listing.broken {
            if self.network.as_ref().is_none_or(|network| may_be_of(file, network)) {
                output::note(&unreadable(error));
                is_intact = false;
            }
        }
        if entries.is_empty() && (self.network.is_some() || !self.container.is_empty()) {
            let network = self.network.iter().map(|network| format!("network {network}"));
            let of = network.chain(self.container.iter().map(ToString::to_string));
            return Err(Error::NotExist(format!(
                "no attachment of {} in the cache: `rscni ls --all` lists the attachments",
                of.collect::<Vec<_>>().join(", ")
            )));
        }
        for entry in entries {
            is_intact &= self.repair(entry);
        }
        Ok(if is_intact { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Repairs one attachment. Returns whether it is intact afterwards.
    fn repair(&self, entry: &CacheEntry) -> bool {
        let name = format!("{} {}", entry.network, full_name(entry));
        let line = |state: &str, text: &str| {
            output::line(&printable(&format!("{state:<9} {name}{text}")));
        };
        if !may_exist(entry) {
            line("gone", &format!(": its namespace is gone; rscni gc {} --auto", entry.network));
            return true;
        }
        let Ok(list) = entry.list() else {
            line(
                "failed",
                ": the cache does not have its configuration: detach and attach it again",
            );
            return false;
        };
        let repairer = Repairer::new(self.dry_run);
        let runtime = self.options.plugins.runtime(&repairer, self.options.cache.cache());
        let outcome = runtime.check(&checkable(list), &entry.params);
        let missing = repairer.missing.into_inner().unwrap_or_default();
        for Missing { plugin, what, repaired } in &missing {
            match repaired {
                Repaired::Yes => line("restored", &format!(": {plugin}: {what}")),
                Repaired::DryRun => line("missing", &format!(": {plugin}: {what}")),
                Repaired::No(why) => {
                    line("failed", &format!(": {plugin}: {what}{why}; {}", advice(entry)));
                }
            }
        }
        if let Err(error) = &outcome {
            line("failed", &format!(": {}", error.details()));
        } else if missing.is_empty() {
            line("ok", "");
        }
        outcome.is_ok() && !missing.iter().any(|it| matches!(it.repaired, Repaired::No(_)))
    }
}

/// Enables CHECK: `disableCheck` concerns runtimes that check periodically.
pub(crate) fn checkable(mut list: NetConfList) -> NetConfList {
    list.disable_check = false;
    list
}

/// Returns what to do if something cannot be restored.
fn advice(entry: &CacheEntry) -> String {
    let (network, netns) = (quoted(&entry.network), quoted(netns_of(entry)));
    let (id, ifname) = (quoted(&entry.params.container_id), quoted(&entry.params.ifname));
    format!(
        "restart the container, or detach it (`rscni del {network} {netns} --container-id {id} \
         --ifname {ifname}`) and attach it again"
    )
}

/// Calls plugins for CHECK. Those of this program restore what they find missing.
struct Repairer {
    exec: TimedExec,
    dry_run: bool,
    missing: Mutex<Vec<Missing>>,
}

impl Repairer {
    fn new(dry_run: bool) -> Self {
        Self { exec: TimedExec::default(), dry_run, missing: Mutex::default() }
    }

    fn record(&self, plugin: &str, error: &Error, repaired: Repaired) {
        if let Ok(mut missing) = self.missing.lock() {
            let what = error.details().to_owned();
            missing.push(Missing { plugin: plugin.to_owned(), what, repaired });
        }
    }

    /// Checks the plugin, restores what is missing, and checks it again.
    fn repair(&self, invocation: &Invocation) -> io::Result<()> {
        let plugin = &*invocation.plugin;
        let kind = plain_kind(plugin);
        let own = rscni_plugins::find(kind)
            .filter(|own| own.can_restore() && is_this_program(&invocation.program));
        let check = || match own.and_then(|own| own.look(&invocation.into())) {
            Some(reply) => Ok(Outcome::from(reply)),
            // The runtime only sees the outcome of all steps, so it does not forward this stderr.
            None => (&self.exec).exec(invocation).inspect(|outcome| {
                let _ = io::stderr().write_all(&outcome.stderr);
            }),
        };
        let Err(missing) = check()?.into_success(plugin) else { return Ok(()) };
        let Some(own) = own else {
            self.record(plugin, &missing, Repaired::No(String::new()));
            return Ok(());
        };
        if self.dry_run {
            self.record(plugin, &missing, Repaired::DryRun);
            return Ok(());
        }
        let restored = own.restore(&invocation.into()).map(Outcome::from);
        let error = restored.and_then(|outcome| outcome.into_success(plugin).err());
        let Err(left) = check()?.into_success(plugin) else {
            self.record(plugin, &missing, Repaired::Yes);
            return Ok(());
        };
        if left.details() != missing.details() {
            self.record(plugin, &missing, Repaired::Yes);
        }
        let cause = error.filter(|error| error.details() != left.details());
        let cause = cause.map(|error| format!(" ({})", error.details())).unwrap_or_default();
        self.record(plugin, &left, Repaired::No(cause));
        Ok(())
    }
}

impl Exec for &Repairer {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        (&self.exec).find(plugin, path)
    }

    /// Always succeeds, so that the other plugins of the chain are repaired too.
    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        self.repair(invocation).map(|()| success())
    }
}

/// Returns the outcome of a successful call without a result.
pub(crate) fn success() -> Outcome {
    Outcome::new(Exit::Status(0), "")
}
