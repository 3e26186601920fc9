//! The binary as people and runtimes call it. Plugins are shell scripts, and nothing needs the
//! kernel's network, but for what is in `node`.

mod cnitool;
mod generate;
mod install;
mod network;
mod node;
mod summary;
mod world;
