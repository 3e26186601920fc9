//! The operations of a runtime, written once for every way to wait.
//!
//! An operation is a future that waits through a [`Waiter`] and for nothing else. The runtime that blocks has one whose
//! futures are ready at once, and so has the whole operation at the first poll.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    AttachmentParams, Cache, CacheEntry, CacheListing, Failures, NetConfList, TraceContext,
    chain::{Add, Chain, Each, Operation},
    lock::{Lock, Mode},
    version,
};
use crate::{
    Attachment, CNIResult, Error, PluginInfo, SpecVersion,
    invoke::{Inherits, Invocation, Outcome},
    name::check_network_name,
    request::Command,
};

/// How long to wait before a lock is tried again.
const PAUSE: Duration = Duration::from_millis(10);

/// A way to find plugins, and to wait for them and for time to pass.
pub(super) trait Waiter {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error>;
    fn exec(&self, invocation: Invocation) -> impl Future<Output = io::Result<Outcome>>;
    fn sleep(&self, time: Duration) -> impl Future<Output = ()>;
}

/// What a runtime is made of, other than its way to call plugins.
#[derive(Clone, Debug, Default)]
pub(super) struct Engine {
    pub(super) path: Vec<PathBuf>,
    pub(super) cache: Cache,
    pub(super) time_limit: Option<Duration>,
    pub(super) trace: Option<TraceContext>,
}

/// The locks of an operation on an attachment; none where it goes on without.
type Held = Option<(Lock, Lock)>;

impl Engine {
    pub(super) async fn add(
        &self,
        waiter: &impl Waiter,
        list: &NetConfList,
        params: &AttachmentParams,
    ) -> Result<CNIResult, Error> {
        params.check(Command::Add)?;
        check_types(list)?;
        let _held = self.lock(waiter, &list.name, params).await?;
        let was_there = match self.cache.load(&list.name, params) {
            Ok(entry) => entry.is_some(),
            // Where nothing can be read, nothing could be kept.
            Err(error @ Error::IOFailure(_)) => return Err(error),
            // A damaged entry tells of an attachment, too.
            Err(_) => true,
        };
        let chain = self.chain(waiter, list, params.clone());
        let mut add = Add::new(&chain);
        self.drive(waiter, &mut add).await;
        let mut added = add.finish();
        let error = match (added.error.take(), &added.result) {
            (None, Some(result)) => {
                match self.cache.store(&CacheEntry::new(list, params, result)) {
                    Ok(()) => return Ok(result.clone()),
                    Err(error) => error,
                }
            }
            (None, None) => {
                Error::InvalidNetworkConfig(format!("network {} has no plugins", list.name))
            }
            (Some(error), _) => error,
        };
        if added.called == 0 {
            return Err(error);
        }
        if was_there {
            let advice = "nothing was undone, since this attachment was there before: call DEL before another ADD";
            return Err(suffixed(&error, advice));
        }
        let mut undo = Each::undo(&chain, added);
        self.drive(waiter, &mut undo).await;
        Err(match Failures::of(undo.finish()) {
            Ok(()) => error,
            Err(failures) => suffixed(&error, &format!("undoing it failed too: {failures}")),
        })
    }

    pub(super) async fn del(
        &self,
        waiter: &impl Waiter,
        list: &NetConfList,
        params: &AttachmentParams,
    ) -> Result<(), Failures> {
        params.check(Command::Del)?;
        let _held = self.lock_if_possible(waiter, &list.name, params).await?;
        self.del_locked(waiter, list, params).await
    }

    async fn del_locked(
        &self,
        waiter: &impl Waiter,
        list: &NetConfList,
        params: &AttachmentParams,
    ) -> Result<(), Failures> {
        params.check(Command::Del)?;
        let entry = self.cache.load(&list.name, params).ok().flatten();
        let chain = self.chain(waiter, list, completed(params, entry.as_ref()));
        let mut del = Each::del(&chain, list.plugins.len(), entry.map(|entry| entry.result));
        self.drive(waiter, &mut del).await;
        Failures::of(del.finish())?;
        // The container is detached, whatever becomes of the entry; a DEL that fails here would be tried for ever.
        let _ = self.cache.remove(&list.name, params);
        Ok(())
    }

