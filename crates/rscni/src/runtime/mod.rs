//! The runtime side of the protocol: attach a container to a network, check it, detach it.
//!
//! ```no_run
//! use rscni::invoke::Process;
//! use rscni::runtime::{AttachmentParams, ConfDir, Runtime};
//!
//! # fn main() -> Result<(), rscni::Error> {
//! let networks = ConfDir::load("/etc/cni/net.d".as_ref())?;
//! let runtime = Runtime::new(Process, ["/opt/cni/bin"]);
//! let params = AttachmentParams::new("my-container", "/run/netns/my-container", "eth0");
//!
//! let network = networks.find("my-network")?;
//! let result = runtime.add(network, &params)?;
//! println!("{:?}", result.ips);
//! runtime.del(network, &params)?;
//! # Ok(())
//! # }
//! ```
//!
//! [`NetConfList`] is a network, [`ConfDir`] a directory of them. [`Runtime`] runs a network's plugins through any
//! [`Exec`]: as processes, or linked into the same program. What it must remember between ADD and DEL it keeps in
//! the [`Cache`], which it shares with Go's libcni. The caller makes and removes the network namespace, and sees to
//! it that no two operations on the same attachment run at once.

mod cache;
mod chain;
mod conf;
mod conf_dir;
mod failures;
mod params;

use std::path::PathBuf;

pub use cache::{Cache, CacheEntry, CacheListing};
pub use conf::{NetConfList, PluginConf};
pub use conf_dir::ConfDir;
pub use failures::Failures;
pub use params::AttachmentParams;

use crate::invoke::Exec;
use crate::name::check_network_name;
use crate::request::Command;
use crate::{Attachment, CNIResult, Error, SpecVersion};
use chain::{Add, Added, Chain, Each, Operation};

/// Runs the chains of networks.
#[derive(Clone, Debug)]
pub struct Runtime<E> {
    exec: E,
    path: Vec<PathBuf>,
    cache: Cache,
}

impl<E: Exec> Runtime<E> {
    /// A runtime that looks for plugins in `path` (`CNI_PATH`) and calls them through `exec`. Its cache is libcni's.
    pub fn new<P: Into<PathBuf>>(exec: E, path: impl IntoIterator<Item = P>) -> Self {
        Self { exec, path: path.into_iter().map(Into::into).collect(), cache: Cache::default() }
    }

    /// The same with another cache.
    #[must_use]
    pub fn with_cache(self, cache: Cache) -> Self {
        Self { cache, ..self }
    }

    /// What is remembered of attachments.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// ADD: attaches a container (spec: "Adding an attachment").
    ///
    /// If a plugin fails, or the result cannot be kept, the plugins that were called are undone with DEL. Only where
    /// the cache says that the attachment was there before is nothing undone, since that would cut off a container.
    ///
    /// # Errors
    /// The error of the plugin that failed, with its place in the chain; [`Error::InvalidNetworkConfig`] if a plugin is
    /// not installed, and [`Error::IOFailure`] if the cache cannot be read, before any is called;
    /// [`Error::InvalidEnvValue`] if a parameter is not valid.
    pub fn add(&self, list: &NetConfList, params: &AttachmentParams) -> Result<CNIResult, Error> {
        params.check(Command::Add)?;
        let was_there = match self.cache.load(&list.name, params) {
            Ok(entry) => entry.is_some(),
            // Where nothing can be read, nothing could be kept.
            Err(error @ Error::IOFailure(_)) => return Err(error),
            // A damaged entry tells of an attachment, too.
            Err(_) => true,
        };
        let chain = Chain::new(&self.exec, &self.path, list, params.clone());
        let mut add = Add::new(&chain);
        self.drive(&mut add);
        let Added { called, result, error } = add.finish();
        let error = match (error, &result) {
            (None, Some(result)) => match self.cache.store(&CacheEntry::new(list, params, result)) {
                Ok(()) => return Ok(result.clone()),
                Err(error) => error,
            },
            (None, None) => Error::InvalidNetworkConfig(format!("network {} has no plugins", list.name)),
            (Some(error), _) => error,
        };
        if called == 0 {
            return Err(error);
        }
        if was_there {
            let advice = "nothing was undone, since this attachment was there before: call DEL before another ADD";
            return Err(suffixed(&error, advice));
        }
        let mut undo = Each::del(&chain, called, result);
        self.drive(&mut undo);
        Err(match Failures::of(undo.finish()) {
            Ok(()) => error,
            Err(failures) => suffixed(&error, &format!("undoing it failed too: {failures}")),
        })
    }

    /// DEL: detaches a container (spec: "Deleting an attachment"), in reverse order, going on past failures.
    ///
    /// The plugins get the result that the cache holds, and the arguments that it holds where the caller gives none.
    /// A damaged or missing entry is no obstacle. The entry is removed when every plugin has succeeded.
    ///
    /// # Errors
    /// Every plugin's error, with its place in the chain.
    pub fn del(&self, list: &NetConfList, params: &AttachmentParams) -> Result<(), Failures> {
        params.check(Command::Del)?;
        let entry = self.cache.load(&list.name, params).ok().flatten();
        let params = completed(params, entry.as_ref());
        let chain = Chain::new(&self.exec, &self.path, list, params.clone());
        let mut del = Each::del(&chain, list.plugins.len(), entry.map(|entry| entry.result));
        self.drive(&mut del);
        Failures::of(del.finish())?;
        // The container is detached, whatever becomes of the entry; a DEL that fails here would be tried for ever.
        let _ = self.cache.remove(&list.name, &params);
        Ok(())
    }

