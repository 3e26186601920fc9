//! The CNI protocol for Rust: write plugins that every container runtime can call, in every version of the spec.
//!
//! A plugin in ten lines:
//!
//! ```no_run
//! use rscni::{Args, CNIResult, Cni, Error, Plugin};
//!
//! struct Hello;
//!
//! impl Cni for Hello {
//!     fn add(&self, args: Args) -> Result<CNIResult, Error> {
//!         eprintln!("hello, {}", args.container_id);
//!         Ok(args.config.and_then(|conf| conf.prev_result).unwrap_or_default())
//!     }
//!     fn del(&self, _: Args) -> Result<(), Error> {
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> Result<(), Error> {
//!     Plugin::default().msg("says hello").run(&Hello)
//! }
//! ```
//!
//! Three functions do as well, see [`Plugin`]; and so does an asynchronous plugin, see `async_cni` (feature `async`).
//! What they share: the call is validated before your code sees it ([`Args`]), your own keys are one call away
//! ([`NetConf::custom_as`]), the result is written in the version of the configuration ([`CNIResult`]), and an
//! [`Error`] becomes the error reply of the spec.
//!
//! # The protocol does no I/O
//!
//! A [`Request`] (variables and stdin) and a plugin give a [`Reply`] (stdout, stderr, error): that is
//! [`Plugin::reply`], a function without side effects of its own, and so a plugin can be tested, fuzzed or linked into
//! another program as it is. [`Plugin::run`] is that function with the process's environment around it.
//! On the calling side [`invoke`] is its mirror image: an [`Invocation`](invoke::Invocation) goes out, an
//! [`Outcome`](invoke::Outcome) comes back, and the trait [`Exec`](invoke::Exec) is what lies between.
//! [`runtime`] runs whole networks on top of that.
//!
//! # Versions
//!
//! [`SpecVersion`] knows 0.1.0 to 1.1.0. There is one [`CNIResult`] for all of them: what arrives in an old shape is
//! converted, what leaves is converted back.

#![forbid(unsafe_code)]

pub mod address;
pub mod any_case;
mod args;
#[cfg(feature = "async")]
pub mod async_cni;
#[cfg(feature = "async")]
mod async_exec;
mod conf;
mod custom;
pub mod error;
mod extra;
mod fault;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod invoke;
mod legacy;
pub mod name;
mod plugin;
mod process;
mod removal;
mod request;
mod result;
pub mod runtime;
pub mod version;

pub use args::{Args, Bandwidth, CniArgs, IpRange, PortMapping, RuntimeConfig, RuntimeDns};
pub use conf::{Attachment, Ipam, NetConf};
pub use custom::Custom;
pub use error::{Error, ErrorReply};
pub use extra::Extra;
pub use ipnet::{IpNet, Ipv4Net, Ipv6Net};
pub use plugin::{CmdFn, Cni, Functions, Plugin};
pub use request::{Command, Reply, Request};
pub use result::{CNIResult, Dns, Interface, IpConfig, Route};
pub use version::{PluginInfo, SpecVersion};

/// The names that earlier releases had for the function style: `rscni::skel::Plugin`.
pub mod skel {
    pub use crate::plugin::{CmdFn, Plugin};
}

/// The names that earlier releases had for the trait style: `rscni::cni::{Cni, Plugin}`.
pub mod cni {
    pub use crate::plugin::{Cni, Plugin};
}

/// The name that earlier releases had for asynchronous functions: `rscni::async_skel::Plugin`.
#[cfg(feature = "async")]
pub mod async_skel {
    pub use crate::async_cni::Plugin;
}

/// The types of calls, configurations and results, under the name that earlier releases had for them.
pub mod types {
    pub use crate::{
        args::{Args, PortMapping, RuntimeConfig},
        conf::{Ipam, NetConf},
        error::ErrorReply,
        result::{CNIResult, Dns, Interface, IpConfig, Route},
    };
}

/// What the README shows is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
