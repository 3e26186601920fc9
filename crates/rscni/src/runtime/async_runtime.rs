//! The runtime that does not block.

use std::{io, path::PathBuf, time::Duration};

use super::{
    AttachmentParams, Cache, CacheListing, Failures, NetConfList, TraceContext,
    engine::{Engine, Waiter},
};
use crate::{
    Attachment, CNIResult, Error, PluginInfo,
    invoke::{AsyncExec, Invocation, Outcome},
};

/// Runs the chains of networks without blocking; what each operation means is told at
/// [`Runtime`](super::Runtime).
///
/// ```no_run
/// use rscni::invoke::AsyncProcess;
/// use rscni::runtime::{AsyncRuntime, AttachmentParams, ConfDir};
///
/// # async fn attach() -> Result<(), rscni::Error> {
/// let networks = ConfDir::load("/etc/cni/net.d".as_ref())?;
/// let runtime = AsyncRuntime::new(AsyncProcess, ["/opt/cni/bin"]);
/// let params = AttachmentParams::new("my-container", "/run/netns/my-container", "eth0");
///
/// let network = networks.find("my-network")?;
/// let result = runtime.add(network, &params).await?;
/// println!("{:?}", result.ips);
/// runtime.del(network, &params).await?;
/// # Ok(())
/// # }
/// ```
///
/// Plugins are waited for, and other operations. The few small files of the cache are read and written in place.
///
/// An operation whose future is dropped ends where it is: the plugin that runs is ended, if it is an
/// [`AsyncProcess`](crate::invoke::AsyncProcess), and an ADD is not undone. Its caller calls DEL.
#[derive(Clone, Debug)]
pub struct AsyncRuntime<E> {
    exec: E,
    engine: Engine,
}

impl<E: AsyncExec> AsyncRuntime<E> {
    /// A runtime that looks for plugins in `path` (`CNI_PATH`) and calls them through `exec`. Its cache is libcni's.
    pub fn new<P: Into<PathBuf>>(exec: E, path: impl IntoIterator<Item = P>) -> Self {
        Self {
            exec,
            engine: Engine {
                path: path.into_iter().map(Into::into).collect(),
                ..Engine::default()
            },
        }
    }

    /// The same with another cache.
    #[must_use]
    pub fn with_cache(mut self, cache: Cache) -> Self {
        self.engine.cache = cache;
        self
    }

    /// The same with a limit for each call of a plugin, and for each wait until another operation has ended.
    ///
    /// A plugin that takes longer is ended with all that it has started, and has failed; a plugin that is called within
    /// this process cannot be ended, and is waited for.
    #[must_use]
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.engine.time_limit = Some(limit);
        self
    }

    /// The same with a trace that its calls belong to. A runtime that serves many callers is cloned for each.
    #[must_use]
    pub fn with_trace(mut self, trace: TraceContext) -> Self {
        self.engine.trace = Some(trace);
        self
    }

    /// What is remembered of attachments.
    pub fn cache(&self) -> &Cache {
        &self.engine.cache
    }

    /// ADD: attaches a container.
    ///
    /// # Errors
    /// As [`Runtime::add`](super::Runtime::add).
    pub async fn add(
        &self,
        list: &NetConfList,
        params: &AttachmentParams,
    ) -> Result<CNIResult, Error> {
        self.engine.add(&Awaiting(&self.exec), list, params).await
    }

    /// DEL: detaches a container.
    ///
    /// # Errors
    /// As [`Runtime::del`](super::Runtime::del).
    pub async fn del(&self, list: &NetConfList, params: &AttachmentParams) -> Result<(), Failures> {
        self.engine.del(&Awaiting(&self.exec), list, params).await
    }

    /// CHECK: asks every plugin whether the attachment is as ADD left it.
    ///
    /// # Errors
    /// As [`Runtime::check`](super::Runtime::check).
    pub async fn check(&self, list: &NetConfList, params: &AttachmentParams) -> Result<(), Error> {
        self.engine.check(&Awaiting(&self.exec), list, params).await
    }

    /// GC: removes what belongs to attachments of a network that are not in `valid`.
    ///
    /// # Errors
    /// As [`Runtime::gc`](super::Runtime::gc).
    pub async fn gc(&self, list: &NetConfList, valid: &[Attachment]) -> Result<(), Failures> {
        self.engine.gc(&Awaiting(&self.exec), list, |_| Ok(valid.to_vec())).await
    }

    /// GC with a set that is worked out from what the cache holds, while no other operation on the network runs.
    ///
    /// # Errors
    /// As [`Runtime::gc_by`](super::Runtime::gc_by).
    pub async fn gc_by(
        &self,
        list: &NetConfList,
        valid: impl FnOnce(&CacheListing) -> Result<Vec<Attachment>, Error>,
    ) -> Result<(), Failures> {
        let valid =
            |listing: &Result<CacheListing, Error>| valid(listing.as_ref().map_err(Clone::clone)?);
        self.engine.gc(&Awaiting(&self.exec), list, valid).await
    }

    /// STATUS: asks every plugin whether an ADD could be serviced.
    ///
    /// # Errors
    /// As [`Runtime::status`](super::Runtime::status).
    pub async fn status(&self, list: &NetConfList) -> Result<(), Error> {
        self.engine.status(&Awaiting(&self.exec), list).await
    }

    /// VERSION: the versions that a plugin supports, of those that are known here.
    ///
    /// # Errors
    /// As [`Runtime::version`](super::Runtime::version).
    pub async fn version(&self, plugin: &str) -> Result<PluginInfo, Error> {
        self.engine.version(&Awaiting(&self.exec), plugin).await
    }

    /// Sees that every plugin of a network is installed and supports its version; gives their capabilities.
    ///
    /// # Errors
    /// As [`Runtime::validate`](super::Runtime::validate).
    pub async fn validate(&self, list: &NetConfList) -> Result<Vec<String>, Failures> {
        self.engine.validate(&Awaiting(&self.exec), list).await
    }
}

/// Gives the thread back where it has to wait.
struct Awaiting<'a, E>(&'a E);

impl<E: AsyncExec> Waiter for Awaiting<'_, E> {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        self.0.find(plugin, path)
    }

    fn exec(&self, invocation: Invocation) -> impl Future<Output = io::Result<Outcome>> {
        self.0.exec(invocation)
    }

    fn sleep(&self, time: Duration) -> impl Future<Output = ()> {
        self.0.sleep(time)
    }
}