    /// CHECK: asks every plugin whether the attachment is as ADD left it (spec: "Checking an attachment").
    ///
    /// With `disableCheck` in the configuration it always is.
    ///
    /// # Errors
    /// The first plugin's error, with its place in the chain; [`Error::IncompatibleVersion`] if the network's version
    /// has no CHECK; [`Error::NotExist`] if the cache knows of no such attachment.
    pub fn check(&self, list: &NetConfList, params: &AttachmentParams) -> Result<(), Error> {
        params.check(Command::Check)?;
        if !list.cni_version.has_check() {
            return Err(Error::IncompatibleVersion(format!(
                "network {} has cniVersion {}, CHECK exists from {} on",
                list.name,
                list.cni_version,
                SpecVersion::V0_4_0
            )));
        }
        if list.disable_check {
            return Ok(());
        }
        let Some(entry) = self.cache.load(&list.name, params)? else {
            return Err(Error::NotExist(format!(
                "container {} is not attached to network {} with interface {}: there is no {}",
                params.container_id,
                list.name,
                params.ifname,
                self.cache.file(&list.name, params)?.display()
            )));
        };
        let params = completed(params, Some(&entry));
        let chain = Chain::new(&self.exec, &self.path, list, params);
        let mut check = Each::check(&chain, entry.result);
        self.drive(&mut check);
        check.finish().into_iter().next().map_or(Ok(()), Err)
    }

    /// GC: removes what belongs to attachments of a network that are not in `valid` (spec: "GC").
    ///
    /// Each such attachment that the cache knows is detached with DEL, in the configuration that it was made with as
    /// far as the cache has it. Then every plugin is told which attachments are valid, if the network's version has GC.
    /// With `disableGC` in the configuration nothing is done. A damaged entry of the cache is nobody's, and is left.
    ///
    /// # Errors
    /// Every plugin's error, with its place in the chain; [`Error::IOFailure`] if the cache cannot be read.
    pub fn gc(&self, list: &NetConfList, valid: &[Attachment]) -> Result<(), Failures> {
        check_network_name(&list.name)?;
        if list.disable_gc {
            return Ok(());
        }
        let mut errors = Vec::new();
        match self.cache.list() {
            Ok(listing) => {
                for entry in listing.entries.iter().filter(|entry| entry.network == list.name) {
                    if !valid.contains(&entry.attachment()) {
                        let made_with = made_with(entry, list);
                        let failures = self.del(made_with.as_ref().unwrap_or(list), &entry.params).err();
                        let id = &entry.params.container_id;
                        errors.extend(failures.into_iter().flat_map(|failures| failures.in_context(id)));
                    }
                }
            }
            Err(error) => errors.push(error),
        }
        if list.cni_version.has_gc_and_status() {
            let chain = Chain::of_network(&self.exec, &self.path, list).with_valid(valid);
            let mut gc = Each::gc(&chain);
            self.drive(&mut gc);
            errors.extend(gc.finish());
        }
        Failures::of(errors)
    }

    /// STATUS: asks every plugin whether an ADD could be serviced (spec: "STATUS").
    ///
    /// A network whose version has no STATUS always is ready, as in libcni.
    ///
    /// # Errors
    /// The first plugin's error, with its place in the chain.
    pub fn status(&self, list: &NetConfList) -> Result<(), Error> {
        check_network_name(&list.name)?;
        if !list.cni_version.has_gc_and_status() {
            return Ok(());
        }
        let chain = Chain::of_network(&self.exec, &self.path, list);
        let mut status = Each::status(&chain);
        self.drive(&mut status);
        status.finish().into_iter().next().map_or(Ok(()), Err)
    }

    fn drive(&self, operation: &mut impl Operation) {
        while let Some(invocation) = operation.next() {
            operation.take(self.exec.exec(&invocation));
        }
    }
}

/// The parameters, with the arguments of the ADD where the caller gives none.
fn completed(params: &AttachmentParams, entry: Option<&CacheEntry>) -> AttachmentParams {
    let mut params = params.clone();
    if let Some(entry) = entry {
        if params.args.is_empty() {
            params.args.clone_from(&entry.params.args);
        }
        if params.capability_args.is_empty() {
            params.capability_args.clone_from(&entry.params.capability_args);
        }
    }
    params
}

/// The network as it was when the attachment was made; none where the cache does not have it, or `list` has all of it.
fn made_with(entry: &CacheEntry, list: &NetConfList) -> Option<NetConfList> {
    let made_with = NetConfList::from_json(&entry.config).or_else(|_| NetConfList::from_plugin_json(&entry.config));
    // What libcni keeps lacks the plugins that come from the network's folder.
    made_with.ok().filter(|old| old.name == list.name && !list.plugins.starts_with(&old.plugins))
}

/// The error with more text at its end.
fn suffixed(error: &Error, text: &str) -> Error {
    let details = if error.details().is_empty() { text.to_owned() } else { format!("{}; {text}", error.details()) };
    Error::Custom(error.code(), error.msg().to_owned(), details)
}

#[cfg(test)]
mod tests;
