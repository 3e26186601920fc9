//! Shims and daemons in one process. Each test of the server runs with both servers.

mod calls;
mod daemon;
mod support;
mod unreachable;
