//! The CNI protocol for Rust: a library for network plugins and for the runtimes that call them.
//!
//! A container runtime attaches a container to a network by running a *plugin*: a program that
//! reads a JSON configuration on stdin and prints the addresses it assigned. The [CNI
//! specification](https://www.cni.dev/docs/spec/) defines the variables, the JSON and the errors.
//! This crate implements them in all versions from 0.1.0 to 1.1.0; you write what ADD and DEL do:
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
//! # Where to look next
//!
//! - [`Args`]: the call, validated before your code sees it. [`Args::cni_args_as`] and [`K8sArgs`]
//!   read `CNI_ARGS`.
//! - [`NetConf::custom_as`]: your own configuration keys, read into your own struct.
//! - [`CNIResult`]: the result of ADD, written in the version of the configuration.
//! - [`Error`]: one variant per error code; becomes the error reply of the spec.
//! - [`Cni`]: CHECK, GC and STATUS. [`Plugin`]: the same plugin as three functions. `async_cni`
//!   (feature `async`): an async plugin on any executor.
//! - [`invoke::Delegate`]: a call of another plugin, such as an IPAM plugin.
//! - [`runtime`]: the calling side, with network lists, the result cache and garbage collection.
//! - `shim` (feature `shim`): a plugin that is a thin shim in front of a node daemon.
//!
//! # Features
//!
//! A plugin needs none of them. Your own structs derive `Deserialize` with your own dependency on
//! `serde`; rscni does not enable its feature `derive`.
//!
//! - `runtime`: the module [`runtime`]. It enables `preserve_order` and `float_roundtrip` of
//!   `serde_json`. Without them, JSON objects that a plugin passes on have sorted keys, as in Go,
//!   and numbers with more than 15 digits and a fraction may change in the last digit.
//! - `async`: async plugins on any executor and, with `runtime`, the runtime side on tokio.
//! - `shim`: a thin plugin in front of a node daemon, on Linux; on tokio with `async`.
//! - `ipnet-serde`: [`IpNet`] in your own configuration struct.
//! - `compat`: names of older crates, see `MIGRATING.md` in the repository.
//!
//! On Windows the crate compiles without `runtime`, and plugins cannot be called as processes.
//!
//! # Testing a plugin
//!
//! The protocol does no I/O. [`Plugin::reply`] takes a [`Request`] (variables and stdin) and
//! returns a [`Reply`] (stdout, stderr, error), so a test can call a plugin, and a program can link
//! it in, without starting a process. [`Plugin::run`] adds the environment and the streams. On the
//! calling side, [`Exec`](invoke::Exec) turns an [`Invocation`](invoke::Invocation) into an
//! [`Outcome`](invoke::Outcome).
//!
//! # Tracing
//!
//! With the feature `tracing`, calls are spans of the crate `tracing`, with the target `rscni`:
//!
//! - `call`: a call, on the side of the plugin, with `command`, `network`, `plugin`,
//!   `container_id`, `ifname` and `traceparent`.
//! - `operation`: an operation of a runtime, with its chain, locks and rollback. It has `command`,
//!   `network`, `container_id` and `ifname`.
//! - `plugin`: a call of a plugin by a runtime, or by a plugin that delegates, such as to IPAM. It
//!   has `plugin`, `command`, `container_id` and `ifname`.
//!
//! Each ends with an event with `duration_ms`, and after a failure with `code` and `error`. The
//! spans of a linked plugin are in those of its caller. A process only shares `traceparent` with
//! its caller.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub mod address;
pub mod any_case;
mod args;
#[cfg(feature = "async")]
pub mod async_cni;
#[cfg(all(feature = "async", unix))]
mod async_exec;
mod capability;
mod cni_args;
#[cfg(feature = "compat")]
#[doc(hidden)]
pub mod compat;
mod conf;
mod custom;
mod delegate;
mod dispatcher;
pub mod error;
mod extra;
mod fault;
mod functions;
#[cfg(all(feature = "runtime", any(test, fuzzing)))]
pub mod fuzzing;
pub mod invoke;
mod json;
mod legacy;
pub mod manual;
pub mod name;
mod object;
mod plugin;
#[cfg_attr(not(unix), path = "no_process.rs")]
mod process;
mod removal;
mod request;
mod result;
#[cfg(all(feature = "runtime", unix))]
pub mod runtime;
#[cfg(all(feature = "shim", target_os = "linux"))]
pub mod shim;
#[cfg_attr(
    not(all(feature = "runtime", unix)),
    allow(dead_code, unused_imports, reason = "only a runtime has spans of operations")
)]
mod span;
mod text_pairs;
mod trace;
pub mod version;

pub use args::Args;
pub use capability::{Bandwidth, IpRange, PortMapping, RuntimeConfig, RuntimeDns};
pub use cni_args::{CniArgs, K8sArgs};
pub use conf::{Attachment, Ipam, NetConf};
pub use custom::Custom;
pub use error::{Error, ErrorReply, Origin};
pub use extra::Extra;
pub use functions::{CmdFn, Functions, NodeFn};
pub use ipnet::{IpNet, Ipv4Net, Ipv6Net};
pub use plugin::{Cni, Plugin};
pub use request::{Command, Reply, Request};
pub use result::{CNIResult, Dns, Interface, IpConfig, Route};
pub use trace::TraceContext;
pub use version::{PluginInfo, SpecVersion};

/// Names of earlier releases for the function style: `rscni::skel::Plugin`.
#[doc(hidden)]
pub mod skel {
    pub use crate::{functions::CmdFn, plugin::Plugin};
}

/// Names of earlier releases for the trait style: `rscni::cni::{Cni, Plugin}`.
#[doc(hidden)]
pub mod cni {
    pub use crate::plugin::{Cni, Plugin};
}

/// Name of earlier releases for async functions: `rscni::async_skel::Plugin`.
#[cfg(feature = "async")]
#[doc(hidden)]
pub mod async_skel {
    pub use crate::async_cni::Plugin;
}

/// Types of calls, configurations and results under the name of earlier releases.
#[doc(hidden)]
pub mod types {
    pub use crate::{
        args::Args,
        capability::{PortMapping, RuntimeConfig},
        conf::{Ipam, NetConf},
        error::ErrorReply,
        result::{CNIResult, Dns, Interface, IpConfig, Route},
    };
}

/// Compiles the README's example as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
