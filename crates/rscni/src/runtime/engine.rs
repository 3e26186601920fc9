//! The operations of a runtime, written once for the blocking and the async runtime.
//!
//! An operation is a future that only waits through a [`Waiter`]. The waiter of the blocking
//! runtime returns futures that are ready at once, so the whole operation is ready at the first
//! poll.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    AttachmentParams, CacheEntry, CacheListing, Failures, NetConfList, PluginCall,
    chain::{Add, Chain, Each, Operation},
    lock::{Lock, Mode},
    settings::Engine,
    version,
};
use crate::{
    Attachment, CNIResult, Error, PluginInfo, SpecVersion,
    invoke::{Inherits, Invocation, Outcome},
    name::check_network_name,
    request::Command,
    span::Traced,
};

/// Interval between attempts to take a lock.
const PAUSE: Duration = Duration::from_millis(10);

/// Finds plugins, and waits for plugins and for time to pass.
pub(super) trait Waiter {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error>;
    fn exec(&self, call: &Invocation) -> impl Future<Output = io::Result<Outcome>> + Send;
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Waits for all futures at the same time. Returns their outputs in order.
    fn join<F>(&self, futures: Vec<F>) -> impl Future<Output = Vec<F::Output>> + Send
    where
        F: Future + Send,
        F::Output: Send;
}

/// The locks of an operation on an attachment; `None` if it runs without locks.
type Locks = Option<(Lock, Lock)>;

/// The operations of a runtime.
pub(super) struct Operations<'a, W> {
    pub(super) engine: &'a Engine,
    pub(super) waiter: W,
}

