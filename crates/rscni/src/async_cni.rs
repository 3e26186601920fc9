//! Asynchronous plugins, on whatever executor the plugin chooses.
//!
//! [`Cni`] and [`Plugin`] are [`rscni::Cni`](crate::Cni) and [`rscni::Plugin`](crate::Plugin) with `async` before their
//! functions; every line but the one that waits is shared with them. Nothing here starts or needs a particular runtime.
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
    plugin::{Identity, Prepared, answer_abort, deliver, failure, finish, panicked, prepare},
    request::{Command, Reply, Request, reserve_stdout},
};

/// An asynchronous plugin; what each command means is told at [`rscni::Cni`](crate::Cni).
#[expect(
    async_fn_in_trait,
    reason = "the plugin's own main awaits it, so no bound on the future is wanted"
)]
pub trait Cni {
    /// ADD: attach the container.
    async fn add(&self, args: Args) -> Result<CNIResult, Error>;

    /// DEL: undo what ADD did, as far as it is there.
    async fn del(&self, args: Args) -> Result<(), Error>;

    /// CHECK: see that everything is as ADD left it.
    async fn check(&self, args: Args) -> Result<(), Error> {
        let _ = args;
        Ok(())
    }

    /// GC: remove what belongs to attachments that are no longer valid.
    async fn gc(&self, args: Args) -> Result<(), Error> {
        let _ = args;
        Ok(())
    }

    /// STATUS: whether ADD could be serviced.
    async fn status(&self, args: Args) -> Result<(), Error> {
        let _ = args;
        Ok(())
    }
}

/// Three asynchronous functions as a plugin; made by [`Plugin::new`].
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

/// An asynchronous plugin with the versions that it supports and a text about it.
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
    /// A plugin made of three functions, `async fn` or such as return a boxed future.
    pub fn new(add: A, del: D, check: C, info: PluginInfo, about: impl Into<String>) -> Self {
        Self {
            functions: Functions { add, del, check },
            identity: Identity { info, about: about.into() },
        }
    }

    /// Answers the call that this process was started with.
    ///
    /// From here on stdout is the reply's alone: what the plugin prints, and what its children write to stdout, goes to
    /// stderr.
    ///
    /// # Errors
    /// The error that was told to the caller on stdout; `main` need only end with a non-zero status.
    pub async fn run(&self) -> Result<(), Error> {
        run(&self.functions, &self.identity).await
    }

    /// Answers `request`, without I/O of its own.
    pub async fn reply(&self, request: &Request) -> Reply {
        reply(&self.functions, &self.identity, request).await
    }
}

impl Default for Plugin<()> {
    /// A plugin that supports every version, and says nothing about itself yet.
    fn default() -> Self {
        Self { functions: (), identity: Identity::default() }
    }
}

impl Plugin<()> {
    /// Sets the text about the plugin, shown when it is started without `CNI_COMMAND`.
    #[must_use]
    pub fn msg(mut self, about: impl Into<String>) -> Self {
        self.identity.about = about.into();
        self
    }

    /// Sets the versions that the plugin supports.
    #[must_use]
    pub fn versions(mut self, info: PluginInfo) -> Self {
        self.identity.info = info;
        self
    }

    /// Answers, with `plugin`, the call that this process was started with.
    ///
    /// From here on stdout is the reply's alone: what the plugin prints, and what its children write to stdout, goes to
    /// stderr.
    ///
    /// # Errors
    /// The error that was told to the caller on stdout; `main` need only end with a non-zero status.
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
