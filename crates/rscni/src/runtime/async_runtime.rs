//! The async runtime.

use std::{io, path::PathBuf, time::Duration};

use super::{
    Attached, AttachmentParams, Cache, CacheEntry, CacheListing, Failures, NetConfList, Networks,
    PluginCall, Sandbox, TraceContext,
    engine::{Operations, Waiter},
    join,
    observer::Observer,
    settings::{Engine, runtime_settings},
};
use crate::{
    Attachment, CNIResult, Command, Error, PluginInfo,
    invoke::{AsyncExec, Invocation, Outcome},
    span::Traced,
};

/// Runs the plugins of networks without blocking; [`Runtime`](super::Runtime) describes the
/// operations.
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
/// It awaits plugins and other operations; the small files of the cache are read and written
/// synchronously.
///
/// Dropping the future of an operation stops it and kills the running plugin, if it is an
/// [`AsyncProcess`](crate::invoke::AsyncProcess). An ADD is not rolled back; its caller calls DEL.
#[derive(Clone, Debug)]
pub struct AsyncRuntime<E> {
    exec: E,
    engine: Engine,
}

impl<E: AsyncExec> AsyncRuntime<E> {
    runtime_settings!(Awaiting);

    /// ADD: attaches a container.
    ///
    /// # Errors
    /// As [`Runtime::add`](super::Runtime::add).
    pub async fn add(
        &self,
        list: &NetConfList,
        params: &AttachmentParams,
    ) -> Result<CNIResult, Error> {
        params.span(Command::Add, list).wait(self.operations().add(list, params)).await
    }

    /// DEL: detaches a container.
    ///
    /// # Errors
    /// As [`Runtime::del`](super::Runtime::del).
    pub async fn del(&self, list: &NetConfList, params: &AttachmentParams) -> Result<(), Failures> {
        params.span(Command::Del, list).wait(self.operations().del(list, params)).await
    }

    /// DEL of an attachment that no other operation is working on, if `is_stale` agrees.
    ///
    /// # Errors
    /// As [`Runtime::del_if`](super::Runtime::del_if).
    pub async fn del_if(
        &self,
        list: &NetConfList,
        params: &AttachmentParams,
        is_stale: impl FnOnce(Option<&CacheEntry>) -> bool,
    ) -> Result<bool, Failures> {
        let del = self.operations();
        params.span(Command::Del, list).wait(del.del_if(list, params, is_stale)).await
    }

    /// CHECK: asks each plugin whether the attachment matches the result of ADD.
    ///
    /// # Errors
    /// As [`Runtime::check`](super::Runtime::check).
    pub async fn check(&self, list: &NetConfList, params: &AttachmentParams) -> Result<(), Error> {
        params.span(Command::Check, list).wait(self.operations().check(list, params)).await
    }

    /// GC: removes what attachments of a network left that are not in `valid`.
    ///
    /// # Errors
    /// As [`Runtime::gc`](super::Runtime::gc).
    pub async fn gc(&self, list: &NetConfList, valid: &[Attachment]) -> Result<(), Failures> {
        let gc = self.operations();
        let gc = gc.gc(list, |_| Ok(valid.to_vec()));
        Traced::operation(Command::Gc, &list.name, None).wait(gc).await
    }

    /// GC with valid attachments that `valid` selects from the cache.
    ///
    /// # Errors
    /// As [`Runtime::gc_by`](super::Runtime::gc_by).
    pub async fn gc_by(
        &self,
        list: &NetConfList,
        valid: impl FnOnce(&CacheListing) -> Result<Vec<Attachment>, Error>,
    ) -> Result<(), Failures> {
        let gc = self.operations();
        let gc = gc.gc(list, |listing| valid(listing.as_ref().map_err(Clone::clone)?));
        Traced::operation(Command::Gc, &list.name, None).wait(gc).await
    }

    /// STATUS: asks each plugin whether it can service ADD.
    ///
    /// # Errors
    /// As [`Runtime::status`](super::Runtime::status).
    pub async fn status(&self, list: &NetConfList) -> Result<(), Error> {
        Traced::operation(Command::Status, &list.name, None)
            .wait(self.operations().status(list))
            .await
    }

    /// VERSION: returns the versions that a plugin supports.
    ///
    /// # Errors
    /// As [`Runtime::version`](super::Runtime::version).
    pub async fn version(&self, plugin: &str) -> Result<PluginInfo, Error> {
        self.operations().version(plugin).await
    }

    /// Checks the plugins of a network and returns the capabilities that they declare.
    ///
    /// # Errors
    /// As [`Runtime::validate`](super::Runtime::validate).
    pub async fn validate(&self, list: &NetConfList) -> Result<Vec<String>, Failures> {
        self.operations().validate(list).await
    }

    /// ADD for all networks of a sandbox.
    ///
    /// # Errors
    /// As [`Runtime::attach`](super::Runtime::attach).
    pub async fn attach(&self, networks: &Networks, sandbox: &Sandbox) -> Result<Attached, Failures>
    where
        E: Sync,
    {
        self.operations().attach(networks, sandbox).await
    }

    /// CHECK for all networks of a sandbox, best effort.
    ///
    /// # Errors
    /// As [`Runtime::check_all`](super::Runtime::check_all).
    pub async fn check_all(&self, networks: &Networks, sandbox: &Sandbox) -> Result<(), Failures> {
        self.operations().check_all(networks, sandbox).await
    }

    /// DEL for all networks of a sandbox in reverse order, best effort.
    ///
    /// # Errors
    /// As [`Runtime::detach`](super::Runtime::detach).
    pub async fn detach(&self, networks: &Networks, sandbox: &Sandbox) -> Result<(), Failures> {
        self.operations().detach(networks, sandbox).await
    }

    /// DEL for all attachments of a container in the cache, the newest first, best effort.
    ///
    /// # Errors
    /// As [`Runtime::detach_all`](super::Runtime::detach_all).
    pub async fn detach_all(&self, container_id: &str) -> Result<(), Failures> {
        self.operations().detach_all(container_id).await
    }

    /// STATUS for all networks, best effort.
    ///
    /// # Errors
    /// As [`Runtime::status_all`](super::Runtime::status_all).
    pub async fn status_all(&self, networks: &Networks) -> Result<(), Failures> {
        self.operations().status_all(networks).await
    }
}

/// Waits by yielding the thread.
struct Awaiting<'a, E>(&'a E);

impl<E: AsyncExec> Waiter for Awaiting<'_, E> {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        self.0.find(plugin, path)
    }

    fn exec(&self, call: &Invocation) -> impl Future<Output = io::Result<Outcome>> + Send {
        self.0.exec(call.clone())
    }

    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send {
        self.0.sleep(time)
    }

    fn join<F>(&self, futures: Vec<F>) -> impl Future<Output = Vec<F::Output>> + Send
    where
        F: Future + Send,
        F::Output: Send,
    {
        join::in_one_task(futures)
    }
}
