//! `rscni repair`: puts back what running attachments have lost, such as rules after `nft flush
//! ruleset`.
//!
//! Each attachment is checked with the configuration and the result that were kept when it was
//! made. A plugin of this program that finds something missing puts it back, and is asked again.
//! Healthy attachments are not touched.

use std::{io, path::PathBuf, process::ExitCode, sync::Mutex};

use rscni::{
    Error,
    invoke::{Exec, Exit, Invocation, Outcome},
    runtime::{CacheEntry, NetConfList, Runtime},
};

use crate::{
    container::{Selector, netns_of},
    doctor::quoted,
    list::may_be_of,
    network::{Watched, is_this_program},
    node::{configuration, is_there, named, plain_kind},
    output,
    places::{Memory, Places},
    table::printable,
};

/// What `repair` takes.
#[derive(clap::Args)]
pub(crate) struct Repair {
    /// Only attachments to this network
    network: Option<String>,
    /// Only attachments of these containers: ids, twelve digits of long ones, or pods as
    /// NAMESPACE/NAME
    container: Vec<Selector>,
    /// Say what is missing, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    memory: Memory,
}

/// What became of something that a plugin found missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is back.
    Restored,
    /// It would be put back, as far as that is possible.
    Missing,
    /// It could not be put back, for this reason.
    Failed(String),
}

/// What a plugin found missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) plugin: String,
    pub(crate) what: String,
    pub(crate) fate: Fate,
}

impl Repair {
    /// Repairs, prints a line for each attachment, and says by its status whether all are whole.
    pub(crate) fn run(&self) -> Result<ExitCode, Error> {
        let cache = self.memory.cache();
        let listing = cache.list()?;
        let is_of_network = |entry: &&CacheEntry| {
            self.network.as_ref().is_none_or(|network| entry.network == *network)
        };
        let mut entries: Vec<&CacheEntry> = listing.entries.iter().filter(is_of_network).collect();
        if !self.container.is_empty() {
            let of = |selector: &Selector| selector.select(entries.iter().copied());
            entries = self.container.iter().flat_map(of).collect();
        }
        let mut is_whole = true;
        for (file, error) in &listing.broken {
            if self.network.as_ref().is_none_or(|network| may_be_of(file, network)) {
                output::note(&format!("cannot be read: {}", printable(error.details())));
                is_whole = false;
            }
        }
        if entries.is_empty() && (self.network.is_some() || !self.container.is_empty()) {
            let network = self.network.iter().map(|network| format!("network {network}"));
            let of = network.chain(self.container.iter().map(ToString::to_string));
            return Err(Error::NotExist(format!(
                "no attachment of {} is remembered: `rscni ls --all` lists those that are",
                of.collect::<Vec<_>>().join(", ")
            )));
        }
        for entry in entries {
            is_whole &= self.repair(entry);
        }
        Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Repairs one attachment; whether it is whole then.
    fn repair(&self, entry: &CacheEntry) -> bool {
        let name = format!("{} {}", entry.network, named(entry));
        let line = |state: &str, text: &str| {
            output::line(&printable(&format!("{state:<9} {name}{text}")));
        };
        if !is_there(entry) {
            line("gone", &format!(": its namespace is gone; rscni gc {} --auto", entry.network));
            return true;
        }
        let Some(list) = configuration(entry) else {
            line("failed", ": its configuration was not kept: detach and attach it again");
            return false;
        };
        let watched = Watched::default();
        let repairer = Repairer::new(&watched, self.dry_run);
        let runtime =
            Runtime::new(&repairer, self.places.plugin_path()).with_cache(self.memory.cache());
        let runtime = match self.places.timeout() {
            Some(limit) => runtime.with_time_limit(limit),
            None => runtime,
        };
        let outcome = runtime.check(&checkable(list), &entry.params);
        let losses = repairer.losses();
        for Loss { plugin, what, fate } in &losses {
            match fate {
                Fate::Restored => line("restored", &format!(": {plugin}: {what}")),
                Fate::Missing => line("missing", &format!(": {plugin}: {what}")),
                Fate::Failed(why) => {
                    line("failed", &format!(": {plugin}: {what}{why}; {}", again(entry)));
                }
            }
        }
        if let Err(error) = &outcome {
            line("failed", &format!(": {}", error.details()));
        } else if losses.is_empty() {
            line("ok", "");
        }
        outcome.is_ok() && !losses.iter().any(|loss| matches!(loss.fate, Fate::Failed(_)))
    }
}

/// The network with CHECK allowed: `disableCheck` is about runtimes that check by themselves.
pub(crate) fn checkable(mut list: NetConfList) -> NetConfList {
    list.disable_check = false;
    list
}

/// The commands that help where nothing can be put back.
fn again(entry: &CacheEntry) -> String {
    let (network, netns) = (quoted(&entry.network), quoted(netns_of(entry)));
    let (id, ifname) = (quoted(&entry.params.container_id), quoted(&entry.params.ifname));
    format!(
        "restart the container, or detach it (`rscni del {network} {netns} --container-id {id} \
         --ifname {ifname}`) and attach it again"
    )
}

/// Calls plugins for CHECK. Those of this program put back what they find missing.
pub(crate) struct Repairer<'a> {
    watched: &'a Watched,
    is_dry: bool,
    losses: Mutex<Vec<Loss>>,
}

impl<'a> Repairer<'a> {
    pub(crate) fn new(watched: &'a Watched, is_dry: bool) -> Self {
        Self { watched, is_dry, losses: Mutex::default() }
    }

    /// What was found missing so far.
    pub(crate) fn losses(&self) -> Vec<Loss> {
        self.losses.lock().map(|losses| losses.clone()).unwrap_or_default()
    }

    fn lost(&self, plugin: &str, what: &Error, fate: Fate) {
        if let Ok(mut losses) = self.losses.lock() {
            let what = what.details().to_owned();
            losses.push(Loss { plugin: plugin.to_owned(), what, fate });
        }
    }
}

impl Exec for &Repairer<'_> {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        self.watched.find(plugin, path)
    }

    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        let plugin = &*invocation.plugin;
        let kind = plain_kind(plugin);
        let own = rscni_plugins::find(kind)
            .filter(|own| own.can_restore() && is_this_program(&invocation.program));
        let look = || match own.and_then(|own| own.look(&invocation.into())) {
            Some(reply) => Ok(Outcome::from(reply)),
            None => self.watched.exec(invocation),
        };
        let Err(missing) = look()?.into_success(plugin) else { return Ok(success()) };
        let Some(own) = own else {
            self.lost(plugin, &missing, Fate::Failed(String::new()));
            return Ok(success());
        };
        if self.is_dry {
            self.lost(plugin, &missing, Fate::Missing);
            return Ok(success());
        }
        let restored = own.restore(&invocation.into()).map(Outcome::from);
        let error = restored.and_then(|outcome| outcome.into_success(plugin).err());
        match (look()?.into_success(plugin), error) {
            (Ok(()), _) => self.lost(plugin, &missing, Fate::Restored),
            (Err(left), error) => {
                let why = error.filter(|error| error.details() != left.details());
                let why = why.map(|error| format!(" ({})", error.details())).unwrap_or_default();
                if left.details() != missing.details() {
                    self.lost(plugin, &missing, Fate::Restored);
                }
                self.lost(plugin, &left, Fate::Failed(why));
            }
        }
        Ok(success())
    }
}

/// The chain goes on, so that the other plugins are repaired too.
fn success() -> Outcome {
    Outcome { exit: Exit::Status(0), stdout: Vec::new(), stderr: Vec::new() }
}
