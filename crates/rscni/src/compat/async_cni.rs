//! The trait style with `async-trait`: `use rscni::compat::async_cni::{Cni, Plugin}`.

use std::pin::Pin;

use crate::{Args, CNIResult, Error, async_cni};

use super::version::{AnyVersion, PluginInfo};

/// The future of a command.
type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// An async plugin. Implement it with `#[async_trait]`; the signatures are those that this macro
/// writes.
pub trait Cni: Sync {
    /// ADD: attaches the container.
    fn add<'life0, 'async_trait>(&'life0 self, args: Args) -> Reply<'async_trait, CNIResult>
    where
        'life0: 'async_trait,
        Self: 'async_trait;

    /// DEL: removes what ADD made.
    fn del<'life0, 'async_trait>(&'life0 self, args: Args) -> Reply<'async_trait, ()>
    where
        'life0: 'async_trait,
        Self: 'async_trait;

    /// CHECK: compares the attachment with the result of ADD.
    fn check<'life0, 'async_trait>(&'life0 self, args: Args) -> Reply<'async_trait, ()>
    where
        'life0: 'async_trait,
        Self: 'async_trait;

    /// STATUS: fails if the plugin cannot service ADD.
    fn status<'life0, 'async_trait>(&'life0 self, args: Args) -> Reply<'async_trait, ()>
    where
        'life0: 'async_trait,
        Self: 'async_trait;

    /// GC: removes what stale attachments left.
    fn gc<'life0, 'async_trait>(&'life0 self, args: Args) -> Reply<'async_trait, ()>
    where
        'life0: 'async_trait,
        Self: 'async_trait;
}

/// An implementation of the old trait as one of the new.
struct Boxed<'a, C>(&'a C);

impl<C: Cni> async_cni::Cni for Boxed<'_, C> {
    async fn add(&self, args: Args) -> Result<CNIResult, Error> {
        self.0.add(args).await
    }

    async fn del(&self, args: Args) -> Result<(), Error> {
        self.0.del(args).await
    }

    async fn check(&self, args: Args) -> Result<(), Error> {
        self.0.check(args).await
    }

    async fn gc(&self, args: Args) -> Result<(), Error> {
        self.0.gc(args).await
    }

    async fn status(&self, args: Args) -> Result<(), Error> {
        self.0.status(args).await
    }
}

/// A plugin that runs an implementation of [`Cni`].
#[derive(Clone, Debug, Default)]
pub struct Plugin(async_cni::Plugin);

impl Plugin {
    /// A plugin that supports these versions.
    pub fn new(newest: impl AnyVersion, versions: Vec<impl AnyVersion>) -> Self {
        Self(async_cni::Plugin::default().versions(PluginInfo::new(newest, versions).0))
    }

    /// Sets the text about the plugin.
    #[must_use]
    pub fn msg(self, about: &str) -> Self {
        Self(self.0.msg(about))
    }

    /// Answers the call that this process was started with.
    ///
    /// # Errors
    /// The error of the error reply, which is already written.
    pub async fn run<C: Cni>(&self, plugin: &C) -> Result<(), Error> {
        self.0.run(&Boxed(plugin)).await
    }
}
