//! The runtime side of the protocol: attaches containers to networks, checks and detaches them.
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
//! A container runtime attaches a container, a [`Sandbox`], to all its [`Networks`] with one call.
//!
//! A network is a [`NetConfList`], a directory of them a [`ConfDir`]. [`Runtime`] runs the plugins
//! of a network through an [`Exec`], as processes or linked into the same program: `Linked` of the
//! crate `rscni-plugins` needs no installed plugins. `AsyncRuntime` (feature `async`) does not
//! block. The [`Cache`] stores what DEL needs to know of the ADD; it is shared with Go's libcni.
//! The caller creates and removes the network namespace.
//!
//! Operations on the same attachment are serialized, and so are GC and the other operations on the
//! same network, in all processes that use the same cache. Go's libcni does not take these locks.

#[cfg(feature = "async")]
mod async_runtime;
mod attach;
mod attached;
mod cache;
mod cache_entry;
mod chain;
mod conf;
mod conf_dir;
mod engine;
mod failures;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod join;
mod lock;
mod networks;
mod observer;
mod params;
mod sandbox;
mod settings;
mod version;

use std::{
    io,
    path::PathBuf,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

#[cfg(feature = "async")]
pub use async_runtime::AsyncRuntime;
pub use attached::{Attached, AttachedInterface, AttachedNetwork};
pub use cache::{Cache, CacheListing};
pub use cache_entry::CacheEntry;
pub use conf::{NetConfList, PluginConf};
pub use conf_dir::ConfDir;
pub use failures::Failures;
pub use networks::{Network, Networks};
pub use observer::PluginCall;
pub use params::AttachmentParams;
pub use sandbox::Sandbox;

pub use crate::trace::TraceContext;
use crate::{
    Attachment, CNIResult, Command, Error, PluginInfo,
    invoke::{Exec, Invocation, Outcome},
    span::Traced,
};
use engine::{Operations, Waiter};
use observer::Observer;
use settings::{Engine, runtime_settings};

/// Runs the plugins of networks.
#[derive(Clone, Debug)]
pub struct Runtime<E> {
    exec: E,
    engine: Engine,
}

impl<E: Exec> Runtime<E> {
    runtime_settings!(Blocking);

    /// ADD: attaches a container (spec: "Adding an attachment").
    ///
    /// If a plugin fails or the result cannot be stored, calls DEL of the plugins that were called.
    /// An attachment that is already in the cache is not rolled back, since it may be in use.
    ///
    /// # Errors
    /// The error of the plugin that failed, with its position in the chain. Before any plugin is
    /// called: [`Error::InvalidNetworkConfig`] if a plugin is not installed, [`Error::Cache`]
    /// if the cache cannot be read or locked, [`Error::InvalidEnvValue`] if a parameter is invalid,
    /// [`Error::TryAgainLater`] if the wait for another operation times out.
    pub fn add(&self, list: &NetConfList, params: &AttachmentParams) -> Result<CNIResult, Error> {
        ready(params.span(Command::Add, list).wait(self.operations().add(list, params)))
    }

    /// DEL: detaches a container (spec: "Deleting an attachment"), in reverse order, best effort.
    ///
    /// The plugins get the cached result, and the cached arguments if the caller passes none. DEL
    /// also works if the entry is damaged or missing, or if the lock's file cannot be made. The
    /// entry is removed after all plugins have succeeded.
    ///
    /// # Errors
    /// The errors of all plugins, with their positions in the chain; [`Error::TryAgainLater`] if
    /// the wait for another operation times out.
    pub fn del(&self, list: &NetConfList, params: &AttachmentParams) -> Result<(), Failures> {
        ready(params.span(Command::Del, list).wait(self.operations().del(list, params)))
    }

    /// DEL of an attachment that no other operation is working on, if `is_stale` agrees.
    ///
    /// `is_stale` gets the entry of the cache while the locks are held, so the decision cannot be
    /// outdated. Returns whether DEL was called: without waiting, it is not if another operation on
    /// the attachment or a GC of the network is in progress.
    ///
    /// # Errors
    /// As [`del`](Runtime::del); [`Error::Cache`] if a lock's file cannot be made;
    /// [`Error::FailedToDecode`] if the entry is damaged. Then no plugin is called.
    pub fn del_if(
        &self,
        list: &NetConfList,
        params: &AttachmentParams,
        is_stale: impl FnOnce(Option<&CacheEntry>) -> bool,
    ) -> Result<bool, Failures> {
        let del = self.operations();
        ready(params.span(Command::Del, list).wait(del.del_if(list, params, is_stale)))
    }

    /// CHECK: asks each plugin whether the attachment matches the result of ADD (spec: "Checking an
    /// attachment"). Succeeds if the configuration sets `disableCheck`.
    ///
    /// # Errors
    /// The error of the first plugin that fails, with its position in the chain;
    /// [`Error::IncompatibleVersion`] if the network's version has no CHECK; [`Error::NotExist`] if
    /// the attachment is not in the cache; [`Error::TryAgainLater`] if the wait for another
    /// operation times out.
    pub fn check(&self, list: &NetConfList, params: &AttachmentParams) -> Result<(), Error> {
        ready(params.span(Command::Check, list).wait(self.operations().check(list, params)))
    }

    /// GC: removes what attachments of a network left that are not in `valid` (spec: "GC").
    ///
    /// First calls DEL for each stale attachment in the cache, with the cached configuration of its
    /// ADD. Then passes the valid attachments to each plugin, if the network's version has GC. Does
    /// nothing if the configuration sets `disableGC`. Damaged entries of the cache are kept.
    ///
    /// # Errors
    /// The errors of all plugins, with their positions in the chain; [`Error::Cache`] if the
    /// cache cannot be read or locked; [`Error::TryAgainLater`] if the wait for another operation
    /// times out.
    pub fn gc(&self, list: &NetConfList, valid: &[Attachment]) -> Result<(), Failures> {
        let gc = self.operations();
        let gc = gc.gc(list, |_| Ok(valid.to_vec()));
        ready(Traced::operation(Command::Gc, &list.name, None).wait(gc))
    }

    /// GC with valid attachments that `valid` selects from the cache.
    ///
    /// No other operation on the network runs meanwhile, so a concurrent ADD is either in the
    /// listing or starts after GC.
    ///
    /// # Errors
    /// As [`gc`](Runtime::gc), and the error of `valid`; then nothing is removed.
    pub fn gc_by(
        &self,
        list: &NetConfList,
        valid: impl FnOnce(&CacheListing) -> Result<Vec<Attachment>, Error>,
    ) -> Result<(), Failures> {
        let gc = self.operations();
        let gc = gc.gc(list, |listing| valid(listing.as_ref().map_err(Clone::clone)?));
        ready(Traced::operation(Command::Gc, &list.name, None).wait(gc))
    }

    /// STATUS: asks each plugin whether it can service ADD (spec: "STATUS"). Succeeds if the
    /// network's version has no STATUS, as in libcni.
    ///
    /// # Errors
    /// The error of the first plugin that fails, with its position in the chain.
    pub fn status(&self, list: &NetConfList) -> Result<(), Error> {
        ready(
            Traced::operation(Command::Status, &list.name, None)
                .wait(self.operations().status(list)),
        )
    }

    /// VERSION: returns the versions that a plugin supports, without those unknown to this library.
    ///
    /// # Errors
    /// [`Error::NotInstalled`] if it is not installed, [`Error::FailedToDecode`] if its
    /// reply has no versions.
    pub fn version(&self, plugin: &str) -> Result<PluginInfo, Error> {
        ready(self.operations().version(plugin))
    }

    /// Checks that all plugins of a network are installed and support its version. Returns the
    /// capabilities that they declare, each once.
    ///
    /// # Errors
    /// The errors of all plugins.
    pub fn validate(&self, list: &NetConfList) -> Result<Vec<String>, Failures> {
        ready(self.operations().validate(list))
    }

    /// ADD for all networks of a sandbox, one after the other, or [in
    /// parallel](Networks::in_parallel).
    ///
    /// If a network fails, calls DEL for those that this call has attached, in reverse order, after
    /// all ADDs have ended. Attachments that already existed are kept.
    ///
    /// # Errors
    /// The errors of all networks that fail, in order, each as that of [`add`](Runtime::add), then
    /// those of the rollback. Before any plugin is called: the error of [`Networks::ready`].
    pub fn attach(&self, networks: &Networks, sandbox: &Sandbox) -> Result<Attached, Failures>
    where
        E: Sync,
    {
        ready(self.operations().attach(networks, sandbox))
    }

    /// CHECK for all networks of a sandbox, best effort.
    ///
    /// # Errors
    /// The errors of all networks, each as that of [`check`](Runtime::check); the error of
    /// [`Networks::ready`].
    pub fn check_all(&self, networks: &Networks, sandbox: &Sandbox) -> Result<(), Failures> {
        ready(self.operations().check_all(networks, sandbox))
    }

    /// DEL for all networks of a sandbox in reverse order, best effort.
    ///
    /// The plugins also get the cached options of the sandbox, if this one has none.
    ///
    /// # Errors
    /// The errors of all networks, each as those of [`del`](Runtime::del). If the networks are not
    /// [ready](Networks::ready), their error; [`detach_all`](Runtime::detach_all) does not
    /// need them.
    pub fn detach(&self, networks: &Networks, sandbox: &Sandbox) -> Result<(), Failures> {
        ready(self.operations().detach(networks, sandbox))
    }

    /// DEL for all attachments of a container in the cache, the newest first, best effort.
    ///
    /// The plugins get the cached configurations, so this works if files have been changed or
    /// removed since ADD. Succeeds if the container has no attachments.
    ///
    /// # Errors
    /// The errors of all attachments, each as those of [`del`](Runtime::del); errors that name the
    /// entries of the cache that are damaged; [`Error::Cache`] if the cache cannot be read.
    pub fn detach_all(&self, container_id: &str) -> Result<(), Failures> {
        ready(self.operations().detach_all(container_id))
    }

    /// STATUS for all networks, best effort. [`status`](Runtime::status) does it for one of
    /// [`Networks::ready`].
    ///
    /// # Errors
    /// The errors of all networks, each as that of [`status`](Runtime::status); the error of
    /// [`Networks::ready`].
    pub fn status_all(&self, networks: &Networks) -> Result<(), Failures> {
        ready(self.operations().status_all(networks))
    }
}

/// Waits by blocking the thread.
struct Blocking<'a, E>(&'a E);

impl<E: Exec> Waiter for Blocking<'_, E> {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        self.0.find(plugin, path)
    }

    fn exec(&self, call: &Invocation) -> impl Future<Output = io::Result<Outcome>> + Send {
        std::future::ready(self.0.exec(call))
    }

    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send {
        std::thread::sleep(time);
        std::future::ready(())
    }

    fn join<F>(&self, futures: Vec<F>) -> impl Future<Output = Vec<F::Output>> + Send
    where
        F: Future + Send,
        F::Output: Send,
    {
        std::future::ready(join::on_threads(futures))
    }
}

/// Returns the output of an operation that waits through [`Blocking`].
fn ready<T>(operation: impl Future<Output = T>) -> T {
    match pin!(operation).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("the futures of the blocking waiter are ready"),
    }
}

#[cfg(test)]
mod tests;