impl<W: Waiter> Operations<'_, W> {
    pub(super) async fn add(
        &self,
        list: &NetConfList,
        params: &AttachmentParams,
    ) -> Result<CNIResult, Error> {
        self.add_or_keep(list, params).await.map(|(result, _)| result)
    }

    /// ADD. Also returns whether the attachment is new: only then it may be rolled back.
    pub(super) async fn add_or_keep(
        &self,
        list: &NetConfList,
        params: &AttachmentParams,
    ) -> Result<(CNIResult, bool), Error> {
        params.check(Command::Add)?;
        check_types(list)?;
        let _locks = self.lock(&list.name, params).await?;
        let is_attached = match self.engine.cache.load(&list.name, params) {
            Ok(entry) => entry.is_some(),
            // If the cache cannot be read, the result could not be stored either.
            Err(error) if matches!(error.kind(), Error::Cache(_)) => return Err(error),
            // A damaged entry also stands for an attachment.
            Err(_) => true,
        };
        let chain = self.chain(list, params.clone());
        let mut add = Add::new(&chain);
        self.drive(&mut add).await;
        let mut added = add.finish();
        let error = match (added.error.take(), &added.result) {
            (None, Some(result)) => {
                match self.engine.cache.store(&CacheEntry::new(list, params, result)) {
                    Ok(()) => return Ok((result.clone(), !is_attached)),
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
        if is_attached {
            let advice = "not rolled back, since the attachment already existed: \
                          call DEL before another ADD";
            return Err(suffixed(error, advice));
        }
        let mut undo = Each::undo(&chain, added);
        self.drive(&mut undo).await;
        Err(match Failures::of(undo.finish()) {
            Ok(()) => error,
            Err(failures) => suffixed(error, &format!("rollback failed too: {failures}")),
        })
    }

    pub(super) async fn del(
        &self,
        list: &NetConfList,
        params: &AttachmentParams,
    ) -> Result<(), Failures> {
        params.check(Command::Del)?;
        let _locks = self.lock_if_possible(&list.name, params).await?;
        self.del_locked(list, params).await
    }

    pub(super) async fn del_if(
        &self,
        list: &NetConfList,
        params: &AttachmentParams,
        is_stale: impl FnOnce(Option<&CacheEntry>) -> bool,
    ) -> Result<bool, Failures> {
        params.check(Command::Del)?;
        let Some(_locks) = self.try_lock(&list.name, params)? else { return Ok(false) };
        if !is_stale(self.engine.cache.load(&list.name, params)?.as_ref()) {
            return Ok(false);
        }
        self.del_locked(list, params).await.map(|()| true)
    }

    async fn del_locked(
        &self,
        list: &NetConfList,
        params: &AttachmentParams,
    ) -> Result<(), Failures> {
        params.check(Command::Del)?;
        let entry = self.engine.cache.load(&list.name, params).ok().flatten();
        let chain = self.chain(list, completed(params, entry.as_ref()));
        let mut del = Each::del(&chain, list.plugins.len(), entry.map(|entry| entry.result));
        self.drive(&mut del).await;
        Failures::of(del.finish())?;
        // Best effort: the container is detached, and a runtime would retry a failing DEL forever.
        let _ = self.engine.cache.remove(&list.name, params);
        Ok(())
    }

    pub(super) async fn check(
        &self,
        list: &NetConfList,
        params: &AttachmentParams,
    ) -> Result<(), Error> {
        params.check(Command::Check)?;
        if !list.cni_version.has_check() {
            return Err(Error::IncompatibleVersion(format!(
                "network {} has cniVersion {}, but CHECK requires {}",
                list.name,
                list.cni_version,
                SpecVersion::V0_4_0
            )));
        }
        if list.disable_check {
            return Ok(());
        }
        let _locks = self.lock_if_possible(&list.name, params).await?;
        let Some(entry) = self.engine.cache.load(&list.name, params)? else {
            return Err(Error::NotExist(format!(
                "container {} is not attached to network {} with interface {}: {} not found",
                params.container_id,
                list.name,
                params.ifname,
                self.engine.cache.file(&list.name, params)?.display()
            )));
        };
        let chain = self.chain(list, completed(params, Some(&entry)));
        let mut check = Each::check(&chain, entry.result);
        self.drive(&mut check).await;
        check.finish().into_iter().next().map_or(Ok(()), Err)
    }

    pub(super) async fn gc(
        &self,
        list: &NetConfList,
        valid: impl FnOnce(&Result<CacheListing, Error>) -> Result<Vec<Attachment>, Error>,
    ) -> Result<(), Failures> {
        check_network_name(&list.name)?;
        if list.disable_gc {
            return Ok(());
        }
        let _lock = self.lock_network(&list.name, Mode::Exclusive).await?;
        let mut errors = Vec::new();
        let listing = self.engine.cache.list();
        let valid = valid(&listing)?;
        let entries = listing.map(|listing| listing.entries);
        let entries = entries.map_err(|error| errors.push(error)).unwrap_or_default();
        let is_stale = |entry: &&CacheEntry| {
            entry.network == list.name && !valid.contains(&entry.attachment())
        };
        for entry in entries.iter().filter(is_stale) {
            let list_of_add = list_of_add(entry, list);
            let deleted = self.del_locked(list_of_add.as_ref().unwrap_or(list), &entry.params);
            let id = &entry.params.container_id;
            errors.extend(deleted.await.err().into_iter().flat_map(|f| f.in_context(id)));
        }
        for (draft, lock) in self.engine.cache.drafts() {
            // If the lock is taken, its holder is writing the draft now.
            if let Ok(Some(taken)) = Lock::try_take(&lock, Mode::Exclusive) {
                let _lock = taken.removed_after(&lock);
                let _ = std::fs::remove_file(draft);
            }
        }
        if list.cni_version.has_gc_and_status() {
            let chain = self.chain(list, AttachmentParams::default()).with_valid(&valid);
            let mut gc = Each::gc(&chain);
            self.drive(&mut gc).await;
            errors.extend(gc.finish());
        }
        Failures::of(errors)
    }

    pub(super) async fn status(&self, list: &NetConfList) -> Result<(), Error> {
        check_network_name(&list.name)?;
        check_types(list)?;
        if !list.cni_version.has_gc_and_status() {
            return Ok(());
        }
        let chain = self.chain(list, AttachmentParams::default());
        let mut status = Each::status(&chain);
        self.drive(&mut status).await;
        status.finish().into_iter().next().map_or(Ok(()), Err)
    }

    pub(super) async fn version(&self, plugin: &str) -> Result<PluginInfo, Error> {
        // Plugins older than this command require the variables of an attachment.
        let vars = [
            ("CNI_COMMAND", "VERSION"),
            ("CNI_NETNS", "dummy"),
            ("CNI_IFNAME", "dummy"),
            ("CNI_PATH", "dummy"),
        ];
        let invocation = Invocation {
            plugin: plugin.to_owned(),
            program: self.waiter.find(plugin, &self.engine.path)?,
            vars: vars.map(|(name, value)| (name.to_owned(), value.into())).into(),
            inherits: Inherits::Everything,
            stdin: json!({ "cniVersion": SpecVersion::LATEST }).to_string().into_bytes(),
            time_limit: None,
        };
        let program = invocation.program.display().to_string();
        let outcome = self.exec(invocation).await;
        let outcome = outcome
            .map_err(|e| Error::IOFailure(format!("cannot start {program}: {e}")).with_source(e));
        outcome
            .and_then(|outcome| version::supported(plugin, outcome))
            .map_err(|error| error.in_call(plugin, Command::Version))
            .map_err(|error| error.context(format!("VERSION of {plugin}")))
    }

    pub(super) async fn validate(&self, list: &NetConfList) -> Result<Vec<String>, Failures> {
        check_network_name(&list.name)?;
        let (mut errors, mut capabilities) = (Vec::new(), Vec::new());
        errors.extend(check_types(list).err());
        for (index, plugin) in list.plugins.iter().enumerate() {
            let name = plugin.plugin_type();
            let supports = self.version(name).await.and_then(|info| {
                if info.supports(list.cni_version) {
                    return Ok(());
                }
                Err(Error::IncompatibleVersion(format!(
                    "cniVersion {} is not supported; supported are {}",
                    list.cni_version,
                    info.list()
                )))
            });
            let (network, number, count) = (&list.name, index + 1, list.plugins.len());
            let context = format!("network {network}: plugin {number} of {count}, {name}");
            errors.extend(supports.err().map(|error| error.context(context)));
            for capability in plugin.capabilities() {
                if !capabilities.iter().any(|known| known == capability) {
                    capabilities.push(capability.to_owned());
                }
            }
        }
        Failures::of(errors).map(|()| capabilities)
    }

    fn chain<'a>(&self, list: &'a NetConfList, params: AttachmentParams) -> Chain<'a> {
        let path = &self.engine.path;
        Chain::new(|plugin| self.waiter.find(plugin, path), path, list, params)
    }

    async fn drive(&self, operation: &mut impl Operation) {
        while let Some(invocation) = operation.next() {
            operation.take(self.exec(invocation).await);
        }
    }

    async fn exec(&self, mut invocation: Invocation) -> io::Result<Outcome> {
        invocation.time_limit = self.engine.time_limit;
        if let Some(trace) = &self.engine.trace {
            trace.set(&mut invocation.vars);
        }
        let span = Traced::plugin(&invocation);
        let begin = Instant::now();
        // A blocking call is made when it is described, so describe it inside the span.
        let outcome = span.wait(async { self.waiter.exec(&invocation).await }).await;
        let (invocation, duration) = (&invocation, begin.elapsed());
        let call = PluginCall { invocation, duration, outcome: outcome.as_ref() };
        self.engine.observer.observe(&call);
        outcome
    }

    /// Locks an attachment against other operations, and its network against GC.
    async fn lock(&self, network: &str, params: &AttachmentParams) -> Result<Locks, Error> {
        let attachment = self.engine.cache.attachment_lock(network, params)?;
        let network = self.lock_network(network, Mode::Shared).await?;
        let lock = self.take(&attachment, Mode::Exclusive).await?;
        Ok(Some((network, lock.removed_after(&attachment))))
    }

    /// Locks as [`lock`](Self::lock) without waiting; `None` if another operation is in progress.
    fn try_lock(&self, network: &str, params: &AttachmentParams) -> Result<Locks, Error> {
        let cache = &self.engine.cache;
        let attachment = cache.attachment_lock(network, params)?;
        // A GC waits behind the gate.
        let Some(_gate) = try_take(&cache.gate(network)?, Mode::Shared)? else { return Ok(None) };
        let network = try_take(&cache.network_lock(network)?, Mode::Shared)?;
        let lock = try_take(&attachment, Mode::Exclusive)?;
        Ok(network.zip(lock.map(|lock| lock.removed_after(&attachment))))
    }

    /// Locks as [`lock`](Self::lock), but goes on without locks if their files cannot be made, such
    /// as on a full disk: DEL must still work, and no ADD can run concurrently.
    async fn lock_if_possible(
        &self,
        network: &str,
        params: &AttachmentParams,
    ) -> Result<Locks, Error> {
        match self.lock(network, params).await {
            Err(error) if matches!(error.kind(), Error::Cache(_)) => Ok(None),
            locked => locked,
        }
    }

    /// Takes the lock of a network. A GC that waits for it holds the gate's lock: later operations
    /// queue behind a waiting GC so that it is not starved.
    async fn lock_network(&self, network: &str, mode: Mode) -> Result<Lock, Error> {
        let _gate = self.take(&self.engine.cache.gate(network)?, mode).await?;
        self.take(&self.engine.cache.network_lock(network)?, mode).await
    }

    async fn take(&self, path: &Path, mode: Mode) -> Result<Lock, Error> {
        let begin = Instant::now();
        loop {
            if let Some(lock) = try_take(path, mode)? {
                return Ok(lock);
            }
            if let Some(limit) = self.engine.time_limit.filter(|limit| begin.elapsed() >= *limit) {
                return Err(Error::TryAgainLater(format!(
                    "another operation has held the lock {} for {limit:?}",
                    path.display()
                )));
            }
            self.waiter.sleep(PAUSE).await;
        }
    }
}

fn try_take(path: &Path, mode: Mode) -> Result<Option<Lock>, Error> {
    Lock::try_take(path, mode)
        .map_err(|e| Error::Cache(format!("cannot lock {}: {e}", path.display())).with_source(e))
}

/// Adds the arguments of the ADD to the parameters, if the caller passes none.
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

/// Rejects a list with keys of the wrong type. Not used for removal, since an earlier release may
/// have attached with such a list.
fn check_types(list: &NetConfList) -> Result<(), Error> {
    list.check_types().map_err(|error| error.context(format!("network {}", list.name)))
}

/// Returns the list of the ADD, if the cache has it and it contains plugins that `list` does not.
fn list_of_add(entry: &CacheEntry, list: &NetConfList) -> Option<NetConfList> {
    // libcni caches the list without the plugins of the network's folder.
    entry.list().ok().filter(|old| !list.plugins.starts_with(&old.plugins))
}

/// Appends text to an error.
fn suffixed(error: Error, text: &str) -> Error {
    let details = if error.details().is_empty() {
        text.to_owned()
    } else {
        format!("{}; {text}", error.details())
    };
    error.with_details(details)
}
