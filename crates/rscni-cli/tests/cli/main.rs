//! The binary as people and runtimes call it. Plugins are shell scripts, and nothing needs the kernel's network, but for
//! what is in `doctor`, `gc_node`, `node` and `tutorial`.

mod cnitool;
mod doctor;
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
mod world;