    pub(super) async fn check(
        &self,
        waiter: &impl Waiter,
        list: &NetConfList,
        params: &AttachmentParams,
    ) -> Result<(), Error> {
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
        let _held = self.lock_if_possible(waiter, &list.name, params).await?;
        let Some(entry) = self.cache.load(&list.name, params)? else {
            return Err(Error::NotExist(format!(
                "container {} is not attached to network {} with interface {}: there is no {}",
                params.container_id,
                list.name,
                params.ifname,
                self.cache.file(&list.name, params)?.display()
            )));
        };
        let chain = self.chain(waiter, list, completed(params, Some(&entry)));
        let mut check = Each::check(&chain, entry.result);
        self.drive(waiter, &mut check).await;
        check.finish().into_iter().next().map_or(Ok(()), Err)
    }

    pub(super) async fn gc(
        &self,
        waiter: &impl Waiter,
        list: &NetConfList,
        valid: impl FnOnce(&Result<CacheListing, Error>) -> Result<Vec<Attachment>, Error>,
    ) -> Result<(), Failures> {
        check_network_name(&list.name)?;
        if list.disable_gc {
            return Ok(());
        }
        let _held = self.lock_network(waiter, &list.name, Mode::Alone).await?;
        let mut errors = Vec::new();
        let listing = self.cache.list();
        let valid = valid(&listing)?;
        match listing {
            Ok(listing) => {
                for entry in listing.entries.iter().filter(|entry| entry.network == list.name) {
                    if !valid.contains(&entry.attachment()) {
                        let made_with = made_with(entry, list);
                        let ended = self
                            .del_locked(waiter, made_with.as_ref().unwrap_or(list), &entry.params)
                            .await;
                        let id = &entry.params.container_id;
                        errors.extend(
                            ended.err().into_iter().flat_map(|failures| failures.in_context(id)),
                        );
                    }
                }
            }
            Err(error) => errors.push(error),
        }
        for (draft, lock) in self.cache.drafts() {
            // Who holds the lock is writing it now.
            if let Ok(Some(held)) = Lock::try_take(&lock, Mode::Alone) {
                let _held = held.removed_after(&lock);
                let _ = std::fs::remove_file(draft);
            }
        }
        if list.cni_version.has_gc_and_status() {
            let chain = self.chain(waiter, list, AttachmentParams::default()).with_valid(&valid);
            let mut gc = Each::gc(&chain);
            self.drive(waiter, &mut gc).await;
            errors.extend(gc.finish());
        }
        Failures::of(errors)
    }

    pub(super) async fn status(
        &self,
        waiter: &impl Waiter,
        list: &NetConfList,
    ) -> Result<(), Error> {
        check_network_name(&list.name)?;
        check_types(list)?;
        if !list.cni_version.has_gc_and_status() {
            return Ok(());
        }
        let chain = self.chain(waiter, list, AttachmentParams::default());
        let mut status = Each::status(&chain);
        self.drive(waiter, &mut status).await;
        status.finish().into_iter().next().map_or(Ok(()), Err)
    }

    pub(super) async fn version(
        &self,
        waiter: &impl Waiter,
        plugin: &str,
    ) -> Result<PluginInfo, Error> {
        // Plugins that are older than the command want the variables of an attachment.
        let vars = [
            ("CNI_COMMAND", "VERSION"),
            ("CNI_NETNS", "dummy"),
            ("CNI_IFNAME", "dummy"),
            ("CNI_PATH", "dummy"),
        ];
        let invocation = Invocation {
            plugin: plugin.to_owned(),
            program: waiter.find(plugin, &self.path)?,
            vars: vars.map(|(name, value)| (name.to_owned(), value.into())).into(),
            inherits: Inherits::Everything,
            stdin: json!({ "cniVersion": SpecVersion::LATEST }).to_string().into_bytes(),
            time_limit: None,
        };
        let program = invocation.program.display().to_string();
        let outcome = self.exec(waiter, invocation).await;
        let outcome = outcome.map_err(|e| Error::IOFailure(format!("start {program}: {e}")))?;
        version::supported(plugin, outcome)
            .map_err(|error| error.context(format!("VERSION of {plugin}")))
    }

    pub(super) async fn validate(
        &self,
        waiter: &impl Waiter,
        list: &NetConfList,
    ) -> Result<Vec<String>, Failures> {
        check_network_name(&list.name)?;
        let (mut errors, mut capabilities) = (Vec::new(), Vec::new());
        errors.extend(check_types(list).err());
        for (index, plugin) in list.plugins.iter().enumerate() {
            let name = plugin.plugin_type();
            let supports = self.version(waiter, name).await.and_then(|info| {
                if info.supports(list.cni_version) {
                    return Ok(());
                }
                let (wanted, there) = (list.cni_version, info.list());
                Err(Error::IncompatibleVersion(format!(
                    "it does not support cniVersion {wanted}, but {there}"
                )))
            });
            let place = format!(
                "network {}: plugin {} of {}, {name}",
                list.name,
                index + 1,
                list.plugins.len()
            );
            errors.extend(supports.err().map(|error| error.context(place)));
            for capability in plugin.capabilities() {
                if !capabilities.iter().any(|known| known == capability) {
                    capabilities.push(capability.to_owned());
                }
            }
        }
        Failures::of(errors).map(|()| capabilities)
    }

