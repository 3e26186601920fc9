//! Async plugins, on any executor.
//!
//! [`Cni`] and [`Plugin`] are [`rscni::Cni`](crate::Cni) and [`rscni::Plugin`](crate::Plugin) with
//! async functions. They behave the same.
//!
//! ```no_run
//! use rscni::async_cni::{Cni, Plugin};
//! use rscni::{Args, CNIResult, Error};
//!
//! struct Mine;
//! impl Cni for Mine {
//!     async fn add(&self, _: Args) -> Result<CNIResult, Error> { Ok(CNIResult::default()) }
//!     async fn del(&self, _: Args) -> Result<(), Error> { Ok(()) }
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Error> {
//!     Plugin::default().msg("my plugin").run(&Mine).await
//! }
//! ```

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

use crate::{
    CNIResult, Error, PluginInfo, SpecVersion,
    args::Args,
    plugin::{
        Identity, Prepared, answer_abort, deliver, failure, finish, panicked, plugin_settings,
        prepare,
    },
    request::{Command, Reply, Request, reserve_stdout},
};

/// An async plugin; [`rscni::Cni`](crate::Cni) describes the commands.
#[expect(
    async_fn_in_trait,
    reason = "the plugin's own main awaits it, so the future needs no bounds"
)]
pub trait Cni {
    /// ADD: attaches the container.
    async fn add(&self, args: Args) -> Result<CNIResult, Error>;

    /// DEL: removes what ADD made and still exists.
    async fn del(&self, args: Args) -> Result<(), Error>;

    /// CHECK: compares the attachment with the result of ADD.
    async fn check(&self, args: Args) -> Result<(), Error> {
        let _ = args;
        Ok(())
    }

    /// GC: removes what stale attachments left.
    async fn gc(&self, args: Args) -> Result<(), Error> {
        let _ = args;
        Ok(())
    }

    /// STATUS: fails if the plugin cannot service ADD.
    async fn status(&self, args: Args) -> Result<(), Error> {
        let _ = args;
        Ok(())
    }
}

/// Three async functions as a plugin; made by [`Plugin::new`].
#[derive(Clone, Copy, Debug)]
pub struct Functions<A, D, C> {
    add: A,
    del: D,
    check: C,
}

impl<A, D, C> Cni for Functions<A, D, C>
where
    A: AsyncFn(Args) -> Result<CNIResult, Error>,
    D: AsyncFn(Args) -> Result<CNIResult, Error>,
    C: AsyncFn(Args) -> Result<CNIResult, Error>,
{
    async fn add(&self, args: Args) -> Result<CNIResult, Error> {
        (self.add)(args).await
    }

    async fn del(&self, args: Args) -> Result<(), Error> {
        (self.del)(args).await.map(drop)
    }

    async fn check(&self, args: Args) -> Result<(), Error> {
        (self.check)(args).await.map(drop)
    }
}

/// An async plugin with the versions that it supports and a text about it.
#[derive(Clone, Debug)]
pub struct Plugin<F = ()> {
    functions: F,
    identity: Identity,
}

impl<A, D, C> Plugin<Functions<A, D, C>>
where
    A: AsyncFn(Args) -> Result<CNIResult, Error>,
    D: AsyncFn(Args) -> Result<CNIResult, Error>,
    C: AsyncFn(Args) -> Result<CNIResult, Error>,
{
    /// A plugin made of three async functions.
    pub fn new(add: A, del: D, check: C, info: PluginInfo, about: impl Into<String>) -> Self {
        Self {
            functions: Functions { add, del, check },
            identity: Identity { info, about: about.into() },
        }
    }

    /// Answers the call that this process was started with.
    ///
    /// # Errors
    /// As [`rscni::Plugin::run`](crate::Plugin::run).
    pub async fn run(&self) -> Result<(), Error> {
        run(&self.functions, &self.identity).await
    }

    /// Answers `request`, without I/O of its own.
    pub async fn reply(&self, request: &Request) -> Reply {
        reply(&self.functions, &self.identity, request).await
    }
}

plugin_settings!();

impl Plugin<()> {
    /// Answers, with `plugin`, the call that this process was started with.
    ///
    /// # Errors
    /// As [`rscni::Plugin::run`](crate::Plugin::run).
    pub async fn run<P: Cni>(&self, plugin: &P) -> Result<(), Error> {
        run(plugin, &self.identity).await
    }

    /// Answers `request` with `plugin`, without I/O of its own.
    pub async fn reply<P: Cni>(&self, plugin: &P, request: &Request) -> Reply {
        reply(plugin, &self.identity, request).await
    }
}

async fn run<P: Cni>(plugin: &P, identity: &Identity) -> Result<(), Error> {
    reserve_stdout();
    deliver(match Request::from_process() {
        Ok(request) => {
            answer_abort(&request);
            reply(plugin, identity, &request).await
        }
        Err(error) => failure(error, SpecVersion::LATEST),
    })
}

async fn reply<P: Cni>(plugin: &P, identity: &Identity, request: &Request) -> Reply {
    let (command, args) = match prepare(request, identity) {
        Prepared::Call(command, args) => (command, *args),
        Prepared::Done(reply) => return reply,
    };
    let version = args.version();
    let outcome = catch(async {
        match command {
            Command::Add => plugin.add(args).await.map(Some),
            Command::Del => plugin.del(args).await.map(|()| None),
            Command::Check => plugin.check(args).await.map(|()| None),
            Command::Gc => plugin.gc(args).await.map(|()| None),
            Command::Status => plugin.status(args).await.map(|()| None),
            Command::Version => Ok(None),
        }
    });
    finish(version, outcome.await)
}

/// Awaits `future`; a panic in it becomes an error.
async fn catch<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let mut future = pin!(future);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll,
        Err(panic) => Poll::Ready(Err(panicked(&*panic))),
    })
    .await
}
