//! The command lines of the binary.
//!
//! Plugins are shell scripts. Only `doctor`, `gc_node`, `node` and `tutorial` use the kernel's
//! network.

mod cnitool;
mod doctor;
mod fixture;
mod gc;
mod gc_node;
mod generate;
mod install;
mod list;
mod network;
mod node;
mod status;
mod summary;
mod timeout;
mod tutorial;
mod version;