    fn chain<'a>(
        &self,
        waiter: &impl Waiter,
        list: &'a NetConfList,
        params: AttachmentParams,
    ) -> Chain<'a> {
        Chain::new(|plugin| waiter.find(plugin, &self.path), &self.path, list, params)
    }

    async fn drive(&self, waiter: &impl Waiter, operation: &mut impl Operation) {
        while let Some(invocation) = operation.next() {
            operation.take(self.exec(waiter, invocation).await);
        }
    }

    async fn exec(&self, waiter: &impl Waiter, mut invocation: Invocation) -> io::Result<Outcome> {
        invocation.time_limit = self.time_limit;
        if let Some(trace) = &self.trace {
            trace.set(&mut invocation.vars);
        }
        waiter.exec(invocation).await
    }

    /// Keeps other operations off an attachment, and GC off its network.
    async fn lock(
        &self,
        waiter: &impl Waiter,
        network: &str,
        params: &AttachmentParams,
    ) -> Result<Held, Error> {
        let attachment = self.cache.attachment_lock(network, params)?;
        let network = self.lock_network(waiter, network, Mode::Shared).await?;
        let lock = self.take(waiter, &attachment, Mode::Alone).await?;
        Ok(Some((network, lock.removed_after(&attachment))))
    }

    /// The same; but a container must be detachable where no file can be made, on a disk that is full or read-only. No
    /// ADD could run beside it there.
    async fn lock_if_possible(
        &self,
        waiter: &impl Waiter,
        network: &str,
        params: &AttachmentParams,
    ) -> Result<Held, Error> {
        match self.lock(waiter, network, params).await {
            Err(Error::IOFailure(_)) => Ok(None),
            locked => locked,
        }
    }

    /// Takes the lock of a network. A GC that waits for it is at the gate, where those who come later wait for the GC;
    /// on a busy node it would never have its turn otherwise.
    async fn lock_network(
        &self,
        waiter: &impl Waiter,
        network: &str,
        mode: Mode,
    ) -> Result<Lock, Error> {
        let _gate = self.take(waiter, &self.cache.gate(network)?, mode).await?;
        self.take(waiter, &self.cache.network_lock(network)?, mode).await
    }

    async fn take(&self, waiter: &impl Waiter, path: &Path, mode: Mode) -> Result<Lock, Error> {
        let begin = Instant::now();
        loop {
            let lock = Lock::try_take(path, mode);
            if let Some(lock) =
                lock.map_err(|e| Error::IOFailure(format!("lock {}: {e}", path.display())))?
            {
                return Ok(lock);
            }
            if let Some(limit) = self.time_limit.filter(|limit| begin.elapsed() >= *limit) {
                return Err(Error::TryAgainLater(format!(
                    "another operation has held {} for {limit:?}",
                    path.display()
                )));
            }
            waiter.sleep(PAUSE).await;
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

/// Rejects a list with keys of the wrong type. A list with such keys may have been attached to by an earlier release, so
/// whatever removes goes on.
fn check_types(list: &NetConfList) -> Result<(), Error> {
    list.check_types().map_err(|error| error.context(format!("network {}", list.name)))
}

/// The network as it was when the attachment was made; none where the cache does not have it, or `list` has all of it.
fn made_with(entry: &CacheEntry, list: &NetConfList) -> Option<NetConfList> {
    let made_with = NetConfList::from_json(&entry.config)
        .or_else(|_| NetConfList::from_plugin_json(&entry.config));
    // What libcni keeps lacks the plugins that come from the network's folder.
    made_with.ok().filter(|old| old.name == list.name && !list.plugins.starts_with(&old.plugins))
}

/// The error with more text at its end.
fn suffixed(error: &Error, text: &str) -> Error {
    let details = if error.details().is_empty() {
        text.to_owned()
    } else {
        format!("{}; {text}", error.details())
    };
    Error::Custom(error.code(), error.msg().to_owned(), details)
}
