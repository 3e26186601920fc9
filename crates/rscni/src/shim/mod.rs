//! A thin plugin in front of a node daemon.
//!
//! A plugin that has state, connections or a cache of its own is a small program, the *shim*, that
//! passes each call to a daemon on the node. Both are the same [`Cni`](crate::Cni) to the author:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! // The plugin.
//! fn main() -> ExitCode {
//!     rscni::shim::Shim::new("/run/my.sock").about("my network").main()
//! }
//! ```
//!
//! ```no_run
//! # use rscni::{Args, CNIResult, Cni, Error};
//! # struct MyPlugin;
//! # impl Cni for MyPlugin {
//! #     fn add(&self, _: Args) -> Result<CNIResult, Error> { Ok(CNIResult::default()) }
//! #     fn del(&self, _: Args) -> Result<(), Error> { Ok(()) }
//! # }
//! // The daemon. With the feature `async` and tokio: `rscni::shim::serve(listener, MyPlugin).await`
//! fn main() -> std::io::Result<()> {
//!     let listener = rscni::shim::listen("/run/my.sock")?;
//!     rscni::shim::serve_blocking(listener, MyPlugin).run()
//! }
//! ```
//!
//! `examples/thick` of the repository is a complete plugin with both daemons.
//!
//! # The shim
//!
//! - It answers VERSION and a call without a command, and rejects invalid calls, without the
//!   daemon.
//! - If the daemon cannot be reached, restarts during the call, or does not answer before the
//!   [timeout](Shim::timeout), STATUS fails with code 50 and all other commands with 11, so that
//!   the runtime retries. A [fallback](Shim::fallback) does the work in the shim if the daemon
//!   cannot be reached.
//! - An answer that is not of the wire format is code 6 (STATUS: 50).
//!
//! # The daemon
//!
//! - It accepts calls of root and of its own user. [`allow_uid`](BlockingServer::allow_uid) adds
//!   users.
//! - Each running call has a thread or a task, so a client that hangs blocks no other call.
//!   Requests have a [limit](BlockingServer::request_limit) and a
//!   [timeout](BlockingServer::request_timeout). The time of the plugin itself is not limited: code
//!   in this process cannot be killed.
//! - Calls of one attachment run one after the other, in the order of their arrival. GC excludes
//!   all other calls of its network. Others run in parallel.
//! - A call whose shim has gone while it waited is not begun. If the shim goes later, the call ends
//!   as usual, and the DEL of the runtime waits for it.
//! - A panic becomes an error reply, unless the daemon is built with `panic = "abort"`.
//! - [`stderr`] writes to the stderr of the shim. The stderr of [delegated](crate::Args::delegate)
//!   plugins goes there too.
//!
//! # The network namespace
//!
//! The shim passes a descriptor of the container's namespace, so the daemon may have other mounts.
//! It needs no mount of `/run/netns`, but `/proc` of its own PID namespace.
//!
//! [`Args::netns`](crate::Args::netns) in the daemon is `/proc/<pid>/fd/<n>`, which is valid until
//! the call ends, also in threads and child processes. The sandboxes of `prevResult` are translated
//! to this path; results, error texts and stderr are translated back to the path of the runtime.
//! The daemon rejects a descriptor that is not a network namespace, and an ADD in its own
//! namespace, with code 8; for DEL there is no namespace then.
//!
//! The daemon usually shares the host's network namespace (`hostNetwork: true`). It needs
//! `CAP_SYS_ADMIN` to enter other namespaces, as a plugin does. `CNI_PATH` is a path of the host.
//!
//! # The wire format
//!
//! A connection to the unix stream socket carries one call. A message is its length as four bytes,
//! the most significant first, and a JSON object. The shim sends the call, with the descriptor of
//! the namespace (`SCM_RIGHTS`) at its first byte:
//!
//! ```json
//! {
//!   "version": 1,
//!   "vars": { "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0" },
//!   "stdin": "{\"cniVersion\":\"1.1.0\",\"name\":\"net\",\"type\":\"my\"}",
//!   "netns": "/run/netns/c1"
//! }
//! ```
//!
//! `vars` contains the variables that begin with `CNI_` and those of the trace, `stdin` the
//! configuration. `netns` is `CNI_NETNS`, present if there is a descriptor. The daemon answers with
//! the exit status and the streams of a plugin, or with a refusal (codes of the CNI specification)
//! if it does not call the plugin:
//!
//! ```json
//! { "version": 1, "exitCode": 0, "stdout": "{\"cniVersion\":\"1.1.0\"}", "stderr": "" }
//! { "version": 1, "refusal": { "code": 11, "details": "update the daemon" } }
//! ```
//!
//! - Unknown fields and further descriptors are ignored, and fields other than `version` have
//!   defaults. So fields can be added without a new version, and shims of an earlier or a later
//!   release work.
//! - `version` of a call is the version that it is written in. A daemon supports all versions up to
//!   its own. It refuses later ones with code 11; `version` of any answer is the newest version
//!   that the daemon supports, so a later shim can repeat the call in that version.
//! - The fields of an answer keep their meaning in all versions.

#[cfg(feature = "async")]
mod asynchronous;
mod blocking;
mod call_queue;
mod client;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod netns;
mod server;
mod socket;
mod stderr;
mod wire;

#[cfg(feature = "async")]
pub use asynchronous::{Server, serve};
pub use blocking::{BlockingServer, serve_blocking};
pub use client::Shim;
pub use socket::listen;
pub use stderr::{Stderr, stderr};
