//! The work without its span.

#![allow(clippy::unused_self, reason = "the methods are those of spans")]

use crate::{Args, Command, invoke::Invocation};

pub(crate) struct Traced;

impl Traced {
    pub(crate) fn call(_: &Args) -> Self {
        Self
    }

    pub(crate) fn operation(_: Command, _: &str, _: Option<(&str, &str)>) -> Self {
        Self
    }

    pub(crate) fn plugin(_: &Invocation) -> Self {
        Self
    }

    #[cfg(feature = "async")]
    pub(crate) fn current() -> Self {
        Self
    }

    #[cfg(feature = "async")]
    pub(crate) fn within<T>(self, work: impl FnOnce() -> T) -> T {
        work()
    }

    pub(crate) fn run<T>(self, work: impl FnOnce() -> T) -> T {
        work()
    }

    pub(crate) fn wait<T>(self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        work
    }
}
