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
    future::{Ready, poll_fn, ready},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    process::ExitCode,
    task::Poll,
};

use crate::{
    CNIResult, Error, PluginInfo, SpecVersion,
    args::Args,
    dispatcher::{
        Identity, Prepared, answer_abort, deliver, exit_code, failure, finish, panicked, prepare,
    },
    functions::Functions,
    plugin::plugin_settings,
    request::{Command, Reply, Request, reserve_stdout},
    span::Traced,
};

/// An async plugin; [`rscni::Cni`](crate::Cni) describes the commands.
///
/// Implement the commands as `async fn`. Their futures must be `Send`, so that a daemon can spawn
/// calls on the threads of its executor.
pub trait Cni {
    /// ADD: attaches the container.
    fn add(&self, args: Args) -> impl Future<Output = Result<CNIResult, Error>> + Send;

    /// DEL: removes what ADD made and still exists.
    fn del(&self, args: Args) -> impl Future<Output = Result<(), Error>> + Send;

    /// CHECK: compares the attachment with the result of ADD.
    fn check(&self, args: Args) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = args;
        ready(Ok(()))
    }

    /// GC: removes what stale attachments left.
    fn gc(&self, args: Args) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = args;
        ready(Ok(()))
    }

    /// STATUS: fails if the plugin cannot service ADD.
    fn status(&self, args: Args) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = args;
        ready(Ok(()))
    }
}

/// Implements [`Cni`] for a pointer to a plugin.
macro_rules! cni_by_pointer {
    ($($pointer:ty),*) => {$(
        impl<P: Cni> Cni for $pointer {
            fn add(&self, args: Args) -> impl Future<Output = Result<CNIResult, Error>> + Send {
                (**self).add(args)
            }

            fn del(&self, args: Args) -> impl Future<Output = Result<(), Error>> + Send {
                (**self).del(args)
            }

            fn check(&self, args: Args) -> impl Future<Output = Result<(), Error>> + Send {
                (**self).check(args)
            }

            fn gc(&self, args: Args) -> impl Future<Output = Result<(), Error>> + Send {
                (**self).gc(args)
            }

            fn status(&self, args: Args) -> impl Future<Output = Result<(), Error>> + Send {
                (**self).status(args)
            }
        }
    )*};
}
cni_by_pointer!(&P, Box<P>, std::sync::Arc<P>);

/// A function for GC or STATUS that succeeds without doing anything.
pub type Nothing = fn(Args) -> Ready<Result<(), Error>>;

impl<A, D, C, G, S, AddFuture, DelFuture, CheckFuture, GcFuture, StatusFuture> Cni
    for Functions<A, D, C, G, S>
where
    A: Fn(Args) -> AddFuture,
    D: Fn(Args) -> DelFuture,
    C: Fn(Args) -> CheckFuture,
    G: Fn(Args) -> GcFuture,
    S: Fn(Args) -> StatusFuture,
    AddFuture: Future<Output = Result<CNIResult, Error>> + Send,
    DelFuture: Future<Output = Result<CNIResult, Error>> + Send,
    CheckFuture: Future<Output = Result<CNIResult, Error>> + Send,
    GcFuture: Future<Output = Result<(), Error>> + Send,
    StatusFuture: Future<Output = Result<(), Error>> + Send,
{
    fn add(&self, args: Args) -> impl Future<Output = Result<CNIResult, Error>> + Send {
        (self.add)(args)
    }

    fn del(&self, args: Args) -> impl Future<Output = Result<(), Error>> + Send {
        let del = (self.del)(args);
        async { del.await.map(drop) }
    }

    fn check(&self, args: Args) -> impl Future<Output = Result<(), Error>> + Send {
        let check = (self.check)(args);
        async { check.await.map(drop) }
    }

    fn gc(&self, args: Args) -> impl Future<Output = Result<(), Error>> + Send {
        (self.gc)(args)
    }

    fn status(&self, args: Args) -> impl Future<Output = Result<(), Error>> + Send {
        (self.status)(args)
    }
}

/// An async plugin with the versions that it supports and a text about it.
#[derive(Clone, Debug)]
pub struct Plugin<F = ()> {
    functions: F,
    identity: Identity,
}

impl<A, D, C> Plugin<Functions<A, D, C, Nothing, Nothing>> {
    /// A plugin made of three async functions or closures; GC and STATUS succeed without doing
    /// anything.
    pub fn new<AddFuture, DelFuture, CheckFuture>(
        add: A,
        del: D,
        check: C,
        info: PluginInfo,
        about: impl Into<String>,
    ) -> Self
    where
        A: Fn(Args) -> AddFuture,
        D: Fn(Args) -> DelFuture,
        C: Fn(Args) -> CheckFuture,
        AddFuture: Future<Output = Result<CNIResult, Error>> + Send,
        DelFuture: Future<Output = Result<CNIResult, Error>> + Send,
        CheckFuture: Future<Output = Result<CNIResult, Error>> + Send,
    {
        let nothing: Nothing = |_| ready(Ok(()));
        Self {
            functions: Functions { add, del, check, gc: nothing, status: nothing },
            identity: Identity { info, about: about.into() },
        }
    }
}

impl<A, D, C, G, S> Plugin<Functions<A, D, C, G, S>> {
    /// Sets the async function for GC.
    #[must_use]
    pub fn gc<F, GcFuture>(self, gc: F) -> Plugin<Functions<A, D, C, F, S>>
    where
        F: Fn(Args) -> GcFuture,
        GcFuture: Future<Output = Result<(), Error>> + Send,
    {
        let Functions { add, del, check, status, .. } = self.functions;
        let functions = Functions { add, del, check, gc, status };
        Plugin { functions, identity: self.identity }
    }

    /// Sets the async function for STATUS.
    #[must_use]
    pub fn status<F, StatusFuture>(self, status: F) -> Plugin<Functions<A, D, C, G, F>>
    where
        F: Fn(Args) -> StatusFuture,
        StatusFuture: Future<Output = Result<(), Error>> + Send,
    {
        let Functions { add, del, check, gc, .. } = self.functions;
        let functions = Functions { add, del, check, gc, status };
        Plugin { functions, identity: self.identity }
    }
}

impl<A, D, C, G, S> Plugin<Functions<A, D, C, G, S>>
where
    Functions<A, D, C, G, S>: Cni,
{
    /// Answers the call that this process was started with.
    ///
    /// # Errors
    /// As [`rscni::Plugin::run`](crate::Plugin::run).
    pub async fn run(&self) -> Result<(), Error> {
        run(&self.functions, &self.identity).await
    }

    /// Answers the call that this process was started with; for a `main` that returns an exit code.
    pub async fn main(&self) -> ExitCode {
        exit_code(&self.run().await)
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

    /// Answers, with `plugin`, the call that this process was started with; for a `main` that
    /// returns an exit code.
    pub async fn main<P: Cni>(&self, plugin: &P) -> ExitCode {
        exit_code(&self.run(plugin).await)
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
    finish(version, call(plugin, command, args).await)
}

/// Calls the plugin; a panic in it becomes an error.
pub(crate) async fn call<P: Cni>(
    plugin: &P,
    command: Command,
    args: Args,
) -> Result<Option<CNIResult>, Error> {
    let span = Traced::call(&args);
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
    span.wait(outcome).await
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
